"""The rules of a roll: total and pure over any past; they end every life; and what each says of which facts."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from certagent.facts.tls import Service
from certagent.lifecycle import events as ev
from certagent.lifecycle import gates, planner, schedule
from certagent.lifecycle import steps as st
from certagent.lifecycle.converged import converged
from certagent.lifecycle.planner import plan
from certagent.lifecycle.rules import deployment, disposal, issuance, records
from certagent.lifecycle.rules.rule import Offer, View
from certagent.lifecycle.spec import MailServer, Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaNames
from tests.lifecycle.drawn import HISTORIES, LIVES, SPECS
from tests.lifecycle.play import CA, SPEC, TLSA_NAME, Fault, Life, chain_of, lane, served, unmanaged
from tests.lifecycle.test_fold import folded

STRANGE = frozenset({"3 1 1 " + "ee" * 32})
MINUTE = timedelta(minutes=1)
TWO = replace(
    SPEC, tlsa_names={TLSA_NAME: ("postfix", "other")}, mail_servers=(*SPEC.mail_servers, MailServer("other", ()))
)
"""Two mail servers behind one name."""


def because(offers: list[Offer]) -> list[str]:
    return [f"{type(offer).__name__}: {offer.because}" for offer in offers]


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
    elif failure := state.failure(step.work):
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


def test_a_roll_with_a_stand_by_key_waits_for_nothing() -> None:
    """Its record was in every cache long before."""
    life = Life.published()
    life.happens(ev.Requested(what="rotate"))
    began = life.now
    life.until(st.Install)
    assert life.now.since(began) < MINUTE
    assert kinds(life) == ["Install", "Verify", "Verify", "Publish", "Unpublish", "Delete"]


def test_a_roll_without_a_stand_by_key_publishes_and_waits_two_ttls() -> None:
    """RFC 7671 section 8.1; and the first of both tells what is waited for."""
    life = Life.published(replace(SPEC, standby=False))
    life.happens(ev.Requested(what="rotate"))
    life.until(st.Publish)
    began = life.now
    life.until_quiet(limit=12)  # published, looked at, ordered, issued
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
    step = life.plan()
    assert isinstance(step, st.Delete)
    assert (step.generations, step.keys) == (("g2",), ("k2",))
    life.until_quiet()
    assert life.state.requested is None
    assert life.in_dns == life.records("g1")
    assert because(life.offers(disposal.abort)) == []


# -- what was begun at a mail server ---------------------------------------------------------------------------------


def swapping(spec: Spec = SPEC) -> Life:
    """g2 is about to be installed beside g1."""
    life = Life.published(spec)
    life.happens(ev.Requested(what="rotate"))
    life.until(st.Install)
    return life


def unverified(life: Life, code: str, server: str = "postfix", times: int = 1) -> Life:
    """The newest generation is installed and reloaded, and its proof fails."""
    newest = life.state.newest
    assert newest
    life.does(st.Install(server=server, generation=newest.id, because=""))
    life.happens(ev.Installed(server=server, generation=newest.id))
    life.happens(ev.Reloaded(server=server))
    life.happens(ev.VerifyFailed(server=server, generation=newest.id, served=()))
    life.fails(f"verify {server}", code, times=times)
    return life


def test_a_reload_may_have_been_swallowed_and_every_third_time_the_files_are_put_in_place_again() -> None:
    """Where the proof fails for another reason than another key."""
    for times in range(1, 7):
        [offer] = unverified(swapping(), "mta.down", times=times).offers(deployment.finish)
        assert isinstance(offer, st.Install if times % 3 == 0 else st.Reload)
        assert isinstance(offer, st.Reload) or (offer.generation == "g2" and not offer.rollback)


def test_what_was_served_before_comes_back_if_something_else_is_met() -> None:
    """By a line of work of its own, and never a second time round: what was put back is not put back."""
    life = unverified(swapping(), "mta.not_served")
    first, second = life.offers(deployment.finish)
    assert isinstance(first, st.Install)
    assert (first.generation, first.rollback, str(first.work)) == ("g1", True, "rollback postfix")
    assert isinstance(second, st.Reload)
    life.does(first, ev.Installed(server="postfix", generation="g1"), ev.Reloaded(server="postfix"))
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=()))
    life.fails("verify postfix", "mta.not_served")
    assert because(life.offers(deployment.finish)) == [
        "Reload: the verification failed; the reload may have been swallowed"
    ]


def test_nothing_is_put_back_that_caches_forbid() -> None:
    """Two hosts behind one name: on the other one the old key is gone for good, and so is its record."""
    life = swapping(TWO)
    assert because(life.offers(deployment.deploy))[1:]
    new = frozenset(life.in_dns - life.records("g1"))
    for event in (ev.Installed, ev.Verified):
        if event is ev.Installed:
            life.does(st.Install(server="other", generation="g2", because=""))
            life.happens(ev.Installed(server="other", generation="g2"))
        life.happens(ev.Verified(server="other", generation="g2", drained=True, served=()))
    unverified(life, "mta.not_served")
    assert len(life.offers(deployment.finish)) == 2
    life.looks(new)
    assert because(life.offers(deployment.finish)) == [
        "Reload: the verification failed; the reload may have been swallowed"
    ]


def first_swap(life: Life) -> Life:
    """Somebody else's files are about to be replaced by g1."""
    for _ in range(100):
        if isinstance(life.plan(), st.Install):
            return life
        life.until_quiet(unmanaged(chain_of("ee")), limit=1)
    raise AssertionError


@pytest.mark.parametrize("kept", [True, False])
def test_files_of_somebody_else_come_back_if_they_were_kept(kept: bool) -> None:
    """There is no generation before the first one; without kept files another reload is all there is."""
    life = first_swap(Life())
    life.does(life.plan())
    life.happens(ev.Installed(server="postfix", generation="g1", kept=kept))
    life.happens(ev.Reloaded(server="postfix"))
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=()))
    life.fails("verify postfix", "mta.not_served")
    offers = life.offers(deployment.finish)
    assert [type(offer) for offer in offers] == ([st.Restore, st.Reload] if kept else [st.Reload])
    if not kept:
        return
    life.does(offers[0])
    assert because(life.offers(deployment.finish)) == ["Restore: putting files back was interrupted"]
    life.happens(ev.Restored(server="postfix"))
    assert life.offers(deployment.finish) == []
    assert because(life.offers(deployment.inspect)) == [
        "Inspect: its own files were put back; what is served is looked at"
    ]
    assert isinstance(life.plan(), st.Inspect), "before anything else"


def test_files_of_somebody_else_do_not_come_back_once_they_were_replaced_for_good() -> None:
    """They are in the vault still; but nothing has covered their key since nothing but certagent's own is served."""
    life = first_swap(Life())
    life.does(life.plan())
    life.happens(ev.Installed(server="postfix", generation="g1", kept=True))
    life.happens(ev.Verified(server="postfix", generation="g1", drained=True, served=()))
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=()))
    life.does(st.Install(server="postfix", generation="g1", because="somebody replaced it by hand"))
    life.happens(ev.Installed(server="postfix", generation="g1", kept=True))
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=()))
    life.fails("verify postfix", "mta.not_served")
    assert [type(offer) for offer in life.offers(deployment.finish)] == [st.Reload]


def test_files_of_somebody_else_do_not_come_back_where_caches_forbid_their_key() -> None:
    """Two hosts behind one name, of which the other one serves only certagent's key."""
    life = first_swap(Life(TWO))
    both = [offer.server for offer in life.offers(deployment.deploy) if isinstance(offer, st.Install)]
    assert both == ["postfix", "other"]
    life.does(st.Install(server="other", generation="g1", because=""))
    life.happens(ev.Installed(server="other", generation="g1"))
    life.happens(ev.Verified(server="other", generation="g1", drained=True, served=()))
    life.does(st.Install(server="postfix", generation="g1", because=""))
    life.happens(ev.Installed(server="postfix", generation="g1", kept=True))
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=()))
    life.fails("verify postfix", "mta.not_served")
    assert [type(offer) for offer in life.offers(deployment.finish)] == [st.Restore, st.Reload]
    life.looks(life.records("g1"))
    assert [type(offer) for offer in life.offers(deployment.finish)] == [st.Reload]


def test_an_interrupted_swap_is_done_again_or_taken_back() -> None:
    """Taken back where DNS has changed meanwhile; and where that is forbidden too, nothing is touched."""
    life = swapping()
    life.does(life.plan())
    old, all_ = life.records("g1"), life.in_dns
    [again] = life.offers(deployment.finish)
    assert isinstance(again, st.Install)
    assert (again.generation, again.rollback) == ("g2", False)
    life.looks(old)
    [back] = life.offers(deployment.finish)
    assert isinstance(back, st.Install)
    assert (back.generation, back.rollback) == ("g1", True)
    assert back.because == "installing was interrupted, and caches forbid it by now"
    # the operator accepted deferrals: not asked again
    life.looks(all_)
    first = first_swap(Life())
    first.does(first.plan())
    first.looks(STRANGE)  # of the key that was served before
    assert because(first.offers(deployment.finish)) == [
        "Wait: postfix: installing was interrupted, and caches forbid it by now"
    ]


def test_a_compromised_key_is_certified_no_more() -> None:
    """Not even where its successor is held back until the certificate runs out."""
    life = Life.published()
    life.happens(ev.Requested(what="emergency"))
    life.until(st.Install)
    life.looks(life.in_dns, None)
    newest = life.state.newest
    assert newest
    life.passes(schedule.last_chance(newest.chains["ecdsa-p256"]) - life.now.wall)
    [step] = life.offers(issuance.issue)
    assert isinstance(step, st.PlaceOrder)
    assert step.keys != "k1"


def test_the_old_key_does_not_come_back_where_only_the_new_one_has_records() -> None:
    """Somebody removed the old one's meanwhile; then a name server fell silent. The new files may be served."""
    life = swapping()
    life.does(life.plan())
    new = life.records("g2")
    life.looks(new)
    life.passes(timedelta(hours=5))
    life.looks(new, None)
    assert because(life.offers(deployment.finish)) == [
        "Wait: postfix: installing was interrupted, and caches forbid it by now"
    ]


def test_what_is_taken_back_is_so_in_any_weather() -> None:
    """A swap is refused at the last moment, since a name server is not heard: the old key comes back all the same, and
    is renewed as long as that lasts, though putting it back was interrupted too."""
    life = swapping()
    life.does(life.plan())
    life.looks(life.in_dns, None)
    for _ in range(2):
        [back] = life.offers(deployment.finish)
        assert isinstance(back, st.Install)
        assert (back.generation, back.rollback) == ("g1", True)
        life.does(back)
    life.happens(ev.Installed(server="postfix", generation="g1"))
    life.happens(ev.Verified(server="postfix", generation="g1", drained=True, served=()))
    newest = life.state.newest
    assert newest
    life.passes(schedule.last_chance(newest.chains["ecdsa-p256"]) - life.now.wall)
    life.looks(life.in_dns, None)
    [order] = life.offers(issuance.issue)
    assert isinstance(order, st.PlaceOrder)
    assert order.keys == "k1"


def test_a_swap_that_accepts_deferrals_is_done_again_whatever_caches_hold() -> None:
    """The operator chose, once."""
    life = Life.published(replace(SPEC, standby=False))
    life.happens(ev.Requested(what="emergency", accept_deferrals=True))
    life.does(life.until(st.Install))
    life.looks(life.records("g1"))
    [again] = life.offers(deployment.finish)
    assert isinstance(again, st.Install)
    assert (again.generation, again.accept_deferrals) == ("g2", True)


def test_what_somebody_else_exchanged_is_put_in_place_again() -> None:
    """Of something that was proven before."""
    life = Life.published()
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=()))
    [again] = life.offers(deployment.finish)
    assert isinstance(again, st.Install)
    assert (again.generation, again.rollback) == ("g1", False)
    assert again.because == "something else is served than was installed"


def test_something_newer_does_not_wait_for_what_does_not_get_on() -> None:
    """But for what is under way and has not failed it does."""
    life = swapping()
    life.does(life.plan())
    life.happens(ev.KeysMade(keys="k9", spki={"ecdsa-p256": "ab" * 32}))
    newer = ev.Issued(key_type="ecdsa-p256", keys="k2", generation="g3", chain=chain_of("cc"), completes=True, ca=CA)
    keys = life.state.keyset("k2")
    assert keys
    life.happens(replace(newer, chain=replace(chain_of("cc"), spki=keys.spki["ecdsa-p256"])))
    assert life.offers(deployment.deploy) == []
    life.fails("install postfix", "mta.config")
    [offer] = life.offers(deployment.deploy)
    assert isinstance(offer, st.Install)
    assert offer.generation == "g3"


# -- records ---------------------------------------------------------------------------------------------------------


def test_nothing_is_published_on_a_look_that_met_nobody() -> None:
    """Nor before any look, nor between a change and the look after it."""
    life = Life()
    assert life.offers(records.publish) == []
    life = Life.published()
    life.looks(None)
    assert life.offers(records.publish) == []
    life.looks(frozenset({"3 1 1 " + "99" * 32}))
    assert [type(offer) for offer in life.offers(records.publish)] == [st.Publish]
    life.does(st.Publish(tlsa_name=TLSA_NAME, values=STRANGE, ttl_s=60, because=""))
    assert life.offers(records.publish) == []


def test_a_first_publication_that_waits_says_why() -> None:
    """And is looked at again at the latest with the next watch."""
    life = Life()
    life.until(st.Install)
    [wait] = life.offers(records.publish)
    assert isinstance(wait, st.Wait)
    assert wait.because == f"{TLSA_NAME} not published: first publication: the key is served and verified first"
    assert wait.delay == SPEC.check_interval


def test_records_are_added_on_a_fresh_look_and_again_only_after_a_while() -> None:
    """A TTL raised since would be superseded unseen; a provider that lost the change is asked once more."""
    life = Life.published()
    life.looks(life.in_dns - life.records("g1"))
    [add] = life.offers(records.publish)
    assert isinstance(add, st.Publish)
    assert (add.values, add.because) == (life.in_dns, "keys k2 must be in every cache before they serve")
    life.passes(2 * MINUTE)
    [observe] = life.offers(records.publish)
    assert isinstance(observe, st.Observe)
    assert observe.because == "the last observation before records are added"
    waits: list[float] = []
    for _ in range(3):
        life.does(add, ev.Published(tlsa_name=TLSA_NAME, values=add.values))
        life.passes(timedelta(milliseconds=1))
        life.looks(life.in_dns - life.records("g1"))
        [wait] = life.offers(records.publish)
        assert isinstance(wait, st.Wait)
        assert wait.because == "the provider has accepted a change that is not to be seen yet"
        waits.append(round(wait.delay.total_seconds()))
        life.passes(wait.delay)
        assert life.offers(records.publish) == [add]
    assert waits == [2, 5, 15]


def test_why_records_are_added() -> None:
    """The first ones; those of the next keys; and what somebody else deleted."""
    life = Life(replace(SPEC, standby=False))
    assert life.until(st.Publish).because == "first publication: what is served is verified"
    life.until_quiet()
    life.looks(STRANGE)
    [add] = life.offers(records.publish)
    assert add.because == "a record of what is served is missing"


def test_when_is_looked_again() -> None:
    """Soon after a change, then less and less often; with the watch where nothing is waited for."""
    life = Life.published()

    def next_observation() -> tuple[float, str]:
        [offer] = life.offers(records.observe)
        if isinstance(offer, st.Observe):
            return 0, offer.because
        assert isinstance(offer, st.Wait)
        return round(offer.delay.total_seconds()), offer.because.partition(": ")[2]

    life.looks()
    assert next_observation() == (6 * 3600, "check interval")
    life.looks(life.in_dns, None)
    assert next_observation() == (900, "a server was not heard"), "the change is hours ago"
    publish = st.Publish(tlsa_name=TLSA_NAME, values=STRANGE, ttl_s=60, because="")
    life.does(publish)
    assert next_observation() == (0, "changed, and not seen since")
    life.passes(MINUTE)
    life.looks(life.in_dns, life.in_dns - life.records("g1"))
    assert next_observation() == (15, "not every server has followed")
    life.passes(timedelta(seconds=15))
    assert next_observation() == (0, "not every server has followed")
    new = Life()
    assert next_observation() != (0, "never looked at")
    [first] = new.offers(records.observe)
    assert first.because == "never looked at"
    new.looks(None)
    [offer] = new.offers(records.observe)
    assert isinstance(offer, st.Wait)
    assert offer.delay == MINUTE, "as if the change were four minutes ago"


def test_old_records_stay_until_every_target_is_freshly_proven() -> None:
    """RFC 7671 section 8.1: they go last."""
    life = swapping()
    old = life.records("g1")
    life.until(st.Unpublish)
    assert life.state.mail_servers["postfix"].serves == ("g2",)
    [remove] = life.offers(records.unpublish)
    assert isinstance(remove, st.Unpublish)
    assert (remove.values, remove.because) == (old, "nothing serves their keys any more")
    life.passes(2 * MINUTE)
    [verify] = life.offers(records.unpublish)
    assert isinstance(verify, st.Verify)
    assert (verify.drained, verify.because) == (True, "verified afresh before old records go")
    life.happens(ev.Verified(server="postfix", generation="g2", drained=True, served=()))
    [observe] = life.offers(records.unpublish)
    assert observe.because == "the last observation before records go"
    life.looks()
    assert life.offers(records.unpublish) == [remove]
    life.does(remove, ev.Unpublished(tlsa_name=TLSA_NAME, values=old))
    assert life.offers(records.unpublish) == [], "changed since"
    life.passes(timedelta(milliseconds=1))
    life.looks()
    [wait] = life.offers(records.unpublish)
    assert isinstance(wait, st.Wait)
    assert wait.because == "the provider has accepted a change that is not to be seen yet"
    # a proof that fails: nothing is removed
    life.happens(ev.VerifyFailed(server="postfix", generation="g2", served=()))
    assert life.offers(records.unpublish) == []


def test_a_triple_that_is_not_configured_any_more_goes_while_a_swap_is_under_way() -> None:
    """As a whole it breaks with nobody; not if somebody else's record of that type, matching nothing, would be left."""
    issuer = frozenset({"2 1 1 " + "ca" * 32})
    life = Life(replace(SPEC, tlsa_parameters=("3 1 1", "2 1 1")))
    life.until(st.PlaceOrder)
    keys = life.state.keys[0].spki["ecdsa-p256"]
    chain = replace(chain_of("aa", "ca"), spki=keys)
    life.happens(ev.Issued(key_type="ecdsa-p256", keys="k1", generation="g1", chain=chain, completes=True, ca=CA))
    life.until_quiet()
    assert life.in_dns >= issuer
    life.spec = SPEC
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=()))
    life.looks()
    [remove] = life.offers(records.unpublish)
    assert isinstance(remove, st.Unpublish)
    assert remove.values == issuer
    life.looks(life.in_dns | {"2 1 1 " + "cb" * 32})
    [wait] = life.offers(records.unpublish)
    assert isinstance(wait, st.Wait)
    gate = "without these no record of type 2 1 1 would match what is served"
    assert wait.because == f"not removed: {TLSA_NAME}: {gate}"


# -- the rest --------------------------------------------------------------------------------------------------------


def test_deleting_that_was_interrupted_is_done_again_as_it_was_begun() -> None:
    """What was being deleted is known no more by the state: only the step says it."""
    life = swapping()
    step = life.until(st.Delete)
    life.does(step)
    [again] = life.offers(disposal.delete)
    assert again == replace(step, because="deleting was interrupted")
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
    assert life.offers(records.observe), "a name that is not configured and not forgotten is still looked at"


def test_what_is_served_is_proven_now_and_then() -> None:
    """Only where it was proven; something is always due some day."""
    life = Life.published()
    verified, nothing = life.offers(deployment.verify)
    assert isinstance(verified, st.Wait)
    assert isinstance(nothing, st.Wait)
    assert timedelta(0) < verified.delay < nothing.delay == SPEC.check_interval
    life.passes(SPEC.check_interval)
    verify, _ = life.offers(deployment.verify)
    assert isinstance(verify, st.Verify)
    assert (verify.generation, verify.drained) == ("g1", True)
    assert because(Life().offers(deployment.verify)) == ["Wait: nothing is due"]


def test_a_swap_without_tlsa_names_minds_none() -> None:
    """Nothing is published that it could hurt; what is served is looked at all the same: a name may be added soon."""
    life = Life(replace(SPEC, tlsa_names={}, standby=False))
    assert because(life.offers(deployment.inspect)) == ["Inspect: what it serves now is not known yet"]
    assert life.until(st.Install).because.startswith("no TLSA records to mind; ")


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


def test_drained_from_the_first_proof_on_where_nothing_old_can_live() -> None:
    """An agent that was down for longer than old processes live."""
    life = swapping()
    life.does(life.plan())
    life.happens(ev.Installed(server="postfix", generation="g2"))
    assert [type(offer) for offer in life.offers(deployment.finish)] == [st.Reload]
    life.happens(ev.Reloaded(server="postfix"))
    for delay, drained in ((timedelta(0), False), (SPEC.drain, True)):
        life.passes(delay)
        [verify] = life.offers(deployment.finish)
        assert isinstance(verify, st.Verify)
        assert verify.drained is drained
    life.happens(ev.Reloaded(server="postfix"))
    life.happens(ev.Verified(server="postfix", generation="g2", drained=False, served=(served(chain_of("aa")),)))
    [wait] = life.offers(deployment.finish)
    assert isinstance(wait, st.Wait)
    assert wait.delay == SPEC.drain
    life.passes(SPEC.drain)
    [verify] = life.offers(deployment.finish)
    assert verify.because == "old processes are gone by now"


# -- mail servers that come and go -----------------------------------------------------------------------------------

MX2 = "_25._tcp.mx2.example.org."
PAIR = replace(
    SPEC,
    tlsa_names={TLSA_NAME: ("postfix",), MX2: ("mx2",)},
    mail_servers=(*SPEC.mail_servers, MailServer("mx2", (Service("mx2.example.org", 25, "smtp"),))),
)
ALONE = replace(PAIR, tlsa_names={TLSA_NAME: ("postfix",)}, mail_servers=SPEC.mail_servers)


def test_a_mail_server_that_comes_back_is_surveyed_like_a_new_one() -> None:
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
    assert [f.lane for f in life.state.failing] == [lane("issuance ecdsa-p256")]
