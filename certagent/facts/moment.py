"""A moment: what the wall says, and how much time has surely passed."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct


class Instant(Struct, frozen=True):
    """A moment, told twice. `wall` is for people, certificates and CAs; it may jump.

    `elapsed_s` counts only seconds this host has surely lived through since the journal began (CLOCK_BOOTTIME within a
    boot, nothing for the gap between two boots). Every wait that protects a sender is measured in it, so that no
    clock step, suspension or reboot can make a wait shorter than it is.
    """

    wall: datetime
    elapsed_s: float

    def since(self, earlier: Instant) -> timedelta:
        """The time surely lived through between the two."""
        return timedelta(0, self.elapsed_s - earlier.elapsed_s)
