"""Waiting for a condition, never for a duration."""

from __future__ import annotations

import socket
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


def nobody_listens(address: str) -> bool:
    """Whether the ports of a mail server are free there."""
    for port in (25, 465, 587):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((address, port))
            except OSError:
                return False
    return True
