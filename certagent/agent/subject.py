"""What the reconcile loop asks of a subject: `certificate/NAME`, and each kind that follows.

A kind is one file: its `SubjectKind` for the journal, and a class with these methods for the loop. The certificate is
`agent/certificate.py`. Journal, loop and daemon know no kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from certagent.errors import Error
from certagent.facts.moment import Instant
from certagent.facts.wait import Wait
from certagent.report.conditions import Condition
from certagent.report.step import Failed, Problem, Step
from certagent.store.subject import SubjectKind

S = TypeVar("S")
E = TypeVar("E")
Note = Callable[[E], object]
"""Journals an event at once."""


class Subject(Protocol[S, E]):
    """One subject, with all that is needed to look after it."""

    @property
    def kind(self) -> SubjectKind[S, E]:
        """Its kind."""
        ...

    @property
    def name(self) -> str:
        """Its name within the kind."""
        ...

    def plan(self, state: S, now: Instant) -> Step | Wait:
        """The one thing to do now, or how long to wait and why. Pure: it asks nobody."""
        ...

    def act(self, step: Any, state: S, now: Instant, note: Note[E]) -> tuple[E, ...]:
        """Do the step; what happened. `note` journals at once what must not be forgotten however the step ends.

        Raises:
            Error: It could not be done.
        """
        ...

    def intended(self, step: Any) -> E:
        """The event before a step that changes anything."""
        ...

    def failed(self, step: Any, error: Error) -> E:
        """The event after a step that failed."""
        ...

    def failure(self, event: E) -> Failed | None:
        """The event, if it says that a step failed."""
        ...

    def failing(self, state: S, step: Any) -> str | None:
        """What holds the step's line of work back, as far as the state knows."""
        ...

    def failures(self, state: S) -> tuple[Problem, ...]:
        """Everything that fails, as far as the state knows; for people."""
        ...

    def alarm(self, state: S, step: Any, now: Instant) -> bool:
        """Whether that line of work has failed for so long that somebody must be woken."""
        ...

    def conditions(self, state: S, now: Instant) -> tuple[Condition, ...]:
        """What is wrong although no step fails; logged when it begins and when it ends."""
        ...

    def warnings(self, state: S) -> tuple[tuple[str, str], ...]:
        """What a person should know although nothing fails, by its word in the log; each is logged once."""
        ...
