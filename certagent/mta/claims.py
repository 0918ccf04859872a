"""Which file a path means: two mail servers that write one file would go around each other's gates.

A file is known by the directory it stands in (device, inode) and its name there, and by its own inode while it exists.
So spellings (`//`, `/x/../`), symlinks, bind mounts and hard links are seen through, also for a file that comes later.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from msgspec import Struct

Holder = TypeVar("Holder")

Identity = tuple[int, int] | str
"""Of a file: its device and inode; the path of one that is not there."""


class Claim(Struct, frozen=True):
    """A file that a mail server writes."""

    path: str
    """Absolute; symlinks in it are followed to find the file that is meant."""
    entry: str = ""
    """The one part of the file that is written, such as a name in a table of SNI; "": the whole file."""
    written: bool = True
    """False: nothing is written. It is what this server alone may serve: two that want it would undo each other."""


def clashes(claims: Iterable[tuple[Holder, Claim]]) -> Iterator[tuple[tuple[Holder, Claim], tuple[Holder, Claim]]]:
    """Every claim that is for the same file, or the same part of it, as an earlier one; with the earlier one first."""
    taken: dict[Hashable, dict[str, tuple[Holder, Claim]]] = {}
    directories: dict[str, tuple[str, _Directory]] = {}
    for holder, claim in claims:
        for identity in _identities(claim.path, directories):
            parts = taken.setdefault(identity, {})
            whole_file = next(iter(parts.values()), None) if not claim.entry else parts.get("")
            if earlier := parts.get(claim.entry) or whole_file:
                yield earlier, (holder, claim)
                break
            parts[claim.entry] = holder, claim


def for_all(config: str, kinds: Iterable[str]) -> tuple[Claim, ...]:
    """That a server's certificates of these algorithms are those of all its clients, as its configuration has them."""
    return tuple(Claim(config, f"the {kind} certificate of all clients", written=False) for kind in kinds)


def identity(path: str) -> Identity:
    """Which file it is now, whatever it is called."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.normpath(path)
    return status.st_dev, status.st_ino


class _Directory(NamedTuple):
    """The nearest directory that is there, and what follows on the way to a file."""

    device: int
    inode: int
    below: str


def _identities(path: str, directories: dict[str, tuple[str, _Directory]]) -> list[Hashable]:
    """What the file is known by. `directories`: those that were read, for thousands of files share one."""
    if os.path.islink(path):
        path = os.path.realpath(path)
    parent, name = os.path.split(path)
    if parent not in directories:
        real = os.path.realpath(parent)
        directories[parent] = real, _directory(real)
    real, directory = directories[parent]
    found: list[Hashable] = [(directory, name)]
    try:
        status = os.stat(os.path.join(real, name))
    except OSError:  # not there yet, or not to be seen: its place is all that is known
        return found
    return [*found, (status.st_dev, status.st_ino)]


def _directory(path: str) -> _Directory:
    below = ""
    while True:
        try:
            status = os.stat(path)
        except OSError:
            if path == os.path.dirname(path):
                return _Directory(0, 0, below)
            path, name = os.path.split(path)
            below = os.path.join(name, below)
        else:
            return _Directory(status.st_dev, status.st_ino, below)
