"""When a certificate is ordered, for which keys, and that an order is never begun in vain."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from certagent.lifecycle import events as ev
from certagent.lifecycle import gates, schedule
from certagent.lifecycle import steps as st
from certagent.lifecycle.converged import rolled
from certagent.lifecycle.rules import disposal, issuance, rotation
from certagent.lifecycle.rules.rule import Offer
from tests.lifecycle.play import CA, ECDSA, RSA, SPEC, TLSA_NAME, Life, chain_of, lane_of

BOTH = (ECDSA, RSA)
DAY = timedelta(days=1)
NEVER = replace(SPEC, rotate_key=None)
BARE = replace(SPEC, standby=False)


def only(offers: list[Offer]) -> Offer:
    [offer] = offers
    return offer


def wait(offers: list[Offer]) -> st.Wait:
    offer = only(offers)
    assert isinstance(offer, st.Wait)
    assert offer.delay > timedelta(0)
    return offer


def order(offers: list[Offer]) -> st.PlaceOrder:
    offer = only(offers)
    assert isinstance(offer, st.PlaceOrder)
    return offer


def ages(life: Life, share: float) -> Life:
    """Until that share of the newest certificate's lifetime is left; observations are made on the way."""
    newest = life.state.newest
    assert newest
    chain = next(iter(newest.chains.values()))
    life.passes(chain.not_after - (chain.not_after - chain.not_before) * share - life.now.wall)
    return life


# -- room for a roll ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "ttl_s", "standby", "fits"),
    [
        (90 * 24, 86400, False, True),
        (45 * 24, 86400, False, True),
        (160, 3600, False, True),
        (160, 43200, False, True),
        (160, 86400, False, False),  # half of 160 hours is no room for twice two days
        (160, 86400, True, True),
        (160, 2 * 86400, True, False),
        (90 * 24, 8 * 86400, False, False),
    ],
)
def test_a_lifetime_too_short_for_a_roll_is_reported(hours: int, ttl_s: int, standby: bool, fits: bool) -> None:
    spec = replace(SPEC, standby=standby, ttl_s=ttl_s)
    why = rotation.no_time_to_roll(spec, Life(spec).state, chain_of("aa", life=timedelta(hours=hours)))
    assert (why is None) == fits
    assert fits or f"of a lifetime of {hours} h" in str(why)


def test_the_ttl_that_counts_for_the_room_is_the_longest_in_dns() -> None:
    """What the config wants is no help before it is so; who rolls no keys, or has no TLSA records, needs no room."""
    life = Life.published(BARE)
    life.looks(ttl_s=2 * 86400)
    chain = chain_of("aa", life=timedelta(hours=160))
    assert rotation.no_time_to_roll(BARE, Life(BARE).state, chain) is None
    assert rotation.no_time_to_roll(BARE, life.state, chain)
    assert rotation.no_time_to_roll(replace(BARE, rotate_key=None), life.state, chain) is None
    assert rotation.no_time_to_roll(
        replace(BARE, rotate_key=None, tlsa_parameters=("3 1 1", "2 1 1")), life.state, chain
    )
    assert rotation.no_time_to_roll(replace(BARE, tlsa_names={}), life.state, chain) is None


# -- an order, from keys to a chain ----------------------------------------------------------------------------------


def test_one_order_per_key_type_one_after_the_other_and_the_last_chain_completes() -> None:
    """Keys, order, challenge, validation, chain; for the first certificate there is nothing that it replaces."""
    life = Life(replace(SPEC, key_types=BOTH))
    assert wait(life.offers(issuance.issue)).because == "keys are made first"
    made = only(life.offers(rotation.make_keys))
    assert isinstance(made, st.MakeKeys)
    assert (made.keys, made.key_types) == ("k1", BOTH)
    life.until(st.PlaceOrder)
    for key_type, completes in ((ECDSA, False), (RSA, True)):
        placed = order(life.offers(issuance.issue))
        assert (placed.keys, placed.key_type, placed.replaces) == ("k1", key_type, None)
        assert placed.because == "there is no certificate yet"
        life.until(st.Present)
        assert only(life.offers(issuance.issue)).because == "the CA asks for challenges"
        life.until(st.Respond)
        assert only(life.offers(issuance.issue)).because == "the responses are in place"
        final = life.until(st.Finalize)
        assert isinstance(final, st.Finalize)
        assert (final.key_type, final.generation, final.completes) == (key_type, "g1", completes)
        life.until_quiet(limit=1)
    assert life.state.newest is not None


@pytest.mark.parametrize(
    ("tries", "after", "waits_for"),
    [
        (0, timedelta(days=80), "all"),
        (2, timedelta(0), "all"),
        (3, timedelta(0), "answering"),
        (3, timedelta(hours=23), "answering"),
        (1, timedelta(hours=24), "none"),
        (1, timedelta(days=76), "none"),  # the last chance of the certificate that is served
    ],
)
def test_no_name_server_stops_a_renewal_for_ever(tries: int, after: timedelta, waits_for: str) -> None:
    """The CA judges: first all servers count, then those that answer, and none when time runs out."""
    life = Life.published()
    life.happens(ev.Requested(what="renew"))
    early = after if after < timedelta(days=2) else timedelta(0)
    life.passes(after - early)
    life.until(st.Respond)
    for _ in range(tries):
        life.happens(ev.ResponseNotSeen(key_type=ECDSA))
        life.happens(ev.Presented(key_type=ECDSA))
    life.passes(early)
    step = only(life.offers(issuance.issue))
    assert isinstance(step, st.Respond)
    assert step.waits_for == waits_for


def test_what_the_ca_refuses_counts_apart_from_what_is_not_seen() -> None:
    """Else the first refusal after some looks in vain would be followed by a whole day."""
    life = Life()
    lane = f"validation {ECDSA}"
    life.fails(lane, "dns.not_yet", times=5)
    life.fails(lane, "ca.challenge_failed", "rejected")
    failure = life.state.failure(lane_of(lane))
    assert failure
    assert (failure.count, failure.refusals) == (6, 1)
    assert schedule.retry_in(failure, life.now) == timedelta(minutes=1)


def test_a_generation_that_a_journal_left_incomplete_is_ordered_anew() -> None:
    """No agent writes that; but whatever a journal says has an answer."""
    life = Life()
    life.until(st.PlaceOrder)
    life.happens(ev.Issued(key_type=ECDSA, keys="k1", generation="g1", chain=chain_of("aa"), completes=False, ca=CA))
    assert order(life.offers(issuance.issue)).key_type == ECDSA


def test_what_is_reported_twice_is_made_once() -> None:
    life = Life.published()
    newest, keys = life.state.newest, life.state.keys
    assert newest
    life.happens(ev.KeysMade(keys=keys[-1].id, spki=keys[-1].spki))
    for key_type, chain in newest.chains.items():
        life.happens(
            ev.Issued(key_type=key_type, keys=keys[0].id, generation=newest.id, chain=chain, completes=True, ca=CA)
        )
    assert (life.state.keys, life.state.newest) == (keys, newest)
    assert (life.state.keys_made, life.state.generations_made) == (len(keys), 1)


def test_an_authorization_that_the_ca_still_has_needs_no_challenge() -> None:
    """RFC 8555 section 7.4: it may be valid already."""
    life = Life()
    placed = life.until(st.PlaceOrder)
    assert isinstance(placed, st.PlaceOrder)
    life.does(placed, ev.OrderPlaced(key_type=ECDSA, keys="k1", url="", challenges=(), ca=CA))
    assert isinstance(only(life.offers(issuance.issue)), st.Respond)


def test_a_renewal_names_what_it_replaces() -> None:
    """RFC 9773 section 5; not for an algorithm that the old certificate had not."""
    life = ages(Life.published(NEVER), 0.3)
    assert order(life.offers(issuance.issue)).replaces == "g1"
    other = Life.published(SPEC)
    other.spec = replace(SPEC, key_types=(RSA,))
    other.until(st.MakeKeys)
    other.until_quiet(limit=1)
    assert order(other.offers(issuance.issue)).replaces is None


def test_an_order_that_nothing_wants_any_more_is_dropped() -> None:
    """For keys of a roll that was given up, or an algorithm that is not configured any more."""
    life = Life(replace(SPEC, key_types=BOTH))
    life.until(st.Present)
    life.spec = SPEC
    life.happens(ev.KeysMade(keys="k2", spki={ECDSA: "bb" * 32}))
    dropped, placed = life.offers(issuance.issue)
    assert isinstance(dropped, st.AbandonOrder)
    assert dropped.key_type == ECDSA
    assert isinstance(placed, st.PlaceOrder)
    assert placed.keys == "k2"
    waiting = Life.published()
    waiting.happens(ev.OrderPlaced(key_type=ECDSA, keys="k2", url="", challenges=(), ca=CA))
    offers = waiting.offers(issuance.issue)
    assert [type(offer) for offer in offers] == [st.AbandonOrder, st.Wait]


def test_another_ca_takes_nothing_over_and_issues_anew() -> None:
    """Neither an order, nor a renewal window, nor what the first one issued is any of its business."""
    life = Life()
    life.until(st.Present)
    life.spec = replace(SPEC, cas=("https://two.example/directory",))
    dropped, placed = life.offers(issuance.issue)
    assert [type(offer) for offer in (dropped, placed)] == [st.AbandonOrder, st.PlaceOrder]
    life.until_quiet()
    newest = life.state.newest
    assert newest
    assert newest.ca == life.spec.cas[0]
    life.spec = SPEC
    assert life.offers(issuance.fetch_renewal_info) == []
    step = order(life.offers(issuance.issue))
    assert (step.replaces, step.because) == (None, f"the CA is now {SPEC.cas[0]}")


def test_the_ca_that_was_chosen_stays_until_it_is_configured_no_more() -> None:
    """The intent of an order is the choice. Which CA the configuration prefers does not turn it back."""
    first, second = "https://one.example/directory", "https://two.example/directory"
    life = Life(replace(SPEC, cas=(second,)))
    life.does(life.until(st.PlaceOrder))  # killed in the middle: the choice stands all the same
    life.spec = replace(SPEC, cas=(first, second))
    assert order(life.offers(issuance.issue)).ca == second
    life.until_quiet()
    assert life.state.newest
    assert life.state.newest.ca == second
    life.passes(timedelta(hours=5))
    assert not any(isinstance(offer, st.PlaceOrder) for offer in life.offers(issuance.issue))
    life.spec = replace(SPEC, cas=(first,))
    life.happens(ev.Requested(what="renew"))
    assert order(life.offers(issuance.issue)).ca == first


def test_one_generation_is_of_one_ca() -> None:
    """A chain of the CA before, for the same keys, is not mixed with those of the next one: it is ordered again."""
    life = Life(replace(SPEC, key_types=BOTH))
    life.until(st.Finalize)
    life.until_quiet(limit=1)
    assert list(life.state.issued) == [ECDSA]
    life.spec = replace(life.spec, cas=("https://two.example/directory",))
    life.until_quiet()
    placed = [m.step.key_type for m in life.moments if isinstance(m.step, st.PlaceOrder)]
    assert placed == [ECDSA, ECDSA, RSA]
    assert life.state.newest
    assert life.state.newest.ca == life.spec.cas[0]


def test_what_is_changed_in_the_config_waits_for_no_renewal() -> None:
    """Without a standby the next keys are made for it at once."""
    life = Life.published(BARE)
    life.spec = replace(BARE, names=(*SPEC.names, "mail.example.org"))
    assert isinstance(life.until(st.PlaceOrder), st.PlaceOrder)
    newest = life.state.newest
    assert newest
    assert life.now.wall - newest.issued_at.wall < DAY


def test_a_lost_standby_key_does_not_let_the_certificate_run_out() -> None:
    """It is waited for, since a backup may have it; then the keys in service serve on."""
    life = Life.published()
    life.fails("order ecdsa-p256", "vault.missing", "misconfigured")
    newest = life.state.newest
    assert newest
    for moment, keys in ((schedule.backstop, "k2"), (schedule.last_chance, "k1")):
        life.passes(moment(newest.chains[ECDSA]) - life.now.wall)
        assert order(life.offers(issuance.issue)).keys == keys


@pytest.mark.parametrize("lane", ["validation", "issuance"])
def test_no_order_is_placed_before_what_failed_with_the_last_one_may_be_tried_again(lane: str) -> None:
    """An order more would count against the CA's limits for nothing."""
    life = Life()
    life.until(st.PlaceOrder)
    life.fails(f"{lane} {ECDSA}", "ca.rejected", kind="rejected")
    rest = wait(life.offers(issuance.issue))
    assert rest.delay == timedelta(minutes=1)
    assert rest.because == f"{lane} {ECDSA}: tried once: it said no"
    life.passes(rest.delay)
    assert order(life.offers(issuance.issue))


def test_nothing_is_ordered_while_the_keys_of_the_config_are_not_made() -> None:
    """The disk is full, and the algorithms were changed in the middle: no step for keys that there are not."""
    life = Life(replace(SPEC, key_types=BOTH))
    life.until(st.Finalize)
    life.until_quiet(limit=1)
    assert life.state.issued.keys() == {ECDSA}
    life.spec = SPEC
    life.fails("vault", "store.disk")
    assert not [offer for offer in life.offers(issuance.issue) if not isinstance(offer, st.Wait)]
    made = only(life.offers(rotation.make_keys))
    assert isinstance(made, st.MakeKeys)
    assert made.keys == "k2"
    assert made.because == "there are no keys of ecdsa-p256 yet"


# -- when, and for which keys ----------------------------------------------------------------------------------------


def test_a_certificate_is_renewed_on_its_date_and_not_before() -> None:
    """A third of the lifetime left, the CA's window, the operator's request: each is told."""
    life = Life.published(NEVER)
    early = wait(life.offers(issuance.issue))
    assert early.because.startswith("renewal is due 2027-03-02 00:00:00 UTC: a third of the lifetime is left")
    life.passes(early.delay)
    due = order(life.offers(issuance.issue))
    assert (due.keys, due.because) == ("k1", "renewal is due: a third of the lifetime is left")
    asked = Life.published(NEVER)
    asked.happens(ev.Requested(what="renew"))
    assert order(asked.offers(issuance.issue)).because == "the operator asked: renew"
    asked.happens(ev.Requested(what="abort"))
    assert wait(asked.offers(issuance.issue)).because == early.because


def test_a_certificate_that_was_due_when_it_came_is_not_renewed_without_end() -> None:
    """A CA with a wrong clock, or very short lifetimes: once an hour, or a quarter of the lifetime."""
    life = Life.published(NEVER)
    begin = life.now.wall - timedelta(days=89)
    newest = life.state.keyset("k1")
    assert newest
    old = replace(chain_of("aa", begin=begin), spki=newest.spki[ECDSA])
    life.happens(ev.Issued(key_type=ECDSA, keys="k1", generation="g2", chain=old, completes=True, ca=CA))
    assert wait(life.offers(issuance.issue)).delay == timedelta(hours=1)
    short = replace(old, not_before=life.now.wall - timedelta(minutes=8), not_after=life.now.wall)
    life.happens(ev.Issued(key_type=ECDSA, keys="k1", generation="g3", chain=short, completes=True, ca=CA))
    assert wait(life.offers(issuance.issue)).delay == timedelta(minutes=2)


def test_what_the_config_changed_is_ordered_at_once() -> None:
    """Names and algorithms; a name that is not asked for any more waits for the next renewal."""
    life = Life.published(NEVER)
    life.spec = replace(NEVER, names=("mx1.example.org", "mx2.example.org"))
    changed = order(life.offers(issuance.issue))
    assert (changed.keys, changed.because) == ("k1", "the names are now mx1.example.org, mx2.example.org")
    life.spec = replace(NEVER, key_types=BOTH)
    assert wait(life.offers(issuance.issue)).because.endswith(
        "are now ecdsa-p256, rsa-2048; the next keys are made first"
    )
    made = only(life.offers(rotation.make_keys))
    assert isinstance(made, st.MakeKeys)
    assert (made.key_types, made.because) == (BOTH, "the key types are now ecdsa-p256, rsa-2048")
    life.does(made, ev.KeysMade(keys=made.keys, spki={ECDSA: "dd" * 32, RSA: "ee" * 32}))
    assert order(life.offers(issuance.issue)).keys == made.keys
    two = Life.published(replace(NEVER, names=("mx1.example.org", "mx2.example.org")))
    two.spec = NEVER
    wait(two.offers(issuance.issue))


@pytest.mark.parametrize(
    ("rotate", "days", "keys"),
    [
        (timedelta(), 0.3, "k2"),
        (timedelta(days=50), 0.3, "k2"),
        (timedelta(days=70), 0.3, "k1"),
        (None, 0.3, "k1"),
    ],
)
def test_keys_are_rotated_at_the_renewal_after_their_age(rotate: timedelta | None, days: float, keys: str) -> None:
    """Always, after so many days in service, or never."""
    life = ages(Life.published(replace(SPEC, rotate_key=rotate)), days)
    life.until_quiet(limit=1)
    life.looks()
    assert order(life.offers(issuance.issue)).keys == keys


@pytest.mark.parametrize("what", ["rotate", "emergency"])
def test_the_operator_may_ask_for_new_keys_whatever_the_config_says(what: str) -> None:
    life = Life.published(NEVER)
    life.happens(ev.Requested(what="emergency" if what == "emergency" else "rotate"))
    placed = order(life.offers(issuance.issue))
    assert (placed.keys, placed.because) == ("k2", f"the operator asked: {what}")


def test_the_old_key_is_kept_rather_than_the_date_missed() -> None:
    """With a sixth of the lifetime left a roll may come too late: unless caches know the next keys already."""
    ready = ages(Life.published(), 0.15)
    assert order(ready.offers(issuance.issue)).keys == "k2"
    ready.looks(ready.records("g1"))
    late = order(ready.offers(issuance.issue))
    assert (late.keys, late.because) == ("k1", "renewal is due: a third of the lifetime is left")
    bare = ages(Life.published(BARE), 0.15)
    assert order(bare.offers(issuance.issue)).keys == "k1"
    assert bare.offers(rotation.make_keys) == [], "no other keys are made in that hour"
    # without TLSA names there is nothing that could come too late
    alone = Life(replace(BARE, tlsa_names={}))
    alone.until_quiet()
    ages(alone, 0.15)
    assert isinstance(only(alone.offers(rotation.make_keys)), st.MakeKeys)


def held_back(life: Life) -> Life:
    """g2 of other keys is issued, and caches do not know them."""
    life.happens(ev.Requested(what="rotate"))
    life.until(st.Install)
    life.looks(life.records("g1"))
    assert gates.may_install(life.names, "postfix", life.state.generations[-1], life.now)
    return life


def test_what_is_served_is_renewed_with_its_own_key_when_its_successor_is_held_back_too_long() -> None:
    """The last chance; not a moment before it, and not if the successor may be installed."""
    life = held_back(Life.published())
    wait(life.offers(issuance.issue))
    served = life.state.generation("g1")
    assert served
    life.passes(schedule.last_chance(served.chains[ECDSA]) - life.now.wall - timedelta(minutes=1))
    offers = life.offers(issuance.issue)
    assert not any(isinstance(o, st.PlaceOrder) and o.keys == "k1" for o in offers)
    life.passes(timedelta(minutes=1))
    urgent = order(life.offers(issuance.issue))
    assert urgent.keys == "k1"
    assert urgent.because == "the certificate runs out before its successor may serve: renewed with the same key"
    life.looks(life.in_dns)
    life.passes(timedelta(hours=2))
    assert not any(isinstance(o, st.PlaceOrder) and o.keys == "k1" for o in life.offers(issuance.issue))


def test_the_last_chance_is_there_even_if_an_algorithm_was_taken_out() -> None:
    """New keys are made for what is left; while they are held back, what is left of the old ones goes on."""
    life = Life.published(replace(NEVER, key_types=BOTH))
    life.spec = NEVER
    life.until(st.Install)
    life.looks(life.in_dns, None)
    newest = life.state.newest
    assert newest
    assert newest.keys != "k1"
    served = life.state.generation("g1")
    assert served
    life.passes(schedule.last_chance(served.chains[ECDSA]) - life.now.wall)
    life.looks(life.in_dns, None)
    urgent = order(life.offers(issuance.issue))
    assert (urgent.keys, urgent.key_type) == ("k1", ECDSA)


# -- the next keys ---------------------------------------------------------------------------------------------------


def test_a_standby_is_made_when_a_roll_is_over_and_there_are_tlsa_names() -> None:
    """Not before everything is proven; one is enough."""
    life = Life()
    life.until(st.Install)
    wait(life.offers(rotation.make_keys))
    made = life.until(st.MakeKeys)
    assert made.because.startswith("standby: ")
    assert rolled(life.spec, life.state)
    life.until_quiet()
    assert life.offers(rotation.make_keys) == []


def test_without_a_standby_the_next_keys_are_made_in_time_for_caches() -> None:
    """The longest retire interval in force, and time for servers to follow, before the renewal."""
    life = Life.published(BARE)
    early = wait(life.offers(rotation.make_keys))
    assert early.because == "the next keys are made in time for the renewal at 2027-03-02 00:00:00 UTC"
    newest = life.state.newest
    assert newest
    due = schedule.backstop(newest.chains[ECDSA])
    lead = due - (life.now.wall + early.delay)
    assert lead == timedelta(hours=2) + schedule.OBSERVE_AT_MOST
    life.passes(early.delay)
    made = only(life.offers(rotation.make_keys))
    assert isinstance(made, st.MakeKeys)
    assert made.because.startswith(
        "caches must know the next key before the renewal at 2027-03-02 00:00:00 UTC (a third"
    )
    alone = Life(replace(BARE, tlsa_names={}))
    alone.until_quiet()
    assert (alone.now.wall + wait(alone.offers(rotation.make_keys)).delay) > due - timedelta(minutes=10), "no caches"


def test_no_keys_are_made_that_nothing_would_rotate_to() -> None:
    """`rotate_key: never` and no standby."""
    life = Life.published(replace(NEVER, standby=False))
    assert life.offers(rotation.make_keys) == []
    life.happens(ev.Requested(what="rotate"))
    made = only(life.offers(rotation.make_keys))
    assert isinstance(made, st.MakeKeys)
    assert made.because == "the operator asked: rotate"


# -- the rest --------------------------------------------------------------------------------------------------------


def test_the_ca_is_asked_for_its_window_as_often_as_it_says_until_the_end() -> None:
    """RFC 9773 section 4.3; again for each certificate; not for one that has expired."""
    life = Life()
    assert life.offers(issuance.fetch_renewal_info) == []
    asked = life.until(st.FetchRenewalInfo)
    assert asked.because == "the CA was not asked yet"
    info = ev.RenewalInfo(generation="g1", key_type=ECDSA, start=None, end=None, at=None, ask_again_s=21600, ca=CA)
    life.does(asked, info)
    again = wait(life.offers(issuance.fetch_renewal_info))
    assert again.delay == timedelta(hours=6)
    life.passes(again.delay)
    assert only(life.offers(issuance.fetch_renewal_info)).because == "the CA's Retry-After is over"
    life.happens(replace(info, generation="g0"))
    assert only(life.offers(issuance.fetch_renewal_info)).because == "the CA was not asked yet"
    ages(life, 0)
    assert life.offers(issuance.fetch_renewal_info) == []


def test_challenge_values_leave_dns_with_their_order() -> None:
    """Not while the CA may still look at them."""
    life = Life()
    life.does(life.until(st.Present))
    assert life.offers(issuance.clean_up) == []
    life.happens(ev.Presented(key_type=ECDSA))
    life.happens(ev.OrderReady(key_type=ECDSA))
    clean_up = only(life.offers(issuance.clean_up))
    assert isinstance(clean_up, st.CleanUp)
    assert clean_up.challenges == life.state.challenges != ()


def test_what_is_compromised_is_revoked_when_nothing_serves_it() -> None:
    """Not a moment before: its users would be cut off."""
    life = Life.published()
    life.happens(ev.Requested(what="emergency"))
    life.until(st.Install)
    old = life.state.generation("g1")
    assert old
    assert old.revoke
    assert life.offers(disposal.revoke) == []
    step = life.until(st.Revoke)
    assert life.offers(disposal.revoke) == [step]
    life.does(step, ev.Revoked(generation="g1", ca=CA))
    assert life.offers(disposal.revoke) == []
    assert TLSA_NAME in life.state.tlsa_names
