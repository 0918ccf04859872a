"""Copies of a world, whole: kept as bytes, and any number of them made from that, each with dice of its own.

What is frozen (states, chains, observations, versions of a zone) is shared by all copies.
"""

from __future__ import annotations

import io
import pickle
import random
from typing import Any, NamedTuple

import msgspec

from certagent.secret import Secret
from tests.simulation.dns import RR, Author, Version
from tests.simulation.mail import Shown

FROZEN = (msgspec.Struct, frozenset, Secret, RR, Author, Version, Shown)


class Kept(NamedTuple):
    """Something at one moment: bytes, and what is not in them."""

    data: bytes
    shared: list[object]

    def copy(self, dice: random.Random) -> Any:
        """As it was, but from here on with these dice."""
        return _Reader(self, dice).load()


def keep(thing: object, dice: random.Random) -> Kept:
    """A thing with all that belongs to it, apart from its dice."""
    file = io.BytesIO()
    keeper = _Keeper(file, dice)
    keeper.dump(thing)
    return Kept(file.getvalue(), keeper.shared)


class _Keeper(pickle.Pickler):
    def __init__(self, file: io.BytesIO, dice: random.Random) -> None:
        super().__init__(file, protocol=5)
        self.dice = dice
        self.shared: list[object] = []
        self._known: dict[int, int] = {}
        self._frozen: dict[type, bool] = {random.Random: True}

    def persistent_id(self, obj: object) -> int | None:
        if obj is self.dice:
            return -1
        kind = type(obj)
        frozen = self._frozen.get(kind)
        if frozen is None:
            frozen = self._frozen[kind] = issubclass(kind, FROZEN)
        if not frozen:
            return None
        number = self._known.setdefault(id(obj), len(self.shared))
        if number == len(self.shared):
            self.shared.append(obj)
        return number


class _Reader(pickle.Unpickler):
    def __init__(self, kept: Kept, dice: random.Random) -> None:
        super().__init__(io.BytesIO(kept.data))
        self.shared = [*kept.shared, dice]

    def persistent_load(self, pid: int) -> object:
        return self.shared[pid]
