"""A running Exim daemon: which process it is, and SIGHUP, which makes it execute itself and read its configuration.

The process keeps its number. It closes its sockets first and listens again up to 25 ms later (seen with 4.96), so a
socket that is new at an old address is the sign that it has done so; everyone may see it, unlike the daemon's files.
A process that it has just begun for a connection may still hold the old socket: then it waits 30 s before it tries
again, and is deaf until then (seen once in 171 SIGHUPs, on a busy machine).
A signal in the first milliseconds after its start may be lost, and then SIGTERM as well.
"""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from certagent.errors import Error, Transient
from certagent.host import processes, sockets
from certagent.host.sockets import Sockets

_RESTART_S = 35.0
"""To listen again: 25 ms, or the 30 s after which Exim tries again; more is an address that is not there."""

_STARTERS = frozenset(
    {
        "systemd",
        "systemd-socket-",
        "inetd",
        "xinetd",
        "rlinetd",
        "tcpserver",
        "tcpsvd",
        "s6-tcpserver4",
        "s6-tcpserver6",
    }
)
"""Who listens in Exim's place and starts it for each connection, as the kernel calls it (with 15 characters)."""

_SETTLE_S = 1.0
"""To survive, where it cannot be seen what it listens on: started with -oX, or not at all."""


class Daemon(Struct, frozen=True):
    """The daemon that a pid file names. `who` in errors."""

    who: str
    pid_file: str
    programs: frozenset[str]
    """What its program may be called."""
    configs: frozenset[str]
    """What it may have been started with as -C; without -C it is taken for the right one."""
    start: str
    """For a hint: how to start it."""

    def hang_up(self, ports: Iterable[int]) -> None:
        """Sends SIGHUP and returns when the daemon listens at these ports again, wherever it did before.

        Nothing is sent to a process that is not an Exim daemon of that configuration: numbers are used again.

        Raises:
            Transient: `mta.down`: It does not run; the pid file names something else, or nothing.
            Transient: `mta.reload`: It may not be signalled; it ended of it; it does not listen again.
        """
        with self._found() as (process, started_with):
            elsewhere = any(argument.startswith("-oX") for argument in started_with)
            ports = [] if elsewhere else list(ports)
            before = sockets.at(ports)
            try:
                signal.pidfd_send_signal(process, signal.SIGHUP)
            except PermissionError as error:
                hint = "run certagent as root; in its systemd unit, add CAP_KILL to CapabilityBoundingSet="
                raise Transient("mta.reload", f"{self.who}: SIGHUP to its daemon is not permitted", hint) from error
            self._wait(process, ports, before)

    def verify(self) -> None:
        """Only sees that it runs.

        Raises:
            Transient: `mta.down`, `mta.reload`.
        """
        with self._found():
            pass

    @contextmanager
    def _found(self) -> Generator[tuple[int, list[str]]]:
        """The process (a pidfd: its number cannot come to mean another one) and its command line."""
        pid = self._pid()
        try:
            process = os.pidfd_open(pid)
        except OSError as error:
            raise self._down(f"{self.pid_file} names process {pid}, which has ended") from error
        try:
            yield process, self._arguments(pid)
        finally:
            os.close(process)

    def _pid(self) -> int:
        try:
            found = processes.pid_file(Path(self.pid_file))
        except Error as error:
            raise self._down(f"{self.pid_file} cannot be read, or holds no process number") from error
        if found is None:
            raise self._down(f"there is no pid file {self.pid_file}")
        if found.pid <= 1:
            raise self._down(f"{self.pid_file} holds {found.pid}")
        return found.pid

    def _arguments(self, pid: int) -> list[str]:
        """The daemon's command line; refuses every other process."""
        try:
            arguments = processes.command_line(pid)
        except OSError as error:
            hint = f"run certagent as root, which sees every process; look at it: ps -fp {pid}"
            raise Transient(
                "mta.reload", f"{self.who}: cannot inspect process {pid} of {self.pid_file}", hint
            ) from error
        configs = {value for flag, value in pairwise(arguments) if flag == "-C"}
        configs |= {argument[2:] for argument in arguments if re.match("-C.", argument)}
        if (
            processes.named(pid, self.programs)
            and configs <= self.configs
            and any(argument.startswith("-bd") for argument in arguments)
        ):
            return arguments
        what = f"process {pid} ({processes.name(pid)})"
        raise self._down(f"{self.pid_file} names {what}, which is not its daemon; no signal was sent")

    def _wait(self, process: int, ports: list[int], before: Sockets) -> None:
        if not before and not _ended(process, _SETTLE_S):
            return
        deadline = time.monotonic() + _RESTART_S
        while not _ended(process, 0.02):
            now = sockets.at(ports)
            if before.keys() <= now.keys() and sockets.renewed(before, now):
                return
            if time.monotonic() > deadline:
                what = f"{self.who}: it does not listen where it did, {_RESTART_S:g} s after SIGHUP"
                raise Transient("mta.reload", what, "look at exim's mainlog and paniclog, and at: ss -ltnp")
        what = f"{self.who}: the daemon ended when SIGHUP made it read its configuration"
        raise Transient("mta.reload", what, f"{self.start}; if it does not stay, look at exim's paniclog")

    def _down(self, why: str) -> Transient:
        return Transient("mta.down", f"{self.who} is not running: {why}", self.start)


def started_per_connection(ports: Iterable[int]) -> bool:
    """Whether somebody else listens there and starts Exim for each connection: it reads new files by itself."""
    holders = {processes.holder(number) for number in sockets.at(ports).values()}
    return bool(holders) and holders <= _STARTERS


def _ended(process: int, seconds: float) -> bool:
    """Whether it ends within that time."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
