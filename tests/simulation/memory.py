"""Speed: pure functions of the engine that are asked the same again and again remember what they said.

States and specs are frozen, so an answer about the very same objects is the same answer. Nothing here changes a rule:
whatever function is there when `remembered` is called, a mutant too, is asked once and its answer is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any
from unittest.mock import patch

from certagent.lifecycle import caches, rollover
from certagent.lifecycle.state import State
from certagent.pki import tlsa
from certagent.pki.leaf import Leaf
from tests.simulation.clock import BASE


class _Last:
    """Answers about the last spec and state."""

    def __init__(self) -> None:
        self.spec: object = None
        self.state: object = None
        self.answers: dict[tuple[Any, ...], Any] = {}


def _of_state(number: int, function: Callable[..., Any], last: _Last) -> Callable[..., Any]:
    def quick(spec: object, state: object, *rest: Any) -> Any:
        if last.state is not state or last.spec is not spec:
            last.state, last.spec, last.answers = state, spec, {}
        key = (number, *rest)
        if key not in last.answers:
            last.answers[key] = function(spec, state, *rest)
        return last.answers[key]

    return quick


def _property(getter: Callable[[State], Any]) -> property:
    last: list[Any] = [None, None]

    def quick(state: State) -> Any:
        if last[0] is not state:
            last[1] = getter(state)
            last[0] = state
        return last[1]

    return property(quick)


def remembered() -> list[Any]:
    """The patches."""
    hurts, records = caches.hurts, tlsa.records

    @lru_cache(1 << 14)
    def hurts_of(values: frozenset[str], spki: str, issuers: tuple[str, ...], doubt: bool) -> frozenset[str]:
        return hurts(values, Leaf(spki, issuers, (), BASE, BASE, ""), benefit_of_doubt=doubt)

    def quick_hurts(values: Iterable[str], leaf: Leaf, *, benefit_of_doubt: bool = False) -> frozenset[str]:
        return hurts_of(frozenset(values), leaf.spki, leaf.issuers, benefit_of_doubt)

    @lru_cache(1 << 14)
    def records_of(spki: str, issuers: tuple[str, ...], triples: tuple[str, ...]) -> frozenset[str]:
        return records(Leaf(spki, issuers, (), BASE, BASE, ""), triples)

    def quick_records(leaf: Leaf, triples: Iterable[str]) -> frozenset[str]:
        return records_of(leaf.spki, leaf.issuers, tuple(triples))

    found: list[Any] = [
        patch.object(caches, "hurts", quick_hurts),
        patch.object(tlsa, "records", quick_records),
        patch.object(tlsa, "of_key", lru_cache(1 << 14)(tlsa.of_key)),
    ]
    last = _Last()
    for number, name in enumerate(("desired", "withheld", "surplus", "missing", "served_at")):
        found.append(patch.object(rollover, name, _of_state(number, getattr(rollover, name), last)))
    for name in ("newest", "current_keys", "next_keys", "ours"):
        getter = State.__dict__[name].fget
        found.append(patch.object(State, name, _property(getter)))
    return found
