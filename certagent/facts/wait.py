"""A plan to do nothing for a while."""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct


class Wait(Struct, frozen=True, tag=True):
    """Nothing to do for `delay`, and why. No wait is for ever: something is always due some day."""

    delay: timedelta
    because: str
