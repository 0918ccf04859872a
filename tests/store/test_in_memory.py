"""A journal and its log read where nothing can be written: the same as SQLite reads, or nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from certagent.lifecycle import events as ev
from certagent.store import dbfile, unwritable
from certagent.store.unwritable import in_memory
from tests.store.opened import opened

BIG = "x" * 3000
HEADER, FRAME, PAGE = 32, 24, 4096


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Path]:
    """A file whose log was left by a killed process: three transactions, the last of which took pages away."""
    live, path = tmp_path / "live.db", tmp_path / "left.db"
    db = sqlite3.connect(live, isolation_level=None)
    db.execute("PRAGMA auto_vacuum=FULL")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE t (n INTEGER, word TEXT)")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for number in range(9):
        db.execute("INSERT INTO t VALUES (?, ?)", (number, BIG))
    db.execute("DELETE FROM t WHERE n > 2")
    for end in ("", "-wal"):
        shutil.copy(f"{live}{end}", f"{path}{end}")
    yield path
    db.close()


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def numbers(path: Path) -> list[int] | None:
    db = in_memory(path)
    if db is None:
        return None
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    found = [number for (number,) in db.execute("SELECT n FROM t ORDER BY n")]
    db.close()
    return found


def test_what_was_committed_to_the_log_counts(left: Path) -> None:
    assert numbers(left) == [0, 1, 2]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        (in_memory(left) or sqlite3.connect(":memory:")).execute("DELETE FROM t")


def test_every_torn_log_is_read_as_sqlite_reads_it(left: Path, tmp_path: Path) -> None:
    """Cut within a header, a frame, a transaction; and with a byte changed in the middle."""
    whole = log_of(left).read_bytes()
    changed = bytearray(whole)
    changed[HEADER + 2 * (FRAME + PAGE) + FRAME + 100] ^= 1
    sizes = [0, 10, HEADER, *range(HEADER + FRAME, len(whole), FRAME + PAGE), len(whole) - 1]
    for number, log in enumerate([*(whole[:size] for size in sizes), bytes(changed), b"\0" * 4 + whole[4:]]):
        log_of(left).write_bytes(log)
        other = tmp_path / f"other-{number}.db"
        shutil.copy(left, other)
        shutil.copy(log_of(left), log_of(other))
        db = sqlite3.connect(other)
        expected = [n for (n,) in db.execute("SELECT n FROM t ORDER BY n")]
        db.close()
        assert numbers(left) == expected, number


def test_what_is_no_database_or_not_there_is_nothing(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(unwritable, "_LIMIT_BYTES", 100)
        assert in_memory(left) is None
    log = log_of(left).read_bytes()
    log_of(left).unlink()
    assert in_memory(left) is None
    log_of(left).write_bytes(log[:HEADER])
    left.write_bytes(b"something else" * 500)
    assert in_memory(left) is None


def test_a_journal_is_read_where_sqlite_cannot_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only file system, with a log and without its index."""
    live, path = tmp_path / "journal.db", tmp_path / "left.db"
    journal = opened(live)
    journal.append("mx1.example.org", ev.Requested(what="renew"))
    for end in ("", "-wal"):
        shutil.copy(f"{live}{end}", f"{path}{end}")
    journal.close()

    def refused(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError

    monkeypatch.setattr(dbfile, "_connected", refused)
    db = dbfile._readable(path)  # pyright: ignore[reportPrivateUsage]
    assert db is not None
    assert db.execute("SELECT count(*) FROM head").fetchone() == (1,)
    log_of(path).write_bytes(b"")
    assert dbfile._readable(path) is None  # pyright: ignore[reportPrivateUsage]


def test_what_is_written_meanwhile_is_nothing(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it would be of before, and half of after."""
    read = unwritable._read  # pyright: ignore[reportPrivateUsage]

    def written(path: Path) -> bytes:
        os.utime(left, ns=(1, 1))
        return read(path)

    monkeypatch.setattr(unwritable, "_read", written)
    assert in_memory(left) is None
