"""The fold of a journal: `fold(state, event, now)` is the only way a state changes.

Rules of the fold: it never decides, it never drops what is still needed to be safe, and the same events always give the
same state. What is *intended* counts as possibly done until an outcome says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from msgspec.structs import replace

from certagent.facts.dns import Observation, Value
from certagent.facts.moment import Instant
from certagent.facts.tls import KeyType, Served
from certagent.facts.unknown import Unknown
from certagent.lifecycle import budget, caches, failures, schedule
from certagent.lifecycle import events as ev
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.state import (
    EVERY_PARAMETERS,
    Change,
    Generation,
    Installation,
    KeySet,
    Order,
    Renewal,
    State,
    TlsaState,
    records,
)
from certagent.lifecycle.steps import Delete, Install, PlaceOrder, Present, Publish, Reload, Restore, Unpublish
from certagent.pki import tlsa


def fold(state: State, event: ev.AnyEvent, now: Instant) -> State:
    """The state after the event, which happened at `now`."""
    if event.lane and not isinstance(event, ev.Failed | ev.Intended) and state.failure(event.lane):
        state = replace(state, failing=failures.without(state, event.lane))
    return _apply(state, event, now)


def _apply(state: State, event: ev.AnyEvent, now: Instant) -> State:  # noqa: C901, PLR0911, PLR0912 -- one line per event
    match event:
        case ev.Intended():
            return _intended(state, event, now)
        case ev.Failed():
            return failures.failed(state, event, now)
        case ev.KeysMade() if state.keyset(event.keys):
            return state  # it is journaled already
        case ev.KeysMade():
            made = KeySet(event.keys, now, event.spki)
            return replace(state, keys=(*state.keys, made), keys_made=state.keys_made + 1)
        case ev.OrderPlaced():
            order = Order(event.keys, event.url, event.challenges, event.ca, presented=not event.challenges)
            return replace(state, orders={**state.orders, event.key_type: order})
        case ev.Presented():
            return _order(state, event.key_type, presented=True, shown_at=_shown_at(event, now))
        case ev.ResponseNotSeen(key_type=key_type):
            return _not_seen(state, key_type, now)
        case ev.OrderReady():
            return _order(state, event.key_type, ready=True)
        case ev.OrderAbandoned():
            return replace(state, orders={a: o for a, o in state.orders.items() if a != event.key_type})
        case ev.Issued() if state.generation(event.generation):
            return state  # it is journaled already
        case ev.Issued():
            return _issued(state, event, now)
        case ev.CleanedUp():
            return replace(state, challenges=tuple(c for c in state.challenges if c not in event.challenges))
        case ev.Observed():
            known = state.tlsa_name(event.tlsa_name)
            cached = caches.after(known.cached, event.observation, now, early=event.early)
            before = known.observation
            again = before and not caches.complete(before) and caches.complete(event.observation)
            change, other = (None if c and _seen(c, event.observation) else c for c in (known.change, known.other))
            observed = replace(
                known,
                mail_servers=event.mail_servers or known.mail_servers,
                undeclared=event.undeclared,
                cached=cached,
                observation=event.observation,
                observed_at=now,
                complete_again_at=now if again else known.complete_again_at,
                change=change,
                other=other,
            )
            return _tlsa_name(state, event.tlsa_name, observed)
        case ev.Superseding():
            known = state.tlsa_name(event.tlsa_name)
            # its TTL may have been raised where no observation could see it
            seen, lag_s = known.observation, event.publish_lag_s
            cached = caches.with_set(known.cached, event.before, event.before_ttl_s, seen, now, lag_s)
            cached = caches.with_set(cached, event.after, event.after_ttl_s, seen, now, lag_s)
            new = replace(known, cached=cached, publish_lag_s=lag_s)
            return _tlsa_name(state, event.tlsa_name, new)
        case ev.Writing():
            return replace(state, budgets=budget.noted(state.budgets, event.zone, event.per_day, now))
        case ev.Published() | ev.Unpublished():
            return _tlsa_name(state, event.tlsa_name, replace(state.tlsa_name(event.tlsa_name), changed_at=now))
        case ev.Inspected():
            return _inspected(state, event, now)
        case ev.Installed():
            kept = event.kept or state.mail_servers[event.server].kept
            return _server(state, event.server, phase="installed", verified_at=None, kept=kept)
        case ev.Restored():
            return _server(state, event.server, phase="restored", generation=None, previous=None, kept=False)
        case ev.Reloaded():
            return _server(state, event.server, phase="reloaded", reloaded_at=now)
        case ev.Verified():
            return _verified(state, event, now)
        case ev.VerifyFailed():
            return _verify_failed(state, event)
        case ev.Met():
            return _met(state, event.server, event.served)
        case ev.RenewalInfo():
            return replace(
                state, renewals={**state.renewals, event.key_type: Renewal(event.generation, event, asked_at=now)}
            )
        case ev.Revoked():
            generations = tuple(replace(g, revoke=g.revoke and g.id != event.generation) for g in state.generations)
            return replace(state, generations=generations)
        case ev.Deleted():
            tlsa_names = {name: o for name, o in state.tlsa_names.items() if name not in event.tlsa_names}
            mail_servers = {name: t for name, t in state.mail_servers.items() if name not in event.mail_servers}
            failing = failures.of_others(state, event.mail_servers)
            return replace(
                state, tlsa_names=tlsa_names, mail_servers=mail_servers, failing=failing, pending_delete=None
            )
        case ev.Requested():  # pragma: no branch -- the last of AnyEvent; pyright holds the match to be whole
            return _requested(state, event, now)


def _intended(state: State, event: ev.Intended, now: Instant) -> State:  # noqa: PLR0911 -- one line per step
    match event.step:
        case PlaceOrder(ca=ca):
            return replace(state, ca=ca)
        case Present(key_type=key_type) if key_type in state.orders:
            new = (c for c in state.orders[key_type].challenges if c not in state.challenges)
            return replace(state, challenges=(*state.challenges, *new))
        case Publish(tlsa_name=name, values=values, ttl_s=ttl_s):
            return _changing(state, name, values, now, ttl_s=ttl_s)
        case Unpublish(tlsa_name=name, values=values):
            return _changing(state, name, values, now, removes=True)
        case Install(server=name, generation=generation, rollback=rollback):
            old = state.mail_servers.get(name, Installation())
            serves = (*(s for s in old.serves if s != generation), generation)
            changed = old.generation != generation
            drifted = old.phase == "drifted"
            new = replace(
                old,
                unseen=old.before if rollback else old.unseen,
                before=old.unseen if (changed or drifted) and not rollback else old.before,
                serves=serves,
                generation=generation,
                previous=old.generation if changed else old.previous,
                phase="installing",
                rejected=old.generation if rollback else old.rejected,
            )
            # what is put in place of something else is verified at once
            over = [Lane("verify", name)] if drifted else []
            failing = failures.put_back(state, name) if rollback else failures.without(state, *over)
            return replace(state, mail_servers={**state.mail_servers, name: new}, failing=failing)
        case Restore(server=name) if name in state.mail_servers:
            old = state.mail_servers[name]
            new = replace(old, phase="restoring", rejected=old.generation)
            return replace(
                state, mail_servers={**state.mail_servers, name: new}, failing=failures.put_back(state, name)
            )
        case Reload(server=name) if name in state.mail_servers:
            return _server(state, name, phase="installed")
        case Delete():
            return _deleting(state, event.step)
        case _:
            return state


def _changing(
    state: State, name: str, values: frozenset[Value], now: Instant, *, removes: bool = False, ttl_s: int = 0
) -> State:
    known = state.tlsa_name(name)
    cached = known.cached
    for answer in caches.known(known.observation) if known.observation else ():
        # caches may take what comes of it, also if somebody changes it again before any observation
        after = answer.values - values if removes else answer.values | values
        cached = caches.with_set(cached, after, max(answer.ttl_s, ttl_s), known.observation, now)
    old = known.tried(values, removes=removes)
    change = Change(values, removes, old.tries + 1 if old else 1, now, old.first_at if old else now)
    other = next((c for c in (known.change, known.other) if c and c.removes != removes), None)
    return _tlsa_name(state, name, replace(known, cached=cached, changed_at=now, change=change, other=other))


def _seen(change: Change, observation: Observation) -> bool:
    """Every authoritative server was heard and has followed."""
    answers = caches.known(observation)
    if not caches.complete(observation):
        return False
    return all(change.values.isdisjoint(a.values) if change.removes else change.values <= a.values for a in answers)


def _order(
    state: State, key_type: KeyType, *, presented: bool = False, ready: bool = False, shown_at: Instant | None = None
) -> State:
    old = state.orders.get(key_type)
    if old is None:
        return state
    new = replace(
        old, presented=old.presented or presented, ready=old.ready or ready, shown_at=shown_at or old.shown_at
    )
    return replace(state, orders={**state.orders, key_type: new})


def _shown_at(event: ev.Presented, now: Instant) -> Instant | None:
    lag = timedelta(seconds=event.publish_lag_s)
    return Instant(now.wall + lag, now.elapsed_s + event.publish_lag_s) if lag else None


def _not_seen(state: State, key_type: KeyType, now: Instant) -> State:
    old = state.orders.get(key_type)
    if old is None:
        return state
    since = old.not_seen_since or now
    new = replace(old, presented=False, not_seen=old.not_seen + 1, not_seen_since=since)
    return replace(state, orders={**state.orders, key_type: new})


def _issued(state: State, event: ev.Issued, now: Instant) -> State:
    same = (state.issued_keys, state.issued_ca) == (event.keys, event.ca)
    issued = {**(state.issued if same else {}), event.key_type: event.chain}
    orders = {a: o for a, o in state.orders.items() if a != event.key_type}
    if not event.completes:
        return replace(state, orders=orders, issued=issued, issued_keys=event.keys, issued_ca=event.ca)
    request = state.requested
    generation = Generation(
        event.generation,
        event.keys,
        issued,
        now,
        ca=event.ca,
        accept_deferrals=bool(request and request.accept_deferrals),
    )
    generations = state.generations
    if request and request.what == "emergency":
        # the keys that were in service until now are the compromised ones
        generations = tuple(replace(g, revoke=not g.unmanaged and g.keys != event.keys) for g in generations)
    return replace(
        state,
        generations_made=state.generations_made + 1,
        keys=tuple(replace(k, in_service_at=k.in_service_at or now) if k.id == event.keys else k for k in state.keys),
        orders=orders,
        issued={},
        issued_keys=None,
        issued_ca=None,
        generations=(*generations, generation),
        renewals={},
        requested=None,
        hurried=state.hurried + 1 if schedule.hurried(state, now) else 0,
    )


def _inspected(state: State, event: ev.Inspected, now: Instant) -> State:
    generations = list(state.generations)
    serves: list[str] = []
    for served in event.served:
        if isinstance(served.chain, Unknown):
            continue
        chain = served.chain
        match_ = next((g for g in generations if chain in g.chains.values()), None)
        if match_ is None:
            match_ = Generation(f"f{chain.spki[:8]}{chain.serial[-8:]}", None, {served.key_type: chain}, now)
            generations.append(match_)
        if match_.id not in serves:
            serves.append(match_.id)
    old = state.mail_servers.get(event.server, Installation())
    inspected = tuple(serves)
    met = (*serves, *(id_ for id_ in old.met if id_ not in serves))
    # after files were put back, processes that read the others may live on
    serves += [id_ for id_ in old.serves if id_ not in serves]
    installation = Installation(
        serves=tuple(serves),
        met=met,
        inspected=inspected,
        inspected_at=now,
        rejected=old.rejected,
        unseen=_unseen(event.served),
    )
    return replace(
        state, generations=tuple(generations), mail_servers={**state.mail_servers, event.server: installation}
    )


def _verified(state: State, event: ev.Verified, now: Instant) -> State:
    old = state.mail_servers.get(event.server)
    if old is None or old.generation != event.generation:
        return state
    newest = state.newest is not None and state.newest.id == event.generation
    if newest:  # what failed on the way, some of which nobody would try again, is over
        state = replace(state, failing=failures.of_others(state, (event.server,)))
    rejected = None if newest else old.rejected
    if not event.drained:
        met = (*(id_ for id_ in old.met if id_ != event.generation), event.generation)
        return _server(state, event.server, phase="verified", met=met, verified_at=now, rejected=rejected, unseen=())
    only = (event.generation,)
    new = replace(
        old,
        serves=only,
        met=only,
        phase="drained",
        verified_at=now,
        services=tuple(sorted({f"{one.host}:{one.port}" for one in event.served})),
        rejected=rejected,
        strange=(),
        kept=False,
        unseen=(),
        before=(),
    )
    return replace(state, mail_servers={**state.mail_servers, event.server: new})


def _verify_failed(state: State, event: ev.VerifyFailed) -> State:
    old = state.mail_servers.get(event.server)
    if old is None or old.generation != event.generation:
        return state
    unseen = _unseen(event.served) if event.drained else old.unseen
    if old.phase == "drained" and event.as_before:
        return _server(state, event.server, unseen=unseen)
    # of a generation that was verified before: another program or person has replaced it
    phase = "drifted" if old.phase in ("verified", "drained", "drifted") else "verify_failed"
    return _server(_met(state, event.server, event.served), event.server, phase=phase, unseen=unseen)


def _met(state: State, server: str, served: tuple[Served, ...]) -> State:
    known = state.mail_servers[server].strange if server in state.mail_servers else ()
    return _server(state, server, strange=(*known, *state.surprises(server, served)))


def _unseen(served: Iterable[Served]) -> tuple[str, ...]:
    return tuple(sorted({one.unseen for one in served if one.unseen}))


def _deleting(state: State, step: Delete) -> State:
    values: list[Value] = []
    for keyset in state.keys:
        if keyset.id in step.keys:
            values += [tlsa.of_key(spki) for spki in sorted(keyset.spki.values())]
    for generation in state.generations:
        if generation.id in step.generations:
            values += sorted(records(generation, EVERY_PARAMETERS))
    kept = [v for v in state.past_values if v not in values]
    return replace(
        state,
        keys=tuple(k for k in state.keys if k.id not in step.keys),
        generations=tuple(g for g in state.generations if g.id not in step.generations),
        orders={a: o for a, o in state.orders.items() if o.keys not in step.keys},
        requested=None if state.requested and state.requested.what == "abort" else state.requested,
        pending_delete=step,
        # 64 values are more than ten years of 90-day rolls leave within reach of a late update
        past_values=tuple([*kept, *values][-64:]),
    )


def _requested(state: State, event: ev.Requested, now: Instant) -> State:
    # the operator was there: what waits for a retry is tried at once, but a CA that refused is not asked again sooner,
    # unless the request is for a certificate, or the CA wanted something of the operator
    wants = event.what in ("renew", "rotate", "emergency")
    failing = tuple(f for f in state.failing if schedule.of_the_ca(f) and f.kind != "misconfigured" and not wants)
    requested = state.requested if event.what == "retry" else event
    return replace(state, requested=requested, failing=failing, asked_at=now)


def _tlsa_name(state: State, name: str, tlsa_name: TlsaState) -> State:
    return replace(state, tlsa_names={**state.tlsa_names, name: tlsa_name})


def _server(state: State, name: str, **changes: object) -> State:
    old = state.mail_servers.get(name)
    if old is None:
        return state
    return replace(state, mail_servers={**state.mail_servers, name: replace(old, **changes)})
