"""What the programs in this folder share; it is installed beside them.

The protocol, version 2, is described in docs/how-to/dns-providers.md. Needs Python 3.11 and nothing else.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

Json = Any
Answer = Callable[[Json], Json]
"""The answer to `get`, `add` or `remove`."""

STATE = Path("/var/lib/certagent")
FILE_MAX_BYTES = 64 * 1024 * 1024
"""A zone file with a million records; more is a mistake."""
KEPT_BYTES = 2000
"""Of what a program prints: certagent shows less."""


class Failure(Exception):
    """An answer with `ok: false`; `error` is one of the protocol's."""

    def __init__(self, error: str, detail: str, hint: str = "") -> None:
        super().__init__(error, detail, hint)
        self.answer = {"ok": False, "error": error, "detail": detail, "hint": hint}


class Arguments(argparse.ArgumentParser):
    """The `args` of the configuration."""

    def error(self, message: str) -> NoReturn:
        """An answer, in place of an exit status."""
        raise Failure("misconfigured", message, f"{self.format_usage().strip()}: see `args` of the provider")


def serve(begin: Callable[[], Answer], capabilities: Json) -> NoReturn:
    """Answers the request on standard input, and ends. `begin` reads the arguments."""
    try:
        answer, request = begin(), json.load(sys.stdin)
        if request["version"] != 2:
            version = request["version"]
            raise Failure("misconfigured", f"version {version} of the protocol is not known here", "set protocol: 2")
        asked = request["action"] == "capabilities"
        result = {"ok": True, "capabilities": capabilities} if asked else answer(request)
    except Failure as failure:
        result = failure.answer
    except OSError as error:
        result = Failure("transient", f"{error.filename or 'file'}: {error.strerror}").answer
    print(json.dumps(result))
    sys.exit(0 if result["ok"] else 1)


def unchanged(request: Json, found: Json) -> None:
    """The precondition of a write.

    Raises:
        Failure: It does not hold.
    """
    if request["was"] != found:
        raise Failure("changed", f"it is {found} now")


def rrset(values: set[str], ttl_s: int) -> Json:
    """A set as the protocol has it; None if it is empty."""
    return {"values": sorted(values), "ttl_s": ttl_s} if values else None


# -- files -------------------------------------------------------------------------------------------------------------


def trusted(path: str) -> str:
    """The path, if nobody but root and this user may change the file, or what is on the way to it.

    Raises:
        Failure: Others may, or it is missing.
    """
    if not os.path.isabs(path):
        raise Failure("misconfigured", f"{path}: not an absolute path", "write the full path")
    try:
        real = Path(path).resolve(strict=True)
    except OSError as error:
        raise Failure("misconfigured", f"{path}: {error.strerror}", f"look at it: ls -lL {path}") from None
    for place in {real, *real.parents, *Path(path).parents}:
        status = place.stat()
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if status.st_uid not in (0, os.geteuid()) or (status.st_mode & 0o022 and not sticky):
            hint = f"chown root {place}; chmod go-w {place}"
            raise Failure("misconfigured", f"others than root may change {place}, on the way to {path}", hint)
    return path


def private(path: str) -> dict[str, str]:
    """A private file with lines such as `NAME=value`."""
    if Path(trusted(path)).stat().st_mode & 0o077:
        raise Failure("misconfigured", f"others may read {path}", f"chmod 600 {path}")
    lines = [line.strip() for line in text(Path(path)).splitlines()]
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def text(path: Path) -> str:
    """What is in a file."""
    with path.open("rb") as file:
        data = file.read(FILE_MAX_BYTES + 1)
    if len(data) > FILE_MAX_BYTES:
        raise Failure("misconfigured", f"{path}: more than {FILE_MAX_BYTES} bytes", "name another file")
    return data.decode("utf-8", "replace")


def replace(path: Path, content: str, like: os.stat_result | None = None) -> None:
    """Puts a file in the place of another, whole or not at all, with the owner and mode of `like`; else private."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        if like:
            os.fchown(fd, like.st_uid, like.st_gid)
            os.fchmod(fd, stat.S_IMODE(like.st_mode))
        file.write(content.encode())
        file.flush()
        os.fsync(fd)
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Alone with it; certagent's time limit bounds the wait."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


# -- programs ----------------------------------------------------------------------------------------------------------


def run(argv: list[str], env: Mapping[str, str] = {}) -> str:
    """The beginning of what a program prints, if it ends with 0. certagent's time limit ends it with this process.

    Raises:
        Failure: `transient`: with the end of its error output.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={**os.environ, **env},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    ends: list[bytes] = []
    aside = threading.Thread(target=_drain, args=(process.stderr, ends, -KEPT_BYTES))
    aside.start()
    beginning: list[bytes] = []
    _drain(process.stdout, beginning, KEPT_BYTES)
    aside.join()
    if code := process.wait():
        lines = ends[0].decode("utf-8", "replace").strip().splitlines() or [f"exit status {code}"]
        raise Failure("transient", f"{Path(argv[0]).name}: {lines[-1][-150:]}", f"run it by hand: {argv[0]}")
    return beginning[0].decode("utf-8", "replace")


def _drain(pipe: IO[bytes], kept: list[bytes], size: int) -> None:
    """Reads to the end, and keeps the first or the last `size` bytes."""
    data = b""
    while chunk := pipe.read(65536):
        data = (data + chunk)[:size] if size > 0 else (data + chunk)[size:]
    kept.append(data)


# -- records in zone file syntax (RFC 1035 section 5.1) ----------------------------------------------------------------


def quoted(value: str) -> str:
    """A TXT value in strings of at most 255 bytes."""
    data = value.encode()
    parts = [data[at : at + 255] for at in range(0, max(1, len(data)), 255)]
    return " ".join('"' + "".join(map(_escaped, part)) + '"' for part in parts)


def _escaped(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03d}"


def unquoted(content: str) -> str:
    """The value that `quoted` made."""
    data, at = bytearray(), 0
    while at < len(content):
        if content.startswith('" "', at) and 0 < at < len(content) - 2:
            at += 3
        elif content[at] == '"':
            at += 1
        elif content[at] == "\\":
            data.append(int(content[at + 1 : at + 4]))
            at += 4
        else:
            data += content[at].encode()
            at += 1
    return data.decode("utf-8", "replace")


def record(name: str, ttl_s: int, rdtype: str, value: str) -> str:
    """One line of a zone file."""
    return f"{name} {ttl_s} IN {rdtype} {quoted(value) if rdtype == 'TXT' else value}"


# -- scripts of other ACME clients -------------------------------------------------------------------------------------


def challenges(state: Path, add: Callable[[str, str], str], remove: Callable[[str, str, str], None]) -> Answer:
    """Answers by two functions that add and remove one TXT value at a name.

    They cannot tell what is there: so a file has what was added, with what `add` returned, which `remove` is given.
    A value whose adding was cut off is not shown, and is removed all the same.
    """

    def answer(request: Json) -> Json:
        name, rdtype = request["name"], request["type"]
        if rdtype != "TXT":
            detail = f"{name} {rdtype}: scripts of this kind write challenge records (TXT) and nothing else"
            raise Failure("misconfigured", detail, f"write {rdtype} records with another provider")
        with locked(state.with_name(f"{state.name}.lock")):
            known: dict[str, Json] = json.loads(text(state)) if state.exists() else {}
            here: dict[str, Json] = known.setdefault(name, {"ttl_s": 0, "values": {}})
            values: dict[str, Json] = here["values"]
            sure = {value for value, said in values.items() if said is not None}
            found = rrset(sure, here["ttl_s"])
            if request["action"] == "get":
                return {"ok": True, "rrset": found}
            unchanged(request, found)

            def save() -> None:
                replace(state, json.dumps({name: kept for name, kept in known.items() if kept["values"]}))

            if request["action"] == "add":
                here["ttl_s"] = request["ttl_s"]
                for value in request["values"]:
                    if value not in sure:
                        values[value] = None
                        save()
                        values[value] = add(name, value)
            else:
                for value in [value for value in request["values"] if value in values]:
                    remove(name, value, values[value] or "")
                    del values[value]
                    save()
            save()
        return {"ok": True}

    return answer
