"""What to do next for one certificate: an ordered tuple of small rules over (spec, state, now). This file is the rollover.

House rules:
1. A rule reads facts and offers steps or waits; it changes nothing, draws nothing and asks nobody. All it knows is in the
   journal's fold, so a user's journal reproduces every decision.
2. The first step that is not held back by its own earlier failure is taken. One step a pass; then facts are read again.
3. A rule never relies on an earlier rule having spoken: each checks itself what it needs.
4. What was not observed is unknown. Nothing irreversible is offered on it: before a swap or a removal every answer
   it rests on is fresh (`schedule.FRESH`), and `act.py` asks the same gates once more.
5. If no rule offers a step, the shortest of the waits is the answer. Something is always due some day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

from certagent.lifecycle import caches, rollover, schedule
from certagent.lifecycle.model import Instant, Spec, Target
from certagent.lifecycle.state import Generation, Installation, KeySet, Owner, State
from certagent.lifecycle.steps import (
    AnswerOrder,
    AnyStep,
    AskRenewal,
    Finalize,
    Forget,
    Install,
    Look,
    MakeKeys,
    PlaceOrder,
    Present,
    Prove,
    Publish,
    Reload,
    Revoke,
    Survey,
    Tidy,
    Unpublish,
    Wait,
)

Offer = AnyStep | Wait
Rule = Callable[[Spec, State, Instant], Iterator[Offer]]

SETTLE = timedelta(seconds=2)
"""How long one look asks again for a change just made: servers notified by their primary follow within this, or minutes later."""


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
    return min(waits, key=lambda w: w.delay)


# -- 1. what was begun at a mail server is brought to its end --------------------------------------------------------


def finish(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Installed -> reloaded -> proven -> old processes gone -> proven again; or put back."""
    for target in spec.targets:
        at = state.targets.get(target.name)
        if at is None or at.generation is None:
            continue
        match at.phase:
            case "installing":
                yield _install(
                    state, target, at.generation, "installing was interrupted", rollback=_is_rollback(at, state)
                )
            case "installed":
                yield Reload(target=target.name, because="installed; old processes go on with the old files")
            case "reloaded":
                yield from _prove_or_put_back(spec, state, target, at, now)
            case "proven" if at.reloaded_at is not None:
                left = spec.drain - now.since(at.reloaded_at)
                if left > timedelta(0):
                    yield Wait(left, f"{target.name}: processes from before the reload may serve the old key")
                else:
                    because = "old processes are gone by now"
                    yield Prove(target=target.name, generation=at.generation, drained=True, because=because)
            case "lost":
                yield _install(state, target, at.generation, "something else is served than was installed and proven")
            case _:
                pass


def _is_rollback(at: Installation, state: State) -> bool:
    return state.newest is not None and at.generation != state.newest.id


def _install(state: State, target: Target, id_: str, because: str, *, rollback: bool = False) -> Install:
    generation = state.generation(id_)
    accept = generation is not None and generation.accept_deferrals
    return Install(target=target.name, generation=id_, rollback=rollback, accept_deferrals=accept, because=because)


def _prove_or_put_back(spec: Spec, state: State, target: Target, at: Installation, now: Instant) -> Iterator[Offer]:
    assert at.generation is not None
    failure = state.failures.get(f"prove {target.name}")
    previous = state.generation(at.previous) if at.previous else None
    if (
        failure
        and failure.code == "mta.not_served"
        and previous
        and not previous.foreign
        and not _is_rollback(at, state)
        and not rollover.may_install(spec, state, target.name, previous, now)
    ):
        yield _install(state, target, previous.id, f"proof failed: {failure.detail}", rollback=True)
    drained = at.reloaded_at is not None and now.since(at.reloaded_at) >= spec.drain
    yield Prove(
        target=target.name, generation=at.generation, drained=drained, because="reloaded; what is served is proven"
    )


# -- 2. the newest generation goes into service where nothing stands against it --------------------------------------


def deploy(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """The swap: only when no cache can hold a set that the new chain does not match, and all answers are fresh."""
    newest = state.newest
    if newest is None:
        return
    for target in spec.targets:
        at = state.targets.get(target.name)
        if at is not None and at.generation is not None and (at.generation == newest.id or at.phase in _UNDER_WAY):
            continue
        names = [o for o in rollover.owners(spec, state) if target.name in rollover.answering(spec, o)]
        if names and at is None:
            yield Survey(target=target.name, because="what it serves now is not known yet")
            continue
        obstacles = rollover.may_install(spec, state, target.name, newest, now)
        if newest.accept_deferrals:
            # the operator's choice: only the records must be out, caches are not waited for
            obstacles = [o for o in obstacles if rollover.missing(spec, state, o.owner)]
        if obstacles:
            yield from _waits(obstacles, f"{target.name}: not swapped to {newest.id}", spec)
            continue
        stale = [n for n in names if not _fresh(state.owners[n].looked_at, now)]
        if stale:
            yield _look(spec, state, stale[0], "the last look before the swap")
            continue
        because = "no cache can hold a set without it" if names else "no TLSA records to mind"
        yield _install(state, target, newest.id, f"{because}; {_lived(newest, now)}")


_UNDER_WAY = ("installing", "installed", "reloaded")


def _waits(obstacles: list[rollover.Obstacle], what: str, spec: Spec) -> Iterator[Wait]:
    # the longest obstacle decides; one without an end is looked at again by `look`
    unknown = [o for o in obstacles if o.remaining is None]
    worst = unknown[0] if unknown else max(obstacles, key=lambda o: o.remaining or timedelta(0))
    yield Wait(worst.remaining or spec.watch, f"{what}: {worst.owner} {worst.why}")


def _lived(generation: Generation, now: Instant) -> str:
    return f"issued {int(now.since(generation.issued_at).total_seconds())} s ago"


# -- 3. TLSA records that should be there are added ------------------------------------------------------------------


def publish(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Whatever is served, about to be served or on stand-by has its record, at every TLSA name."""
    for name in spec.owners:
        owner = state.owners.get(name, Owner())
        if owner.sighting is None or _changed_since_look(owner):
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
        against = rollover.may_publish(spec, state, name, values)
        if against:
            yield Wait(spec.watch, f"not published: {against}")
            continue
        yield Publish(owner=name, values=values, ttl_s=spec.ttl_s, because=_why_publish(state, name))


def _why_publish(state: State, name: str) -> str:
    if rollover.empty(state.owners[name]):
        return "first publication: what is served is proven"
    if state.next_keys:
        return f"keys {state.next_keys.id} must be in every cache before they serve"
    return "a record of what is served is missing"


# -- 4. what was changed, or must not change unseen, is looked at ----------------------------------------------------


def look(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """After a change until every server follows; while caches are waited for; and now and then while nothing is due."""
    for name in rollover.owners(spec, state):
        owner = state.owners.get(name, Owner())
        if owner.sighting is None or owner.looked_at is None:
            yield _look(spec, state, name, "never looked at")
            continue
        if _changed_since_look(owner):
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
    # where a first publication is held back nothing is expected yet
    lacking = rollover.desired(spec, state, name) - rollover.seen_everywhere(owner)
    if owner.changed_at and (lacking or rollover.surplus(spec, state, name)):
        return schedule.look_again(owner.looked_at.since(owner.changed_at)), "not every server has followed"
    waited_for = [
        h.ttl_s for h in rollover.held(spec, owner, now) if h.gone_at is not None and _matters(spec, state, name, h)
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


def _changed_since_look(owner: Owner) -> bool:
    return (
        owner.changed_at is not None
        and owner.looked_at is not None
        and owner.looked_at.lived_s <= owner.changed_at.lived_s
    )


def _look(spec: Spec, state: State, name: str, because: str, budget: timedelta = timedelta(0)) -> Look:
    expect = rollover.desired(spec, state, name)
    leaving = state.owners[name].leaving - expect if name in state.owners else frozenset[str]()
    return Look(owner=name, expect=expect, gone=leaving, budget=budget, because=because)


def _fresh(then: Instant | None, now: Instant) -> bool:
    return then is not None and now.since(then) <= schedule.FRESH


# -- 5. certificates are issued when due -----------------------------------------------------------------------------


def issue(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """An order an algorithm, from a stored key to a stored, verified chain."""
    wanted = _wanted(spec, state, now)
    if isinstance(wanted, Wait):
        yield wanted
        return
    keys, because = wanted
    issued = state.issued if state.issued_keys == keys.id else {}
    todo = [a for a in spec.algorithms if a not in issued]
    for algorithm in todo:
        order = state.orders.get(algorithm)
        if order is None or order.keys != keys.id:
            replaces = state.newest.id if state.newest and algorithm in state.newest.leaves else None
            yield PlaceOrder(keys=keys.id, algorithm=algorithm, replaces=replaces, because=because)
        elif not order.presented:
            yield Present(algorithm=algorithm, because="the CA asks for a dns-01 challenge")
        elif not order.ready:
            yield AnswerOrder(algorithm=algorithm, because="the challenge values are in DNS")
        else:
            yield Finalize(
                keys=keys.id,
                algorithm=algorithm,
                generation=f"g{state.generations_made + 1}",
                completes=len(todo) == 1,
                because="the CA has seen the challenges",
            )
        return


def _wanted(spec: Spec, state: State, now: Instant) -> tuple[KeySet, str] | Wait:
    """The keys to issue for now, and why; or the wait until then."""
    newest, current = state.newest, state.current_keys
    if not state.keys:
        return Wait(schedule.LOOK_AT_MOST, "keys are made first")
    if newest is None or current is None:
        return state.keys[-1], "there is no certificate yet"
    urgent = _fallback(spec, state, now)
    if urgent:
        return urgent
    reason = _why_now(spec, state, newest, now)
    if isinstance(reason, Wait):
        return reason
    if not _rotates(spec, state, current, now):
        return current, reason
    following = state.next_keys
    if following is None or set(following.spki) != set(spec.algorithms):
        return Wait(schedule.LOOK_AT_MOST, f"{reason}; the next keys are made first")
    return following, reason


def _why_now(spec: Spec, state: State, newest: Generation, now: Instant) -> str | Wait:
    if state.requested and state.requested.what != "abort":
        return f"the operator asked: {state.requested.what}"
    if set(newest.leaves) != set(spec.algorithms):
        return f"the algorithms are now {', '.join(spec.algorithms)}"
    if any(set(leaf.names) != set(spec.names) for leaf in newest.leaves.values()):
        return f"the names are now {', '.join(spec.names)}"
    moment, why = schedule.due(state) or (now.wall, "")
    # a CA whose certificates are past their renewal date when they come must not be asked without end
    rest = min((leaf.not_after - leaf.not_before for leaf in newest.leaves.values())) / 4
    earliest = min(rest, timedelta(hours=1)) - now.since(newest.issued_at)
    left = max(moment - now.wall, earliest)
    if left > timedelta(0):
        return Wait(left, f"renewal is due {moment:%Y-%m-%d %H:%M:%S} UTC: {why}")
    return f"renewal is due: {why}"


def _fallback(spec: Spec, state: State, now: Instant) -> tuple[KeySet, str] | None:
    """The last chance: what is served runs out and its successor is still held back, so it is renewed with its own key."""
    newest = state.newest
    assert newest is not None
    for target in spec.targets:
        at = state.targets.get(target.name)
        served = state.generation(at.generation) if at and at.generation else None
        if served is None or served.foreign or served.keys == newest.keys or at is None or at.phase != "drained":
            continue
        keys = state.keyset(served.keys)
        late = any(now.wall >= schedule.last_chance(leaf) for leaf in served.leaves.values())
        if (
            keys
            and late
            and set(keys.spki) == set(spec.algorithms)
            and rollover.may_install(spec, state, target.name, newest, now)
        ):
            return keys, "the certificate runs out before its successor may serve: renewed with the same key"
    return None


def _rotates(spec: Spec, state: State, current: KeySet, now: Instant) -> bool:
    if set(current.spki) != set(spec.algorithms):
        return True
    if state.requested and state.requested.what in ("rotate", "emergency"):
        return True
    if spec.rotate_key is None or current.in_service_at is None:
        return False
    if now.wall - current.in_service_at.wall < spec.rotate_key:
        return False
    return not _too_late_to_roll(spec, state, now)


def _too_late_to_roll(spec: Spec, state: State, now: Instant) -> bool:
    newest, following = state.newest, state.next_keys
    if newest is None or not spec.owners:
        return False
    if not any(now.wall >= schedule.last_chance(leaf) for leaf in newest.leaves.values()):
        return False
    if following is None:
        return True
    leaves = list(rollover.as_if_issued(following, newest).values())
    return bool(rollover.obstacles(spec, state, leaves, list(spec.owners), now))


# -- 6. keys are made ahead ------------------------------------------------------------------------------------------


def make_keys(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """The first keys; the stand-by, as soon as a roll is over; without a stand-by, early enough before a renewal."""
    because = None
    if not state.keys:
        because = "there are no keys yet"
    elif state.newest is not None:
        current, following = state.current_keys, state.next_keys
        if following is not None and set(following.spki) == set(spec.algorithms):
            return
        if current is not None and set(current.spki) != set(spec.algorithms):
            because = f"the algorithms are now {', '.join(spec.algorithms)}"
        elif spec.standby and spec.owners and rollover.rolled(spec, state):
            because = "stand-by: a renewal, a revocation or an urgent window then never waits for caches"
        elif current is not None and _rotates(spec, state, current, now):
            moment, why = schedule.due(state) or (now.wall, "")
            left = moment - _lead(spec, state) - now.wall
            if state.requested:
                because = f"the operator asked: {state.requested.what}"
            elif left <= timedelta(0):
                because = f"caches must know the next key before the renewal at {moment:%Y-%m-%d %H:%M:%S} UTC ({why})"
            else:
                yield Wait(left, f"the next keys are made in time for the renewal at {moment:%Y-%m-%d %H:%M:%S} UTC")
    if because:
        yield MakeKeys(keys=f"k{state.keys_made + 1}", algorithms=spec.algorithms, because=because)


def _lead(spec: Spec, state: State) -> timedelta:
    """How long before a renewal its keys are published: the longest hold now in force, and time for servers to follow."""
    holds = [
        caches.hold(h, rollover.path(o), spec.guard)
        for n, o in state.owners.items()
        if n in spec.owners
        for h in o.held
    ]
    return max(holds) + schedule.LOOK_AT_MOST if holds else timedelta(0)


# -- 7. records that nothing needs any more are removed --------------------------------------------------------------


def clean(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Old records go last: every target is proven afresh to serve nothing else (RFC 7671 section 8.1)."""
    for name in rollover.owners(spec, state):
        owner = state.owners.get(name, Owner())
        values = rollover.surplus(spec, state, name)
        if not values or _changed_since_look(owner):
            continue
        if name in spec.owners:
            targets = rollover.answering(spec, name)
            if any(t not in state.targets or state.targets[t].phase != "drained" for t in targets):
                continue  # `finish` brings them there
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


# -- 8. the rest -----------------------------------------------------------------------------------------------------


def tidy(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Challenge values whose order is over leave DNS: too many of them make the answer too big."""
    needed = {c for order in state.orders.values() if not order.ready for c in order.challenges}
    over = tuple(c for c in state.challenges if c not in needed)
    if over:
        yield Tidy(challenges=over, because="their orders are over")


def abort(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """A roll is given up before the swap: its keys were never served, so they may go at any time."""
    if state.requested is None or state.requested.what != "abort":
        return
    installed = {id_ for t in state.targets.values() for id_ in t.serves}
    doomed = [g for g in state.generations if not g.foreign and g.id not in installed]
    served = {g.keys for g in state.generations if g.id in installed}
    keys = tuple(k.id for k in state.keys if k.id not in served)
    yield Forget(generations=tuple(g.id for g in doomed), keys=keys, because="the operator asked: abort")


def revoke(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """A compromised key's certificates are revoked as soon as nothing serves them."""
    served = {id_ for t in state.targets.values() for id_ in t.serves}
    for generation in state.generations:
        if generation.revoke and generation.id not in served:
            yield Revoke(generation=generation.id, because="its key is compromised, and nothing serves it any more")


def forget(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Old keys are deleted once they are served nowhere, published nowhere, and no roll-back would want them."""
    if state.newest is None or not rollover.rolled(spec, state) or state.orders:
        return
    kept = {id_ for t in state.targets.values() for id_ in t.serves} | {state.newest.id}
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
    )
    if generations or keys or owners:
        yield Forget(
            generations=generations, keys=keys, owners=owners, because="nothing serves or publishes them any more"
        )


def ask_renewal(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """The CA is asked when it wants a renewal, as often as it says, until the certificate is replaced (RFC 9773 section 4.3)."""
    newest = state.newest
    if newest is None:
        return
    for algorithm, leaf in newest.leaves.items():
        if now.wall >= leaf.not_after:
            continue
        renewal = state.renewals.get(algorithm)
        if renewal is None or renewal.generation != newest.id:
            yield AskRenewal(generation=newest.id, algorithm=algorithm, because="the CA was not asked yet")
            continue
        left = timedelta(seconds=renewal.drawn.ask_again_s) - now.since(renewal.asked_at)
        if left > timedelta(0):
            yield Wait(left, "the CA is asked for its renewal window again")
        else:
            yield AskRenewal(generation=newest.id, algorithm=algorithm, because="the CA's Retry-After is over")


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
    abort,
    finish,
    look,
    make_keys,  # before `publish`: a stand-by goes out with the records of what it stands by for
    publish,
    deploy,
    issue,
    tidy,
    clean,
    revoke,
    forget,
    ask_renewal,
    watch,
)
