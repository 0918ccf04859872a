"""The planner run ahead in an ideal world: every step succeeds at once, every server follows at once, nobody else acts.

What it tells is a promise about the rules, not about the world: the same rules decide again with what is really seen.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from msgspec import Struct
from msgspec.structs import replace

from certagent.lifecycle import caches, rollover
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.fold import fold
from certagent.lifecycle.model import Answer, Instant, Served, Sighting, Spec
from certagent.lifecycle.planner import plan
from certagent.lifecycle.state import State
from certagent.pki.leaf import Leaf

LIMIT = 500
"""Passes of the planner; a roll has about forty. More would be a defect, and a forecast must end."""
_LIFE = timedelta(days=90)
"""What a first certificate is taken to live: the CA has not said yet."""
_FAR = timedelta(days=3650)


class Foreseen(Struct, frozen=True):
    """What is foreseen, and for when."""

    at: Instant
    step: st.AnyStep | st.Wait


def forecast(spec: Spec, state: State, now: Instant) -> list[Foreseen]:
    """Everything up to the end of the next roll, or of the one under way."""
    spec = replace(spec, watch=_FAR)  # the routine looks between would only hide what matters
    state = replace(state, failures={})
    zone = {rollover.place(state, name): rollover.seen_somewhere(owner) for name, owner in state.owners.items()}
    first = state.newest
    result: list[Foreseen] = []
    for _ in range(LIMIT):
        step = plan(spec, state, now)
        result.append(Foreseen(now, step))
        if isinstance(step, st.Wait):
            if (
                state.newest is not first
                and rollover.rolled(spec, state)
                and step.delay > spec.guard + timedelta(days=1)
            ):
                break
            delay = max(step.delay, timedelta(milliseconds=1))
            now = Instant(now.wall + delay, now.lived_s + delay.total_seconds())
            continue
        state = fold(state, ev.Intended(step=step, work=step.work), now)
        for event in _ideal(step, spec, state, zone, now):
            state = fold(state, event, now)
        now = Instant(now.wall + timedelta(milliseconds=1), now.lived_s + 0.001)
    return result


def _ideal(  # noqa: C901, PLR0911, PLR0912 -- one line a step
    step: st.AnyStep, spec: Spec, state: State, zone: dict[str, frozenset[str]], now: Instant
) -> list[ev.AnyEvent]:
    work = step.work
    match step:
        case st.MakeKeys():
            spki = {a: hashlib.sha256(f"{step.keys} {a}".encode()).hexdigest() for a in step.algorithms}
            return [ev.KeysMade(keys=step.keys, spki=spki, work=work)]
        case st.PlaceOrder():
            challenges = tuple((f"_acme-challenge.{n.removeprefix('*.')}.", f"for {n}") for n in spec.names)
            placed = ev.OrderPlaced(
                algorithm=step.algorithm, keys=step.keys, url="", challenges=challenges, ca=spec.ca, work=work
            )
            return [placed]
        case st.DropOrder():
            return [ev.OrderGone(algorithm=step.algorithm, work=work)]
        case st.Present():
            return [ev.Presented(algorithm=step.algorithm, work=work)]
        case st.AnswerOrder():
            return [ev.OrderReady(algorithm=step.algorithm, work=work)]
        case st.Finalize():
            leaf = _leaf(step, spec, state, now)
            return [
                ev.Issued(
                    algorithm=step.algorithm,
                    keys=step.keys,
                    generation=step.generation,
                    leaf=leaf,
                    completes=step.completes,
                    work=work,
                )
            ]
        case st.Tidy():
            return [ev.Tidied(challenges=step.challenges, work=work)]
        case st.Look():
            sighting = _sighting(step.owner, spec, state, zone)
            return [ev.Looked(owner=step.owner, sighting=sighting, targets=step.targets, work=work)]
        case st.Publish():
            here = rollover.place(state, step.owner)
            zone[here] = zone.get(here, frozenset()) | step.values
            return [ev.Published(owner=step.owner, values=step.values, work=work)]
        case st.Unpublish():
            here = rollover.place(state, step.owner)
            zone[here] = zone.get(here, frozenset()) - step.values
            return [ev.Unpublished(owner=step.owner, values=step.values, work=work)]
        case st.Survey():
            return [ev.Surveyed(target=step.target, served=(), work=work)]
        case st.Install():
            return [ev.Installed(target=step.target, generation=step.generation, work=work)]
        case st.Restore():
            return [ev.Restored(target=step.target, work=work)]
        case st.Reload():
            return [ev.Reloaded(target=step.target, work=work)]
        case st.Prove():
            served = _served(step, spec, state)
            done = ev.Proven(
                target=step.target, generation=step.generation, drained=step.drained, served=served, work=work
            )
            return [done]
        case st.AskRenewal():
            drawn = ev.RenewalInfo(
                generation=step.generation,
                algorithm=step.algorithm,
                start=None,
                end=None,
                at=None,
                ask_again_s=_FAR.total_seconds(),
                work=work,
            )
            old = state.renewals.get(step.algorithm)
            if old and old.generation == step.generation:
                drawn = replace(old.drawn, ask_again_s=_FAR.total_seconds(), work=work)
            return [drawn]
        case st.Revoke():
            return [ev.Revoked(generation=step.generation, work=work)]
        case st.Forget():  # pragma: no branch -- the last of AnyStep; pyright holds the match to be whole
            return [ev.forgotten(step)]


def _leaf(step: st.Finalize, spec: Spec, state: State, now: Instant) -> Leaf:
    keys = state.keyset(step.keys)
    old = state.newest.leaves.get(step.algorithm) if state.newest else None
    life = old.not_after - old.not_before if old else _LIFE
    return Leaf(
        spki=keys.spki[step.algorithm] if keys else "",
        issuers=old.issuers if old else (),
        names=spec.names,
        not_before=now.wall,
        not_after=now.wall + life,
        serial="",
    )


def _served(step: st.Prove, spec: Spec, state: State) -> tuple[Served, ...]:
    services = next(t.services for t in spec.targets if t.name == step.target)
    generation = state.generation(step.generation)
    leaves = generation.leaves.items() if generation else ()
    return tuple(Served(s.host, "", s.port, algorithm, leaf, 0.0) for s in services for algorithm, leaf in leaves)


def _sighting(owner: str, spec: Spec, state: State, zone: dict[str, frozenset[str]]) -> Sighting:
    values = zone.get(rollover.place(state, owner), frozenset())
    known = state.owners.get(owner)
    if known is None or known.sighting is None or not caches.known(known.sighting):
        return Sighting(zone="", name=owner, answers={"every server": Answer(values, spec.ttl_s)}, security="secure")
    seen = known.sighting
    path = caches.known(seen)[0].path
    answer = Answer(values, max([spec.ttl_s, *(a.ttl_s for a in caches.known(seen))]), path)
    return replace(seen, answers=dict.fromkeys(seen.answers, answer))
