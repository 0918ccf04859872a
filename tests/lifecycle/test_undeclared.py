"""Records at services without `tlsa: true`, and the first swap: what the rules say in cases that seldom meet."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from certagent.facts.dns import Answer, Observation
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.rules import deployment, records, undeclared
from tests.lifecycle.play import MINUTE, SPEC, TLSA_NAME, Life, chain_of, lane_of, unmanaged

ALONE = replace(SPEC, tlsa_names={}, undeclared={TLSA_NAME: ("postfix",)})
OLD = chain_of("ee", "ea")
KEY, ISSUER = f"3 1 1 {OLD.spki}", f"2 1 1 {OLD.issuers[0]}"


def looked(life: Life, *values: str, heard: bool = True) -> None:
    """What the name was seen to have."""
    said = Answer(frozenset(values), 3600) if heard else Unknown("no answer")
    seen = Observation("example.org.", TLSA_NAME, {"ns1./192.0.2.1": said}, "unknown")
    life.happens(ev.Observed(tlsa_name=TLSA_NAME, observation=seen, undeclared=True))


@pytest.fixture
def life() -> Life:
    """The first certificate is there, and the swap is next; the name was observed as empty."""
    life = Life(ALONE)
    life.until(st.Install, unmanaged(OLD))
    return life


def test_it_is_asked_for_before_the_swap(life: Life) -> None:
    assert life.state.tlsa_names[TLSA_NAME].undeclared
    assert isinstance(life.offers(deployment.deploy)[0], st.Install)


@pytest.mark.parametrize(
    ("values", "held"), [((KEY,), True), ((ISSUER,), True), ((f"3 1 1 {'ab' * 32}",), False), ((), False)]
)
def test_only_records_of_what_is_served_hold_the_swap_back(life: Life, values: tuple[str, ...], held: bool) -> None:
    looked(life, *values)
    [offer] = life.offers(deployment.deploy)
    assert isinstance(offer, st.Wait) == held


def test_where_nobody_answers_the_key_stays_until_what_is_served_runs_out(life: Life) -> None:
    looked(life, heard=False)
    assert isinstance(life.offers(deployment.deploy)[0], st.Wait)
    life.passes(timedelta(days=80))
    assert not isinstance(life.offers(deployment.deploy)[0], st.Wait)


def test_records_that_nobody_declared_stay(life: Life) -> None:
    """Also those of a key that certagent saw served and replaced."""
    life.until_quiet()
    looked(life, KEY)
    life.passes(timedelta(days=2))
    assert KEY in life.names.ours
    assert life.offers(records.unpublish) == []
    assert not any(isinstance(offer, st.Publish) for offer in life.offers(records.publish))


def test_what_is_served_is_inspected_once_more_before_it_is_replaced(life: Life) -> None:
    life.passes(2 * MINUTE)
    assert isinstance(life.offers(deployment.deploy)[0], st.Inspect)


@pytest.mark.parametrize(("kind", "waits"), [("misconfigured", True), ("transient", False)])
def test_names_that_were_found_without_meeting_the_server_hold_the_swap_back(kind: str, waits: bool) -> None:
    life = Life(ALONE)
    life.until(st.Install, unmanaged(OLD))
    life.state = replace(life.state, mail_servers={})
    life.fails("inspect postfix", "mta.x", kind)
    assert isinstance(life.offers(deployment.deploy)[0], st.Wait) == waits


def test_another_issuer_of_the_same_key_is_a_reason_to_ask() -> None:
    """A record may pin it."""
    life = Life(replace(ALONE, rotate_key=None))
    life.until_quiet()
    life.happens(ev.Requested(what="renew"))
    assert isinstance(life.until(st.Install), st.Install)
    newest = life.state.newest
    assert newest is not None
    other = replace(newest, chains={kind: replace(one, issuers=("ff" * 32,)) for kind, one in newest.chains.items()})
    life.state = replace(life.state, generations=(*life.state.generations[:-1], other))
    life.passes(timedelta(hours=1))
    assert any(isinstance(offer, st.Observe) for offer in life.offers(undeclared.observe_undeclared))


def test_a_refusal_is_asked_about_at_the_pace_of_failures(life: Life) -> None:
    looked(life, KEY)
    assert isinstance(life.offers(undeclared.observe_undeclared)[0], st.Observe)
    life.fails(f"observe {TLSA_NAME}", "dane.x", "misconfigured")
    following = life.plan()
    assert isinstance(following, st.Wait) or following.lane != lane_of(f"observe {TLSA_NAME}")


def test_a_compromised_key_that_runs_out_is_replaced_though_nobody_answers() -> None:
    """It is certified no more, so that a renewal with it is no way out."""
    life = Life(ALONE)
    life.until_quiet()
    life.happens(ev.Requested(what="emergency"))
    life.until(st.Install)
    looked(life, heard=False)
    assert isinstance(life.offers(deployment.deploy)[0], st.Wait)
    life.passes(timedelta(days=80))
    assert not isinstance(life.offers(deployment.deploy)[0], st.Wait)
