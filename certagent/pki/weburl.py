"""URLs that a CA gives: only such as can be asked, journaled and printed as they are.

Standards: RFC 3986 section 2 (its characters), RFC 8555 section 6.1 (nothing but https).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from certagent.errors import printable

MAX_CHARS = 2048
"""Of a CA's URLs the longest have some hundred characters."""

_MAX_PLACE_CHARS = 300
"""A few lines of a terminal."""


def is_https(url: str) -> bool:
    """Whether it is an https URL of visible ASCII, with a host that DNS could have and without a user's name."""
    if len(url) > MAX_CHARS or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    labels = all(0 < len(label) <= 63 for label in host.removesuffix(".").split("."))
    named = labels or ":" in host
    return parts.scheme == "https" and named and "@" not in parts.netloc and port != 0


def place(url: str) -> str:
    """Host and path, for a message: no user's name, no query, nothing that cannot be printed."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return repr(printable(url[:_MAX_PLACE_CHARS]))
    return printable(parts.netloc.rpartition("@")[2] + parts.path)[:_MAX_PLACE_CHARS]
