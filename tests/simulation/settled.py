"""Worlds in which all is well so far: certificate served, records published, everything proven; in every other one a
roll of the keys is under way. Most histories begin in one.

Each is made by the real engine, from the first look on, in a world without faults; then it is kept as bytes, and a
history begins in a copy of its own. What is frozen (states, chains, sightings) is shared by all copies.
"""

from __future__ import annotations

import io
import pickle
import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import msgspec

from certagent.lifecycle import events as ev
from certagent.secret import Secret

if TYPE_CHECKING:
    from tests.world import World

WORLDS = 400
"""How many there are: as many configurations, at different moments in the life of their certificates."""
ROLL = 24
"""Steps of a roll and of the looks while it waits: somewhere among these it is left."""
FROZEN = (msgspec.Struct, frozenset, Secret)


class _Keeper(pickle.Pickler):
    """Leaves out what all copies share, and the dice, which each history has of its own."""

    def __init__(self, file: io.BytesIO, dice: random.Random) -> None:
        super().__init__(file, protocol=5)
        self.dice = dice
        self.shared: list[object] = []
        self._known: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        if obj is self.dice:
            return -1
        if not isinstance(obj, FROZEN):
            return None
        number = self._known.setdefault(id(cast("object", obj)), len(self.shared))
        if number == len(self.shared):
            self.shared.append(cast("object", obj))
        return number


class _Reader(pickle.Unpickler):
    def __init__(self, kept: bytes, shared: list[object], dice: random.Random) -> None:
        super().__init__(io.BytesIO(kept))
        self.shared = [*shared, dice]

    def persistent_load(self, pid: int) -> object:
        return self.shared[pid]


def keep(world: World) -> tuple[bytes, list[object]]:
    """The world as bytes, and what is not in them."""
    file = io.BytesIO()
    keeper = _Keeper(file, world.rng)
    keeper.dump(world)
    return file.getvalue(), keeper.shared


@lru_cache(WORLDS)
def made(number: int) -> tuple[bytes, list[object]]:
    """Made once in a process, when it is first asked for."""
    from tests.simulation.ca import NOW
    from tests.simulation.history import History
    from tests.world import World

    dice = random.Random(f"settled {number}")
    world = World(dice)
    NOW.begin(world.clock)
    history = History(world)
    history.peace()
    history.until_settled("in a world without faults")
    for _ in range(dice.choice((0, 0, 1, 3, 10, 30))):
        history.turn_and_sleep()
    history.until_settled("later")
    if number % 2:
        world.journal.append("mail", ev.Requested(what="rotate"))
        history.halt = world.steps + dice.randrange(1, ROLL)
        while world.steps < history.halt:
            history.turn_and_sleep()
    world.journal.verify()
    world.journal.first, world.journal.rows = world.journal.head, []
    world.clock.hostile = True
    return keep(world)


def prepare() -> None:
    """Make them all now."""
    for number in range(WORLDS):
        made(number)


def settled(number: int, dice: random.Random) -> World:
    """One of them, from now on with these dice."""
    return _Reader(*made(number), dice).load()
