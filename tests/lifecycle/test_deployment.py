"""A generation goes into service: what was begun at a mail server, what is put back, what is verified."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import pytest
from msgspec.structs import replace

from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import schedule
from certagent.lifecycle import steps as st
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.rules import deployment, issuance
from certagent.lifecycle.state import Phase
from tests.lifecycle.play import (
    CA,
    SPEC,
    STRANGE,
    TWO,
    Life,
    because,
    chain_of,
    served,
    swapping,
    unmanaged,
)


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
    assert (first.generation, first.rollback, str(first.lane)) == ("g1", True, "rollback postfix")
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
    assert because(life.offers(deployment.finish)) == ["Restore: putting files back was begun, its end is not known"]
    life.happens(ev.Restored(server="postfix"))
    assert life.offers(deployment.finish) == []
    assert because(life.offers(deployment.inspect)) == [
        "Inspect: its own files were put back; what is served is inspected again"
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
    assert back.because == "the swap was begun, its end is not known, and caches forbid it by now"
    # the operator accepted deferrals: not asked again
    life.looks(all_)
    first = first_swap(Life())
    first.does(first.plan())
    first.looks(STRANGE)  # of the key that was served before
    assert because(first.offers(deployment.finish)) == [
        "Wait: postfix: the swap was begun, its end is not known, and caches forbid it by now"
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
        "Wait: postfix: the swap was begun, its end is not known, and caches forbid it by now"
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


def test_what_is_served_is_verified_now_and_then() -> None:
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
    """Nothing is published that it could break; what is served is inspected all the same: a name may be added soon."""
    life = Life(replace(SPEC, tlsa_names={}, standby=False))
    assert because(life.offers(deployment.inspect)) == ["Inspect: what it serves now is not known yet"]
    assert life.until(st.Install).because.startswith("no TLSA records to mind; ")


def test_drained_from_the_first_verification_on_where_nothing_old_can_live() -> None:
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


def test_nothing_follows_from_a_verification_before_any_reload() -> None:
    """When processes from before are gone is counted from the reload."""
    life = first_swap(Life())
    life.does(life.plan())
    life.happens(ev.Installed(server="postfix", generation="g1"))
    life.happens(ev.Verified(server="postfix", generation="g1", drained=False, served=()))
    assert life.offers(deployment.finish) == []


def test_every_phase_has_a_stage() -> None:
    """In the order of the phases: the table of docs/explanation/rollover.md is drawn from it."""
    assert tuple(deployment.STAGES) == get_args(Phase)


NOT_OFFERED = Unknown("STARTTLS is not offered to 192.0.2.1: TLS is off", reached=True)
ANSWERS = (served(NOT_OFFERED),)


def swapped(life: Life, *, drained: bool = False) -> Life:
    """g2 is installed and reloaded, and a port shows no certificate."""
    life.does(st.Install(server="postfix", generation="g2", because=""))
    life.happens(ev.Installed(server="postfix", generation="g2"))
    life.happens(ev.Reloaded(server="postfix"))
    life.happens(ev.VerifyFailed(server="postfix", generation="g2", served=ANSWERS, drained=drained))
    return life


def test_the_words_of_a_service_do_not_make_it_another_answer() -> None:
    """They may have a number that is new each time."""
    first, second = (
        served(Unknown(f"STARTTLS: not now (its own words: 454 {n})", reached=True, answer="STARTTLS: not now"))
        for n in (1, 2)
    )
    assert first.unseen == second.unseen
    assert first.unseen != ANSWERS[0].unseen


def before(life: Life) -> tuple[str, ...]:
    """The answers that count as those of before the swap."""
    return life.state.mail_servers["postfix"].before


def test_an_answer_of_before_the_swap_is_remembered_until_all_is_verified() -> None:
    """Inspected, drifted, or seen once the old processes of what was put back were gone."""
    told = (str(ANSWERS[0].unseen),)
    inspected = Life()
    inspected.happens(ev.Inspected(server="postfix", served=ANSWERS))
    inspected.does(st.Install(server="postfix", generation="g1", because=""))
    assert before(inspected) == told

    life = swapping()
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=ANSWERS, drained=True))
    assert before(swapped(life)) == told
    life.happens(ev.Verified(server="postfix", generation="g2", drained=True, served=()))
    assert before(life) == ()


@pytest.mark.parametrize("drained", [False, True])
def test_an_answer_that_the_swap_brought_is_not_one_of_before_it(drained: bool) -> None:
    """Not even at the next try, before it is known whether what was put back gives it too."""
    life = swapped(swapping(), drained=drained)
    assert before(life) == ()
    life.does(st.Install(server="postfix", generation="g1", rollback=True, because=""))
    life.happens(ev.Installed(server="postfix", generation="g1"))
    assert before(swapped(life)) == ()


def test_what_was_put_back_gives_the_same_answer_so_the_swap_is_not_its_cause() -> None:
    life = swapped(swapping())
    life.does(st.Install(server="postfix", generation="g1", rollback=True, because=""))
    life.happens(ev.Installed(server="postfix", generation="g1"))
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=ANSWERS, drained=True))
    assert before(swapped(life)) == (str(ANSWERS[0].unseen),)


def test_a_new_service_that_offers_no_tls_changes_nothing_that_is_served() -> None:
    life = swapping()
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=ANSWERS, drained=True, as_before=True))
    assert life.state.mail_servers["postfix"].phase == "drained"


def test_reloads_end_where_they_do_not_help() -> None:
    """Handshakes go on, so that a repair is seen; a person is told by then."""
    [offer] = unverified(swapping(), "mta.not_offered", times=deployment.RELOADS).offers(deployment.finish)
    assert isinstance(offer, st.Verify)


def test_a_swap_that_was_taken_back_again_and_again_is_tried_once_a_day() -> None:
    life = swapping()
    for _ in schedule.SWAP_BACKOFF_S:
        unverified(life, "mta.not_served")
        rollback, *_ = life.offers(deployment.finish)
        life.does(rollback, ev.Installed(server="postfix", generation="g1"), ev.Reloaded(server="postfix"))
        life.happens(ev.Verified(server="postfix", generation="g1", drained=False, served=()))
    failure = life.state.failure(Lane("install", "postfix"))
    assert failure
    assert failure.count == len(schedule.SWAP_BACKOFF_S)
    assert schedule.retry_in(failure, life.now) >= timedelta(days=1)
