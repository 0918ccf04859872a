"""Issuing: when a certificate is due, for which keys, and the way from an order to a stored chain.

The rules here are of the same kind as those of `planner.py`, which has their order and the house rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from certagent.facts.moment import Instant
from certagent.lifecycle import gates, schedule
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.rules import rotation
from certagent.lifecycle.rules.rule import Offer, View
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Generation, KeySet, Order, State
from certagent.lifecycle.steps import (
    AbandonOrder,
    CleanUp,
    FetchRenewalInfo,
    Finalize,
    PlaceOrder,
    Present,
    Respond,
    Wait,
    WaitsFor,
)


def issue(view: View) -> Iterator[Offer]:
    """One order per key type, from a stored key to a stored, verified chain."""
    spec, state, _, now = view
    wanted = _wanted(view)
    keys_id = None if isinstance(wanted, Wait) else wanted[0].id
    ca = _ca(spec, state)
    for key_type, order in state.orders.items():
        if order.keys != keys_id or order.ca != ca or key_type not in spec.key_types or _met_otherwise(spec, order):
            yield AbandonOrder(key_type=key_type, because="what it was for is not wanted any more")
    if isinstance(wanted, Wait):
        yield wanted
        return
    keys, because = wanted
    issued = state.issued if (state.issued_keys, state.issued_ca) == (keys.id, ca) else {}
    # the chain of the last completes the generation; where a journal says otherwise, all are ordered anew
    todo = [a for a in spec.key_types if a not in issued] or list(spec.key_types)
    key_type = todo[0]
    order = state.orders.get(key_type)
    if order is None or order.keys != keys.id or order.ca != ca or _met_otherwise(spec, order):
        # an order is of no use before what failed with the last one may be tried again; and another CA knows nothing
        # of what it replaces
        newest = state.newest
        replaces = newest.id if newest and key_type in newest.chains and newest.ca == ca else None
        order_it = PlaceOrder(keys=keys.id, key_type=key_type, replaces=replaces, ca=ca, because=because)
        yield _rest(state, key_type, now) or order_it
    elif not order.presented:
        yield Present(key_type=key_type, because="the CA asks for challenges")
    elif order.shown_at and (left := order.shown_at.since(now)) > timedelta(0):
        yield Wait(left, f"the DNS provider usually shows the responses by {schedule.date(order.shown_at.wall)}")
    elif not order.ready:
        waits_for, why = _waits_for(view, order)
        yield Respond(key_type=key_type, waits_for=waits_for, because=why)
    else:
        yield Finalize(
            keys=keys.id,
            key_type=key_type,
            generation=f"g{state.generations_made + 1}",
            completes=len(todo) == 1,
            because="the CA has seen the challenges",
        )


def _met_otherwise(spec: Spec, order: Order) -> bool:
    """The configuration has changed since: what the order needs is not what this host does now."""
    method = spec.challenge
    return not order.ready and any((one.type, one.webroot) != (method.type, method.webroot) for one in order.challenges)


def _waits_for(view: View, order: Order) -> tuple[WaitsFor, str]:
    """Which servers must show the responses. The CA judges: none of them stops a renewal until it is too late."""
    since = order.not_seen_since
    if since and (schedule.late(view.spec, view.state, view.now) or view.now.since(since) >= schedule.LAGGING):
        return "none", "the responses cannot be seen everywhere, and time runs out: the CA judges"
    if order.not_seen >= schedule.SILENT_TRIES:
        return "answering", "the responses are in place; a server that does not answer is passed over"
    return "all", "the responses are in place"


def _ca(spec: Spec, state: State) -> str:
    """The CA to order from: the one that was chosen last, as long as it is configured; otherwise the preferred one.

    So a change of CA stands in the journal, as the intent of an order, and is not taken back by a comparison.
    """
    return state.ca if state.ca in spec.cas else spec.cas[0]


def _rest(state: State, key_type: str, now: Instant) -> Wait | None:
    failures = map(state.failure, (Lane("validation", key_type), Lane("issuance", key_type)))
    return next((wait for f in failures if f and (wait := schedule.held_back(f, now, state))), None)


def _wanted(view: View) -> tuple[KeySet, str] | Wait:  # noqa: PLR0911 -- a decision table
    """The keys to issue for now, and why; or the wait until then."""
    spec, state, _, now = view
    newest, current = state.newest, state.current_keys
    if not state.keys or (newest is None and set(state.keys[-1].spki) != set(spec.key_types)):
        return Wait(schedule.OBSERVE_AT_MOST, "keys are made first")
    if newest is None or current is None:
        return state.keys[-1], "there is no certificate yet"
    urgent = _fallback(view)
    if urgent:
        return urgent
    reason = _why_now(spec, state, newest, now)
    if isinstance(reason, Wait):
        return reason
    if not rotation.rotates(view, current):
        return current, reason
    following = state.next_keys
    if following is None or set(following.spki) != set(spec.key_types):
        return Wait(schedule.OBSERVE_AT_MOST, f"{reason}; the next keys are made first")
    return following, reason


def _why_now(spec: Spec, state: State, newest: Generation, now: Instant) -> str | Wait:
    if because := rotation.at_once(spec, state, newest):
        return because
    moment, why = schedule.due(state) or (now.wall, "")
    left = max(moment - now.wall, schedule.earliest(state, newest) - now.since(newest.issued_at))
    if left > timedelta(0):
        return Wait(left, f"renewal is due {schedule.date(moment)}: {why}")
    return f"renewal is due: {why}"


def _fallback(view: View) -> tuple[KeySet, str] | None:
    """The last chance: what is served runs out and its successor may not serve yet, so its own key is renewed."""
    spec, state, names, now = view
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
            and gates.may_install(names, server.name, newest, now)
        ):
            return keys, "the certificate runs out before its successor may serve: renewed with the same key"
    return None


def clean_up(view: View) -> Iterator[Offer]:
    """Responses whose order is over are taken away: too many make a DNS answer too big."""
    needed = {c for order in view.state.orders.values() if not order.ready for c in order.challenges}
    over = tuple(c for c in view.state.challenges if c not in needed)
    if over:
        yield CleanUp(challenges=over, because="no order needs it any more")


def fetch_renewal_info(view: View) -> Iterator[Offer]:
    """The CA is asked when it wants a renewal, as often as it says, until the certificate is replaced (RFC 9773
    section 4.3).
    """
    spec, state, _, now = view
    newest = state.newest
    if newest is None or newest.ca not in spec.cas:
        return
    for key_type, chain in newest.chains.items():
        if now.wall >= chain.not_after:
            continue
        renewal = state.renewals.get(key_type)
        if renewal is None or renewal.generation != newest.id:
            yield FetchRenewalInfo(
                generation=newest.id, key_type=key_type, ca=newest.ca, because="the CA was not asked yet"
            )
            continue
        left = timedelta(seconds=renewal.drawn.ask_again_s) - now.since(renewal.asked_at)
        if left > timedelta(0):
            yield Wait(left, "the CA is asked for its renewal window again")
        else:
            yield FetchRenewalInfo(
                generation=newest.id, key_type=key_type, ca=newest.ca, because="the CA's Retry-After is over"
            )
