"""What follows from the state for DANE: who may be served what, what should be in DNS, and what a swap still waits for.

The four orders of a roll (normal, first publication, withdrawal, emergency) are not four procedures. They follow from:
what caches may hold (`caches.py`), the set that should be published (`desired`), and the two gates below.
"""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct

from certagent.lifecycle import caches
from certagent.lifecycle.model import Instant, Sighting, Spec, Target, Unknown, Value
from certagent.lifecycle.state import Generation, Installation, KeySet, Owner, State, records
from certagent.pki import tlsa
from certagent.pki.leaf import Leaf


class Obstacle(Struct, frozen=True):
    """Why a swap cannot be made now. `remaining`: how long it certainly lasts; None: until something is seen to
    change.
    """

    owner: str
    remaining: timedelta | None
    why: str


def owners(spec: Spec, state: State) -> list[str]:
    """Every TLSA name that matters: configured, or still held by caches although withdrawn."""
    return [*spec.owners, *(o for o in state.owners if o not in spec.owners)]


def sharing(spec: Spec, state: State, owner: str) -> list[str]:
    """The TLSA names with the records of this one: itself, and those whose aliases lead to the same place, or did so
    while caches may know it.
    """
    others = [name for name in owners(spec, state) if name != owner]
    here = _places(spec, state, owner) if others else set[str]()
    return [owner, *(name for name in others if here & _places(spec, state, name))]


def withdrawn(spec: Spec, state: State, owner: str) -> bool:
    """It is not configured any more, and no other name has its records."""
    here = place(state, owner)
    return owner not in spec.owners and all(place(state, name) != here for name in spec.owners)


def place(state: State, owner: str) -> str:
    """Where the records of a TLSA name are, as last seen."""
    seen = state.owner(owner).sighting
    return seen.name if seen and caches.known(seen) else owner


def unplaced(spec: Spec, state: State) -> list[str]:
    """Configured names of which nobody has said yet where their records are: any other name may share them."""
    return [name for name in spec.owners if not _places(spec, state, name)]


def _places(spec: Spec, state: State, owner: str) -> set[str]:
    """Where the aliases of a TLSA name end, and did when caches may have taken them, as of the last look."""
    known = state.owner(owner)
    found = {known.sighting.name} if known.sighting and caches.known(known.sighting) else set[str]()
    elsewhere = [h for h in known.held if (h.path[-1][0] if h.path else owner) not in found]
    if elsewhere and known.looked_at:
        elsewhere = caches.still_held(elsewhere, path(known), spec.guard, known.looked_at)
    return found | {h.path[-1][0] if h.path else owner for h in elsewhere}


def answering(spec: Spec, state: State, owner: str) -> tuple[str, ...]:
    """The targets that answer where the records of a TLSA name count, under whatever name; of a name that is not
    configured any more, those that did.
    """
    every = (*(t.name for t in spec.targets), *state.targets)
    names = sharing(spec, state, owner)
    return tuple(
        dict.fromkeys(t for name in names for t in spec.owners.get(name) or state.owner(name).targets or every)
    )


def names_of(spec: Spec, state: State, target: str) -> list[str]:
    """The TLSA names whose records count where a target answers."""
    return [o for o in owners(spec, state) if target in answering(spec, state, o)]


def unknown_targets(spec: Spec, state: State, owner: str) -> list[str]:
    """Targets that answer at a TLSA name and of which nothing is known yet."""
    return [t for t in answering(spec, state, owner) if t not in state.targets]


def served_at(spec: Spec, state: State, owner: str) -> list[Leaf]:
    """The chains that a client of the service may meet now; none where any target is unknown yet."""
    if unknown_targets(spec, state, owner):
        return []
    return [leaf for g in state.serving(answering(spec, state, owner)) for leaf in g.leaves.values()]


def path(owner: Owner) -> tuple[str, ...]:
    """The alias names on the way to the records, as last seen."""
    if owner.sighting:
        for answer in caches.known(owner.sighting):
            return tuple(name for name, _ in answer.path)
    return ()


def held(spec: Spec, owner: Owner, now: Instant) -> list[caches.Held]:
    """The sets that caches may hold of a TLSA name now."""
    return caches.still_held(owner.held, path(owner), spec.guard, now)


def as_if_issued(keys: KeySet, like: Generation | None) -> dict[str, Leaf]:
    """The chains that keys would get, for planning before they are issued: same issuers as the present ones."""
    leaves: dict[str, Leaf] = {}
    for algorithm, spki in keys.spki.items():
        old = like.leaves.get(algorithm) if like else None
        leaves[algorithm] = Leaf(
            spki=spki,
            issuers=old.issuers if old else (),
            names=(),
            not_before=keys.made_at.wall,
            not_after=keys.made_at.wall,
            serial="",
        )
    return leaves


def obstacles(spec: Spec, state: State, leaves: list[Leaf], names: list[str], now: Instant) -> list[Obstacle]:
    """What stands against serving these chains at these TLSA names from now on.

    Source: RFC 7671 section 8, RFC 7672 section 2.2. Chains that no sender can tell from what is proven to be served
    already change nothing for anybody, so they never wait for DNS: a renewal with the same key goes out in any weather.
    """
    result: list[Obstacle] = []
    for name in names:
        owner = state.owner(name)
        if all(_familiar(spec, state, name, leaf) for leaf in leaves):
            continue
        served = served_at(spec, state, name)
        if owner.sighting is None:
            result.append(Obstacle(name, None, "its authoritative servers were not asked yet"))
            continue
        if changed_since_look(owner):
            result.append(Obstacle(name, None, "changed, and not looked at since"))
        if not caches.complete(owner.sighting):
            result.append(Obstacle(name, None, _not_heard(owner.sighting)))
        for item in held(spec, owner, now):
            if not any(caches.hurt_by(item.values, leaf, served) for leaf in leaves):
                continue
            if item.gone_at is None:
                result.append(Obstacle(name, None, _still_given(owner, item)))
            else:
                left = caches.hold(item, path(owner), spec.guard) - now.since(item.gone_at)
                why = f"caches may hold the set seen with TTL {item.ttl_s} s (RFC 7671 section 8.1)"
                result.append(Obstacle(name, left, why))
        if owner.sighting.security == "bogus":
            result.append(Obstacle(name, None, f"DNSSEC is broken: {owner.sighting.why}"))
    return result


def _still_given(owner: Owner, item: caches.Held) -> str:
    assert owner.sighting is not None
    lacking = [a for a, x in owner.sighting.answers.items() if not isinstance(x, Unknown) and x.values == item.values]
    if lacking:
        return f"still answered without a matching record by {', '.join(sorted(lacking))}"
    return _not_heard(owner.sighting)


def _not_heard(sighting: Sighting) -> str:
    silent = sorted(f"{a} ({x.why})" for a, x in sighting.answers.items() if isinstance(x, Unknown))
    return f"not heard: {', '.join(silent) or 'no authoritative server'}"


def _familiar(spec: Spec, state: State, owner: str, leaf: Leaf) -> bool:
    """Whether the records of the chain are those of a chain that every target is known to have served."""
    known = state.owner(owner)
    pins_issuer = "2 1 1" in spec.triples or any(
        tlsa.triple(v) != "3 1 1" for h in known.held for v in h.values if tlsa.usable(v)
    )
    for target in answering(spec, state, owner):
        at = state.targets.get(target)
        served = [g for id_ in (at.settled if at else ()) if (g := state.generation(id_))]
        same = (s for g in served for s in g.leaves.values() if s.spki == leaf.spki)
        if not any(s.issuers == leaf.issuers or not pins_issuer for s in same):
            return False
    return True


def names_that_roll(spec: Spec, state: State, target: str, generation: Generation) -> list[str]:
    """The TLSA names of a target whose senders could tell the generation from what is served."""
    return [
        owner
        for owner in names_of(spec, state, target)
        if not all(_familiar(spec, state, owner, leaf) for leaf in generation.leaves.values())
    ]


def proven(spec: Spec, state: State, owner: str) -> Generation | None:
    """The one generation that is served, and surely nothing else, by every target of a TLSA name; None otherwise."""
    found: set[str] = set()
    configured = {target.name: target for target in spec.targets}
    for name in answering(spec, state, owner):
        target, at = configured.get(name), state.targets.get(name)
        if at is None or at.phase != "drained" or not (target and met_everywhere(target, at)):
            return None
        found |= set(at.serves)
    return state.generation(found.pop()) if len(found) == 1 else None


def met_everywhere(target: Target, at: Installation) -> bool:
    """The last proof met what is served at every service that the mail server has by now."""
    return {f"{service.host}:{service.port}" for service in target.services} <= set(at.services)


def rolled(spec: Spec, state: State) -> bool:
    """The newest generation is all that any target serves, and proven."""
    newest = state.newest
    installed = [state.targets.get(t.name) for t in spec.targets]
    return newest is not None and all(t and t.phase == "drained" and t.serves == (newest.id,) for t in installed)


def changed_since_look(owner: Owner) -> bool:
    """A change was made, or may have been, that no look has seen yet."""
    if owner.changed_at is None or owner.looked_at is None:
        return False
    return owner.looked_at.lived_s <= owner.changed_at.lived_s


def empty(owner: Owner) -> bool:
    """Every authoritative server was heard and says that there are no TLSA records."""
    sighting = owner.sighting
    return sighting is not None and caches.complete(sighting) and not any(a.values for a in caches.known(sighting))


def withheld(spec: Spec, state: State, owner: str) -> str | None:  # noqa: PLR0911 -- a list of reasons
    """Why nothing is published yet at a TLSA name where DANE is not in force; None where it is, or may begin.

    A first publication that comes before the key is served cuts every DANE sender off, and one in a zone that senders
    cannot validate is no use to anybody (RFC 7671 section 8.1, RFC 7672 sections 2.2 and 2.2.1).
    """
    known = state.owner(owner)
    if known.sighting is None:
        return "its authoritative servers were not asked yet"
    if unknown := unknown_targets(spec, state, owner):
        return f"what {', '.join(unknown)} serves is not known yet"
    heard = caches.known(known.sighting)
    if not heard:
        return "none of its authoritative servers was heard"
    if any(answer.values for answer in heard):
        return None
    if known.sighting.security != "secure":
        return f"not known to be signed: {known.sighting.security}, {known.sighting.why}"
    if anywhere := unplaced(spec, state):
        return f"where {', '.join(anywhere)} leads is not known yet: the records may be the same"
    if not proven(spec, state, owner):
        return "first publication: the key is served and proven first"
    return None


def desired(spec: Spec, state: State, owner: str) -> frozenset[Value]:
    """The set that should be published at a TLSA name now.

    Records of everything that may be served, of the generation to be installed, and of the next keys. Nothing for a
    name that is withdrawn (unless its alias leads to the records of others), and nothing yet where a first publication
    has to wait.
    """
    if withdrawn(spec, state, owner) or withheld(spec, state, owner):
        return frozenset()
    values: set[Value] = set()
    for generation in state.serving(answering(spec, state, owner)):
        values |= records(generation, spec.triples)
    if state.newest:
        values |= records(state.newest, spec.triples)
    if state.next_keys and "3 1 1" in spec.triples:
        values |= {tlsa.of_key(spki) for spki in state.next_keys.spki.values()}
    return frozenset(values)


def seen_somewhere(owner: Owner) -> frozenset[Value]:
    """Values that some authoritative server gave in the last round."""
    return frozenset(v for a in caches.known(owner.sighting) for v in a.values) if owner.sighting else frozenset()


def seen_everywhere(owner: Owner) -> frozenset[Value]:
    """Values that every authoritative server gave in the last round; none if one was not heard."""
    if owner.sighting is None or not caches.complete(owner.sighting):
        return frozenset()
    first, *others = (a.values for a in caches.known(owner.sighting))
    return first.intersection(*others)


def missing(spec: Spec, state: State, owner: str) -> frozenset[Value]:
    """What to publish now: the whole desired set as soon as any of it is missing, without triples that must wait.

    Missing is what no server gives; and what one server lacks although it is served: that one may be the primary, and
    the others may only not have followed yet.
    """
    values = desired(spec, state, owner)
    early = _worse(spec, state, owner, values)
    values = frozenset(v for v in values if tlsa.triple(v) not in early)
    known = state.owner(owner)
    hurt = any(
        caches.hurts(before, leaf) - caches.hurts(before | values, leaf)
        for before in _sets(known)
        for leaf in served_at(spec, state, owner)
    )
    lacking = any(not before and values for before in _sets(known))
    return values if hurt or lacking or not values <= seen_somewhere(known) else frozenset()


def surplus(spec: Spec, state: State, owner: str) -> frozenset[Value]:
    """Values of ours that some authoritative server gives and that should not be there any more.

    A withdrawn name loses every value that was ever ours, seen or not: a server may have lost sight of one. So does a
    withdrawn triple: what is left of it would match nothing (RFC 7671 section 8).
    """
    wanted = desired(spec, state, owner)
    seen = (seen_somewhere(state.owner(owner)) & state.ours) - wanted
    if seen and withdrawn(spec, state, owner):
        return state.ours
    over = {tlsa.triple(v) for v in seen} - set(spec.triples)
    return seen | {v for v in state.ours - wanted if tlsa.triple(v) in over}


def unfollowed(spec: Spec, state: State, owner: str) -> bool:
    """Some server lacks a value that should be there, or gives one that should not.

    Where a first publication is held back nothing is expected yet.
    """
    lacking = desired(spec, state, owner) - seen_everywhere(state.owner(owner))
    return bool(lacking or surplus(spec, state, owner))


def may_publish(spec: Spec, state: State, owner: str, values: frozenset[Value]) -> str | None:
    """The gate before values are added; the reason against it, or None.

    No set that comes to be may have a triple that matches nothing served (RFC 7671 section 8.4: a new triple is
    published for the present chain first), unless that was so before.
    """
    if held_back := withheld(spec, state, owner):
        return f"{owner}: {held_back}"
    worse = _worse(spec, state, owner, values)
    return f"{owner}: no record of type {', '.join(worse)} would match what is served now" if worse else None


def _worse(spec: Spec, state: State, owner: str, values: frozenset[Value]) -> list[str]:
    """Triples that would match nothing served once the values are added, and do not fail already."""
    worse = {
        triple
        for before in {frozenset[Value](), *_sets(state.owner(owner))}  # a hidden primary may be empty
        for leaf in served_at(spec, state, owner)
        for triple in caches.hurts(before | values, leaf) - caches.hurts(before, leaf)
    }
    return sorted(worse)


def may_unpublish(spec: Spec, state: State, owner: str, values: frozenset[Value]) -> str | None:
    """The gate before values are removed; the reason against it, or None (RFC 7671 section 8.1: old ones go last)."""
    if anywhere := unplaced(spec, state):
        return f"{owner}: where {', '.join(anywhere)} leads is not known yet: the records may be the same"
    if unknown := unknown_targets(spec, state, owner):
        return f"{owner}: what {', '.join(unknown)} serves is not known yet"
    served = served_at(spec, state, owner)
    for before in _sets(state.owner(owner)):
        for leaf in served:
            worse = caches.hurts(before - values, leaf) - caches.hurts(before, leaf)
            if worse:
                return f"{owner}: without these no record of type {', '.join(sorted(worse))} would match what is served"
    return None


def may_install(spec: Spec, state: State, target: str, generation: Generation, now: Instant) -> list[Obstacle]:
    """The gate before a swap: what stands against serving the generation at a target from now on."""
    names = names_of(spec, state, target)
    return obstacles(spec, state, list(generation.leaves.values()), names, now)


def loses_by(spec: Spec, state: State, target: str, one: Generation, other: Generation, now: Instant) -> bool:
    """Some cache may hold a set that the first does not match, and none holds one that the other does not."""
    sets = [item.values for name in names_of(spec, state, target) for item in held(spec, state.owner(name), now)]

    def hurt(generation: Generation) -> bool:
        return any(caches.hurts(values, leaf) for values in sets for leaf in generation.leaves.values())

    return hurt(one) and not hurt(other)


def _sets(owner: Owner) -> list[frozenset[Value]]:
    return [a.values for a in caches.known(owner.sighting)] if owner.sighting else []
