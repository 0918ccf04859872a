"""TLSA records: what is in DNS is observed, records that should be there are published, and old ones go last."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from operator import itemgetter

from certagent.lifecycle import caches, gates, schedule
from certagent.lifecycle.rules.rule import Offer, View
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.steps import Observe, Publish, Unpublish, Verify, Wait
from certagent.lifecycle.tlsaname import TlsaName, TlsaNames, Values
from certagent.pki import tlsa

SETTLE = timedelta(seconds=2)
"""How long one observation asks again for a change just made: servers follow a NOTIFY within this, or much later."""


def observe(view: View) -> Iterator[Offer]:
    """After a change until every server follows; while caches are waited for; and now and then while nothing is due."""
    for name in view.names:
        if name.known.observation is None or name.known.observed_at is None:
            yield _observe(name, "never observed")
            continue
        if name.changed_since_observed:
            settle = SETTLE if name.publish_lag <= SETTLE else timedelta(0)
            yield _observe(name, "changed, and not observed since", budget=settle)
            continue
        if view.state.asked_since(name.known.observed_at):
            yield _observe(name, "the operator asked")
            continue
        every, why = _interval(view, name)
        left = every - view.now.since(name.known.observed_at)
        if left > timedelta(0):
            yield Wait(left, f"{name} is observed again: {why}")
        else:
            yield _observe(name, why)


def _interval(view: View, name: TlsaName) -> tuple[timedelta, str]:
    """How long after the last observation a name is observed again, and why."""
    known = name.known
    assert known.observation is not None
    assert known.observed_at is not None
    if not caches.complete(known.observation):
        since = known.observed_at.since(known.changed_at) if known.changed_at else timedelta(minutes=4)
        return schedule.observe_again(since), "a server was not heard"
    seen_at = known.observed_at
    found: list[tuple[timedelta, str]] = []
    to_come = max((item.to_come(seen_at) for item in known.cached if item.gone_at is None), default=timedelta(0))
    if known.changed_at and name.unfollowed:
        found.append((schedule.observe_again(seen_at.since(known.changed_at), name.publish_lag), schedule.FOLLOWING))
    elif to_come > timedelta(0):
        found.append((to_come, "its DNS provider may yet publish what it was given"))
    # also while a late provider is waited for: the old set may come back at a server, and go before it has published
    waited_for = [
        name.retire_interval(item)
        for item in name.cached(view.now)
        if item.gone_at is not None and item.values != frozenset() and _matters(view.names, name, item)
    ]
    if waited_for:
        found.append((schedule.observe_every(view.spec, min(waited_for)), "caches are waited for"))
    return min((*found, (view.spec.check_interval, "check interval")), key=itemgetter(0))


def _matters(names: TlsaNames, name: TlsaName, item: caches.CachedSet) -> bool:
    """Something waits until no cache can have the set: a chain that it would break with, or a withdrawal."""
    return not name.configured or any(caches.breaks(item.values, chain, name.met) for chain in names.coming)


def _observe(name: TlsaName, because: str, budget: timedelta = timedelta(0)) -> Observe:
    change = name.known.change
    return Observe(
        tlsa_name=name.name,
        mail_servers=name.mail_servers,
        expect=name.desired,
        gone=change.values - name.desired if change and change.removes else frozenset(),
        budget=budget,
        because=because,
    )


# -- records are added -------------------------------------------------------------------------------------------------


def publish(view: View) -> Iterator[Offer]:
    """Whatever is served, about to be served or on standby has its record, at every TLSA name."""
    spec, state, names, now = view
    for name in names.configured:
        if not name.sets or name.changed_since_observed:
            continue
        if name.publication_blocked:
            yield Wait(spec.check_interval, f"{name} not published: {name.publication_blocked}")
            continue
        values = name.missing
        if not values:
            continue
        if not schedule.fresh(name.known.observed_at, now):
            # a TTL that was raised since would be superseded unseen, and the wait would be too short
            yield _observe(name, "the last observation before records are added")
        elif unseen := _unseen(view, name, values, removes=False):
            yield unseen
        else:
            yield Publish(tlsa_name=name.name, values=values, ttl_s=spec.ttl_s, because=_why_publish(state, name))


def _unseen(view: View, name: TlsaName, values: Values, *, removes: bool) -> Wait | None:
    """The wait before a change that the provider accepted and no server shows is made once more."""
    change = name.known.tried(values, removes=removes)
    made_at = (change.at if change else None) or name.known.changed_at
    if change is None or made_at is None:
        return None
    left = schedule.write_again(change.tries, name.publish_lag) - view.now.since(made_at)
    return Wait(left, "the provider has accepted a change that is not to be seen yet") if left > timedelta(0) else None


def _why_publish(state: State, name: TlsaName) -> str:
    if name.empty:
        return "first publication: what is served is verified"
    if name.covered:
        return "a wildcard answers for the name: it gets its own records"
    if state.next_keys:
        return f"keys {state.next_keys.id} must be in every cache before they serve"
    return "a record of what is served is missing"


# -- records that nothing needs any more are removed -------------------------------------------------------------------


def unpublish(view: View) -> Iterator[Offer]:
    """Old records go last: every mail server is verified afresh to serve nothing else (RFC 7671 section 8.1)."""
    spec, state, names, now = view
    for name in names:
        values = name.surplus
        if not values or name.changed_since_observed:
            continue
        if not name.withdrawn:
            servers = [s.name for s in spec.mail_servers if s.name in name.shared.mail_servers]
            if any(s not in state.mail_servers or state.mail_servers[s].phase != "drained" for s in servers):
                # `finish` brings them there; records of TLSA parameters that are not configured may go at once
                values, servers = _of_other_parameters(spec, values), []
            if not values:
                continue
            if stale := [s for s in servers if not schedule.fresh(state.mail_servers[s].verified_at, now)]:
                yield _verify(state, stale[0])
                continue
        if not schedule.fresh(name.known.observed_at, now):
            yield _observe(name, "the last observation before records go")
        elif unseen := _unseen(view, name, values, removes=True):
            yield unseen
        elif against := gates.may_unpublish(name, values):
            yield Wait(spec.check_interval, f"not removed: {against}")
        else:
            yield Unpublish(tlsa_name=name.name, values=values, because=_why_unpublish(name))


def _of_other_parameters(spec: Spec, values: Values) -> Values:
    return frozenset(v for v in values if tlsa.parameters(v) not in spec.tlsa_parameters)


def _verify(state: State, server: str) -> Verify:
    generation = state.mail_servers[server].generation
    assert generation is not None
    return Verify(server=server, generation=generation, drained=True, because="verified afresh before old records go")


def _why_unpublish(name: TlsaName) -> str:
    return (
        "no longer matched by anything that is served"
        if name.configured
        else "withdrawn: the name is not configured any more"
    )
