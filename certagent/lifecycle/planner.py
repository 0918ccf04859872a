"""What to do next for one certificate: small rules over (spec, state, now), in order. This file is the rollover.

House rules:
1. A rule reads facts and offers steps or waits; it changes nothing, draws nothing and asks nobody. All it knows is in
   the journal's fold, so a user's journal reproduces every decision.
2. The first step that neither its own earlier failure nor its provider's budget holds back is taken. One step per
   pass; then all is read anew.
3. A rule never relies on an earlier rule having spoken: each checks itself what it needs.
4. What was not observed is unknown. Nothing irreversible is offered on it. Before a removal every answer that it rests
   on is fresh (`schedule.FRESH`). For a swap DNS is asked in the same breath, and `agent/act` asks the same gates.
5. If no rule offers a step, the shortest of the waits is the answer. Something is always due some day.
"""

from __future__ import annotations

from msgspec.structs import replace

from certagent.facts.moment import Instant
from certagent.lifecycle import schedule, writes
from certagent.lifecycle.rules import deployment, disposal, issuance, records, rotation, undeclared
from certagent.lifecycle.rules.rule import Offer, Rule, View
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.steps import Wait

RULES: tuple[Rule, ...] = (
    disposal.delete_mail_servers,
    disposal.abort,
    deployment.finish,
    deployment.inspect,
    records.observe,
    undeclared.observe_undeclared,
    rotation.make_keys,  # before `publish`: the record of a standby key is added with the others
    records.publish,
    deployment.deploy,
    issuance.issue,
    issuance.clean_up,
    records.unpublish,
    disposal.revoke,
    disposal.delete,
    issuance.fetch_renewal_info,
    deployment.verify,
)


def plan(spec: Spec, state: State, now: Instant) -> Offer:
    """The one thing to do now, or how long to wait and why."""
    view = View.of(spec, state, now)
    waits: list[Wait] = []
    for rule in RULES:
        for offer in rule(view):
            if isinstance(offer, Wait):
                waits.append(offer)
                continue
            failure = state.failure(offer.lane)
            held_back = schedule.held_back(failure, now, state) if failure else None
            held_back = held_back or writes.held_back(offer, spec, state, now)
            if held_back is None:
                return offer
            waits.append(held_back)
    first = min(waits, key=lambda w: w.delay)
    swap = next((w for w in waits if w.swap), first)
    return first if swap is first else replace(first, because=f"{swap.because}; meanwhile {first.because}")
