"""Which writes to DNS wait, where a provider takes only so many in a day (`budget.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from certagent.facts.moment import Instant
from certagent.lifecycle import schedule
from certagent.lifecycle.budget import ZoneBudget
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.steps import AnyStep, CleanUp, Present, Publish, Unpublish, Wait
from certagent.lifecycle.tlsaname import TlsaNames


def urgent(step: AnyStep, spec: Spec, state: State, now: Instant) -> bool:
    """Whether mail is deferred, or a compromised key goes on serving, if the step waits for a day.

    So are a record of what is served that a set lacks, the challenges of a certificate that is about to expire, and
    both where a key is compromised. An old record or response is harmless, and a roll may begin tomorrow.
    """
    match step:
        case Publish():
            return _emergency(state) or TlsaNames(spec, state)[step.tlsa_name].repaired_by(step.values)
        case Present():
            return _emergency(state) or schedule.late(spec, state, now)
        case _:
            return False


def _emergency(state: State) -> bool:
    return state.requested is not None and state.requested.what == "emergency"


def held_back(step: AnyStep, spec: Spec, state: State, now: Instant) -> Wait | None:
    """The wait for a step that would write to a zone which takes no more for now; None if it may be done.

    Where an alias of a challenge leads is not known here: `agent/act` counts once more, just before each write, and
    also what other certificates wrote.
    """
    waits = [against(budget, step, spec, state, now) for budget in _written(step, state)]
    return max(filter(None, waits), key=lambda wait: wait.delay, default=None)


def against(budget: ZoneBudget, step: AnyStep, spec: Spec, state: State, now: Instant) -> Wait | None:
    """The wait before one more write of that step; None if it may be made."""
    wait, why = next_one(budget, now, urgent=urgent(step, spec, state, now))
    return Wait(wait, f"{step.lane}: {why}") if wait else None


def next_one(budget: ZoneBudget, now: Instant, *, urgent: bool) -> tuple[timedelta, str]:
    """How long until one more write may be made, and why; zero: now."""
    left = budget.left(now, urgent=urgent)
    rest = "" if urgent else "; the rest is kept for what is urgent"
    used = f"{budget.used(now)} of {budget.per_day} writes a day to {budget.zone} are used{rest}"
    return left, f"{used}; next {schedule.date(now.wall + left)}"


def _written(step: AnyStep, state: State) -> Iterator[ZoneBudget]:
    match step:
        case Publish() | Unpublish():
            seen = state.tlsa_name(step.tlsa_name).observation
            zones = {seen.zone} if seen else set[str]()
        case Present():
            zones = {_zone_of(one.name, state) for one in state.orders[step.key_type].challenges}
        case CleanUp():
            zones = {_zone_of(one.name, state) for one in step.challenges}
        case _:
            return
    yield from (budget for budget in state.budgets if budget.zone in zones)


def _zone_of(name: str, state: State) -> str:
    above = (b.zone for b in state.budgets if f".{name.rstrip('.')}.".endswith(f".{b.zone}"))
    return max(above, key=len, default="")
