"""The fold of a journal: `fold(state, event, now)` is the only way a state changes.

Rules of the fold: it never decides, it never drops what is still needed to be safe, and the same events always give the
same state. What is *intended* counts as possibly done until an outcome says otherwise.
"""

from __future__ import annotations

from msgspec.structs import replace

from certagent.lifecycle import caches, schedule
from certagent.lifecycle import events as ev
from certagent.lifecycle.model import Algorithm, Instant, Sighting, Unknown, Value
from certagent.lifecycle.state import (
    EVERY_TRIPLE,
    Change,
    Failure,
    Generation,
    Installation,
    KeySet,
    Order,
    Owner,
    Renewal,
    State,
    records,
)
from certagent.lifecycle.steps import Forget, Install, Present, Publish, Reload, Restore, Unpublish
from certagent.pki import tlsa


def fold(state: State, event: ev.AnyEvent, now: Instant) -> State:
    """The state after the event, which happened at `now`."""
    if event.work and not isinstance(event, ev.Failed | ev.Intended) and event.work in state.failures:
        state = replace(state, failures={w: f for w, f in state.failures.items() if w != event.work})
    return replace(_apply(state, event, now), seq=state.seq + 1)


def _apply(state: State, event: ev.AnyEvent, now: Instant) -> State:  # noqa: C901, PLR0911, PLR0912 -- one line an event
    match event:
        case ev.Intended():
            return _intended(state, event, now)
        case ev.Failed():
            return _failed(state, event, now)
        case ev.KeysMade() if state.keyset(event.keys):
            return state  # told twice
        case ev.KeysMade():
            made = KeySet(event.keys, now, event.spki)
            return replace(state, keys=(*state.keys, made), keys_made=state.keys_made + 1)
        case ev.OrderPlaced():
            order = Order(event.keys, event.url, event.challenges, event.ca, presented=not event.challenges)
            return replace(state, orders={**state.orders, event.algorithm: order})
        case ev.Presented():
            return _order(state, event.algorithm, presented=True)
        case ev.OrderReady():
            return _order(state, event.algorithm, ready=True)
        case ev.OrderGone():
            return replace(state, orders={a: o for a, o in state.orders.items() if a != event.algorithm})
        case ev.Issued() if state.generation(event.generation):
            return state  # told twice
        case ev.Issued():
            return _issued(state, event, now)
        case ev.Tidied():
            return replace(state, challenges=tuple(c for c in state.challenges if c not in event.challenges))
        case ev.Looked():
            owner = state.owner(event.owner)
            held = caches.after(owner.held, event.sighting, now)
            change, other = (None if c and _seen(c, event.sighting) else c for c in (owner.change, owner.other))
            looked = replace(
                owner,
                targets=event.targets or owner.targets,
                held=held,
                sighting=event.sighting,
                looked_at=now,
                change=change,
                other=other,
            )
            return _owner(state, event.owner, looked)
        case ev.Superseding():
            owner = state.owner(event.owner)
            # its TTL may have been raised where no look could see it
            held = caches.with_set(owner.held, event.before, event.before_ttl_s, owner.sighting, now)
            held = caches.with_set(held, event.after, event.after_ttl_s, owner.sighting, now)
            return _owner(state, event.owner, replace(owner, held=held))
        case ev.Published() | ev.Unpublished():
            return _owner(state, event.owner, replace(state.owner(event.owner), changed_at=now))
        case ev.Surveyed():
            return _surveyed(state, event, now)
        case ev.Installed():
            kept = event.kept or state.targets[event.target].kept
            return _target(state, event.target, phase="installed", proven_at=None, kept=kept)
        case ev.Restored():
            return _target(state, event.target, phase="restored", generation=None, previous=None, kept=False)
        case ev.Reloaded():
            return _target(state, event.target, phase="reloaded", reloaded_at=now)
        case ev.Proven():
            return _proven(state, event, now)
        case ev.Disproven():
            return _disproven(state, event)
        case ev.RenewalInfo():
            return replace(
                state, renewals={**state.renewals, event.algorithm: Renewal(event.generation, event, asked_at=now)}
            )
        case ev.Revoked():
            generations = tuple(replace(g, revoke=g.revoke and g.id != event.generation) for g in state.generations)
            return replace(state, generations=generations)
        case ev.Forgotten():
            owners = {name: o for name, o in state.owners.items() if name not in event.owners}
            targets = {name: t for name, t in state.targets.items() if name not in event.targets}
            failures = {w: f for w, f in state.failures.items() if w.partition(" ")[2] not in event.targets}
            return replace(state, owners=owners, targets=targets, failures=failures, doomed=None)
        case ev.Requested():  # pragma: no branch -- the last of AnyEvent; pyright holds the match to be whole
            return _requested(state, event)


def _intended(state: State, event: ev.Intended, now: Instant) -> State:  # noqa: PLR0911 -- one line a step
    match event.step:
        case Present(algorithm=algorithm) if algorithm in state.orders:
            new = (c for c in state.orders[algorithm].challenges if c not in state.challenges)
            return replace(state, challenges=(*state.challenges, *new))
        case Publish(owner=name, values=values, ttl_s=ttl_s):
            return _changing(state, name, values, now, ttl_s=ttl_s)
        case Unpublish(owner=name, values=values):
            return _changing(state, name, values, now, removes=True)
        case Install(target=name, generation=generation, rollback=rollback):
            old = state.targets.get(name, Installation())
            serves = (*(s for s in old.serves if s != generation), generation)
            changed = old.generation != generation
            new = replace(
                old,
                serves=serves,
                generation=generation,
                previous=old.generation if changed else old.previous,
                phase="installing",
                rejected=old.generation if rollback else old.rejected,
            )
            failures = _put_back(state.failures, name) if rollback else state.failures
            return replace(state, targets={**state.targets, name: new}, failures=failures)
        case Restore(target=name) if name in state.targets:
            old = state.targets[name]
            new = replace(old, phase="restoring", rejected=old.generation)
            return replace(state, targets={**state.targets, name: new}, failures=_put_back(state.failures, name))
        case Reload(target=name) if name in state.targets:
            return _target(state, name, phase="installed")
        case Forget():
            return _forgetting(state, event.step)
        case _:
            return state


def _changing(
    state: State, name: str, values: frozenset[Value], now: Instant, *, removes: bool = False, ttl_s: int = 0
) -> State:
    owner = state.owner(name)
    held = owner.held
    for answer in caches.known(owner.sighting) if owner.sighting else ():
        # caches may take what comes of it, also where somebody changes it again before any look
        after = answer.values - values if removes else answer.values | values
        held = caches.with_set(held, after, max(answer.ttl_s, ttl_s), owner.sighting, now)
    old = owner.tried(values, removes=removes)
    change = Change(values, removes, old.tries + 1 if old else 1, now)
    other = next((c for c in (owner.change, owner.other) if c and c.removes != removes), None)
    return _owner(state, name, replace(owner, held=held, changed_at=now, change=change, other=other))


def _seen(change: Change, sighting: Sighting) -> bool:
    """Every authoritative server was heard and has followed."""
    answers = caches.known(sighting)
    if not caches.complete(sighting):
        return False
    return all(change.values.isdisjoint(a.values) if change.removes else change.values <= a.values for a in answers)


def _put_back(failures: dict[str, Failure], target: str) -> dict[str, Failure]:
    """A generation whose proof failed is installed again only after the back-off of all such attempts in a row."""
    prove, install = failures.get(f"prove {target}"), failures.get(f"install {target}")
    rest = {w: f for w, f in failures.items() if w not in (f"prove {target}", f"reload {target}")}
    if prove is None:
        return rest
    count, first_at = (install.count + 1, install.first_at) if install else (1, prove.first_at)
    return {**rest, f"install {target}": replace(prove, count=count, first_at=first_at)}


def _failed(state: State, event: ev.Failed, now: Instant) -> State:
    old = state.failures.get(event.work)
    failure = Failure(
        kind=event.kind,
        code=event.code,
        detail=event.detail,
        hint=event.hint,
        count=(old.count if old else 0) + 1,
        first_at=old.first_at if old else now,
        at=now,
        retry_after_s=event.retry_after_s,
        jitter=event.jitter,
    )
    if event.code == "dns.not_yet" and event.work.startswith("validation "):
        # accepted by the provider and not there: it may have been lost, or removed by somebody
        algorithm = event.work.removeprefix("validation ")
        orders = {a: replace(o, presented=False) if a == algorithm else o for a, o in state.orders.items()}
        state = replace(state, orders=orders)
    return replace(state, failures={**state.failures, event.work: failure})


def _order(state: State, algorithm: Algorithm, *, presented: bool | None = None, ready: bool | None = None) -> State:
    old = state.orders.get(algorithm)
    if old is None:
        return state
    new = replace(old, presented=old.presented or bool(presented), ready=old.ready or bool(ready))
    return replace(state, orders={**state.orders, algorithm: new})


def _issued(state: State, event: ev.Issued, now: Instant) -> State:
    issued = {**(state.issued if state.issued_keys == event.keys else {}), event.algorithm: event.leaf}
    orders = {a: o for a, o in state.orders.items() if a != event.algorithm}
    if not event.completes:
        return replace(state, orders=orders, issued=issued, issued_keys=event.keys)
    request, order = state.requested, state.orders.get(event.algorithm)
    generation = Generation(
        event.generation,
        event.keys,
        issued,
        now,
        ca=order.ca if order else "",
        accept_deferrals=bool(request and request.accept_deferrals),
    )
    generations = state.generations
    if request and request.what == "emergency":
        # the keys that were in service until now are the compromised ones
        generations = tuple(replace(g, revoke=not g.foreign and g.keys != event.keys) for g in generations)
    return replace(
        state,
        generations_made=state.generations_made + 1,
        keys=tuple(replace(k, in_service_at=k.in_service_at or now) if k.id == event.keys else k for k in state.keys),
        orders=orders,
        issued={},
        issued_keys=None,
        generations=(*generations, generation),
        renewals={},
        requested=None,
    )


def _surveyed(state: State, event: ev.Surveyed, now: Instant) -> State:
    generations = list(state.generations)
    serves: list[str] = []
    for served in event.served:
        if isinstance(served.leaf, Unknown):
            continue
        leaf = served.leaf
        match_ = next((g for g in generations if leaf in g.leaves.values()), None)
        if match_ is None:
            match_ = Generation(f"f{leaf.spki[:8]}{leaf.serial[-8:]}", None, {served.algorithm: leaf}, now)
            generations.append(match_)
        if match_.id not in serves:
            serves.append(match_.id)
    old = state.targets.get(event.target, Installation())
    met = (*serves, *(id_ for id_ in old.met if id_ not in serves))
    # after files were put back, processes that read the others may live on
    serves += [id_ for id_ in old.serves if id_ not in serves]
    installation = Installation(serves=tuple(serves), met=met, rejected=old.rejected)
    return replace(state, generations=tuple(generations), targets={**state.targets, event.target: installation})


def _proven(state: State, event: ev.Proven, now: Instant) -> State:
    old = state.targets.get(event.target)
    if old is None or old.generation != event.generation:
        return state
    newest = state.newest is not None and state.newest.id == event.generation
    if newest:
        failures = {w: f for w, f in state.failures.items() if w != f"install {event.target}"}
        state = replace(state, failures=failures)
    rejected = None if newest else old.rejected
    if not event.drained:
        met = (*(id_ for id_ in old.met if id_ != event.generation), event.generation)
        return _target(state, event.target, phase="proven", met=met, proven_at=now, rejected=rejected)
    only = (event.generation,)
    services = tuple(sorted({f"{one.host}:{one.port}" for one in event.served}))
    new = replace(
        old, serves=only, met=only, phase="drained", proven_at=now, services=services, rejected=rejected, kept=False
    )
    return replace(state, targets={**state.targets, event.target: new})


def _disproven(state: State, event: ev.Disproven) -> State:
    old = state.targets.get(event.target)
    if old is None or old.generation != event.generation:
        return state
    # a generation that was proven before has been lost to somebody else's hand
    return _target(state, event.target, phase="lost" if old.phase in ("proven", "drained", "lost") else "disproven")


def _forgetting(state: State, step: Forget) -> State:
    values: list[Value] = []
    for keyset in state.keys:
        if keyset.id in step.keys:
            values += [tlsa.of_key(spki) for spki in sorted(keyset.spki.values())]
    for generation in state.generations:
        if generation.id in step.generations:
            values += sorted(records(generation, EVERY_TRIPLE))
    kept = [v for v in state.retired if v not in values]
    return replace(
        state,
        keys=tuple(k for k in state.keys if k.id not in step.keys),
        generations=tuple(g for g in state.generations if g.id not in step.generations),
        orders={a: o for a, o in state.orders.items() if o.keys not in step.keys},
        requested=None if state.requested and state.requested.what == "abort" else state.requested,
        doomed=step,
        # 64 values are more than ten years of 90-day rolls leave within reach of a late update
        retired=tuple([*kept, *values][-64:]),
    )


def _requested(state: State, event: ev.Requested) -> State:
    # the operator has looked: what waits for a retry is tried at once, but what a CA refused is not asked again sooner
    failures = {w: f for w, f in state.failures.items() if schedule.of_the_ca(f)}
    return replace(state, requested=state.requested if event.what == "retry" else event, failures=failures)


def _owner(state: State, name: str, owner: Owner) -> State:
    return replace(state, owners={**state.owners, name: owner})


def _target(state: State, name: str, **changes: object) -> State:
    old = state.targets.get(name)
    if old is None:
        return state
    return replace(state, targets={**state.targets, name: replace(old, **changes)})
