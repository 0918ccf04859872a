"""Every place of a few events in the smallest worlds: `make explore`, beside the random histories.

Wherever the agent of a world (`small.py`) stands between two of its steps or waits, each event may happen that its
world has (`occasions.py`): a crash at any line of the next step, a lost or refused change, a name server that falls
silent, stops, or goes back, and what people do. All histories with one event are told first, then all with two, and so
on. Worlds that are equal (`canonical.py`) are told once. What caches fetch is no event: the world counts every set that
any cache may hold.

The engine, the world and its judge are those of the simulation; only the dice are still: nothing happens by chance.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from typing import NamedTuple, cast

from tests.simulation.ca import NOW, cheap
from tests.simulation.clock import Crash, Violation
from tests.simulation.copies import Kept, keep
from tests.simulation.occasions import possible
from tests.simulation.small import WORLDS, Explored, Small, begun, dice

CHECKS = 2
"""Then all was verified and observed so often while nothing was due: what follows is the same again."""
GOLDEN = (5**0.5 - 1) / 2
CLEAR = 2000
"""Worlds after which what is remembered of the engine's answers is dropped."""


class Node(NamedTuple):
    """A world, what led there, and how far it goes on from there until it is quiet, or as another did."""

    kept: Kept
    path: tuple[str, ...]
    length: int = 0


class Found(NamedTuple):
    """What came of a world."""

    name: str
    states: int
    depth: int
    """All histories with so many events were told."""
    violations: list[tuple[tuple[str, ...], str]]
    took_s: float

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.states} states, every history of {self.depth} events, "
            f"{len(self.violations)} violations, in {self.took_s:.0f} s"
        )


class Exploration:
    """Of one smallest world."""

    def __init__(self, small: Small, *, states: int, until: float) -> None:
        self.small = small
        self.most = states
        self.until = until
        self.states = 0
        self.violations: list[tuple[tuple[str, ...], str]] = []
        self._seen: set[bytes] = set()
        self._dice = dice(small)

    def run(self) -> Found:
        """As far as it may go."""
        began, depth = time.monotonic(), 0
        try:
            level = [self._on(self._first())]
        except Violation as error:
            self.violations.append((("no event",), str(error)))
            level = []
        while level:
            following: list[Node] = []
            for node in level:
                following += self._along(node)
                if self._over():
                    return self._found(depth, began)
            level = following
            depth += 1
        return self._found(depth, began)

    def _over(self) -> bool:
        return self.states >= self.most or time.monotonic() > self.until or len(self.violations) > 20

    def _found(self, depth: int, began: float) -> Found:
        return Found(self.small.name, self.states, depth, self.violations, time.monotonic() - began)

    def _first(self) -> Node:
        return Node(self._kept(begun(self.small, self._dice)), ())

    def _on(self, node: Node) -> Node:
        """It goes on without an event."""
        history, last, length = self._copy(node.kept), b"", 0
        while length < self.small.after and not self._over():
            try:
                history.go()
            except Violation as error:
                self.violations.append((node.path, str(error)))
                break
            digest = history.digest_now()
            if (digest != last and not self._new(digest)) or history.quiet > CHECKS:
                break
            last, length = digest, length + 1
        return node._replace(length=length)

    def _along(self, node: Node) -> Iterator[Node]:
        """What may happen at each moment from there on, each as a node of its own, and told to its end."""
        moments, history = [node.kept], self._copy(node.kept)
        while len(moments) <= node.length:
            history.go()
            moments.append(self._kept(history))
        # not in their order, but evenly: what is cut short has something of everything
        for step in sorted(range(len(moments)), key=lambda step: step * GOLDEN % 1):
            kept = moments[step]
            for name, event in possible(self._lines(kept)):
                if self._over():
                    return
                history = self._copy(kept)
                history.quiet = 0
                path = (*node.path, f"at {step}: {name}")
                try:
                    if not event(history):
                        continue
                except Violation as error:
                    self.violations.append((path, str(error)))
                    continue
                if self._new(history.digest_now()):
                    yield self._on(Node(self._kept(history), path))

    def _new(self, digest: bytes) -> bool:
        if digest in self._seen:
            return False
        self._seen.add(digest)
        self.states += 1
        if self.states % CLEAR == 0:
            NOW.memory.delete()
        return True

    def _kept(self, history: Explored) -> Kept:
        history.world.journal.first, history.world.journal.rows = history.world.journal.head, []
        return keep(history, self._dice)

    def _lines(self, kept: Kept) -> int:
        """At how many lines of its next step the agent may be killed."""
        history = self._copy(kept)
        history.clock.lines = 0
        try:
            history.go()
        except (Violation, Crash):
            return 0
        return history.clock.lines

    def _copy(self, kept: Kept) -> Explored:
        history = cast("Explored", kept.copy(self._dice))
        NOW.clock = history.clock
        return history


def explore(*, states: int, seconds: float) -> Iterator[Found]:
    """Every smallest world in turn, each for so many seconds at most."""
    for small in WORLDS:
        yield explored(small, states, seconds)


def explored(small: Small, states: int, seconds: float) -> Found:
    """What came of one world."""
    with cheap():
        return Exploration(small, states=states, until=time.monotonic() + seconds).run()


def main(arguments: list[str]) -> int:
    """`STATES=` of each world; `TIME=` in seconds, of all, by `JOBS=` processes; `WORLD=`: its name begins so."""
    given = dict(a.split("=", 1) for a in arguments)
    jobs, states = int(given.get("JOBS") or os.cpu_count() or 1), int(given.get("STATES") or 10**9)
    worlds = [small for small in WORLDS if small.name.startswith(given.get("WORLD", ""))]
    seconds = float(given.get("TIME") or 600) * min(jobs, len(worlds)) / len(worlds)
    bad = 0
    with get_context("fork").Pool(jobs) as pool:
        for found in [pool.apply_async(explored, (small, states, seconds)) for small in worlds]:
            bad += len(found.get().violations)
            print(found.get(), flush=True)
            for path, what in found.get().violations:
                print(f"  {' > '.join(path) or 'nothing happened'}: {what}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
