"""What to do next for one certificate: small rules over (spec, state, now), in order. This file is the rollover.

House rules:
1. A rule reads facts and offers steps or waits; it changes nothing, draws nothing and asks nobody. All it knows is in
   the journal's fold, so a user's journal reproduces every decision.
2. The first step that is not held back by its own earlier failure is taken. One step a pass; then facts are read again.
3. A rule never relies on an earlier rule having spoken: each checks itself what it needs.
4. What was not observed is unknown. Nothing irreversible is offered on it: before a removal every answer it rests on
   is fresh (`schedule.FRESH`), for a swap DNS is asked in the same breath, and `act.py` asks the same gates once more.
5. If no rule offers a step, the shortest of the waits is the answer. Something is always due some day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

from msgspec.structs import replace

from certagent.facts.moment import Instant
from certagent.lifecycle import caches, issuance, rollover, schedule
from certagent.lifecycle.spec import MailServer, Spec
from certagent.lifecycle.state import Generation, Installation, State, TlsaState
from certagent.lifecycle.steps import (
    AnyStep,
    Delete,
    Inspect,
    Install,
    Observe,
    Publish,
    Reload,
    Restore,
    Unpublish,
    Verify,
    Wait,
)
from certagent.pki import tlsa

Offer = AnyStep | Wait
Rule = Callable[[Spec, State, Instant], Iterator[Offer]]

SETTLE = timedelta(seconds=2)
"""How long one look asks again for a change just made: servers follow a NOTIFY within this, or much later."""
RELOADING = timedelta(seconds=10)
"""How long a proof after a reload tries again: Postfix says it is done before its children are replaced; a busy host
takes seconds."""


def plan(spec: Spec, state: State, now: Instant) -> Offer:
    """The one thing to do now, or how long to wait and why."""
    waits: list[Wait] = []
    for rule in RULES:
        for offer in rule(spec, state, now):
            if isinstance(offer, Wait):
                waits.append(offer)
                continue
            failure = state.failures.get(offer.work)
            left = schedule.retry_in(failure, now) if failure else timedelta(0)
            if failure is None or left <= timedelta(0):
                return offer
            waits.append(Wait(left, f"{offer.work}: tried {failure.count} times, {failure.detail}"))
    first = min(waits, key=lambda w: w.delay)
    swap = next((w for w in waits if w.swap), first)
    return first if swap is first else replace(first, because=f"{swap.because}; meanwhile {first.because}")


# -- 1. what was begun at a mail server is brought to its end --------------------------------------------------------


def finish(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:  # noqa: C901, PLR0912 -- one line a phase
    """Installed -> reloaded -> proven -> old processes gone -> proven again; or put back."""
    for server in spec.mail_servers:
        at = state.mail_servers.get(server.name)
        generation = state.generation(at.generation) if at and at.generation else None
        if at is None or generation is None:
            continue
        match at.phase:
            case "installing":
                yield from _install_again(spec, state, server, generation, now, "installing was interrupted")
            case "installed":
                yield Reload(server=server.name, because="installed; old processes go on with the old files")
            case "restoring":
                yield Restore(server=server.name, because="putting files back was interrupted")
            case "verify_failed":
                yield from _put_back(spec, state, server, at, now)
                yield from _try_again(spec, state, server, generation, now)
            case "reloaded":
                drained = at.reloaded_at is not None and now.since(at.reloaded_at) >= spec.drain
                yield Verify(
                    server=server.name,
                    generation=generation.id,
                    drained=drained,
                    budget=RELOADING,
                    because="reloaded; what is served is proven",
                )
            case "verified" if at.reloaded_at is not None:
                left = spec.drain - now.since(at.reloaded_at)
                if left > timedelta(0):
                    yield Wait(left, f"{server.name}: processes from before the reload may serve the old key")
                else:
                    because = "old processes are gone by now"
                    yield Verify(server=server.name, generation=generation.id, drained=True, because=because)
            case "drained" if not rollover.met_everywhere(server, at):
                because = "a service is new, and was not met yet"
                yield Verify(server=server.name, generation=generation.id, drained=True, because=because)
            case "drifted":
                because = "something else is served than was installed"
                yield from _install_again(spec, state, server, generation, now, because)
            case _:
                pass


def _install_again(
    spec: Spec, state: State, server: MailServer, generation: Generation, now: Instant, because: str
) -> Iterator[Offer]:
    """A swap that may have happened is done again, or taken back where DNS has changed: the old key is covered."""
    if not generation.accept_deferrals and rollover.may_install(spec, state, server.name, generation, now):
        previous = _previous(state, state.mail_servers[server.name])
        if (
            previous
            and not rollover.may_install(spec, state, server.name, previous, now)
            and not rollover.breaks_more(spec, state, server.name, previous, generation, now)
        ):
            yield _install(server, previous, f"{because}, and caches forbid it by now", rollback=True)
        else:
            yield Wait(schedule.OBSERVE_AT_MOST, f"{server.name}: {because}, and caches forbid it by now")
        return
    yield _install(server, generation, because, rollback=_is_rollback(generation, state))


def _try_again(spec: Spec, state: State, server: MailServer, generation: Generation, now: Instant) -> Iterator[Offer]:
    """A reload may have been swallowed; every third time the files themselves are put in place again."""
    failure = state.failures.get(f"verify {server.name}")
    if failure and failure.count % 3 == 0:
        yield from _install_again(spec, state, server, generation, now, "proofs fail")
    else:
        yield Reload(server=server.name, because="the proof failed; the reload may have been swallowed")


def _put_back(spec: Spec, state: State, server: MailServer, at: Installation, now: Instant) -> Iterator[Offer]:
    """What was served before comes back if a new generation was met by TLS that fails, or not met at all."""
    failure = state.failures.get(f"verify {server.name}")
    previous, generation = _previous(state, at), state.generation(at.generation or "")
    if failure is None or failure.code != "mta.not_served" or generation is None or _is_rollback(generation, state):
        return
    because = f"proof failed: {failure.detail}"
    if previous:
        if not rollover.may_install(spec, state, server.name, previous, now):
            yield _install(server, previous, because, rollback=True)
    elif at.kept and all(g is None or g.unmanaged for g in map(state.generation, at.met)):
        # not once they were replaced for good: nothing covers their key any more
        unmanaged = [g for id_ in at.serves if (g := state.generation(id_)) and g.unmanaged]
        if not any(rollover.may_install(spec, state, server.name, g, now) for g in unmanaged):
            yield Restore(server=server.name, because=because)


def _previous(state: State, at: Installation) -> Generation | None:
    previous = state.generation(at.previous) if at.previous else None
    return None if previous is None or previous.unmanaged else previous


def _is_rollback(generation: Generation, state: State) -> bool:
    return state.newest is not None and generation.id != state.newest.id


def _install(server: MailServer, generation: Generation, because: str, *, rollback: bool = False) -> Install:
    return Install(
        server=server.name,
        generation=generation.id,
        rollback=rollback,
        accept_deferrals=generation.accept_deferrals,
        because=because,
    )


# -- 2. what is served before the first swap is found out, since its records must stay ------------------------------


def leave(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """What is known of a mail server that is not configured any more is soon out of date: should it come back, it is
    surveyed like a new one. It counts for as long as the TLSA names of it may.
    """
    gone = tuple(sorted(state.mail_servers.keys() - {server.name for server in spec.mail_servers}))
    if gone and not state.pending_delete and state.tlsa_names.keys() <= spec.tlsa_names.keys():
        yield Delete(mail_servers=gone, because="not configured any more")


def inspect(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """What a mail server serves while certagent is new to it is covered like a generation of certagent's own."""
    for server in spec.mail_servers:
        at = state.mail_servers.get(server.name)
        if at is None:  # also where no TLSA name is configured: one may be while old processes live on
            yield Inspect(server=server.name, because="what it serves now is not known yet")
        elif at and at.phase == "restored":
            yield Inspect(server=server.name, because="its own files were put back; what is served is looked at")


# -- 3. the newest generation goes into service where nothing stands against it --------------------------------------


def deploy(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """The swap: only when no cache can hold a set that the new chain does not match. `act.py` asks once more."""
    newest = state.newest
    if newest is None:
        return
    for server in spec.mail_servers:
        at = state.mail_servers.get(server.name)
        if at is not None and (at.generation == newest.id or (at.phase in _UNDER_WAY and not _failing(state, server))):
            continue
        names = rollover.names_of(spec, state, server.name)
        obstacles = rollover.may_install(spec, state, server.name, newest, now)
        if newest.accept_deferrals:
            # the operator's choice: only the records must be out, caches are not waited for
            obstacles = [o for o in obstacles if rollover.missing(spec, state, o.tlsa_name)]
        if obstacles:
            yield from _waits(obstacles, f"{server.name}: not swapped to {newest.id}", spec)
            continue
        because = "no cache can hold a set without it" if names else "no TLSA records to mind"
        if newest.accept_deferrals:
            because = "the operator accepts deferrals: caches are not waited for"
        yield _install(server, newest, f"{because}; {_elapsed(newest, now)}")


_UNDER_WAY = ("installing", "installed", "reloaded", "verify_failed", "restoring", "restored")


def _failing(state: State, server: MailServer) -> bool:
    """What is under way at a mail server does not get on: then something newer need not wait for it."""
    return any(f"{verb} {server.name}" in state.failures for verb in ("install", "reload", "verify", "rollback"))


def _waits(obstacles: list[rollover.Obstacle], what: str, spec: Spec) -> Iterator[Wait]:
    # the longest obstacle decides; one without an end is looked at again by `observe`
    unknown = [o for o in obstacles if o.remaining is None]
    worst = unknown[0] if unknown else max(obstacles, key=lambda o: o.remaining or timedelta(0))
    yield Wait(worst.remaining or spec.check_interval, f"{what}: {worst.tlsa_name} {worst.why}", swap=True)


def _elapsed(generation: Generation, now: Instant) -> str:
    return f"issued {int(now.since(generation.issued_at).total_seconds())} s ago"


# -- 4. TLSA records that should be there are added ------------------------------------------------------------------


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
        if not _fresh(known.observed_at, now):
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


# -- 5. what was changed, or must not change unseen, is looked at ----------------------------------------------------


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


def _fresh(then: Instant | None, now: Instant) -> bool:
    return then is not None and now.since(then) <= schedule.FRESH


# -- 6. records that nothing needs any more are removed --------------------------------------------------------------


def clean(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
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
            stale = [t for t in mail_servers if not _fresh(state.mail_servers[t].verified_at, now)]
            if stale:
                generation = state.mail_servers[stale[0]].generation
                assert generation is not None
                yield Verify(
                    server=stale[0], generation=generation, drained=True, because="proven afresh before old records go"
                )
                continue
        if not _fresh(known.observed_at, now):
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


# -- 7. the rest -----------------------------------------------------------------------------------------------------


def abort(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """A roll is given up before the swap: its keys were never served, so they may go at any time."""
    if state.requested is None or state.requested.what != "abort":
        return
    installed = {id_ for t in state.mail_servers.values() for id_ in t.serves}
    pending_delete = [g for g in state.generations if not g.unmanaged and g.id not in installed]
    served = {g.keys for g in state.generations if g.id in installed}
    keys = tuple(k.id for k in state.keys if k.id not in served)
    yield Delete(generations=tuple(g.id for g in pending_delete), keys=keys, because="the operator asked: abort")


def delete(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Old keys are deleted once they are served nowhere, published nowhere, and no roll-back would want them."""
    if state.pending_delete:
        pending_delete = state.pending_delete
        yield replace(pending_delete, because="deleting was interrupted")
        return
    if state.newest is None or not rollover.rolled(spec, state) or state.orders:
        return
    kept = {id_ for at in state.mail_servers.values() for id_ in at.serves} | {state.newest.id}
    generations = tuple(g.id for g in state.generations if g.id not in kept and not g.revoke)
    wanted = {g.keys for g in state.generations if g.id not in generations} | {k.id for k in (state.next_keys,) if k}
    published = {v for o in state.tlsa_names.values() for v in rollover.seen_somewhere(o)}
    keys = tuple(
        k.id
        for k in state.keys
        if k.id not in wanted and not any(f"3 1 1 {spki}" in published for spki in k.spki.values())
    )
    tlsa_names = tuple(
        name
        for name, known in state.tlsa_names.items()
        if name not in spec.tlsa_names
        and all(h.values == frozenset() for h in rollover.cached(spec, known, now))
        and rollover.empty(known)
        and (not (known.changed_at and known.observed_at) or known.observed_at.since(known.changed_at) > schedule.LATE)
    )
    if generations or keys or tlsa_names:
        yield Delete(
            generations=generations,
            keys=keys,
            tlsa_names=tlsa_names,
            because="nothing serves or publishes them any more",
        )


def check_interval(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """What is served is proven now and then, so that somebody else's change is noticed before a sender tells."""
    for server in spec.mail_servers:
        at = state.mail_servers.get(server.name)
        if at is None or at.generation is None or at.phase != "drained" or at.verified_at is None:
            continue
        left = spec.check_interval - now.since(at.verified_at)
        if left > timedelta(0):
            yield Wait(left, f"{server.name} is verified again: check interval")
        else:
            yield Verify(server=server.name, generation=at.generation, drained=True, because="check interval")
    yield Wait(spec.check_interval, "nothing is due")


RULES: tuple[Rule, ...] = (
    leave,
    abort,
    finish,
    inspect,
    observe,
    issuance.make_keys,  # before `publish`: a standby goes out with the records of what it stands by for
    publish,
    deploy,
    issuance.issue,
    issuance.clean_up,
    clean,
    issuance.revoke,
    delete,
    issuance.fetch_renewal_info,
    check_interval,
)
