"""Checks for authors of a store: one that passes `store_suite` can carry the journal.

    from certagent.testing import store_suite

    @pytest.mark.parametrize("check", store_suite, ids=lambda check: check.__name__)
    def test_store(check):
        check(lambda clock: MyStore(options, clock))

Each check is a plain function of `open_store(clock)`, which opens the same store each time within one check, as
another process would, and an empty one in the next check. Its docstring is the rule, and it raises AssertionError if
that is broken. Nothing here waits: the clock is set by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from certagent.errors import Error
from certagent.facts.moment import ClockId, Instant, Reading
from certagent.host.clock import Clock
from certagent.store.journal import Journal, Known
from certagent.store.protocol import LONGEST, Store
from certagent.store.subject import SubjectKind

Open = Callable[[Clock], Store]
StoreCheck = Callable[[Open], None]
store_suite: list[StoreCheck] = []
HOUR = timedelta(hours=1)
LEASE_S = 60.0
"""Of any length: the checks move the clock themselves."""


def _check(check: StoreCheck) -> StoreCheck:
    store_suite.append(check)
    return check


# -- a world of two hosts, and a subject that only counts --------------------------------------------------------------


class HandClock:
    """The clocks of a host, set by hand."""

    def __init__(self, host: str = "one") -> None:
        self.time = datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.host, self.boot, self.seconds = host, 1, 1000.0

    def wall(self) -> datetime:
        """See `Clock`."""
        return self.time

    def reading(self) -> Reading:
        """See `Clock`."""
        return Reading(ClockId(self.host, f"boot {self.boot}"), self.seconds)

    def passes(self, seconds: float) -> None:
        """Time goes by."""
        self.time += timedelta(seconds=seconds)
        self.seconds += seconds

    def reboots(self) -> None:
        """The host starts again."""
        self.boot, self.seconds = self.boot + 1, 5.0


class Said(Struct, frozen=True, tag=True):
    """Something happened."""

    what: str


class Observed(Struct, frozen=True, tag=True):
    """Something was seen."""

    what: str


class Tale(Struct, frozen=True):
    """Everything that happened, and when something was seen last."""

    said: tuple[str, ...] = ()
    seen_at: Instant | None = None


def _new(_name: str) -> Tale:
    return Tale()


def _fold(tale: Tale, event: Said | Observed, now: Instant) -> Tale:
    return Tale((*tale.said, event.what), tale.seen_at) if isinstance(event, Said) else Tale(tale.said, now)


def _topic(event: Said | Observed) -> str | None:
    return "seen" if isinstance(event, Observed) else None


TALE: SubjectKind[Tale, Said | Observed] = SubjectKind("tale", Said | Observed, Tale, _new, _fold, 1, _topic)
Tales = Journal[Tale, Said | Observed]


def _tales(store: Store) -> Tales:
    return Journal(store, TALE)


@contextmanager
def _refused(code: str) -> Generator[None]:
    try:
        yield
    except Error as error:
        if error.code != code:
            raise AssertionError(f"{error} in place of {code}") from error
        return
    raise AssertionError(f"nothing was raised in place of {code}")


# -- rows and heads ----------------------------------------------------------------------------------------------------


@_check
def what_was_appended_is_there(open_store: Open) -> None:
    """For this store and for every other one, also after a close: each subject has its rows, in their order."""
    clock = HandClock()
    first = _tales(open_store(clock))
    assert first.append("a", Said("x"), Said("y")) == Known(2, Tale(("x", "y")))
    clock.passes(5)
    first.append("b", Said("z"))
    first.close()
    second = _tales(open_store(clock))
    assert second.store.subjects() == ["tale/a", "tale/b"]
    assert list(second.states(["b", "a", "none"])) == [Tale(("z",)), Tale(("x", "y")), Tale()]
    entries = list(second.history("a"))
    assert [(entry.seq, entry.event, entry.clock) for entry in entries] == [
        (1, Said("x"), second.store.clock),
        (2, Said("y"), second.store.clock),
    ]
    assert [entry.seq for entry in second.history("a", 1)] == [2]
    assert second.verify("a") == 2
    second.close()


@_check
def rows_come_after_the_expected_one(open_store: Open) -> None:
    """`journal.conflict` otherwise, and nothing is changed."""
    store = open_store(HandClock())
    tales = _tales(store)
    tales.append("a", Said("x"))
    rows, found = store.read("tale/a", 0)
    assert found.head
    with _refused("journal.conflict"):
        store.append("tale/a", 0, rows, found.head)
    with _refused("journal.conflict"):
        store.append("tale/a", 2, [], found.head)
    with _refused("journal.conflict"):
        tales.append("a", Said("y"), expected=0)
    assert store.read("tale/a", 0) == (rows, found)
    assert tales.append("a", Said("y"), expected=1).seq == 2
    store.close()


@_check
def a_head_moves_without_a_row(open_store: Open) -> None:
    """What is seen again and is the same: the date is kept, and nothing else."""
    clock = HandClock()
    store = open_store(clock)
    tales = _tales(store)
    tales.append("a", Said("x"), Observed("sun"))
    for _ in range(9):
        clock.passes(3600)
        tales.append("a", Observed("sun"))
    assert tales.read("a") == Known(2, Tale(("x",), store.now()))
    assert tales.verify("a") == 2
    assert [(entry.seq, entry.again) for entry in tales.history("a", 1)] == [(2, False), (2, True)]
    then = store.now()
    clock.passes(60)
    tales.append("a", Observed("rain"))
    assert [(entry.at, entry.event) for entry in tales.history("a")][2:] == [
        (then, Observed("sun")),
        (store.now(), Observed("rain")),
    ]
    assert tales.verify("a") == 4
    store.close()


# -- one writer --------------------------------------------------------------------------------------------------------


@_check
def there_is_one_writer(open_store: Open) -> None:
    """`lock.busy` for every other one, until the lease is given back, or its time is over without a sign of life."""
    clock = HandClock()
    one, two = open_store(clock), open_store(clock)
    one.lease("renew", LEASE_S)
    with _refused("lock.busy"):
        two.lease("daemon", LEASE_S)
    with _refused("lock.busy"):
        _tales(two).append("a", Said("y"))
    one.release()
    two.lease("daemon", LEASE_S)
    with _refused("lock.busy"):
        one.lease("renew", LEASE_S)
    clock.passes(LEASE_S - 1)
    _tales(two).append("a", Said("y"))
    clock.passes(LEASE_S - 1)
    with _refused("lock.busy"):
        one.lease("renew", LEASE_S)
    clock.passes(1)
    one.lease("renew", LEASE_S)
    one.lease("renew", LEASE_S)
    one.close()
    two.close()


@_check
def who_stood_still_appends_nothing(open_store: Open) -> None:
    """`lease.lost` once another has taken over, also if only a date would move; the rows are those of the other."""
    clock = HandClock()
    one, two = open_store(clock), open_store(clock)
    for late in (Observed("sun"), Said("late")):
        one.lease("daemon", LEASE_S)
        _tales(one).append("a", Said("x"), Observed("sun"))
        clock.passes(LEASE_S)
        two.lease("renew", LEASE_S)
        before = two.read("tale/a", 0)
        with _refused("lease.lost"):
            _tales(one).append("a", late)
        with _refused("lock.busy"):
            _tales(one).append("a", late)
        one.release()
        assert two.read("tale/a", 0) == before
        _tales(two).append("a", Said("y"))
        two.release()
    assert _tales(one).state("a").said == ("x", "y") * 2
    one.close()
    two.close()


@_check
def a_lease_of_this_host_ends_with_its_boot(open_store: Open) -> None:
    """The process that had it is gone. The same if the caller knows that nobody else on this host can have it."""
    clock = HandClock()
    one, two = open_store(clock), open_store(clock)
    one.lease("daemon", LEASE_S)
    two.lease("renew", LEASE_S, alone=True)
    clock.reboots()
    three = open_store(clock)
    three.lease("daemon", LEASE_S)
    for store in (one, two, three):
        store.close()


@_check
def a_lease_of_another_host_is_waited_for(open_store: Open) -> None:
    """Its time counts from when its last sign of life was read here: no clock of the other host says anything here."""
    here, there = HandClock("here"), HandClock("there")
    there.passes(1e6)
    one, two = open_store(there), open_store(here)
    one.lease("daemon", LEASE_S)
    with _refused("lock.busy"):
        two.lease("renew", LEASE_S, alone=True)
    here.passes(LEASE_S - 1)
    there.passes(LEASE_S - 1)
    _tales(one).append("a", Said("x"))
    with _refused("lock.busy"):
        two.lease("renew", LEASE_S)
    here.passes(LEASE_S - 1)
    with _refused("lock.busy"):
        two.lease("renew", LEASE_S)
    here.passes(1)
    two.lease("renew", LEASE_S)
    with _refused("lease.lost"):
        _tales(one).append("a", Said("late"))
    one.close()
    two.close()


# -- time --------------------------------------------------------------------------------------------------------------


@_check
def time_passes_within_a_boot(open_store: Open) -> None:
    """For every store of this host alike, whatever is done to the wall clock, and also while none is open."""
    clock = HandClock()
    one = open_store(clock)
    begin = one.now()
    clock.passes(100)
    clock.time -= timedelta(days=1000)
    assert one.now().since(begin) == timedelta(seconds=100)
    one.close()
    clock.passes(100)
    two = open_store(clock)
    assert two.now().since(begin) == timedelta(seconds=200)
    assert two.now().wall == clock.wall()
    two.close()


@_check
def nothing_between_two_clocks_counts(open_store: Open) -> None:
    """After a reboot the count goes on from the last row: what was never read from a clock has not surely passed."""
    clock = HandClock()
    one = open_store(clock)
    begin = one.now()
    clock.passes(100)
    _tales(one).append("a", Said("x"))
    one.close()
    clock.passes(1e6)
    clock.reboots()
    two = open_store(clock)
    assert two.now().since(begin) == timedelta(seconds=100)
    clock.passes(50)
    two.close()
    three = open_store(clock)
    assert three.now().since(begin) == timedelta(seconds=150)
    three.close()


@_check
def a_reader_counts_from_when_it_read(open_store: Open) -> None:
    """No host ever takes more time to have passed since a row than has, whichever clock ran ahead."""
    here, there = HandClock("here"), HandClock("there")
    one, two = open_store(here), open_store(there)
    assert one.now().since(two.now()) == timedelta(0)
    for clock in (here, there):
        clock.passes(1000)
    for writer, reader in ((one, two), (two, one), (one, two)):
        written = _tales(writer).append("a", Observed("sun"), Said("x")).state.seen_at
        writer.release()
        assert written
        assert timedelta(0) <= reader.now().since(written) <= timedelta(0)
        for clock in (here, there):
            clock.passes(10)
        assert timedelta(0) <= reader.now().since(written) <= timedelta(seconds=10)
        assert writer.now().since(written) == timedelta(seconds=10)
    one.close()
    two.close()


# -- hints -------------------------------------------------------------------------------------------------------------


@_check
def a_hint_is_kept_until_something_happens(open_store: Open) -> None:
    """Its date, by the clock that comes first, and what is waited for; none for what nothing is known of."""
    clock = HandClock()
    store = open_store(clock)
    tales = _tales(store)
    assert store.due() == ([], None)
    tales.sleep("a", HOUR, "nobody there")
    assert store.due() == ([], None)
    for name in "ab":
        tales.append(name, Said("x"))
    assert (store.due(), store.wakes()) == ((["tale/a", "tale/b"], None), {})
    tales.sleep("a", HOUR, "caches")
    assert store.due() == (["tale/b"], HOUR)
    clock.time -= 24 * HOUR
    assert (tales.wakes()["a"].at, tales.wakes()["a"].why) == (clock.time + HOUR, "caches")
    clock.time += 25 * HOUR
    assert store.due() == (["tale/a", "tale/b"], None)
    tales.append("a", Said("y"))
    assert store.wakes() == {}
    store.close()


@_check
def no_hint_is_far_away(open_store: Open) -> None:
    """A week at most."""
    store = open_store(HandClock())
    _tales(store).append("a", Said("x"))
    _tales(store).sleep("a", timedelta(days=5000), "for long")
    assert store.due() == ([], LONGEST)
    store.close()
