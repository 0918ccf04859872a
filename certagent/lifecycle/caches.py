"""What the world's DNS caches may have, and which chains break with it: the promise of certagent.

A roll in time, in the terms of RFC 7583:

    name servers  old set | old or both | both records .......................................... | new
    caches        old set ........................ | both records ...............................
    mail server   old key ............................ | old or new | new key ...................
                  --------+-------------+----------+---+------------+----------+-----------------+----> time
                       publish        seen        gone swap       drain      verify           remove
                                   everywhere
                                        |<-------->|   retire interval of the old set (Iret)
                          |<---------------------->|   publication interval of the new record (Ipub)

1. A TLSA set that any authoritative server was seen to give may be cached until its retire interval has passed. The
   interval begins with the first complete round of answers in which no server gives the set (RFC 7671 section 8.1;
   RFC 2181 section 5.2).
2. A server that was not heard may give any set that it ever gave. So a round with an unknown answer begins no interval.
3. For a set that comes back (a secondary that regressed) the wait begins anew.
4. When an alias leads elsewhere, what was given there before the first complete round of answers is not known, also if
   it has led there before. Caches may have a set that nobody saw.
5. A set that a provider accepted, and publishes late, may come until it is due. So no interval begins before that.
6. A set breaks with a chain if, for some usable TLSA parameters in it, no record matches (RFC 7671 sections 8 and 9;
   RFC 7672 section 2.2). An empty set breaks with none: that sender does not use DANE.

Nothing here decides anything. `gates.py` asks before a plan and again before an act, and the tests ask at every moment
of a simulated world.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from itertools import takewhile

from msgspec import Struct
from msgspec.structs import replace

from certagent.facts.dns import Answer, Observation, Value
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain
from certagent.pki import tlsa


class CachedSet(Struct, frozen=True):
    """A TLSA set that caches may have."""

    values: frozenset[Value] | None
    """None: not known. Whatever the place gave before it was observed."""
    ttl_s: int
    path: tuple[tuple[str, int], ...]
    """Each CNAME on the way, as in `Answer`."""
    seen_at: Instant
    gone_at: Instant | None
    """Since when no authoritative server gives it; None: one may still."""
    due_at: Instant | None = None
    """By when the provider usually has published it, if that has accepted it and takes its time. That no server gives
    it before then says nothing: it may be given yet, between two rounds."""

    def to_come(self, now: Instant) -> timedelta:
        """How long it may still come; zero or less: no more."""
        return self.due_at.since(now) if self.due_at else timedelta(0)


def complete(observation: Observation) -> bool:
    """Every authoritative address was heard, and there is at least one."""
    return bool(observation.answers) and all(isinstance(a, Answer) for a in observation.answers.values())


def known(observation: Observation) -> list[Answer]:
    """The answers that were heard, in the order of the servers' names: that in which they came is not journaled."""
    return [a for _, a in sorted(observation.answers.items()) if isinstance(a, Answer)]


def after(
    cached: tuple[CachedSet, ...], observation: Observation, now: Instant, *, early: bool = False
) -> tuple[CachedSet, ...]:
    """What caches may have after this round of answers (rules 1 to 5 above). `early`: some set is not due yet."""
    answers = known(observation)
    everyone = complete(observation)
    result: dict[tuple[frozenset[Value] | None, tuple[str, ...]], CachedSet] = {}
    for old in cached:
        gone = old.gone_at or (now if everyone and not (early and old.due_at) else None)
        if gone is None or now.since(gone) <= _kept(old):
            result[_identity(old.values, old.path)] = replace(
                old, gone_at=gone, path=_longest(old.path, observation.path)
            )
    given: list[tuple[frozenset[Value] | None, int, tuple[tuple[str, int], ...]]]
    given = [(a.values, a.ttl_s, a.path) for a in answers]
    if cached:  # before the first answer there is no past to know of
        latest = max(h.seen_at.elapsed_s for h in cached)
        places = {_place(h.path) for h in cached if h.seen_at.elapsed_s == latest}
        ttl_s = max(x.ttl_s for x in (*answers, *cached))
        given += [(None, ttl_s, a.path) for a in answers if _place(a.path) not in places]
    for values, ttl_s, path in given:
        key = _identity(values, path)
        old = result.get(key)
        result[key] = CachedSet(
            values=values,
            # the largest TTL it was ever given with: a cache may have taken it then
            ttl_s=max(ttl_s, old.ttl_s if old else 0),
            path=tuple((name, max(ttl, old.path[i][1] if old else 0)) for i, (name, ttl) in enumerate(path)),
            seen_at=now,
            gone_at=now if values is None and everyone else None,
            due_at=old.due_at if old else None,
        )
    return tuple(result.values())


def with_set(
    cached: tuple[CachedSet, ...],
    values: frozenset[Value],
    ttl_s: int,
    observation: Observation | None,
    now: Instant,
    publish_lag_s: float = 0.0,
) -> tuple[CachedSet, ...]:
    """What caches may have if a server that was not heard gave this set until now; or gives it only after a while."""
    if not values:
        return cached
    path = next((a.path for a in known(observation)), ()) if observation else ()
    same = next((h for h in cached if _identity(h.values, h.path) == _identity(values, path)), None)
    lag = timedelta(seconds=publish_lag_s)
    due_at = Instant(now.wall + lag, now.elapsed_s + publish_lag_s) if lag else same.due_at if same else None
    new = CachedSet(values, max(ttl_s, same.ttl_s if same else 0), path, now, None, due_at)
    return (*(h for h in cached if h is not same), new)


def retire_interval(cached: CachedSet, path: tuple[str, ...], safety_margin: timedelta) -> timedelta:
    """How long a set may live on in caches after the last server stopped giving it.

    Two TTLs (RFC 7671 section 8.1), at least the TTL and the safety margin for clocks and for caches inside senders. If
    the alias has changed since, a cache may follow the old one for its TTL and only then take the old set for another.
    """
    ttl_s = cached.ttl_s
    if _names(cached.path) != path:
        ttl_s += sum(hop_s for _, hop_s in cached.path)
    return retire_interval_of(ttl_s, safety_margin)


GRAIN = timedelta(seconds=3)
"""Caches count in whole seconds, one behind the other (the resolver, then the sender), and a delivery takes time
after it asked: below a TTL of this, twice the TTL is not enough."""


def retire_interval_of(ttl_s: int, safety_margin: timedelta) -> timedelta:
    """The retire interval of a set with that TTL, behind an alias that has not changed."""
    ttl = timedelta(seconds=ttl_s)
    return max(2 * ttl, ttl + max(safety_margin, GRAIN))


def longest_interval(cached: Iterable[CachedSet], safety_margin: timedelta) -> timedelta:
    """How long caches may keep what nobody saw behind an alias that nobody saw: the largest TTLs known count."""
    ttl_s = max((item.ttl_s + sum(hop_s for _, hop_s in item.path) for item in cached), default=0)
    return retire_interval_of(ttl_s, safety_margin)


def still_cached(
    cached: Iterable[CachedSet], path: tuple[str, ...], safety_margin: timedelta, now: Instant
) -> list[CachedSet]:
    """Those that some cache may have now."""
    return [h for h in cached if h.gone_at is None or now.since(h.gone_at) < retire_interval(h, path, safety_margin)]


def unmatched(values: Iterable[Value], chain: Chain, *, benefit_of_doubt: bool = False) -> frozenset[str]:
    """The TLSA parameters of the set for which no record matches the chain. Empty: the set is good for every sender.

    Usages 0 and 1 and malformed records are left out: senders treat them as unusable (RFC 7672 section 3.1.3). A
    record whose match the facts of the chain cannot show (`3 0 1`, `2 0 1`, other digests) matches only with
    benefit of doubt.
    """
    matched: dict[str, bool] = {}
    for value in values:
        if tlsa.usable(value):
            match = tlsa.matches(value, chain)
            parameters = tlsa.parameters(value)
            matched[parameters] = matched.get(parameters, False) or (benefit_of_doubt if match is None else match)
    return frozenset(parameters for parameters, ok in matched.items() if not ok)


def breaks(values: frozenset[Value] | None, chain: Chain, served: Iterable[Chain]) -> bool:
    """The chain would be the first that does not match for some sender with this set.

    Senders differ in the TLSA parameters that they support, so each kind counts alone. A set that surely matches
    nothing that is served (a mistake made before certagent came, or behind its back) holds nothing back: senders with
    it defer already, and only a change can help them. A set that nobody saw may match all that is served, and no more.
    """
    now_served = list(served)
    if values is None:
        return any(s.in_records != chain.in_records for s in now_served) or not now_served
    fails = unmatched(values, chain)
    if not fails or not now_served:
        return bool(fails)
    return any(fails - unmatched(values, one, benefit_of_doubt=True) for one in now_served)


def _longest(path: tuple[tuple[str, int], ...], seen: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """The same path, with the larger TTLs of aliases that were seen: somebody may have raised one since."""
    same = len(list(takewhile(lambda pair: pair[0][0] == pair[1][0], zip(path, seen, strict=False))))
    return (*((name, max(ttl_s, seen[i][1])) for i, (name, ttl_s) in enumerate(path[:same])), *path[same:])


def _names(path: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return tuple(name for name, _ in path)


def _place(path: tuple[tuple[str, int], ...]) -> str:
    """Where an alias leads; nowhere: the records are at the name itself."""
    return path[-1][0] if path else ""


def _identity(
    values: frozenset[Value] | None, path: tuple[tuple[str, int], ...]
) -> tuple[frozenset[Value] | None, tuple[str, ...]]:
    return values, _names(path)


def _kept(cached: CachedSet) -> timedelta:
    """When a gone set is dropped from the state: long after any retire interval (a safety margin is at most a day)."""
    return 4 * timedelta(seconds=cached.ttl_s + sum(ttl for _, ttl in cached.path)) + timedelta(days=2)
