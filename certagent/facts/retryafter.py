"""When a server wants to be asked again: Retry-After (RFC 9110 section 10.2.3)."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

HTTP_DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
"""RFC 9110 section 5.6.7."""


def retry_after_s(value: str, now: datetime, most_s: float) -> float | None:
    """Seconds or a date, as seconds from 0 to `most_s`; None if it is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), most_s)
    for form in HTTP_DATES:
        with suppress(ValueError):
            seconds = (datetime.strptime(value, form).replace(tzinfo=UTC) - now).total_seconds()
            return min(max(seconds, 0.0), most_s)
    return None
