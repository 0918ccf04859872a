"""What caches may hold: never less than what the RFCs allow them to, whatever was seen in whatever order."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from certagent.lifecycle import caches
from certagent.lifecycle.caches import Held
from certagent.lifecycle.model import Answer, Instant, Sighting, Unknown
from tests.lifecycle.drawn import VALUES
from tests.lifecycle.play import START, later, leaf

A, B = frozenset({"3 1 1 " + "aa" * 32}), frozenset({"3 1 1 " + "bb" * 32})
SECOND = timedelta(seconds=1)
GUARD = timedelta(minutes=15)
HOUR = timedelta(hours=1)


def sighting(*answers: Answer | Unknown) -> Sighting:
    return Sighting("example.org.", "x.", {f"ns{n}./192.0.2.{n}": a for n, a in enumerate(answers)}, "secure")


TTLS = st.integers(0, 604800)
GUARDS = st.timedeltas(timedelta(0), timedelta(days=1))
ANSWERS = st.builds(Answer, VALUES, st.sampled_from([1, 60, 3600, 86400]))
LOOKS = st.lists(
    st.tuples(
        st.floats(0, 1e5).map(lambda s: timedelta(seconds=s)),
        st.lists(ANSWERS | st.just(Unknown("silent")), max_size=3).map(lambda answers: sighting(*answers)),
    ),
    min_size=1,
    max_size=8,
)


@given(TTLS, GUARDS, st.integers(0, 86400))
def test_a_hold_is_never_below_two_ttls_nor_the_ttl_and_the_guard(ttl_s: int, guard: timedelta, hop_s: int) -> None:
    """RFC 7671 section 8.1; and whole seconds behind one another: three more at least."""
    ttl = timedelta(seconds=ttl_s)
    hold = caches.hold_of(ttl_s, guard)
    assert hold >= 2 * ttl
    assert hold >= ttl + guard
    assert hold >= ttl + 3 * SECOND
    held = Held(A, ttl_s, (("a.hosted.net.", hop_s),), START, None)
    assert caches.hold(held, ("a.hosted.net.",), guard) == hold
    # behind an alias that is another by now: first the alias, then the set
    assert caches.hold(held, (), guard) == caches.hold_of(ttl_s + hop_s, guard) >= hold


@given(LOOKS, st.floats(0, 3e5), GUARDS)
def test_no_set_is_forgotten_before_its_hold_is_over(
    looks: list[tuple[timedelta, Sighting]], rest_s: float, guard: timedelta
) -> None:
    """From whichever answer: a cache that took it at that moment may have it for its whole TTL, and hand it on once."""
    held: tuple[Held, ...] = ()
    now = START
    given_: list[tuple[int, Instant, Answer]] = []
    for n, (delay, found) in enumerate(looks):
        now = later(now, delay)
        held = caches.after(held, found, now)
        given_ += [(n, now, answer) for answer in caches.known(found)]
    now = later(now, timedelta(seconds=rest_s))
    may = {h.values for h in caches.still_held(held, (), guard, now)}
    for n, when, answer in given_:
        if now.since(when) < caches.hold_of(answer.ttl_s, guard):
            assert answer.values in may
        if not any(caches.complete(found) for _, found in looks[n + 1 :]):
            assert answer.values in may, "no look since then has heard every server"


def test_a_hold_ends_by_a_round_in_which_every_server_was_heard_and_only_then() -> None:
    """A server that is silent may still give what it gave."""
    held = caches.after((), sighting(Answer(A, 60), Answer(A, 60)), START)
    one_silent = later(START, HOUR)
    held = caches.after(held, sighting(Answer(B, 60), Unknown("timeout")), one_silent)
    assert {h.values: h.gone_at for h in held} == {A: None, B: None}
    heard = later(one_silent, HOUR)
    held = caches.after(held, sighting(Answer(B, 60), Answer(B, 60)), heard)
    assert {h.values: h.gone_at for h in held} == {A: heard, B: None}
    # rounds after it do not begin the hold anew
    held = caches.after(held, sighting(Answer(B, 60), Answer(B, 60)), later(heard, SECOND))
    hold = caches.hold_of(60, timedelta(0))
    assert {h.values for h in caches.still_held(held, (), timedelta(0), later(heard, hold - SECOND))} == {A, B}
    assert {h.values for h in caches.still_held(held, (), timedelta(0), later(heard, hold))} == {B}


def test_a_set_that_comes_back_is_held_again_with_the_largest_ttl_it_ever_had() -> None:
    """A secondary regresses: the wait begins from the start."""
    held = caches.after((), sighting(Answer(A, 3600)), START)
    held = caches.after(held, sighting(Answer(B, 60)), later(START, HOUR))
    held = caches.after(held, sighting(Answer(A, 60)), later(START, 2 * HOUR))
    found = {h.values: (h.ttl_s, h.gone_at) for h in held}
    assert found == {A: (3600, None), B: (60, later(START, 2 * HOUR))}


def test_an_alias_counts_with_the_largest_ttl_that_was_seen_though_nobody_is_heard_behind_it() -> None:
    """Somebody raises it while the servers where it leads are silent, and makes it lead elsewhere before they speak."""
    old, new = (("one.", 60), ("two.", 60)), (("one.", 3600), ("other.", 7200))
    held = caches.after((), sighting(Answer(A, 300, old)), START)
    silent = replace(sighting(Unknown("no answer")), path=new)
    [item] = caches.after(held, silent, later(START, HOUR))
    assert (item.path, item.gone_at) == ((("one.", 3600), ("two.", 60)), None)
    [item] = caches.after((item,), replace(silent, path=old), later(START, 2 * HOUR))
    assert item.path == (("one.", 3600), ("two.", 60))


def test_what_is_long_gone_leaves_the_journals_state() -> None:
    """Days after any hold; or years of rolls would make the state grow without end."""
    held = caches.after((), sighting(Answer(A, 3600)), START)
    held = caches.after(held, sighting(Answer(B, 3600)), later(START, HOUR))
    days = timedelta(days=2) + 4 * HOUR
    assert len(caches.after(held, sighting(Answer(B, 3600)), later(START, HOUR + days))) == 2
    held = caches.after(held, sighting(Answer(B, 3600)), later(START, HOUR + days + SECOND))
    assert [h.values for h in held] == [B]


def test_what_a_change_superseded_is_held_with_the_ttl_the_provider_had() -> None:
    """The TTL may have been raised where no look could see it; the path is that of the last look."""
    path = (("a.hosted.net.", 300),)
    seen = sighting(Unknown("silent"), Answer(A, 60, path))
    held = caches.after((), seen, START)
    raised = caches.with_set(held, A, 86400, seen, later(START, SECOND))
    assert raised == (Held(A, 86400, path, later(START, SECOND), None),)
    # never lowered, and another set is one more
    assert caches.with_set(raised, A, 1, seen, START)[0].ttl_s == 86400
    assert [h.values for h in caches.with_set(raised, B, 5, seen, START)] == [A, B]
    # nothing was heard yet, or the set was empty: an empty set hurts nobody
    assert caches.with_set((), B, 5, None, START) == (Held(B, 5, (), START, None),)
    assert caches.with_set((), B, 5, sighting(Unknown("silent")), START) == (Held(B, 5, (), START, None),)
    assert caches.with_set(raised, frozenset(), 5, seen, START) == raised


def test_a_set_hurts_triple_by_triple_and_unusable_records_never() -> None:
    """RFC 7671 section 8, RFC 7672 sections 2.2 and 3.1.3."""
    chain = leaf("aa", "ca")
    unusable = {"1 1 1 " + "ff" * 32, "0 0 1 " + "ff" * 32, "3 1 1 abcd", "3 2 1 " + "ff" * 32}
    anchor, other_anchor = "2 1 1 " + "ca" * 32, "2 1 1 " + "cb" * 32
    assert caches.hurts(unusable, chain) == frozenset()
    assert caches.hurts(A | unusable, chain) == frozenset()
    assert caches.hurts(B | unusable, chain) == {"3 1 1"}
    assert caches.hurts(A | B, chain) == frozenset()
    assert caches.hurts(A | {other_anchor}, chain) == {"2 1 1"}
    assert caches.hurts(B | {anchor}, chain) == {"3 1 1"}
    assert caches.hurts(B | {other_anchor, anchor}, leaf("bb", "ca", "cb")) == frozenset()


def test_what_cannot_be_told_counts_as_a_mismatch_of_the_new_chain_and_as_a_match_of_the_old() -> None:
    """A digest of the certificate may match what is served, and says nothing of what is to be."""
    undecidable = {"3 0 1 " + "ee" * 32}
    assert caches.hurts(undecidable, leaf("aa")) == {"3 0 1"}
    assert caches.hurts(undecidable, leaf("aa"), benefit_of_doubt=True) == frozenset()
    assert caches.hurt_by(frozenset(undecidable), leaf("aa"), [leaf("bb")])


def test_who_is_cut_off_by_all_that_is_served_is_not_hurt_by_a_swap() -> None:
    """A record that matches nothing holds no repair back; one that matches any served chain does."""
    assert not caches.hurt_by(B, leaf("aa"), [leaf("cc")])
    assert caches.hurt_by(B, leaf("aa"), [leaf("cc"), leaf("bb")])
    assert caches.hurt_by(B, leaf("aa"), []), "nothing is known of what is served"
    assert not caches.hurt_by(A, leaf("aa"), [])
    # another triple that fails already does not excuse this one
    both = B | {"2 1 1 " + "cb" * 32}
    assert caches.hurt_by(both, leaf("aa", "ca"), [leaf("bb", "ca")])
