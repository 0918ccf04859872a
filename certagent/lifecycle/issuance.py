"""Issuing: when a certificate is due, for which keys, and the way from an order to a stored chain.

The rules here are of the same kind as those of `planner.py`, which has their order and the house rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from certagent.lifecycle import caches, rollover, schedule
from certagent.lifecycle.model import Instant, Spec
from certagent.lifecycle.state import Generation, KeySet, State
from certagent.lifecycle.steps import (
    AnswerOrder,
    AnyStep,
    AskRenewal,
    DropOrder,
    Finalize,
    MakeKeys,
    PlaceOrder,
    Present,
    Revoke,
    Tidy,
    Wait,
)
from certagent.pki.leaf import Leaf

Offer = AnyStep | Wait


def issue(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """An order an algorithm, from a stored key to a stored, verified chain."""
    wanted = _wanted(spec, state, now)
    keys_id = None if isinstance(wanted, Wait) else wanted[0].id
    for algorithm, order in state.orders.items():
        if order.keys != keys_id or order.ca != spec.ca or algorithm not in spec.algorithms:
            yield DropOrder(algorithm=algorithm, because="what it was for is not wanted any more")
    if isinstance(wanted, Wait):
        yield wanted
        return
    keys, because = wanted
    issued = state.issued if state.issued_keys == keys.id else {}
    # the chain of the last completes the generation; where a journal says otherwise, all are ordered anew
    todo = [a for a in spec.algorithms if a not in issued] or list(spec.algorithms)
    algorithm = todo[0]
    order = state.orders.get(algorithm)
    if order is None or order.keys != keys.id or order.ca != spec.ca:
        # an order is of no use before what failed with the last one may be tried again; and another CA knows nothing
        # of what it replaces
        newest = state.newest
        replaces = newest.id if newest and algorithm in newest.leaves and newest.ca == spec.ca else None
        order_it = PlaceOrder(keys=keys.id, algorithm=algorithm, replaces=replaces, because=because)
        yield _rest(state, algorithm, now) or order_it
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


def _rest(state: State, algorithm: str, now: Instant) -> Wait | None:
    for work in (f"validation {algorithm}", f"issuance {algorithm}"):
        failure = state.failures.get(work)
        left = schedule.retry_in(failure, now) if failure else timedelta(0)
        if failure and left > timedelta(0):
            return Wait(left, f"{work}: tried {failure.count} times, {failure.detail}")
    return None


def _wanted(spec: Spec, state: State, now: Instant) -> tuple[KeySet, str] | Wait:  # noqa: PLR0911 -- a decision table
    """The keys to issue for now, and why; or the wait until then."""
    newest, current = state.newest, state.current_keys
    if not state.keys or (newest is None and set(state.keys[-1].spki) != set(spec.algorithms)):
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
    if because := _at_once(spec, state, newest):
        return because
    moment, why = schedule.due(state) or (now.wall, "")
    # a CA whose certificates are past their renewal date when they come must not be asked without end
    rest = min(leaf.not_after - leaf.not_before for leaf in newest.leaves.values()) / 4
    earliest = min(rest, timedelta(hours=1)) - now.since(newest.issued_at)
    left = max(moment - now.wall, earliest)
    if left > timedelta(0):
        return Wait(left, f"renewal is due {schedule.tell(moment)}: {why}")
    return f"renewal is due: {why}"


def _at_once(spec: Spec, state: State, newest: Generation) -> str | None:
    """Why no renewal date is waited for."""
    if state.requested and state.requested.what != "abort":
        return f"the operator asked: {state.requested.what}"
    return _changed(spec, newest)


def _changed(spec: Spec, newest: Generation) -> str | None:
    if set(newest.leaves) != set(spec.algorithms):
        return f"the algorithms are now {', '.join(spec.algorithms)}"
    if any(not set(spec.names) <= set(leaf.names) for leaf in newest.leaves.values()):
        return f"the names are now {', '.join(spec.names)}"
    if newest.ca != spec.ca:
        return f"the CA is now {spec.ca}"
    return None


def _fallback(spec: Spec, state: State, now: Instant) -> tuple[KeySet, str] | None:
    """The last chance: what is served runs out and its successor is still held back, so it is renewed with its own
    key.
    """
    newest = state.newest
    assert newest is not None
    for target in spec.targets:
        at = state.targets.get(target.name)
        served = state.generation(at.generation) if at and at.generation else None
        if served is None or served.foreign or served.keys == newest.keys or at is None or at.phase != "drained":
            continue
        if served.revoke:  # a compromised key is certified no more, come what may
            continue
        keys = state.keyset(served.keys)
        late = any(now.wall >= schedule.last_chance(leaf) for leaf in served.leaves.values())
        if (
            keys
            and late
            and set(spec.algorithms) <= set(keys.spki)
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
    if following is None or any(failure.code == "vault.missing" for failure in state.failures.values()):
        return True
    leaves = list(rollover.as_if_issued(following, newest).values())
    return bool(rollover.obstacles(spec, state, leaves, list(spec.owners), now))


def make_keys(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """The first keys; the stand-by, as soon as a roll is over; without a stand-by, early enough before a renewal."""
    because = None
    if not state.keys or (state.newest is None and set(state.keys[-1].spki) != set(spec.algorithms)):
        because = f"there are no keys of {', '.join(spec.algorithms)} yet"
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
            because = _at_once(spec, state, state.newest)
            if because is None and left <= timedelta(0):
                because = f"caches must know the next key before the renewal at {schedule.tell(moment)} ({why})"
            elif because is None:
                yield Wait(left, f"the next keys are made in time for the renewal at {schedule.tell(moment)}")
    if because:
        yield MakeKeys(keys=f"k{state.keys_made + 1}", algorithms=spec.algorithms, because=because)


def _lead(spec: Spec, state: State) -> timedelta:
    """How long before a renewal its keys are published: the longest hold now in force, and time for servers to
    follow.
    """
    hold = _longest_hold(spec, state)
    return hold + schedule.LOOK_AT_MOST if hold else timedelta(0)


def _longest_hold(spec: Spec, state: State) -> timedelta:
    holds = [
        caches.hold(h, rollover.path(o), spec.guard)
        for n, o in state.owners.items()
        if n in spec.owners
        for h in o.held
    ]
    return max(holds, default=timedelta(0))


def tight(spec: Spec, state: State, leaf: Leaf) -> str | None:
    """Why no roll can be relied on with the lifetime of this chain and the TTLs in DNS; None where one can.

    A roll must end before the last chance though its clock has to begin anew once (a server regressed, a TTL was
    raised), and though the CA refuses for a day (RFC 7671 section 8.1; `schedule.CA_BACKOFF_S`). With a stand-by key it
    begins as soon as the certificate is served, else in time for the renewal; where the issuer is pinned, too, with the
    renewal itself, since only that tells the next issuer.
    """
    pinned = "2 1 1" in spec.triples
    if not spec.owners or (spec.rotate_key is None and not pinned):
        return None
    hold = max(_longest_hold(spec, state), caches.hold_of(spec.ttl_s, spec.guard))
    begin = schedule.backstop(leaf)
    if not pinned:
        begin = leaf.not_before if spec.standby else begin - hold - schedule.LOOK_AT_MOST
    room = schedule.last_chance(leaf) - max(begin, leaf.not_before)
    need = 2 * hold + timedelta(seconds=schedule.CA_BACKOFF_S[-1])
    if need <= room:
        return None
    hours = [f"{t / timedelta(hours=1):.0f} h" for t in (need, hold, room)]
    return (
        f"a roll may need {hours[0]}: {hours[1]} for caches, again where a server regresses, and a day for a CA that "
        f"refuses; of a lifetime of {(leaf.not_after - leaf.not_before) / timedelta(hours=1):.0f} h it has {hours[2]}"
    )


def tidy(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Challenge values whose order is over leave DNS: too many of them make the answer too big."""
    needed = {c for order in state.orders.values() if not order.ready for c in order.challenges}
    over = tuple(c for c in state.challenges if c not in needed)
    if over:
        yield Tidy(challenges=over, because="their orders are over")


def ask_renewal(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """The CA is asked when it wants a renewal, as often as it says, until the certificate is replaced (RFC 9773
    section 4.3).
    """
    newest = state.newest
    if newest is None or newest.ca != spec.ca:
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


def revoke(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """A compromised key's certificates are revoked as soon as no configured mail server serves them."""
    served = {id_ for t in spec.targets if t.name in state.targets for id_ in state.targets[t.name].serves}
    for generation in state.generations:
        if generation.revoke and generation.id not in served:
            yield Revoke(generation=generation.id, because="its key is compromised, and nothing serves it any more")
