"""Inputs that nobody wrote: sound ones, changed at random. The same seed gives the same."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

ODD = (
    *(
        b"\0",
        b"\xff",
        b"\x1b]0;x\x07",
        b"\r\n",
        b"\n",
        b" ",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"<",
        b"%",
        b"=",
        b":",
        b"/*",
    ),
    *(b"-----BEGIN A-----", b"\xc2\xb2", b"\xd9\xa3", b"\xe2\x80\xae", b"\xed\xa0\x80", b"9" * 400, b"-1", b"1e999"),
    *(b"NaN", b"null", b"true", b"0x1", b"99999999999999999999", b"9999-12-31", b"..", b"*", b"!!int ", b"&a *a"),
)
LONGEST = 1 << 16


def mutated(random: Random, starts: Sequence[bytes]) -> bytes:
    """One of them after one to eight changes."""
    data = random.choice(starts)
    for _ in range(random.randint(1, 8)):
        at, to = sorted(random.randint(0, len(data)) for _ in range(2))
        to = min(to, at + 64)
        piece = data[at:to]
        match random.randrange(7):
            case 0:
                data = data[:at] + data[to:]
            case 1:
                data = data[:at] + random.choice(ODD) + data[at:]
            case 2:
                data = data[:at] + random.choice(ODD) + data[to:]
            case 3:
                data = data[:at] + piece * random.choice((2, 3, 100, 1000)) + data[to:]
            case 4:
                data = data[:at] + random.randbytes(len(piece)) + data[to:]
            case 5:
                other = random.choice(starts)
                data = data[:at] + other[random.randint(0, len(other)) :]
            case _:
                flipped = bytes([data[at] ^ 1 << random.randrange(8)]) if at < len(data) else b""
                data = data[:at] + flipped + data[at + 1 :]
    return data[:LONGEST]
