"""Virtual time, the faults' dice, crashes, and the journal in memory: what the rest of the simulated world stands on.

One `random.Random(seed)` decides everything, so a seed is a history. Nothing here sleeps.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from certagent.agent.certificate import CERTIFICATE
from certagent.errors import Transient
from certagent.facts.moment import ClockId, Instant, Reading
from certagent.lifecycle import events as ev
from certagent.lifecycle.fold import fold
from certagent.lifecycle.state import State
from certagent.store.journal import Journal as KeptJournal
from certagent.store.journal import Known
from certagent.testing import Memory, Shared

BASE = datetime(2026, 1, 1, tzinfo=UTC)


class Crash(BaseException):
    """The agent dies here (`kill -9`, or power off); no `except Exception` of the agent may see it."""


class Violation(BaseException):
    """The promise was broken. A BaseException, so that the agent cannot swallow it as one of its own failures."""


def nobody(*_: object) -> None:
    """Nobody is told."""


class Clock:
    """True time in seconds, the wall as this host has it, and the boots of this host (`certagent.host.clock.Clock`)."""

    def __init__(self, dice: random.Random) -> None:
        self.rng = dice
        self.t = 0.0
        self.wall_offset_s = 0.0
        self.boot_number = 1
        self.booted_at = -self.rng.uniform(0, 86400)
        self.hostile = True
        """Whether anything goes wrong any more; False in the last part of a history, where liveness is judged."""
        self.crashes_left = 0
        self.crash_chance = 0.0
        self.lines = 0
        """How many it passed."""
        self.killed_at: int | None = None
        """After so many it is killed, by plan and not by chance."""
        self.trace: list[str] | None = None
        self.shown = 0
        self.busy_until = 0.0
        """When everything that comes late by itself will have come."""
        self.stirred_at = 0.0
        """When something last happened that was begun while there were faults."""
        self._heap: list[tuple[float, int, bool, Callable[[], None]]] = []
        self._count = 0

    def note(self, text: str) -> None:
        """One line of the readable trace."""
        if self.trace is not None:
            self.trace.append(f"{self.t:14.3f}  {text}")

    def at(self, delay_s: float, act: Callable[[], None]) -> None:
        """Do something later."""
        self._count += 1
        heapq.heappush(self._heap, (self.t + delay_s, self._count, self.hostile, act))

    def busy(self, for_s: float) -> None:
        """Something is still going to change by itself."""
        self.busy_until = max(self.busy_until, self.t + for_s)

    def until(self, moment: float) -> None:
        """Let the world go on up to a moment."""
        heap = self._heap
        while heap and heap[0][0] <= moment:
            due, _, hostile, act = heapq.heappop(heap)
            self.t = max(self.t, due)
            if hostile:
                self.stirred_at = self.t
            act()
        self.t = max(self.t, moment)

    def go_on(self, seconds: float) -> None:
        """Let the world go on for a while: what a call of the agent takes."""
        if self._heap and self._heap[0][0] <= self.t + seconds:
            self.until(self.t + seconds)
        else:
            self.t += seconds

    def coming(self) -> list[tuple[float, int, bool, Callable[[], None]]]:
        """What is going to happen."""
        return self._heap

    def next_event(self) -> float | None:
        """When something is going to happen."""
        return self._heap[0][0] if self._heap else None

    def hazard(self, where: str) -> None:
        """A line at which the agent may be killed."""
        self.lines += 1
        if self.killed_at is not None and self.lines > self.killed_at:
            self.killed_at = None
            self.note(f"CRASH {where}")
            raise Crash(where)
        if self.crashes_left and self.hostile and self.rng.random() < self.crash_chance:
            self.crashes_left -= 1
            self.note(f"CRASH {where}")
            raise Crash(where)

    def chance(self, share: float) -> bool:
        """Whether a fault strikes now."""
        return self.hostile and self.rng.random() < share

    # -- certagent.host.clock.Clock

    def wall(self) -> datetime:
        """The wall clock of this host; somebody may have set it wrong."""
        return BASE + timedelta(seconds=self.t + self.wall_offset_s)

    def true_wall(self) -> datetime:
        """What everybody else's clock says."""
        return BASE + timedelta(seconds=self.t)

    def reading(self) -> Reading:
        """Which boot, and for how long."""
        return Reading(ClockId("host", str(self.boot_number)), self.t - self.booted_at)

    def reboot(self) -> None:
        """Another boot."""
        self.boot_number += 1
        self.booted_at = self.t


_EVENT = msgspec.json.Decoder(ev.AnyEvent)
_STATE = msgspec.json.Decoder(State)


class Journal:
    """`store.journal.Journal` in memory: the same fold and rule for `elapsed_s`; appending may hit a full disk."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.rows: list[tuple[ev.AnyEvent, Instant]] = []
        self.first = self.head = State(name="mail")
        self.disk_full = False
        self.seen: Callable[[ev.AnyEvent], None] = nobody
        """Told of every event that was appended; for the judge."""
        self._elapsed: tuple[Reading, float] | None = None
        self._last = (-1.0, 0.0, 0, Instant(BASE, 0.0))

    def now(self) -> Instant:
        """As `store.journal.Journal.now`."""
        clock, last = self._clock, self._last
        if (clock.t, clock.wall_offset_s, clock.boot_number) != last[:3]:
            last = self._last = (clock.t, clock.wall_offset_s, clock.boot_number, self._now())
        return last[3]

    def _now(self) -> Instant:
        reading = self._clock.reading()
        if self._elapsed is None:
            elapsed = 0.0
        elif self._elapsed[0].clock == reading.clock:
            elapsed = self._elapsed[1] + reading.since(self._elapsed[0])
        else:
            elapsed = self._elapsed[1] + reading.seconds
        return Instant(self._clock.wall(), elapsed)

    def read(self, name: str) -> Known[State]:
        """The fold of everything."""
        return Known(len(self.rows), self.head)

    def append(self, name: str, *events: ev.AnyEvent, expected: int | None = None) -> Known[State]:
        """All or nothing; the agent may be killed just before and just after."""
        clock = self._clock
        clock.go_on(0.002)
        clock.hazard("before the journal is written")
        if self.disk_full:
            raise Transient("store.disk", "no space left on device")
        now = self.now()
        state = self.head
        for event in events:
            state = fold(state, event, now)
            self.rows.append((event, now))
        self.head = state
        self._elapsed = (clock.reading(), now.elapsed_s)
        for event in events:
            self.seen(event)
        clock.hazard("after the journal is written")
        return Known(len(self.rows), state)

    def sleep(self, name: str, delay: timedelta, why: str) -> None:
        """Only a hint, never evidence."""

    def reopened(self) -> None:
        """A new process reads the file: what was written must read as it was."""
        self.head = _STATE.decode(msgspec.json.encode(self.head, order="sorted"))

    def saved(self) -> tuple[Any, ...]:
        """All of it, as a backup has it."""
        return self.first, list(self.rows), self.head, self._elapsed

    def bring_back(self, saved: tuple[Any, ...]) -> None:
        """It is as it was then."""
        self.first, rows, self.head, self._elapsed = saved
        self.rows = list(rows)
        self._last = (-1.0, 0.0, 0, Instant(BASE, 0.0))

    def verify(self) -> None:
        """Nothing that was journaled is lost: the rows as they stand in the file fold to the same state."""
        state = self.first
        for event, now in self.rows:
            state = fold(state, _EVENT.decode(msgspec.json.encode(event)), now)
        if state != self.head:
            raise Violation("the journal does not fold to the state")
        self._kept()

    def _kept(self) -> None:
        """The real journal has the same state, whatever it made rows of: what is seen again adds none."""
        hands = Hands()
        journal = KeptJournal(Memory(Shared(), hands), CERTIFICATE)
        state = self.first
        if state != State(name=state.name):
            return  # it begins in the middle of a life
        for event, now in self.rows:
            hands.now = now
            state = fold(state, event, journal.now())  # by its own count: that of a float may end otherwise
            journal.append(state.name, event)
        if journal.state(state.name) != state or journal.verify(state.name) > len(self.rows):
            raise Violation("the real journal does not keep the state")


class Hands:
    """The clocks at the moment of a row."""

    now = Instant(BASE, 0.0)

    def wall(self) -> datetime:
        """See `Clock`."""
        return self.now.wall

    def reading(self) -> Reading:
        """One clock: the count of the simulated journal."""
        return Reading(ClockId("host", "all"), self.now.elapsed_s)
