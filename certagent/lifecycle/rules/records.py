"""TLSA records: what is in DNS is observed, records that should be there are published, and old ones go last."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from certagent.facts.moment import Instant
from certagent.lifecycle import caches, rollover, schedule
from certagent.lifecycle.rules.rule import Offer
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State, TlsaState
from certagent.lifecycle.steps import Observe, Publish, Unpublish, Verify, Wait
from certagent.pki import tlsa

SETTLE = timedelta(seconds=2)
"""How long one observation asks again for a change just made: servers follow a NOTIFY within this, or much later."""


def observe(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """After a change until every server follows; while caches are waited for; and now and then while nothing is due."""
    for name in rollover.tlsa_names(spec, state):
        known = state.tlsa_name(name)
        if known.observation is None or known.observed_at is None:
            yield _observe(spec, state, name, "never looked at")
            continue
        if rollover.changed_since_observed(known):
            yield _observe(spec, state, name, "changed, and not seen since", budget=SETTLE)
            continue
        every, why = _observe_interval(spec, state, name, known, now)
        left = every - now.since(known.observed_at)
        if left > timedelta(0):
            yield Wait(left, f"{name} is looked at again: {why}")
        else:
            yield _observe(spec, state, name, why)


def _observe_interval(spec: Spec, state: State, name: str, known: TlsaState, now: Instant) -> tuple[timedelta, str]:
    assert known.observation is not None
    assert known.observed_at is not None
    if not caches.complete(known.observation):
        since = known.observed_at.since(known.changed_at) if known.changed_at else timedelta(minutes=4)
        return schedule.observe_again(since), "a server was not heard"
    if known.changed_at and rollover.unfollowed(spec, state, name):
        return schedule.observe_again(known.observed_at.since(known.changed_at)), "not every server has followed"
    waited_for = [
        caches.retire_interval(h, rollover.path(known), spec.safety_margin)
        for h in rollover.cached(spec, known, now)
        if h.gone_at is not None and h.values != frozenset() and _matters(spec, state, name, h)
    ]
    if waited_for:
        return schedule.observe_every(spec, min(waited_for)), "caches are waited for"
    return spec.check_interval, "check interval"


def _matters(spec: Spec, state: State, name: str, cached: caches.CachedSet) -> bool:
    served = rollover.served_at(spec, state, name)
    coming = list(state.newest.chains.values()) if state.newest else []
    if state.next_keys:
        coming += rollover.as_if_issued(state.next_keys, state.newest).values()
    return any(caches.breaks(cached.values, chain, served) for chain in coming) or name not in spec.tlsa_names


def _observe(spec: Spec, state: State, name: str, because: str, budget: timedelta = timedelta(0)) -> Observe:
    expect = rollover.desired(spec, state, name)
    change = state.tlsa_names[name].change if name in state.tlsa_names else None
    leaving = change.values - expect if change and change.removes else frozenset[str]()
    mail_servers = spec.tlsa_names.get(name, ())
    return Observe(
        tlsa_name=name, mail_servers=mail_servers, expect=expect, gone=leaving, budget=budget, because=because
    )


def publish(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Whatever is served, about to be served or on standby has its record, at every TLSA name."""
    for name in spec.tlsa_names:
        known = state.tlsa_name(name)
        if known.observation is None or rollover.changed_since_observed(known):
            continue
        if not caches.known(known.observation):
            continue
        held_back = rollover.publication_blocked(spec, state, name)
        if held_back:
            yield Wait(spec.check_interval, f"{name} not published: {held_back}")
            continue
        values = rollover.missing(spec, state, name)
        if not values:
            continue
        if not schedule.fresh(known.observed_at, now):
            # a TTL that was raised since would be superseded unseen, and the wait would be too short
            yield _observe(spec, state, name, "the last look before records are added")
            continue
        unseen = _unseen(known, values, now, removes=False)
        if unseen:
            yield unseen
            continue
        yield Publish(tlsa_name=name, values=values, ttl_s=spec.ttl_s, because=_why_publish(state, name))


def _unseen(known: TlsaState, values: frozenset[str], now: Instant, *, removes: bool) -> Wait | None:
    """The wait before a change that the provider accepted and no server shows is made once more."""
    change = known.tried(values, removes=removes)
    made_at = (change.at if change else None) or known.changed_at
    if change is None or made_at is None:
        return None
    left = schedule.write_again(change.tries) - now.since(made_at)
    return Wait(left, "the provider has accepted a change that is not to be seen yet") if left > timedelta(0) else None


def _why_publish(state: State, name: str) -> str:
    if rollover.empty(state.tlsa_names[name]):
        return "first publication: what is served is proven"
    if state.next_keys:
        return f"keys {state.next_keys.id} must be in every cache before they serve"
    return "a record of what is served is missing"


def unpublish(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Old records go last: every target is proven afresh to serve nothing else (RFC 7671 section 8.1)."""
    for name in rollover.tlsa_names(spec, state):
        known = state.tlsa_name(name)
        values = rollover.surplus(spec, state, name)
        if not values or rollover.changed_since_observed(known):
            continue
        if not rollover.withdrawn(spec, state, name):
            answering = rollover.answering(spec, state, name)
            mail_servers = [t.name for t in spec.mail_servers if t.name in answering]
            if any(t not in state.mail_servers or state.mail_servers[t].phase != "drained" for t in mail_servers):
                # `finish` brings them there; a TLSA parameters that is not configured goes as a whole, and hurts nobody
                values = frozenset(v for v in values if tlsa.parameters(v) not in spec.tlsa_parameters)
                mail_servers = []
                if not values:
                    continue
            stale = [t for t in mail_servers if not schedule.fresh(state.mail_servers[t].verified_at, now)]
            if stale:
                generation = state.mail_servers[stale[0]].generation
                assert generation is not None
                yield Verify(
                    server=stale[0], generation=generation, drained=True, because="proven afresh before old records go"
                )
                continue
        if not schedule.fresh(known.observed_at, now):
            yield _observe(spec, state, name, "the last look before records go")
            continue
        unseen = _unseen(known, values, now, removes=True)
        if unseen:
            yield unseen
            continue
        against = rollover.may_unpublish(spec, state, name, values)
        if against:
            yield Wait(spec.check_interval, f"not removed: {against}")
            continue
        because = (
            "nothing serves their keys any more"
            if name in spec.tlsa_names
            else "withdrawn: the name is not configured any more"
        )
        yield Unpublish(tlsa_name=name, values=values, because=because)
