"""One step that was taken, as people and programs read it; of a certificate, or of any other kind of subject."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct


class Step(Protocol):
    """One thing to do now. Every step is idempotent."""

    @property
    def because(self) -> str:
        """The rule and the facts it spoke on, for people."""
        ...

    @property
    def lane(self) -> Any:
        """The line of work: what a failure holds back, and nothing else. Hashable; its text is for people."""
        ...

    @property
    def changes(self) -> bool:
        """Whether it changes anything outside the journal; the intent is journaled before such a step."""
        ...


class Problem(Protocol):
    """Why something failed (see `errors.Error`)."""

    @property
    def kind(self) -> str:
        """What to do about it."""
        ...

    @property
    def code(self) -> str:
        """Stable."""
        ...

    @property
    def detail(self) -> str:
        """What happened."""
        ...

    @property
    def hint(self) -> str:
        """An action that works."""
        ...


class Failed(Problem, Protocol):
    """An event: a step failed."""

    @property
    def lane(self) -> Any:
        """Of the step."""
        ...


class StepReport(Struct, frozen=True):
    """One step, for people and programs: what, why, how it ended, how long it took."""

    kind: str
    """The kind of subject."""
    name: str
    """Its name within the kind."""
    seq: int
    """The last row of the journal that the step left."""
    step: Any
    """A `Step` of the kind."""
    failure: Failed | None
    took_s: float
    alarm: bool = False
    """It has failed for so long that a person must look."""
    defect: str = ""
    """Where in certagent's own code an unforeseen error came from; for the log at debug level only."""
