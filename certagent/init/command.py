"""What `certagent init` does: it looks, proposes, and with --apply changes the mail servers' configuration."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from certagent.errors import Error, Misconfigured, Usage
from certagent.host import replace
from certagent.init import changes, host, proposal, survey
from certagent.init.changes import Outcome
from certagent.init.host import InUse
from certagent.init.report import Next, report
from certagent.init.survey import Survey
from certagent.mta.server import Found, directories
from certagent.pki.keytypes import algorithm
from certagent.report.findings import Finding
from certagent.report.text import finding as finding_line
from certagent.report.text import to_json
from certagent.report.words import count

_DEFAULT = Path("/etc/certagent/config.yaml")

_DROP_IN = Path("/etc/systemd/system/certagent.service.d/init.conf")


def run(output: Path | None, *, apply: bool, as_json: bool) -> int:
    """`certagent init`; the exit status.

    The configuration goes to `output`, a new file, or to standard output. In the second case all else goes to standard
    error, so that the output can be piped into a file. With `apply` and no `output` it is not shown again.

    Raises:
        Usage: `config.file`: `output` exists, or cannot be written; nothing was changed.
        Misconfigured: `mta.config`: No mail server was found; or see `changes.apply`.
        Misconfigured: `mta.files`: See `changes.apply`.
        Transient: `mta.disk`: See `changes.apply`.
    """
    if output is not None and os.path.lexists(output):
        raise Usage("config.file", f"{output} exists, and is not overwritten", "name a file that is new")
    if apply and os.geteuid() != 0:
        raise Misconfigured("mta.files", "--apply changes files of root", "run: sudo certagent init --apply")
    if sys.stderr.isatty():
        click.echo("looking at the mail servers, their ports and DNS …", err=True)
    kinds = host.plugins()
    seen = survey.take(kinds)
    now = datetime.now(UTC)
    findings = list(survey.findings(seen))
    text = proposal.text(seen, f"{now:%Y-%m-%d %H:%M} UTC")
    shows_text = output is None and not apply
    say = _Say(quiet=as_json, err=shows_text)
    say.findings(findings)
    if not seen.found:
        hint = "is it installed? run this on the mail server itself; config.example.yaml is the place to start by hand"
        raise Misconfigured("mta.config", "no mail server was found on this host", hint)
    if output is not None:
        write(output, text)
    if shows_text and not as_json:
        say.line("")
        sys.stderr.flush()
        click.echo(text, nl=False)
    done, failures = _changes(seen, kinds, now, apply=apply)
    say.changes(done)
    following = next_steps(seen, kinds, text, output, done)
    say.next(following)
    if as_json:
        click.echo(to_json(report(seen, findings, text, done, following)))
    for failure in failures[:-1]:
        click.echo(f"certagent: error: {failure}\nhint: {failure.hint}", err=True)
    if failures:
        raise failures[-1]
    return 1 if seen.failed else 0


def write(path: Path, text: str) -> None:
    """A new file with mode 0644: the configuration holds no secret.

    Raises:
        Usage: `config.file`: It exists already, or its directory is missing or not permitted.
        Transient: `store.disk`: Disk full or failing. Nothing is left behind.
    """
    try:
        replace.create(path, text.encode(), mode=0o644)
    except FileExistsError as error:
        raise Usage("config.file", f"{path} exists, and is not overwritten", "name a new file") from error
    except Misconfigured as error:
        hint = f"make its directory: install -d {shlex.quote(str(path.parent))}"
        raise Usage("config.file", error.detail, hint) from error


# -- the servers' own configuration ------------------------------------------------------------------------------------


def _changes(seen: Survey, kinds: dict[str, Any], now: datetime, *, apply: bool) -> tuple[list[Outcome], list[Error]]:
    """What became of every change, and what failed; one server's failure does not stop the next."""
    done: list[Outcome] = []
    failures: list[Error] = []
    keys = {server.name: group.keys for group in survey.certificates(seen) for server in group.servers}
    for found in seen.found:
        try:
            one = complaint(found, kinds[found.type], keys[found.name])
            done += changes.apply(found, now, one) if apply else changes.outcomes(found)
        except Error as error:
            failures.append(error)
            done += changes.outcomes(found)
    return done, failures


def complaint(found: Found, plugin: Any, keys: tuple[str, ...]) -> Any:
    """What the server's own check says: it is found again, and its plug-in's check passes."""

    def ask() -> str:
        try:
            if found.name not in {again.name for again in plugin.discover()}:
                return f"{found.name} is not found any more"
            plugin(found.name, msgspec.convert(found.options, plugin.Options)).check(frozenset(keys))
        except Error as error:
            return f"{error} ({error.hint})"
        except msgspec.ValidationError as error:
            return f"its options: {error}"
        return ""

    return ask


# -- printing ----------------------------------------------------------------------------------------------------------


def next_steps(
    seen: Survey, kinds: Mapping[str, Any], text: str, output: Path | None, done: list[Outcome]
) -> list[Next]:
    """What to do after this, in order."""
    path = output or _DEFAULT
    chosen = "" if path == _DEFAULT else f" --config {shlex.quote(str(path))}"
    again = "certagent init --apply"
    steps: list[Next] = []
    if output is None and _DEFAULT.exists():
        steps.append(
            Next("compare it with the configuration there is", f"certagent init 2>/dev/null | diff -u {_DEFAULT} -")
        )
    elif output is None:
        steps.append(Next("keep the proposal", f"certagent init --output {_DEFAULT}"))
    if (todo := text.count("TODO:")) and (output or not _DEFAULT.exists()):
        steps.append(
            Next(f"fill in what is marked TODO, {count(todo, 'place')}", f"grep -n TODO {shlex.quote(str(path))}")
        )
    servers = {found.name: made for found in seen.found if (made := host.made(found, kinds))}
    written = directories(servers.values())
    if absent := [str(path) for path in written if not path.is_dir()]:
        steps.append(Next("make the directories of the new files", f"install -d -m 755 {shlex.join(absent)}"))
    seeds, seeded = _seeds(seen, done)
    steps += seeds
    late = any(outcome.state == "later" and not seeded.issuperset(outcome.missing) for outcome in done)
    if any(outcome.state == "proposed" for outcome in done) or (seeds and not late):
        steps.append(Next("make the changes shown above, with backups", again))
    for name in dict.fromkeys(outcome.server for outcome in done if outcome.state == "made"):
        steps.append(Next(f"let {name} read its changed configuration", servers[name].reload_command))
    steps += [
        Next("see whether all is as the configuration says", f"certagent check{chosen}"),
        Next("rehearse; it changes nothing", f"certagent renew --dry-run{chosen}"),
    ]
    if late:
        steps.append(
            Next("make the files; it ends with an error, since nothing names them", f"certagent renew{chosen}")
        )
        steps.append(Next("once they are there, make the changes that name them", again))
    steps.append(Next("do it", f"certagent renew --wait{chosen}"))
    if beyond := _beyond_unit(written, kinds):
        steps.append(Next("let the service write where the files are; all else is read-only for it", _drop_in(beyond)))
    steps.append(Next("keep it going", "systemctl enable --now certagent"))
    return steps


def unit_writes(kinds: Mapping[str, Any]) -> frozenset[str]:
    """Where the service may write files of mail servers: ReadWritePaths= of the shipped unit, which a test compares."""
    return frozenset(kind.directory for kind in kinds.values() if getattr(kind, "directory", ""))


def _beyond_unit(written: list[Path], kinds: Mapping[str, Any]) -> list[str]:
    """The directories in which the service has to replace files, and may not."""
    allowed = unit_writes(kinds)
    return [str(path) for path in written if allowed.isdisjoint(map(str, (path, *path.parents)))]


def _drop_in(directories: list[str]) -> str:
    """The command. The "-" before each: a directory that is gone some day must not keep the service from starting."""
    quoted = " ".join(f'"-{path}"' if " " in path else f"-{path}" for path in directories)
    lines = shlex.join(["[Service]", f"ReadWritePaths={quoted}"])
    return f"install -d {_DROP_IN.parent} && printf '%s\\n' {lines} > {_DROP_IN} && systemctl daemon-reload"


def _seeds(seen: Survey, done: list[Outcome]) -> tuple[list[Next], set[str]]:
    """How to copy what is served now into the files that are not there yet, and the files that this makes.

    The server can then name them at once, and the first swap is a rename like all others. For each server all or none:
    if one file is there and not named, the first run does not make the others.
    """
    steps: list[Next] = []
    made: set[str] = set()
    lacking = {outcome.server: outcome.missing for outcome in done if outcome.state == "later"}
    for server in seen.found:
        mine: list[Next] = []
        files: set[str] = set()
        for kind, target in survey.files(server):
            used = next((u for u in seen.in_use[server.name] if algorithm(u.key_type) == kind and u.key), None)
            if used and not set(target.values()).isdisjoint(lacking.get(server.name, ())):
                what = f"put the {kind.upper()} certificate of today where it will be"
                reader = zip(("owner", "group"), server.reader, strict=True)
                access = {**{key: name for key, name in reader if name}, **server.options}
                command = _copying(used, target, access)
                mine += [Next(what, command)] if command else []
                files |= set(target.values()) if command else set()
        if files.issuperset(lacking.get(server.name, ())):
            steps += mine
            made |= files
    return steps, made


def _copying(used: InUse, target: dict[str, str], access: Mapping[str, Any]) -> str:
    """The command; the key is closed to others from the first moment. "": the layout needs more than a copy."""
    flags = [f"-{key[0]} {shlex.quote(access[key])}" for key in ("owner", "group") if key in access]
    install = " ".join(["install", f"-m {access.get('mode', '600')}", *flags])
    if set(target) == {"combined"}:
        sources = [used.file] if used.key == used.file else [used.key, used.file]
        new = shlex.quote(target["combined"])
        return f"{install} /dev/null {new} && cat {shlex.join(sources)} > {new}"
    if set(target) == {"fullchain", "key"} and used.key != used.file:
        key = f"{install} {shlex.join([used.key, target['key']])}"
        return f"{key} && install -m 644 {shlex.join([used.file, target['fullchain']])}"
    return ""


class _Say:
    """Prints for people, at most 100 columns wide, on standard output or standard error."""

    def __init__(self, *, quiet: bool, err: bool) -> None:
        self._quiet, self._err = quiet, err

    def line(self, text: str, *, indent: int = 0) -> None:
        if not self._quiet:
            lines = textwrap.wrap(
                text, 100, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
            )
            click.echo("\n".join(lines), err=self._err)

    def whole(self, text: str) -> None:
        """As it is, however long."""
        if not self._quiet:
            click.echo(text, err=self._err)

    def findings(self, findings: list[Finding]) -> None:
        for finding in findings:
            first, *hint = finding_line(finding).split("\n")
            self.line(first, indent=10)
            for line in hint:  # it may be a command, which is copied as it is
                self.whole(line)

    def changes(self, done: list[Outcome]) -> None:
        for outcome in done:
            self.whole("")
            words = {
                "proposed": "proposed change to",
                "made": "changed",
                "there": "nothing to change in",
                "later": "to be made later, a change to",
            }[outcome.state]
            self.line(f"{words} {outcome.file}: {outcome.why}", indent=2)
            if outcome.missing:
                names = ", ".join(outcome.missing)
                self.line(f"  not made now, since {names} must be there first: see what to do next", indent=2)
            if outcome.backup:
                self.line(f"  as it was before: {outcome.backup}")
            if outcome.state != "there":
                self.whole(textwrap.indent(outcome.diff.removesuffix("\n"), "  ", lambda _: True))
                if outcome.generate:
                    self.whole(f"  then this {'was' if outcome.state == 'made' else 'is'} run: {outcome.generate}")

    def next(self, steps: list[Next]) -> None:
        self.whole("\nwhat to do next:")
        for number, step in enumerate(steps, 1):
            self.whole(f"  {number}. {step.what}:\n       {step.command}")
