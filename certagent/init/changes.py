"""The changes to a mail server's own configuration: shown as a difference, made with a backup, and undone where the
server's own check then says something that it did not say before. Where a server reads what a program makes of the
changed file, that program is run before the check, and once more after an undo. Nothing is reloaded.
"""

from __future__ import annotations

import difflib
import os
import shlex
import stat
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Literal

from msgspec import Struct, structs

from certagent.errors import Error, Misconfigured, Transient
from certagent.host import replace
from certagent.host.files import read_text
from certagent.host.programs import program, run
from certagent.init import host
from certagent.init.seeds import NOTHING, Seeds
from certagent.mta.server import Change, Found

_MODE = 0o644
"""Of a file that is new: configuration of a mail server, without secrets."""

_GENERATE_S = 60.0
"""For a program that makes a configuration: a second; longer if it makes databases as well."""

_SECRET = ("pass", "secret", "token", "credential", "apikey", "api_key", "hide ", "private")
"""Parts of the names of secret settings."""

_SAID_LIMIT = 1000
"""Characters of what it said that are shown."""


class Refused(Misconfigured):
    """`mta.config`: the server's own check, or a command that belongs to the change, says no."""


class Outcome(Struct, frozen=True):
    """One change and what became of it. `later`: it names files that are not there yet; `there`: nothing to do."""

    server: str
    file: str
    why: str
    diff: str
    state: Literal["proposed", "later", "made", "there"]
    missing: tuple[str, ...] = ()
    why_missing: str = ""
    """Why what is served today cannot be put there."""
    seeds: tuple[str, ...] = ()
    """Certificates of today that are put into the new files first."""
    backup: str = ""
    generate: str = ""
    """The command that belongs to it, see `Change`."""


def diff(change: Change) -> str:
    """As `diff -U0` shows it: no line that stays, for it may be a secret; and `…` for the value of one that changes.
    Of bytes that are not UTF-8 neither terminal nor JSON has any.
    """
    before, after = (text.splitlines(keepends=True) for text in (change.before, change.after))
    lines = map(_masked, difflib.unified_diff(before, after, change.file, change.file, n=0))
    shown = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return _bytes(shown).decode("utf-8", "replace")


def _masked(line: str) -> str:
    """Without the value, if the name of a setting says that it is a secret. Exim's mark for those is `hide`."""
    name, sign, value = line.partition("=") if "=" in line else line.partition(" ")
    if not value.strip() or not any(word in name.lower() for word in _SECRET):
        return line
    return f"{name}{sign}{' ' if value[0] == ' ' else ''}…" + ("\n" if value.endswith("\n") else "")


def named(found: Found) -> tuple[str, ...]:
    """The files in the server's options that its changes make it read."""
    before = {line for change in found.changes for line in change.before.splitlines()}
    after = [line for change in found.changes for line in change.after.splitlines()]
    added = "\n".join(line for line in after if line not in before)
    return tuple(path for path in paths(found) if path in added)


def outcomes(found: Found, seeds: Seeds = NOTHING) -> list[Outcome]:
    """What is proposed. The changes of a server belong together: they wait for the same files."""
    return [_outcome(found, change, seeds) for change in found.changes]


def apply(
    found: Found,
    now: datetime,
    complaint: Callable[[], str],
    seeds: Seeds = NOTHING,
    seed: Callable[[], object] = tuple,
) -> list[Outcome]:
    """Makes the changes of a server that can be made now, all or none, each file first copied to
    FILE.before-certagent-DATE.

    `seed` puts `seeds` into the new files, before anything is changed. `complaint` is what the server's own check says,
    "" if it is content. If it says something new after the change, or anything at all where the change makes the server
    read files of certagent, every file is put back. So it is where a change's own command fails.

    Raises:
        Misconfigured: `mta.files`: A file is not as it was when the change was proposed, or may not be replaced;
            nothing was changed.
        Misconfigured: `mta.config`: The server's own check does not like the change, or its command fails; it was
            undone. Or the command is not installed, and nothing was changed.
        Transient: `mta.disk`: Disk full or failing; what was changed was put back.
    """
    planned = list(zip(found.changes, outcomes(found, seeds), strict=True))
    due = [(change, outcome) for change, outcome in planned if outcome.state == "proposed"]
    done: dict[str, Outcome] = {}
    said = complaint() if due else ""
    commands = _commands(change for change, _ in due)
    with _translated():
        for change, _ in due:
            _still(change)
        if due:
            seed()
        with _generated_again(commands), ExitStack() as undo:
            for change, outcome in due:
                done[change.file] = _make(change, outcome, now, undo)
            failed, words = _generate(commands)
            now_said = complaint() if due and not failed else ""
            if now_said and (now_said != said or named(found)):
                failed, words = "its check", f"{now_said}; {words}" if words else now_said
            if failed:
                detail = f"{found.name}: with the change to {', '.join(done)} {failed} fails, so it was undone: {words}"
                hint = "make the change by hand, or report the difference shown above"
                raise Refused("mta.config", detail, hint)
            undo.pop_all()
    return [done.get(change.file, outcome) for change, outcome in planned]


def _outcome(found: Found, change: Change, seeds: Seeds) -> Outcome:
    text = _text(Path(change.file))
    waits = seeds.lacking if named(found) else ()
    state = "there" if text == change.after else "later" if waits else "proposed"
    return Outcome(
        server=found.name,
        file=change.file,
        why=change.why,
        diff=diff(change),
        state=state,
        missing=waits if state == "later" else (),
        why_missing=seeds.why if state == "later" else "",
        seeds=tuple(one.file for one in seeds.sources) if state == "proposed" else (),
        generate=shlex.join(change.generate),
    )


def _make(change: Change, outcome: Outcome, now: datetime, undo: ExitStack) -> Outcome:
    path = Path(change.file)
    if not path.exists():
        replace.write(path, _bytes(change.after), mode=_MODE)
        undo.callback(path.unlink, missing_ok=True)
        return structs.replace(outcome, state="made")
    status = path.stat()
    mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
    backup = _free(path.with_name(f"{path.name}.before-certagent-{now:%Y%m%dT%H%M%SZ}"))

    def put_back() -> None:
        if _text(path) != change.before:
            replace.write(path, _bytes(change.before), mode=mode, owner=owner, keep=True)
        backup.unlink()  # only now: where a directory is read as a whole, it would count

    replace.create(backup, _bytes(change.before), mode=mode, owner=owner)
    undo.callback(put_back)
    replace.write(path, _bytes(change.after), mode=mode, owner=owner, keep=True)
    return structs.replace(outcome, state="made", backup=str(backup))


def _free(path: Path) -> Path:
    """The path; with a number behind it where a change of the same second has taken it."""
    names = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return path if not os.path.lexists(path) else next(name for name in names if not os.path.lexists(name))


def _commands(changes: Iterable[Change]) -> list[list[str]]:
    """Each once, with the full path of its program.

    Raises:
        Misconfigured: `mta.config`: One is not installed.
    """
    named = dict.fromkeys(change.generate for change in changes if change.generate)
    return [[program(name, "mta.config"), *arguments] for name, *arguments in named]


def _generate(commands: Iterable[list[str]]) -> tuple[str, str]:
    """Runs them; the one that fails, "" where none does, and what was said."""
    words: list[str] = []
    for path, *arguments in commands:
        shown = shlex.join([os.path.basename(path), *arguments])
        try:
            code, out, err = run([path, *arguments], _GENERATE_S)
        except Error as error:
            return shown, error.detail
        said = " ".join(f"{err}\n{out}".split())[:_SAID_LIMIT]
        if code != 0:
            return shown, said or f"exit status {code}"
        words += [f"{shown} said: {said}"] if said else []
    return "", "; ".join(words)


@contextmanager
def _generated_again(commands: list[list[str]]) -> Generator[None]:
    """Where what is done within fails, the old files are back: makes of them what the server reads."""
    try:
        yield
    except BaseException as error:
        failed, words = _generate(commands)
        if failed:
            why = error.detail if isinstance(error, Error) else type(error).__name__
            detail = f"{why}; and then, with the old files, {failed} fails: {words}"
            raise Refused("mta.config", detail, f"run it by hand: {failed}") from error
        raise


def _still(change: Change) -> None:
    if (_text(Path(change.file)) or "") != change.before:
        detail = f"{change.file} is not as it was when the change was proposed; nothing was changed"
        raise Misconfigured("mta.files", detail, "run certagent init again, and look at the difference it shows then")


def _text(path: Path) -> str | None:
    """What is in the file; None: it is not there."""
    return read_text(path, errors="surrogateescape") if os.path.exists(path) else None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def paths(found: Found) -> tuple[str, ...]:
    """Every absolute path in its options."""
    return tuple(dict.fromkeys(host.paths(found.options)))


@contextmanager
def _translated() -> Generator[None]:
    """Translate the errors of the store, and of the disk, into those of `mta/server.py`."""
    try:
        yield
    except Refused:
        raise
    except OSError as error:
        hint = f"look at it: df -h; ls -ld {error.filename or '/etc'}"
        raise Transient("mta.disk", f"{error.filename}: {error.strerror}", hint) from error
    except Transient as error:
        raise Transient("mta.disk", error.detail, error.hint) from error
    except Misconfigured as error:
        raise Misconfigured("mta.files", error.detail, error.hint) from error
