"""Waiting for a condition, never for a duration."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_BUSY = 4
"""How much slower a machine may be for a while than an idle one: only what is in vain waits longer for it."""


def until(predicate: Callable[[], T], seconds: float, what: str) -> T:
    """Asks `predicate` every 20 ms and returns its first true answer.

    TimeoutError(what) where an idle machine would have had it within `seconds` for certain.
    """
    seconds *= _BUSY
    end = time.monotonic() + seconds
    while not (answer := predicate()):
        if time.monotonic() >= end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return answer
