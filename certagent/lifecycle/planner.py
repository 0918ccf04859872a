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

from certagent.lifecycle import caches, issuance, rollover, schedule
from certagent.lifecycle.model import Instant, Spec, Target
from certagent.lifecycle.state import Generation, Installation, Owner, State
from certagent.lifecycle.steps import (
    AnyStep,
    Forget,
    Install,
    Look,
    Prove,
    Publish,
    Reload,
    Restore,
    Survey,
    Unpublish,
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
    for target in spec.targets:
        at = state.targets.get(target.name)
        generation = state.generation(at.generation) if at and at.generation else None
        if at is None or generation is None:
            continue
        match at.phase:
            case "installing":
                yield from _install_again(spec, state, target, generation, now, "installing was interrupted")
            case "installed":
                yield Reload(target=target.name, because="installed; old processes go on with the old files")
            case "restoring":
                yield Restore(target=target.name, because="putting files back was interrupted")
            case "disproven":
                yield from _put_back(spec, state, target, at, now)
                yield from _try_again(spec, state, target, generation, now)
            case "reloaded":
                drained = at.reloaded_at is not None and now.since(at.reloaded_at) >= spec.drain
                yield Prove(
                    target=target.name,
                    generation=generation.id,
                    drained=drained,
                    budget=RELOADING,
                    because="reloaded; what is served is proven",
                )
            case "proven" if at.reloaded_at is not None:
                left = spec.drain - now.since(at.reloaded_at)
                if left > timedelta(0):
                    yield Wait(left, f"{target.name}: processes from before the reload may serve the old key")
                else:
                    because = "old processes are gone by now"
                    yield Prove(target=target.name, generation=generation.id, drained=True, because=because)
            case "drained" if not rollover.met_everywhere(target, at):
                because = "a service is new, and was not met yet"
                yield Prove(target=target.name, generation=generation.id, drained=True, because=because)
            case "lost":
                because = "something else is served than was installed"
                yield from _install_again(spec, state, target, generation, now, because)
            case _:
                pass


def _install_again(
    spec: Spec, state: State, target: Target, generation: Generation, now: Instant, because: str
) -> Iterator[Offer]:
    """A swap that may have happened is done again, or taken back where DNS has changed: the old key is covered."""
    if not generation.accept_deferrals and rollover.may_install(spec, state, target.name, generation, now):
        previous = _previous(state, state.targets[target.name])
        if (
            previous
            and not rollover.may_install(spec, state, target.name, previous, now)
            and not rollover.loses_by(spec, state, target.name, previous, generation, now)
        ):
            yield _install(target, previous, f"{because}, and caches forbid it by now", rollback=True)
        else:
            yield Wait(schedule.LOOK_AT_MOST, f"{target.name}: {because}, and caches forbid it by now")
        return
    yield _install(target, generation, because, rollback=_is_rollback(generation, state))


def _try_again(spec: Spec, state: State, target: Target, generation: Generation, now: Instant) -> Iterator[Offer]:
    """A reload may have been swallowed; every third time the files themselves are put in place again."""
    failure = state.failures.get(f"prove {target.name}")
    if failure and failure.count % 3 == 0:
        yield from _install_again(spec, state, target, generation, now, "proofs fail")
    else:
        yield Reload(target=target.name, because="the proof failed; the reload may have been swallowed")


def _put_back(spec: Spec, state: State, target: Target, at: Installation, now: Instant) -> Iterator[Offer]:
    """What was served before comes back if a new generation was met by TLS that fails, or not met at all."""
    failure = state.failures.get(f"prove {target.name}")
    previous, generation = _previous(state, at), state.generation(at.generation or "")
    if failure is None or failure.code != "mta.not_served" or generation is None or _is_rollback(generation, state):
        return
    because = f"proof failed: {failure.detail}"
    if previous:
        if not rollover.may_install(spec, state, target.name, previous, now):
            yield _install(target, previous, because, rollback=True)
    elif at.kept and all(g is None or g.foreign for g in map(state.generation, at.met)):
        # not once they were replaced for good: nothing covers their key any more
        foreign = [g for id_ in at.serves if (g := state.generation(id_)) and g.foreign]
        if not any(rollover.may_install(spec, state, target.name, g, now) for g in foreign):
            yield Restore(target=target.name, because=because)


def _previous(state: State, at: Installation) -> Generation | None:
    previous = state.generation(at.previous) if at.previous else None
    return None if previous is None or previous.foreign else previous


def _is_rollback(generation: Generation, state: State) -> bool:
    return state.newest is not None and generation.id != state.newest.id


def _install(target: Target, generation: Generation, because: str, *, rollback: bool = False) -> Install:
    return Install(
        target=target.name,
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
    gone = tuple(sorted(state.targets.keys() - {target.name for target in spec.targets}))
    if gone and not state.doomed and state.owners.keys() <= spec.owners.keys():
        yield Forget(targets=gone, because="not configured any more")


def survey(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """What a mail server serves while certagent is new to it is covered like a generation of certagent's own."""
    for target in spec.targets:
        at = state.targets.get(target.name)
        if at is None:  # also where no TLSA name is configured: one may be while old processes live on
            yield Survey(target=target.name, because="what it serves now is not known yet")
        elif at and at.phase == "restored":
            yield Survey(target=target.name, because="its own files were put back; what is served is looked at")


# -- 3. the newest generation goes into service where nothing stands against it --------------------------------------


def deploy(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """The swap: only when no cache can hold a set that the new chain does not match. `act.py` asks once more."""
    newest = state.newest
    if newest is None:
        return
    for target in spec.targets:
        at = state.targets.get(target.name)
        if at is not None and (at.generation == newest.id or (at.phase in _UNDER_WAY and not _failing(state, target))):
            continue
        names = rollover.names_of(spec, state, target.name)
        obstacles = rollover.may_install(spec, state, target.name, newest, now)
        if newest.accept_deferrals:
            # the operator's choice: only the records must be out, caches are not waited for
            obstacles = [o for o in obstacles if rollover.missing(spec, state, o.owner)]
        if obstacles:
            yield from _waits(obstacles, f"{target.name}: not swapped to {newest.id}", spec)
            continue
        because = "no cache can hold a set without it" if names else "no TLSA records to mind"
        if newest.accept_deferrals:
            because = "the operator accepts deferrals: caches are not waited for"
        yield _install(target, newest, f"{because}; {_lived(newest, now)}")


_UNDER_WAY = ("installing", "installed", "reloaded", "disproven", "restoring", "restored")


def _failing(state: State, target: Target) -> bool:
    """What is under way at a mail server does not get on: then something newer need not wait for it."""
    return any(f"{verb} {target.name}" in state.failures for verb in ("install", "reload", "prove", "rollback"))


def _waits(obstacles: list[rollover.Obstacle], what: str, spec: Spec) -> Iterator[Wait]:
    # the longest obstacle decides; one without an end is looked at again by `look`
    unknown = [o for o in obstacles if o.remaining is None]
    worst = unknown[0] if unknown else max(obstacles, key=lambda o: o.remaining or timedelta(0))
    yield Wait(worst.remaining or spec.watch, f"{what}: {worst.owner} {worst.why}", swap=True)


def _lived(generation: Generation, now: Instant) -> str:
    return f"issued {int(now.since(generation.issued_at).total_seconds())} s ago"


# -- 4. TLSA records that should be there are added ------------------------------------------------------------------


def publish(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Whatever is served, about to be served or on stand-by has its record, at every TLSA name."""
    for name in spec.owners:
        owner = state.owner(name)
        if owner.sighting is None or rollover.changed_since_look(owner):
            continue
        if not caches.known(owner.sighting):
            continue
        held_back = rollover.withheld(spec, state, name)
        if held_back:
            yield Wait(spec.watch, f"{name} not published: {held_back}")
            continue
        values = rollover.missing(spec, state, name)
        if not values:
            continue
        if not _fresh(owner.looked_at, now):
            # a TTL that was raised since would be superseded unseen, and the wait would be too short
            yield _look(spec, state, name, "the last look before records are added")
            continue
        unseen = _unseen(owner, values, now, removes=False)
        if unseen:
            yield unseen
            continue
        yield Publish(owner=name, values=values, ttl_s=spec.ttl_s, because=_why_publish(state, name))


def _unseen(owner: Owner, values: frozenset[str], now: Instant, *, removes: bool) -> Wait | None:
    """The wait before a change that the provider accepted and no server shows is made once more."""
    change = owner.tried(values, removes=removes)
    made_at = (change.at if change else None) or owner.changed_at
    if change is None or made_at is None:
        return None
    left = schedule.write_again(change.tries) - now.since(made_at)
    return Wait(left, "the provider has accepted a change that is not to be seen yet") if left > timedelta(0) else None


def _why_publish(state: State, name: str) -> str:
    if rollover.empty(state.owners[name]):
        return "first publication: what is served is proven"
    if state.next_keys:
        return f"keys {state.next_keys.id} must be in every cache before they serve"
    return "a record of what is served is missing"


# -- 5. what was changed, or must not change unseen, is looked at ----------------------------------------------------


def look(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """After a change until every server follows; while caches are waited for; and now and then while nothing is due."""
    for name in rollover.owners(spec, state):
        owner = state.owner(name)
        if owner.sighting is None or owner.looked_at is None:
            yield _look(spec, state, name, "never looked at")
            continue
        if rollover.changed_since_look(owner):
            yield _look(spec, state, name, "changed, and not seen since", budget=SETTLE)
            continue
        every, why = _look_interval(spec, state, name, owner, now)
        left = every - now.since(owner.looked_at)
        if left > timedelta(0):
            yield Wait(left, f"{name} is looked at again: {why}")
        else:
            yield _look(spec, state, name, why)


def _look_interval(spec: Spec, state: State, name: str, owner: Owner, now: Instant) -> tuple[timedelta, str]:
    assert owner.sighting is not None
    assert owner.looked_at is not None
    if not caches.complete(owner.sighting):
        since = owner.looked_at.since(owner.changed_at) if owner.changed_at else timedelta(minutes=4)
        return schedule.look_again(since), "a server was not heard"
    if owner.changed_at and rollover.unfollowed(spec, state, name):
        return schedule.look_again(owner.looked_at.since(owner.changed_at)), "not every server has followed"
    waited_for = [
        caches.hold(h, rollover.path(owner), spec.guard)
        for h in rollover.held(spec, owner, now)
        if h.gone_at is not None and h.values and _matters(spec, state, name, h)
    ]
    if waited_for:
        return schedule.look_every(spec, min(waited_for)), "caches are waited for"
    return spec.watch, "watch"


def _matters(spec: Spec, state: State, name: str, held: caches.Held) -> bool:
    served = rollover.served_at(spec, state, name)
    coming = list(state.newest.leaves.values()) if state.newest else []
    if state.next_keys:
        coming += rollover.as_if_issued(state.next_keys, state.newest).values()
    return any(caches.hurt_by(held.values, leaf, served) for leaf in coming) or name not in spec.owners


def _look(spec: Spec, state: State, name: str, because: str, budget: timedelta = timedelta(0)) -> Look:
    expect = rollover.desired(spec, state, name)
    change = state.owners[name].change if name in state.owners else None
    leaving = change.values - expect if change and change.removes else frozenset[str]()
    targets = spec.owners.get(name, ())
    return Look(owner=name, targets=targets, expect=expect, gone=leaving, budget=budget, because=because)


def _fresh(then: Instant | None, now: Instant) -> bool:
    return then is not None and now.since(then) <= schedule.FRESH


# -- 6. records that nothing needs any more are removed --------------------------------------------------------------


def clean(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Old records go last: every target is proven afresh to serve nothing else (RFC 7671 section 8.1)."""
    for name in rollover.owners(spec, state):
        owner = state.owner(name)
        values = rollover.surplus(spec, state, name)
        if not values or rollover.changed_since_look(owner):
            continue
        if not rollover.withdrawn(spec, state, name):
            answering = rollover.answering(spec, state, name)
            targets = [t.name for t in spec.targets if t.name in answering]
            if any(t not in state.targets or state.targets[t].phase != "drained" for t in targets):
                # `finish` brings them there; a triple that is not configured goes as a whole, and hurts nobody
                values = frozenset(v for v in values if tlsa.triple(v) not in spec.triples)
                targets = []
                if not values:
                    continue
            stale = [t for t in targets if not _fresh(state.targets[t].proven_at, now)]
            if stale:
                generation = state.targets[stale[0]].generation
                assert generation is not None
                yield Prove(
                    target=stale[0], generation=generation, drained=True, because="proven afresh before old records go"
                )
                continue
        if not _fresh(owner.looked_at, now):
            yield _look(spec, state, name, "the last look before records go")
            continue
        unseen = _unseen(owner, values, now, removes=True)
        if unseen:
            yield unseen
            continue
        against = rollover.may_unpublish(spec, state, name, values)
        if against:
            yield Wait(spec.watch, f"not removed: {against}")
            continue
        because = (
            "nothing serves their keys any more"
            if name in spec.owners
            else "withdrawn: the name is not configured any more"
        )
        yield Unpublish(owner=name, values=values, because=because)


# -- 7. the rest -----------------------------------------------------------------------------------------------------


def abort(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """A roll is given up before the swap: its keys were never served, so they may go at any time."""
    if state.requested is None or state.requested.what != "abort":
        return
    installed = {id_ for t in state.targets.values() for id_ in t.serves}
    doomed = [g for g in state.generations if not g.foreign and g.id not in installed]
    served = {g.keys for g in state.generations if g.id in installed}
    keys = tuple(k.id for k in state.keys if k.id not in served)
    yield Forget(generations=tuple(g.id for g in doomed), keys=keys, because="the operator asked: abort")


def forget(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Old keys are deleted once they are served nowhere, published nowhere, and no roll-back would want them."""
    if state.doomed:
        doomed = state.doomed
        yield replace(doomed, because="deleting was interrupted")
        return
    if state.newest is None or not rollover.rolled(spec, state) or state.orders:
        return
    kept = {id_ for at in state.targets.values() for id_ in at.serves} | {state.newest.id}
    generations = tuple(g.id for g in state.generations if g.id not in kept and not g.revoke)
    wanted = {g.keys for g in state.generations if g.id not in generations} | {k.id for k in (state.next_keys,) if k}
    published = {v for o in state.owners.values() for v in rollover.seen_somewhere(o)}
    keys = tuple(
        k.id
        for k in state.keys
        if k.id not in wanted and not any(f"3 1 1 {spki}" in published for spki in k.spki.values())
    )
    owners = tuple(
        name
        for name, owner in state.owners.items()
        if name not in spec.owners
        and not any(h.values for h in rollover.held(spec, owner, now))
        and rollover.empty(owner)
        and (not (owner.changed_at and owner.looked_at) or owner.looked_at.since(owner.changed_at) > schedule.LATE)
    )
    if generations or keys or owners:
        yield Forget(
            generations=generations, keys=keys, owners=owners, because="nothing serves or publishes them any more"
        )


def watch(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """What is served is proven now and then, so that somebody else's change is noticed before a sender tells."""
    for target in spec.targets:
        at = state.targets.get(target.name)
        if at is None or at.generation is None or at.phase != "drained" or at.proven_at is None:
            continue
        left = spec.watch - now.since(at.proven_at)
        if left > timedelta(0):
            yield Wait(left, f"{target.name} is proven again: watch")
        else:
            yield Prove(target=target.name, generation=at.generation, drained=True, because="watch")
    yield Wait(spec.watch, "nothing is due")


RULES: tuple[Rule, ...] = (
    leave,
    abort,
    finish,
    survey,
    look,
    issuance.make_keys,  # before `publish`: a stand-by goes out with the records of what it stands by for
    publish,
    deploy,
    issuance.issue,
    issuance.tidy,
    clean,
    issuance.revoke,
    forget,
    issuance.ask_renewal,
    watch,
)
