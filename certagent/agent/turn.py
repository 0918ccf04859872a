"""`certagent renew`: the reconcile loop, as far as it can go for each certificate; with the waits if wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from certagent.agent.loop import advance
from certagent.agent.wiring import Wiring
from certagent.config.schema import Entry
from certagent.facts.wait import Wait
from certagent.lifecycle.converged import converged
from certagent.lifecycle.events import Requested
from certagent.lifecycle.schedule import alarms
from certagent.report.step import StepReport
from certagent.report.terminal import say
from certagent.report.words import brief

LOCK_S = 300.0
"""A daemon's step may be an issuance; five minutes are longer than its own limits."""


_SWAPS = ("install", "inspect", "observe")
"""What is misconfigured in these stands against a swap: files, names that it would drop, records of others."""


def turns(
    wiring: Wiring,
    entries: Iterable[Entry],
    report: Callable[[StepReport], None],
    request: Requested,
    *,
    wait: bool,
    quiet: bool,
) -> Iterator[tuple[Entry, Wait]]:
    """Journal the request, take every step that can be taken now, and report each; each certificate with what it waits
    for in the end, as soon as that is certain.

    With `wait` each goes on until its roll is over, or cannot go on without the operator; the waits of all run side by
    side. The lock is held only while steps are taken.

    Raises:
        Transient: `lock.busy`.
    """
    due = {entry.spec.name: (0.0, entry, Wait(timedelta(0), "")) for entry in entries}
    said: dict[str, str] = {}
    asked: set[str] = set()
    while due:
        name = min(due, key=lambda name: due[name][0])
        moment, entry, last = due[name]
        if name in asked:
            _sleep(moment, f"{name} waits" if len(asked) > 1 else "waits", last, quiet, said.get(name, ""))
            said[name] = last.because
        with wiring.lock.held(LOCK_S, f"renew {name}"):
            if name not in asked:
                wiring.journal.append(name, request)
                asked.add(name)
            following = advance(wiring.certificate(name), wiring.journal, report=report)
        assert following is not None, "nothing here asks it to stop"
        if wait and not _over(wiring, entry):
            due[name] = (time.monotonic() + following.delay.total_seconds(), entry, following)
        else:
            del due[name]
            yield entry, following


def _over(wiring: Wiring, entry: Entry) -> bool:
    """It is all that is served, or does not get there without a person."""
    state, now = wiring.journal.state(entry.spec.name), wiring.journal.now()
    misconfigured = any(f.kind == "misconfigured" and f.lane.verb in _SWAPS for f in state.failing)
    return misconfigured or any(alarms(f, now) for f in state.failing) or converged(entry.spec, state)


def _sleep(end: float, word: str, wait: Wait, quiet: bool, said: str) -> None:
    """Until the plan goes on; on a terminal with the time left, elsewhere a line for each new reason."""
    if quiet or not sys.stderr.isatty():
        if not quiet and wait.because != said:
            say(f"{word} {brief(wait.delay)}: {wait.because}", err=True)
        time.sleep(max(0.0, end - time.monotonic()))
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        while (left := end - time.monotonic()) > 0:
            status.update(f"{word} {brief(timedelta(seconds=left))}: {wait.because}")
            time.sleep(min(1.0, left))
