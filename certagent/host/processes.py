"""The processes of this host: what runs, what it is, and what it has open.

The kernel shows which file a process runs and what it has open only to those who might trace it: root with
CAP_SYS_PTRACE, which the service has not. If it is not shown, a process that root has begun is believed to run what it
is called after: nobody else can make one. A process may end while it is inspected.

Source: proc(5); ptrace(2) "Ptrace access mode checking".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from certagent.errors import Misconfigured
from certagent.host import proc
from certagent.host.files import read_file

_COMM_BYTES = 15
"""To which the kernel cuts the name of a program, proc_pid_comm(5)."""

_LIMIT_BYTES = 1 << 20
"""Of a command line, which its process may change: more than any server's."""

_PID_FILE_BYTES = 64 << 10
"""A number, and for Sendmail a command line."""

_PID = re.compile(rb"[0-9]{1,7}")
"""Up to 4,194,304, proc_sys_kernel(5) pid_max."""


class PidFile(NamedTuple):
    """What a pid file says. `command` is its second line: Sendmail writes the daemon's command line there."""

    pid: int
    command: str


def pid_file(path: Path) -> PidFile | None:
    """What this pid file says; None if it does not exist.

    The server's own user may often write it, so look at the process before you believe it: see `runs`, `command_line`.

    Raises:
        Misconfigured: `store.path`: It holds no process number, or is too large, a symlink or no regular file.
        Transient: `store.disk`: It cannot be read.
    """
    content = read_file(path, _PID_FILE_BYTES)
    if content is None:
        return None
    first, command, *_ = [*content.splitlines(), b"", b""]
    if not _PID.fullmatch(first.strip()):
        raise Misconfigured("store.path", f"{path} holds no process number", f"look at it: ls -l {path}")
    return PidFile(int(first), command.decode(errors="replace"))


def running(binary: str) -> frozenset[int]:
    """The processes of a daemon that run this file (a resolved path), also if a package has replaced it since.

    Anybody may run a server's program, and keep it from ending. So only those count that belong to root or this user,
    and those that one of them has begun, whatever user they have become. Those in a container do not count.
    """
    found: set[int] = set()
    others: list[tuple[int, int]] = []
    for pid in numbers():
        user, parent = _user(pid)
        if user not in {0, os.geteuid()}:
            others.append((pid, parent))
        elif runs(pid, binary):
            found.add(pid)
    return frozenset({*found, *(pid for pid, parent in others if parent in found and _runs_child(pid, binary))})


def _user(pid: int) -> tuple[int, int]:
    """The user who has begun it, and its parent; -1 if it has ended."""
    with suppress(KeyError, IndexError, ValueError):
        fields = status(pid)
        return int(fields["Uid"][0]), int(fields["PPid"][0])
    return -1, -1


def status(pid: int | str) -> dict[str, list[str]]:
    """What everybody may know of it; nothing if it has ended. Source: proc_pid_status(5)."""
    with suppress(OSError):
        lines = proc.read(f"{pid}/status", _LIMIT_BYTES).decode("ascii", "replace").splitlines()
        return {name: values.split() for name, _, values in (line.partition(":") for line in lines)}
    return {}


def runs(pid: int, binary: str) -> bool:
    """Whether this process is there, not in a container, and runs this file; or is called so and is root's."""
    shown = _shown(pid, binary)
    return _user(pid)[0] in {0, os.geteuid()} and _called(pid, binary) if shown is None else shown


def _shown(pid: int, binary: str) -> bool | None:
    """None: what it runs is not shown."""
    try:
        same_host = proc.link(f"{pid}/ns/pid") == proc.link("self/ns/pid")
        return same_host and proc.link(f"{pid}/exe").removesuffix(" (deleted)") == binary
    except PermissionError:
        return None
    except OSError:
        return False


def _called(pid: int, binary: str) -> bool:
    """Whether it is called like this program, and is in no container: there it would have a second number."""
    return named(pid, [os.path.basename(binary)]) and len(status(pid).get("NSpid", [])) == 1


def _runs_child(pid: int, binary: str) -> bool:
    shown = _shown(pid, binary)
    return _called(pid, binary) if shown is None else shown


def holder(inode: int) -> str:
    """The name of a program that has this socket open, in printable ASCII; "" if that is not shown."""
    for pid in numbers():
        with suppress(OSError):
            if f"socket:[{inode}]" in _open_files(pid):
                return re.sub(r"[^!-~]", "?", name(pid))
    return ""


def name(pid: int) -> str:
    """What the kernel calls it, which everybody may know; "" if it has ended."""
    with suppress(OSError):
        return proc.read(f"{pid}/comm", _COMM_BYTES + 1).decode(errors="replace").rstrip("\n")
    return ""


def named(pid: int, programs: Iterable[str]) -> bool:
    """Whether the kernel calls it like one of these programs."""
    return name(pid) in {program[:_COMM_BYTES] for program in programs}


def command_line(pid: int) -> list[str]:
    """Its arguments, which it may have changed itself.

    Raises:
        OSError: The process has ended, or may not be inspected.
    """
    return proc.read(f"{pid}/cmdline", _LIMIT_BYTES).decode(errors="replace").split("\0")


def numbers() -> list[int]:
    """Those of all processes that this one may see."""
    return [int(entry) for entry in proc.names() if _PID.fullmatch(os.fsencode(entry))]


def _open_files(pid: int) -> list[str]:
    """The links in its `fd`: `socket:[1234]`, a path, and others.

    Raises:
        OSError: The process has ended, or may not be inspected.
    """
    found: list[str] = []
    for fd in proc.names(f"{pid}/fd"):
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found.append(proc.link(f"{pid}/fd/{fd}"))
    return found
