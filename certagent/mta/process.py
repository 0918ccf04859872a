"""The processes of a program on this host, and whether they listen.

Source: proc(5); proc_net_tcp of the kernel's documentation.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_LISTEN = "0A"
"""TCP_LISTEN in the column `st`."""


def running(binary: str) -> frozenset[int]:
    """The processes that run this file (a resolved path), also where a package has replaced it since; those in a
    container do not count.
    """
    return frozenset(pid for name in os.listdir("/proc") if name.isdigit() for pid in [int(name)] if runs(pid, binary))


def runs(pid: int, binary: str) -> bool:
    """Whether this process is there and runs this file."""
    try:
        same_host = os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
        return same_host and os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)") == binary
    except OSError:  # it has ended, or is another user's
        return False


def listen(pids: Iterable[int]) -> bool:
    """Whether one of them has a TCP socket that waits for clients."""
    for pid in pids:
        with suppress(OSError):  # it has ended meanwhile
            waiting = _listening(pid)
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if os.readlink(fd) in waiting:
                        return True
    return False


def _listening(pid: int) -> set[str]:
    """The sockets that wait for clients in its network, as the links in its `fd` name them."""
    rows: list[list[str]] = []
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # no IPv6 in this kernel
            rows += [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == _LISTEN}
