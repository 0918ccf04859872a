"""The rules of a roll: total and pure over any past; they end every life; and what each says of which facts."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from hypothesis import given, settings
from msgspec.structs import replace

from certagent.facts.tls import Service
from certagent.lifecycle import events as ev
from certagent.lifecycle import gates, planner, schedule
from certagent.lifecycle import steps as st
from certagent.lifecycle.converged import converged
from certagent.lifecycle.planner import plan
from certagent.lifecycle.rules import deployment, disposal, records
from certagent.lifecycle.rules.rule import View
from certagent.lifecycle.spec import MailServer, Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaNames
from tests.lifecycle.drawn import HISTORIES, LIVES, SPECS
from tests.lifecycle.play import (
    MINUTE,
    SPEC,
    STRANGE,
    TLSA_NAME,
    Fault,
    Life,
    because,
    lane_of,
    swapping,
)
from tests.lifecycle.test_fold import folded

# -- over any past ---------------------------------------------------------------------------------------------------


@given(SPECS, HISTORIES)
@settings(max_examples=300, deadline=None)
def test_a_plan_is_a_function_of_what_is_known(spec: Spec, history: list[tuple[timedelta, ev.AnyEvent]]) -> None:
    """Whatever was journaled: no exception, the same answer twice, nothing changed; a wait is a wait; and nothing is
    done whose own failure says to wait.
    """
    state, now = folded(history)[-1]
    before = msgspec.json.encode(state)
    step = plan(spec, state, now)
    assert plan(spec, state, now) == step
    assert plan(spec, msgspec.json.decode(before, type=State), now) == step
    assert msgspec.json.encode(state) == before
    if isinstance(step, st.Wait):
        assert timedelta(0) < step.delay <= spec.check_interval
    elif failure := state.failure(step.lane):
        assert schedule.retry_in(failure, now) <= timedelta(0)
    assert step.because


@given(SPECS, HISTORIES)
@settings(max_examples=300, deadline=None)
def test_nothing_irreversible_is_planned_against_its_gate(
    spec: Spec, history: list[tuple[timedelta, ev.AnyEvent]]
) -> None:
    """By any rule, whether its turn comes or not (house rule 3: none relies on an earlier one)."""
    state, now = folded(history)[-1]
    for offer in (offer for rule in planner.RULES for offer in rule(View.of(spec, state, now))):
        match offer:
            case st.Install(accept_deferrals=False):
                generation = state.generation(offer.generation)
                assert generation
                assert not generation.unmanaged
                assert gates.may_install(TlsaNames(spec, state), offer.server, generation, now) == []
            case st.Publish():
                assert gates.may_publish(TlsaNames(spec, state)[offer.tlsa_name], offer.values) is None
                assert now.since(state.tlsa_names[offer.tlsa_name].observed_at or now) <= schedule.FRESH
            case st.Unpublish():
                assert gates.may_unpublish(TlsaNames(spec, state)[offer.tlsa_name], offer.values) is None
                assert now.since(state.tlsa_names[offer.tlsa_name].observed_at or now) <= schedule.FRESH
            case st.Revoke() | st.Delete():
                served_now = {id_ for at in state.mail_servers.values() for id_ in at.serves}
                gone = {offer.generation} if isinstance(offer, st.Revoke) else set(offer.generations)
                interrupted = isinstance(offer, st.Delete) and state.pending_delete is not None
                assert interrupted or not gone & served_now
            case _:
                pass


@given(LIVES)
@settings(max_examples=60, deadline=None)
def test_once_faults_stop_everything_that_was_begun_ends(life: Life) -> None:
    """Whatever failed, was killed or was met otherwise on the way: served, proven, published, nothing left open."""
    life.until_quiet(limit=400)
    assert converged(life.spec, life.state), life.plan()
    newest = life.state.newest
    assert newest
    assert life.state.mail_servers["postfix"].serves == (newest.id,)
    assert life.in_dns == life.names[TLSA_NAME].desired >= life.records(newest.id)


# -- the four orders -------------------------------------------------------------------------------------------------


def kinds(life: Life, fault: Fault | None = None) -> list[str]:
    moments = life.until_quiet(fault)
    at = ("Install", "Verify", "Publish", "Unpublish", "Revoke", "Delete")
    return [name for m in moments if (name := type(m.step).__name__) in at]


def test_first_publication_serves_and_proves_before_it_publishes() -> None:
    """RFC 7671 section 8.1."""
    assert kinds(Life()) == ["Install", "Verify", "Verify", "Publish"]


def test_a_roll_with_a_standby_key_waits_for_nothing() -> None:
    """Its record was in every cache long before."""
    life = Life.published()
    life.happens(ev.Requested(what="rotate"))
    began = life.now
    life.until(st.Install)
    assert life.now.since(began) < MINUTE
    assert kinds(life) == ["Install", "Verify", "Verify", "Publish", "Unpublish", "Delete"]


def test_a_roll_without_a_standby_key_publishes_and_waits_two_ttls() -> None:
    """RFC 7671 section 8.1; and the first of both tells what is waited for."""
    life = Life.published(replace(SPEC, standby=False))
    life.happens(ev.Requested(what="rotate"))
    life.until(st.Publish)
    began = life.now
    life.until_quiet(limit=13)  # published, observed, ordered, issued, verified since the operator asked
    wait = life.plan()
    assert isinstance(wait, st.Wait)
    assert wait.because.startswith("postfix: not swapped to g2: ")
    assert "; meanwhile " in wait.because
    life.until(st.Install)
    assert life.now.since(began) >= timedelta(hours=2)
    assert kinds(life) == ["Install", "Verify", "Verify", "Unpublish", "Delete"]


def test_a_withdrawal_removes_first_and_is_forgotten_when_caches_are_empty() -> None:
    """The key goes on serving; nothing is swapped meanwhile but with the same key."""
    life = Life.published()
    life.spec = replace(SPEC, tlsa_names={})
    moments = life.until_quiet(withdrawn=True)
    [removed] = [m for m in moments if isinstance(m.step, st.Unpublish)]
    assert removed.step.because.startswith("withdrawn")
    [deleted] = [m for m in moments if isinstance(m.step, st.Delete) and m.step.tlsa_names]
    assert deleted.at.since(removed.at) >= timedelta(hours=2)
    assert life.state.tlsa_names == {}


def test_an_emergency_revokes_what_nothing_serves_any_more() -> None:
    """With the standby key: swapped at once. Where deferrals are accepted: as soon as the records are out."""
    life = Life.published()
    life.happens(ev.Requested(what="emergency"))
    began = life.now
    life.until(st.Install)
    assert life.now.since(began) < MINUTE
    moments = life.until_quiet()
    [revoked] = [m for m in moments if isinstance(m.step, st.Revoke)]
    assert revoked.before.mail_servers["postfix"].serves == ("g2",)
    bare = Life.published(replace(SPEC, standby=False))
    bare.happens(ev.Requested(what="emergency", accept_deferrals=True))
    began = bare.now
    step = bare.until(st.Install)
    assert step.because.startswith("the operator accepts deferrals")
    assert bare.now.since(began) < MINUTE
    assert bare.in_dns == bare.records("g1") | bare.records("g2")


def test_an_abort_gives_up_what_was_never_served() -> None:
    """Keys and chains of the roll; what is served stays."""
    life = Life.published(replace(SPEC, standby=False))
    life.happens(ev.Requested(what="rotate"))
    life.until(st.Install, fault=None)
    life.happens(ev.Requested(what="abort"))
    step = life.until(st.Delete)
    assert isinstance(step, st.Delete)
    assert (step.generations, step.keys) == (("g2",), ("k2",))
    life.until_quiet()
    assert life.state.requested is None
    assert life.in_dns == life.records("g1")
    assert because(life.offers(disposal.abort)) == []


# -- the rest --------------------------------------------------------------------------------------------------------


def test_deleting_that_was_interrupted_is_done_again_as_it_was_begun() -> None:
    """What was being deleted is known no more by the state: only the step says it."""
    life = swapping()
    step = life.until(st.Delete)
    life.does(step)
    [again] = life.offers(disposal.delete)
    assert again == replace(step, because="deleting was begun, its end is not known")
    life.happens(ev.Deleted(generations=("g1",), keys=("k1",)))
    assert life.offers(disposal.delete) == []


def test_keys_whose_records_are_in_dns_are_kept() -> None:
    """A record that nobody can serve is a trap for the next roll back."""
    life = swapping()
    old = life.records("g1")
    step = life.until(st.Delete)
    assert isinstance(step, st.Delete)
    assert (step.generations, step.keys) == (("g1",), ("k1",))
    life.looks(life.in_dns | old)
    [only] = life.offers(disposal.delete)
    assert isinstance(only, st.Delete)
    assert (only.generations, only.keys) == (("g1",), ())


def test_a_withdrawn_name_is_forgotten_late_enough_for_a_change_that_was_lost_on_the_way() -> None:
    """Not before `LATE`, and not while some cache may hold a set."""
    life = Life.published()
    life.spec = replace(SPEC, tlsa_names={})
    life.until(st.Unpublish)
    life.until_quiet(limit=1)
    life.looks(frozenset(), ttl_s=1)
    changed = life.now
    life.until(st.Delete)
    assert life.now.since(changed) >= max(schedule.LATE, timedelta(hours=2))
    life.looks(STRANGE)
    assert life.offers(disposal.delete) == []
    assert life.offers(records.observe), "a name that is not configured and not abandoned is still observed"


def test_a_failed_step_waits_and_the_others_go_on() -> None:
    """Failures hold back their own line of work, and say so."""
    life = Life()
    life.fails(f"observe {TLSA_NAME}", "dns.x", times=3)
    assert isinstance(life.plan(), st.Inspect)
    life.fails("inspect postfix")
    life.fails("vault", "store.disk")
    step = life.plan()
    assert isinstance(step, st.Wait)
    assert "tried once: it said no" in step.because
    assert step.delay == timedelta(seconds=2)


# -- mail servers that come and go -----------------------------------------------------------------------------------

MX2 = "_25._tcp.mx2.example.org."
PAIR = replace(
    SPEC,
    tlsa_names={TLSA_NAME: ("postfix",), MX2: ("mx2",)},
    mail_servers=(*SPEC.mail_servers, MailServer("mx2", (Service("mx2.example.org", 25, "smtp"),))),
)
ALONE = replace(PAIR, tlsa_names={TLSA_NAME: ("postfix",)}, mail_servers=SPEC.mail_servers)


def test_a_mail_server_that_comes_back_is_inspected_like_a_new_one() -> None:
    """Whatever it was at when it left: somebody else may have had it meanwhile."""
    life = Life.published(PAIR)
    life.happens(ev.Requested(what="rotate"))
    life.fails("install mx2")
    life.does(life.until(st.Install))
    life.spec = ALONE
    assert life.offers(disposal.delete_mail_servers) == [], "its TLSA name is held by caches"
    moments = life.until_quiet(withdrawn=True, limit=400)
    step = next(m.step for m in moments if isinstance(m.step, st.Delete) and m.step.mail_servers)
    assert set(life.state.mail_servers) == {"postfix"}
    assert not [f for f in life.state.failing if f.lane.subject == "mx2"]
    life.spec = PAIR
    [back] = life.offers(deployment.inspect)
    assert isinstance(back, st.Inspect)
    assert (step, back.server) == (st.Delete(mail_servers=("mx2",), because="not configured any more"), "mx2")


def test_a_mail_server_that_left_holds_no_revocation_back() -> None:
    life = Life.published(PAIR)
    life.spec = ALONE
    life.until_quiet(limit=60)
    life.happens(ev.Requested(what="emergency"))
    assert isinstance(life.until(st.Revoke), st.Revoke)


def test_a_service_that_is_new_is_met_before_its_first_records() -> None:
    """The mail server was proven, but not there."""
    life = Life.published()
    new = "_465._tcp.mx1.example.org."
    services = (*SPEC.mail_servers[0].services, Service("mx1.example.org", 465, "tls"))
    life.spec = replace(
        SPEC, tlsa_names={**SPEC.tlsa_names, new: ("postfix",)}, mail_servers=(MailServer("postfix", services),)
    )
    assert life.names[TLSA_NAME].shared.verified is None
    steps = [moment.step for moment in life.until_quiet()]
    kinds = [type(step) for step in steps if isinstance(step, st.Verify | st.Publish)]
    assert kinds == [st.Verify, st.Publish]
    assert life.state.mail_servers["postfix"].services == ("mx1.example.org:25", "mx1.example.org:465")


def test_the_operator_does_not_bring_a_ca_s_wrong_chain_back_sooner() -> None:
    """Each try is an order more."""
    life = Life()
    life.until(st.PlaceOrder)
    life.fails("issuance ecdsa-p256", "pem.chain", "unsafe")
    life.fails("install postfix", "mta.disk")
    life.happens(ev.Requested(what="retry"))
    assert [f.lane for f in life.state.failing] == [lane_of("issuance ecdsa-p256")]
