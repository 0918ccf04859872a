"""The journal: everything that ever happened to each certificate, in one SQLite file, and the state it folds to.

An event is durable when `append` returns (WAL, synchronous=FULL). Each row carries a digest chained to the row
before it, and the stored state one chained to the last row: a torn page, a lost or changed row is found, not
believed. The state beside the events is only a shortcut: `verify` folds everything anew and compares.

Errors: `journal.damaged` (Misconfigured), `journal.version` (Misconfigured), `store.disk` (Transient).
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from certagent.errors import Misconfigured, Transient
from certagent.facts.moment import Instant
from certagent.host.clock import Clock
from certagent.lifecycle.events import AnyEvent
from certagent.lifecycle.fold import fold
from certagent.lifecycle.state import State

VERSION = 1
_SCHEMA = """
CREATE TABLE event (
  certificate TEXT NOT NULL, seq INTEGER NOT NULL, at TEXT NOT NULL, elapsed_s REAL NOT NULL, body BLOB NOT NULL,
  digest BLOB NOT NULL, PRIMARY KEY (certificate, seq)
) WITHOUT ROWID;
CREATE TABLE head (
  certificate TEXT PRIMARY KEY, seq INTEGER NOT NULL, state BLOB NOT NULL, digest BLOB NOT NULL,
  wake_at REAL, wake_s REAL, why TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX head_wake_at ON head (wake_at);
CREATE INDEX head_wake_s ON head (wake_s);
CREATE TABLE lived (one INTEGER PRIMARY KEY CHECK (one = 1), boot_id TEXT NOT NULL, boot_s REAL NOT NULL,
  elapsed_s REAL NOT NULL, digest BLOB NOT NULL);
"""
_BUSY_S = 10.0
"""Another certagent writes for milliseconds at a time; ten seconds of waiting mean that something is wrong."""


class Entry(msgspec.Struct, frozen=True):
    """One row: when it was written, and the event."""

    seq: int
    at: Instant
    event: AnyEvent


class Wake(msgspec.Struct, frozen=True):
    """When a certificate is to be looked after again, and what is waited for."""

    at: datetime
    why: str


_EVENT = msgspec.json.Decoder(AnyEvent)
_STATE = msgspec.json.Decoder(State)


class Journal:
    """One open journal. Any thread may use it; one process at a time writes (see `store/lock.py`)."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open it, or make it (mode 0600) where it is not there yet."""
        self.path = path
        self._clock = clock
        self._mutex = threading.Lock()
        with _translated(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            size = os.fstat(fd).st_size
            os.close(fd)
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._open(size)
            except BaseException:
                self._db.close()  # here, not when it is collected: closing the last connection deletes the log
                raise

    def _open(self, size: int) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        version, page_bytes = (self._db.execute(f"PRAGMA {of}").fetchone()[0] for of in ("user_version", "page_size"))
        if version == 0 and size not in (0, page_bytes):  # a new one is empty, or killed before its tables were there
            raise _damaged(self.path, "its beginning is lost, or all the rest")  # SQLite would take it for a new one
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={VERSION};")
            self._live(*self._clock.boot(), 0.0)
            self._db.execute("COMMIT")
        elif version != VERSION:
            hint = "use the certagent that wrote it, or a newer one"
            raise Misconfigured("journal.version", f"{self.path}: written by version {version} of the journal", hint)
        self._begin_boot()

    def close(self) -> None:
        """Close it; what was appended is durable already."""
        self._db.close()

    # -- time --------------------------------------------------------------------------------------------------------

    def now(self) -> Instant:
        """The present moment, with the seconds lived through since the journal began (see `Instant`)."""
        with self._mutex, _translated(self.path):
            return self._now()[0]

    def _now(self) -> tuple[Instant, str, float]:
        boot_id, boot_s = self._clock.boot()
        _, since_s, elapsed_s = self._elapsed()
        return Instant(self._clock.wall(), elapsed_s + max(0.0, boot_s - since_s)), boot_id, boot_s

    def _begin_boot(self) -> None:
        """In another boot, or on another host, counting goes on from here: what lies between was not lived through."""
        boot_id, boot_s = self._clock.boot()
        last_boot, _, elapsed_s = self._elapsed()
        if last_boot != boot_id:
            self._live(boot_id, boot_s, elapsed_s)

    def _elapsed(self) -> tuple[str, float, float]:
        """The boot, the time in it, and the seconds lived through until then, as of the last append."""
        row = self._db.execute("SELECT boot_id, boot_s, elapsed_s, digest FROM lived").fetchone()
        if row is None or row[3] != _digest(b"", repr(row[:3]).encode()):
            raise _damaged(self.path, "the time lived through was changed")  # waits could be shorter than they are
        return row[:3]

    def _live(self, boot_id: str, boot_s: float, elapsed_s: float) -> None:
        digest = _digest(b"", repr((boot_id, boot_s, elapsed_s)).encode())
        self._db.execute("INSERT OR REPLACE INTO lived VALUES (1,?,?,?,?)", (boot_id, boot_s, elapsed_s, digest))

    # -- reading -----------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Every certificate the journal knows."""
        with self._mutex, _translated(self.path):
            return [row[0] for row in self._db.execute("SELECT certificate FROM head ORDER BY certificate")]

    def state(self, name: str) -> State:
        """What is known of a certificate; a new one where nothing is."""
        with self._mutex, _translated(self.path), self._snapshot():
            return self._head(name)[0]

    def states(self, names: Iterable[str]) -> Iterator[State]:
        """What is known of each of these, in their order; as `state`, but for thousands."""
        rest = iter(names)
        while some := list(islice(rest, 32)):  # few: let go of before they cost the collector anything
            with self._mutex, _translated(self.path), self._snapshot():
                found = [self._head(name)[0] for name in some]
            yield from found

    def _head(self, name: str) -> tuple[State, bytes]:
        row = self._db.execute("SELECT seq, state, digest FROM head WHERE certificate=?", (name,)).fetchone()
        last = self._db.execute(
            "SELECT seq, digest FROM event WHERE certificate=? ORDER BY seq DESC LIMIT 1", (name,)
        ).fetchone()
        if row is None and last is None:
            return State(name=name), b""
        if row is None or last is None or row[0] != last[0] or row[2] != _digest(last[1], row[1]):
            raise _damaged(self.path, f"{name}: the state does not belong to the last event")
        try:
            return _STATE.decode(row[1]), last[1]
        except (msgspec.MsgspecError, ValueError) as error:
            raise _damaged(self.path, f"{name}: the state does not read: {error}") from None

    def history(self, name: str, after: int = 0) -> Iterator[Entry]:
        """Every event after that sequence number, each checked against the one before it."""
        with self._mutex, _translated(self.path):
            rows = self._rows(name, after)
        yield from self._entries(name, rows, after)

    def _rows(self, name: str, after: int) -> list[Any]:
        select = "SELECT seq, at, elapsed_s, body, digest FROM event WHERE certificate=? AND seq>=? ORDER BY seq"
        return self._db.execute(select, (name, after)).fetchall()

    def _entries(self, name: str, rows: list[Any], after: int) -> Iterator[Entry]:
        previous = b"" if after < 1 else None
        expected = max(after, 1)
        for seq, at, elapsed_s, body, digest in rows:
            if seq != expected:
                raise _damaged(self.path, f"{name}: event {expected} is missing")
            if previous is not None and digest != _digest(previous, _row(name, seq, at, elapsed_s, body)):
                raise _damaged(self.path, f"{name}: event {seq} was changed")
            previous, expected = digest, seq + 1
            if seq <= after:
                continue
            try:
                yield Entry(seq, Instant(datetime.fromisoformat(at), elapsed_s), _EVENT.decode(body))
            except (msgspec.MsgspecError, ValueError) as error:
                raise _damaged(self.path, f"{name}: event {seq} does not read: {error}") from None

    def verify(self, name: str) -> int:
        """Fold every event anew and compare with the stored state; the number of events."""
        with self._mutex, _translated(self.path), self._snapshot():
            rows, stored = self._rows(name, 0), self._head(name)[0]
        state = State(name=name)
        for entry in self._entries(name, rows, 0):
            state = fold(state, entry.event, entry.at)
        if state != stored:
            raise _damaged(self.path, f"{name}: the events do not fold to the stored state")
        return state.seq

    def wakes(self) -> dict[str, Wake]:
        """When each certificate wants to be looked after again; those never planned yet are missing."""
        select = "SELECT certificate, wake_at, wake_s, why FROM head WHERE wake_at IS NOT NULL"
        with self._mutex, _translated(self.path), self._snapshot():
            wall, elapsed_s = self._clocks()
            rows = self._db.execute(select).fetchall()
        return {name: Wake(_from_epoch(min(at, wall + s - elapsed_s)), why) for name, at, s, why in rows}

    def due(self) -> tuple[list[str], timedelta | None]:
        """The certificates to be looked after now, and how long until the next of the others wants it.

        Found by indexes: what is idle costs nothing, however much of it there is.
        """
        later = "FROM head WHERE wake_at>? AND wake_s>?"
        with self._mutex, _translated(self.path), self._snapshot():
            wall, elapsed_s = now = self._clocks()
            rows = self._db.execute(
                "SELECT certificate FROM head WHERE wake_at IS NULL OR wake_at<=? OR wake_s<=?", now
            )
            names = [name for (name,) in rows]
            [[at]] = self._db.execute(f"SELECT min(wake_at) {later}", now)  # one each: for both it would read all rows
            [[s]] = self._db.execute(f"SELECT min(wake_s) {later}", now)
        return names, None if at is None else timedelta(seconds=min(at - wall, s - elapsed_s))

    def _clocks(self) -> tuple[float, float]:
        """The wall and the lived seconds: a hint has a date by each, and the one that comes first counts. The wall may
        have been set back since; one that was set forward may have come to a renewal.
        """
        now = self._now()[0]
        return now.wall.timestamp(), now.elapsed_s

    # -- writing -----------------------------------------------------------------------------------------------------

    def append(self, name: str, *events: AnyEvent) -> State:
        """Append the events in one durable transaction; the state after them."""
        with self._mutex, _translated(self.path), self._transaction():
            state, last = self._head(name)
            now, boot_id, boot_s = self._now()
            at = now.wall.isoformat()
            for event in events:
                state = fold(state, event, now)
                body = msgspec.json.encode(event)
                last = _digest(last, _row(name, state.seq, at, now.elapsed_s, body))
                self._db.execute(
                    "INSERT INTO event VALUES (?,?,?,?,?,?)", (name, state.seq, at, now.elapsed_s, body, last)
                )
            stored = msgspec.json.encode(state, order="sorted")
            self._db.execute(
                "INSERT INTO head (certificate, seq, state, digest) VALUES (?,?,?,?)"
                " ON CONFLICT (certificate) DO UPDATE SET"
                " seq=excluded.seq, state=excluded.state, digest=excluded.digest, wake_at=NULL, wake_s=NULL",
                (name, state.seq, stored, _digest(last, stored)),
            )
            self._live(boot_id, boot_s, now.elapsed_s)
            return state

    def sleep(self, name: str, delay: timedelta, why: str) -> None:
        """Note when the certificate wants to be looked after again; only a hint, never evidence."""
        with self._mutex, _translated(self.path):
            wall, elapsed_s = self._clocks()
            wake = (wall + delay.total_seconds(), elapsed_s + delay.total_seconds())
            self._db.execute("UPDATE head SET wake_at=?, wake_s=?, why=? WHERE certificate=?", (*wake, why, name))

    @contextmanager
    def _snapshot(self) -> Generator[None]:
        """Several reads of one moment, whatever another process writes meanwhile."""
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Generator[None]:
        self._db.execute(begin)
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:  # on a full or failing disk SQLite has ended it already
                self._db.execute("ROLLBACK")


def _digest(previous: bytes, content: bytes) -> bytes:
    if not isinstance(content, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] -- a changed row may hold anything
        return b""
    return hashlib.blake2b(content, key=previous, digest_size=16).digest()


def _row(name: str, seq: int, at: str, elapsed_s: float, body: bytes) -> bytes:
    if not isinstance(body, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
        return b""
    return f"{name}\n{seq}\n{at}\n{elapsed_s!r}\n".encode() + body


def _from_epoch(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _damaged(path: Path, detail: str) -> Misconfigured:
    hint = f"stop certagent, keep a copy of {path}*, and bring the state directory back from a backup"
    return Misconfigured("journal.damaged", f"{path}: {detail}", hint)


@contextmanager
def _translated(path: Path) -> Generator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "decode" in str(error):
            raise _damaged(path, str(error)) from None
        hint = "make room on the disk, or see who else holds the file"
        raise Transient("store.disk", f"{path}: {error}", hint) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from None
    except OSError as error:
        raise Misconfigured(
            "journal.path", f"{path}: {error.strerror}", "check state_dir and its permissions"
        ) from None
