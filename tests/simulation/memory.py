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

from certagent.facts.moment import Instant
from certagent.facts.tls import Chain
from certagent.lifecycle import caches, rollover, schedule
from certagent.lifecycle.rules import records as record_rules
from certagent.lifecycle.rules import rotation
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State, TlsaState
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
        """For each combination of what was read: those objects, and the answers about them."""
        self._now: Answers = {}
        """The same for the present spec and state, by name."""
        self._spec: object = None
        self._state: object = None
        self._functions = 0
        self._seen: tuple[object, tuple[Any, ...]] = (None, ())

    def delete(self) -> None:
        """Another history begins."""
        for answers in self._all:
            answers.clear()
        self._read, self._now, self._spec, self._state = {}, {}, None, None
        self._seen = None, ()

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

    def of_observation(self, function: Quick) -> Quick:
        """Reads the last observation of an owner."""
        answers = self._answers()

        def quick(known: TlsaState) -> Any:
            seen = known.observation
            found = answers.get(id(seen))
            if found is None:
                found = answers[id(seen)] = (seen, function(known))
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

    def of_name(self, function: Quick) -> Quick:
        """Reads the spec, keys, what is served, and what is known of the TLSA names; about one of them, if any."""
        self._functions += 1
        number = self._functions

        def quick(spec: Spec, state: State, *name: str) -> Any:
            if state is not self._state or spec is not self._spec:
                self._now, self._spec, self._state = {}, spec, state
            answers = self._now.get(name)
            if answers is None:
                answers = self._now[name] = self._about(spec, state, name)
            if number not in answers:
                answers[number] = function(spec, state, *name)
            return answers[number]

        return quick

    def seen(self, state: State) -> tuple[Any, ...]:
        """What was seen of all TLSA names, and what caches hold of them."""
        tlsa_names, found = self._seen
        if tlsa_names is not state.tlsa_names:
            parts = (
                part for name, o in state.tlsa_names.items() for part in (name, o.observation, o.cached, o.mail_servers)
            )
            self._seen = state.tlsa_names, (found := tuple(parts))
        return found

    def _about(self, spec: Spec, state: State, name: tuple[str, ...]) -> Answers:
        read = spec, *self.seen(state), state.mail_servers, state.generations, state.keys, state.past_values
        key = name, *map(id, read)
        _, answers = self._read.get(key) or (None, None)
        if answers is None:
            answers = Answers()
            self._read[key] = (read, answers)
        return answers

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

    def already_served(spec: Spec, state: State, tlsa_name: str, chain: Chain) -> tuple[Any, ...]:
        return spec, *memory.seen(state), state.mail_servers, state.generations, tlsa_name, chain

    def matters(spec: Spec, state: State, name: str, cached: caches.CachedSet) -> tuple[Any, ...]:
        return spec, *memory.seen(state), state.mail_servers, state.generations, state.keys, name, cached.values

    found: list[Any] = [
        patch.object(caches, "unmatched", quick_unmatched),
        patch.object(tlsa, "records", quick_records),
        patch.object(caches, "_kept", quick_kept),
    ]
    kinds: tuple[tuple[Callable[[Quick], Quick], Any, tuple[str, ...]], ...] = (
        (lru_cache(MANY), tlsa, ("of_key", "parameters", "usable")),
        (lru_cache(MANY), caches, ("retire_interval_of", "_names")),
        (lru_cache(MANY), schedule, ("tell",)),
        (memory.of_first, caches, ("known", "complete")),
        (memory.of_observation, rollover, ("seen_somewhere", "seen_everywhere", "path", "empty")),
        (memory.of_name, rollover, ("answering", "withdrawn", "served_at", "verified", "rolled")),
        (memory.of_name, rollover, ("desired", "publication_blocked", "surplus", "missing", "unfollowed")),
        (lambda f: memory.of_parts(f, already_served), rollover, ("_already_served",)),
        (lambda f: memory.of_parts(f, matters), record_rules, ("_matters",)),
        (lambda f: memory.of_parts(f, _due), schedule, ("due",)),
        (lambda f: memory.of_parts(f, _all), rollover, ("as_if_issued",)),
        (lambda f: memory.of_parts(f, _all), caches, ("breaks",)),
        (lambda f: memory.of_parts(f, _all), rotation, ("_changed",)),
    )
    for kind, module, names in kinds:
        found += [patch.object(module, name, kind(getattr(module, name))) for name in names]
    for name in ("newest", "current_keys", "next_keys", "ours"):
        kind = memory.of_generations if name == "newest" else memory.of_chains
        found.append(patch.object(State, name, property(kind(State.__dict__[name].fget))))
    return found
