"""The gates before a swap, an addition and a removal: what stands against it.

The planner asks them before it plans. `agent/act` asks them again, with the state of that moment, before it acts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from msgspec import Struct

from certagent.facts.dns import Observation
from certagent.facts.moment import Instant
from certagent.facts.tls import KeyType
from certagent.facts.unknown import Unknown
from certagent.lifecycle import caches, schedule
from certagent.lifecycle.shared import Chains
from certagent.lifecycle.state import Generation
from certagent.lifecycle.tlsaname import TlsaName, TlsaNames, Values
from certagent.pki.names import service_of


class Obstacle(Struct, frozen=True):
    """Why a swap cannot be made now.

    `remaining`: how long it certainly lasts; None: until something is observed to change. `lasting`: only the operator
    can end it.
    """

    tlsa_name: TlsaName
    remaining: timedelta | None
    why: str
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.tlsa_name} {self.why}"


# -- the swap ----------------------------------------------------------------------------------------------------------


def may_install(names: TlsaNames, server: str, generation: Generation, now: Instant) -> list[Obstacle]:
    """The gate before a swap: what stands against serving the generation at a mail server from now on."""
    return obstacles(names.at(server), tuple(generation.chains.values()), now)


def obstacles(names: Iterable[TlsaName], chains: Chains, now: Instant) -> list[Obstacle]:
    """What stands against serving these chains at these TLSA names from now on.

    Chains that no sender can tell from what is surely served already change nothing for anybody, so they never wait
    for DNS: a renewal with the same key goes out in any weather (RFC 7671 section 8, RFC 7672 section 2.2). If
    something else was met since, they wait for every set that matches what was met and not them: somebody may have
    rolled by hand, and properly. As long as that breaks nothing, servers that are not heard are waited for, too.
    """
    found: list[Obstacle] = []
    for name in names:
        if not all(map(name.already_served, chains)):
            found += undeclared(name, chains, now) if name.undeclared else _at(name, chains, now)
        elif strange := name.shared.strange:
            found += _broken(name, chains, strange, now)
            seen = name.known.observation
            if seen and not caches.complete(seen) and not name.undeclared and not _urgent(name, strange, now):
                found.append(Obstacle(name, None, _not_heard(seen)))
    return found


def _urgent(name: TlsaName, strange: Chains, now: Instant) -> bool:
    """What was met where another chain was expected breaks a set that is given now, or is about to expire.

    What was given before says nothing: the operator may have rolled since, or the state is an old one.
    """
    late = any(now.wall >= schedule.last_chance(chain) for chain in strange)
    return late or any(caches.unmatched(values, chain) for values in name.sets for chain in strange)


def _seen_sets(name: TlsaName, now: Instant) -> list[Values]:
    """The sets that caches may hold; one that nobody saw is as one that breaks nothing."""
    return [item.values or frozenset() for item in name.cached(now)]


def undeclared(name: TlsaName, chains: Chains, now: Instant) -> list[Obstacle]:
    """What stands against these chains at a name whose records somebody else keeps.

    Records of what is served hold the swap back until they match both keys or are gone from all caches. Such records
    are looked for just before a swap. Most of these names have none, so it is enough that one server answers, and a
    silent one may give what it ever gave. If nobody answers the key stays, and a renewal keeps it; but what was there
    before certagent must not expire for that.
    """
    seen = name.known.observation
    found: list[Obstacle] = []
    for item in _breaking(name, chains, name.met, now):
        given = any(item.values == values for values in name.sets)
        found.append(Obstacle(name, None, _KEPT, lasting=True) if given else _cached(name, item, now))
    if not name.sets and not all(map(name.key_served, chains)) and not name.shared.runs_out(now):
        found.append(Obstacle(name, None, _not_heard(seen) if seen else "its authoritative servers were not asked yet"))
    return found


def refused(name: TlsaName, generation: Generation, now: Instant) -> Obstacle | None:
    """What stands against a swap at such a name and is no matter of time."""
    against = obstacles([name], tuple(generation.chains.values()), now)
    return next((o for o in against if o.remaining is None), None)


def remedy(name: str) -> str:
    """What the operator does about records that he did not declare."""
    service = service_of(name)
    return f"set `tlsa: true` at the service {service}, and certagent keeps its records; or take them out of DNS"


_KEPT = "has records of what is served, and certagent does not keep them: the service has no `tlsa: true`"


def _at(name: TlsaName, chains: Chains, now: Instant) -> list[Obstacle]:
    seen = name.known.observation
    if seen is None:
        return [Obstacle(name, None, "its authoritative servers were not asked yet")]
    found: list[Obstacle] = []
    if name.changed_since_observed:
        found.append(Obstacle(name, None, "changed, and not observed since"))
    if not caches.complete(seen):
        found.append(Obstacle(name, None, _not_heard(seen)))
    found += _broken(name, chains, name.met, now)
    if seen.security == "bogus":
        found.append(Obstacle(name, None, f"DNSSEC is broken: {seen.why}"))
    return found


def _broken(name: TlsaName, chains: Chains, served: Chains, now: Instant) -> list[Obstacle]:
    return [_cached(name, item, now) for item in _breaking(name, chains, served, now)]


def _breaking(name: TlsaName, chains: Chains, served: Chains, now: Instant) -> list[caches.CachedSet]:
    """The sets that caches may hold and that one of these chains would be the first to break."""
    return [i for i in name.cached(now) if any(caches.breaks(i.values, chain, served) for chain in chains)]


def _cached(name: TlsaName, item: caches.CachedSet, now: Instant) -> Obstacle:
    if item.gone_at is None and (left := item.to_come(now)) > timedelta(0):
        return Obstacle(name, left, "its DNS provider may yet publish a set without a matching record")
    if item.gone_at is None:
        return Obstacle(name, None, _still_given(name, item))
    left = name.retire_interval(item) - now.since(item.gone_at)
    what = "the set seen" if item.values is not None else "a set that nobody saw where the alias leads now,"
    return Obstacle(name, left, f"caches may hold {what} with TTL {item.ttl_s} s (RFC 7671 section 8.1)")


def _still_given(name: TlsaName, item: caches.CachedSet) -> str:
    seen = name.known.observation
    assert seen is not None
    lacking = [a for a, x in seen.answers.items() if not isinstance(x, Unknown) and x.values == item.values]
    return f"still answered without a matching record by {', '.join(sorted(lacking))}" if lacking else _not_heard(seen)


def _not_heard(observation: Observation) -> str:
    silent = sorted(f"{a} ({x.why})" for a, x in observation.answers.items() if isinstance(x, Unknown))
    return f"not heard: {', '.join(silent) or 'no authoritative server'}"


def names_that_roll(names: TlsaNames, server: str, generation: Generation) -> tuple[TlsaName, ...]:
    """The TLSA names of a mail server whose senders could tell the generation from what is served."""
    chains = generation.chains.values()
    return tuple(n for n in names.at(server) if n.shared.strange or not all(map(n.already_served, chains)))


def breaks_more(names: TlsaNames, server: str, one: Generation, other: Generation, now: Instant) -> bool:
    """The first breaks what the other does, and more: sets that some cache may hold, each with a key type."""
    sets = [values for name in names.at(server) for values in _seen_sets(name, now)]

    def broken(generation: Generation) -> set[tuple[Values, KeyType]]:
        chains = generation.chains.items()
        return {(values, key_type) for values in sets for key_type, chain in chains if caches.unmatched(values, chain)}

    return broken(other) < broken(one)


# -- records -----------------------------------------------------------------------------------------------------------


def may_publish(name: TlsaName, values: Values) -> str | None:
    """The gate before values are added; the reason against it, or None.

    No set that comes to be may have TLSA parameters that match nothing served (RFC 7671 section 8.4: a new kind is
    published for the present chain first), unless that was so before.
    """
    if name.publication_blocked:
        return f"{name}: {name.publication_blocked}"
    unmatched = name.newly_unmatched(values)
    return f"{name}: no record of type {', '.join(unmatched)} would match what is served now" if unmatched else None


def may_unpublish(name: TlsaName, values: Values) -> str | None:
    """The gate before values are removed; the reason against it, or None (RFC 7671 section 8.1: old ones go last)."""
    if unplaced := name.names.unplaced:
        anywhere = ", ".join(map(str, unplaced))
        return f"{name}: where {anywhere} leads is not known yet: the records may be the same"
    if unknown := name.shared.unknown_servers or name.names.unknown_anywhere:
        return f"{name}: what {', '.join(unknown)} serves is not known yet"
    for before in name.sets:
        for chain in name.minded:
            unmatched = caches.unmatched(before - values, chain) - caches.unmatched(before, chain)
            if unmatched:
                parameters = ", ".join(sorted(unmatched))
                return f"{name}: without these no record of type {parameters} would match what is served"
    return None
