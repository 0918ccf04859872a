"""Worlds in which all is well so far: certificate served, records published, everything proven; in every other one a
roll of the keys is under way. Most histories begin in one.

Each is made by the real engine, from the first observation on, in a world without faults; a history begins in a
copy of it.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import TYPE_CHECKING

from certagent.lifecycle import events as ev
from tests.simulation.copies import Kept, keep

if TYPE_CHECKING:
    from tests.simulation.world import World

WORLDS = 400
"""How many there are: as many configurations, at different moments in the life of their certificates."""
ROLL = 24
"""Steps of a roll and of the observations while it waits: somewhere among these it is left."""


@lru_cache(WORLDS)
def made(number: int) -> Kept:
    """Made once in a process, when it is first asked for."""
    from tests.simulation.ca import NOW
    from tests.simulation.history import History
    from tests.simulation.world import World

    dice = random.Random(f"converged {number}")
    world = World(dice)
    NOW.begin(world.clock)
    history = History(world)
    history.peace()
    history.until_converged("in a world without faults")
    for _ in range(dice.choice((0, 0, 1, 3, 10, 30))):
        history.turn_and_sleep()
    history.until_converged("later")
    if number % 2:
        world.journal.append("mail", ev.Requested(what="rotate"))
        history.halt = world.steps + dice.randrange(1, ROLL)
        while world.steps < history.halt:
            history.turn_and_sleep()
    world.journal.verify()
    world.journal.first, world.journal.rows = world.journal.head, []
    world.clock.hostile = True
    return keep(world, dice)


def prepare() -> None:
    """Make them all now."""
    for number in range(WORLDS):
        made(number)


def converged(number: int, dice: random.Random) -> World:
    """One of them, from now on with these dice."""
    return made(number).copy(dice)
