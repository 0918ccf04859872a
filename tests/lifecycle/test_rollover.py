"""The gates and the set to publish, against every sender there could be (`senders.py`); and what they say to people."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hst
from msgspec.structs import replace

from certagent.facts.dns import Answer, Observation
from certagent.facts.moment import Instant
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import gates
from certagent.lifecycle import steps as st
from certagent.lifecycle.fold import fold
from certagent.lifecycle.spec import MailServer, Service, Spec
from certagent.lifecycle.state import Generation, State, records
from certagent.lifecycle.tlsaname import TlsaNames
from certagent.pki import tlsa
from tests.lifecycle import senders
from tests.lifecycle.drawn import CHAINS, KEY_TYPES, MAIL_SERVERS, MX, MX1, OBSERVATIONS, SPECS, VALUES, built
from tests.lifecycle.play import CA, ECDSA, SPEC, START, TLSA_NAME, Life, chain_of, later, served, unmanaged

# -- any past, and every sender --------------------------------------------------------------------------------------

CHAINS_OF_ONE = hst.dictionaries(hst.sampled_from(KEY_TYPES), CHAINS, min_size=1)
GENERATION = hst.builds(Generation, hst.just("new"), hst.just("k9"), CHAINS_OF_ONE, hst.just(START))
ANY = hst.one_of(
    *[built(ev.Observed)] * 3,
    *(built(kind) for kind in (ev.Inspected, ev.KeysMade, ev.Issued, ev.Superseding, ev.Published, ev.Unpublished)),
    hst.builds(ev.Intended, step=built(st.Install) | built(st.Publish) | built(st.Unpublish)),
    *(built(kind) for kind in (ev.Installed, ev.Reloaded, ev.Verified, ev.VerifyFailed)),
)


@hst.composite
def pasts(draw: hst.DrawFn) -> list[tuple[timedelta, ev.AnyEvent]]:
    """As a past mostly begins, and then anything: inspected, issued, installed, verified, observed."""
    often = hst.sampled_from([True, True, True, False])
    surveyed = [server for server in MAIL_SERVERS if draw(often)]
    events: list[ev.AnyEvent] = [ev.Inspected(server=server, served=(served(draw(CHAINS)),)) for server in surveyed]
    if draw(often):
        events.append(ev.KeysMade(keys="k1", spki={"ecdsa-p256": "aa" * 32}))
        chain = chain_of("aa", *draw(hst.sampled_from([(), ("ca",), ("ca", "cb")])))
        events.append(ev.Issued(key_type="ecdsa-p256", keys="k1", generation="g1", chain=chain, completes=True, ca=CA))
        for server in MAIL_SERVERS:
            if draw(often):
                install = st.Install(server=server, generation="g1", because="")
                met = [replace(served(chain), host=f"{server}.example.org")] if draw(often) else []
                proof = ev.Verified(server=server, generation="g1", drained=draw(often), served=tuple(met))
                events += [ev.Intended(step=install), ev.Installed(server=server, generation="g1"), proof]
    for tlsa_name in (MX1, MX):
        if draw(often):
            events.append(ev.Observed(tlsa_name=tlsa_name, observation=draw(OBSERVATIONS)))
    events += draw(hst.lists(ANY, max_size=6))
    delays = hst.sampled_from([0.0, 0.5, 30.0, 90.0, 1000.0, 5000.0]).map(lambda s: timedelta(seconds=s))
    return [(draw(delays), event) for event in events]


MX2, ALIAS = "_25._tcp.mx2.example.org.", "dane.example.org."
PAST = pasts()
THOROUGH = settings(max_examples=250, deadline=None)


def past(drawn: list[tuple[timedelta, ev.AnyEvent]]) -> tuple[State, senders.History, Instant]:
    """The state that a drawn past folds to; a target is not installed at before it was surveyed."""
    state, now = State(name="mx1.example.org"), START
    history: senders.History = []
    for delay, event in drawn:
        now = later(now, delay)
        if isinstance(event, ev.Installed) and event.server not in state.mail_servers:
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
        cached = {h.values for h in TlsaNames(spec, state)[name].cached(now)}
        assert cached == senders.cacheable(history, name, spec.safety_margin, now)


@given(SPECS, PAST, GENERATION)
@THOROUGH
def test_a_swap_that_is_allowed_cuts_no_sender_off(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]], generation: Generation
) -> None:
    """Whoever holds whatever may be cached and cannot match the new chain has met one here already that it cannot
    match; and the other way round: what is held back would break somebody's mail, or rests on what is not known.
    """
    state, history, now = past(drawn)
    for server in MAIL_SERVERS:
        allowed = not gates.may_install(TlsaNames(spec, state), server, generation, now)
        broken, reason = False, False
        for tlsa_name in map(str, TlsaNames(spec, state).at(server)):
            sets = senders.cacheable(history, tlsa_name, spec.safety_margin, now)
            met = senders.met(spec, state, history, tlsa_name)
            for parameters, cached, chain in product(senders.PARAMETERS, sets, generation.chains.values()):
                if not senders.cut_off(parameters, cached, chain):
                    continue
                unexpected = [c for name in met if (at := state.mail_servers.get(name)) for c in at.strange]
                every = [*(c for chains in met.values() for c in chains), *unexpected]
                before = [senders.cut_off(parameters, cached, c, doubt=True) for c in every]
                newly = not all(
                    any(
                        c.spki == chain.spki if cached is None else senders.cut_off(parameters, cached, c)
                        for c in chains
                    )
                    for chains in met.values()
                )
                broken = broken or newly
                reason = reason or not before or not all(before) or not all(met.values())
            reason = reason or senders.blind(state, history, tlsa_name)
        assert not (allowed and broken)
        assert allowed or reason


@given(SPECS, PAST, VALUES)
@THOROUGH
def test_records_are_removed_exactly_where_no_sender_needs_them(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]], values: frozenset[str]
) -> None:
    """RFC 7671 section 8.1: from whichever set a server gives."""
    state, history, _ = past(drawn)
    for tlsa_name in (MX1, MX):
        met = senders.met(spec, state, history, tlsa_name)
        rounds = senders.looks(history, tlsa_name)
        sets = [a.values for a in senders.answers(rounds[-1][1])] if rounds else []
        anywhere = [senders.met(spec, state, history, name) for name in senders.anywhere(spec, state, history)]
        chains = [chain for found in (met, *anywhere) for chains in found.values() for chain in chains]
        chains += senders.withdrawn_anywhere(spec, state, history)
        unknown = any(name not in state.mail_servers for found in (met, *anywhere) for name in found)
        unmatched = any(senders.worse(before, before - values, chains) for before in sets)
        unplaced = not all(senders.places(history, name) for name in spec.tlsa_names)
        assert (gates.may_unpublish(TlsaNames(spec, state)[tlsa_name], values) is None) == (
            not (unplaced or unknown or unmatched)
        )


@given(SPECS, PAST, VALUES)
@THOROUGH
def test_records_are_added_exactly_where_they_break_no_sender(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]], values: frozenset[str]
) -> None:
    """RFC 7671 section 8.4: to whichever set a server gives, and to none: a hidden primary may have none; there what
    was met long ago, and not at the last inspection, holds nothing back. The first records of a name wait until it is
    signed, and one and the same generation is proven at every target of it.
    """
    state, history, _ = past(drawn)
    for tlsa_name in spec.tlsa_names:
        met = senders.met(spec, state, history, tlsa_name)
        rounds = senders.looks(history, tlsa_name)
        sets = [a.values for a in senders.answers(rounds[-1][1])] if rounds else []
        chains = [chain for chains in met.values() for chain in chains]
        own = [state.mail_servers.get(name) for name in spec.tlsa_names[tlsa_name]]
        begun = any(sets) and (all(sets) or all(a and a.met for a in own))
        secure = bool(sets) and rounds[-1][1].observation.security == "secure"
        anywhere = senders.anywhere(spec, state, history)
        theirs = [senders.met(spec, state, history, name) for name in anywhere]
        everyone = list(dict.fromkeys(name for found in (met, *theirs) for name in found))
        at = [state.mail_servers.get(name) for name in everyone]
        known = all(at)
        configured = {server.name for server in spec.mail_servers}  # what left the config is verified no more
        drained = all(
            a and a.phase == "drained" and n in configured and f"{n}.example.org:25" in a.services
            for n, a in zip(everyone, at, strict=True)
        )
        one = len({id_ for a in at if a for id_ in a.serves}) == 1 and bool(chains)
        unplaced = [name for name in spec.tlsa_names if not senders.places(history, name)]
        nowhere = [c for name in unplaced for found in senders.met(spec, state, history, name).values() for c in found]
        last = [c for found in senders.met(spec, state, history, tlsa_name, last=True).values() for c in found]
        unmatched = senders.worse(frozenset[str](), values, [*last, *nowhere])
        chains += [chain for names in theirs for found in names.values() for chain in found]
        chains += senders.withdrawn_anywhere(spec, state, history)
        unmatched = unmatched or any(senders.worse(before, before | values, chains) for before in sets)
        placed = not unplaced
        allowed = bool(sets) and known and (begun or (secure and placed and drained and one)) and not unmatched
        assert (gates.may_publish(TlsaNames(spec, state)[tlsa_name], values) is None) == allowed


@given(SPECS, PAST)
@THOROUGH
def test_the_desired_set_has_a_record_of_everything_that_may_be_served(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]]
) -> None:
    """And of what is to be served next; or it is empty: withdrawn, or a first publication that has to wait."""
    state, history, _ = past(drawn)
    for tlsa_name in (MX1, MX):
        values = TlsaNames(spec, state)[tlsa_name].desired
        if TlsaNames(spec, state)[tlsa_name].withdrawn or TlsaNames(spec, state)[tlsa_name].publication_blocked:
            assert values == frozenset()
            continue
        for chains in senders.met(spec, state, history, tlsa_name).values():
            for chain in chains:
                assert tlsa.records(chain, spec.tlsa_parameters) <= values
                assert not any(
                    senders.cut_off(parameters, values, chain) for parameters in ("3 1 1", "2 1 1") if chain.issuers
                )
        if state.newest:
            assert records(state.newest, spec.tlsa_parameters) <= values
        if state.next_keys and "3 1 1" in spec.tlsa_parameters:
            assert {f"3 1 1 {spki}" for spki in state.next_keys.spki.values()} <= values


@given(SPECS, PAST)
@THOROUGH
def test_what_is_planned_to_be_published_passes_its_gate(
    spec: Spec, drawn: list[tuple[timedelta, ev.AnyEvent]]
) -> None:
    """`missing` leaves out what the gate would refuse; so the gate never has the last word against the planner."""
    state, _, _ = past(drawn)
    for tlsa_name in spec.tlsa_names:
        if (values := TlsaNames(spec, state)[tlsa_name].missing) and not TlsaNames(spec, state)[
            tlsa_name
        ].publication_blocked:
            assert gates.may_publish(TlsaNames(spec, state)[tlsa_name], values) is None


# -- what stands against a swap, in words ----------------------------------------------------------------------------


def newcomer(life: Life) -> Generation:
    """A generation of a key that nobody has seen."""
    return Generation("g9", "k9", {"ecdsa-p256": chain_of("99")}, life.now)


def against(life: Life, generation: Generation | None = None) -> dict[str, timedelta | None]:
    found = gates.may_install(life.names, "postfix", generation or newcomer(life), life.now)
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


def test_a_swap_waits_for_what_nobody_saw_where_an_alias_leads_now() -> None:
    """The records may have been copied there just now: caches that came before have what was there until then."""
    life = Life.published()
    new = life.in_dns | {"3 1 1 " + "99" * 32}
    life.looks(new)
    life.passes(timedelta(hours=2))
    assert against(life) == {}
    life.looks(new, path=(("there.example.org.", 60),))
    why = "caches may hold a set that nobody saw where the alias leads now, with TTL 3600 s (RFC 7671 section 8.1)"
    assert against(life) == {why: timedelta(hours=2)}
    assert against(life, life.state.newest) == {}, "what is served already may be installed in any weather"
    life.passes(timedelta(hours=2))
    assert against(life) == {}


@pytest.mark.parametrize("lacking", ["ecdsa-p256", "rsa-2048"])
def test_the_chain_of_each_algorithm_must_match(lacking: str) -> None:
    """A client meets either (RFC 7671 section 8 holds for both)."""
    life = Life.published()
    both = {"ecdsa-p256": chain_of("99"), "rsa-2048": chain_of("88")}
    generation = replace(newcomer(life), chains=both)
    all_ = life.in_dns | {f"3 1 1 {chain.spki}" for chain in both.values()}
    for seen, stands in ((all_, False), (all_ - {f"3 1 1 {both[lacking].spki}"}, True)):
        life.looks(seen)
        life.passes(timedelta(days=1))
        life.looks(seen)
        assert bool(against(life, generation)) == stands


@pytest.mark.parametrize("lacking", [MX1, MX])
def test_every_name_at_which_a_mail_server_answers_counts(lacking: str) -> None:
    """Whichever of them is configured first; one that is withdrawn, for as long as caches hold it."""
    spec = replace(SPEC, tlsa_names={MX1: ("postfix",), MX: ("postfix",)})
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
                life.happens(
                    ev.Observed(tlsa_name=name, observation=Observation("example.org.", name, answers, "secure"))
                )
        found = gates.may_install(life.names, "postfix", newcomer(life), life.now)
        assert {str(obstacle.tlsa_name) for obstacle in found} == (set() if seen == both else {lacking})
    life.spec = replace(spec, tlsa_names={name: ("postfix",) for name in spec.tlsa_names if name != lacking})
    found = gates.may_install(life.names, "postfix", newcomer(life), life.now)
    assert {str(obstacle.tlsa_name) for obstacle in found} == {lacking}


def test_what_fails_the_clients_of_another_name_says_nothing_of_a_server_that_serves_nothing_yet() -> None:
    """Two names share records that match nothing served at one of them; the other has not answered (2700311456)."""
    other = MailServer("mx2", (Service("mx2.example.org", 25, "smtp"),))
    tlsa_names = {TLSA_NAME: ("postfix",), MX2: ("mx2",)}
    life = Life(replace(SPEC, tlsa_names=tlsa_names, mail_servers=(*SPEC.mail_servers, other)))
    life.happens(ev.Inspected(server="postfix", served=(served(chain_of("ee")),)))
    life.happens(ev.Inspected(server="mx2", served=()))
    new = "3 1 1 " + "99" * 32
    for values in ({"3 1 1 " + "77" * 32}, {"3 1 1 " + "77" * 32, new}):
        answers: dict[str, Answer | Unknown] = {"ns1./192.0.2.1": Answer(frozenset(values), 60, ((ALIAS, 60),))}
        for name in tlsa_names:
            seen = Observation("example.org.", ALIAS, answers, "secure")
            life.happens(ev.Observed(tlsa_name=name, observation=seen))
        life.passes(timedelta(seconds=10))

    def stands(server: str) -> set[str]:
        found = gates.may_install(life.names, server, newcomer(life), life.now)
        return {str(obstacle.tlsa_name) for obstacle in found}

    assert stands("postfix") == {MX2}, "its own senders fail already"
    assert stands("mx2") == {MX2}
    life.passes(timedelta(hours=1))
    assert stands("mx2") == set()


def test_what_is_not_known_stands_against_a_swap_without_an_end() -> None:
    """Never looked, changed since, somebody silent, nobody there, bogus, still given: each says so."""
    life = Life()
    life.happens(ev.Inspected(server="postfix", served=(served(chain_of("ee")),)))
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
    life.does(st.Publish(tlsa_name=TLSA_NAME, values=old, ttl_s=60, because=""))
    assert against(life) == {"changed, and not observed since": None}
    life.happens(ev.Observed(tlsa_name=TLSA_NAME, observation=Observation("example.org.", TLSA_NAME, {}, "secure")))
    assert "not heard: no authoritative server" in against(life)


def test_a_chain_that_no_sender_can_tell_from_the_old_one_waits_for_nothing() -> None:
    """A renewal with the same key goes out in any weather; with an issuer pinned, only below the same issuer."""
    life = Life()
    life.until_quiet(unmanaged(chain_of("ee", "ca")), limit=1)  # the survey
    same_key = replace(newcomer(life), chains={"ecdsa-p256": chain_of("ee", "cb")})
    same_chain = replace(newcomer(life), chains={"ecdsa-p256": chain_of("ee", "ca")})
    assert against(life, same_key) == against(life, same_chain) == {}
    assert gates.names_that_roll(life.names, "postfix", same_key) == ()
    [rolls] = gates.names_that_roll(life.names, "postfix", newcomer(life))
    assert rolls.name == TLSA_NAME
    life.spec = replace(life.spec, tlsa_parameters=("3 1 1", "2 1 1"))
    assert against(life, same_chain) == {}
    assert against(life, same_key) == {"its authoritative servers were not asked yet": None}
    # the same where somebody else has pinned the issuer
    life.spec = replace(life.spec, tlsa_parameters=("3 1 1",))
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
        gate = gates.may_publish(life.names[TLSA_NAME], values)
        publication_blocked = life.names[TLSA_NAME].publication_blocked
        assert gate == (f"{TLSA_NAME}: {publication_blocked}" if publication_blocked else None)
        assert bool(life.names[TLSA_NAME].desired) == (publication_blocked is None)
        return publication_blocked

    assert why() == "its authoritative servers were not asked yet"
    life.looks(frozenset())
    assert why() == "what postfix serves is not known yet"
    assert gates.may_unpublish(life.names[TLSA_NAME], values) == f"{TLSA_NAME}: {why()}"
    life.happens(ev.Inspected(server="postfix", served=(served(chain_of("ee")),)))
    life.looks(None, None)
    assert why() == "none of its authoritative servers was heard"
    for security in ("insecure", "bogus", "unknown"):
        life.looks(frozenset(), security=security, why="as it was told")
        assert why() == f"not known to be signed: {security}, as it was told"
    life.looks(frozenset())
    assert why() == "first publication: the key is served and verified first"
    life.looks(frozenset(), values, security="unknown")
    assert why() is None


def test_a_set_that_one_server_has_left_does_not_begin_it_for_a_mail_server_without_tls() -> None:
    """A sender that asks the other one would find the first set, and no STARTTLS (RFC 7672 section 2.2)."""
    values = frozenset({"3 1 1 " + "ee" * 32})
    life = Life()
    life.happens(ev.Inspected(server="postfix", served=()))
    life.looks(frozenset(), values)
    assert life.names[TLSA_NAME].publication_blocked == "first publication: the key is served and verified first"
    life.looks(values, values)
    assert life.names[TLSA_NAME].publication_blocked is None


def test_what_the_last_inspection_did_not_meet_keeps_no_new_issuer_out_of_dns() -> None:
    """A chain without issuers was replaced by hand, and properly; `2 1 1` of the next one is published beside his."""
    life = Life(replace(SPEC, tlsa_parameters=("3 1 1", "2 1 1")))
    life.until_quiet(unmanaged(chain_of("dd")), limit=1)  # the survey
    life.happens(ev.Inspected(server="postfix", served=(served(chain_of("ee", "ca")),)))
    assert len(life.state.mail_servers["postfix"].serves) == 2
    life.looks(frozenset({"3 1 1 " + "ee" * 32, "2 1 1 " + "ca" * 32}))
    wanted = frozenset({"2 1 1 " + "ca" * 32, "2 1 1 " + "cb" * 32})
    assert life.names[TLSA_NAME].newly_unmatched(wanted) == ()
    life.happens(ev.Inspected(server="postfix", served=(served(chain_of("dd")),)))
    assert life.names[TLSA_NAME].newly_unmatched(wanted) == ("2 1 1",), "what is met again counts again"


def test_a_swap_that_was_begun_says_nothing_of_what_a_server_that_was_never_met_serves() -> None:
    """So a set that matches nothing of it holds the swap back: it may match what is served."""
    life = Life()
    life.fails("inspect postfix", "mta.down")
    swap = st.Install(server="postfix", generation="g1", rollback=False, accept_deferrals=False, because="")
    life.happens(ev.KeysMade(keys="k1", spki={ECDSA: "aa" * 32}))
    life.happens(ev.Issued(key_type=ECDSA, keys="k1", generation="g1", chain=chain_of("aa"), completes=True, ca=CA))
    life.happens(ev.Intended(step=swap))
    life.looks(frozenset({"3 1 1 " + "ee" * 32}))
    assert life.names[TLSA_NAME].served == (chain_of("aa"),)
    assert life.names[TLSA_NAME].met == ()
    assert against(life)


def test_what_breaks_one_key_type_more_is_not_put_back() -> None:
    """One chain of the newer generation matches the set, and none of the older one does."""
    life = Life()
    life.looks(frozenset({"3 1 1 " + "0b" * 32}))
    old = Generation("g1", "k1", {ECDSA: chain_of("01"), "rsa-2048": chain_of("02")}, life.now)
    new = Generation("g2", "k2", {ECDSA: chain_of("0a"), "rsa-2048": chain_of("0b")}, life.now)
    assert gates.breaks_more(life.names, "postfix", old, new, life.now)
    assert not gates.breaks_more(life.names, "postfix", new, old, life.now)
    assert not gates.breaks_more(life.names, "postfix", new, new, life.now)


def test_a_new_kind_of_record_is_first_published_for_what_is_served() -> None:
    """RFC 7671 section 8.4: `2 1 1` of an issuer to come would cut off who supports only that."""
    life = Life.published()
    gate = gates.may_publish(life.names[TLSA_NAME], frozenset({"2 1 1 " + "cb" * 32}))
    assert gate is not None
    assert "no record of type 2 1 1" in gate
    # a key to come goes out with that of what is served: a server may have neither
    strange = frozenset({"3 1 1 " + "cb" * 32})
    assert gates.may_publish(life.names[TLSA_NAME], strange) is not None
    assert gates.may_publish(life.names[TLSA_NAME], strange | life.records("g1")) is None


def test_the_last_record_that_matches_is_not_removed() -> None:
    """The others may go."""
    life = Life.published()
    standby = life.in_dns - life.records("g1")
    assert len(standby) == 1
    assert gates.may_unpublish(life.names[TLSA_NAME], standby) is None
    gate = gates.may_unpublish(life.names[TLSA_NAME], life.records("g1"))
    assert gate == f"{TLSA_NAME}: without these no record of type 3 1 1 would match what is served"
    assert gates.may_unpublish(life.names[TLSA_NAME], life.in_dns) is None, "no records, no DANE"


def test_what_one_server_lacks_of_what_is_served_is_published_again_whole() -> None:
    """That one may be the primary, and the others may only not have followed yet."""
    life = Life.published()
    life.looks(life.in_dns, life.in_dns - life.records("g1"))
    assert life.names[TLSA_NAME].missing == life.in_dns
    life.looks(life.in_dns, frozenset())
    assert life.names[TLSA_NAME].missing == life.in_dns
    # what nobody needs yet may follow later
    life.looks(life.in_dns, life.records("g1"))
    assert life.names[TLSA_NAME].missing == frozenset()
    life.looks(life.records("g1"))
    assert life.names[TLSA_NAME].missing == life.in_dns


def test_records_of_somebody_else_are_left_alone_and_ours_leave_a_withdrawn_name_altogether() -> None:
    """Seen or not: a server may have lost sight of one."""
    life = Life.published()
    strange = frozenset({"3 1 1 " + "ee" * 32})
    life.looks(life.in_dns | strange)
    assert life.names[TLSA_NAME].surplus == frozenset()
    life.spec = replace(SPEC, tlsa_names={})
    assert life.names[TLSA_NAME].surplus == life.state.ours
    assert not strange & life.state.ours
    life.looks(strange)
    assert life.names[TLSA_NAME].surplus == frozenset()


def test_tlsa_parameters_that_are_withdrawn_go_as_a_whole() -> None:
    """Seen or not, like a name: what is left of it would match nothing."""
    life = Life.published()
    newest = life.state.newest
    assert newest
    seen, unseen = ("2 1 1 " + issuer * 32 for issuer in ("ee", "ff"))
    olds = [replace(newest, id=f"of {i}", chains={"ecdsa-p256": chain_of("dd", i)}) for i in ("ee", "ff")]
    life.state = replace(life.state, generations=(*olds, *life.state.generations))
    life.looks(life.in_dns)
    assert life.names[TLSA_NAME].surplus == frozenset()
    life.looks(life.in_dns | {seen})
    assert life.names[TLSA_NAME].surplus == {seen, unseen}
    life.spec = replace(SPEC, tlsa_parameters=("3 1 1", "2 1 1"))
    assert life.names[TLSA_NAME].surplus == {seen}, "of one that stays only what is seen"


def test_every_server_and_some_server() -> None:
    """Nothing is everywhere while one is silent."""
    life = Life.published()
    one, two = frozenset({"3 1 1 " + "ee" * 32}), frozenset({"3 1 1 " + "ee" * 32, "3 1 1 " + "dd" * 32})
    life.looks(one, two)
    assert (life.names[TLSA_NAME].seen_everywhere, life.names[TLSA_NAME].seen_somewhere) == (one, two)
    life.looks(one, None)
    assert (life.names[TLSA_NAME].seen_everywhere, life.names[TLSA_NAME].seen_somewhere) == (frozenset(), one)
    assert life.names[TLSA_NAME].path == ()
    life.looks(None, one, path=(("a.hosted.net.", 60),))
    assert life.names[TLSA_NAME].path == ("a.hosted.net.",)
    life.looks(None)
    assert life.names[TLSA_NAME].path == ()
    unasked = Life().names[TLSA_NAME]
    assert unasked.seen_everywhere == unasked.seen_somewhere == frozenset()
    assert unasked.path == ()
    assert not unasked.empty


def test_what_a_client_may_meet_is_not_known_before_every_mail_server_is() -> None:
    """Half of it would look as if the other half served nothing."""
    spec = replace(SPEC, tlsa_names={TLSA_NAME: ("postfix", "other")})
    life = Life(spec)
    life.happens(ev.Inspected(server="postfix", served=(served(chain_of("ee")),)))
    assert TlsaNames(spec, life.state)[TLSA_NAME].served == ()
    life.happens(ev.Inspected(server="other", served=()))
    assert TlsaNames(spec, life.state)[TLSA_NAME].served == (chain_of("ee"),)


@pytest.mark.parametrize("tlsa_parameters", [("3 1 1",), ("2 1 1",), ("3 1 1", "2 1 1")])
def test_keys_are_planned_for_with_the_issuers_of_the_chain_they_follow(tlsa_parameters: tuple[str, ...]) -> None:
    """Before they are issued nothing better is known; where nothing is, no issuer is made up."""
    life = Life.published(replace(SPEC, tlsa_parameters=tlsa_parameters))
    keys = life.state.keys[-1]
    like = Generation("x", "k1", {"ecdsa-p256": chain_of("aa", "ca")}, life.now)
    [chain] = keys.as_if_issued(like).values()
    assert (chain.spki, chain.issuers) == (keys.spki["ecdsa-p256"], ("ca" * 32,))
    [chain] = keys.as_if_issued(None).values()
    assert chain.issuers == ()


def test_what_was_not_observed_is_not_an_empty_set() -> None:
    """`Unknown` hides nothing: the observation counts neither for nor against."""
    life = Life()
    life.looks(None)
    assert not life.names[TLSA_NAME].empty
    assert life.tlsa_name.observation is not None
    assert isinstance(life.tlsa_name.observation.answers["ns1./192.0.2.1"], Unknown)
    life.looks(frozenset())
    assert life.names[TLSA_NAME].empty
