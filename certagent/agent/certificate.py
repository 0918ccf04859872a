"""The first kind of subject: a certificate, with its keys, its records and its mail servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from certagent.lifecycle import events as ev
from certagent.lifecycle.fold import fold
from certagent.lifecycle.schedule import alarms
from certagent.lifecycle.state import State
from certagent.store.subject import SubjectKind

if TYPE_CHECKING:
    from certagent.agent.edges import Edges
    from certagent.agent.subject import Note
    from certagent.errors import Error
    from certagent.facts.moment import Instant
    from certagent.facts.wait import Wait
    from certagent.lifecycle.spec import Spec
    from certagent.lifecycle.state import Failure
    from certagent.lifecycle.steps import AnyStep
    from certagent.report.conditions import Condition


def _new(name: str) -> State:
    return State(name=name)


def _topic(event: ev.AnyEvent) -> str | None:
    """Observations of a TLSA name, verifications of a mail server, renewal windows of a key type, and that somebody
    came to see: each has its part of the state.
    """
    match event:
        case ev.Observed():
            return f"observed {event.tlsa_name}"
        case ev.Verified():
            return f"verified {event.server}"
        case ev.RenewalInfo():
            return f"renewal {event.key_type}"
        case ev.Requested(what="retry"):
            return "asked"
        case _:
            return None


VERSION = 1
"""See `SubjectKind.version`. `tests/lifecycle/test_recorded.py` says when it must rise, and how."""

CERTIFICATE: SubjectKind[State, ev.AnyEvent] = SubjectKind(
    "certificate", ev.AnyEvent, State, _new, fold, VERSION, _topic
)


class Certificate:
    """One certificate of the configuration. See `Subject`."""

    kind = CERTIFICATE

    def __init__(self, spec: Spec, edges: Edges) -> None:
        self.name = spec.name
        self._spec = spec
        self._edges = edges

    def plan(self, state: State, now: Instant) -> AnyStep | Wait:
        """See `lifecycle/planner.py`."""
        from certagent.lifecycle.planner import plan  # `status` does without

        return plan(self._spec, state, now)

    def act(self, step: AnyStep, state: State, now: Instant, note: Note[ev.AnyEvent]) -> tuple[ev.AnyEvent, ...]:
        """See `agent/act`."""
        from certagent.agent.act.dispatch import act  # loads the ACME library; `status` does without

        return act(step, self._spec, state, self._edges, now, note)

    def intended(self, step: AnyStep) -> ev.AnyEvent:
        """See `Subject`."""
        return ev.Intended(step=step, lane=step.lane)

    def failed(self, step: AnyStep, error: Error) -> ev.AnyEvent:
        """See `Subject`."""
        from certagent.agent.act.outcome import failed

        return failed(error, step.lane)

    def failure(self, event: ev.AnyEvent) -> ev.Failed | None:
        """See `Subject`."""
        return event if isinstance(event, ev.Failed) else None

    def failing(self, state: State, step: AnyStep) -> str | None:
        """See `Subject`."""
        failure = state.failure(step.lane)
        return failure.detail if failure else None

    def failures(self, state: State) -> tuple[Failure, ...]:
        """See `Subject`."""
        return state.failing

    def alarm(self, state: State, step: AnyStep, now: Instant) -> bool:
        """See `Subject`."""
        failure = state.failure(step.lane)
        return failure is not None and alarms(failure, now)

    def conditions(self, state: State, now: Instant) -> tuple[Condition, ...]:
        """Those that `certagent status` says first; that nobody looks after it is none while somebody does."""
        from certagent.report.conditions import conditions

        return conditions(self._spec, state, now)

    def warnings(self, state: State) -> tuple[tuple[str, str], ...]:
        """There is no time for a whole roll before the newest chain expires."""
        from certagent.lifecycle.rules import rotation

        newest = state.newest
        if newest is None:
            return ()
        found = (rotation.no_time_to_roll(self._spec, state, chain) for chain in newest.chains.values())
        return tuple(("no_time_to_roll", why) for why in sorted({f"{newest.id}: {why}" for why in found if why}))
