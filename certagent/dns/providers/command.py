"""A DNS provider that is an operator's program: any language, any API, one short protocol.

The program is started once for each call, without a shell, with the `args` of the configuration and a bare environment
(`PATH`, `LANG`, and `env` of the configuration). What it reads and prints is in `program`. At the time limit its whole
process group is killed. The end of its standard error is shown with an error, so it must hold no secret.
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
from msgspec import UNSET, Struct, UnsetType

from certagent.dns.message import absolute, canonical, zone_of
from certagent.dns.providers.compare import Change, ReadCompareWrite
from certagent.dns.providers.program import Ended, Question, Reply, Request, Was, judge, precondition, rrset
from certagent.dns.providers.protocol import Capabilities, RdType, RRset
from certagent.errors import Misconfigured

MAX_STDOUT_BYTES = 64 * 1024  # hundreds of records; more is a program that has run wild
MAX_STDERR_BYTES = 4096  # of its end, of which a detail shows the last 300 characters
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """The provider's part of the configuration."""

    program: str
    """Absolute path; owned by root or certagent's user, and nobody else may write to it."""
    zones: tuple[str, ...]
    protocol: Literal[1, 2] = 2
    """The version that the program speaks; see docs/how-to/dns-providers.md."""
    args: tuple[str, ...] = ()
    timeout_s: float = 30.0
    env: dict[str, str] = {}
    """Added to the environment. Secrets belong in a file that only the program reads."""


class Command(ReadCompareWrite):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `program` for what is said.

    Raises:
        Misconfigured: `dns.program`: the program cannot be run, or others may write to it.
    """

    Options = Options

    def __init__(self, options: Options) -> None:
        self.zones = tuple(absolute(zone) for zone in options.zones)
        self._options = options
        self._capabilities: Capabilities | None = None if options.protocol > 1 else Capabilities()
        check_program(options.program)

    @property
    def capabilities(self) -> Capabilities:
        """What the program says that it can do; it is asked once."""
        if self._capabilities is None:
            reply = self._call(Question(), "dns.unreachable")
            self._capabilities = reply.capabilities or Capabilities()
        return self._capabilities

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """See `Provider`."""
        request = Request(self._options.protocol, "get", self._zone(name), name, rdtype)
        return rrset(self._call(request, "dns.unreachable").rrset, rdtype)

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        """See `Provider`."""
        if self._options.protocol == 1:
            super().add(name, rdtype, values, ttl_s, was)
        else:
            self._write("add", name, rdtype, values, ttl_s, was=precondition(was))

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        """See `Provider`."""
        if self._options.protocol == 1:
            super().remove(name, rdtype, values, was)
        else:
            self._write("remove", name, rdtype, values, was=precondition(was))

    def write(self, name: str, rdtype: RdType, change: Change) -> None:
        """One change in version 1 of the protocol, which knows no precondition."""
        if change.removed:
            self._write("remove", name, rdtype, change.removed)
        else:  # if nothing is new, the TTL is
            self._write("add", name, rdtype, change.added or change.after, change.ttl_s)

    def _write(
        self,
        action: Literal["add", "remove"],
        name: str,
        rdtype: RdType,
        values: frozenset[str],
        ttl_s: int = 0,
        *,
        was: Was | UnsetType | None = UNSET,
    ) -> None:
        wanted = tuple(sorted({canonical(rdtype, value) for value in values}))
        request = Request(self._options.protocol, action, self._zone(name), name, rdtype, wanted, ttl_s, was)
        self._call(request, "dns.unknown_outcome")

    def _zone(self, name: str) -> str:
        zone = zone_of(name, self.zones)
        if zone is None:
            raise Misconfigured(
                "dns.no_zone", f"{name} is in none of the zones {', '.join(self.zones)}", "list its zone"
            )
        return zone

    def _call(self, request: Request | Question, lost: str) -> Reply:
        options = self._options
        check_program(options.program)  # again: it may have been exchanged since
        environment = {"PATH": PATH, "LANG": "C.UTF-8", **options.env}
        ended = run([options.program, *options.args], environment, msgspec.json.encode(request), options.timeout_s)
        return judge(options.program, request, ended, lost)


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
