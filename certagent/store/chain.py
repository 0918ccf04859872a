"""The digests that chain each row to the one before it, and the head to the last row.

They find damage, not forgery: a program that can write the file can also make them anew.
"""

from __future__ import annotations

import hashlib

from certagent.facts.moment import ClockId
from certagent.store.protocol import Head


def digest(previous: bytes, content: bytes) -> bytes:
    """Of some content that follows the previous digest; `b""` before the first."""
    return hashlib.blake2b(content, key=previous, digest_size=16).digest()


def row_digest(  # noqa: PLR0917 -- the columns
    previous: bytes, subject: str, seq: int, wall: str, elapsed_s: float, clock: ClockId, body: bytes
) -> bytes:
    """The digest that belongs to a row; none if a damaged file holds something else than bytes."""
    if not isinstance(body, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] -- a changed row may hold anything
        return b""
    columns = f"{subject}\n{seq}\n{wall}\n{elapsed_s!r}\n{clock.host}\n{clock.boot}\n"
    return digest(previous, columns.encode() + body)


def head_digest(last: bytes, version: int, state: bytes, again: bytes) -> bytes:
    """The digest that belongs to a head after the row of that digest. JSON has no NUL."""
    if not (isinstance(state, bytes) and isinstance(again, bytes)):  # pyright: ignore[reportUnnecessaryIsInstance]
        return b""
    return digest(last, f"{version}\n".encode() + state + b"\0" + again)


def belongs(head: Head, last: tuple[int, bytes]) -> bool:
    """Whether the head belongs to the last row."""
    return head.seq == last[0] and head.digest == head_digest(last[1], head.version, head.state, head.again)
