"""The journal: what was appended is there, whole and in order, or an error says so; its time never goes back."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from certagent.errors import Error, Misconfigured, Transient
from certagent.facts.challenge import Challenge
from certagent.facts.dns import Answer, Observation
from certagent.facts.moment import ClockId, Reading
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle.fold import fold
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.state import State
from certagent.lifecycle.steps import MakeKeys, Publish
from certagent.store.schema import VERSION
from certagent.store.sqlite import Sqlite
from certagent.store.subject import SubjectId
from tests.store.opened import Certificates, opened

NAME = "mx1.example.org"
START = datetime(2026, 11, 21, 12, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]
EVERY_BYTE = "EVERY_BYTE" in os.environ
"""Cut at every byte, not at some hundred: five minutes, with TMPDIR=/dev/shm."""
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Fake:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = START
        self.boot_id, self.boot_s = "first", 1000.0

    def wall(self) -> datetime:
        return self.now

    def reading(self) -> Reading:
        return Reading(ClockId("host", self.boot_id), self.boot_s)

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.boot_s += seconds


@pytest.fixture
def clock() -> Fake:
    return Fake()


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


VALUES = st.frozensets(st.sampled_from([f"3 1 1 {c * 64}" for c in "abcdef"]), max_size=3)
WORK = st.sampled_from([None, Lane("vault"), Lane("order", "ecdsa-p256"), Lane("publish", "_25._tcp.mx1.example.org.")])
TLSA_NAME = st.sampled_from(["_25._tcp.mx1.example.org.", "_25._tcp.mx2.example.org."])
ANSWERS = st.dictionaries(
    st.sampled_from(["ns1./192.0.2.1", "ns2./192.0.2.2"]),
    st.builds(Answer, VALUES, st.integers(0, 86400)) | st.builds(Unknown, st.text(max_size=8)),
)
CHALLENGES = st.just((Challenge("dns-01", "x", "_acme-challenge.x.", "v"),))
PUBLISH = st.builds(Publish, tlsa_name=TLSA_NAME, values=VALUES, ttl_s=st.integers(1, 99), because=st.text(max_size=9))
MAKE_KEYS = st.builds(MakeKeys, keys=st.just("k1"), key_types=st.just(("ecdsa-p256",)), because=st.just(""))
EVENTS: st.SearchStrategy[ev.AnyEvent] = st.one_of(
    st.builds(ev.KeysMade, keys=st.sampled_from(["k1", "k2"]), spki=st.just({"ecdsa-p256": "ab" * 32}), lane=WORK),
    st.builds(
        ev.Failed, lane=WORK, kind=st.just("transient"), code=st.just("dns.x"), detail=st.text(max_size=20),
        jitter=st.floats(0, 1), retry_after_s=st.none() | st.floats(0, 1e6),
    ),
    st.builds(ev.Published, tlsa_name=TLSA_NAME, values=VALUES, lane=WORK),
    st.builds(
        ev.Observed, tlsa_name=TLSA_NAME,
        observation=st.builds(
            Observation, st.just("example.org."), TLSA_NAME, ANSWERS, st.sampled_from(["secure", "bogus"])
        ),
    ),
    st.builds(ev.Requested, what=st.sampled_from(["retry", "renew", "rotate"]), accept_deferrals=st.booleans()),
    st.builds(
        ev.OrderPlaced,
        key_type=st.just("ecdsa-p256"), keys=st.just("k1"), url=st.just("https://x/1"), challenges=CHALLENGES,
    ),
    st.builds(ev.Intended, step=PUBLISH | MAKE_KEYS),
)  # fmt: skip
BATCHES = st.lists(
    st.tuples(st.sampled_from([NAME, "mx2.example.org"]), st.lists(EVENTS, min_size=1, max_size=3)), max_size=8
)
SEEN = ev.Observed("_25._tcp.mx1.example.org.", Observation("example.org.", "_25._tcp.mx1.example.org.", {}, "secure"))


def once(events: Iterable[ev.AnyEvent]) -> list[ev.AnyEvent]:
    """Each event at its first place."""
    found: list[ev.AnyEvent] = []
    for event in events:
        found += [event] if event not in found else []
    return found


@given(BATCHES)
@example([(NAME, [SEEN, SEEN])])
@QUICK
def test_what_was_appended_is_there_after_reopening(batches: list[tuple[str, list[ev.AnyEvent]]]) -> None:
    """Events and state come back as they were, each certificate's its own, and the fold of the events is the state."""
    clock = Fake()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "journal.db"
        journal = opened(path, clock)
        written: dict[str, list[ev.AnyEvent]] = {}
        states: dict[str, State] = {}
        for name, batch in batches:
            clock.pass_(1.5)
            # what is seen again adds no row (test_quiet.py): here each answer is another
            events = [
                replace(e, observation=replace(e.observation, why=f"{len(written.get(name, ()))} {i}"))
                if isinstance(e, ev.Observed)
                else e
                for i, e in enumerate(batch)
            ]
            states[name] = journal.append(name, *events).state
            written.setdefault(name, []).extend(events)
        journal.close()
        journal = opened(path, clock)
        assert journal.names() == sorted(written)
        for name, events in written.items():
            entries = list(journal.history(name))
            rows = [entry for entry in entries if not entry.again]  # what is seen again and is the same adds none
            assert once(row.event for row in rows) == once(events)
            assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
            assert journal.state(name) == states[name]
            assert journal.verify(name) == len(rows)
            state = State(name=name)
            for entry in entries:
                state = fold(state, entry.event, entry.at)
            assert state == states[name]
            half = len(rows) // 2
            assert [e for e in journal.history(name, half) if not e.again] == rows[half:]
        assert journal.state("unknown") == State(name="unknown")
        journal.close()


def connection(journal: Certificates) -> sqlite3.Connection:
    assert isinstance(journal.store, Sqlite)
    return journal.store._db  # pyright: ignore[reportPrivateUsage]


def due(journal: Certificates) -> tuple[list[str], timedelta | None]:
    """By their names."""
    subjects, following = journal.store.due()
    return [SubjectId.parse(subject).name for subject in subjects], following


def event(n: int) -> ev.AnyEvent:
    return ev.KeysMade(keys=f"k{n}", spki={"ecdsa-p256": f"{n:064x}"})


@pytest.fixture
def written(place: Path, clock: Fake) -> Path:
    """A closed journal of eight events."""
    path = place / "journal.db"
    journal = opened(path, clock)
    for n in range(1, 9):
        clock.pass_(10)
        journal.append(NAME, event(n))
    journal.sleep(NAME, timedelta(hours=1), "check_interval")
    journal.close()
    return path


def judged(path: Path, clock: Fake) -> State:
    """The state after everything was verified; an Error where something is wrong."""
    journal = opened(path, clock)
    try:
        journal.verify(NAME)
        return journal.state(NAME)
    finally:
        journal.close()


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE event SET body = CAST(replace(body, 'k3', 'k9') AS BLOB) WHERE seq = 3",
        "UPDATE event SET body = CAST(replace(body, 'k8', 'k9') AS BLOB) WHERE seq = 8",
        "UPDATE event SET wall = '2020-01-01T00:00:00+00:00' WHERE seq = 4",
        "UPDATE event SET elapsed_s = elapsed_s + 1000 WHERE seq = 4",
        "UPDATE event SET digest = x'00' WHERE seq = 8",
        "DELETE FROM event WHERE seq = 1",
        "DELETE FROM event WHERE seq = 5",
        "DELETE FROM event WHERE seq = 8",
        "DELETE FROM event",
        "DELETE FROM head",
        "UPDATE event SET seq = -3 WHERE seq = 3; UPDATE event SET seq = 3 WHERE seq = 4;"
        "UPDATE event SET seq = 4 WHERE seq = -3",
        "UPDATE event SET subject = 'certificate/mx2.example.org' WHERE seq = 8",
        "INSERT INTO event SELECT subject, 9, wall, elapsed_s, clock, body, digest FROM event WHERE seq = 8",
        "UPDATE head SET state = CAST(replace(state, 'k3', 'k9') AS BLOB)",
        "UPDATE head SET state = replace(state, 'k3', 'k3')",
        "UPDATE event SET body = CAST(body AS TEXT) WHERE seq = 2",
        "UPDATE head SET seq = 7",
        "UPDATE head SET digest = x'00'",
        "UPDATE head SET version = 0",
        "UPDATE head SET version = 2",
        "UPDATE head SET version = 'one'",
    ],
)
def test_a_row_that_was_changed_lost_or_moved_is_found(written: Path, clock: Fake, harm: str) -> None:
    """Each row is chained to the one before it, and the state to the last: no edit goes unnoticed."""
    with sqlite3.connect(written) as db:
        db.executescript(harm)
    db.close()
    with pytest.raises(Misconfigured) as caught:
        judged(written, clock)
    assert caught.value.code == "journal.damaged"
    assert str(written) in caught.value.detail
    assert "backup" in caught.value.hint


def test_an_append_is_on_the_disk_before_it_returns(place: Path, clock: Fake) -> None:
    """SQLite syncs its log at each commit only with synchronous=FULL (2); WAL alone does so at checkpoints."""
    journal = opened(place / "journal.db", clock)
    db = connection(journal)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()


def test_a_history_is_read_on_from_where_one_was(written: Path, clock: Fake) -> None:
    """The event before is read too, so that what follows is known to follow it."""
    journal = opened(written, clock)
    assert [entry.seq for entry in journal.history(NAME)] == list(range(1, 9))
    assert [entry.seq for entry in journal.history(NAME, 6)] == [7, 8]
    assert list(journal.history(NAME, 8)) == []
    journal.close()
    with sqlite3.connect(written) as db:
        db.execute("DELETE FROM event WHERE seq = 6")
    db.close()
    journal = opened(written, clock)
    assert [entry.seq for entry in journal.history(NAME, 7)] == [8]
    with pytest.raises(Misconfigured, match="event 6 is missing"):
        list(journal.history(NAME, 6))
    journal.close()


def chained(previous: bytes, content: bytes) -> bytes:
    """The digest that the journal would give it."""
    return hashlib.blake2b(content, key=previous, digest_size=16).digest()


@pytest.mark.parametrize("state", [b"{}", b'{"name": "x", "keys_made": "many"}', b"not JSON", b"\xff"])
def test_a_state_that_does_not_read_is_reported_even_if_it_is_whole(written: Path, clock: Fake, state: bytes) -> None:
    """As a defect may have written it."""
    with sqlite3.connect(written) as db:
        [last] = db.execute("SELECT digest FROM event ORDER BY seq DESC LIMIT 1").fetchone()
        db.execute("UPDATE head SET state = ?, digest = ?", (state, chained(last, b"1\n" + state + b"\0{}")))
    db.close()
    with pytest.raises(Misconfigured, match=r"the state does not read.*journal\.damaged"):
        judged(written, clock)


@pytest.mark.parametrize(
    ("at", "body"),
    [
        ("2026-11-21T12:00:00+00:00", b'{"type": "NeverHeardOf"}'),
        ("2026-11-21T12:00:00+00:00", b"not JSON"),
        ("some day", b'{"type": "Reloaded", "server": "postfix"}'),
    ],
)
def test_an_event_that_does_not_read_is_reported_even_if_it_is_whole(
    written: Path, clock: Fake, at: str, body: bytes
) -> None:
    """An event of a certagent to come is not skipped."""
    with sqlite3.connect(written) as db:
        [last] = db.execute("SELECT digest FROM event WHERE seq = 7").fetchone()
        [elapsed_s] = db.execute("SELECT elapsed_s FROM event WHERE seq = 8").fetchone()
        digest = chained(last, f"certificate/{NAME}\n8\n{at}\n{elapsed_s!r}\nhost\nfirst\n".encode() + body)
        db.execute("UPDATE event SET wall = ?, body = ?, digest = ? WHERE seq = 8", (at, body, digest))
        [state] = db.execute("SELECT state FROM head").fetchone()
        db.execute("UPDATE head SET digest = ?", (chained(digest, b"1\n" + state + b"\0{}"),))
    db.close()
    journal = opened(written, clock)
    assert journal.read(NAME).seq == 8, "what is needed now is there"
    read = journal.history(NAME)
    assert [next(read).seq for _ in range(7)] == list(range(1, 8))
    with pytest.raises(Misconfigured, match=r"event 8 does not read.*journal\.damaged"):
        next(read)
    with pytest.raises(Misconfigured, match=r"event 8 does not read"):
        journal.verify(NAME)
    journal.close()


def test_a_state_that_is_not_the_fold_of_its_events_is_found_by_verifying(written: Path, clock: Fake) -> None:
    """Whole, chained, and wrong: what a defect of the fold, or a skilled hand, would leave."""
    with sqlite3.connect(written) as db:
        [last] = db.execute("SELECT digest FROM event ORDER BY seq DESC LIMIT 1").fetchone()
        [state] = db.execute("SELECT state FROM head").fetchone()
        wrong = state.replace(b"k3", b"k9")
        db.execute("UPDATE head SET state = ?, digest = ?", (wrong, chained(last, b"1\n" + wrong + b"\0{}")))
    db.close()
    with pytest.raises(Misconfigured, match=r"the events do not fold to the stored state.*journal\.damaged"):
        judged(written, clock)


def test_text_that_is_no_text_is_reported(written: Path, clock: Fake) -> None:
    """A damaged name or date of a row that nothing else looks at."""
    with sqlite3.connect(written) as db:
        db.execute("UPDATE head SET subject = CAST(x'ff66' AS TEXT)")
    db.close()
    journal = opened(written, clock)
    with pytest.raises(Misconfigured, match=r"journal\.damaged"):
        journal.names()
    journal.close()


def test_thousands_of_states_are_read_in_their_order(place: Path, clock: Fake) -> None:
    """In portions, so that a daemon need not wait for long; of what is unknown, a new one."""
    journal = opened(place / "journal.db", clock)
    names = [f"mx{n}.example.org" for n in range(300)]
    for name in names[::7]:
        journal.append(name, event(1))
    found = list(journal.states(reversed(names)))
    assert [state.name for state in found] == names[::-1]
    assert found == [journal.state(name) for name in reversed(names)]
    assert sum(len(state.keys) for state in found) == len(names[::7])
    assert list(journal.states([])) == []
    journal.close()


def test_a_journal_that_went_back_is_a_state_of_its_own_past(written: Path, clock: Fake, place: Path) -> None:
    """An older copy is whole, and says what was known then: nothing in the file can tell more."""
    copy = place / "copy.db"
    shutil.copy(written, copy)
    journal = opened(written, clock)
    journal.append(NAME, event(9))
    journal.close()
    assert len(judged(copy, clock).keys) == 8
    assert len(judged(written, clock).keys) == 9


def test_cut_at_any_byte_it_is_the_same_state_or_an_error(written: Path, clock: Fake, place: Path) -> None:
    """Never another state: a file that ends early is refused, whichever page was lost."""
    data = written.read_bytes()
    whole = judged(written, clock)
    cut = place / "cut.db"
    step = 1 if EVERY_BYTE else max(1, len(data) // 300)
    sizes = {*range(1, len(data), step), *range(0, len(data) + 1, 4096), 1, 99, 100, 101, len(data) - 1} - {0}
    refused = 0
    for size in sorted(sizes):
        for path in place.glob("cut.db*"):
            path.unlink()
        cut.write_bytes(data[:size])
        try:
            assert judged(cut, clock) == whole, f"{size} of {len(data)} bytes"
        except Error as error:
            assert error.code in ("journal.damaged", "journal.version"), (size, error)  # noqa: PT017
            refused += 1
    assert refused >= len(sizes) * 3 // 4  # a lost last page may hold nothing that is read here


@given(st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_byte_changed_it_is_the_same_state_or_an_error(data: st.DataObject) -> None:
    """A bit that flips on the disk changes nothing that matters, or is found."""
    clock = Fake()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "journal.db"
        journal = opened(path, clock)
        for n in range(1, 5):
            journal.append(NAME, event(n))
        whole = journal.state(NAME)
        journal.close()
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        try:
            assert judged(path, clock) == whole
        except Error as error:
            assert error.code in ("journal.damaged", "journal.other_program", "journal.version", "store.disk"), error  # noqa: PT017


def test_a_torn_write_ahead_log_gives_an_earlier_state_and_never_another(place: Path, clock: Fake) -> None:
    """Power fails in the middle of an append: what was appended before is there, the rest is not, at every cut."""
    path = place / "journal.db"
    journal = opened(path, clock)
    states = [State(name=NAME), *(journal.append(NAME, event(n)).state for n in range(1, 5))]
    database, log = path.read_bytes(), path.with_name("journal.db-wal").read_bytes()
    torn = place / "torn.db"
    last = 0
    for size in [*range(0, len(log), 1 if EVERY_BYTE else 509), len(log)]:
        for old in place.glob("torn.db*"):
            old.unlink()
        torn.write_bytes(database)
        torn.with_name("torn.db-wal").write_bytes(log[:size])
        state = judged(torn, clock)
        assert state in states, f"{size} of {len(log)} bytes"
        assert states.index(state) >= last
        last = states.index(state)
    assert last == 4
    journal.close()


def test_a_newer_version_is_refused_untouched(written: Path, clock: Fake) -> None:
    """A journal of a certagent to come is not guessed at."""
    with sqlite3.connect(written) as db:
        db.execute(f"PRAGMA user_version={VERSION + 1}")
    db.close()
    before = written.read_bytes()
    with pytest.raises(Misconfigured) as caught:
        opened(written, clock)
    assert caught.value.code == "journal.version"
    assert str(VERSION + 1) in caught.value.detail
    assert "newer" in caught.value.hint
    assert written.read_bytes() == before


def test_a_version_that_no_journal_has_is_damage(written: Path, clock: Fake) -> None:
    """A bit of its header was lost."""
    with sqlite3.connect(written) as db:
        db.execute("PRAGMA user_version=-2147483646")
    db.close()
    with pytest.raises(Misconfigured) as caught:
        opened(written, clock)
    assert caught.value.code == "journal.damaged"


def test_something_else_than_a_journal_is_refused(place: Path, clock: Fake) -> None:
    """Not SQLite; a directory; a symlink."""
    path = place / "journal.db"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(Misconfigured, match=r"journal\.damaged"):
        opened(path, clock)
    path.unlink()
    path.mkdir()
    with pytest.raises(Misconfigured, match=r"journal\.path"):
        opened(path, clock)
    path.rmdir()
    (place / "real").touch()
    path.symlink_to(place / "real")
    with pytest.raises(Misconfigured, match=r"journal\.path"):
        opened(path, clock)


def test_the_beginning_of_an_older_one_is_not_taken_for_a_new_one(place: Path, clock: Fake) -> None:
    # a torn page: its first sector is that of the file before there were any tables
    path = place / "journal.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
    before = path.read_bytes()
    journal = opened(path, clock)
    journal.append(NAME, ev.Requested(what="renew"))
    journal.close()
    with path.open("r+b") as file:
        file.write(before[:512])
    with pytest.raises(Error) as caught:
        opened(path, clock)
    assert caught.value.code == "journal.damaged"


def test_one_that_is_refused_is_not_held_open(written: Path, clock: Fake) -> None:
    # closing it later, when it happens to be collected, would delete a log that somebody may be copying
    data = written.read_bytes()
    written.write_bytes(data[: len(data) // 2])
    with pytest.raises(Error) as caught:
        opened(written, clock)
    assert caught.value.code == "journal.damaged"
    held = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.exists()]
    assert not [path for path in held if path.startswith(str(written))]


def test_a_time_that_was_changed_is_found(written: Path, clock: Fake) -> None:
    # more of it than has passed would make every wait shorter than it is
    with sqlite3.connect(written) as db:
        db.execute("UPDATE elapsed SET elapsed_s = elapsed_s + 86400")
    db.close()
    with pytest.raises(Error) as caught:
        opened(written, clock)
    assert caught.value.code == "journal.damaged"


def test_only_its_owner_may_read_it(written: Path, clock: Fake) -> None:
    """0600, the files beside it included, whatever the umask."""
    journal = opened(written, clock)
    journal.append(NAME, event(9))
    modes = {path.name: path.stat().st_mode & 0o777 for path in written.parent.iterdir()}
    assert modes["journal.db"] == 0o600
    assert set(modes.values()) == {0o600}
    journal.close()


# ---- time -----------------------------------------------------------------------------------------------------------

MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0, 1e5)),
        st.tuples(st.just("set"), st.floats(-1e7, 1e7)),
        st.tuples(st.just("boot"), st.floats(0, 1e3)),
        st.tuples(st.just("reopen"), st.just(0.0)),
        st.tuples(st.just("append"), st.just(0.0)),
    ),
    max_size=20,
)


@given(MOVES)
@QUICK
def test_elapsed_time_never_goes_back_and_is_never_more_than_it_was(moves: list[tuple[str, float]]) -> None:
    """Whoever sets the clock, and however often the host is started anew: waits are never shortened by it."""
    clock = Fake()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "journal.db"
        journal = opened(path, clock)
        journal.append(NAME, event(0))
        begin = last = kept = journal.now().elapsed_s
        really = 0.0
        for n, (move, amount) in enumerate(moves, 1):
            match move:
                case "pass":
                    clock.pass_(amount)
                    really += amount
                case "set":
                    clock.now += timedelta(seconds=amount)
                case "boot":
                    journal.close()
                    clock.boot_id, clock.boot_s = f"boot {n}", amount
                    clock.now += timedelta(seconds=amount)
                    really += amount
                    journal = opened(path, clock)
                case "reopen":
                    journal.close()
                    journal = opened(path, clock)
                case _:
                    journal.append(NAME, event(n))
            now = journal.now().elapsed_s
            assert now >= kept if move == "boot" else now >= last
            last = now
            if move == "append":
                kept = now
            assert now - begin <= really + 1e-3
        elapsed = [entry.at.elapsed_s for entry in journal.history(NAME)]
        assert elapsed == sorted(elapsed)
        journal.close()


def test_within_a_boot_time_passes_as_it_does_and_between_boots_nothing_is_counted(place: Path, clock: Fake) -> None:
    """A night switched off counts for nothing, nor does a boot before the journal was opened in it."""
    path = place / "journal.db"
    journal = opened(path, clock)
    journal.append(NAME, event(1))
    first = journal.now()
    clock.pass_(60)
    assert journal.now().since(first) == timedelta(seconds=60)
    journal.append(NAME, event(2))
    journal.close()
    clock.now += timedelta(hours=8)
    clock.boot_id, clock.boot_s = "second", 30.0
    journal = opened(path, clock)
    assert journal.now().since(first) == timedelta(seconds=60)
    journal.append(NAME, event(3))
    clock.now -= timedelta(days=300)
    clock.pass_(5)
    assert journal.now().since(first) == timedelta(seconds=65)
    journal.close()


def test_wakes_are_those_that_were_noted_last(place: Path, clock: Fake) -> None:
    """A date a certificate; an append forgets it, since everything may be different now."""
    journal = opened(place / "journal.db", clock)
    journal.sleep(NAME, timedelta(hours=1), "nobody there yet")
    assert journal.wakes() == {}
    journal.append(NAME, event(1))
    assert journal.wakes() == {}
    journal.sleep(NAME, timedelta(hours=1), "caches")
    assert journal.wakes()[NAME].at == START + timedelta(hours=1)
    assert journal.wakes()[NAME].why == "caches"
    journal.append(NAME, event(2))
    assert journal.wakes() == {}
    journal.close()


def test_due_are_those_whose_date_has_come_and_those_that_something_happened_to(place: Path, clock: Fake) -> None:
    """The rest is only told by the earliest of its dates, however much of it there is."""
    journal = opened(place / "journal.db", clock)
    assert due(journal) == ([], None)
    for name, hours in (("a", 1), ("b", 2), ("c", 3)):
        journal.append(name, event(1))
        journal.sleep(name, timedelta(hours=hours), "caches")
    assert due(journal) == ([], timedelta(hours=1))
    journal.append("c", event(1))
    assert due(journal) == (["c"], timedelta(hours=1))
    clock.pass_(3 * 3600)
    names, following = due(journal)
    assert (sorted(names), following) == (["a", "b", "c"], None)
    journal.close()


@pytest.mark.parametrize(
    ("set_by", "left"),
    [
        (timedelta(hours=-6), timedelta(hours=1)),
        (timedelta(days=-5 * 365), timedelta(hours=1)),
        (timedelta(minutes=50), timedelta(minutes=10)),
        (timedelta(hours=1), timedelta(0)),
    ],
)
def test_a_clock_that_is_set_delays_nothing(place: Path, clock: Fake, set_by: timedelta, left: timedelta) -> None:
    """Back by hours, or years that it was ahead: what is due is so after the delay all the same. Forward: at its date,
    since a renewal may be due then. What is left, and what people are told, is by the clock that comes first.
    """
    journal = opened(place / "journal.db", clock)
    for name, hours in (("a", 1), ("b", 3)):
        journal.append(name, event(1))
        journal.sleep(name, timedelta(hours=hours), "check_interval")
    clock.now += set_by
    assert due(journal) == (([], left) if left else (["a"], timedelta(hours=2)))
    assert journal.wakes()["a"].at == clock.now + left
    clock.pass_(left.total_seconds())
    assert due(journal) == (["a"], timedelta(hours=2))
    assert journal.wakes()["a"].at == clock.now
    journal.close()


def test_what_is_idle_costs_nothing_however_much_of_it_there_is(place: Path, clock: Fake) -> None:
    """By the indexes: SQLite takes as few steps for ten thousand as for one."""
    journal = opened(place / "journal.db", clock)
    journal.append(NAME, event(1))
    journal.sleep(NAME, timedelta(hours=1), "check_interval")
    db = connection(journal)
    steps: list[int] = []

    def asked() -> None:
        steps.append(0)

        def stepped() -> None:
            steps[-1] += 1

        db.set_progress_handler(stepped, 1)
        assert due(journal) == ([], timedelta(hours=1))
        db.set_progress_handler(None, 0)

    asked()
    db.execute(
        "INSERT INTO head WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<10000)"
        " SELECT 'mx'||i, seq, version, state, again, digest, wake_at+i, wake_s+i, why FROM n, head"
    )
    asked()
    assert steps[1] <= steps[0] + 20
    journal.close()


# ---- several at once, and a full disk -------------------------------------------------------------------------------


def test_readers_see_whole_states_while_another_process_writes(place: Path) -> None:
    """Each read gives a state that was once true, and never an older one than the read before."""
    path = place / "journal.db"
    program = f"""
import sys
from pathlib import Path
from certagent.host.clock import SystemClock
from certagent.lifecycle import events as ev
from tests.store.opened import opened
journal = opened(Path({str(path)!r}))
for n in range(150):
    journal.append({NAME!r}, ev.KeysMade(keys=f"k{{n}}", spki={{}}), ev.KeysMade(keys=f"x{{n}}", spki={{}}))
"""
    from certagent.host.clock import SystemClock

    opened(path, SystemClock()).close()
    writer = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    seen: list[list[int]] = []
    errors: list[BaseException] = []

    def reads() -> None:
        mine: list[int] = []
        try:
            journal = opened(path, SystemClock())
            while not mine or mine[-1] < 300:
                known = journal.read(NAME)
                assert known.seq == len(known.state.keys)
                assert known.seq % 2 == 0
                mine.append(known.seq)
                assert writer.poll() in (None, 0)
            journal.verify(NAME)
            journal.close()
        except BaseException as error:  # handed to the test
            errors.append(error)
        seen.append(mine)

    threads = [threading.Thread(target=reads) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert writer.wait(60) == 0
    assert errors == []
    assert all(mine == sorted(mine) and mine[-1] == 300 for mine in seen)


def test_threads_share_one_journal(place: Path, clock: Fake) -> None:
    """Eight certificates at once, one connection: every event of each is there, in its order."""
    journal = opened(place / "journal.db", clock)
    names = [f"mx{n}.example.org" for n in range(8)]

    def writes(name: str) -> None:
        for n in range(20):
            journal.append(name, event(n))

    threads = [threading.Thread(target=writes, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [journal.verify(name) for name in names] == [20] * 8
    journal.close()


def test_a_disk_that_is_full_is_reported_and_nothing_is_half_written(place: Path, clock: Fake) -> None:
    """`store.disk`, transient; the journal is as before, and goes on when there is room (SQLite's own page limit)."""
    journal = opened(place / "journal.db", clock)
    before = journal.append(NAME, event(1))
    db = connection(journal)
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count={pages}")
    caught = None
    for n in range(2, 500):
        try:
            before = journal.append(NAME, *(event(n) for _ in range(20)))
        except Transient as error:
            caught = error
            break
    assert caught
    assert caught.code == "store.disk"
    assert "full" in caught.detail
    assert caught.hint
    assert journal.read(NAME) == before
    assert journal.verify(NAME) == before.seq
    db.execute("PRAGMA max_page_count=100000")
    assert journal.append(NAME, event(1000)).seq == before.seq + 1
    journal.close()
    assert judged(place / "journal.db", clock).keys[-1].id == "k1000"


def test_a_disk_that_fails_at_the_last_write_leaves_nothing_half_written(place: Path, clock: Fake) -> None:
    """At whichever byte of the log: a limit on the size of files makes the kernel refuse it (setrlimit(2))."""
    journal = opened(place / "journal.db", clock)
    before = journal.append(NAME, event(1))
    log = (place / "journal.db-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for more in (0, 1, 24, 4096, 4120, 9000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (log + more, hard))
        try:
            with pytest.raises(Transient, match=r"disk.*store\.disk"):
                journal.append(NAME, *(event(n) for n in range(2, 30)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert journal.read(NAME) == before
        assert journal.verify(NAME) == 1
    assert journal.append(NAME, event(2)).seq == 2
    journal.close()


def test_another_writer_that_holds_the_file_is_reported(
    place: Path, clock: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not waited for without end."""
    monkeypatch.setattr("certagent.store.dbfile._BUSY_S", 0.1)
    journal = opened(place / "journal.db", clock)
    other = sqlite3.connect(place / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Transient) as caught:
        journal.append(NAME, event(1))
    assert caught.value.code == "store.disk"
    assert "locked" in caught.value.detail
    other.execute("ROLLBACK")
    other.close()
    assert journal.append(NAME, event(1)).seq == 1
    journal.close()
