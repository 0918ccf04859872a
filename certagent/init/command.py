"""What `certagent init` does: it looks, proposes, and with --apply changes the mail servers' configuration."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from certagent.agent.wiring import Wiring
from certagent.config import load
from certagent.errors import Error, Misconfigured, Usage
from certagent.host import replace
from certagent.init import changes, findings, host, others, proposal, seeds, survey
from certagent.init.changes import Outcome
from certagent.init.report import Next, report
from certagent.init.steps import DEFAULT, next_steps
from certagent.init.survey import Survey
from certagent.mta.server import Found
from certagent.report import terminal
from certagent.report.findings import Finding
from certagent.report.text import finding as finding_line
from certagent.report.text import to_json

_PROPOSAL = "this proposal"


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
        terminal.say("looking at the mail servers, their ports and DNS …", err=True)
    kinds = host.plugins()
    seen = survey.take(kinds)
    now = datetime.now(UTC)
    found, text = list(findings.of(seen)), ""
    if seen.found:
        text = proposal.text(seen, f"{now:%Y-%m-%d %H:%M} UTC")
        found += objections(seen, kinds, text, output or DEFAULT)
    shows_text = output is None and not apply and bool(seen.found)
    say = _Say(quiet=as_json, err=output is None and not apply)
    say.findings(found)
    if output is not None and seen.found:
        write(output, text)
    if shows_text and not as_json:
        say.line("")
        sys.stderr.flush()
        terminal.say(text, nl=False)
    done, failures = _changes(seen, kinds, now, apply=apply)
    say.changes(done)
    following = next_steps(seen, kinds, text, output, done) if seen.found else []
    say.next(following)
    if as_json:
        click.echo(to_json(report(seen, found, text, done, following)))
    for failure in failures[:-1]:
        terminal.say(f"certagent: error: {failure}\nhint: {failure.hint}", err=True)
    if failures:
        raise failures[-1]
    return _status(seen, found, done, apply=apply)


def _status(seen: Survey, found: list[Finding], done: list[Outcome], *, apply: bool) -> int:
    """0 only if all was found out, and with `apply` all is made.

    Raises:
        Misconfigured: `mta.config`: No mail server was found.
    """
    if not seen.found:
        hint = "is it installed? run this on the mail server itself; config.example.yaml is the place to start by hand"
        if any(one.program in others.CONTAINERS for one in seen.strangers):
            hint = "it is in a container: write its entry by hand, with type: command; see docs/how-to/mail-servers.md"
        raise Misconfigured("mta.config", "no mail server was found on this host", hint)
    if apply and (any(one.state == "later" for one in done) or any(one.by_hand for one in seen.found)):
        return 3  # what is left stands in what to do next
    return 1 if seen.failed or any(one.what == _PROPOSAL for one in found) else 0


def objections(seen: Survey, kinds: Mapping[str, Any], text: str, path: Path) -> list[Finding]:
    """What certagent itself would refuse of the proposal, as far as that shows without keys."""
    try:
        Wiring(load.parse(path, text.encode())).refuse_shared_files()
    except Error as error:
        return [Finding("error", _PROPOSAL, f"it would be refused: {error}", error.hint or "report it as a bug")]
    found: list[Finding] = []
    for group in survey.certificates(seen):
        for server in group.servers:
            if server.changes or server.by_hand:
                continue  # it is checked once they are made
            if complaint := refusal(server, kinds[server.type], group.keys):
                found.append(Finding("error", f"mail server {server.name}", f"it would be refused: {complaint}"))
    return found


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
    touched: set[str] = set()
    for found in seen.found:
        server = host.made(found, kinds)
        need = seeds.of(found, seen, server) if found.changes or found.by_hand else seeds.NOTHING
        try:
            if not apply or server is None:
                done += changes.outcomes(found, need)
                continue
            again = _again(found, kinds, seen) if touched & {change.file for change in found.changes} else found
            seed = partial(seeds.make, again, server, need)
            if again.by_hand and not need.lacking:
                seed()
            done += changes.apply(again, now, complaint(again, kinds[found.type], keys[found.name]), need, seed)
            touched |= {change.file for change in again.changes}
        except Error as error:
            failures.append(error)
            done += changes.outcomes(found, need)
    return done, failures


def _again(found: Found, kinds: dict[str, Any], seen: Survey) -> Found:
    """The same server, whose configuration was changed for another entry meanwhile."""
    for again in kinds[found.type].discover(seen.shared.keys()):
        if again.name == found.name and again.options == found.options:
            return again
    what = f"{found.name}: its configuration is another one after the change for an entry before it"
    raise Misconfigured("mta.config", what, "run certagent init --apply again, and look at what it shows then")


def refusal(found: Found, plugin: Any, keys: tuple[str, ...]) -> str:
    """What the server's own check says of it as it is proposed; "" if it is content."""
    try:
        plugin(found.name, msgspec.convert(found.options, plugin.Options)).check(frozenset(keys))
    except Error as error:
        return f"{error} ({error.hint})"
    except msgspec.ValidationError as error:
        return f"its options: {error}"
    return ""


def complaint(found: Found, plugin: Any, keys: tuple[str, ...]) -> Callable[[], str]:
    """What the server's own check says: it is found again, and its plug-in's check passes."""

    def ask() -> str:
        try:
            if found.name not in {again.name for again in plugin.discover()}:
                return f"{found.name} is not found any more"
        except Error as error:
            return f"{error} ({error.hint})"
        return refusal(found, plugin, keys)

    return ask


# -- printing ----------------------------------------------------------------------------------------------------------


class _Say:
    """Prints for people, at most 100 columns wide, on standard output or standard error."""

    def __init__(self, *, quiet: bool, err: bool) -> None:
        self._quiet, self._err = quiet, err

    def line(self, text: str, *, indent: int = 0) -> None:
        if not self._quiet:
            lines = textwrap.wrap(
                text, 100, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
            )
            terminal.say("\n".join(lines), err=self._err)

    def whole(self, text: str) -> None:
        """As it is, however long."""
        if not self._quiet:
            terminal.say(text, err=self._err)

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
                "later": "later change to",
            }[outcome.state]
            self.line(f"{words} {outcome.file}: {outcome.why}", indent=2)
            if outcome.missing:
                names = ", ".join(outcome.missing)
                why = f" ({outcome.why_missing})" if outcome.why_missing else ""
                self.line(f"  not made now, since {names} must be there first{why}: see what to do next", indent=2)
            if outcome.seeds:
                first = "was" if outcome.state == "made" else "is"
                self.line(
                    f"  before it, what is served today {first} put there, from {', '.join(outcome.seeds)}", indent=2
                )
            if outcome.backup:
                self.line(f"  as it was before: {outcome.backup}")
            if outcome.state != "there":
                self.whole(textwrap.indent(outcome.diff.removesuffix("\n"), "  ", lambda _: True))
                if outcome.generate:
                    self.whole(f"  then this {'was' if outcome.state == 'made' else 'is'} run: {outcome.generate}")

    def next(self, steps: list[Next]) -> None:
        if not steps:
            return
        self.whole("\nwhat to do next:")
        for number, step in enumerate(steps, 1):
            self.whole(f"  {number}. {step.what}:\n       {step.command}")
