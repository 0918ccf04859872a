"""The processes of a program on this host, and whether they listen.

Which file a process runs and what it has open is shown only to who might trace it: root, but for one that was left
without CAP_SYS_PTRACE. Not to be shown it is no sign that a server is down.

Source: proc(5); ptrace(2) "Ptrace access mode checking"; proc_net_tcp of the kernel's documentation.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from certagent.errors import Transient

_LISTEN = "0A"
"""TCP_LISTEN in the column `st`."""

_COMM_BYTES = 15
"""To which the kernel cuts the name of a program, proc_pid_comm(5)."""


def running(binary: str) -> frozenset[int]:
    """The processes that run this file (a resolved path), also where a package has replaced it since; those in a
    container do not count.

    Raises:
        mta.reload: (Transient) One may not be looked at and is called like this program. Others are another program's.
    """
    found: set[int] = set()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if runs(pid, binary):
                found.add(pid)
        except Transient:
            if _name(pid) == os.path.basename(binary)[:_COMM_BYTES]:
                raise
    return frozenset(found)


def runs(pid: int, binary: str) -> bool:
    """Whether this process is there and runs this file. Raises: `mta.reload` where it may not be looked at."""
    with _looking_at(pid):
        same_host = os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
        return same_host and os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)") == binary
    return False


def listen(pids: Iterable[int]) -> bool:
    """Whether one of them has a TCP socket that waits for clients. Raises: `mta.reload`, as `runs`."""
    for pid in pids:
        with _looking_at(pid):
            waiting = _listening(pid)
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):  # it was closed meanwhile
                    if os.readlink(fd) in waiting:
                        return True
    return False


@contextmanager
def _looking_at(pid: int) -> Generator[None]:
    """Within, a process that has ended is no error, it only ends the look."""
    try:
        yield
    except PermissionError as error:
        what = f"cannot look at process {pid} ({_name(pid)}): {error.filename}: {error.strerror}"
        hint = "run certagent as root; in its systemd unit, add CAP_SYS_PTRACE to CapabilityBoundingSet="
        raise Transient("mta.reload", what, hint) from error
    except OSError:
        pass


def _name(pid: int) -> str:
    """What everyone may know of it; "" of one that has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def _listening(pid: int) -> set[str]:
    """The sockets that wait for clients in its network, as the links in its `fd` name them."""
    rows: list[list[str]] = []
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # no IPv6 in this kernel
            rows += [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == _LISTEN}
