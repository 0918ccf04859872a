"""Speed: pure functions of the engine that are asked the same again and again remember what they said.

States, specs and all that is in them are frozen, so an answer about the very same objects is the same answer; the
tables below say which parts of its arguments each function reads. Nothing here changes a rule: whatever function is
there when `remembered` is called, a mutant too, is asked once and its answer is repeated. That histories are the same
with and without this is held by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import lru_cache
from typing import Any
from unittest.mock import patch

from certagent.agent.act import dispatch, serving
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain
from certagent.lifecycle import caches, converged, schedule
from certagent.lifecycle.rules import rotation, rule
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaName, TlsaNames
from certagent.pki import tlsa
from tests.simulation.clock import BASE

Quick = Callable[..., Any]
Answers = dict[Any, Any]
"""By what was read or its ids; then with the objects themselves, so that no other can have their ids."""

MANY = 1 << 14


class Memory:
    """Answers of one history."""

    def __init__(self) -> None:
        self._all: list[Answers] = []
        self._read: Answers = {}

    def delete(self) -> None:
        """Another history begins."""
        for answers in self._all:
            answers.clear()
        self._read = {}

    def _answers(self) -> Answers:
        answers: Answers = {}
        self._all.append(answers)
        return answers

    def of_first(self, function: Quick) -> Quick:
        """Reads its one argument."""
        answers = self._answers()

        def quick(read: object) -> Any:
            found = answers.get(id(read))
            if found is None:
                found = answers[id(read)] = (read, function(read))
            return found[1]

        return quick

    def of_generations(self, function: Quick) -> Quick:
        """Reads the generations of a state."""
        answers = self._answers()

        def quick(state: State) -> Any:
            read = state.generations
            found = answers.get(id(read))
            if found is None:
                found = answers[id(read)] = (read, function(state))
            return found[1]

        return quick

    def of_chains(self, function: Quick) -> Quick:
        """Reads keys and generations of a state, and what is kept of those that are gone."""
        answers = self._answers()

        def quick(state: State) -> Any:
            generations, keys, past_values = state.generations, state.keys, state.past_values
            key = id(generations), id(keys), id(past_values)
            found = answers.get(key)
            if found is None:
                found = answers[key] = (generations, function(state), keys, past_values)
            return found[1]

        return quick

    def names(self, spec: Spec, state: State) -> TlsaNames:
        """What follows for TLSA names; it reads no other parts of the state."""
        parts = (part for item in state.tlsa_names.items() for part in item)
        read = spec, *parts, state.mail_servers, state.generations, state.keys, state.past_values
        key = tuple(map(id, read))
        _, found = self._read.get(key) or (None, None)
        if found is None:
            found = TlsaNames(spec, state)
            self._read[key] = (read, found)
        return found

    def of_parts(self, function: Quick, parts: Callable[..., tuple[Any, ...]]) -> Quick:
        """Reads these parts."""
        answers = self._answers()

        def quick(*args: Any) -> Any:
            read = parts(*args)
            key = tuple(map(id, read))
            found = answers.get(key)
            if found is None:
                found = answers[key] = (read, function(*args))
            return found[1]

        return quick


def _due(state: State) -> tuple[Any, ...]:
    return state.generations, state.renewals


def _all(*args: Any) -> tuple[Any, ...]:
    return args


def remembered(memory: Memory) -> list[Any]:
    """The patches."""
    unmatched, records, kept = caches.unmatched, tlsa.records, caches._kept  # pyright: ignore[reportPrivateUsage]

    @lru_cache(MANY)
    def unmatched_of(values: frozenset[str], spki: str, issuers: tuple[str, ...], doubt: bool) -> frozenset[str]:
        return unmatched(values, Chain(spki, issuers, (), BASE, BASE, ""), benefit_of_doubt=doubt)

    def quick_unmatched(values: Iterable[str], chain: Chain, *, benefit_of_doubt: bool = False) -> frozenset[str]:
        return unmatched_of(frozenset(values), chain.spki, chain.issuers, benefit_of_doubt)

    @lru_cache(MANY)
    def records_of(spki: str, issuers: tuple[str, ...], tlsa_parameters: tuple[str, ...]) -> frozenset[str]:
        return records(Chain(spki, issuers, (), BASE, BASE, ""), tlsa_parameters)

    def quick_records(chain: Chain, tlsa_parameters: Iterable[str]) -> frozenset[str]:
        return records_of(chain.spki, chain.issuers, tuple(tlsa_parameters))

    @lru_cache(MANY)
    def kept_of(ttl_s: int, path: tuple[tuple[str, int], ...]) -> timedelta:
        return kept(caches.CachedSet(frozenset(), ttl_s, path, Instant(BASE, 0.0), None))

    def quick_kept(cached: caches.CachedSet) -> timedelta:
        return kept_of(cached.ttl_s, cached.path)

    found: list[Any] = [
        patch.object(caches, "unmatched", quick_unmatched),
        patch.object(tlsa, "records", quick_records),
        patch.object(caches, "_kept", quick_kept),
        *(patch.object(module, "TlsaNames", memory.names) for module in (rule, converged, dispatch, serving)),
    ]
    kinds: tuple[tuple[Callable[[Quick], Quick], Any, tuple[str, ...]], ...] = (
        (lru_cache(MANY), tlsa, ("of_key", "parameters", "usable")),
        (lru_cache(MANY), caches, ("retire_interval_of", "_names")),
        (lru_cache(MANY), schedule, ("date",)),
        (memory.of_first, caches, ("known", "complete")),
        (lambda f: memory.of_parts(f, _all), TlsaName, ("already_served",)),
        (lambda f: memory.of_parts(f, _due), schedule, ("due",)),
        (lambda f: memory.of_parts(f, _all), caches, ("breaks",)),
        (lambda f: memory.of_parts(f, _all), rotation, ("_changed",)),
    )
    for kind, module, names in kinds:
        found += [patch.object(module, name, kind(getattr(module, name))) for name in names]
    for name in ("newest", "current_keys", "next_keys"):
        kind = memory.of_generations if name == "newest" else memory.of_chains
        found.append(patch.object(State, name, property(kind(State.__dict__[name].fget))))
    return found
