"""A journal of the version before is brought to the present one whole, or not at all."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from certagent.errors import Misconfigured, Transient
from certagent.lifecycle import events as ev
from certagent.store import schema
from tests.store.opened import opened
from tests.store.test_journal import Fake, chained

ROOT = Path(__file__).resolve().parents[2]
VERSION_1 = Path(__file__).with_name("version1.sql").read_text()
COUNT = 40
"""Certificates, with three events each."""


def names() -> list[str]:
    return [f"mx{number}.example.org" for number in range(COUNT)]


def version1(path: Path) -> Path:
    """A file as version 1 wrote it: two key sets and a request for each certificate, over two boots."""
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(f"PRAGMA journal_mode=WAL;{VERSION_1}")
        last_moment = ("an old boot", 500.0, 1234.5)
        db.execute("INSERT INTO lived VALUES (1,?,?,?,?)", (*last_moment, chained(b"", repr(last_moment).encode())))
        for name in names():
            last = b""
            for seq in range(1, 4):
                at, elapsed_s = f"2026-11-2{seq}T12:00:00+00:00", 100.5 * seq
                event: dict[str, object] = {"type": "Requested", "what": "renew"}
                if seq < 3:
                    event = {"type": "KeysMade", "keys": f"k{seq}", "spki": {"ecdsa-p256": f"{seq:064x}"}}
                body = json.dumps(event).encode()
                last = chained(last, f"{name}\n{seq}\n{at}\n{elapsed_s!r}\n".encode() + body)
                db.execute("INSERT INTO event VALUES (?,?,?,?,?,?)", (name, seq, at, elapsed_s, body, last))
            state = json.dumps({"a state of": "another form", "keys": ["k1", "k2"]}).encode()  # it is folded anew
            hint = (1e9, 1300.0, "check interval")
            db.execute("INSERT INTO head VALUES (?,3,?,?,?,?,?)", (name, state, chained(last, state), *hint))
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return version1(tmp_path / "journal.db")


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def test_everything_is_there_and_goes_on(old: Path) -> None:
    """Events, dates, numbers, the state they fold to, the count of the journal, the hints; and it is appended to."""
    clock = Fake()
    journal = opened(old, clock)
    assert journal.names() == sorted(names())
    assert journal.now().elapsed_s == 1234.5
    for name in names():
        assert journal.verify(name) == 3
        keys = journal.state(name).keys
        assert [(k.id, k.made_at.elapsed_s, k.made_at.wall.day) for k in keys] == [("k1", 100.5, 21), ("k2", 201.0, 22)]
        assert [entry.seq for entry in journal.history(name)] == [1, 2, 3]
    assert journal.wakes()[names()[0]].why == "check interval"
    assert journal.append(names()[0], ev.Requested(what="retry")).seq == 4
    boots = [entry.clock and entry.clock.boot for entry in journal.history(names()[0])]
    assert boots == ["an old boot"] * 3 + ["first"]
    clock.pass_(5)
    journal.close()
    again = opened(old, clock)
    assert again.verify(names()[0]) == 4
    assert again.now().elapsed_s == 1239.5
    again.close()
    assert version_of(old) == schema.VERSION


KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from certagent.store import schema
from certagent.host.clock import SystemClock
from certagent.store.sqlite import Sqlite
real, left = schema.MIGRATIONS[1], int(sys.argv[2])
def killed(db):
    def step():
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    db.set_progress_handler(step, 100)
    real(db)
    db.set_progress_handler(None, 0)
schema.MIGRATIONS[1] = killed
Sqlite(Path(sys.argv[1]), SystemClock()).close()
"""


def test_killed_at_any_moment_the_file_is_as_before(tmp_path: Path) -> None:
    """SIGKILL after more and more of the work; the next run does all of it."""
    deaths, left = 0, 1
    while True:
        path = version1(tmp_path / f"{left}.db")
        code = subprocess.run([sys.executable, "-c", KILLED, path, str(left)], cwd=ROOT, check=False).returncode
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert version_of(path) == 1
        journal = opened(path, Fake())
        assert {journal.verify(name) for name in names()} == {3}
        journal.close()
        deaths, left = deaths + 1, left * 3
    assert deaths >= 3
    assert version_of(path) == schema.VERSION


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE lived SET elapsed_s = elapsed_s + 1",
        "DELETE FROM lived",
        "UPDATE event SET body = CAST(replace(body, 'k1', 'k9') AS BLOB) WHERE seq = 1",
        "UPDATE event SET body = 'text' WHERE seq = 2",
        "DELETE FROM event WHERE seq = 2 AND certificate = 'mx7.example.org'",
        "DELETE FROM head WHERE certificate = 'mx7.example.org'",
        "UPDATE head SET state = CAST(replace(state, 'k1', 'k9') AS BLOB)",
        "DROP TABLE head",
    ],
)
def test_a_damaged_file_is_refused_as_it_is(old: Path, harm: str) -> None:
    """Its digests are checked on the way."""
    with closing(sqlite3.connect(old)) as db, db:
        db.execute(harm)
    with pytest.raises(Misconfigured) as caught:
        opened(old, Fake())
    assert caught.value.code == "journal.damaged"
    assert version_of(old) == 1


def test_a_full_disk_leaves_it_as_it_is(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so."""
    real = schema.MIGRATIONS[1]

    def full(db: sqlite3.Connection) -> None:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count={pages}")
        real(db)

    monkeypatch.setitem(schema.MIGRATIONS, 1, full)
    with pytest.raises(Transient, match=r"full.*store\.disk"):
        opened(old, Fake())
    assert version_of(old) == 1


def test_several_at_once_do_it_once(old: Path) -> None:
    """Whoever comes second finds it done."""
    several = [subprocess.Popen([sys.executable, "-c", KILLED, old, "100000000"], cwd=ROOT) for _ in range(3)]
    assert [one.wait(60) for one in several] == [0, 0, 0]
    journal = opened(old, Fake())
    assert {journal.verify(name) for name in names()} == {3}
    journal.close()


def test_a_quiet_certificate_stays_quiet(old: Path) -> None:
    """What the older version had as a row is a row; nothing is folded twice."""
    clock = Fake()
    journal = opened(old, clock)
    for _ in range(3):
        clock.pass_(3600)
        journal.append(names()[0], ev.Verified(server="postfix", generation="g1", drained=True, served=()))
    assert journal.verify(names()[0]) == 4
    assert journal.now().since(next(iter(journal.history(names()[0]))).at) > timedelta(hours=3)
    journal.close()
