"""The clock as certagent needs it: the wall for people and certificates, and how long this boot has lasted.

Nothing else in the package reads a clock. Tests and the simulated world hand in their own.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Where time comes from."""

    def wall(self) -> datetime:
        """The present moment, aware UTC; may jump when somebody sets the clock."""
        ...

    def boot(self) -> tuple[str, float]:
        """Which boot this is, and the seconds since it began, time asleep included; never jumps."""
        ...


class SystemClock:
    """The clocks of the kernel (clock_gettime(2): CLOCK_REALTIME, CLOCK_BOOTTIME)."""

    def wall(self) -> datetime:
        """See `Clock`."""
        return datetime.now(UTC)

    def boot(self) -> tuple[str, float]:
        """See `Clock`."""
        return BOOT_ID.read_text().strip(), time.clock_gettime(time.CLOCK_BOOTTIME)
