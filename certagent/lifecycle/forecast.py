"""The planner run ahead in an ideal world: every step succeeds at once, every server follows at once, nobody else acts.
What has failed by now waits for its retry, as in the real run, and then succeeds.

It is a promise about the rules, not about the world: the same rules decide again with what is really seen.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from msgspec import Struct
from msgspec.structs import replace

from certagent.facts.challenge import Challenge
from certagent.facts.dns import Answer, Observation
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, Served
from certagent.lifecycle import caches, gates
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.converged import rolled
from certagent.lifecycle.dropped import at_first_swap
from certagent.lifecycle.fold import fold
from certagent.lifecycle.planner import plan
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaNames
from certagent.lifecycle.whereabouts import place
from certagent.pki.names import challenge_name

LIMIT = 500
"""Passes of the planner; a roll has about forty. More would be a defect, and a forecast must end."""
_LIFE = timedelta(days=90)
"""What a first certificate is taken to live: the CA has not said yet."""
_FAR = timedelta(days=3650)
_GRAIN = timedelta(milliseconds=1)
"""What a wait that was counted in seconds may be too short."""


class Foreseen(Struct, frozen=True):
    """What is foreseen, and for when."""

    at: Instant
    step: st.AnyStep | st.Wait


def forecast(spec: Spec, state: State, now: Instant) -> list[Foreseen]:
    """Everything up to the end of the next roll, or of the one under way."""
    spec = replace(spec, check_interval=_FAR)  # the routine observations between would only hide what matters
    names = TlsaNames(spec, state)
    zone = {name.place: name.seen_somewhere for name in (*names, *names.undeclared)}
    first = state.newest
    result: list[Foreseen] = []
    for _ in range(LIMIT):
        step = plan(spec, state, now)
        result.append(Foreseen(now, step))
        if isinstance(step, st.Wait | st.Observe | st.Inspect) and _refused(spec, state, now):
            break
        if isinstance(step, st.Wait):
            if (
                state.newest is not first
                and rolled(spec, state)
                and step.delay > spec.safety_margin + timedelta(days=1)
            ):
                break
            delay = max(step.delay, timedelta(milliseconds=1))
            now = Instant(now.wall + delay, now.elapsed_s + delay.total_seconds())
            continue
        state = fold(state, ev.Intended(step=step, lane=step.lane), now)
        for event in _ideal(step, spec, state, zone, now):
            state = fold(state, event, now)
        now = Instant(now.wall + timedelta(milliseconds=1), now.elapsed_s + 0.001)
    return result


def _refused(spec: Spec, state: State, now: Instant) -> bool:
    """The swap goes on only when somebody has done something."""
    names, newest = TlsaNames(spec, state), state.newest
    obstacles = [o for s in spec.mail_servers if newest for o in gates.may_install(names, s.name, newest, now)]
    lost = any(at_first_swap(spec, state, server.name, spec.names, now.wall) for server in spec.mail_servers)
    return lost or any(obstacle.lasting for obstacle in obstacles)


def future_spki(keys: str, key_type: str) -> str:
    """Stands for the digest of a key that does not exist yet; it is never shown."""
    return hashlib.sha256(f"{keys} {key_type}".encode()).hexdigest()


def _ideal(  # noqa: C901, PLR0911, PLR0912 -- one line per step
    step: st.AnyStep, spec: Spec, state: State, zone: dict[str, frozenset[str]], now: Instant
) -> list[ev.AnyEvent]:
    lane = step.lane
    match step:
        case st.MakeKeys():
            spki = {key_type: future_spki(step.keys, key_type) for key_type in step.key_types}
            return [ev.KeysMade(keys=step.keys, spki=spki, lane=lane)]
        case st.PlaceOrder():
            challenges = tuple(
                Challenge(spec.challenge.type, n, n, "response", spec.challenge.webroot) for n in spec.names
            )
            placed = ev.OrderPlaced(
                key_type=step.key_type, keys=step.keys, url="", challenges=challenges, ca=step.ca, lane=lane
            )
            return [placed]
        case st.AbandonOrder():
            return [ev.OrderAbandoned(key_type=step.key_type, lane=lane)]
        case st.Present():
            zones = (spec.zone_of(challenge_name(name)) for name in spec.names)
            lag_s = max(zone.publish_lag.total_seconds() for zone in zones)
            return [ev.Presented(key_type=step.key_type, publish_lag_s=lag_s, lane=lane)]
        case st.Respond():
            return [ev.OrderReady(key_type=step.key_type, lane=lane)]
        case st.Finalize():
            chain = _chain(step, spec, state, now)
            return [
                ev.Issued(
                    key_type=step.key_type,
                    keys=step.keys,
                    generation=step.generation,
                    chain=chain,
                    completes=step.completes,
                    ca=state.orders[step.key_type].ca,
                    lane=lane,
                )
            ]
        case st.CleanUp():
            return [ev.CleanedUp(challenges=step.challenges, lane=lane)]
        case st.Observe():
            observation = _observation(step.tlsa_name, spec, state, zone, now)
            return [
                ev.Observed(
                    tlsa_name=step.tlsa_name,
                    observation=observation,
                    mail_servers=step.mail_servers,
                    undeclared=step.undeclared,
                    early=state.tlsa_name(step.tlsa_name).early(now),
                    lane=lane,
                )
            ]
        case st.Publish():
            late = _superseding(step, spec, state, zone)
            return [*late, ev.Published(tlsa_name=step.tlsa_name, values=step.values, lane=lane)]
        case st.Unpublish():
            late = _superseding(step, spec, state, zone)
            return [*late, ev.Unpublished(tlsa_name=step.tlsa_name, values=step.values, lane=lane)]
        case st.Inspect():
            return [ev.Inspected(server=step.server, served=(), lane=lane)]
        case st.Install():
            return [ev.Installed(server=step.server, generation=step.generation, lane=lane)]
        case st.Restore():
            return [ev.Restored(server=step.server, lane=lane)]
        case st.Reload():
            return [ev.Reloaded(server=step.server, lane=lane)]
        case st.Verify():
            served = _served(step, spec, state)
            done = ev.Verified(
                server=step.server, generation=step.generation, drained=step.drained, served=served, lane=lane
            )
            return [done]
        case st.FetchRenewalInfo():
            drawn = ev.RenewalInfo(
                generation=step.generation,
                key_type=step.key_type,
                ca=step.ca,
                start=None,
                end=None,
                at=None,
                ask_again_s=_FAR.total_seconds(),
                lane=lane,
            )
            old = state.renewals.get(step.key_type)
            if old and old.generation == step.generation:
                drawn = replace(old.drawn, ask_again_s=_FAR.total_seconds(), lane=lane)
            return [drawn]
        case st.Revoke():
            return [ev.Revoked(generation=step.generation, ca=step.ca, lane=lane)]
        case st.Delete():  # pragma: no branch -- the last of AnyStep; pyright holds the match to be whole
            return [ev.deleted(step)]


def _chain(step: st.Finalize, spec: Spec, state: State, now: Instant) -> Chain:
    keys = state.keyset(step.keys)
    old = state.newest.chains.get(step.key_type) if state.newest else None
    life = old.not_after - old.not_before if old else _LIFE
    return Chain(
        spki=keys.spki[step.key_type] if keys else "",
        issuers=old.issuers if old else (),
        names=spec.names,
        not_before=now.wall,
        not_after=now.wall + life,
        serial="",
    )


def _served(step: st.Verify, spec: Spec, state: State) -> tuple[Served, ...]:
    services = next(t.services for t in spec.mail_servers if t.name == step.server)
    generation = state.generation(step.generation)
    chains = generation.chains.items() if generation else ()
    return tuple(Served(s.host, "", s.port, key_type, chain, 0.0) for s in services for key_type, chain in chains)


def _superseding(
    step: st.Publish | st.Unpublish, spec: Spec, state: State, zone: dict[str, frozenset[str]]
) -> list[ev.AnyEvent]:
    """The zone is changed; an event if its provider publishes late."""
    here = place(state.tlsa_name(step.tlsa_name), step.tlsa_name)
    before = zone.get(here, frozenset())
    zone[here] = before | step.values if isinstance(step, st.Publish) else before - step.values
    lag, ttl_s = spec.zone_of(here).publish_lag, spec.published_ttl_s(here)
    late = ev.Superseding(
        tlsa_name=step.tlsa_name,
        before=before,
        before_ttl_s=ttl_s,
        after=zone[here],
        after_ttl_s=ttl_s,
        publish_lag_s=lag.total_seconds(),
    )
    return [late] if lag else []


def _observation(
    tlsa_name: str, spec: Spec, state: State, zone: dict[str, frozenset[str]], now: Instant
) -> Observation:
    here = place(state.tlsa_name(tlsa_name), tlsa_name)
    values, ttl_s = zone.get(here, frozenset()), spec.published_ttl_s(here)
    known = state.tlsa_names.get(tlsa_name)
    if known is None or known.observation is None or not caches.known(known.observation):
        return Observation(zone="", name=tlsa_name, answers={"every server": Answer(values, ttl_s)}, security="secure")
    seen = known.observation
    if known.changed_at and now.since(known.changed_at) + _GRAIN < timedelta(seconds=known.publish_lag_s):
        return seen
    path = caches.known(seen)[0].path
    answer = Answer(values, max([ttl_s, *(a.ttl_s for a in caches.known(seen))]), path)
    return replace(seen, answers=dict.fromkeys(seen.answers, answer))
