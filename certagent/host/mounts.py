"""Files that other processes mount alone, as containers do: a rename does not reach those.

What is mounted is the file, not its name: a new file of that name is another one. A directory that is mounted shows it.

Source: proc_pid_mountinfo(5), which everybody may read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from certagent.host import proc
from certagent.host.processes import name, numbers

REMEDY = "mount the directory of the file in its place; or let the container be restarted: then it gets the new file"

_LIMIT_BYTES = 16 << 20
"""Of one process's mounts: 100,000 lines."""

_GONE = b"//deleted"
"""What the kernel adds to a file that was replaced since."""


class Mounted(NamedTuple):
    """A file that another process has alone."""

    path: Path
    process: str

    def __str__(self) -> str:
        return f"{self.path} is mounted alone for {self.process}, which keeps the old file when it is replaced"


class _Mount(NamedTuple):
    device: bytes
    root: bytes
    point: bytes


def alone(paths: Iterable[Path]) -> list[Mounted]:
    """Those of the files that a process mounts alone, each with one such process."""
    paths = tuple(paths)
    own = list(_mounts("self")) if paths else []
    wanted = {key: path for path in paths if (key := _key(os.fsencode(os.path.realpath(path)), own))}
    found: dict[Path, Mounted] = {}
    for pid in numbers() if wanted else ():
        for mount in _mounts(pid):
            if path := wanted.get((mount.device, mount.root)):
                found.setdefault(path, Mounted(path, f"process {pid} ({re.sub('[^!-~]', '?', name(pid))})"))
    return [found[path] for path in sorted(found)]


def _key(path: bytes, own: Iterable[_Mount]) -> tuple[bytes, bytes] | None:
    """Where a file of this process is: its file system, and its path in there."""
    above = [one for one in own if path.startswith(one.point.rstrip(b"/") + b"/")]
    if not above:
        return None
    mount = max(above, key=lambda one: len(one.point))  # of several at one place the last is seen, which is rare
    return mount.device, mount.root.rstrip(b"/") + path[len(mount.point.rstrip(b"/")) :]


def _mounts(pid: int | str) -> Iterator[_Mount]:
    try:
        lines = proc.read(f"{pid}/mountinfo", _LIMIT_BYTES).splitlines()
    except OSError:  # it has ended
        return
    for line in lines:
        fields = line.split(b" ", 5)
        if len(fields) > 5:
            yield _Mount(fields[2], _plain(fields[3]).removesuffix(_GONE), _plain(fields[4]))


def _plain(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 0xFF]), field)
