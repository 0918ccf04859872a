"""A journal in memory, read from a place where nothing can be written: SQLite itself would make an index there first.

What was committed to the log beside the file counts: an older state is never taken for the present one.

Source: the SQLite documentation, "Database File Format", section 4 (the write-ahead log).
"""

from __future__ import annotations

import os
import sqlite3
import struct
from contextlib import suppress
from pathlib import Path

_HEADER_BYTES, _FRAME_BYTES = 32, 24
"""Of the log, and of each page in it (SQLite's file format, section 4.1)."""
_MAGIC = 0x377F0682
"""With the last bit set the checksums are of numbers in big endian."""
_LIMIT_BYTES = 1 << 30
"""It is read into memory as a whole: more does not fit a small host."""


def in_memory(path: Path) -> sqlite3.Connection | None:
    """What the file and its log hold; None if they are no such files, or somebody writes them meanwhile."""
    log = path.with_name(f"{path.name}-wal")
    with suppress(OSError, ValueError, struct.error):
        before = _seen(path), _seen(log)
        content = bytearray(_read(path))
        _apply(content, _read(log))
        if (_seen(path), _seen(log)) != before or not content.startswith(b"SQLite format 3\0"):
            return None
        content[18:20] = b"\1\1"  # no log from here on, which memory has no place for
        db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        db.deserialize(bytes(content))
        db.execute("PRAGMA query_only=1")
        return db
    return None


def _apply(content: bytearray, log: bytes) -> None:
    """Writes the pages of the log into the content of the file: those of transactions that were committed."""
    if len(log) < _HEADER_BYTES:
        return
    magic, _, page_bytes, _, *salts, first, second = struct.unpack(">8I", log[:_HEADER_BYTES])
    order = ">" if magic & 1 else "<"
    check = _checksum(order, log[:24], (0, 0))
    if magic & ~1 != _MAGIC or check != (first, second):
        return
    pages: dict[int, bytes] = {}
    for start in range(_HEADER_BYTES, len(log) - _FRAME_BYTES - page_bytes + 1, _FRAME_BYTES + page_bytes):
        head, page = log[start : start + _FRAME_BYTES], log[start + _FRAME_BYTES : start + _FRAME_BYTES + page_bytes]
        number, size, *rest = struct.unpack(">6I", head)
        check = _checksum(order, page, _checksum(order, head[:8], check))
        if rest != [*salts, *check]:
            return  # it was left from a log before this one, or is torn
        pages[number] = page
        if size:
            content.extend(bytes(max(0, size * page_bytes - len(content))))
            for at, one in pages.items():
                content[(at - 1) * page_bytes : at * page_bytes] = one
            del content[size * page_bytes :]
            pages.clear()


def _checksum(order: str, data: bytes, start: tuple[int, int]) -> tuple[int, int]:
    first, second = start
    numbers = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(numbers[::2], numbers[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def _read(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as opened:
        content = opened.read(_LIMIT_BYTES)
        if opened.read(1):
            raise ValueError
        return content


def _seen(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
