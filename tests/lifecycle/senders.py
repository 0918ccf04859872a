"""The promise, by brute force: every sender there could be, from the RFCs and the bare history of what was seen.

Nothing here uses `caches` or `rollover`: what may be cached is worked out from all looks at once, what a sender does
record by record. Slow and simple; the tests compare the gates with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from itertools import product

from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.model import Answer, Instant, Spec
from certagent.lifecycle.state import State
from certagent.pki.leaf import Leaf

Set = frozenset[str]
History = list[tuple[Instant, ev.AnyEvent]]

TRIPLES = ("3 1 1", "2 1 1", "3 0 1")
"""What the drawn sets have and senders can use. One that supports several is hurt only where one of these is."""


def authenticates(record: str, chain: Leaf, *, doubt: bool) -> bool:
    """A record matches a chain (RFC 6698 section 2.1). `doubt`: what to take where a `Leaf` does not tell."""
    triple, digest = record[:5], record[6:]
    match triple:
        case "3 1 1":
            return digest == chain.spki
        case "2 1 1":
            return digest in chain.issuers
        case _:
            return doubt


def cut_off(triple: str, cached: Set, chain: Leaf, *, doubt: bool = False) -> bool:
    """A sender that supports this triple and holds the set defers its mail when it meets the chain.

    Source: RFC 7672 section 2.2: with usable records, one of them has to match; without any, DANE does not apply.
    """
    mine = [record for record in cached if record[:5] == triple]
    return bool(mine) and not any(authenticates(record, chain, doubt=doubt) for record in mine)


def worse(before: Set, after: Set, chains: Iterable[Leaf]) -> bool:
    """Some sender is cut off from a chain by the new set, and is not by the old one."""
    return any(cut_off(t, after, chain) and not cut_off(t, before, chain) for t, chain in product(TRIPLES, chains))


# -- what was seen -----------------------------------------------------------------------------------------------------


def answers(event: ev.Looked) -> list[Answer]:
    """Those that were heard."""
    return [a for a in event.sighting.answers.values() if isinstance(a, Answer)]


def looks(history: History, owner: str) -> list[tuple[Instant, ev.Looked]]:
    """All rounds of answers of a name."""
    return [(then, event) for then, event in history if isinstance(event, ev.Looked) and event.owner == owner]


def everyone(event: ev.Looked) -> bool:
    """Every server was heard."""
    return bool(event.sighting.answers) and len(answers(event)) == len(event.sighting.answers)


def alias(history: History, owner: str) -> tuple[str, ...]:
    """The names on the way to the records, in the last round; none where nobody was heard."""
    rounds = looks(history, owner)
    heard = answers(rounds[-1][1]) if rounds else []
    return tuple(name for name, _ in heard[0].path) if heard else ()


def cacheable(history: History, owner: str, guard: timedelta, now: Instant) -> set[Set]:
    """The sets that some cache may hold now.

    A set was there whenever a server gave it, when a change superseded it or made it, and when a change that was begun
    may have made it of what a server gave. It may be there still until a round later than all these in which everybody
    was heard; and from then on in caches, as long as the RFCs say.
    """
    given: dict[tuple[Set, tuple[str, ...]], list[tuple[int, int, tuple[int, ...]]]] = {}
    for n, (_, event) in enumerate(history):
        found: list[tuple[Set, int, tuple[tuple[str, int], ...]]] = []
        rounds = looks(history[:n], owner)
        heard = answers(rounds[-1][1]) if rounds else []
        path = heard[0].path if heard else ()
        match event:
            case ev.Looked(owner=name, sighting=_) if name == owner:
                found = [(a.values, a.ttl_s, a.path) for a in answers(event)]
            case ev.Superseding(owner=name) if name == owner:
                sets = (event.before, event.before_ttl_s), (event.after, event.after_ttl_s)
                found = [(s, t, path) for s, t in sets if s]
            case ev.Intended(step=st.Publish(owner=name, values=new, ttl_s=ttl_s)) if name == owner:
                found = [(a.values | new, max(a.ttl_s, ttl_s), path) for a in heard if a.values | new]
            case ev.Intended(step=st.Unpublish(owner=name, values=old)) if name == owner:
                found = [(a.values - old, a.ttl_s, path) for a in heard if a.values - old]
            case _:
                pass
        for values, ttl_s, path in found:
            names, hops = tuple(name for name, _ in path), tuple(hop_s for _, hop_s in path)
            given.setdefault((values, names), []).append((n, ttl_s, hops))
    result: set[Set] = set()
    for (values, names), times in given.items():
        last = max(n for n, _, _ in times)
        ended = [
            then
            for n, (then, event) in enumerate(history)
            if n > last and isinstance(event, ev.Looked) and event.owner == owner and everyone(event)
        ]
        ttl_s = max(ttl_s for _, ttl_s, _ in times)
        if names != alias(history, owner):
            ttl_s += sum(max(hops[i] for _, _, hops in times) for i in range(len(names)))
        ttl = timedelta(seconds=ttl_s)
        if not ended or now.since(ended[0]) < max(2 * ttl, ttl + guard, ttl + timedelta(seconds=3)):
            result.add(values)
    return result


# -- what a swap rests on ----------------------------------------------------------------------------------------------


def places(history: History, owner: str) -> Set:
    """Where the aliases of a name have led senders; what was written where nobody had said where counts as here."""
    found: set[str] = set()
    name, ends = "", set[str]()
    for _, event in history:
        if isinstance(event, ev.Looked) and event.owner == owner:
            name, ends = event.sighting.name, {a.path[-1][0] if a.path else owner for a in answers(event)}
            found |= ends
        elif isinstance(event, ev.Superseding) and event.owner == owner and not ends and event.before | event.after:
            found.add(owner)
    return frozenset(found | ({name} if ends else set()))


def answered(history: History, owner: str) -> Set:
    """The targets of a name as of the last look at it while it was configured."""
    told = [event.targets for _, event in looks(history, owner) if event.targets]
    return frozenset(*told[-1:])


def met(spec: Spec, state: State, history: History, owner: str, *, sure: bool = False) -> dict[str, list[Leaf]]:
    """By target, the chains that a sender may meet there, under whatever name the records count; `sure`: has certainly
    met.
    """
    found: dict[str, list[Leaf]] = {}
    every = {*(t.name for t in spec.targets), *state.targets}
    names = {owner} | {n for n in spec.owners.keys() | state.owners if places(history, owner) & places(history, n)}
    for name in sorted({target for n in names for target in spec.owners.get(n) or answered(history, n) or every}):
        at = state.targets.get(name)
        ids = () if at is None else at.settled if sure else at.serves
        found[name] = [leaf for g in state.generations if g.id in ids for leaf in g.leaves.values()]
    return found


def blind(state: State, history: History, owner: str) -> bool:
    """What DNS says is not known well enough to rest a swap on it."""
    rounds = looks(history, owner)
    if not rounds or not everyone(rounds[-1][1]) or rounds[-1][1].sighting.security == "bogus":
        return True
    changes = [
        then
        for then, event in history
        if (isinstance(event, ev.Published | ev.Unpublished) and event.owner == owner)
        or (isinstance(event, ev.Intended) and getattr(event.step, "owner", None) == owner and event.step.changes)
    ]
    return any(then.lived_s >= rounds[-1][0].lived_s for then in changes)
