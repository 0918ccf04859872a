"""Durations as the configuration has them: `1h30m`, never a bare number."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from msgspec import Meta

PATTERN = "([0-9]{1,7}[dhms]){1,9}"
"""So short that no sum of them is too long for a timedelta."""

Duration = Annotated[
    str,
    Meta(
        pattern=rf"^{PATTERN}$",
        title="a duration with its unit",
        description="such as 90d, 36h, 15m, 30s, 1h30m; a bare number is refused",
    ),
]


def duration(text: str) -> timedelta:
    """`1h30m` is 90 minutes. The pattern was checked before."""
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    return sum((timedelta(**{units[u]: int(n)}) for n, u in re.findall("([0-9]+)([dhms])", text)), timedelta())


def limit_s(text: str, most: str, *, zero: bool = False) -> float:
    """The seconds of a limit in the options of a plug-in.

    Raises:
        ValueError: It is longer than `most`, or zero where that is no limit.
    """
    value = duration(text)
    if value > duration(most):
        raise ValueError(f"{text} is more than {most}")
    if not (value or zero):
        raise ValueError(f"{text} is no time")
    return value.total_seconds()
