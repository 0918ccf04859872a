"""When new keys are made, and whether there is time to roll to them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from certagent.facts.tls import Chain
from certagent.lifecycle import caches, gates, schedule
from certagent.lifecycle.converged import rolled
from certagent.lifecycle.rules.rule import Offer, View
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Generation, KeySet, State
from certagent.lifecycle.steps import MakeKeys, Wait
from certagent.lifecycle.tlsaname import TlsaNames
from certagent.pki import tlsa


def make_keys(view: View) -> Iterator[Offer]:
    """The first keys; the standby, as soon as a roll is over; without a standby, early enough before a renewal."""
    spec, state, names, now = view
    because = None
    if not state.keys or (state.newest is None and set(state.keys[-1].spki) != set(spec.key_types)):
        because = f"there are no keys of {', '.join(spec.key_types)} yet"
    elif state.newest is not None:
        current, following = state.current_keys, state.next_keys
        if following is not None and set(following.spki) == set(spec.key_types):
            return
        if current is not None and set(current.spki) != set(spec.key_types):
            because = f"the key types are now {', '.join(spec.key_types)}"
        elif spec.standby and spec.tlsa_names and rolled(spec, state):
            because = "standby: a renewal, a revocation or an urgent window then never waits for caches"
        elif current is not None and rotates(view, current):
            moment, why = schedule.due(state) or (now.wall, "")
            left = moment - _lead(names) - now.wall
            because = at_once(spec, state, state.newest)
            if because is None and left <= timedelta(0):
                because = f"caches must know the next key before the renewal at {schedule.date(moment)} ({why})"
            elif because is None:
                yield Wait(left, f"the next keys are made in time for the renewal at {schedule.date(moment)}")
    if because:
        yield MakeKeys(keys=f"k{state.keys_made + 1}", key_types=spec.key_types, because=because)


def at_once(spec: Spec, state: State, newest: Generation) -> str | None:
    """Why no renewal date is waited for."""
    if state.requested and state.requested.what != "abort":
        return f"the operator asked: {state.requested.what}"
    return _changed(spec, newest)


def _changed(spec: Spec, newest: Generation) -> str | None:
    if set(newest.chains) != set(spec.key_types):
        return f"the key types are now {', '.join(spec.key_types)}"
    if any(not set(spec.names) <= set(chain.names) for chain in newest.chains.values()):
        return f"the names are now {', '.join(spec.names)}"
    if newest.ca not in spec.cas:
        return f"the CA is now {spec.cas[0]}"
    return None


def rotates(view: View, current: KeySet) -> bool:
    """The next renewal is for new keys."""
    spec, state, _, now = view
    if set(current.spki) != set(spec.key_types):
        return True
    if state.requested and state.requested.what in ("rotate", "emergency"):
        return True
    if spec.rotate_key is None or current.in_service_at is None:
        return False
    if now.wall - current.in_service_at.wall < spec.rotate_key:
        return False
    return not _too_late_to_roll(view)


def _too_late_to_roll(view: View) -> bool:
    spec, state, names, now = view
    newest, following = state.newest, state.next_keys
    if newest is None or not spec.tlsa_names:
        return False
    if not any(now.wall >= schedule.last_chance(chain) for chain in newest.chains.values()):
        return False
    if following is None or any(failure.concerns == "key" for failure in state.failing):
        return True
    return bool(gates.obstacles(names.configured, tuple(following.as_if_issued(newest).values()), now))


def _lead(names: TlsaNames) -> timedelta:
    """How long before a renewal its keys are published: the longest retire interval, what the DNS provider takes to
    publish, and time for servers to follow.
    """
    retire_interval = _longest_retire_interval(names)
    return retire_interval + _publish_lag(names) + schedule.OBSERVE_AT_MOST if retire_interval else timedelta(0)


def _publish_lag(names: TlsaNames) -> timedelta:
    return max((names.spec.zone_of(name.place).publish_lag for name in names.configured), default=timedelta(0))


def _longest_retire_interval(names: TlsaNames) -> timedelta:
    intervals = (name.retire_interval(item) for name in names.configured for item in name.known.cached)
    return max(intervals, default=timedelta(0))


def no_time_to_roll(spec: Spec, state: State, chain: Chain) -> str | None:
    """Why no roll can be relied on with the lifetime of this chain and the TTLs in DNS; None if one can.

    A roll must end before the last chance though its clock has to begin anew once (a server regressed, a TTL was
    raised), and though the CA refuses for a day (RFC 7671 section 8.1; `schedule.CA_BACKOFF_S`). With a standby key it
    begins as soon as the certificate is served, else in time for the renewal; where the issuer is pinned, too, with the
    renewal itself, since only that tells the next issuer. A provider that publishes late delays the records, also the
    second time, and the challenges of each key type.
    """
    pinned = tlsa.DANE_TA_SPKI_SHA256 in spec.tlsa_parameters
    if not spec.tlsa_names or (spec.rotate_key is None and not pinned):
        return None
    names = TlsaNames(spec, state)
    ttl_s = max(spec.published_ttl_s(name.place) for name in names.configured)
    retire_interval = max(_longest_retire_interval(names), caches.retire_interval_of(ttl_s, spec.safety_margin))
    lag = _publish_lag(names)
    challenges = max((spec.zone_of(name).publish_lag for name in spec.challenge_names), default=timedelta(0))
    late = 2 * lag + len(spec.key_types) * challenges
    begin = schedule.backstop(chain)
    if not pinned:
        begin = chain.not_before if spec.standby else begin - retire_interval - lag - schedule.OBSERVE_AT_MOST
    room = schedule.last_chance(chain) - max(begin, chain.not_before)
    need = 2 * retire_interval + late + timedelta(seconds=schedule.CA_BACKOFF_S[-1])
    if need <= room:
        return None
    life = chain.not_after - chain.not_before
    hours = [f"{t / timedelta(hours=1):.0f} h" for t in (need, retire_interval, room, life)]
    slow = f"{late / timedelta(hours=1):.1f} h for a DNS provider that publishes late, " if late else ""
    return (
        f"a roll may need {hours[0]}: {hours[1]} for caches, again where a server regresses, {slow}and a day for a CA "
        f"that refuses; of a lifetime of {hours[3]} it has {hours[2]}"
    )
