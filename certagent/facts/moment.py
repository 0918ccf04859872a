"""A moment: what the wall clock says, and how much time has surely passed."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct


class ClockId(Struct, frozen=True):
    """Which clock: one boot of one host. Two of them have nothing in common."""

    host: str
    boot: str


class Reading(Struct, frozen=True):
    """What a clock that never jumps said: the seconds since its boot, time asleep included."""

    clock: ClockId
    seconds: float

    def since(self, earlier: Reading) -> float:
        """The seconds that have surely passed. Differences exist only within one clock: across two, none."""
        return max(0.0, self.seconds - earlier.seconds) if self.clock == earlier.clock else 0.0


class Instant(Struct, frozen=True):
    """A moment by two measures. `wall` is for people, certificates and CAs; it may jump.

    `elapsed_s` is the count of the journal: seconds that have surely passed since it began. The journal carries the
    count from one clock to the next by `Reading.since`, so that what lies between two clocks counts for nothing. Every
    wait that protects a sender is measured in it. No clock step, suspension, reboot or change of host makes one
    shorter.
    """

    wall: datetime
    elapsed_s: float

    def since(self, earlier: Instant) -> timedelta:
        """The time that has surely passed between the two."""
        return timedelta(0, self.elapsed_s - earlier.elapsed_s)
