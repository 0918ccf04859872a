"""When a CA wants to be asked again: seconds or a date, and anything else that stands there."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from certagent.acme.transport import RETRY_AFTER_MAX_S
from certagent.facts.retryafter import retry_after_s

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("1" + "0" * 400, RETRY_AFTER_MAX_S),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("٣", None),
        ("²", None),
        ("", None),
        ("Mon, 30 Nov 2026 12:00:30 GMT", 30.0),
        ("Monday, 30-Nov-26 12:00:30 GMT", 30.0),
        ("Mon Nov 30 12:00:30 2026", 30.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_MAX_S),
        ("Fri, 31 Dec 10000 23:59:59 GMT", None),
        ("Thu, 31 Feb 2027 00:00:00 GMT", None),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999999999", None),
        ("0 Jan 2:3333333333\x1f3.0", None),
    ],
)
def test_seconds_and_dates_of_any_century(value: str, seconds: float | None) -> None:
    """RFC 9110 sections 10.2.3 and 5.6.7."""
    assert retry_after_s(value, NOW, RETRY_AFTER_MAX_S) == seconds
