"""A large configuration as it was last read and checked: it is read again only after a byte of it has changed.

Reading the YAML of ten thousand certificates takes seconds, reading this copy a fraction of one. The copy is used only
if this version of certagent made it from the very bytes that the file has now. If it is missing, damaged or cannot be
written, reading takes longer, and nothing else changes.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from certagent import __version__
from certagent.errors import Error
from certagent.host import trust
from certagent.host.files import read_private

WORTH_BYTES = 64 * 1024
"""A smaller file is read within a few hundredths of a second."""
_LIMIT_BYTES = 1 << 30
"""Twice the largest configuration."""
_STATE_DIR = re.compile(rb"""(?m)^state_dir:[ \t]*["']?(/[^\s"'#]+)""")

T = TypeVar("T")


def read(text: bytes, default_dir: str, type_: type[T]) -> T | None:
    """The value that was kept for exactly this text; None if there is none."""
    if len(text) < WORTH_BYTES:
        return None
    try:
        kept = read_private(_place(text, default_dir), limit_bytes=_LIMIT_BYTES)
        digest = _digest(text)
        return msgspec.msgpack.decode(kept[len(digest) :], type=type_) if kept.startswith(digest) else None
    except (Error, msgspec.MsgspecError, ValueError):
        return None


def keep(text: bytes, default_dir: str, value: object) -> None:
    """Keep the value of this text in its state directory, if that is there."""
    if len(text) < WORTH_BYTES:
        return
    from certagent.host import replace

    with suppress(Error):
        place = _place(text, default_dir)
        trust.trusted_dir(place.parent)
        replace.write(place, _digest(text) + msgspec.msgpack.encode(value))


def _place(text: bytes, default_dir: str) -> Path:
    found = _STATE_DIR.search(text)
    return Path(found[1].decode(errors="replace") if found else default_dir) / "config.compiled"


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(__version__.encode() + b"\n" + text).digest()
