"""A store in memory, for tests and rehearsals. It passes `store_suite`, as every store does."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from certagent.errors import Misconfigured, Transient
from certagent.facts.moment import ClockId, Instant, Reading
from certagent.host.clock import Clock
from certagent.store.protocol import LONGEST, Found, Head, Row, Wake


class Shared:
    """What several stores have in common, as processes have a file."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {}
        self.heads: dict[str, Head] = {}
        self.hints: dict[str, tuple[datetime, float, str]] = {}
        self.elapsed: dict[ClockId, tuple[Reading, float]] = {}
        self.token = 0
        self.lease: tuple[Reading, float, str] | None = None
        """The last sign of life of the writer, for how long after it, what for."""
        self.mutex = threading.RLock()


class Memory:
    """See `Store`."""

    def __init__(self, shared: Shared, clock: Clock) -> None:
        self._shared = shared
        self._source = clock
        self._token = -1
        self._other: tuple[Reading, Reading] | None = None
        """The last sign of life of another host's writer, and when it was first read here."""
        shared.elapsed = shared.elapsed or {self.clock: (clock.reading(), 0.0)}

    @property
    def clock(self) -> ClockId:
        """See `Store`."""
        return self._source.reading().clock

    def now(self) -> Instant:
        """See `Store`."""
        reading, elapsed = self._source.reading(), self._shared.elapsed
        with self._shared.mutex:
            if reading.clock not in elapsed:
                elapsed[reading.clock] = reading, max(elapsed_s for _, elapsed_s in elapsed.values())
            then, elapsed_s = elapsed[reading.clock]
        return Instant(self._source.wall(), elapsed_s + reading.since(then))

    def damaged(self, detail: str) -> Misconfigured:
        """See `Store`."""
        return Misconfigured("journal.damaged", f"memory: {detail}", "begin again")

    def subjects(self) -> list[str]:
        """See `Store`."""
        return sorted(self._shared.heads)

    def heads(self, subjects: Sequence[str]) -> list[Found]:
        """See `Store`."""
        with self._shared.mutex:
            return [self._found(subject) for subject in subjects]

    def read(self, subject: str, after: int) -> tuple[list[Row], Found]:
        """See `Store`."""
        with self._shared.mutex:
            return self._shared.rows.get(subject, [])[max(after - 1, 0) :], self._found(subject)

    def _found(self, subject: str) -> Found:
        rows = self._shared.rows.get(subject)
        return Found(self._shared.heads.get(subject), (rows[-1].seq, rows[-1].digest) if rows else None)

    def append(self, subject: str, expected: int, rows: Sequence[Row], head: Head) -> None:
        """See `Store`."""
        with self._shared.mutex:
            if self._token < 0:
                self.lease("an append", 10.0)
            if self._token != self._shared.token:
                self._token = -1
                raise Transient("lease.lost", "memory: another writer took over", "it is tried again")
            there = self._shared.rows.setdefault(subject, [])
            if len(there) != expected:
                raise Transient("journal.conflict", f"{subject}: not after event {expected}", "read it again")
            now, reading = self.now(), self._source.reading()
            there.extend(rows)
            self._shared.heads[subject] = head
            self._shared.hints.pop(subject, None)
            self._shared.elapsed = {reading.clock: (reading, now.elapsed_s)}
            if self._shared.lease:
                self._shared.lease = reading, *self._shared.lease[1:]

    def lease(self, purpose: str, seconds: float, *, alone: bool = False) -> None:
        """See `Store`."""
        with self._shared.mutex:
            reading = self._source.reading()
            if self._token != self._shared.token:
                if self._shared.lease and not self._over(*self._shared.lease[:2], reading, alone=alone):
                    raise Transient("lock.busy", f"certagent is at work: {self._shared.lease[2]}", "wait for it")
                self._shared.token += 1
            self._token, self._shared.lease = self._shared.token, (reading, seconds, purpose)

    def _over(self, sign: Reading, seconds: float, reading: Reading, *, alone: bool) -> bool:
        if sign.clock.host == reading.clock.host:
            return alone or sign.clock != reading.clock or reading.since(sign) >= seconds
        if self._other is None or self._other[0] != sign:
            self._other = sign, reading
        return reading.since(self._other[1]) >= seconds

    def release(self) -> None:
        """See `Store`."""
        with self._shared.mutex:
            if self._token == self._shared.token:
                self._shared.lease = None
            self._token = -1

    def sleep(self, subject: str, delay: timedelta, why: str) -> None:
        """See `Store`."""
        with self._shared.mutex:
            now, delay = self.now(), min(delay, LONGEST)
            if subject in self._shared.heads:
                self._shared.hints[subject] = now.wall + delay, now.elapsed_s + delay.total_seconds(), why

    def wakes(self) -> dict[str, Wake]:
        """See `Store`."""
        with self._shared.mutex:
            now = self.now()
            hints = dict(self._shared.hints)
        return {name: Wake(now.wall + _left(at, s, now), why) for name, (at, s, why) in hints.items()}

    def due(self) -> tuple[list[str], timedelta | None]:
        """See `Store`."""
        with self._shared.mutex:
            now = self.now()
            left = {name: _left(at, s, now) for name, (at, s, _) in self._shared.hints.items()}
            later = {name: delay for name, delay in left.items() if delay > timedelta(0)}
            return [name for name in self.subjects() if name not in later], min(later.values(), default=None)

    def close(self) -> None:
        """See `Store`."""
        self.release()


def _left(at: datetime, elapsed_s: float, now: Instant) -> timedelta:
    """By the clock that comes first."""
    return min(at - now.wall, timedelta(seconds=elapsed_s - now.elapsed_s))
