"""The reconcile loop of one certificate.

Fold the journal, plan one step, journal the intent, act, journal the outcome, again.

It stops when the plan is to wait, and may be ended at any line: the next run reads the journal and goes on.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from certagent.agent.act.dispatch import act
from certagent.agent.act.outcome import failed
from certagent.agent.edges import Edges
from certagent.errors import Error
from certagent.lifecycle import events as ev
from certagent.lifecycle.planner import plan
from certagent.lifecycle.schedule import alarms
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.steps import AnyStep, Wait
from certagent.report.step import StepReport
from certagent.store.journal import Journal

SPIN = 100
"""The same step, this often in a row without a wait: a defect. A roll has about thirty steps, no two the same."""


def advance(
    spec: Spec,
    journal: Journal,
    edges: Edges,
    *,
    tell: Callable[[StepReport], None],
    stopping: Callable[[], bool] = lambda: False,
) -> Wait | None:
    """Take every step that can be taken now; the wait that is left, or None where `stopping` said so.

    What has failed is not tried again in the same call, however slow the failing was: the caller may have other things
    to do, and whoever waits for the lock gets it.
    """
    repeated = 0
    previous: tuple[type[AnyStep], str] | None = None
    tried: set[str] = set()
    while not stopping():
        state = journal.state(spec.name)
        step = plan(spec, state, journal.now())
        work = "" if isinstance(step, Wait) else step.work
        if work in tried and work in state.failures:
            step = Wait(timedelta(0), f"{work} is tried again: {state.failures[work].detail}")
        if isinstance(step, Wait):
            journal.sleep(spec.name, step.delay, step.because)
            return step
        repeated = repeated + 1 if previous == (type(step), work) else 0
        previous = (type(step), work)
        began = time.monotonic()
        if step.changes:
            state = journal.append(spec.name, ev.Intended(step=step, work=work))
        defect = ""
        try:
            if repeated >= SPIN:
                raise Error(
                    "internal.spin", f"{type(step).__name__} does not get on", "please report this with the journal"
                )
            events = act(step, spec, state, edges, journal.now(), partial(journal.append, spec.name))
        except Error as error:
            events = (failed(error, work),)
        except Exception as error:  # noqa: BLE001 -- a defect here must not end the care for other certificates
            where = traceback.extract_tb(error.__traceback__)[-1]
            defect = f"{type(error).__name__} at {where.name}:{where.lineno}"
            detail = f"unforeseen {type(error).__name__} in {where.name}"
            events = (failed(Error("internal.defect", detail, "please report this"), work),)
        state = journal.append(spec.name, *events)
        failure = next((e for e in events if isinstance(e, ev.Failed)), None)
        if failure:
            tried.add(failure.work)
        now_failing = state.failures.get(work) if failure else None
        alarm = bool(now_failing and alarms(work, now_failing, journal.now()))
        tell(StepReport(spec.name, state.seq, step, failure, time.monotonic() - began, alarm, defect))
    return None
