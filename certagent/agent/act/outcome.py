"""What an act leaves behind: events that are journaled, and failures made into events."""

from __future__ import annotations

import random
from collections.abc import Callable

from certagent.errors import Error, Unsafe
from certagent.lifecycle import events as ev
from certagent.lifecycle.lane import Lane

Note = Callable[[ev.AnyEvent], object]
"""Journals an event at once."""


def gate(against: str | None) -> None:
    """Refuse the act if there is a reason against it.

    Raises:
        Unsafe: `dane.gate`.
    """
    if against:
        raise Unsafe("dane.gate", against, "certagent status shows what the servers answer and what is served")


def failed(error: Error, lane: Lane) -> ev.Failed:
    """The event of an error; the jitter of its retry is drawn here, once."""
    return ev.Failed(
        lane=lane,
        kind=error.kind,
        code=error.code,
        detail=error.detail,
        hint=error.hint,
        retry_after_s=error.retry_after_s,
        concerns=error.concerns,
        quick=error.quick,
        jitter=random.random(),  # noqa: S311 -- spreads load, protects nothing
    )
