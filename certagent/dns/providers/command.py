"""A DNS provider that is an operator's program: any language, any API, one short protocol.

The program is started once for each call, without a shell, with the `args` of the config and a bare environment
(`PATH`, `LANG`, and `env` of the config). Its standard input is one JSON object:

    {"version": 1, "action": "get" | "add" | "remove", "zone": "example.org.", "name": "_25._tcp.mx1.example.org.",
     "type": "TLSA" | "TXT", "values": ["3 1 1 …"], "ttl_s": 3600}

`values` is empty for `get`, and `ttl_s` counts for `add` only. It prints one JSON object, at most 64 KiB, and ends:

    {"ok": true, "rrset": {"values": ["3 1 1 …"], "ttl_s": 3600}}     for `get`; `"rrset": null` where there is none
    {"ok": true}                                                      for `add` and `remove`, when it is done
    {"ok": false, "error": "transient" | "rejected" | "misconfigured", "detail": "what failed", "hint": "the remedy"}

The rules for the three actions are those of `certagent.dns.provider`; `certagent.testing` has checks for them.
`transient` leaves open whether a change has happened, the other two say that it has not. `ok: true` counts only with
exit status 0, `ok: false` with any. Everything else (no answer or one that is not understood, the time limit, death by
a signal) is taken as `transient`: certagent will ask DNS and try again. At the time limit the program's whole process
group is killed. The end of its standard error is shown with an error, so it must hold no secret.
"""

from __future__ import annotations

import os
import selectors
import signal
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

import msgspec
from msgspec import Struct

from certagent.dns.message import absolute, zone_of
from certagent.dns.providers.protocol import RdType, RRset
from certagent.errors import Error, Misconfigured, Rejected, Transient

MAX_STDOUT_BYTES = 64 * 1024  # hundreds of records; more is a program that has run wild
MAX_STDERR_BYTES = 4096  # of its end, of which a detail shows the last 300 characters
MAX_DETAIL_CHARS = 300  # a few lines of a terminal
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """The provider's part of the config."""

    program: str
    """Absolute path; owned by root or certagent's user, and nobody else may write to it."""
    zones: tuple[str, ...]
    args: tuple[str, ...] = ()
    timeout_s: float = 30.0
    env: dict[str, str] = {}
    """Added to the environment. Secrets belong into a file that only the program reads."""


class Request(Struct, frozen=True):
    """What the program reads."""

    action: Literal["get", "add", "remove"]
    zone: str
    name: str
    type: RdType
    values: tuple[str, ...] = ()
    ttl_s: int = 0
    version: int = 1


class Found(Struct, frozen=True):
    """An RRset as the program tells it."""

    values: frozenset[str]
    ttl_s: int


class Reply(Struct, frozen=True):
    """What the program prints; unknown fields are passed over, so that a newer program works with this version."""

    ok: bool
    rrset: Found | None = None
    error: Literal["transient", "rejected", "misconfigured"] = "transient"
    detail: str = ""
    hint: str = ""


class Ended(Struct, frozen=True):
    """What is left of a program: `status` is None where it was killed here, for the reason in `why`."""

    stdout: bytes
    stderr: bytes
    status: int | None
    why: str = ""


class Command:
    """See `certagent.dns.provider.Provider` for what the methods promise, and the module for what the program must do.

    Raises:
        Misconfigured: `dns.program`: the program cannot be run, or others may write to it.
    """

    Options = Options

    def __init__(self, options: Options) -> None:
        self.zones = tuple(absolute(zone) for zone in options.zones)
        self._options = options
        check_program(options.program)

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """The RRset as the program reports it."""
        found = self._call(Request("get", self._zone(name), name, rdtype), "dns.unreachable").rrset
        return RRset(found.values, found.ttl_s) if found and found.values else None

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        """Has the program make sure that the values are there."""
        request = Request("add", self._zone(name), name, rdtype, tuple(sorted(values)), ttl_s)
        self._call(request, "dns.unknown_outcome")

    def remove(self, name: str, rdtype: RdType, values: frozenset[str]) -> None:
        """Has the program make sure that the values are not there."""
        request = Request("remove", self._zone(name), name, rdtype, tuple(sorted(values)))
        self._call(request, "dns.unknown_outcome")

    def _zone(self, name: str) -> str:
        zone = zone_of(name, self.zones)
        if zone is None:
            raise Misconfigured(
                "dns.no_zone", f"{name} is in none of the zones {', '.join(self.zones)}", "list its zone"
            )
        return zone

    def _call(self, request: Request, lost: str) -> Reply:
        options = self._options
        check_program(options.program)  # again: it may have been exchanged since
        environment = {"PATH": PATH, "LANG": "C.UTF-8", **options.env}
        argv = [options.program, *options.args]
        return judge(options.program, run(argv, environment, msgspec.json.encode(request), options.timeout_s), lost)


# -- pure ------------------------------------------------------------------------------------------------------------


def judge(program: str, ended: Ended, lost: str) -> Reply:
    """The program's answer, or the error that it means; `lost` is the code where there is no valid answer."""
    try:
        reply = msgspec.json.decode(ended.stdout, type=Reply)
    except msgspec.DecodeError:  # also of a valid JSON that is no Reply
        reply = None
    if ended.status is not None and reply is not None:
        if not reply.ok:
            raise _told(program, reply, ended.stderr, lost)
        if ended.status == 0:
            return reply
    why = ended.why or (f"exit status {ended.status}" if ended.status else "its output is no valid answer")
    raise Transient(lost, printable(f"{program}: {why}", ended.stderr))


def _told(program: str, reply: Reply, stderr: bytes, lost: str) -> Error:
    detail, hint = printable(f"{program}: {reply.detail or reply.error}", stderr), printable(reply.hint)
    match reply.error:
        case "rejected":
            return Rejected("dns.rejected", detail, hint)
        case "misconfigured":
            return Misconfigured("dns.refused", detail, hint)
        case "transient":
            return Transient(lost, detail, hint)


def printable(text: str, stderr: bytes = b"") -> str:
    """The text and the end of what went to standard error, on one line, without control characters."""
    lines = stderr.decode("utf-8", "replace").split("\n")
    text = " | ".join([text[:MAX_DETAIL_CHARS], *(line.strip() for line in lines if line.strip())])
    text = "".join(c if c.isprintable() else " " for c in text)
    # The beginning says which program and what; the end of the output says why.
    half = MAX_DETAIL_CHARS // 2
    return text if len(text) <= MAX_DETAIL_CHARS else f"{text[: half - 1]}…{text[-half:]}"


# -- the process -----------------------------------------------------------------------------------------------------


def check_program(program: str) -> None:
    """Refuses a program that others than root and certagent's user could exchange.

    Raises:
        Misconfigured: `dns.program`.
    """
    try:
        status = Path(program).stat()
    except OSError as error:
        raise Misconfigured("dns.program", f"{program}: {error.strerror}", "the path of the program") from error
    if not (os.path.isabs(program) and stat.S_ISREG(status.st_mode) and os.access(program, os.X_OK)):
        raise Misconfigured("dns.program", f"{program} is no absolute path of a program", f"chmod 755 {program}")
    if status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid()):
        hint = f"chown root {program} && chmod 755 {program}"
        raise Misconfigured("dns.program", f"{program} can be written by others, or belongs to another user", hint)


def run(argv: list[str], environment: dict[str, str], stdin: bytes, timeout_s: float) -> Ended:
    """Runs a program in its own process group, which is killed at the time limit or when it prints too much.

    Raises:
        Misconfigured: `dns.program`.
    """
    end = time.monotonic() + timeout_s
    with tempfile.TemporaryFile() as request:  # not a pipe: nothing blocks when the program does not read
        request.write(stdin)
        request.seek(0)
        try:
            process = subprocess.Popen(
                argv,
                stdin=request,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise Misconfigured("dns.program", f"{argv[0]}: {error.strerror}", "its first line, its mode") from error
    with process:
        try:
            stdout, stderr = _read(process, end)
            # The output may be closed before the end of the program.
            return Ended(stdout, stderr, process.wait(max(0.0, end - time.monotonic())))
        except (subprocess.TimeoutExpired, OverflowError) as error:
            why = str(error) if isinstance(error, OverflowError) else f"not finished after {timeout_s:g} s"
            return Ended(b"", b"", None, why)
        finally:
            if process.returncode is None:  # it was not waited for: its group still has its number
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _read(process: subprocess.Popen[bytes], end: float) -> tuple[bytes, bytes]:
    """Standard output and the end of standard error, until both are closed."""
    assert process.stdout is not None
    assert process.stderr is not None
    output: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in output:
            selector.register(pipe, selectors.EVENT_READ, pipe)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(process.args, 0)
            for key, _ in ready:
                pipe: IO[bytes] = key.data
                if not (data := os.read(pipe.fileno(), 65536)):
                    selector.unregister(pipe)
                output[pipe] += data
            if len(output[process.stdout]) > MAX_STDOUT_BYTES:
                raise OverflowError(f"printed more than {MAX_STDOUT_BYTES} bytes")
            del output[process.stderr][:-MAX_STDERR_BYTES]
    return bytes(output[process.stdout]), bytes(output[process.stderr])
