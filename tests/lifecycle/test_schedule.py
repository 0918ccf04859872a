"""When: dates and back-off, each held to the rule it comes from."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from certagent.lifecycle import events as ev
from certagent.lifecycle import schedule, steps
from certagent.lifecycle.state import Failure, State
from tests.lifecycle.play import CA, ECDSA, RSA, SPEC, START, Life, about, chain_of, lane_of, later

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("life", "backstop", "last"),
    [
        (90 * DAY, 30 * DAY, 15 * DAY),
        (45 * DAY, 15 * DAY, 7.5 * DAY),
        (10 * DAY, 10 * DAY / 3, 10 * DAY / 6),
        (160 * HOUR, 80 * HOUR, 160 * HOUR / 6),
    ],
)
def test_a_third_of_the_lifetime_is_left_or_half_of_a_short_one(
    life: timedelta, backstop: timedelta, last: timedelta
) -> None:
    """Below ten days a certificate is short-lived."""
    chain = chain_of("aa", life=life)
    assert chain.not_after - schedule.backstop(chain) == backstop
    assert chain.not_after - schedule.last_chance(chain) == last


@given(st.timedeltas(HOUR, 400 * DAY))
def test_the_last_chance_comes_after_the_date_it_is_the_last_chance_of(life: timedelta) -> None:
    chain = chain_of("aa", life=life)
    assert chain.not_before < schedule.backstop(chain) < schedule.last_chance(chain) < chain.not_after


def drawn(life: Life, at: timedelta | None, generation: str = "g1", key_type: str = ECDSA) -> None:
    date = None if at is None else START.wall + at
    life.happens(
        ev.RenewalInfo(
            generation=generation,
            key_type=key_type,
            start=date,
            end=date,
            at=date,
            ask_again_s=21600,
            explanation_url="",
            ca=CA,
        )
    )


def test_the_moment_drawn_in_the_cas_window_counts_but_never_beyond_the_last_chance() -> None:
    """RFC 9773; a window of another generation, or none, leaves the share of the lifetime."""
    assert schedule.due(State(name="mx1.example.org")) is None
    life = Life.published(replace(SPEC, key_types=(ECDSA, RSA)))
    newest = life.state.newest
    assert newest
    chain = min(newest.chains.values(), key=lambda chain: chain.not_after)
    share = schedule.backstop(chain), "a third of the lifetime is left"
    assert schedule.due(life.state) == share
    assert chain == newest.chains[ECDSA]
    drawn(life, 20 * DAY, generation="g0")
    assert schedule.due(life.state) == share
    drawn(life, None)
    assert schedule.due(life.state) == share
    drawn(life, 20 * DAY)
    assert schedule.due(life.state) == (START.wall + 20 * DAY, "the CA's renewal window (RFC 9773)")
    drawn(life, 89 * DAY)
    other = newest.chains[RSA]
    assert schedule.due(life.state) == (schedule.backstop(other), share[1]), "the other algorithm's"
    drawn(life, 89 * DAY, key_type=RSA)
    assert schedule.due(life.state) == (schedule.last_chance(chain), "the CA's renewal window (RFC 9773)")


def failure(
    code: str,
    count: int,
    *,
    kind: str = "transient",
    after: float | None = None,
    jitter: float = 0,
    lane: str = "vault",
) -> Failure:
    concerns, quick = about(code, kind)
    refusals = count if concerns == "ca" else 0
    return Failure(
        lane_of(lane), kind, code, "", "", count, START, START, after, jitter, concerns, quick, refusals=refusals
    )


def waits(code: str, **words: str) -> list[float]:
    found = (failure(code, n, **words) for n in range(1, 10))  # pyright: ignore[reportArgumentType]
    return [schedule.retry_in(f, START).total_seconds() for f in found]


def test_what_a_ca_refused_is_tried_again_as_it_asks_for() -> None:
    """Let's Encrypt's integration guide: a minute, ten, a hundred, daily. Where nothing was refused, once at once."""
    assert waits("ca.rejected") == waits("pem.chain") == [60, 600, 6000, *[86400] * 6]
    assert waits("ca.unreachable") == waits("ca.busy") == [5, 60, 600, 6000, *[86400] * 5]


def test_a_ca_that_does_not_say_when_to_renew_is_asked_again_within_six_hours() -> None:
    """RFC 9773 section 4.3.3: it counts against no limit, and a revocation is not to be missed for a day."""
    assert waits("ca.rejected", lane="renewal info") == [60, 600, 6000, *[21600] * 6]
    assert waits("ca.unreachable", lane="renewal info") == [5, 60, 600, 6000, *[21600] * 5]


@pytest.mark.parametrize(
    ("left", "wait"),
    [
        (timedelta(days=40), timedelta(days=7)),
        (timedelta(days=20), timedelta(days=5)),
        (timedelta(days=10), timedelta(days=2.5)),
        (timedelta(days=-10), timedelta(days=2.5)),
    ],
)
def test_a_cas_wait_leaves_tries_before_what_is_served_runs_out(left: timedelta, wait: timedelta) -> None:
    """Of 90 days: until 15 are left, then a sixth of those. What is ours, and renewal information, have no such end."""
    chain = chain_of("aa", begin=START.wall + left - timedelta(days=90))
    week = 7 * 86400.0
    assert schedule.retry_after(failure("ca.rate_limited", 1, after=week), [chain]) == wait
    for lane, code in (("publish x", "dns.x"), ("order ecdsa-p256", "ca.rate_limited")):
        assert schedule.retry_after(failure(code, 1, after=week, lane=lane)) == timedelta(days=7)
    short = chain_of("aa", begin=START.wall, life=timedelta(minutes=2))
    assert schedule.retry_after(failure("ca.rate_limited", 1, after=week), [short]).total_seconds() == 100, (
        "not hammered"
    )


def test_a_window_from_before_the_certificate_is_worth_nothing() -> None:
    """And a CA that wants everything renewed at once, again and again, is obeyed more and more seldom."""
    life = Life.published()
    newest = life.state.newest
    assert newest
    drawn(life, -10 * DAY)
    assert schedule.due(life.state) == (schedule.backstop(newest.chains[ECDSA]), "a third of the lifetime is left")
    ages: list[int] = []
    for number in range(1, 5):
        before = life.state.newest
        assert before
        drawn(life, life.now.wall - START.wall, generation=before.id)
        life.until(steps.PlaceOrder)
        ages.append(round(life.now.since(before.issued_at) / HOUR))
        life.until(steps.Install)
        assert life.state.hurried == number
        life.until_quiet()
    assert ages[1:] == [6, 24, 7 * 24]
    life.happens(ev.Requested(what="renew"))
    life.until(steps.Install)
    assert life.state.hurried == 0, "what the operator asks for is no hurry of the CA"


def test_what_is_our_own_is_tried_again_within_the_hour() -> None:
    """A repair is seen soon; an operator's mistake, also one that the CA refuses, is tried again like any other."""
    ours = [2, 5, 15, 60, 300, 900, 3600, 3600, 3600]
    assert waits("dns.x") == waits("mta.reload") == waits("ca.terms", kind="misconfigured") == ours


@given(
    st.sampled_from(["dns.x", "ca.busy", "ca.rejected"]),
    st.integers(1, 20),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1),
    st.timedeltas(timedelta(0), DAY),
)
def test_a_retry_is_never_before_its_date_nor_later_than_a_tenth(
    code: str, count: int, after: float | None, jitter: float, passed: timedelta
) -> None:
    """Retry-After is honoured where it is longer (RFC 9110 section 10.2.3); time that passes counts."""
    least = max(schedule.retry_in(failure(code, count), START), timedelta(seconds=after or 0))
    left = schedule.retry_in(failure(code, count, after=after, jitter=jitter), later(START, passed))
    second = timedelta(milliseconds=1)
    assert least - second <= left + passed <= least * (1 + schedule.JITTER) + second


def test_observations_are_eight_per_retire_interval_and_a_quarter_of_the_time_that_it_has_taken() -> None:
    """Not more often than each second, nor more seldom than each quarter of an hour, or the watch."""
    assert schedule.observe_every(SPEC, 80 * timedelta(minutes=1)) == timedelta(minutes=10)
    assert schedule.observe_every(SPEC, DAY) == timedelta(minutes=15)
    assert schedule.observe_every(SPEC, timedelta(seconds=2)) == timedelta(seconds=1)
    assert schedule.observe_every(replace(SPEC, check_interval=timedelta(minutes=5)), DAY) == timedelta(minutes=5)
    assert schedule.observe_again(timedelta(minutes=4)) == timedelta(minutes=1)
    assert schedule.observe_again(timedelta(0)) == timedelta(seconds=1)
    assert schedule.observe_again(DAY) == timedelta(minutes=15)


def test_a_change_that_is_not_to_be_seen_is_made_again_more_and_more_seldom() -> None:
    assert [schedule.write_again(n).total_seconds() for n in (1, 2, 3, 7, 8, 99)] == [2, 5, 15, 3600, 3600, 3600]


def test_dates_are_reported_in_utc() -> None:
    assert schedule.date(START.wall) == "2027-01-01 00:00:00 UTC"


@pytest.mark.parametrize("lane", ["install postfix", "reload postfix", "verify postfix", "rollback postfix"])
def test_a_deployment_that_stays_open_for_an_hour_wakes_somebody(lane: str) -> None:
    """Counted from its first failure; what the CA or DNS does recovers by itself, or is told by a date."""
    hour = later(START, schedule.ALARM)
    assert schedule.alarms(failure("mta.reload", 9, lane=lane), hour)
    assert not schedule.alarms(failure("mta.reload", 9, lane=lane), later(START, schedule.ALARM - timedelta(seconds=1)))
    assert not schedule.alarms(failure("ca.busy", 9, lane="order ecdsa-p256"), hour)
