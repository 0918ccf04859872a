"""A store in one SQLite file. What was appended is durable when `append` returns (WAL, synchronous=FULL).

How the file is opened, made and migrated: `store/dbfile.py`. One that cannot be written can still be read.

Errors: `journal.damaged`, `journal.other_program`, `journal.version`, `journal.path` (Misconfigured), `store.disk`,
`journal.conflict`, `lease.lost`, `lock.busy` (Transient).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from certagent.errors import Misconfigured, Transient
from certagent.facts.moment import ClockId, Instant, Reading
from certagent.host.clock import Clock
from certagent.store import schema
from certagent.store.dbfile import damaged, opened, transaction, translated
from certagent.store.protocol import LONGEST, Found, Head, Row, Wake

_UNASKED_S = 10.0
"""The lease of an append that nobody took a lease for."""
_LONGEST_LEASE_S = 3600.0
"""No step takes an hour; a lease that says so is damaged."""
_LONG_AGO_S = 1e9
"""Thirty years: a hint that is older is damaged, and no date may be."""
_FENCE = "(SELECT token FROM lease) IS ? AND coalesce((SELECT max(seq) FROM event WHERE subject=?), 0) IS ?"
_DUE = """
SELECT subject FROM head WHERE wake_at IS NULL
UNION SELECT subject FROM head WHERE wake_s IS NULL
UNION SELECT subject FROM head WHERE wake_at<=?
UNION SELECT subject FROM head WHERE wake_s<=?
UNION SELECT subject FROM head WHERE wake_s>?
"""
"""Each by an index: of an OR, SQLite would make a scan."""


class Sqlite:
    """See `Store`."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open the file, or make it (mode 0600) if there is none."""
        self.path = path
        self._source = clock
        self._mutex = threading.Lock()
        self._token: int | None = None
        self._floor: tuple[float, Reading] | None = None
        """Where counting began in this process, as long as the file has no count of this clock."""
        self._other: tuple[tuple[int, float], Reading] | None = None
        """The last sign of life of another host's lease, and when it was first read here."""
        self._db = opened(path, first=self._first, ready=self._count)

    def close(self) -> None:
        """See `Store`."""
        with suppress(Misconfigured, Transient):
            self.release()
        self._db.close()

    def damaged(self, detail: str) -> Misconfigured:
        """See `Store`."""
        return damaged(self.path, detail)

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def clock(self) -> ClockId:
        """See `Store`."""
        return self._source.reading().clock

    def now(self) -> Instant:
        """See `Store`."""
        with self._mutex, translated(self.path):
            return self._now()

    def _now(self) -> Instant:
        return Instant(self._source.wall(), self._elapsed(self._db, self._source.reading())[0])

    def _elapsed(self, db: sqlite3.Connection, reading: Reading) -> tuple[float, bool]:
        """The count of the journal at that reading; and whether the file has a count of this clock.

        An append ends the counts of all other clocks. So they count from when they read it, beginning at the count it
        was written with, and nothing between two clocks ever counts as passed.
        """
        select = "SELECT host, boot, boot_s, elapsed_s, digest FROM elapsed LEFT JOIN clock ON id = elapsed.clock"
        last: float | None = None
        for host, boot, boot_s, elapsed_s, digest in db.execute(select).fetchall():
            if digest != schema.elapsed_digest(host, boot, boot_s, elapsed_s):
                raise self.damaged("the elapsed time was changed")  # waits could be shorter than they are
            if reading.clock == ClockId(host, boot):
                return elapsed_s + reading.since(Reading(reading.clock, boot_s)), True
            last = max(elapsed_s, last or 0.0)
        if last is None:
            raise self.damaged("the elapsed time is missing")
        if self._floor is None or self._floor[0] != last:
            self._floor = last, reading
        return last + reading.since(self._floor[1]), False

    def _first(self, db: sqlite3.Connection) -> None:
        self._live(db, self._source.reading(), 0.0)

    def _count(self, db: sqlite3.Connection) -> None:
        """Let this clock have a count in the file, so that it goes on when this process ends."""
        reading = self._source.reading()
        elapsed_s, counted = self._elapsed(db, reading)
        if not counted:
            with transaction(db):
                self._live(db, reading, elapsed_s)

    def _live(self, db: sqlite3.Connection, reading: Reading, elapsed_s: float) -> int:
        """The number of this clock in the file."""
        clock = reading.clock
        db.execute("INSERT OR IGNORE INTO clock (host, boot) VALUES (?,?)", (clock.host, clock.boot))
        [id_] = db.execute("SELECT id FROM clock WHERE host=? AND boot=?", (clock.host, clock.boot)).fetchone()
        digest = schema.elapsed_digest(clock.host, clock.boot, reading.seconds, elapsed_s)
        db.execute("INSERT OR REPLACE INTO elapsed VALUES (?,?,?,?)", (id_, reading.seconds, elapsed_s, digest))
        return id_

    # -- reading -------------------------------------------------------------------------------------------------------

    def subjects(self) -> list[str]:
        """See `Store`."""
        with self._mutex, translated(self.path):
            return [row[0] for row in self._db.execute("SELECT subject FROM head ORDER BY subject")]

    def heads(self, subjects: Sequence[str]) -> list[Found]:
        """See `Store`."""
        with self._mutex, translated(self.path), self._snapshot():
            return [self._found(subject) for subject in subjects]

    def read(self, subject: str, after: int) -> tuple[list[Row], Found]:
        """See `Store`."""
        select = (
            "SELECT seq, wall, elapsed_s, host, boot, body, digest FROM event LEFT JOIN clock ON id = event.clock"
            " WHERE subject=? AND seq>=? ORDER BY seq"
        )
        with self._mutex, translated(self.path), self._snapshot():
            rows = self._db.execute(select, (subject, after)).fetchall()
            found = self._found(subject)
        return [Row(seq, wall, s, ClockId(host, boot), body, d) for seq, wall, s, host, boot, body, d in rows], found

    def _found(self, subject: str) -> Found:
        row = self._db.execute(
            "SELECT seq, version, state, again, digest FROM head WHERE subject=?", (subject,)
        ).fetchone()
        last = self._db.execute(
            "SELECT seq, digest FROM event WHERE subject=? ORDER BY seq DESC LIMIT 1", (subject,)
        ).fetchone()
        return Found(Head(*row) if row else None, last)

    # -- when to look again --------------------------------------------------------------------------------------------

    def sleep(self, subject: str, delay: timedelta, why: str) -> None:
        """See `Store`."""
        with self._mutex, translated(self.path):
            self._count(self._db)
            wall, elapsed_s = self._clocks()
            delay_s = min(delay, LONGEST).total_seconds()
            wake = (wall + delay_s, elapsed_s + delay_s)
            self._db.execute("UPDATE head SET wake_at=?, wake_s=?, why=? WHERE subject=?", (*wake, why, subject))

    def wakes(self) -> dict[str, Wake]:
        """See `Store`."""
        select = (
            "SELECT subject, wake_at, wake_s, CAST(why AS BLOB) FROM head"
            " WHERE typeof(wake_at)='real' AND typeof(wake_s)='real' AND wake_s<=?"
        )
        with self._mutex, translated(self.path), self._snapshot():
            wall, elapsed_s = self._clocks()
            rows = self._db.execute(select, (elapsed_s + LONGEST.total_seconds(),)).fetchall()
        found: dict[str, Wake] = {}
        for name, at, s, why in rows:
            left = max(min(at - wall, s - elapsed_s), -_LONG_AGO_S)
            found[name] = Wake(datetime.fromtimestamp(wall + left, UTC), why.decode(errors="replace"))
        return found

    def due(self) -> tuple[list[str], timedelta | None]:
        """See `Store`. Found by indexes. A damaged hint is none: text and blobs compare as larger than numbers."""
        with self._mutex, translated(self.path), self._snapshot():
            wall, elapsed_s = self._clocks()
            latest = elapsed_s + LONGEST.total_seconds()
            names = [name for (name,) in self._db.execute(_DUE, (wall, elapsed_s, latest))]
            later, now = "FROM head WHERE wake_at>? AND wake_s>?", (wall, elapsed_s)
            [[at]] = self._db.execute(f"SELECT min(wake_at) {later}", now)  # one each: for both it would read all rows
            [[s]] = self._db.execute(f"SELECT min(wake_s) {later}", now)
        left = [one - now for one, now in ((at, wall), (s, elapsed_s)) if isinstance(one, float)]
        return names, min(timedelta(seconds=min(left)), LONGEST) if left else None

    def _clocks(self) -> tuple[float, float]:
        """The wall and the count: a hint has a date by each, and the one that comes first counts. The wall may have
        been set back since; one that was set forward may have come to a renewal.
        """
        now = self._now()
        return now.wall.timestamp(), now.elapsed_s

    # -- writing -------------------------------------------------------------------------------------------------------

    def append(self, subject: str, expected: int, rows: Sequence[Row], head: Head) -> None:
        """See `Store`."""
        if self._token is None:
            self.lease("an append", _UNASKED_S)
        with self._mutex, translated(self.path), transaction(self._db):
            reading = self._source.reading()
            clock = self._live(self._db, reading, self._elapsed(self._db, reading)[0])
            for row in rows:
                columns = (subject, row.seq, row.wall, row.elapsed_s, clock, row.body, row.digest)
                self._fenced(f"INSERT INTO event SELECT ?,?,?,?,?,?,? WHERE {_FENCE}", columns, subject, expected)
                expected = row.seq
            self._fenced(
                f"INSERT INTO head (subject, seq, version, state, again, digest) SELECT ?,?,?,?,?,? WHERE {_FENCE}"
                " ON CONFLICT (subject) DO UPDATE SET seq=excluded.seq, version=excluded.version,"
                " state=excluded.state, again=excluded.again, digest=excluded.digest, wake_at=NULL, wake_s=NULL",
                (subject, head.seq, head.version, head.state, head.again, head.digest),
                subject,
                expected,
            )
            self._db.execute("DELETE FROM elapsed WHERE clock<>?", (clock,))

    def _fenced(self, statement: str, values: tuple[object, ...], subject: str, last: int) -> None:
        """A statement that changes nothing without the lease, or after another row than that."""
        if self._db.execute(statement, (*values, self._token, subject, last)).rowcount == 1:
            return
        token, _, _, _, purpose = self._lease()
        if token != self._token:
            self._token = None
            raise Transient("lease.lost", f"{self.path}: another certagent took over: {purpose}", "it is tried again")
        detail = f"{subject}: something happened after event {last}, the last one known here"
        raise Transient("journal.conflict", detail, "nothing: the journal is read again")

    def lease(self, purpose: str, seconds: float, *, alone: bool = False) -> None:
        """See `Store`."""
        with self._mutex, translated(self.path):
            with transaction(self._db):
                reading = self._source.reading()
                token, _, _, _, busy = self._lease()
                if token != self._token:
                    if not self._free(reading, alone=alone):
                        raise Transient("lock.busy", f"certagent is at work: {busy}", "wait for it, or stop it")
                    token += 1
                clock = self._live(self._db, reading, self._elapsed(self._db, reading)[0])
                row = (token, clock, reading.seconds, seconds, purpose)
                self._db.execute("INSERT OR REPLACE INTO lease VALUES (1,?,?,?,?,?)", row)
            self._token = token

    def release(self) -> None:
        """See `Store`."""
        with self._mutex, translated(self.path):
            token, self._token = self._token, None
            if token is not None:
                self._db.execute("UPDATE lease SET seconds=0 WHERE token=?", (token,))

    def _lease(self) -> tuple[int, ClockId, float, float, str]:
        """Token, clock, the last sign of life, for how long after it, what for."""
        select = (
            "SELECT token, host, boot, max(lease.boot_s, coalesce(elapsed.boot_s, 0)), seconds, CAST(purpose AS BLOB)"
            " FROM lease LEFT JOIN clock ON id = lease.clock LEFT JOIN elapsed ON elapsed.clock = lease.clock"
        )
        row: Any = self._db.execute(select).fetchone()
        if row is None:
            return 0, ClockId("", ""), 0.0, 0.0, ""
        token, host, boot, boot_s, seconds, purpose = row
        return token, ClockId(host, boot), boot_s, min(seconds, _LONGEST_LEASE_S), purpose.decode(errors="replace")

    def _free(self, reading: Reading, *, alone: bool) -> bool:
        """Whether the lease of another is over."""
        token, clock, boot_s, seconds, _ = self._lease()
        if seconds <= 0:
            return True
        if clock.host == reading.clock.host:
            return alone or clock != reading.clock or reading.since(Reading(clock, boot_s)) >= seconds
        if self._other is None or self._other[0] != (token, boot_s):
            self._other = (token, boot_s), reading  # counted from when it was read: no clock of another host says more
        return reading.since(self._other[1]) >= seconds

    @contextmanager
    def _snapshot(self) -> Generator[None]:
        """Several reads of one moment, whatever another process writes meanwhile."""
        with transaction(self._db, "BEGIN"):
            yield
