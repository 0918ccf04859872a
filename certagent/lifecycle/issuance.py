"""Issuing: when a certificate is due, for which keys, and the way from an order to a stored chain.

The rules here are of the same kind as those of `planner.py`, which has their order and the house rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from certagent.facts.moment import Instant
from certagent.facts.tls import Chain
from certagent.lifecycle import caches, rollover, schedule
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Generation, KeySet, State
from certagent.lifecycle.steps import (
    AbandonOrder,
    AnyStep,
    CleanUp,
    FetchRenewalInfo,
    Finalize,
    MakeKeys,
    PlaceOrder,
    Present,
    Respond,
    Revoke,
    Wait,
)

Offer = AnyStep | Wait


def issue(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """An order an algorithm, from a stored key to a stored, verified chain."""
    wanted = _wanted(spec, state, now)
    keys_id = None if isinstance(wanted, Wait) else wanted[0].id
    for key_type, order in state.orders.items():
        if order.keys != keys_id or order.ca != spec.ca or key_type not in spec.key_types:
            yield AbandonOrder(key_type=key_type, because="what it was for is not wanted any more")
    if isinstance(wanted, Wait):
        yield wanted
        return
    keys, because = wanted
    issued = state.issued if state.issued_keys == keys.id else {}
    # the chain of the last completes the generation; where a journal says otherwise, all are ordered anew
    todo = [a for a in spec.key_types if a not in issued] or list(spec.key_types)
    key_type = todo[0]
    order = state.orders.get(key_type)
    if order is None or order.keys != keys.id or order.ca != spec.ca:
        # an order is of no use before what failed with the last one may be tried again; and another CA knows nothing
        # of what it replaces
        newest = state.newest
        replaces = newest.id if newest and key_type in newest.chains and newest.ca == spec.ca else None
        order_it = PlaceOrder(keys=keys.id, key_type=key_type, replaces=replaces, because=because)
        yield _rest(state, key_type, now) or order_it
    elif not order.presented:
        yield Present(key_type=key_type, because="the CA asks for a dns-01 challenge")
    elif not order.ready:
        yield Respond(key_type=key_type, because="the challenge values are in DNS")
    else:
        yield Finalize(
            keys=keys.id,
            key_type=key_type,
            generation=f"g{state.generations_made + 1}",
            completes=len(todo) == 1,
            because="the CA has seen the challenges",
        )


def _rest(state: State, key_type: str, now: Instant) -> Wait | None:
    for work in (f"validation {key_type}", f"issuance {key_type}"):
        failure = state.failures.get(work)
        left = schedule.retry_in(failure, now) if failure else timedelta(0)
        if failure and left > timedelta(0):
            return Wait(left, f"{work}: tried {failure.count} times, {failure.detail}")
    return None


def _wanted(spec: Spec, state: State, now: Instant) -> tuple[KeySet, str] | Wait:  # noqa: PLR0911 -- a decision table
    """The keys to issue for now, and why; or the wait until then."""
    newest, current = state.newest, state.current_keys
    if not state.keys or (newest is None and set(state.keys[-1].spki) != set(spec.key_types)):
        return Wait(schedule.OBSERVE_AT_MOST, "keys are made first")
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
    if following is None or set(following.spki) != set(spec.key_types):
        return Wait(schedule.OBSERVE_AT_MOST, f"{reason}; the next keys are made first")
    return following, reason


def _why_now(spec: Spec, state: State, newest: Generation, now: Instant) -> str | Wait:
    if because := _at_once(spec, state, newest):
        return because
    moment, why = schedule.due(state) or (now.wall, "")
    # a CA whose certificates are past their renewal date when they come must not be asked without end
    rest = min(chain.not_after - chain.not_before for chain in newest.chains.values()) / 4
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
    if set(newest.chains) != set(spec.key_types):
        return f"the algorithms are now {', '.join(spec.key_types)}"
    if any(not set(spec.names) <= set(chain.names) for chain in newest.chains.values()):
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
    for server in spec.mail_servers:
        at = state.mail_servers.get(server.name)
        served = state.generation(at.generation) if at and at.generation else None
        if served is None or served.unmanaged or served.keys == newest.keys or at is None or at.phase != "drained":
            continue
        if served.revoke:  # a compromised key is certified no more, come what may
            continue
        keys = state.keyset(served.keys)
        late = any(now.wall >= schedule.last_chance(chain) for chain in served.chains.values())
        if (
            keys
            and late
            and set(spec.key_types) <= set(keys.spki)
            and rollover.may_install(spec, state, server.name, newest, now)
        ):
            return keys, "the certificate runs out before its successor may serve: renewed with the same key"
    return None


def _rotates(spec: Spec, state: State, current: KeySet, now: Instant) -> bool:
    if set(current.spki) != set(spec.key_types):
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
    if newest is None or not spec.tlsa_names:
        return False
    if not any(now.wall >= schedule.last_chance(chain) for chain in newest.chains.values()):
        return False
    if following is None or any(failure.code == "vault.missing" for failure in state.failures.values()):
        return True
    chains = list(rollover.as_if_issued(following, newest).values())
    return bool(rollover.obstacles(spec, state, chains, list(spec.tlsa_names), now))


def make_keys(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """The first keys; the standby, as soon as a roll is over; without a standby, early enough before a renewal."""
    because = None
    if not state.keys or (state.newest is None and set(state.keys[-1].spki) != set(spec.key_types)):
        because = f"there are no keys of {', '.join(spec.key_types)} yet"
    elif state.newest is not None:
        current, following = state.current_keys, state.next_keys
        if following is not None and set(following.spki) == set(spec.key_types):
            return
        if current is not None and set(current.spki) != set(spec.key_types):
            because = f"the algorithms are now {', '.join(spec.key_types)}"
        elif spec.standby and spec.tlsa_names and rollover.rolled(spec, state):
            because = "standby: a renewal, a revocation or an urgent window then never waits for caches"
        elif current is not None and _rotates(spec, state, current, now):
            moment, why = schedule.due(state) or (now.wall, "")
            left = moment - _lead(spec, state) - now.wall
            because = _at_once(spec, state, state.newest)
            if because is None and left <= timedelta(0):
                because = f"caches must know the next key before the renewal at {schedule.tell(moment)} ({why})"
            elif because is None:
                yield Wait(left, f"the next keys are made in time for the renewal at {schedule.tell(moment)}")
    if because:
        yield MakeKeys(keys=f"k{state.keys_made + 1}", key_types=spec.key_types, because=because)


def _lead(spec: Spec, state: State) -> timedelta:
    """How long before a renewal its keys are published: the longest hold now in force, and time for servers to
    follow.
    """
    retire_interval = _longest_retire_interval(spec, state)
    return retire_interval + schedule.OBSERVE_AT_MOST if retire_interval else timedelta(0)


def _longest_retire_interval(spec: Spec, state: State) -> timedelta:
    holds = [
        caches.retire_interval(h, rollover.path(o), spec.safety_margin)
        for n, o in state.tlsa_names.items()
        if n in spec.tlsa_names
        for h in o.cached
    ]
    return max(holds, default=timedelta(0))


def no_time_to_roll(spec: Spec, state: State, chain: Chain) -> str | None:
    """Why no roll can be relied on with the lifetime of this chain and the TTLs in DNS; None where one can.

    A roll must end before the last chance though its clock has to begin anew once (a server regressed, a TTL was
    raised), and though the CA refuses for a day (RFC 7671 section 8.1; `schedule.CA_BACKOFF_S`). With a standby key it
    begins as soon as the certificate is served, else in time for the renewal; where the issuer is pinned, too, with the
    renewal itself, since only that tells the next issuer.
    """
    pinned = "2 1 1" in spec.tlsa_parameters
    if not spec.tlsa_names or (spec.rotate_key is None and not pinned):
        return None
    retire_interval = max(
        _longest_retire_interval(spec, state), caches.retire_interval_of(spec.ttl_s, spec.safety_margin)
    )
    begin = schedule.backstop(chain)
    if not pinned:
        begin = chain.not_before if spec.standby else begin - retire_interval - schedule.OBSERVE_AT_MOST
    room = schedule.last_chance(chain) - max(begin, chain.not_before)
    need = 2 * retire_interval + timedelta(seconds=schedule.CA_BACKOFF_S[-1])
    if need <= room:
        return None
    hours = [f"{t / timedelta(hours=1):.0f} h" for t in (need, retire_interval, room)]
    return (
        f"a roll may need {hours[0]}: {hours[1]} for caches, again where a server regresses, and a day for a CA that "
        f"refuses; of a lifetime of {(chain.not_after - chain.not_before) / timedelta(hours=1):.0f} h it has {hours[2]}"
    )


def clean_up(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Challenge values whose order is over leave DNS: too many of them make the answer too big."""
    needed = {c for order in state.orders.values() if not order.ready for c in order.challenges}
    over = tuple(c for c in state.challenges if c not in needed)
    if over:
        yield CleanUp(challenges=over, because="their orders are over")


def fetch_renewal_info(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """The CA is asked when it wants a renewal, as often as it says, until the certificate is replaced (RFC 9773
    section 4.3).
    """
    newest = state.newest
    if newest is None or newest.ca != spec.ca:
        return
    for key_type, chain in newest.chains.items():
        if now.wall >= chain.not_after:
            continue
        renewal = state.renewals.get(key_type)
        if renewal is None or renewal.generation != newest.id:
            yield FetchRenewalInfo(generation=newest.id, key_type=key_type, because="the CA was not asked yet")
            continue
        left = timedelta(seconds=renewal.drawn.ask_again_s) - now.since(renewal.asked_at)
        if left > timedelta(0):
            yield Wait(left, "the CA is asked for its renewal window again")
        else:
            yield FetchRenewalInfo(generation=newest.id, key_type=key_type, because="the CA's Retry-After is over")


def revoke(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """A compromised key's certificates are revoked as soon as no configured mail server serves them."""
    served = {
        id_ for t in spec.mail_servers if t.name in state.mail_servers for id_ in state.mail_servers[t.name].serves
    }
    for generation in state.generations:
        if generation.revoke and generation.id not in served:
            yield Revoke(generation=generation.id, because="its key is compromised, and nothing serves it any more")
