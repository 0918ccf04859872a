"""ACME Renewal Information: which certificate is meant, and what the CA answered. Pure; the request is `acme.py`'s.

The time within the window is not drawn here: the caller that draws it must keep it (RFC 9773 section 4.2).

Standards: RFC 9773.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated

import msgspec
from cryptography import x509
from msgspec import Struct

from certagent.acme.issuer import Window
from certagent.pki.weburl import is_https

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 60.0, 86400.0
"""RFC 9773 section 4.3.2: Retry-After is what the CA wants, limits are the client's. Below a minute is a burden for the
CA, above a day a revocation would be noticed too late.
"""
RETRY_AFTER_DEFAULT_S = 21600.0
"""If the CA says nothing: six hours (RFC 9773 section 4.3.3)."""

Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class _SuggestedWindow(Struct):
    start: Instant
    end: Instant


class _RenewalInfo(Struct, rename="camel"):
    """RFC 9773 section 4.2."""

    suggested_window: _SuggestedWindow
    explanation_url: str | None = msgspec.field(default=None, name="explanationURL")


def certificate_id(leaf: x509.Certificate) -> str | None:
    """A certificate's name in ARI and `replaces` (RFC 9773 section 4.1); None if it has no key identifier, or a
    negative serial number.
    """
    try:
        issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, ValueError):
        return None
    number = leaf.serial_number
    if issuer is None or number < 0:
        return None
    # The content bytes of the DER INTEGER: one more bit than the number has, for the sign.
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return f"{_base64url(issuer)}.{_base64url(serial)}"


def window(body: bytes, retry_after_s: float | None) -> Window:
    """The CA's answer as a value; ValueError if it is none, an empty window included (RFC 9773 section 4.2)."""
    info = msgspec.json.decode(body, type=_RenewalInfo)  # its errors are ValueErrors
    suggested = info.suggested_window
    if suggested.end <= suggested.start:
        raise ValueError("the suggested window ends before it starts")
    asked = RETRY_AFTER_DEFAULT_S if retry_after_s is None else retry_after_s
    clamped = min(max(asked, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)
    page = info.explanation_url
    return Window(suggested.start, suggested.end, page if page and is_https(page) else None, clamped)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
