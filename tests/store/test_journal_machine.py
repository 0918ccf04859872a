"""The journal as a state machine: appended, slept, closed, killed, cut, torn, written twice; in any order.

What is held at every moment: the state of each certificate is the fold of exactly what was appended; of a damaged copy
it is that, or what it was after an earlier append (a log that ends early), or a clear error; never anything else.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from certagent.errors import Error
from certagent.facts.moment import Instant
from certagent.lifecycle import events as ev
from certagent.lifecycle.fold import fold
from certagent.lifecycle.state import State
from tests.lifecycle.drawn import EVENTS
from tests.lifecycle.test_fold import FIRST
from tests.store.opened import opened
from tests.store.test_journal import Fake, due

NAMES = ("mx1.example.org", "mx2.example.org")
NAME = st.sampled_from(NAMES)
HOUR = timedelta(hours=1)
PAGE, SECTOR = 4096, 512
WHERE = st.floats(0, 1, exclude_max=True)
"""A place in a file, as a share of it."""

States = dict[str, State]


class Life(RuleBasedStateMachine):
    """One journal, and what should be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.path = self.place / "journal.db"
        self.clock = Fake()
        self.boots = 1
        self.really_s = self.kept_s = 0.0
        """The elapsed time since the journal began, and of that, what the last append recorded."""
        self.states: list[States] = [{name: State(name=name) for name in NAMES}]
        """After each append, the first one before any."""
        self.wakes: dict[str, tuple[str, Instant]] = {}
        """What each waits for, and until when by either clock."""
        self.last: tuple[str, list[ev.AnyEvent]] | None = None
        self.before: bytes = b""
        """The file as it was when it was closed the time before last."""
        self.journal = opened(self.path, self.clock)

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.place)

    # -- what an agent does

    @initialize()
    def mail_servers_are_surveyed(self) -> None:
        for name in NAMES:
            self.append(name, list(FIRST))

    @rule(name=NAME, events=st.lists(EVENTS, min_size=1, max_size=3), passed_s=st.sampled_from([0.0, 1.0, 4000.0]))
    def appends(self, name: str, events: list[ev.AnyEvent], passed_s: float) -> None:
        self.clock.pass_(passed_s)
        self.really_s += passed_s
        self.append(name, events)

    def append(self, name: str, events: list[ev.AnyEvent]) -> None:
        now = self.journal.now()
        state = self.states[-1][name]
        for event in events:
            state = fold(state, event, now)
        assert self.journal.append(name, *events).state == state
        self.states.append({**self.states[-1], name: state})
        self.wakes.pop(name, None)
        self.last = name, events[-1:]
        self.kept_s = now.elapsed_s

    @precondition(lambda self: self.last is not None)
    @rule()
    def appends_the_same_once_more(self) -> None:
        # an outcome that is told twice: one event more, and nothing is made twice
        assert self.last is not None
        before = self.states[-1][self.last[0]]
        self.append(*self.last)
        after = self.states[-1][self.last[0]]
        for made in ("keys", "generations", "orders", "challenges", "issued"):
            assert len(getattr(after, made)) == len(getattr(before, made)), made

    @rule(name=NAME)
    def appends_what_does_not_fold(self, name: str) -> None:
        # a defect in the middle of an append leaves nothing of it behind
        unknown = ev.Installed(server="nobody", generation="g1")
        with pytest.raises(KeyError):
            self.journal.append(name, ev.Requested(what="renew"), unknown)

    @rule(name=NAME, why=st.sampled_from(["caches", "check_interval"]))
    def sleeps(self, name: str, why: str) -> None:
        self.journal.sleep(name, HOUR, why)
        now = self.journal.now()
        self.wakes[name] = why, Instant(now.wall + HOUR, now.elapsed_s + 3600)

    # -- what happens to it

    @rule(boots=st.booleans(), passed_s=st.sampled_from([0.0, 60.0]), stepped_s=st.sampled_from([0.0, -7200.0, 7200.0]))
    def is_closed_and_opened_again(self, boots: bool, passed_s: float, stepped_s: float) -> None:
        self.before = self.path.read_bytes()
        self.journal.close()
        assert not self.path.with_name("journal.db-wal").exists(), "all of it is in the one file"
        self.clock.pass_(passed_s)
        self.really_s += passed_s
        self.clock.now += timedelta(seconds=stepped_s)
        if boots:
            self.boots += 1
            self.clock.boot_id, self.clock.boot_s = f"boot {self.boots}", 5.0
        self.journal = opened(self.path, self.clock)

    @rule()
    def is_killed(self) -> None:
        # what the files hold at this moment is all that the next one has
        with self.copied() as copy:
            assert self.judged(copy) == self.states[-1]

    @rule(where=WHERE)
    def power_fails_in_the_middle_of_the_log(self, where: float) -> None:
        with self.copied() as copy:
            log = copy.with_name(copy.name + "-wal")
            if log.exists():
                log.write_bytes(log.read_bytes()[: int(where * log.stat().st_size)])
            # every certificate as it was after one and the same append
            assert self.judged(copy) in (None, *self.states)

    @rule(where=WHERE, to_page=st.booleans())
    def the_file_is_cut(self, where: float, to_page: bool) -> None:
        with self.copied(whole=True) as copy:
            data = copy.read_bytes()
            size = int(where * len(data))
            copy.write_bytes(data[: size // PAGE * PAGE if to_page else size])
            if copy.stat().st_size:  # an empty file is a new journal: nobody could tell
                assert self.judged(copy) in (None, self.states[-1])

    @rule(where=WHERE, sectors=st.integers(1, 8), fill=st.sampled_from(["zeros", "ones", "before"]))
    def a_page_is_torn(self, where: float, sectors: int, fill: str) -> None:
        # some sectors of one page are not what was written: never written, or what was there before
        with self.copied(whole=True) as copy:
            data = bytearray(copy.read_bytes())
            at = int(where * len(data)) // SECTOR * SECTOR
            size = min(sectors * SECTOR, PAGE - at % PAGE)
            old = self.before[at : at + size].ljust(size, b"\0")
            data[at : at + size] = {"zeros": bytes(size), "ones": b"\xff" * size, "before": old}[fill]
            copy.write_bytes(data)
            assert self.judged(copy) in (None, self.states[-1])

    # -- what is always so

    @invariant()
    def it_holds_what_was_appended(self) -> None:
        for name, state in self.states[-1].items():
            assert self.journal.state(name) == state
            assert self.journal.verify(name) == self.journal.read(name).seq
        assert list(self.journal.states(NAMES)) == [self.states[-1][name] for name in NAMES]
        assert self.kept_s <= self.journal.now().elapsed_s <= self.really_s, "waits never begin anew, and are never cut"

    @invariant()
    def it_tells_who_is_due_by_the_clock_that_comes_first(self) -> None:
        now = self.journal.now()
        left = {n: min(at.wall - now.wall, at.since(now)) for n, (_, at) in self.wakes.items()}
        later = {name: delay for name, delay in left.items() if delay > timedelta(0)}
        names, following = due(self.journal)
        assert set(names) == set(self.journal.names()) - later.keys()
        assert following == min(later.values(), default=None)
        told = {name: (wake.why, wake.at - now.wall) for name, wake in self.journal.wakes().items()}
        assert told == {name: (why, left[name]) for name, (why, _) in self.wakes.items()}

    class Copied:
        """A copy of the files, in a directory of its own."""

        def __init__(self, path: Path) -> None:
            self.path = path

        def __enter__(self) -> Path:
            return self.path

        def __exit__(self, *_: object) -> None:
            shutil.rmtree(self.path.parent)

    def copied(self, *, whole: bool = False) -> Copied:
        """As a killed process leaves the files; `whole`: with everything in the one file, as `close` leaves it."""
        place = Path(tempfile.mkdtemp())
        for path in self.place.glob("journal.db*"):
            with suppress(FileNotFoundError):
                shutil.copy(path, place)
        copy = place / "journal.db"
        if whole:
            opened(copy, self.clock).close()
        return self.Copied(copy)

    def judged(self, path: Path) -> States | None:
        """The states in a copy, every event verified; None if it is refused, clearly."""
        try:
            journal = opened(path, self.clock)
        except Error as error:
            return self.refused(error)
        try:
            for name in NAMES:
                journal.verify(name)
            assert journal.now().elapsed_s <= self.journal.now().elapsed_s, "waits would be shorter than they are"
            return {name: journal.state(name) for name in NAMES}
        except Error as error:
            return self.refused(error)
        finally:
            journal.close()

    def refused(self, error: Error) -> None:
        assert error.code in ("journal.damaged", "journal.other_program", "journal.version"), error
        assert error.hint
        assert str(self.place.parent) in error.detail


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=60,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
