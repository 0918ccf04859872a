"""A forecast for people: each wait has its own length."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from certagent.report import text
from certagent.report.views import Planned

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)


def step(after_s: float, name: str, what: str) -> Planned:
    return Planned(at=NOW + timedelta(seconds=after_s), step=name, what=what, because="it is due", wait_s=None)


def wait(after_s: float, seconds: float, why: str) -> Planned:
    return Planned(at=NOW + timedelta(seconds=after_s), step="Wait", what="", because=why, wait_s=seconds)


def test_observations_while_a_wait_goes_on_are_left_out_and_nothing_else_is() -> None:
    """A wait ends with the next step that is no observation; the one after it counts from there."""
    shown = text.timeline(
        [
            wait(0, 60, "a server is asked again"),
            step(60, "Observe", "ask every server"),
            step(60, "Install", "swap postfix"),
            wait(60, 120, "old processes"),
            step(180, "Observe", "ask every server"),
            wait(180, 180, "old processes end"),
            step(360, "Verify", "verify"),
            step(360, "Observe", "ask every server"),
            wait(360, 86400, "renewal is due"),
        ]
    )
    assert shown.splitlines() == [
        "                     … 1 min: a server is asked again",
        "2027-01-01 12:01:00  swap postfix: it is due",
        "                     … 5 min: old processes end",
        "2027-01-01 12:06:00  verify: it is due",
        "2027-01-01 12:06:00  ask every server: it is due",
        "                     … 1 d: renewal is due",
    ]
