"""The promise, by brute force: every sender there could be, from the RFCs and the bare history of what was seen.

Nothing here uses `caches` or `rollover`: what may be cached is worked out from all looks at once, what a sender does
record by record. Slow and simple; the tests compare the gates with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from itertools import pairwise, product

from certagent.facts.dns import Answer
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State

Set = frozenset[str]
History = list[tuple[Instant, ev.AnyEvent]]

PARAMETERS = ("3 1 1", "2 1 1", "3 0 1")
"""What the drawn sets have and senders can use. One that supports several is affected only if one of these is."""


def authenticates(record: str, chain: Chain, *, doubt: bool) -> bool:
    """A record matches a chain (RFC 6698 section 2.1). `doubt`: what to take where a `Chain` does not tell."""
    parameters, digest = record[:5], record[6:]
    match parameters:
        case "3 1 1":
            return digest == chain.spki
        case "2 1 1":
            return digest in chain.issuers
        case _:
            return doubt


def cut_off(parameters: str, cached: Set | None, chain: Chain, *, doubt: bool = False) -> bool:
    """A sender that supports this TLSA parameters and holds the set defers its mail when it meets the chain.

    Source: RFC 7672 section 2.2: with usable records, one of them has to match; without any, DANE does not apply.
    `doubt`: what to take for a match where nobody can tell; a set of None is one that nobody saw.
    """
    if cached is None:
        return not doubt
    mine = [record for record in cached if record[:5] == parameters]
    return bool(mine) and not any(authenticates(record, chain, doubt=doubt) for record in mine)


def worse(before: Set, after: Set, chains: Iterable[Chain]) -> bool:
    """Some sender is cut off from a chain by the new set, and is not by the old one."""
    return any(cut_off(t, after, chain) and not cut_off(t, before, chain) for t, chain in product(PARAMETERS, chains))


# -- what was seen -----------------------------------------------------------------------------------------------------


def answers(event: ev.Observed) -> list[Answer]:
    """Those that were heard, in the order of the servers' names."""
    said = sorted(event.observation.answers.items())  # the order in which they came is not journaled
    return [a for _, a in said if isinstance(a, Answer)]


def looks(history: History, tlsa_name: str) -> list[tuple[Instant, ev.Observed]]:
    """All rounds of answers of a name."""
    return [(then, event) for then, event in history if isinstance(event, ev.Observed) and event.tlsa_name == tlsa_name]


def everyone(event: ev.Observed) -> bool:
    """Every server was heard."""
    return bool(event.observation.answers) and len(answers(event)) == len(event.observation.answers)


def alias(history: History, tlsa_name: str) -> tuple[str, ...]:
    """The names on the way to the records, in the last round; none if nobody was heard."""
    rounds = looks(history, tlsa_name)
    heard = answers(rounds[-1][1]) if rounds else []
    return tuple(name for name, _ in heard[0].path) if heard else ()


def cacheable(history: History, tlsa_name: str, safety_margin: timedelta, now: Instant) -> set[Set | None]:
    """The sets that some cache may hold now.

    A set was there whenever a server gave it, when a change superseded it or made it, and when a change that was begun
    may have made it of what a server gave. It may be there still until a round later than all these in which everybody
    was heard; and from then on in caches, as long as the RFCs say. None: what nobody saw, since an alias led
    elsewhere before anybody looked there.
    """
    given: dict[tuple[Set | None, tuple[str, ...]], list[tuple[int, int, tuple[int, ...]]]] = {}
    ends: list[tuple[Instant, str]] = []
    for n, (then, event) in enumerate(history):
        found: list[tuple[Set | None, int, tuple[tuple[str, int], ...]]] = []
        rounds = looks(history[:n], tlsa_name)
        heard = answers(rounds[-1][1]) if rounds else []
        path = heard[0].path if heard else ()
        match event:
            case ev.Observed(tlsa_name=name, observation=_) if name == tlsa_name:
                found = [(a.values, a.ttl_s, a.path) for a in answers(event)]
                longest = max(
                    [ttl_s for times in given.values() for _, ttl_s, _ in times] + [t for _, t, _ in found], default=0
                )
                latest = {place for at, place in ends if at == ends[-1][0]}
                found += [(None, longest, p) for _, _, p in found if latest and _end(p) not in latest]
            case ev.Superseding(tlsa_name=name) if name == tlsa_name:
                sets = (event.before, event.before_ttl_s), (event.after, event.after_ttl_s)
                found = [(s, t, path) for s, t in sets if s]
            case ev.Intended(step=st.Publish(tlsa_name=name, values=new, ttl_s=ttl_s)) if name == tlsa_name:
                found = [(a.values | new, max(a.ttl_s, ttl_s), path) for a in heard if a.values | new]
            case ev.Intended(step=st.Unpublish(tlsa_name=name, values=old)) if name == tlsa_name:
                found = [(a.values - old, a.ttl_s, path) for a in heard if a.values - old]
            case _:
                pass
        for values, ttl_s, path in found:
            names, hops = tuple(name for name, _ in path), tuple(hop_s for _, hop_s in path)
            given.setdefault((values, names), []).append((n, ttl_s, hops))
            ends.append((then, _end(path)))
    result: set[Set | None] = set()
    for (values, names), times in given.items():
        last = max(n for n, _, _ in times)
        ended = [
            then
            for n, (then, event) in enumerate(history)
            if (n > last or (n == last and values is None))
            and isinstance(event, ev.Observed)
            and event.tlsa_name == tlsa_name
            and everyone(event)
        ]
        ttl_s = max(ttl_s for _, ttl_s, _ in times)
        if names != alias(history, tlsa_name):
            ttl_s += sum(max(hops[i] for _, _, hops in times) for i in range(len(names)))
        ttl = timedelta(seconds=ttl_s)
        if not ended or now.since(ended[0]) < max(2 * ttl, ttl + safety_margin, ttl + timedelta(seconds=3)):
            result.add(values)
    return result


def _end(path: tuple[tuple[str, int], ...]) -> str:
    return path[-1][0] if path else ""


# -- what a swap rests on ----------------------------------------------------------------------------------------------


def places(history: History, tlsa_name: str) -> Set:
    """Where the aliases of a name have led senders; what was written where nobody had said where counts as here."""
    found: set[str] = set()
    name, ends = "", set[str]()
    for _, event in history:
        if isinstance(event, ev.Observed) and event.tlsa_name == tlsa_name:
            name, ends = event.observation.name, {a.path[-1][0] if a.path else tlsa_name for a in answers(event)}
            found |= ends
        elif (
            isinstance(event, ev.Superseding)
            and event.tlsa_name == tlsa_name
            and not ends
            and event.before | event.after
        ):
            found.add(tlsa_name)
    return frozenset(found | ({name} if ends else set()))


def anywhere(spec: Spec, state: State, history: History) -> list[str]:
    """The names that some sender may find at any place: a server that was not heard may have led there."""
    return [name for name in spec.tlsa_names if not _placed(spec, state, history, name)]


def withdrawn_anywhere(spec: Spec, state: State, history: History) -> list[Chain]:
    """What a sender may meet at such names that the configuration has no more, if every server of them is known."""
    names = [name for name, known in state.tlsa_names.items() if name not in spec.tlsa_names and not known.undeclared]
    found = [met(spec, state, history, name) for name in names if not _placed(spec, state, history, name)]
    known = [at for at in found if all(server in state.mail_servers for server in at)]
    return [chain for at in known for chains in at.values() for chain in chains]


def _placed(spec: Spec, state: State, history: History, tlsa_name: str) -> bool:
    rounds = looks(history, tlsa_name)
    if not rounds or not everyone(rounds[-1][1]):
        return False
    again = [then for (_, one), (then, event) in pairwise(rounds) if everyone(event) and not everyone(one)]
    known = state.tlsa_name(tlsa_name).cached
    ttl = timedelta(seconds=max(item.ttl_s + sum(hop_s for _, hop_s in item.path) for item in known))
    over = max(2 * ttl, ttl + spec.safety_margin, ttl + timedelta(seconds=3))
    return not again or rounds[-1][0].since(again[-1]) >= over


def answered(history: History, tlsa_name: str) -> Set:
    """The targets of a name as of the last observation of it while it was configured."""
    told = [event.mail_servers for _, event in looks(history, tlsa_name) if event.mail_servers]
    return frozenset(*told[-1:])


def met(
    spec: Spec, state: State, history: History, tlsa_name: str, *, sure: bool = False, last: bool = False
) -> dict[str, list[Chain]]:
    """By target, the chains that a sender may meet there, under whatever name the records count; `sure`: has certainly
    met; `last`: without those that the last inspection did not meet, where nothing was installed since.
    """
    found: dict[str, list[Chain]] = {}
    every = {*(t.name for t in spec.mail_servers), *state.mail_servers}
    names = {tlsa_name} | {
        n for n in spec.tlsa_names.keys() | state.tlsa_names if places(history, tlsa_name) & places(history, n)
    }
    for name in sorted({server for n in names for server in _own(spec, state, n) or answered(history, n) or every}):
        at = state.mail_servers.get(name)
        ids = () if at is None else at.converged if sure else at.serves
        if last and at and at.phase == "inspected":
            ids = at.inspected
        found[name] = [chain for g in state.generations if g.id in ids for chain in g.chains.values()]
    return found


def _own(spec: Spec, state: State, tlsa_name: str) -> tuple[str, ...]:
    """Those that answer by the configuration; for a name at which no service asks for records, all the same."""
    known = state.tlsa_names.get(tlsa_name)
    undeclared = tlsa_name not in spec.tlsa_names and (known is None or known.undeclared)
    return (spec.undeclared if undeclared else spec.tlsa_names).get(tlsa_name, ())


def blind(state: State, history: History, tlsa_name: str) -> bool:
    """What DNS says is not known well enough to rest a swap on it."""
    rounds = looks(history, tlsa_name)
    if not rounds or not everyone(rounds[-1][1]) or rounds[-1][1].observation.security == "bogus":
        return True
    changes = [
        then
        for then, event in history
        if (isinstance(event, ev.Published | ev.Unpublished) and event.tlsa_name == tlsa_name)
        or (
            isinstance(event, ev.Intended)
            and getattr(event.step, "tlsa_name", None) == tlsa_name
            and event.step.changes
        )
    ]
    return any(then.elapsed_s >= rounds[-1][0].elapsed_s for then in changes)
