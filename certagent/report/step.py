"""One step that was taken, as people and programs read it."""

from __future__ import annotations

from msgspec import Struct

from certagent.lifecycle import events as ev
from certagent.lifecycle.steps import AnyStep


class StepReport(Struct, frozen=True):
    """One step, for people and programs: what, why, how it ended, how long it took."""

    certificate: str
    seq: int
    step: AnyStep
    failure: ev.Failed | None
    took_s: float
    alarm: bool = False
    """A mail server has failed to take what it was given for so long that a person must look."""
    defect: str = ""
    """Where in certagent's own code an unforeseen error came from; for the log at debug level only."""
