"""What the world's DNS caches may hold, and whom that could hurt. The promise of certagent, as two small functions.

1. A TLSA set that was seen at any authoritative server may be in some cache until its hold time has passed since the
   first complete round of answers in which no server gave it any more (RFC 7671 section 8.1; RFC 2181 section 5.2).
2. A server that was not heard may give any set it ever gave. So a round with an unknown answer never ends a hold.
3. A set that comes back (a secondary that regressed) is held again, from the start.
4. A set hurts a chain if some usable triple in it has records and none of them matches (RFC 7671 sections 8 and 9;
   RFC 7672 section 2.2). An empty set hurts nobody: that sender does not use DANE.

Nothing here decides anything: `planner.py` asks before it plans, `act.py` asks again before it acts, and the tests
ask at every moment of a simulated world.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from itertools import takewhile

from msgspec import Struct
from msgspec.structs import replace

from certagent.lifecycle.model import Answer, Instant, Sighting, Value
from certagent.pki import tlsa
from certagent.pki.leaf import Leaf


class Held(Struct, frozen=True):
    """A TLSA set that caches may hold. `gone_at`: since when no authoritative server gives it; None: one may still."""

    values: frozenset[Value]
    ttl_s: int
    path: tuple[tuple[str, int], ...]
    seen_at: Instant
    gone_at: Instant | None


def complete(sighting: Sighting) -> bool:
    """Every authoritative address was heard, and there is at least one."""
    return bool(sighting.answers) and all(isinstance(a, Answer) for a in sighting.answers.values())


def known(sighting: Sighting) -> list[Answer]:
    """The answers that were heard, in the order of the servers' names: that in which they came is not journaled."""
    return [a for _, a in sorted(sighting.answers.items()) if isinstance(a, Answer)]


def after(held: tuple[Held, ...], sighting: Sighting, now: Instant) -> tuple[Held, ...]:
    """What may be held after this round of answers (rules 1 to 3 above)."""
    answers = known(sighting)
    everyone = complete(sighting)
    result: dict[tuple[frozenset[Value], tuple[str, ...]], Held] = {}
    for old in held:
        gone = old.gone_at or (now if everyone else None)
        if gone is None or now.since(gone) <= _kept(old):
            result[_identity(old.values, old.path)] = replace(old, gone_at=gone, path=_longest(old.path, sighting.path))
    for answer in answers:
        key = _identity(answer.values, answer.path)
        old = result.get(key)
        result[key] = Held(
            values=answer.values,
            # the largest TTL it was ever given with: a cache may have taken it then
            ttl_s=max(answer.ttl_s, old.ttl_s if old else 0),
            path=tuple((name, max(ttl, old.path[i][1] if old else 0)) for i, (name, ttl) in enumerate(answer.path)),
            seen_at=now,
            gone_at=None,
        )
    return tuple(result.values())


def with_set(
    held: tuple[Held, ...], values: frozenset[Value], ttl_s: int, sighting: Sighting | None, now: Instant
) -> tuple[Held, ...]:
    """What may be held if a server that was not heard gave this set until now."""
    if not values:
        return held
    path = next((a.path for a in known(sighting)), ()) if sighting else ()
    same = next((h for h in held if _identity(h.values, h.path) == _identity(values, path)), None)
    new = Held(values, max(ttl_s, same.ttl_s if same else 0), path, now, None)
    return (*(h for h in held if h is not same), new)


def hold(held: Held, path: tuple[str, ...], guard: timedelta) -> timedelta:
    """How long a set may live on in caches after the last server stopped giving it.

    Two TTLs (RFC 7671 section 8.1), at least the TTL and the guard for clocks and for caches inside senders. Where the
    alias has changed since, a cache may follow the old one for its TTL and only then take the old set for another.
    """
    ttl_s = held.ttl_s
    if _names(held.path) != path:
        ttl_s += sum(hop_s for _, hop_s in held.path)
    return hold_of(ttl_s, guard)


GRAIN = timedelta(seconds=3)
"""Caches count in whole seconds, one behind the other (the resolver, then the sender), and a delivery takes time
after it asked: below a TTL of this, twice the TTL is not enough."""


def hold_of(ttl_s: int, guard: timedelta) -> timedelta:
    """The hold of a set with that TTL, behind an alias that has not changed."""
    ttl = timedelta(seconds=ttl_s)
    return max(2 * ttl, ttl + max(guard, GRAIN))


def still_held(held: Iterable[Held], path: tuple[str, ...], guard: timedelta, now: Instant) -> list[Held]:
    """Those that some cache may hold now."""
    return [h for h in held if h.gone_at is None or now.since(h.gone_at) < hold(h, path, guard)]


def hurts(values: Iterable[Value], leaf: Leaf, *, benefit_of_doubt: bool = False) -> frozenset[str]:
    """The triples of the set for which no record matches the chain; empty: every sender that holds the set is fine.

    Usages 0 and 1 and malformed records are left out: senders treat them as unusable (RFC 7672 section 3.1.3). A
    record whose match cannot be told from the facts of the chain (`3 0 1`, `2 0 1`, other digests) matches only with
    benefit of doubt.
    """
    matched: dict[str, bool] = {}
    for value in values:
        if tlsa.usable(value):
            match = tlsa.matches(value, leaf)
            triple = tlsa.triple(value)
            matched[triple] = matched.get(triple, False) or (benefit_of_doubt if match is None else match)
    return frozenset(triple for triple, ok in matched.items() if not ok)


def hurt_by(values: frozenset[Value], leaf: Leaf, served: Iterable[Leaf]) -> bool:
    """Whether a sender that holds the set is hurt by the chain, and is not hurt already by everything served so far.

    Triple by triple, since senders differ in those they support. A set that surely matches nothing that is served (a
    mistake made before certagent came, or behind its back) is no reason to hold anything back: its holders are cut off
    already, and only a change can help them.
    """
    hurt = hurts(values, leaf)
    now_served = list(served)
    return bool(hurt) and (not now_served or any(hurt - hurts(values, s, benefit_of_doubt=True) for s in now_served))


def _longest(path: tuple[tuple[str, int], ...], seen: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """The same path, with the larger TTLs of aliases that were seen: somebody may have raised one since."""
    same = len(list(takewhile(lambda pair: pair[0][0] == pair[1][0], zip(path, seen, strict=False))))
    return (*((name, max(ttl_s, seen[i][1])) for i, (name, ttl_s) in enumerate(path[:same])), *path[same:])


def _names(path: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return tuple(name for name, _ in path)


def _identity(values: frozenset[Value], path: tuple[tuple[str, int], ...]) -> tuple[frozenset[Value], tuple[str, ...]]:
    return values, _names(path)


def _kept(held: Held) -> timedelta:
    """When a gone set is dropped from the state: long after any hold (a guard is at most a day, see config.py)."""
    return 4 * timedelta(seconds=held.ttl_s + sum(ttl for _, ttl in held.path)) + timedelta(days=2)
