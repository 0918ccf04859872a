"""A DNS provider that takes only so many writes a day: they are counted, and the last ones are kept."""

from __future__ import annotations

from datetime import timedelta

from certagent.lifecycle import budget, writes
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.budget import ZoneBudget
from certagent.lifecycle.state import State
from tests.lifecycle.play import CA, ECDSA, MINUTE, START, TLSA_NAME, Life, later

ZONE = "example.org."
HOUR = timedelta(hours=1)


def written(*minutes: int, per_day: int = 5) -> ZoneBudget:
    """A write at each of these minutes."""
    found: tuple[ZoneBudget, ...] = ()
    for minute in minutes:
        found = budget.noted(found, ZONE, per_day, later(START, minute * MINUTE))
    [one] = found or (ZoneBudget(ZONE, per_day),)
    return one


def test_a_write_counts_for_a_day() -> None:
    """Those of an hour together, until a day after the last of them: never too short."""
    one = written(0, 10, 90)
    assert [(w.count, w.last) for w in one.written] == [(2, later(START, 10 * MINUTE)), (1, later(START, 90 * MINUTE))]
    for after, used in ((90, 3), (24 * 60 + 9, 3), (24 * 60 + 10, 1), (24 * 60 + 90, 0)):
        assert one.used(later(START, after * MINUTE)) == used
    assert len(written(*range(0, 5000, 5), per_day=300).written) <= 26


def test_how_long_until_one_more() -> None:
    """A fifth is kept for what is urgent, and nothing goes beyond the whole."""
    now = later(START, 5 * HOUR)
    assert written(0, 100, 200).left(now, urgent=False) == timedelta(0)
    four = written(0, 100, 200, 300)
    assert four.left(now, urgent=False) == 19 * HOUR
    assert four.left(now, urgent=True) == timedelta(0)
    five = written(0, 100, 200, 299, 300)
    assert five.left(now, urgent=True) == 19 * HOUR
    assert five.left(now, urgent=False) == 19 * HOUR + 100 * MINUTE
    assert written(0, per_day=1).left(later(START, MINUTE), urgent=True) == 24 * HOUR - MINUTE
    assert ZoneBudget(ZONE, 1).left(START, urgent=False) == timedelta(0)


def test_several_certificates_have_one_budget() -> None:
    """And other zones have theirs; what does not count any more is forgotten."""
    other = ZoneBudget("hosted.net.", 5, written(0).written)
    both = budget.together((written(0, 10), other, written(5)), ZONE, 5)
    assert both.used(later(START, 20 * MINUTE)) == 3
    assert len(budget.noted((other,), ZONE, 5, later(START, MINUTE))) == 2
    assert [one.zone for one in budget.noted((other,), ZONE, 5, later(START, 25 * HOUR))] == [ZONE]


def spend(life: Life, times: int, zone: str = ZONE) -> None:
    for _ in range(times):
        life.happens(ev.Writing(zone=zone, per_day=10))


def test_what_can_wait_waits_until_then() -> None:
    """The first publication of a roll, challenges and their cleaning; and it says until when."""
    life = Life.published()
    life.looks(life.in_dns)
    life.happens(ev.Requested(what="rotate"))
    order = life.until(st.PlaceOrder)
    spend(life, 8)
    life.until_quiet(limit=1)
    assert isinstance(order, st.PlaceOrder)
    held = writes.held_back(st.Present(key_type=ECDSA, because=""), life.spec, life.state, life.now)
    assert held
    assert held.because.startswith(
        f"challenge {ECDSA}: 8 of 10 writes a day to {ZONE} are used; the rest is kept for what is urgent; next 2027-"
    )
    assert held.delay <= 24 * HOUR
    done = [moment.step for moment in life.until_quiet(limit=6)]
    assert not any(isinstance(step, st.Present) for step in done)
    assert any(isinstance(step, st.Wait) for step in done)
    life.passes(held.delay)
    assert writes.held_back(st.Present(key_type=ECDSA, because=""), life.spec, life.state, life.now) is None


def held(life: Life, step: st.AnyStep) -> bool:
    return writes.held_back(step, life.spec, life.state, life.now) is not None


def test_what_is_urgent_goes_on_to_the_last_write() -> None:
    """The record of what is served, where others are and it is not; and never more than the provider takes."""
    life = Life.published()
    life.looks(life.in_dns)
    spend(life, 9)
    whole = st.Publish(tlsa_name=TLSA_NAME, values=life.in_dns, ttl_s=60, because="")
    assert held(life, whole)
    assert held(life, st.Unpublish(tlsa_name=TLSA_NAME, values=life.in_dns, because=""))
    assert not held(life, st.Reload(server="postfix", because=""))
    life.looks(life.in_dns - life.records("g1"))
    assert not held(life, whole)
    spend(life, 1)
    assert held(life, whole)
    spend(life, 12, "net.")
    assert held(life, whole)


def test_a_certificate_that_runs_out_and_a_compromised_key_are_urgent() -> None:
    """Their challenges, and with the key the record of the next one."""

    def ordered(*events: ev.AnyEvent) -> Life:
        life = Life.published()
        for event in events:
            life.happens(event)
        order = life.until(st.PlaceOrder)
        assert isinstance(order, st.PlaceOrder)
        life.until_quiet(limit=1)
        life.looks(life.in_dns)
        return life

    present, publish = st.Present(key_type=ECDSA, because=""), None
    life = ordered(ev.Requested(what="renew"))
    spend(life, 9, "mx1.example.org")
    spend(life, 9)
    publish = st.Publish(tlsa_name=TLSA_NAME, values=life.in_dns, ttl_s=60, because="")
    assert writes.urgent(present, life.spec, life.state, life.now) is False
    newest = life.state.newest
    assert newest
    life.passes(newest.chains[ECDSA].not_after - timedelta(days=10) - life.now.wall)
    assert writes.urgent(present, life.spec, life.state, life.now)
    life = ordered(ev.Requested(what="emergency"))
    assert writes.urgent(present, life.spec, life.state, life.now)
    assert writes.urgent(publish, life.spec, life.state, life.now)


def test_cleaning_waits_too() -> None:
    """A response too many harms nobody for a day; where nothing was written there is nothing to wait for."""
    life = Life.published()
    life.happens(ev.Requested(what="renew"))
    life.until(st.Respond)
    step = st.CleanUp(challenges=life.state.challenges, because="")
    assert step.challenges
    assert not held(life, step)
    spend(life, 8, "org.")
    spend(life, 8)
    assert held(life, step) == any(f".{c.name}.".endswith(f".{ZONE}") for c in step.challenges)
    unknown = st.Publish(tlsa_name="_25._tcp.never.seen.", values=frozenset(), ttl_s=60, because="")
    assert not held(life, unknown)
    assert State(name="x", ca=CA).budgets == ()
