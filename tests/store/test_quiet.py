"""What is seen again and is the same adds no row: the laws of the certificate's fold that make this exact."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from certagent.agent.certificate import CERTIFICATE
from certagent.facts.moment import Instant
from certagent.lifecycle import events as ev
from certagent.lifecycle.fold import fold
from certagent.lifecycle.state import State
from certagent.store.sqlite import Sqlite
from certagent.testing import Memory, Shared
from certagent.testing.store import HandClock
from tests.lifecycle.drawn import EVENTS
from tests.lifecycle.test_fold import FIRST
from tests.store.opened import Certificates, opened

NAME = "mx1.example.org"
TOPICS = EVENTS.filter(lambda event: CERTIFICATE.topic(event) is not None)
LAWS = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
DELAYS = st.sampled_from([0.0, 1.0, 600.0, 4000.0, 86400.0, 1e6])


def replayed(history: list[tuple[ev.AnyEvent, float]]) -> tuple[State, Instant]:
    """The state after a history, and when that is."""
    clock = HandClock()
    state, now = State(name=NAME), Instant(clock.time, 0.0)
    for event, delay_s in [*((event, 0.0) for event in FIRST), *history]:
        now = Instant(now.wall + timedelta(seconds=delay_s), now.elapsed_s + delay_s)
        state = fold(state, event, now)
    return state, now


def later(then: Instant, delay_s: float) -> Instant:
    return Instant(then.wall + timedelta(seconds=delay_s), then.elapsed_s + delay_s)


HISTORIES = st.lists(st.tuples(EVENTS, DELAYS), max_size=8)


@given(HISTORIES, TOPICS, DELAYS, DELAYS)
@LAWS
def test_once_more_does_what_the_last_time_does(
    history: list[tuple[ev.AnyEvent, float]], event: ev.AnyEvent, first_s: float, second_s: float
) -> None:
    """Seen, and seen twice again, is the same as seen and seen again at the last moment: what is between can go."""
    state, then = replayed([*history, (event, 1.0)])
    once, twice = later(then, first_s), later(then, first_s + second_s)
    assert fold(fold(state, event, once), event, twice) == fold(state, event, twice)


@given(HISTORIES, TOPICS, TOPICS, DELAYS, DELAYS)
@LAWS
def test_topics_do_not_meet(
    history: list[tuple[ev.AnyEvent, float]], one: ev.AnyEvent, other: ev.AnyEvent, first_s: float, second_s: float
) -> None:
    """Two of them, seen before, seen again in either order: the same state. So only the last dates need be kept."""
    assume(CERTIFICATE.topic(one) != CERTIFICATE.topic(other))
    state, then = replayed([*history, (one, 1.0), (other, 1.0)])
    early, late = later(then, first_s), later(then, first_s + second_s)
    assert fold(fold(state, one, early), other, late) == fold(fold(state, other, late), one, early)


@given(st.lists(st.tuples(EVENTS | st.shared(TOPICS, key="often"), DELAYS), max_size=12))
@LAWS
def test_the_journal_has_the_state_of_every_event(history: list[tuple[ev.AnyEvent, float]]) -> None:
    """Whatever went into rows: state and verification are those of all events, one by one."""
    clock = HandClock()
    journal: Certificates = Certificates(Memory(Shared(), clock), CERTIFICATE)
    state = State(name=NAME)
    for event, delay_s in [*((event, 0.0) for event in FIRST), *history]:
        clock.passes(delay_s)
        state = fold(state, event, journal.now())
        assert journal.append(NAME, event).state == state
    assert journal.verify(NAME) == journal.read(NAME).seq <= len(FIRST) + len(history)
    folded = State(name=NAME)
    for entry in journal.history(NAME):
        folded = fold(folded, entry.event, entry.at)
    assert folded == state


@pytest.mark.parametrize("rows", [1, 3])
def test_a_date_that_was_moved_by_hand_is_found(tmp_path: Path, rows: int) -> None:
    """It belongs to the head, which is chained to the last row."""
    clock = HandClock()
    journal = opened(tmp_path / "journal.db", clock)
    proof = ev.Verified(server="postfix", generation="g1", drained=True, served=())
    for _ in range(rows):
        clock.passes(60)
        journal.append(NAME, ev.Requested(what="renew"), proof)
    clock.passes(60)
    journal.append(NAME, proof)
    assert journal.verify(NAME) == 2 * rows
    [entry] = [entry for entry in journal.history(NAME) if entry.again]
    assert (entry.event, entry.at) == (proof, journal.now())
    assert isinstance(journal.store, Sqlite)
    journal.store._db.execute(  # pyright: ignore[reportPrivateUsage]
        "UPDATE head SET again = CAST(replace(again, '12:', '13:') AS BLOB)"
    )
    with pytest.raises(Exception, match=r"does not belong to the last event.*journal\.damaged"):
        journal.verify(NAME)
    journal.close()
