"""The order in which the values of a set change where they cannot change at once."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations, permutations

import pytest

from certagent.facts.tls import Chain
from certagent.lifecycle import caches
from certagent.lifecycle.setchange import harmless, one_at_a_time

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def chain(key: str, *issuers: str) -> Chain:
    return Chain(key * 64, tuple(i * 64 for i in issuers), (), MOMENT, MOMENT, "")


def record(parameters: str, key: str) -> str:
    return f"{parameters} {key * 64}"


EE = {key: record("3 1 1", key) for key in "abcd"}
TA = {key: record("2 1 1", key) for key in "ef"}
OLD, NEW, RSA = chain("a", "e"), chain("b", "e"), chain("c", "f")


def test_what_is_served_is_added_first() -> None:
    values = frozenset({EE["a"], EE["b"], EE["c"]})
    for served in (OLD, NEW, RSA):
        order = one_at_a_time(frozenset(), values, [served], adds=True)
        assert order is not None
        assert order[0] == record("3 1 1", served.spki[0])


def test_what_is_served_is_removed_last() -> None:
    values = frozenset({EE["a"], EE["b"], EE["c"]})
    for served in (OLD, NEW, RSA):
        order = one_at_a_time(values, values, [served], adds=False)
        assert order is not None
        assert order[-1] == record("3 1 1", served.spki[0])


def test_each_record_type_counts_alone() -> None:
    """A record of the issuer covers both keys; one of a key covers only that key."""
    two = [OLD, NEW]
    assert one_at_a_time(frozenset(), frozenset({TA["e"], TA["f"]}), two, adds=True) == (TA["e"], TA["f"])
    assert one_at_a_time(frozenset({TA["e"]}), frozenset({EE["a"], EE["b"]}), two, adds=True) is None


def test_several_keys_are_served() -> None:
    """A type that comes or goes as a whole has no safe order; one that stays has any."""
    two, values = [OLD, RSA], frozenset({EE["a"], EE["c"]})
    assert one_at_a_time(frozenset(), values, two, adds=True) is None
    assert one_at_a_time(values, values, two, adds=False) is None
    assert one_at_a_time(values, frozenset({EE["b"], EE["d"]}), two, adds=True) is not None
    assert one_at_a_time(values | {EE["b"], EE["d"]}, frozenset({EE["b"], EE["d"]}), two, adds=False) is not None


def test_nothing_is_served() -> None:
    assert one_at_a_time(frozenset(), frozenset(EE.values()), [], adds=True) == tuple(sorted(EE.values()))


def test_harmless() -> None:
    """What is broken before may stay so; what is not, may not become so."""
    assert harmless(frozenset({EE["b"]}), frozenset({EE["c"]}), [OLD], adds=True)
    assert not harmless(frozenset(), frozenset({EE["c"]}), [OLD], adds=True)
    assert not harmless(frozenset({EE["a"], EE["b"]}), frozenset({EE["a"]}), [OLD], adds=False)
    assert harmless(frozenset({EE["a"]}), frozenset({EE["a"]}), [OLD], adds=False)


@pytest.mark.parametrize("adds", [True, False])
def test_an_order_is_found_if_there_is_one(adds: bool) -> None:
    """Against trying all orders, for every small set, change and pair of served chains."""
    everything = (EE["a"], EE["b"], EE["c"], TA["e"])
    for size in range(len(everything) + 1):
        for some in combinations(everything, size):
            before = frozenset(some)
            rest = frozenset(everything) - before if adds else before
            for served in ([OLD], [OLD, NEW], [OLD, RSA]):
                for count in range(len(rest) + 1):
                    for picked in combinations(sorted(rest), count):
                        found = one_at_a_time(before, frozenset(picked), served, adds=adds)
                        possible = any(safe(before, order, served, adds) for order in permutations(picked))
                        assert (found is not None) == possible
                        assert found is None or safe(before, found, served, adds)


def safe(before: frozenset[str], order: tuple[str, ...], served: list[Chain], adds: bool) -> bool:
    for value in order:
        after = before | {value} if adds else before - {value}
        if any(caches.unmatched(after, c) - caches.unmatched(before, c) for c in served):
            return False
        before = after
    return True
