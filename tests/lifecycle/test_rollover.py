"""The gates and the set to publish, against every sender there could be (`senders.py`); and what they say to people."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hst
from msgspec.structs import replace

from certagent.lifecycle import events as ev
from certagent.lifecycle import rollover
from certagent.lifecycle import steps as st
from certagent.lifecycle.fold import fold
from certagent.lifecycle.model import Answer, Instant, Sighting, Spec, Unknown
from certagent.lifecycle.state import Generation, State, records
from certagent.pki import tlsa
from tests.lifecycle import senders
from tests.lifecycle.drawn import ALGORITHMS, LEAVES, MX, MX1, SIGHTINGS, SPECS, TARGETS, VALUES, built
from tests.lifecycle.play import OWNER, SPEC, START, Life, foreign, later, leaf, served

# -- any past, and every sender --------------------------------------------------------------------------------------

LEAVES_OF_ONE = hst.dictionaries(hst.sampled_from(ALGORITHMS), LEAVES, min_size=1)
GENERATION = hst.builds(Generation, hst.just("new"), hst.just("k9"), LEAVES_OF_ONE, hst.just(START))
ANY = hst.one_of(
    *[built(ev.Looked)] * 3,
    *(built(kind) for kind in (ev.Surveyed, ev.KeysMade, ev.Issued, ev.Superseding, ev.Published, ev.Unpublished)),
    hst.builds(ev.Intended, step=built(st.Install) | built(st.Publish) | built(st.Unpublish)),
    *(built(kind) for kind in (ev.Installed, ev.Reloaded, ev.Proven, ev.Disproven)),
)


@hst.composite
def pasts(draw: hst.DrawFn) -> list[tuple[timedelta, ev.AnyEvent]]:
    """As a past mostly begins, and then anything: surveyed, issued, installed, proven, looked at."""
    often = hst.sampled_from([True, True, True, False])
    surveyed = [target for target in TARGETS if draw(often)]
    events: list[ev.AnyEvent] = [ev.Surveyed(target=target, served=(served(draw(LEAVES)),)) for target in surveyed]
    if draw(often):
        events.append(ev.KeysMade(keys="k1", spki={"ecdsa-p256": "aa" * 32}))
        chain = leaf("aa", *draw(hst.sampled_from([(), ("ca",), ("ca", "cb")])))
        events.append(ev.Issued(algorithm="ecdsa-p256", keys="k1", generation="g1", leaf=chain, completes=True))
        for target in TARGETS:
            if draw(often):
                install = st.Install(target=target, generation="g1", because="")
                met = [replace(served(chain), host=f"{target}.example.org")] if draw(often) else []
                proof = ev.Proven(target=target, generation="g1", drained=draw(often), served=tuple(met))
                events += [ev.Intended(step=install), ev.Installed(target=target, generation="g1"), proof]
    for owner in (MX1, MX):
        if draw(often):
            events.append(ev.Looked(owner=owner, sighting=draw(SIGHTINGS)))
    events += draw(hst.lists(ANY, max_size=6))
    delays = hst.sampled_from([0.0, 0.5, 30.0, 90.0, 1000.0, 5000.0]).map(lambda s: timedelta(seconds=s))
    return [(draw(delays), event) for event in events]


PAST = pasts()
THOROUGH = settings(max_examples=250, deadline=None)


def past(drawn: list[tuple[timedelta, ev.AnyEvent]]) -> tuple[State, senders.History, Instant]:
    """The state that a drawn past folds to; a target is not installed at before it was surveyed."""
    state, now = State(name="mx1.example.org"), START
    history: senders.History = []
    for delay, event in drawn:
        now = later(now, delay)
        if isinstance(event, ev.Installed) and event.target not in state.targets:
            continue
        state = fold(state, event, now)
        history.append((now, event))
    return state, history, later(now, timedelta(seconds=45))


@given(SPECS, PAST)
@THOROUGH
def test_what_caches_may_hold_is_what_the_whole_history_says(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]]
) -> None:
    """The fold keeps as much of the past as there is to know of it."""
    state, history, now = past(drawn)
    for name in (MX1, MX):
        held = {h.values for h in rollover.held(spec, state.owner(name), now)}
        assert held == senders.cacheable(history, name, spec.guard, now)


@given(SPECS, PAST, GENERATION)
@THOROUGH
def test_a_swap_that_is_allowed_cuts_no_sender_off(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]], generation: Generation
) -> None:
    """Whoever holds whatever may be cached and cannot match the new chain has met one here already that it cannot
    match; and the other way round: what is held back would hurt somebody, or rests on what is not known.
    """
    state, history, now = past(drawn)
    for target in TARGETS:
        allowed = not rollover.may_install(spec, state, target, generation, now)
        hurt, reason = False, False
        for owner in rollover.names_of(spec, state, target):
            sets = senders.cacheable(history, owner, spec.guard, now)
            met = senders.met(spec, state, history, owner)
            for triple, cached, chain in product(senders.TRIPLES, sets, generation.leaves.values()):
                if not senders.cut_off(triple, cached, chain):
                    continue
                before = [senders.cut_off(triple, cached, c, doubt=True) for chains in met.values() for c in chains]
                newly = not all(any(senders.cut_off(triple, cached, c) for c in chains) for chains in met.values())
                hurt = hurt or newly
                reason = reason or not before or not all(before) or not all(met.values())
            reason = reason or senders.blind(state, history, owner)
        assert not (allowed and hurt)
        assert allowed or reason


@given(SPECS, PAST, VALUES)
@THOROUGH
def test_records_are_removed_exactly_where_no_sender_needs_them(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]], values: frozenset[str]
) -> None:
    """RFC 7671 section 8.1: from whichever set a server gives."""
    state, history, _ = past(drawn)
    for owner in (MX1, MX):
        met = senders.met(spec, state, history, owner)
        rounds = senders.looks(history, owner)
        sets = [a.values for a in senders.answers(rounds[-1][1])] if rounds else []
        chains = [chain for chains in met.values() for chain in chains]
        unknown = any(name not in state.targets for name in met)
        hurts = any(senders.worse(before, before - values, chains) for before in sets)
        unplaced = not all(senders.places(history, name) for name in spec.owners)
        assert (rollover.may_unpublish(spec, state, owner, values) is None) == (not (unplaced or unknown or hurts))


@given(SPECS, PAST, VALUES)
@THOROUGH
def test_records_are_added_exactly_where_they_hurt_no_sender(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]], values: frozenset[str]
) -> None:
    """RFC 7671 section 8.4: to whichever set a server gives, and to none: a hidden primary may have none. The first
    records of a name wait until it is signed, and one and the same generation is proven at every target of it.
    """
    state, history, _ = past(drawn)
    for owner in spec.owners:
        met = senders.met(spec, state, history, owner)
        rounds = senders.looks(history, owner)
        sets = [a.values for a in senders.answers(rounds[-1][1])] if rounds else []
        chains = [chain for chains in met.values() for chain in chains]
        begun = any(sets)
        secure = bool(sets) and rounds[-1][1].sighting.security == "secure"
        at = [state.targets.get(name) for name in met]
        known = all(at)
        drained = all(
            a and a.phase == "drained" and f"{n}.example.org:25" in a.services for n, a in zip(met, at, strict=True)
        )
        one = len({id_ for a in at if a for id_ in a.serves}) == 1 and bool(chains)
        hurts = any(senders.worse(before, before | values, chains) for before in [frozenset[str](), *sets])
        placed = all(senders.places(history, name) for name in spec.owners)
        allowed = bool(sets) and known and (begun or (secure and placed and drained and one)) and not hurts
        assert (rollover.may_publish(spec, state, owner, values) is None) == allowed


@given(SPECS, PAST)
@THOROUGH
def test_the_desired_set_has_a_record_of_everything_that_may_be_served(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]]
) -> None:
    """And of what is to be served next; or it is empty: withdrawn, or a first publication that has to wait."""
    state, history, _ = past(drawn)
    for owner in (MX1, MX):
        values = rollover.desired(spec, state, owner)
        if rollover.withdrawn(spec, state, owner) or rollover.withheld(spec, state, owner):
            assert values == frozenset()
            continue
        for chains in senders.met(spec, state, history, owner).values():
            for chain in chains:
                assert tlsa.records(chain, spec.triples) <= values
                assert not any(senders.cut_off(triple, values, chain) for triple in ("3 1 1", "2 1 1") if chain.issuers)
        if state.newest:
            assert records(state.newest, spec.triples) <= values
        if state.next_keys and "3 1 1" in spec.triples:
            assert {f"3 1 1 {spki}" for spki in state.next_keys.spki.values()} <= values


@given(SPECS, PAST)
@THOROUGH
def test_what_is_planned_to_be_published_passes_its_gate(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]]
) -> None:
    """`missing` leaves out what the gate would refuse; so the gate never has the last word against the planner."""
    state, _, _ = past(drawn)
    for owner in spec.owners:
        if (values := rollover.missing(spec, state, owner)) and not rollover.withheld(spec, state, owner):
            assert rollover.may_publish(spec, state, owner, values) is None


# -- what stands against a swap, in words ----------------------------------------------------------------------------


def newcomer(life: Life) -> Generation:
    """A generation of a key that nobody has seen."""
    return Generation("g9", "k9", {"ecdsa-p256": leaf("99")}, life.now)


def against(life: Life, generation: Generation | None = None) -> dict[str, timedelta | None]:
    found = rollover.may_install(life.spec, life.state, "postfix", generation or newcomer(life), life.now)
    return {obstacle.why: obstacle.remaining for obstacle in found}


def test_a_set_in_caches_stands_against_a_swap_for_two_ttls_after_it_was_last_given() -> None:
    """Counted from the first round in which nobody gives it; then nothing stands against it."""
    life = Life.published()
    new = "3 1 1 " + "99" * 32
    life.looks(life.in_dns | {new})
    life.passes(timedelta(hours=1))
    why = "caches may hold the set seen with TTL 3600 s (RFC 7671 section 8.1)"
    assert against(life) == {why: timedelta(hours=1)}
    life.passes(timedelta(hours=1))
    assert against(life) == {}


@pytest.mark.parametrize("lacking", ["ecdsa-p256", "rsa-2048"])
def test_the_chain_of_each_algorithm_must_match(lacking: str) -> None:
    """A client meets either (RFC 7671 section 8 holds for both)."""
    life = Life.published()
    both = {"ecdsa-p256": leaf("99"), "rsa-2048": leaf("88")}
    generation = replace(newcomer(life), leaves=both)
    all_ = life.in_dns | {f"3 1 1 {chain.spki}" for chain in both.values()}
    for seen, stands in ((all_, False), (all_ - {f"3 1 1 {both[lacking].spki}"}, True)):
        life.looks(seen)
        life.passes(timedelta(days=1))
        life.looks(seen)
        assert bool(against(life, generation)) == stands


@pytest.mark.parametrize("lacking", [MX1, MX])
def test_every_name_at_which_a_mail_server_answers_counts(lacking: str) -> None:
    """Whichever of them is configured first; one that is withdrawn, for as long as caches hold it."""
    spec = replace(SPEC, owners={MX1: ("postfix",), MX: ("postfix",)})
    life = Life(spec)
    life.until_quiet()
    life.passes(timedelta(days=1))
    old = life.records("g1")
    both = old | {"3 1 1 " + "99" * 32}
    for seen in (both, old):
        for _ in range(2):
            life.passes(timedelta(hours=3))
            for name in (MX1, MX):
                answers: dict[str, Answer | Unknown] = {
                    "ns1./192.0.2.1": Answer(seen if name == lacking else both, 3600)
                }
                life.happens(ev.Looked(owner=name, sighting=Sighting("example.org.", name, answers, "secure")))
        found = rollover.may_install(life.spec, life.state, "postfix", newcomer(life), life.now)
        assert {obstacle.owner for obstacle in found} == (set() if seen == both else {lacking})
    life.spec = replace(spec, owners={name: ("postfix",) for name in spec.owners if name != lacking})
    found = rollover.may_install(life.spec, life.state, "postfix", newcomer(life), life.now)
    assert {obstacle.owner for obstacle in found} == {lacking}


def test_what_is_not_known_stands_against_a_swap_without_an_end() -> None:
    """Never looked, changed since, somebody silent, nobody there, bogus, still given: each says so."""
    life = Life()
    life.happens(ev.Surveyed(target="postfix", served=(served(leaf("ee")),)))
    assert against(life) == {"its authoritative servers were not asked yet": None}
    new, old = frozenset({"3 1 1 " + "99" * 32}), frozenset({"3 1 1 " + "ee" * 32})
    life.looks(new, None)
    assert against(life) == {"not heard: ns2./192.0.2.2 (no answer)": None}
    life.looks(new, new)
    assert against(life) == {}
    life.looks(new, old)
    assert against(life) == {"still answered without a matching record by ns2./192.0.2.2": None}
    life.looks(new, None)
    assert set(against(life)) == {"not heard: ns2./192.0.2.2 (no answer)"}
    life.looks(new, new, security="bogus", why="no signature")
    assert "DNSSEC is broken: no signature" in against(life)
    life.passes(timedelta(days=1))
    life.looks(new)
    life.does(st.Publish(owner=OWNER, values=old, ttl_s=60, because=""))
    assert against(life) == {"changed, and not looked at since": None}
    life.happens(ev.Looked(owner=OWNER, sighting=Sighting("example.org.", OWNER, {}, "secure")))
    assert "not heard: no authoritative server" in against(life)


def test_a_chain_that_no_sender_can_tell_from_the_old_one_waits_for_nothing() -> None:
    """A renewal with the same key goes out in any weather; with an issuer pinned, only below the same issuer."""
    life = Life()
    life.until_quiet(foreign(leaf("ee", "ca")), limit=1)  # the survey
    same_key = replace(newcomer(life), leaves={"ecdsa-p256": leaf("ee", "cb")})
    same_chain = replace(newcomer(life), leaves={"ecdsa-p256": leaf("ee", "ca")})
    assert against(life, same_key) == against(life, same_chain) == {}
    assert rollover.names_that_roll(life.spec, life.state, "postfix", same_key) == []
    assert rollover.names_that_roll(life.spec, life.state, "postfix", newcomer(life)) == [OWNER]
    life.spec = replace(life.spec, triples=("3 1 1", "2 1 1"))
    assert against(life, same_chain) == {}
    assert against(life, same_key) == {"its authoritative servers were not asked yet": None}
    # the same where somebody else has pinned the issuer
    life.spec = replace(life.spec, triples=("3 1 1",))
    life.looks(frozenset({"2 1 1 " + "ca" * 32}))
    assert set(against(life, same_key)) == {"still answered without a matching record by ns1./192.0.2.1"}
    life.looks(frozenset({"1 1 1 " + "ca" * 32}))
    life.passes(timedelta(days=9))
    life.looks(frozenset({"1 1 1 " + "ca" * 32}))
    assert against(life, same_key) == {}


# -- what holds records back, in words -------------------------------------------------------------------------------


def test_why_nothing_is_published_yet() -> None:
    """Not asked, not known what is served, nobody heard, not signed, not proven; and a set that is there is enough."""
    life = Life()
    values = frozenset({"3 1 1 " + "ee" * 32})

    def why() -> str | None:
        gate = rollover.may_publish(life.spec, life.state, OWNER, values)
        withheld = rollover.withheld(life.spec, life.state, OWNER)
        assert gate == (f"{OWNER}: {withheld}" if withheld else None)
        assert bool(rollover.desired(life.spec, life.state, OWNER)) == (withheld is None)
        return withheld

    assert why() == "its authoritative servers were not asked yet"
    life.looks(frozenset())
    assert why() == "what postfix serves is not known yet"
    assert rollover.may_unpublish(life.spec, life.state, OWNER, values) == f"{OWNER}: {why()}"
    life.happens(ev.Surveyed(target="postfix", served=(served(leaf("ee")),)))
    life.looks(None, None)
    assert why() == "none of its authoritative servers was heard"
    for security in ("insecure", "bogus", "unknown"):
        life.looks(frozenset(), security=security, why="as it was told")
        assert why() == f"not known to be signed: {security}, as it was told"
    life.looks(frozenset())
    assert why() == "first publication: the key is served and proven first"
    life.looks(frozenset(), values, security="unknown")
    assert why() is None


def test_a_new_triple_is_first_published_for_what_is_served() -> None:
    """RFC 7671 section 8.4: `2 1 1` of an issuer to come would cut off who supports only that."""
    life = Life.published()
    gate = rollover.may_publish(life.spec, life.state, OWNER, frozenset({"2 1 1 " + "cb" * 32}))
    assert gate is not None
    assert "no record of type 2 1 1" in gate
    # a key to come goes out with that of what is served: a server may have neither
    strange = frozenset({"3 1 1 " + "cb" * 32})
    assert rollover.may_publish(life.spec, life.state, OWNER, strange) is not None
    assert rollover.may_publish(life.spec, life.state, OWNER, strange | life.records("g1")) is None


def test_the_last_record_that_matches_is_not_removed() -> None:
    """The others may go."""
    life = Life.published()
    stand_by = life.in_dns - life.records("g1")
    assert len(stand_by) == 1
    assert rollover.may_unpublish(life.spec, life.state, OWNER, stand_by) is None
    gate = rollover.may_unpublish(life.spec, life.state, OWNER, life.records("g1"))
    assert gate == f"{OWNER}: without these no record of type 3 1 1 would match what is served"
    assert rollover.may_unpublish(life.spec, life.state, OWNER, life.in_dns) is None, "no records, no DANE"


def test_what_one_server_lacks_of_what_is_served_is_published_again_whole() -> None:
    """That one may be the primary, and the others may only not have followed yet."""
    life = Life.published()
    life.looks(life.in_dns, life.in_dns - life.records("g1"))
    assert rollover.missing(life.spec, life.state, OWNER) == life.in_dns
    life.looks(life.in_dns, frozenset())
    assert rollover.missing(life.spec, life.state, OWNER) == life.in_dns
    # what nobody needs yet may follow later
    life.looks(life.in_dns, life.records("g1"))
    assert rollover.missing(life.spec, life.state, OWNER) == frozenset()
    life.looks(life.records("g1"))
    assert rollover.missing(life.spec, life.state, OWNER) == life.in_dns


def test_records_of_somebody_else_are_left_alone_and_ours_leave_a_withdrawn_name_altogether() -> None:
    """Seen or not: a server may have lost sight of one."""
    life = Life.published()
    strange = frozenset({"3 1 1 " + "ee" * 32})
    life.looks(life.in_dns | strange)
    assert rollover.surplus(life.spec, life.state, OWNER) == frozenset()
    life.spec = replace(SPEC, owners={})
    assert rollover.surplus(life.spec, life.state, OWNER) == life.state.ours
    assert not strange & life.state.ours
    life.looks(strange)
    assert rollover.surplus(life.spec, life.state, OWNER) == frozenset()


def test_a_triple_that_is_withdrawn_goes_as_a_whole() -> None:
    """Seen or not, like a name: what is left of it would match nothing."""
    life = Life.published()
    newest = life.state.newest
    assert newest
    seen, unseen = ("2 1 1 " + issuer * 32 for issuer in ("ee", "ff"))
    olds = [replace(newest, id=f"of {i}", leaves={"ecdsa-p256": leaf("dd", i)}) for i in ("ee", "ff")]
    life.state = replace(life.state, generations=(*olds, *life.state.generations))
    life.looks(life.in_dns)
    assert rollover.surplus(life.spec, life.state, OWNER) == frozenset()
    life.looks(life.in_dns | {seen})
    assert rollover.surplus(life.spec, life.state, OWNER) == {seen, unseen}
    life.spec = replace(SPEC, triples=("3 1 1", "2 1 1"))
    assert rollover.surplus(life.spec, life.state, OWNER) == {seen}, "of one that stays only what is seen"


def test_every_server_and_some_server() -> None:
    """Nothing is everywhere while one is silent."""
    life = Life.published()
    one, two = frozenset({"3 1 1 " + "ee" * 32}), frozenset({"3 1 1 " + "ee" * 32, "3 1 1 " + "dd" * 32})
    life.looks(one, two)
    assert (rollover.seen_everywhere(life.owner), rollover.seen_somewhere(life.owner)) == (one, two)
    life.looks(one, None)
    assert (rollover.seen_everywhere(life.owner), rollover.seen_somewhere(life.owner)) == (frozenset(), one)
    assert rollover.path(life.owner) == ()
    life.looks(None, one, path=(("a.hosted.net.", 60),))
    assert rollover.path(life.owner) == ("a.hosted.net.",)
    life.looks(None)
    assert rollover.path(life.owner) == ()
    unasked = Life().state.owner(OWNER)
    assert rollover.seen_everywhere(unasked) == rollover.seen_somewhere(unasked) == frozenset()
    assert rollover.path(unasked) == ()
    assert not rollover.empty(unasked)


def test_what_a_client_may_meet_is_not_known_before_every_mail_server_is() -> None:
    """Half of it would look as if the other half served nothing."""
    spec = replace(SPEC, owners={OWNER: ("postfix", "other")})
    life = Life(spec)
    life.happens(ev.Surveyed(target="postfix", served=(served(leaf("ee")),)))
    assert rollover.served_at(spec, life.state, OWNER) == []
    life.happens(ev.Surveyed(target="other", served=()))
    assert rollover.served_at(spec, life.state, OWNER) == [leaf("ee")]


@pytest.mark.parametrize("triples", [("3 1 1",), ("2 1 1",), ("3 1 1", "2 1 1")])
def test_keys_are_planned_for_with_the_issuers_of_the_chain_they_follow(triples: tuple[str, ...]) -> None:
    """Before they are issued nothing better is known; where nothing is, no issuer is made up."""
    life = Life.published(replace(SPEC, triples=triples))
    keys = life.state.keys[-1]
    like = Generation("x", "k1", {"ecdsa-p256": leaf("aa", "ca")}, life.now)
    [chain] = rollover.as_if_issued(keys, like).values()
    assert (chain.spki, chain.issuers) == (keys.spki["ecdsa-p256"], ("ca" * 32,))
    [chain] = rollover.as_if_issued(keys, None).values()
    assert chain.issuers == ()


def test_what_was_not_observed_is_not_an_empty_set() -> None:
    """`Unknown` hides nothing: the look counts neither for nor against."""
    life = Life()
    life.looks(None)
    assert not rollover.empty(life.owner)
    assert life.owner.sighting is not None
    assert isinstance(life.owner.sighting.answers["ns1./192.0.2.1"], Unknown)
    life.looks(frozenset())
    assert rollover.empty(life.owner)
