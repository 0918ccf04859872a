"""A DNS provider that publishes late: netcup's twenty minutes, and deSEC's hour of TTL."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from certagent.facts.dns import Answer, Observation
from certagent.lifecycle import caches, gates, schedule
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.forecast import forecast
from certagent.lifecycle.rules import issuance, records, rotation
from certagent.lifecycle.spec import DnsZone
from certagent.report import text, views
from tests.lifecycle.play import ECDSA, MINUTE, RSA, SPEC, START, TLSA_NAME, Life, chain_of, lane_of, later

LAG = timedelta(minutes=20)
LATE = replace(SPEC, zones=(DnsZone("example.org.", LAG), DnsZone("org.")))
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OLD, NEW, BOTH = (frozenset({f"3 1 1 {x * 64}" for x in xs}) for xs in ("a", "b", "ab"))


def superseding(before: frozenset[str], after: frozenset[str], lag: timedelta = LAG) -> ev.Superseding:
    return ev.Superseding(
        tlsa_name=TLSA_NAME,
        before=before,
        before_ttl_s=60,
        after=after,
        after_ttl_s=60,
        publish_lag_s=lag.total_seconds(),
    )


def test_the_zone_of_a_name_is_the_deepest() -> None:
    spec = replace(SPEC, zones=(DnsZone("example.org.", ttl_floor_s=3600), DnsZone("mx1.example.org.", LAG)))
    assert spec.zone_of("_25._tcp.mx1.example.org.").publish_lag == LAG
    assert spec.zone_of("mx1.example.org").publish_lag == LAG
    assert spec.zone_of("amx1.example.org.").ttl_floor_s == 3600
    assert spec.zone_of("example.net.") == DnsZone()
    assert replace(spec, ttl_s=60).published_ttl_s("a.example.org.") == 3600
    assert replace(spec, ttl_s=7200).published_ttl_s("a.example.org.") == 7200


def test_a_forecast_has_the_real_waits() -> None:
    """For the challenges, and for the records to be shown; and a TTL that the provider raises."""

    def waits(life: Life) -> list[tuple[float, str]]:
        found = (item.step for item in forecast(life.spec, life.state, life.now))
        return [(one.delay / MINUTE, one.because) for one in found if isinstance(one, st.Wait)]

    said = waits(Life(LATE))
    assert any(19.9 < m <= 20 and "usually shows the responses by" in why for m, why in said)
    assert any(19.9 < m <= 20 and "not every server has followed" in why for m, why in said)
    assert not any("usually" in why or "followed" in why for _, why in waits(Life()))
    floor = replace(SPEC, ttl_s=60, zones=(DnsZone("example.org.", ttl_floor_s=3600),))
    steps = [item.step for item in forecast(floor, Life(floor).state, START)]
    assert not [one for one in steps if isinstance(one, st.Wait) and "TTL 60 s" in one.because]


def test_a_plan_shows_how_long_the_records_take() -> None:
    """Also if nothing but a renewal in months comes after them."""
    lines = text.timeline(views.planned(forecast(LATE, Life(LATE).state, START))).splitlines()
    published = next(n for n, line in enumerate(lines) if "  publish " in line)
    wait, look = lines[published + 2 : published + 4]
    assert "… 19 min 59 s:" in wait
    assert look.endswith("not every server has followed")


def test_it_is_observed_when_the_time_is_over_and_not_each_second() -> None:
    """Once right after the change; then the provider has its time."""
    life = Life(LATE)
    publish = life.until(st.Publish)
    assert isinstance(publish, st.Publish)
    life.does(
        publish, superseding(frozenset(), publish.values), ev.Published(tlsa_name=TLSA_NAME, values=publish.values)
    )
    life.passes(MINUTE / 60)
    [look] = life.offers(records.observe)
    assert isinstance(look, st.Observe)
    assert look.budget == timedelta(0)
    life.happens(early(life, frozenset()))
    [wait] = life.offers(records.observe)
    assert isinstance(wait, st.Wait)
    assert LAG - MINUTE < wait.delay < LAG
    [again] = life.offers(records.publish)
    assert isinstance(again, st.Wait)
    assert again.because == "the provider has accepted a change that is not to be seen yet"
    assert LAG - MINUTE < again.delay < LAG


def early(life: Life, values: frozenset[str]) -> ev.Observed:
    observation = Observation("example.org.", TLSA_NAME, {"ns1": Answer(values, 60)}, "secure")
    is_early = life.tlsa_name.early(life.now)
    return ev.Observed(
        tlsa_name=TLSA_NAME, observation=observation, early=is_early, lane=lane_of(f"observe {TLSA_NAME}")
    )


def test_the_challenges_get_their_time() -> None:
    """However late it is: a CA that is asked before refuses."""
    life = Life()
    present = life.until(st.Present)
    life.does(present, ev.Presented(key_type=ECDSA, publish_lag_s=LAG.total_seconds(), lane=present.lane))
    [wait] = life.offers(issuance.issue)
    assert isinstance(wait, st.Wait)
    assert wait.delay == LAG
    life.passes(LAG)
    assert [type(offer) for offer in life.offers(issuance.issue)] == [st.Respond]


@pytest.mark.parametrize(("looks_at", "gone"), [((1, 21), 21), ((21,), 21), ((1, 2, 25, 30), 25)])
def test_a_set_that_may_come_late_is_not_gone_before(looks_at: tuple[int, ...], gone: int) -> None:
    """Two changes in a row: the set of the first is given between two observations, and both do not show it."""
    life = Life.published()
    began = life.now
    life.happens(superseding(OLD, BOTH))
    life.happens(superseding(BOTH, NEW))
    for minutes in looks_at:
        life.passes(began.since(life.now) + minutes * MINUTE)
        life.happens(early(life, NEW))
    item = next(one for one in life.tlsa_name.cached if one.values == BOTH)
    assert item.gone_at == later(began, gone * MINUTE)


def test_what_may_come_late_stands_against_a_swap_and_is_looked_for() -> None:
    """With the time that is left."""
    life = Life.published()
    life.happens(superseding(life.in_dns, OLD))
    life.happens(early(life, life.in_dns))
    name = life.names[TLSA_NAME]
    found = gates.obstacles([name], (chain_of("ee"),), life.now)
    late = [one for one in found if "may yet publish" in one.why]
    assert [one.remaining for one in late] == [LAG]
    [wait] = life.offers(records.observe)
    assert isinstance(wait, st.Wait)
    assert "may yet publish what it was given" in wait.because
    assert wait.delay == LAG
    life.passes(LAG)
    assert [type(one) for one in life.offers(records.observe)] == [st.Observe]
    life.happens(early(life, life.in_dns))
    assert not any("may yet publish" in one.why for one in gates.obstacles([name], (chain_of("ee"),), life.now))


def test_the_time_of_a_set_is_not_forgotten_when_it_is_seen() -> None:
    """Nor shortened by a change without one."""
    seen = Observation("example.org.", TLSA_NAME, {"ns1": Answer(OLD, 60)}, "secure")
    [item] = caches.with_set((), OLD, 60, seen, START, 60.0)
    assert item.to_come(START) == MINUTE
    [item] = caches.with_set((item,), OLD, 60, seen, START)
    [item] = caches.after((item,), seen, START)
    assert item.to_come(later(START, MINUTE)) == timedelta(0)
    assert item.due_at == later(START, MINUTE)


def test_keys_are_made_earlier_and_a_roll_needs_longer() -> None:
    """By the time that the provider takes; at the challenges once for each key type."""

    def made_in(life: Life) -> timedelta:
        [wait] = [one for one in life.offers(rotation.make_keys) if isinstance(one, st.Wait)]
        return wait.delay

    quick, late = (replace(spec, standby=False) for spec in (SPEC, LATE))
    life = Life.published(quick)
    before = made_in(life)
    life.spec = late
    assert before - made_in(life) == LAG
    slow = replace(LATE, key_types=(ECDSA, RSA), zones=(DnsZone("example.org.", 10 * HOUR),))
    why = rotation.no_time_to_roll(slow, Life(slow).state, chain_of("aa", life=timedelta(days=3)))
    assert why
    assert "40.0 h for a DNS provider that publishes late, and a day for a CA" in why
    assert (
        rotation.no_time_to_roll(replace(slow, zones=()), Life(slow).state, chain_of("aa", life=timedelta(days=3)))
        is None
    )


def test_after_the_time_the_pace_is_the_usual_one() -> None:
    assert schedule.observe_again(MINUTE, LAG) == LAG - MINUTE
    assert schedule.observe_again(LAG, LAG) == LAG / 4
    assert schedule.write_again(1, LAG) == LAG
    assert schedule.write_again(7, LAG) == HOUR


def test_a_late_provider_hides_no_server_that_goes_back() -> None:
    """While caches of the old set are waited for it is observed as often as before, whatever is to come."""
    life = Life.published(replace(SPEC, standby=False))
    life.happens(ev.Requested(what="rotate"))
    life.until(st.Publish)
    while not isinstance(life.plan(), st.Wait):
        life.until_quiet(limit=1)
    [waits] = life.offers(records.observe)
    assert isinstance(waits, st.Wait)
    assert waits.because.endswith("caches are waited for")
    life.happens(superseding(life.in_dns, life.in_dns | NEW, DAY))
    life.passes(MINUTE / 60)
    life.happens(early(life, life.in_dns))
    [still] = life.offers(records.observe)
    assert isinstance(still, st.Wait)
    assert still.delay >= waits.delay
    assert still.because == waits.because
