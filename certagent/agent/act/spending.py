"""Writes to a provider that takes only so many a day: each is counted, by the journal, before it is made."""

from __future__ import annotations

from typing import Protocol

from certagent.agent.act.outcome import Note
from certagent.agent.edges import Edges
from certagent.dns.providers.protocol import Capabilities
from certagent.errors import Transient
from certagent.facts.moment import Instant
from certagent.lifecycle import budget, writes
from certagent.lifecycle import events as ev
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.steps import AnyStep


class Spend(Protocol):
    """Asked before each write, alone with the zone."""

    def __call__(self, zone: str, capabilities: Capabilities) -> None:
        """Count one write to the zone.

        Raises:
            Transient: `dns.budget`: It has to wait.
        """
        ...


def uncounted(zone: str, capabilities: Capabilities) -> None:
    """Where nothing is written, or nobody else writes."""


class Counted:
    """Those of one step. What other certificates wrote to the zone counts, too."""

    def __init__(self, step: AnyStep, spec: Spec, state: State, edges: Edges, now: Instant, note: Note) -> None:
        self._step, self._spec, self._state = step, spec, state
        self._edges, self._now, self._note = edges, now, note
        self._own = state.budgets

    def __call__(self, zone: str, capabilities: Capabilities) -> None:
        """See `Spend`."""
        per_day = capabilities.writes_per_day
        if per_day is None:
            return
        every = budget.together((*self._own, *self._edges.budgets_elsewhere()), zone, per_day)
        if wait := writes.against(every, self._step, self._spec, self._state, self._now):
            raise Transient("dns.budget", wait.because, "nothing: it is made then; certagent status has the count")
        self._note(ev.Writing(zone=zone, per_day=per_day))
        self._own = budget.noted(self._own, zone, per_day, self._now)
