"""What follows from the state for DANE: who may be served what, what should be in DNS, and what a swap still waits for.

The four orders of a roll (normal, first publication, withdrawal, emergency) are not four procedures. They follow from:
what caches may hold (`caches.py`), the set that should be published (`desired`), and the two gates below.
"""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct

from certagent.facts.dns import Observation, Value
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain
from certagent.facts.unknown import Unknown
from certagent.lifecycle import caches
from certagent.lifecycle.spec import MailServer, Spec
from certagent.lifecycle.state import Generation, Installation, KeySet, State, TlsaState, records
from certagent.pki import tlsa


class Obstacle(Struct, frozen=True):
    """Why a swap cannot be made now. `remaining`: how long it certainly lasts; None: until something is seen to
    change.
    """

    tlsa_name: str
    remaining: timedelta | None
    why: str


def tlsa_names(spec: Spec, state: State) -> list[str]:
    """Every TLSA name that matters: configured, or still held by caches although withdrawn."""
    return [*spec.tlsa_names, *(o for o in state.tlsa_names if o not in spec.tlsa_names)]


def sharing(spec: Spec, state: State, tlsa_name: str) -> list[str]:
    """The TLSA names with the records of this one: itself, and those whose aliases lead to the same place, or did so
    while caches may know it.
    """
    others = [name for name in tlsa_names(spec, state) if name != tlsa_name]
    here = _places(spec, state, tlsa_name) if others else set[str]()
    return [tlsa_name, *(name for name in others if here & _places(spec, state, name))]


def withdrawn(spec: Spec, state: State, tlsa_name: str) -> bool:
    """It is not configured any more, and no other name has its records."""
    here = place(state, tlsa_name)
    return tlsa_name not in spec.tlsa_names and all(place(state, name) != here for name in spec.tlsa_names)


def place(state: State, tlsa_name: str) -> str:
    """Where the records of a TLSA name are, as last seen."""
    seen = state.tlsa_name(tlsa_name).observation
    return seen.name if seen and caches.known(seen) else tlsa_name


def unplaced(spec: Spec, state: State) -> list[str]:
    """Configured names of which nobody has said yet where their records are: any other name may share them."""
    return [name for name in spec.tlsa_names if not _places(spec, state, name)]


def _places(spec: Spec, state: State, tlsa_name: str) -> set[str]:
    """Where the aliases of a TLSA name end, and did when caches may have taken them, as of the last look."""
    known = state.tlsa_name(tlsa_name)
    found = {known.observation.name} if known.observation and caches.known(known.observation) else set[str]()
    elsewhere = [h for h in known.cached if (h.path[-1][0] if h.path else tlsa_name) not in found]
    if elsewhere and known.observed_at:
        elsewhere = caches.still_cached(elsewhere, path(known), spec.safety_margin, known.observed_at)
    return found | {h.path[-1][0] if h.path else tlsa_name for h in elsewhere}


def answering(spec: Spec, state: State, tlsa_name: str) -> tuple[str, ...]:
    """The targets that answer where the records of a TLSA name count, under whatever name; of a name that is not
    configured any more, those that did.
    """
    every = (*(t.name for t in spec.mail_servers), *state.mail_servers)
    names = sharing(spec, state, tlsa_name)
    return tuple(
        dict.fromkeys(
            t for name in names for t in spec.tlsa_names.get(name) or state.tlsa_name(name).mail_servers or every
        )
    )


def names_of(spec: Spec, state: State, server: str) -> list[str]:
    """The TLSA names whose records count where a target answers."""
    return [o for o in tlsa_names(spec, state) if server in answering(spec, state, o)]


def unknown_servers(spec: Spec, state: State, tlsa_name: str) -> list[str]:
    """Targets that answer at a TLSA name and of which nothing is known yet."""
    return [t for t in answering(spec, state, tlsa_name) if t not in state.mail_servers]


def served_at(spec: Spec, state: State, tlsa_name: str) -> list[Chain]:
    """The chains that a client of the service may meet now; none where any target is unknown yet."""
    if unknown_servers(spec, state, tlsa_name):
        return []
    return [chain for g in state.serving(answering(spec, state, tlsa_name)) for chain in g.chains.values()]


def path(known: TlsaState) -> tuple[str, ...]:
    """The alias names on the way to the records, as last seen."""
    if known.observation:
        for answer in caches.known(known.observation):
            return tuple(name for name, _ in answer.path)
    return ()


def cached(spec: Spec, known: TlsaState, now: Instant) -> list[caches.CachedSet]:
    """The sets that caches may hold of a TLSA name now."""
    return caches.still_cached(known.cached, path(known), spec.safety_margin, now)


def as_if_issued(keys: KeySet, like: Generation | None) -> dict[str, Chain]:
    """The chains that keys would get, for planning before they are issued: same issuers as the present ones."""
    chains: dict[str, Chain] = {}
    for key_type, spki in keys.spki.items():
        old = like.chains.get(key_type) if like else None
        chains[key_type] = Chain(
            spki=spki,
            issuers=old.issuers if old else (),
            names=(),
            not_before=keys.made_at.wall,
            not_after=keys.made_at.wall,
            serial="",
        )
    return chains


def obstacles(spec: Spec, state: State, chains: list[Chain], names: list[str], now: Instant) -> list[Obstacle]:
    """What stands against serving these chains at these TLSA names from now on.

    Source: RFC 7671 section 8, RFC 7672 section 2.2. Chains that no sender can tell from what is proven to be served
    already change nothing for anybody, so they never wait for DNS: a renewal with the same key goes out in any weather.
    """
    result: list[Obstacle] = []
    for name in names:
        known = state.tlsa_name(name)
        if all(_already_served(spec, state, name, chain) for chain in chains):
            continue
        served = served_at(spec, state, name)
        if known.observation is None:
            result.append(Obstacle(name, None, "its authoritative servers were not asked yet"))
            continue
        if changed_since_observed(known):
            result.append(Obstacle(name, None, "changed, and not looked at since"))
        if not caches.complete(known.observation):
            result.append(Obstacle(name, None, _not_heard(known.observation)))
        for item in cached(spec, known, now):
            if not any(caches.breaks(item.values, chain, served) for chain in chains):
                continue
            if item.gone_at is None:
                result.append(Obstacle(name, None, _still_given(known, item)))
            else:
                left = caches.retire_interval(item, path(known), spec.safety_margin) - now.since(item.gone_at)
                what = "the set seen" if item.values is not None else "a set that nobody saw where the alias leads now,"
                why = f"caches may hold {what} with TTL {item.ttl_s} s (RFC 7671 section 8.1)"
                result.append(Obstacle(name, left, why))
        if known.observation.security == "bogus":
            result.append(Obstacle(name, None, f"DNSSEC is broken: {known.observation.why}"))
    return result


def _still_given(known: TlsaState, item: caches.CachedSet) -> str:
    assert known.observation is not None
    lacking = [
        a for a, x in known.observation.answers.items() if not isinstance(x, Unknown) and x.values == item.values
    ]
    if lacking:
        return f"still answered without a matching record by {', '.join(sorted(lacking))}"
    return _not_heard(known.observation)


def _not_heard(observation: Observation) -> str:
    silent = sorted(f"{a} ({x.why})" for a, x in observation.answers.items() if isinstance(x, Unknown))
    return f"not heard: {', '.join(silent) or 'no authoritative server'}"


def _already_served(spec: Spec, state: State, tlsa_name: str, chain: Chain) -> bool:
    """Whether the records of the chain are those of a chain that every target is known to have served."""
    known = state.tlsa_name(tlsa_name)
    pins_issuer = "2 1 1" in spec.tlsa_parameters or any(
        tlsa.parameters(v) != "3 1 1" for h in known.cached for v in h.values or () if tlsa.usable(v)
    )
    for server in answering(spec, state, tlsa_name):
        at = state.mail_servers.get(server)
        served = [g for id_ in (at.converged if at else ()) if (g := state.generation(id_))]
        same = (s for g in served for s in g.chains.values() if s.spki == chain.spki)
        if not any(s.issuers == chain.issuers or not pins_issuer for s in same):
            return False
    return True


def names_that_roll(spec: Spec, state: State, server: str, generation: Generation) -> list[str]:
    """The TLSA names of a target whose senders could tell the generation from what is served."""
    return [
        tlsa_name
        for tlsa_name in names_of(spec, state, server)
        if not all(_already_served(spec, state, tlsa_name, chain) for chain in generation.chains.values())
    ]


def verified(spec: Spec, state: State, tlsa_name: str) -> Generation | None:
    """The one generation that is served, and surely nothing else, by every target of a TLSA name; None otherwise."""
    found: set[str] = set()
    configured = {server.name: server for server in spec.mail_servers}
    for name in answering(spec, state, tlsa_name):
        server, at = configured.get(name), state.mail_servers.get(name)
        if at is None or at.phase != "drained" or not (server and met_everywhere(server, at)):
            return None
        found |= set(at.serves)
    return state.generation(found.pop()) if len(found) == 1 else None


def met_everywhere(server: MailServer, at: Installation) -> bool:
    """The last proof met what is served at every service that the mail server has by now."""
    return {f"{service.host}:{service.port}" for service in server.services} <= set(at.services)


def rolled(spec: Spec, state: State) -> bool:
    """The newest generation is all that any target serves, and proven."""
    newest = state.newest
    installed = [state.mail_servers.get(t.name) for t in spec.mail_servers]
    return newest is not None and all(t and t.phase == "drained" and t.serves == (newest.id,) for t in installed)


def changed_since_observed(known: TlsaState) -> bool:
    """A change was made, or may have been, that no look has seen yet."""
    if known.changed_at is None or known.observed_at is None:
        return False
    return known.observed_at.elapsed_s <= known.changed_at.elapsed_s


def empty(known: TlsaState) -> bool:
    """Every authoritative server was heard and says that there are no TLSA records."""
    observation = known.observation
    return (
        observation is not None
        and caches.complete(observation)
        and not any(a.values for a in caches.known(observation))
    )


def publication_blocked(spec: Spec, state: State, tlsa_name: str) -> str | None:  # noqa: PLR0911 -- a list of reasons
    """Why nothing is published yet at a TLSA name where DANE is not in force; None where it is, or may begin.

    A first publication that comes before the key is served cuts every DANE sender off, and one in a zone that senders
    cannot validate is no use to anybody (RFC 7671 section 8.1, RFC 7672 sections 2.2 and 2.2.1).
    """
    known = state.tlsa_name(tlsa_name)
    if known.observation is None:
        return "its authoritative servers were not asked yet"
    for name in (tlsa_name, *unplaced(spec, state)):
        if unknown := unknown_servers(spec, state, name):
            return f"what {', '.join(unknown)} serves is not known yet"
    heard = caches.known(known.observation)
    if not heard:
        return "none of its authoritative servers was heard"
    if any(answer.values for answer in heard):
        return None
    if known.observation.security != "secure":
        return f"not known to be signed: {known.observation.security}, {known.observation.why}"
    if anywhere := unplaced(spec, state):
        return f"where {', '.join(anywhere)} leads is not known yet: the records may be the same"
    if not verified(spec, state, tlsa_name):
        return "first publication: the key is served and proven first"
    return None


def desired(spec: Spec, state: State, tlsa_name: str) -> frozenset[Value]:
    """The set that should be published at a TLSA name now.

    Records of everything that may be served, of the generation to be installed, and of the next keys. Nothing for a
    name that is withdrawn (unless its alias leads to the records of others), and nothing yet where a first publication
    has to wait.
    """
    if withdrawn(spec, state, tlsa_name) or publication_blocked(spec, state, tlsa_name):
        return frozenset()
    values: set[Value] = set()
    for generation in state.serving(answering(spec, state, tlsa_name)):
        values |= records(generation, spec.tlsa_parameters)
    if state.newest:
        values |= records(state.newest, spec.tlsa_parameters)
    if state.next_keys and "3 1 1" in spec.tlsa_parameters:
        values |= {tlsa.of_key(spki) for spki in state.next_keys.spki.values()}
    return frozenset(values)


def seen_somewhere(known: TlsaState) -> frozenset[Value]:
    """Values that some authoritative server gave in the last round."""
    return frozenset(v for a in caches.known(known.observation) for v in a.values) if known.observation else frozenset()


def seen_everywhere(known: TlsaState) -> frozenset[Value]:
    """Values that every authoritative server gave in the last round; none if one was not heard."""
    if known.observation is None or not caches.complete(known.observation):
        return frozenset()
    first, *others = (a.values for a in caches.known(known.observation))
    return first.intersection(*others)


def missing(spec: Spec, state: State, tlsa_name: str) -> frozenset[Value]:
    """What to publish now: the whole desired set as soon as any of it is missing, without parameters that must wait.

    Missing is what no server gives; and what one server lacks although it is served: that one may be the primary, and
    the others may only not have followed yet.
    """
    values = desired(spec, state, tlsa_name)
    early = _newly_unmatched(spec, state, tlsa_name, values)
    values = frozenset(v for v in values if tlsa.parameters(v) not in early)
    known = state.tlsa_name(tlsa_name)
    hurt = any(
        caches.unmatched(before, chain) - caches.unmatched(before | values, chain)
        for before in _sets(known)
        for chain in served_at(spec, state, tlsa_name)
    )
    lacking = any(not before and values for before in _sets(known))
    return values if hurt or lacking or not values <= seen_somewhere(known) else frozenset()


def surplus(spec: Spec, state: State, tlsa_name: str) -> frozenset[Value]:
    """Values of ours that some authoritative server gives and that should not be there any more.

    A withdrawn name loses every value that was ever ours, seen or not: a server may have lost sight of one. So does a
    withdrawn TLSA parameters: what is left of it would match nothing (RFC 7671 section 8).
    """
    wanted = desired(spec, state, tlsa_name)
    seen = (seen_somewhere(state.tlsa_name(tlsa_name)) & state.ours) - wanted
    if seen and withdrawn(spec, state, tlsa_name):
        return state.ours
    over = {tlsa.parameters(v) for v in seen} - set(spec.tlsa_parameters)
    return seen | {v for v in state.ours - wanted if tlsa.parameters(v) in over}


def unfollowed(spec: Spec, state: State, tlsa_name: str) -> bool:
    """Some server lacks a value that should be there, or gives one that should not.

    Where a first publication is held back nothing is expected yet.
    """
    lacking = desired(spec, state, tlsa_name) - seen_everywhere(state.tlsa_name(tlsa_name))
    return bool(lacking or surplus(spec, state, tlsa_name))


def may_publish(spec: Spec, state: State, tlsa_name: str, values: frozenset[Value]) -> str | None:
    """The gate before values are added; the reason against it, or None.

    No set that comes to be may have TLSA parameters that match nothing served (RFC 7671 section 8.4: new ones are
    published for the present chain first), unless that was so before.
    """
    if held_back := publication_blocked(spec, state, tlsa_name):
        return f"{tlsa_name}: {held_back}"
    worse = _newly_unmatched(spec, state, tlsa_name, values)
    return f"{tlsa_name}: no record of type {', '.join(worse)} would match what is served now" if worse else None


def _newly_unmatched(spec: Spec, state: State, tlsa_name: str, values: frozenset[Value]) -> list[str]:
    """Triples that would match nothing served once the values are added, and do not fail already. What is served at a
    name counts, too, while nobody has said where its records are: they may be these.
    """
    names = (tlsa_name, *unplaced(spec, state))
    worse = {
        parameters
        for before in {frozenset[Value](), *_sets(state.tlsa_name(tlsa_name))}  # a hidden primary may be empty
        for name in names
        for chain in served_at(spec, state, name)
        for parameters in caches.unmatched(before | values, chain) - caches.unmatched(before, chain)
    }
    return sorted(worse)


def may_unpublish(spec: Spec, state: State, tlsa_name: str, values: frozenset[Value]) -> str | None:
    """The gate before values are removed; the reason against it, or None (RFC 7671 section 8.1: old ones go last)."""
    if anywhere := unplaced(spec, state):
        return f"{tlsa_name}: where {', '.join(anywhere)} leads is not known yet: the records may be the same"
    if unknown := unknown_servers(spec, state, tlsa_name):
        return f"{tlsa_name}: what {', '.join(unknown)} serves is not known yet"
    served = served_at(spec, state, tlsa_name)
    for before in _sets(state.tlsa_name(tlsa_name)):
        for chain in served:
            worse = caches.unmatched(before - values, chain) - caches.unmatched(before, chain)
            if worse:
                of_type = ", ".join(sorted(worse))
                return f"{tlsa_name}: without these no record of type {of_type} would match what is served"
    return None


def may_install(spec: Spec, state: State, server: str, generation: Generation, now: Instant) -> list[Obstacle]:
    """The gate before a swap: what stands against serving the generation at a target from now on."""
    names = names_of(spec, state, server)
    return obstacles(spec, state, list(generation.chains.values()), names, now)


def breaks_more(spec: Spec, state: State, server: str, one: Generation, other: Generation, now: Instant) -> bool:
    """Some cache may hold a set that the first does not match, and none holds one that the other does not."""
    sets = [item.values for name in names_of(spec, state, server) for item in cached(spec, state.tlsa_name(name), now)]

    def hurt(generation: Generation) -> bool:
        return any(caches.unmatched(values or (), chain) for values in sets for chain in generation.chains.values())

    return hurt(one) and not hurt(other)


def _sets(known: TlsaState) -> list[frozenset[Value]]:
    return [a.values for a in caches.known(known.observation)] if known.observation else []
