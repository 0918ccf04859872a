"""`certagent renew` for one certificate: the reconcile loop, as far as it can go; with the waits if wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta

import click

from certagent.agent.loop import advance
from certagent.agent.wiring import Wiring
from certagent.config.schema import Entry
from certagent.facts.wait import Wait
from certagent.lifecycle.converged import converged
from certagent.lifecycle.events import Requested
from certagent.report.step import StepReport
from certagent.report.words import brief

LOCK_S = 300.0
"""A daemon's step may be an issuance; five minutes are longer than its own limits."""


_SWAPS = ("install", "inspect", "observe")
"""What is misconfigured in these stands against a swap: files, names that it would drop, records of others."""


def turn(
    wiring: Wiring,
    entry: Entry,
    report: Callable[[StepReport], None],
    request: Requested | None,
    *,
    wait: bool,
    quiet: bool,
) -> Wait:
    """Journal the request, take every step that can be taken now, and report each; what is waited for in the end.

    With `wait` it stays until the roll is over, or cannot go on without the operator. The lock is held only while steps
    are taken.

    Raises:
        Transient: `lock.busy`.
    """
    name = entry.spec.name
    subject = wiring.certificate(name)
    said = ""
    while True:
        with wiring.lock.held(LOCK_S, f"renew {name}"):
            if request and (request.what != "retry" or wiring.journal.state(name).failing):
                wiring.journal.append(name, request)
            request = None
            last = advance(subject, wiring.journal, report=report)
        assert last is not None, "nothing here asks it to stop"
        state = wiring.journal.state(name)
        stuck = any(f.kind == "misconfigured" and f.lane.verb in _SWAPS for f in state.failing)
        if not wait or stuck or converged(entry.spec, state):
            return last
        _sleep(last, quiet, said)
        said = last.because


def _sleep(wait: Wait, quiet: bool, said: str) -> None:
    """Until the plan goes on; on a terminal with the time left, elsewhere a line for each new reason."""
    end = time.monotonic() + wait.delay.total_seconds()
    if quiet or not sys.stderr.isatty():
        if not quiet and wait.because != said:
            click.echo(f"waits {brief(wait.delay)}: {wait.because}", err=True)
        time.sleep(max(0.0, end - time.monotonic()))
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        while (left := end - time.monotonic()) > 0:
            status.update(f"waits {brief(timedelta(seconds=left))}: {wait.because}")
            time.sleep(min(1.0, left))
