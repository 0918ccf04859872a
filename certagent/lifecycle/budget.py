"""How many writes a DNS provider takes in a day, and what may use the last of them.

Every write is counted before it is made (`events.Writing`). So a crash, a lost answer or a loop of both never makes
more than the provider takes; the count may only be too high. A fifth of the day's writes is kept for what protects mail
that is delivered now: the record of a key that is served, where it is missing; and a certificate that is about to
expire, or whose key is compromised. All else can wait without harm, also a removal: a record too many breaks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from msgspec import Struct
from msgspec.structs import replace

from certagent.facts.moment import Instant

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
KEPT = 5
"""One in so many writes is kept for what is urgent."""


class Written(Struct, frozen=True):
    """Writes that were begun within an hour: they count until a day after the last of them."""

    first: Instant
    last: Instant
    count: int


class ZoneBudget(Struct, frozen=True):
    """The writes of a day to one zone."""

    zone: str
    per_day: int
    """How many the provider takes."""
    written: tuple[Written, ...] = ()

    def counted(self, now: Instant) -> tuple[Written, ...]:
        """Those that count now, the oldest first."""
        return tuple(one for one in self.written if now.since(one.last) < DAY)

    def used(self, now: Instant) -> int:
        """How many writes count now."""
        return sum(one.count for one in self.counted(now))

    def limit(self, *, urgent: bool) -> int:
        """How many may count before one more waits."""
        return self.per_day if urgent else self.per_day - self.per_day // KEPT

    def left(self, now: Instant, *, urgent: bool) -> timedelta:
        """How long until one more may be made; zero: now."""
        more = self.used(now) + 1 - self.limit(urgent=urgent)
        wait = timedelta(0)
        for one in self.counted(now):
            if more <= 0:
                break
            more, wait = more - one.count, DAY - now.since(one.last)
        return wait


def noted(budgets: tuple[ZoneBudget, ...], zone: str, per_day: int, now: Instant) -> tuple[ZoneBudget, ...]:
    """One more write; what does not count any more is left out."""
    old = next((one for one in budgets if one.zone == zone), ZoneBudget(zone, per_day))
    *before, last = old.counted(now) or (Written(now, now, 0),)
    if now.since(last.first) >= HOUR:
        before, last = [*before, last], Written(now, now, 0)
    new = ZoneBudget(zone, per_day, (*before, replace(last, last=now, count=last.count + 1)))
    others = (one for one in budgets if one.zone != zone)
    return (*(one for one in others if one.counted(now)), new)


def together(budgets: Iterable[ZoneBudget], zone: str, per_day: int) -> ZoneBudget:
    """The budget of a zone that several certificates write."""
    every = [one for budget in budgets if budget.zone == zone for one in budget.written]
    return ZoneBudget(zone, per_day, tuple(sorted(every, key=lambda one: one.last.elapsed_s)))
