"""The fold: total, a function of the events alone; it never forgets what may be served, published or compromised."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given

from certagent.facts.challenge import Challenge
from certagent.facts.dns import Answer, Observation
from certagent.facts.moment import Instant
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.fold import fold
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.rules import deployment, records
from certagent.lifecycle.state import Failure, State
from certagent.pki import tlsa
from tests.lifecycle.drawn import EVENTS, GENERATIONS, HISTORIES, KEYS, MAIL_SERVERS, MX1
from tests.lifecycle.play import CA, ECDSA, RSA, START, TLSA_NAME, Life, chain_of, lane_of, later, served, unmanaged

FIRST = [ev.Inspected(server=server, served=(served(chain_of("ee")),)) for server in MAIL_SERVERS]
"""What every journal has before anything else is said of a mail server."""

History = list[tuple[timedelta, ev.AnyEvent]]


def folded(history: History) -> list[tuple[State, Instant]]:
    """Every state on the way, the first one without the history, and when it came to be."""
    states = [(State(name="mx1.example.org"), START)]
    for delay, event in [*((timedelta(0), event) for event in FIRST), *history]:
        state, then = states[-1]
        now = later(then, delay)
        states.append((fold(state, event, now), now))
    return states[len(FIRST) :]


@given(HISTORIES)
def test_whatever_was_journaled_it_folds(history: History) -> None:
    """No exception in any order; the same events give the same state."""
    assert folded(history) == folded(history)


@given(HISTORIES)
def test_any_state_comes_back_from_the_disk_as_it_was(history: History) -> None:
    """The journal keeps state and events as JSON; what is read is what was written."""
    state, _ = folded(history)[-1]
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state
    for _, event in history:
        assert msgspec.json.decode(msgspec.json.encode(event), type=ev.AnyEvent) == event


BACKWARDS = Observation(
    "example.org.", MX1, {"ns2.": Answer(frozenset({"3 1 1 bb"}), 60), "ns1.": Answer(frozenset(), 60)}, "secure"
)
"""As it was heard; sorted, the other answer comes first."""
NO_TIME = timedelta(0)


@given(HISTORIES)
@example(
    [
        (NO_TIME, ev.Observed(tlsa_name=MX1, observation=BACKWARDS)),
        (NO_TIME, ev.Intended(step=st.Publish(tlsa_name=MX1, values=frozenset({"3 1 1 aa"}), ttl_s=60, because=""))),
    ]
)
@example(
    [
        (NO_TIME, ev.KeysMade(keys="k1", spki={"rsa-2048": "bb" * 32, "ecdsa-p256": "aa" * 32})),
        (NO_TIME, ev.Intended(step=st.Delete(generations=(), keys=("k1",), tlsa_names=(), because=""))),
    ]
)
def test_reading_the_state_anew_between_any_two_events_changes_nothing(history: History) -> None:
    """What is read has its names sorted: `Journal.verify`, which folds in one go, must come to the same."""
    state, now = State(name="mx1.example.org"), START
    for delay, event in [*((timedelta(0), event) for event in FIRST), *history]:
        now = later(now, delay)
        state = msgspec.json.decode(msgspec.json.encode(fold(state, event, now), order="sorted"), type=State)
    assert state == folded(history)[-1][0]


@given(HISTORIES, EVENTS)
def test_only_a_proof_that_nothing_else_is_served_ends_what_may_be_served(history: History, last: ev.AnyEvent) -> None:
    """Of a target, a generation stops counting as served by `Verified(drained)` of another one, and by nothing else."""
    before, now = folded(history)[-1]
    after = fold(before, last, now)
    for name, old in before.mail_servers.items():
        lost = set(old.serves) - set(after.mail_servers[name].serves)
        if lost:
            assert isinstance(last, ev.Verified)
            assert last.drained
            assert (last.server, last.generation) == (name, old.generation)
            assert after.mail_servers[name].serves == (old.generation,)


@given(HISTORIES, EVENTS)
def test_what_is_ours_stays_ours(history: History, last: ev.AnyEvent) -> None:
    """Records of forgotten keys can still be removed where they turn up."""
    before, now = folded(history)[-1]
    after = fold(before, last, now)
    assert before.ours <= after.ours or isinstance(last, ev.Intended), type(last)
    if isinstance(last, ev.Intended) and isinstance(last.step, st.Delete):
        assert before.ours <= after.ours
        assert before.made <= after.ours
        assert not {k.id for k in after.keys} & set(last.step.keys)


@given(HISTORIES, EVENTS)
def test_an_outcome_ends_the_failures_of_its_own_line_of_work_alone(history: History, last: ev.AnyEvent) -> None:
    """Back-off is never reset by anything that happens elsewhere, but by the operator's looking."""
    before, now = folded(history)[-1]
    after = fold(before, last, now)
    gone = {f.lane for f in before.failing} - {f.lane for f in after.failing}
    match last:
        case ev.Requested():
            limited = {f.lane for f in before.failing if f.concerns == "ca" and f.kind != "misconfigured"}
            if last.what in ("renew", "rotate", "emergency"):  # it asks for a certificate: the CA is asked at once
                assert not after.failing
            else:
                assert not limited & (gone - {last.lane})
        case ev.Intended():
            assert isinstance(last.step, st.Install | st.Restore) or not gone
        case ev.Verified():
            assert gone <= {last.lane, Lane("install", last.server), Lane("rollback", last.server)}
        case _:
            assert gone <= {last.lane}


def test_every_event_and_every_step_is_drawn() -> None:
    """The properties above speak of all of them."""
    assert len(get_args(ev.AnyEvent)) == 26
    assert len(get_args(st.AnyStep)) == 18
    assert set(KEYS)
    assert set(GENERATIONS)


# -- single rules ----------------------------------------------------------------------------------------------------


def failed(life: Life, in_lane: Lane) -> Failure:
    found = life.state.failure(in_lane)
    assert found
    return found


def test_what_was_intended_may_have_been_done() -> None:
    """Killed in the middle of a swap, of a change of records, of a challenge: each counts as possibly done."""
    life = Life.published()
    life.happens(ev.Requested(what="rotate"))
    life.does(life.until(st.Present))
    assert life.state.challenges == (Challenge("dns-01", "mx1.example.org", "mx1.example.org", "response"),)
    step = life.until(st.Install)
    life.does(step)
    assert life.state.mail_servers["postfix"].serves == ("g1", "g2")
    assert life.state.mail_servers["postfix"].phase == "installing"


def test_a_change_is_counted_until_it_is_seen_whatever_is_tried_in_between() -> None:
    """Where only a server is heard that does not follow, adding and removing take turns: neither begins anew."""
    life = Life.published()
    values = frozenset({"3 1 1 " + "ee" * 32})
    adds = st.Publish(tlsa_name=TLSA_NAME, values=values, ttl_s=60, because="")
    removes = st.Unpublish(tlsa_name=TLSA_NAME, values=values, because="")

    def tries() -> list[int]:
        found = (life.tlsa_name.tried(values, removes=r) for r in (False, True))
        return [change.tries if change else 0 for change in found]

    for step, counts in ((adds, [1, 0]), (adds, [2, 0]), (removes, [2, 1]), (adds, [3, 1]), (removes, [3, 2])):
        life.passes(timedelta(seconds=1))
        life.does(step)
        assert tries() == counts
        assert life.tlsa_name.changed_at == life.now
    assert life.tlsa_name.tried(values | {"3 1 1 " + "dd" * 32}, removes=False) is None
    # a change of other values is another one
    life.does(st.Publish(tlsa_name=TLSA_NAME, values=values | life.in_dns, ttl_s=60, because=""))
    assert tries() == [0, 2]


def test_a_change_is_over_when_every_server_was_heard_and_has_followed() -> None:
    """One that is silent may still be behind."""
    life = Life.published()
    more = life.in_dns | {"3 1 1 " + "ee" * 32}
    life.does(st.Publish(tlsa_name=TLSA_NAME, values=more - life.in_dns, ttl_s=60, because=""))
    life.looks(more, None)
    assert life.tlsa_name.change is not None
    life.looks(more, life.in_dns)
    assert life.tlsa_name.change is not None
    life.looks(more, more)
    assert life.tlsa_name.change is None
    life.does(st.Unpublish(tlsa_name=TLSA_NAME, values=more - life.in_dns, because=""))
    life.looks(life.in_dns, more)
    assert life.tlsa_name.change is not None
    life.looks(life.in_dns, life.in_dns)
    assert life.tlsa_name.change is None


def test_challenges_stay_until_they_are_cleaned_up_and_are_counted_once() -> None:
    """An order may be gone; its values are in DNS all the same."""
    life = Life.published()
    life.happens(ev.Requested(what="rotate"))
    step = life.until(st.Present)
    life.does(step)
    life.does(step)
    [challenge] = life.state.challenges
    assert isinstance(step, st.Present)
    life.happens(ev.OrderAbandoned(key_type=step.key_type))
    assert (life.state.orders, life.state.challenges) == ({}, (challenge,))
    life.happens(ev.CleanedUp(challenges=(challenge,)))
    assert life.state.challenges == ()


def test_a_challenge_that_was_lost_is_put_into_dns_again() -> None:
    """The provider said yes, and no server shows it; other orders stay as they are."""
    life = Life()
    for key_type in (ECDSA, RSA):
        challenges = (Challenge("dns-01", "x", "_acme-challenge.x.", key_type),)
        life.happens(ev.OrderPlaced(key_type=key_type, keys="k1", url="", challenges=challenges, ca=CA))
        life.happens(ev.Presented(key_type=key_type))
    life.fails(f"validation {RSA}", "dns.timeout")
    assert life.state.orders[RSA].presented
    life.happens(ev.ResponseNotSeen(key_type=RSA))
    life.fails(f"validation {RSA}", "dns.not_yet")
    assert (life.state.orders[ECDSA].presented, life.state.orders[RSA].presented) == (True, False)
    assert failed(life, lane_of(f"validation {RSA}")).count == 2


def test_news_of_what_is_not_known_changes_nothing() -> None:
    """Of an order that was dropped, a generation that is not installed any more, a target that is gone."""
    life = Life.published()
    before = life.state
    strays: tuple[ev.AnyEvent, ...] = (
        ev.Presented(key_type=RSA),
        ev.OrderReady(key_type=RSA),
        ev.Failed(lane=None, kind="transient", code="vault.lost", detail="of no step"),
        ev.Reloaded(server="other"),
        ev.Verified(server="other", generation="g1", drained=True, served=()),
        ev.Verified(server="postfix", generation="g9", drained=True, served=()),
        ev.VerifyFailed(server="other", generation="g1", served=()),
        ev.VerifyFailed(server="postfix", generation="g9", served=()),
        ev.Intended(step=st.Reload(server="other", because="")),
        ev.Intended(step=st.Restore(server="other", because="")),
        ev.Intended(step=st.Present(key_type=RSA, because="")),
    )
    for event in strays:
        life.happens(event)
        assert life.state == before, event
    assert life.state.generation("g9") is None
    assert life.state.keyset("k9") is None
    assert life.state.keyset(None) is None


def test_what_was_served_before_is_a_generation_of_somebody_else() -> None:
    """One a chain, however often it is met; a failed handshake says nothing; it is never taken for the newest."""
    life = Life()
    old, other = chain_of("ee"), chain_of("dd", "ca")
    met = (served(old), served(Unknown("no TLS", reached=True)), served(old), served(other, RSA))
    life.happens(ev.Inspected(server="postfix", served=met))
    assert [(g.unmanaged, g.keys, g.chains) for g in life.state.generations] == [
        (True, None, {ECDSA: old}),
        (True, None, {RSA: other}),
    ]
    ids = tuple(g.id for g in life.state.generations)
    assert life.state.mail_servers["postfix"].serves == ids
    assert life.state.newest is None
    assert life.state.ours == {f"3 1 1 {old.spki}", f"3 1 1 {other.spki}", "2 1 1 " + "ca" * 32}
    assert life.state.made == frozenset(), "certagent made neither of the keys"
    # another survey finds the same ones
    life.happens(ev.Inspected(server="postfix", served=(served(other, RSA),)))
    assert len(life.state.generations) == 2
    assert set(life.state.mail_servers["postfix"].serves) == set(ids)


def test_a_generation_is_whole_with_the_chain_of_its_last_algorithm() -> None:
    """Chains of other keys are not mixed into it, whatever was issued before."""
    life = Life()
    for n, key in enumerate(("aa", "bb"), 1):
        life.happens(ev.KeysMade(keys=f"k{n}", spki={ECDSA: key * 32, RSA: (key[0] + "0") * 32}))
    first, second, third = chain_of("aa"), chain_of("bb"), chain_of("b0")

    def issued(keys: str, key_type: str, chain: object, *, completes: bool) -> None:
        assert isinstance(chain, type(first))
        event = ev.Issued(key_type=key_type, keys=keys, generation="g1", chain=chain, completes=completes, ca=CA)
        life.happens(event)

    issued("k1", ECDSA, first, completes=False)
    assert (life.state.issued, life.state.issued_keys) == ({ECDSA: first}, "k1")
    assert life.state.newest is None
    issued("k2", ECDSA, second, completes=False)
    issued("k2", RSA, third, completes=True)
    newest = life.state.newest
    assert newest is not None
    assert (newest.keys, newest.chains) == ("k2", {ECDSA: second, RSA: third})
    assert (life.state.issued, life.state.issued_keys) == ({}, None)
    assert [k.in_service_at for k in life.state.keys] == [None, START]


def test_an_emergency_revokes_what_was_in_service_and_never_what_others_made() -> None:
    """Every generation of other keys than the new one; until the CA has done it."""
    life = Life()
    life.until_quiet(unmanaged(chain_of("ee")), limit=60)
    life.happens(ev.Requested(what="emergency"))
    life.until(st.Revoke)
    marked = {g.id: g.revoke for g in life.state.generations}
    assert marked.pop("g1") is True
    assert not any(marked.values())
    life.happens(ev.Revoked(generation="g9", ca=CA))
    assert life.state.generation("g1")
    life.happens(ev.Revoked(generation="g1", ca=CA))
    assert not any(g.revoke for g in life.state.generations)


def test_what_is_being_deleted_is_unknown_from_the_intent_on_and_its_records_stay_known() -> None:
    """64 values at most: a late update may bring a record of years ago back, and it is still ours to remove."""
    life = Life()
    for n in range(1, 81):
        life.happens(ev.KeysMade(keys=f"k{n}", spki={ECDSA: f"{n:064x}"}))
        step = st.Delete(keys=(f"k{n}",), because="")
        life.happens(ev.Intended(step=step, lane=step.lane))
        assert life.state.pending_delete == step
        assert life.state.keys == ()
        life.happens(ev.Deleted(keys=step.keys))
        assert life.state.pending_delete is None
    assert life.state.past_values == tuple(tlsa.of_key(f"{n:064x}") for n in range(17, 81))
    assert life.state.keys_made == 80


def test_an_owner_that_is_forgotten_is_gone() -> None:
    """And no other."""
    life = Life.published()
    life.happens(ev.Observed(tlsa_name="other.", observation=life.tlsa_name.observation))  # pyright: ignore[reportArgumentType]
    life.happens(ev.Deleted(tlsa_names=("other.",)))
    assert set(life.state.tlsa_names) == {TLSA_NAME}


def test_a_line_of_work_that_succeeds_has_no_failures_any_more() -> None:
    """And only that one; a failure more counts on from the first."""
    life = Life.published()
    life.fails(f"observe {TLSA_NAME}", times=2)
    life.fails("renewal info", "ca.busy")
    first = failed(life, lane_of("renewal info")).first_at
    life.passes(timedelta(hours=1))
    life.fails("renewal info", "ca.slow")
    last = failed(life, lane_of("renewal info"))
    assert (last.count, last.first_at, last.at, last.code) == (2, first, life.now, "ca.slow")
    life.looks()
    assert [f.lane for f in life.state.failing] == [Lane("renewal info")]


def test_a_rejected_generation_waits_longer_with_each_attempt() -> None:
    """The failed proofs in a row become failures to install: putting back must not reset the back-off."""
    life = Life.published()
    life.happens(ev.Requested(what="rotate"))
    life.until(st.Install)
    counts: list[int] = []
    for _ in range(3):
        life.does(st.Install(server="postfix", generation="g2", because=""))
        life.happens(ev.Installed(server="postfix", generation="g2"))
        life.fails("verify postfix", "mta.not_served")
        life.does(st.Install(server="postfix", generation="g1", rollback=True, because=""))
        assert life.state.failure(lane_of("verify postfix")) is None
        counts.append(failed(life, lane_of("install postfix")).count)
        assert life.state.mail_servers["postfix"].rejected == "g2"
    assert counts == [1, 2, 3]
    # the old one is proven: that does not excuse the new one; a proof of the new one does
    life.happens(ev.Verified(server="postfix", generation="g1", drained=True, served=()))
    assert life.state.mail_servers["postfix"].rejected == "g2"
    assert failed(life, lane_of("install postfix")).count == 3
    life.does(st.Install(server="postfix", generation="g2", because=""))
    life.happens(ev.Verified(server="postfix", generation="g2", drained=False, served=()))
    assert life.state.mail_servers["postfix"].rejected is None
    assert life.state.failing == ()
    # put back although no proof failed: nothing is counted
    other = Life.published()
    other.does(st.Install(server="postfix", generation="g1", rollback=True, because=""))
    assert other.state.failing == ()


def test_the_end_of_a_swap_ends_what_nobody_would_try_again() -> None:
    """A server that did not answer before its first swap was never inspected; what drifted is verified at once."""
    life = Life()
    life.fails("inspect postfix", "mta.down")
    life.until(st.Verify)
    life.fails("inspect postfix", "mta.down")
    life.fails("rollback postfix", "mta.disk")
    life.fails("reload other", "mta.reload")
    life.happens(ev.Verified(server="postfix", generation="g1", drained=False, served=()))
    assert [f.lane for f in life.state.failing] == [lane_of("reload other")]
    life = Life.published()
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=()))
    life.fails("verify postfix", "mta.not_served")
    life.until(st.Verify)
    assert life.state.failing == ()
    assert life.state.mail_servers["postfix"].phase == "reloaded"


@pytest.mark.parametrize(("what", "left"), [("retry", 1), ("abort", 1), ("renew", 0), ("rotate", 0), ("emergency", 0)])
def test_the_operator_is_looked_for_and_a_ca_is_asked_only_for_a_certificate(what: str, left: int) -> None:
    """What is our own is tried again at once; DNS is observed and what is served verified, before anything is due."""
    life = Life.published()
    life.fails(f"publish {TLSA_NAME}")
    life.fails(f"order {ECDSA}", "ca.rate_limited")
    life.passes(timedelta(minutes=1))
    life.happens(ev.Requested(what=what))  # pyright: ignore[reportArgumentType]
    assert len(life.state.failing) == left
    assert [o.because for o in life.offers(records.observe)] == ["the operator asked"]
    assert [o.because for o in life.offers(deployment.verify)][:1] == ["the operator asked"]
    life.happens(ev.Verified(server="postfix", generation="g1", drained=True, served=()))
    life.looks()
    again = [*life.offers(records.observe), *life.offers(deployment.verify)]
    assert "the operator asked" not in [o.because for o in again]


def test_converged_is_what_clients_are_known_to_have_met() -> None:
    """A generation under way, or one whose proof failed, is served perhaps; nobody may rest on it."""
    life = Life.published()
    life.happens(ev.Requested(what="rotate"))
    step = life.until(st.Install)
    life.does(step)
    at = life.state.mail_servers["postfix"]
    assert (at.serves, at.converged) == (("g1", "g2"), ("g1",))
    back = st.Install(server="postfix", generation="g1", rollback=True, because="")
    life.does(back)
    at = life.state.mail_servers["postfix"]
    assert (at.serves, at.converged) == (("g2", "g1"), ("g1",)), "it may be served still, and was met"
    life.does(step)
    life.happens(ev.Installed(server="postfix", generation="g2"))
    life.happens(ev.Verified(server="postfix", generation="g2", drained=False, served=()))
    at = life.state.mail_servers["postfix"]
    assert at.converged == ("g1", "g2")
    life.happens(ev.VerifyFailed(server="postfix", generation="g2", served=()))
    assert life.state.mail_servers["postfix"].phase == "drifted"


def test_what_a_write_supersedes_is_held_though_its_answer_is_lost() -> None:
    """No server that was asked gave it with this TTL; the provider had it so, and caches may have it too."""
    life = Life.published()
    before = life.in_dns
    life.happens(
        ev.Superseding(
            tlsa_name=TLSA_NAME, before=before, before_ttl_s=86400, after=before - {min(before)}, after_ttl_s=86400
        )
    )
    life.fails(f"publish {TLSA_NAME}", "dns.unknown_outcome")
    assert {(h.values, h.ttl_s) for h in life.cached} >= {(before, 86400), (before - {min(before)}, 86400)}
