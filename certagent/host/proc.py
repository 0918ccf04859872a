"""The one reader of /proc: each path below it is made here, and each reading has a limit.

A process may end while it is read, and may hide what it does: see `processes`.

Source: proc(5).
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path("/proc")
"""Tests put another directory in its place."""


def read(name: str, limit_bytes: int) -> bytes:
    """The first bytes of a file in /proc, such as `self/mountinfo` or `sys/kernel/random/boot_id`.

    Raises:
        OSError: There is none, the process has ended, or it may not be inspected.
    """
    with (ROOT / name).open("rb") as opened:
        return opened.read(limit_bytes)


def link(name: str) -> str:
    """Where a link in /proc leads, such as `1/exe`.

    Raises:
        OSError: As `read`.
    """
    return os.readlink(ROOT / name)


def names(directory: str = "") -> list[str]:
    """What is in a directory of /proc, such as `1/fd`.

    Raises:
        OSError: As `read`.
    """
    return os.listdir(ROOT / directory)


def of_descriptor(fd: int) -> Path:
    """A path by which this process opens the file of one of its descriptors again, also of one of O_PATH."""
    return ROOT / "self" / "fd" / str(fd)
