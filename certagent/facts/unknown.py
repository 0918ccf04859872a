"""What was not observed."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Unknown(Struct, frozen=True, tag=True):
    """What was not observed, and why. Nothing irreversible is done on it."""

    why: str
    reached: bool = False
    """Of a service: it came to TLS, but showed no certificate. False where nobody was there, or it turned us away."""
    refusal: Literal["", "busy", "host"] = ""
    """Of a service that turned us away before TLS: `busy`, for now; `host`, since it does not talk to this host so."""
    answer: str = ""
    """Of a service: `why` without the service's own words, which may have a number that is new each time. "": as `why`.
    """
