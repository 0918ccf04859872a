"""The reconcile loop of one subject: fold the journal, plan one step, journal the intent, act, journal the outcome,
again.

It stops when the plan is to wait, and may be ended at any line: the next run reads the journal and goes on.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from datetime import timedelta

from certagent.agent.subject import E, S, Subject
from certagent.errors import Error
from certagent.facts.wait import Wait
from certagent.host import deadline
from certagent.report.step import Step, StepReport
from certagent.store.journal import Journal, Known

SPIN = 100
"""The same step, this often in a row without a wait: a defect. A roll has about thirty steps, no two the same."""


def advance(
    subject: Subject[S, E],
    journal: Journal[S, E],
    *,
    report: Callable[[StepReport], None],
    stopping: Callable[[], bool] = lambda: False,
) -> Wait | None:
    """Take every step that can be taken now, and report each; the wait that is left, or None if `stopping` said so.

    What has failed is not tried again in the same call, however slow the failing was: the caller may have other things
    to do, and another process that waits for the lock gets it. The same holds for a line of work that began to fail
    meanwhile, such as a swap whose verification failed.
    """
    repeated = 0
    previous: tuple[type[Step], object] | None = None
    tried: set[object] = set()
    before = None
    while not stopping():
        known = journal.read(subject.name)
        before = before or known
        step = subject.plan(known.state, journal.now())
        if (
            not isinstance(step, Wait)
            and (why := subject.failing(known.state, step))
            and (step.lane in tried or not subject.failing(before.state, step))
        ):
            step = Wait(timedelta(0), f"{step.lane} is tried again: {why}")
        if isinstance(step, Wait):
            journal.sleep(subject.name, step.delay, step.because)
            return step
        repeated = repeated + 1 if previous == (type(step), step.lane) else 0
        previous = type(step), step.lane
        taken = _take(step, subject, journal, known, spins=repeated >= SPIN)
        if taken.failure:
            tried.add(taken.failure.lane)
        report(taken)
    return None


def _take(step: Step, subject: Subject[S, E], journal: Journal[S, E], known: Known[S], *, spins: bool) -> StepReport:
    """Do one step, its intent and its outcome journaled."""
    began = time.monotonic()

    def note(*events: E) -> None:
        nonlocal known
        known = journal.append(subject.name, *events, expected=known.seq)

    if step.changes:
        note(subject.intended(step))
    defect = ""
    try:
        if spins:
            detail = f"{type(step).__name__} does not get on"
            raise Error("internal.spin", detail, "please report this with the journal")
        with deadline.total(deadline.STEP_S):
            events = subject.act(step, known.state, journal.now(), note)
    except Error as error:
        events = (subject.failed(step, error),)
    except Exception as error:  # noqa: BLE001 -- a defect here must not end the care for other subjects
        where = traceback.extract_tb(error.__traceback__)[-1]
        defect = f"{type(error).__name__} at {where.name}:{where.lineno}"
        detail = f"unforeseen {type(error).__name__} in {where.name}"
        events = (subject.failed(step, Error("internal.defect", detail, "please report this")),)
    note(*events)
    failure = next((f for e in events if (f := subject.failure(e))), None)
    alarm = failure is not None and subject.alarm(known.state, step, journal.now())
    took_s = time.monotonic() - began
    return StepReport(subject.kind.name, subject.name, known.seq, step, failure, took_s, alarm, defect)
