"""Histories in trees: one is told to its end, and at some of its moments others branch off.

A branch has the past of the trunk up to there, and a little future of its own: another fault, another request, another
crash. It costs a tenth of a whole history, and asks what most matters at a moment: what if, just now, something else
had happened. `SEED` numbers all: of the `TREE` histories from a multiple of it on, the first is the trunk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import cast

from tests.simulation.ca import Dice
from tests.simulation.clock import Crash, Violation, nobody
from tests.simulation.converged import WORLDS, converged
from tests.simulation.copies import Kept, keep
from tests.simulation.history import SHAPES, Done, History, Outcome
from tests.simulation.world import World

TREE = 32
"""A third of the time goes into the trunk, the rest into the others."""


_KINDS, _SHARES = range(len(SHAPES)), [shape.share for shape in SHAPES]


def shape_drawn(rng: random.Random) -> int:
    """Which of `SHAPES`; the first thing that is drawn."""
    return rng.choices(_KINDS, _SHARES)[0]


def of_each_shape(start: int) -> Iterator[int]:
    """Numbers of trees from that one on, without end: one of each shape in turn, so that seldom ones come as often."""

    def numbers(kind: int) -> Iterator[int]:
        return (n for n in count(start) if shape_drawn(random.Random(n * TREE)) == kind)

    for each in zip(*map(numbers, _KINDS), strict=True):
        yield from each


class Trunk:
    """The first history of a tree; it keeps some of its moments."""

    def __init__(self, number: int, dice: Dice, *, tracing: bool) -> None:
        self.seed = number * TREE
        self.dice = dice
        self.kept: list[tuple[Kept, int]] = []
        """Moments, with the lines of the trace up to there."""
        self._tracing = tracing
        self._next = 0
        self._pick = random.Random(f"tree {number}")
        self.outcome = self._grow()

    def _grow(self) -> Outcome:
        rng = random.Random(self.seed)
        shape = SHAPES[shape_drawn(rng)]
        number = rng.randrange(WORLDS)
        try:
            world = converged(number, rng) if shape.converged else World(rng)
        except Violation as error:  # no fault was needed
            return Outcome(self.seed, str(error), Done(), [])
        self.dice.begin(world.clock)  # only now: a converged world may have been made just before
        if self._tracing:
            where = f"converged world {number}" if shape.converged else "the first observation"
            world.clock.trace = [f"begins with {where}"]
        self.history = History(world, shape)
        self.history.passing = self._passing
        return told(self.history, self.seed, self.history.run)

    def _passing(self) -> None:
        # at first often, later seldom: a long history is not only its beginning
        history = self.history
        if history.world.steps < self._next:
            return
        self._next = history.world.steps + self._pick.randint(1, 2 << len(self.kept))
        clock, journal = history.clock, history.world.journal
        aside = history.passing, clock.trace, journal.first, journal.rows
        history.passing, clock.trace, journal.first, journal.rows = nobody, None, journal.head, []
        self.kept.append((keep(history, history.world.rng), len(aside[1] or ())))
        history.passing, clock.trace, journal.first, journal.rows = aside

    def branch(self, number: int) -> Outcome:
        """One that branches off."""
        seed = self.seed + number
        rng = random.Random(seed)
        kept, lines = self.kept[number % len(self.kept)]
        history = cast("History", kept.copy(rng))
        self.dice.clock = history.clock
        if self._tracing:
            history.clock.trace = [*self.outcome.trace[:lines], "branches off"]

        def run() -> None:
            history.swerve()
            history.hostile()

        return told(history, seed, run)


def told(history: History, seed: int, run: Callable[[], None]) -> Outcome:
    """How it ends."""
    try:
        run()
    except (Violation, Crash) as error:  # a crash outside the agent's turn is a mistake of the simulation itself
        if history.clock.trace is not None:
            history.explain()
        return history.outcome(seed, str(error))
    return history.outcome(seed, None)


def grown(number: int, dice: Dice) -> Iterator[Outcome]:
    """All histories of a tree, within `cheap() as dice`."""
    trunk = Trunk(number, dice, tracing=False)
    yield trunk.outcome
    if trunk.kept:
        yield from map(trunk.branch, range(1, TREE))


def run(seed: int, dice: Dice, *, tracing: bool = False) -> Outcome:
    """One history from its seed, within `cheap() as dice`."""
    number, branch = divmod(seed, TREE)
    trunk = Trunk(number, dice, tracing=tracing)
    return trunk.branch(branch) if branch else trunk.outcome
