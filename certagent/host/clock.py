"""The clocks of this host: the wall for people and certificates, and one that never jumps.

Nothing else in the package reads a clock. Tests and the simulated world bring their own.
"""

from __future__ import annotations

import hashlib
import os
import time
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol

from certagent.facts.moment import ClockId, Reading
from certagent.host import proc

MACHINE_ID = Path("/etc/machine-id")

_BOOT_ID_BYTES = 64
"""A UUID and a line end, random(4)."""


class Clock(Protocol):
    """Where time comes from."""

    def wall(self) -> datetime:
        """The present moment, aware UTC; may jump when somebody sets the clock."""
        ...

    def reading(self) -> Reading:
        """The seconds since this boot began, time asleep included; never jumps."""
        ...


class SystemClock:
    """The clocks of the kernel (clock_gettime(2): CLOCK_REALTIME, CLOCK_BOOTTIME)."""

    def wall(self) -> datetime:
        """See `Clock`."""
        return datetime.now(UTC)

    def reading(self) -> Reading:
        """See `Clock`."""
        return Reading(self._id, time.clock_gettime(time.CLOCK_BOOTTIME))

    @cached_property
    def _id(self) -> ClockId:
        boot_id = proc.read("sys/kernel/random/boot_id", _BOOT_ID_BYTES).decode().strip()
        return ClockId(host_id(), boot_id)  # a process never outlives its boot


def host_id() -> str:
    """A name of this host that outlives boots and changes of the host name: twelve hexadecimal digits.

    The machine id itself is not to be shown (machine-id(5)), so this is a digest of it. A host without one, as some
    containers are, goes by its node name.
    """
    try:
        text = MACHINE_ID.read_text().strip()
    except OSError:
        text = ""
    return hashlib.blake2b((text or os.uname().nodename).encode(), key=b"certagent", digest_size=6).hexdigest()
