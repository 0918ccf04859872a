"""One-time passwords by time (RFC 6238) with its defaults: HMAC-SHA-1, six digits, another one every 30 s."""

from __future__ import annotations

import base64
import hmac

PERIOD_S = 30
"""RFC 6238 section 4.1: the default of X."""


def key(text: str) -> bytes:
    """The key in base32 (RFC 4648 section 6), as services show it: also in groups, in lower case, without padding.

    Raises:
        ValueError: It is none.
    """
    plain = "".join(text.upper().split()).rstrip("=")
    found = base64.b32decode(plain + "=" * (-len(plain) % 8))
    if not found:
        raise ValueError("an empty key")
    return found


def code(key: bytes, period: int) -> str:
    """The code of that period since 1970 (RFC 4226 section 5.3)."""
    digest = hmac.digest(key, period.to_bytes(8), "sha1")
    at = digest[-1] & 15
    number = int.from_bytes(digest[at : at + 4]) & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"
