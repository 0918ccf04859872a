"""What caches may hold: never less than what the RFCs allow them to, whatever was seen in whatever order."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from certagent.facts.dns import Answer, Observation
from certagent.facts.moment import Instant
from certagent.facts.unknown import Unknown
from certagent.lifecycle import caches
from certagent.lifecycle.caches import CachedSet
from tests.lifecycle.drawn import VALUES
from tests.lifecycle.play import START, chain_of, later

A, B = frozenset({"3 1 1 " + "aa" * 32}), frozenset({"3 1 1 " + "bb" * 32})
SECOND = timedelta(seconds=1)
SAFETY_MARGIN = timedelta(minutes=15)
HOUR = timedelta(hours=1)


def observation(*answers: Answer | Unknown) -> Observation:
    return Observation("example.org.", "x.", {f"ns{n}./192.0.2.{n}": a for n, a in enumerate(answers)}, "secure")


TTLS = st.integers(0, 604800)
SAFETY_MARGINS = st.timedeltas(timedelta(0), timedelta(days=1))
ANSWERS = st.builds(Answer, VALUES, st.sampled_from([1, 60, 3600, 86400]))
LOOKS = st.lists(
    st.tuples(
        st.floats(0, 1e5).map(lambda s: timedelta(seconds=s)),
        st.lists(ANSWERS | st.just(Unknown("silent")), max_size=3).map(lambda answers: observation(*answers)),
    ),
    min_size=1,
    max_size=8,
)


@given(TTLS, SAFETY_MARGINS, st.integers(0, 86400))
def test_a_retire_interval_is_never_below_two_ttls_nor_the_ttl_and_the_guard(
    ttl_s: int, safety_margin: timedelta, hop_s: int
) -> None:
    """RFC 7671 section 8.1; and whole seconds behind one another: three more at least."""
    ttl = timedelta(seconds=ttl_s)
    retire_interval = caches.retire_interval_of(ttl_s, safety_margin)
    assert retire_interval >= 2 * ttl
    assert retire_interval >= ttl + safety_margin
    assert retire_interval >= ttl + 3 * SECOND
    cached = CachedSet(A, ttl_s, (("a.hosted.net.", hop_s),), START, None)
    assert caches.retire_interval(cached, ("a.hosted.net.",), safety_margin) == retire_interval
    # behind an alias that is another by now: first the alias, then the set
    assert (
        caches.retire_interval(cached, (), safety_margin)
        == caches.retire_interval_of(ttl_s + hop_s, safety_margin)
        >= retire_interval
    )


@given(LOOKS, st.floats(0, 3e5), SAFETY_MARGINS)
def test_no_set_is_forgotten_before_its_retire_interval_is_over(
    looks: list[tuple[timedelta, Observation]], rest_s: float, safety_margin: timedelta
) -> None:
    """From whichever answer: a cache that took it at that moment may have it for its whole TTL, and hand it on once."""
    cached: tuple[CachedSet, ...] = ()
    now = START
    given_: list[tuple[int, Instant, Answer]] = []
    for n, (delay, found) in enumerate(looks):
        now = later(now, delay)
        cached = caches.after(cached, found, now)
        given_ += [(n, now, answer) for answer in caches.known(found)]
    now = later(now, timedelta(seconds=rest_s))
    may = {h.values for h in caches.still_cached(cached, (), safety_margin, now)}
    for n, when, answer in given_:
        if now.since(when) < caches.retire_interval_of(answer.ttl_s, safety_margin):
            assert answer.values in may
        if not any(caches.complete(found) for _, found in looks[n + 1 :]):
            assert answer.values in may, "no look since then has heard every server"


def test_a_retire_interval_ends_by_a_round_in_which_every_server_was_heard_and_only_then() -> None:
    """A server that is silent may still give what it gave."""
    cached = caches.after((), observation(Answer(A, 60), Answer(A, 60)), START)
    one_silent = later(START, HOUR)
    cached = caches.after(cached, observation(Answer(B, 60), Unknown("timeout")), one_silent)
    assert {h.values: h.gone_at for h in cached} == {A: None, B: None}
    heard = later(one_silent, HOUR)
    cached = caches.after(cached, observation(Answer(B, 60), Answer(B, 60)), heard)
    assert {h.values: h.gone_at for h in cached} == {A: heard, B: None}
    # rounds after it do not begin it anew
    cached = caches.after(cached, observation(Answer(B, 60), Answer(B, 60)), later(heard, SECOND))
    retire_interval = caches.retire_interval_of(60, timedelta(0))
    assert {
        h.values for h in caches.still_cached(cached, (), timedelta(0), later(heard, retire_interval - SECOND))
    } == {A, B}
    assert {h.values for h in caches.still_cached(cached, (), timedelta(0), later(heard, retire_interval))} == {B}


def test_a_set_that_comes_back_is_cached_again_with_the_largest_ttl_it_ever_had() -> None:
    """A secondary regresses: the wait begins from the start."""
    cached = caches.after((), observation(Answer(A, 3600)), START)
    cached = caches.after(cached, observation(Answer(B, 60)), later(START, HOUR))
    cached = caches.after(cached, observation(Answer(A, 60)), later(START, 2 * HOUR))
    found = {h.values: (h.ttl_s, h.gone_at) for h in cached}
    assert found == {A: (3600, None), B: (60, later(START, 2 * HOUR))}


def test_what_was_given_where_an_alias_leads_now_is_not_known_before_a_whole_round_there() -> None:
    """Also there where it led before: records may have been put right just now, and caches have what was there."""
    here, there = ((), (("there.", 60),))
    cached = caches.after((), observation(Answer(A, 3600, here)), START)
    assert [h.values for h in cached] == [A], "before the first observation there is no past to know of"
    whole = START
    for path in (there, here, there):
        moved, whole = later(whole, HOUR), later(whole, 2 * HOUR)
        cached = caches.after(cached, observation(Answer(A, 60, path), Unknown("silent")), moved)
        [unseen] = [h for h in cached if h.values is None and h.path == path]
        assert (unseen.ttl_s, unseen.gone_at) == (3600, None)
        cached = caches.after(cached, observation(Answer(A, 60, path), Answer(A, 60, path)), whole)
        assert cached == caches.after(cached, observation(Answer(A, 60, path)), whole), "seen there by now"
        [unseen] = [h for h in cached if h.values is None and h.path == path]
        assert unseen.gone_at == whole
        names = tuple(name for name, _ in path)
        retire_interval = caches.retire_interval_of(3600, SAFETY_MARGIN)
        assert unseen in caches.still_cached(cached, names, SAFETY_MARGIN, later(whole, retire_interval - SECOND))
        assert unseen not in caches.still_cached(cached, names, SAFETY_MARGIN, later(whole, retire_interval))


def test_a_set_that_nobody_saw_may_match_what_is_served_and_nothing_else() -> None:
    """A renewal with the same key and issuer can be told from it by nobody."""
    assert caches.breaks(None, chain_of("aa"), [chain_of("aa"), chain_of("bb")])
    assert caches.breaks(None, chain_of("aa", "ca"), [chain_of("aa", "cb")])
    assert caches.breaks(None, chain_of("aa"), [])
    assert not caches.breaks(None, chain_of("aa", life=timedelta(days=6)), [chain_of("aa")])


def test_an_alias_counts_with_the_largest_ttl_that_was_seen_though_nobody_is_heard_behind_it() -> None:
    """Somebody raises it while the servers where it leads are silent, and makes it lead elsewhere before they speak."""
    old, new = (("one.", 60), ("two.", 60)), (("one.", 3600), ("other.", 7200))
    cached = caches.after((), observation(Answer(A, 300, old)), START)
    silent = replace(observation(Unknown("no answer")), path=new)
    [item] = caches.after(cached, silent, later(START, HOUR))
    assert (item.path, item.gone_at) == ((("one.", 3600), ("two.", 60)), None)
    [item] = caches.after((item,), replace(silent, path=old), later(START, 2 * HOUR))
    assert item.path == (("one.", 3600), ("two.", 60))


def test_what_is_long_gone_leaves_the_journals_state() -> None:
    """Days after any hold; or years of rolls would make the state grow without end."""
    cached = caches.after((), observation(Answer(A, 3600)), START)
    cached = caches.after(cached, observation(Answer(B, 3600)), later(START, HOUR))
    days = timedelta(days=2) + 4 * HOUR
    assert len(caches.after(cached, observation(Answer(B, 3600)), later(START, HOUR + days))) == 2
    cached = caches.after(cached, observation(Answer(B, 3600)), later(START, HOUR + days + SECOND))
    assert [h.values for h in cached] == [B]


def test_what_a_change_superseded_is_held_with_the_ttl_the_provider_had() -> None:
    """The TTL may have been raised where no observation could see it; the path is that of the last one."""
    path = (("a.hosted.net.", 300),)
    seen = observation(Unknown("silent"), Answer(A, 60, path))
    cached = caches.after((), seen, START)
    raised = caches.with_set(cached, A, 86400, seen, later(START, SECOND))
    assert raised == (CachedSet(A, 86400, path, later(START, SECOND), None),)
    # never lowered, and another set is one more
    assert caches.with_set(raised, A, 1, seen, START)[0].ttl_s == 86400
    assert [h.values for h in caches.with_set(raised, B, 5, seen, START)] == [A, B]
    # nothing was heard yet, or the set was empty: an empty set breaks nothing
    assert caches.with_set((), B, 5, None, START) == (CachedSet(B, 5, (), START, None),)
    assert caches.with_set((), B, 5, observation(Unknown("silent")), START) == (CachedSet(B, 5, (), START, None),)
    assert caches.with_set(raised, frozenset(), 5, seen, START) == raised


def test_a_set_breaks_by_tlsa_parameters_and_unusable_records_never() -> None:
    """RFC 7671 section 8, RFC 7672 sections 2.2 and 3.1.3."""
    chain = chain_of("aa", "ca")
    unusable = {"1 1 1 " + "ff" * 32, "0 0 1 " + "ff" * 32, "3 1 1 abcd", "3 2 1 " + "ff" * 32}
    anchor, other_anchor = "2 1 1 " + "ca" * 32, "2 1 1 " + "cb" * 32
    assert caches.unmatched(unusable, chain) == frozenset()
    assert caches.unmatched(A | unusable, chain) == frozenset()
    assert caches.unmatched(B | unusable, chain) == {"3 1 1"}
    assert caches.unmatched(A | B, chain) == frozenset()
    assert caches.unmatched(A | {other_anchor}, chain) == {"2 1 1"}
    assert caches.unmatched(B | {anchor}, chain) == {"3 1 1"}
    assert caches.unmatched(B | {other_anchor, anchor}, chain_of("bb", "ca", "cb")) == frozenset()


def test_what_cannot_be_reported_counts_as_a_mismatch_of_the_new_chain_and_as_a_match_of_the_old() -> None:
    """A digest of the certificate may match what is served, and says nothing of what is to be."""
    undecidable = {"3 0 1 " + "ee" * 32}
    assert caches.unmatched(undecidable, chain_of("aa")) == {"3 0 1"}
    assert caches.unmatched(undecidable, chain_of("aa"), benefit_of_doubt=True) == frozenset()
    assert caches.breaks(frozenset(undecidable), chain_of("aa"), [chain_of("bb")])


def test_who_is_cut_off_by_all_that_is_served_is_not_affected_by_a_swap() -> None:
    """A record that matches nothing holds no repair back; one that matches any served chain does."""
    assert not caches.breaks(B, chain_of("aa"), [chain_of("cc")])
    assert caches.breaks(B, chain_of("aa"), [chain_of("cc"), chain_of("bb")])
    assert caches.breaks(B, chain_of("aa"), []), "nothing is known of what is served"
    assert not caches.breaks(A, chain_of("aa"), [])
    # another TLSA parameters that fails already does not excuse this one
    both = B | {"2 1 1 " + "cb" * 32}
    assert caches.breaks(both, chain_of("aa", "ca"), [chain_of("bb", "ca")])
