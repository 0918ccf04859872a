"""How a command ends: its two lines for an error, its exit status, and what a signal does."""

from __future__ import annotations

import signal
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

from certagent.errors import Error, Misconfigured, Unsafe, Usage
from certagent.report.terminal import say

if TYPE_CHECKING:
    from certagent.report.status import Verdict
    from certagent.report.views import StepFailure


class Exit(IntEnum):
    """Exit statuses."""

    DONE = 0
    """Done."""
    FAILED = 1
    """Something failed; it is tried again later, without you."""
    USAGE = 2
    """Wrong usage or configuration; nothing was touched."""
    NEEDS_HUMAN = 3
    """It needs you; the hint says what to do."""
    UNCHANGED = 4
    """Nothing to do (only with --exit-unchanged)."""
    INTERRUPTED = 130
    """Interrupted; the next run goes on."""


def exit_status(kind: str) -> Exit:
    """The exit status for a failure of that kind."""
    return Exit.NEEDS_HUMAN if kind in (Misconfigured.kind, Unsafe.kind) else Exit.FAILED


def exit_status_of(error: Error) -> Exit:
    """The exit status for an error that ends the command."""
    return Exit.USAGE if isinstance(error, Usage) else exit_status(error.kind)


def exit_status_for(verdict: Verdict) -> Exit:
    """The exit status of `certagent status`."""
    return {"needs_human": Exit.NEEDS_HUMAN, "failing": Exit.FAILED}.get(verdict, Exit.DONE)


def complain(failure: StepFailure | Error) -> None:
    """The two lines of an error, on standard error."""
    say(f"certagent: error: {failure.detail} [{failure.code}]", err=True)
    if failure.hint:
        say(f"hint: {failure.hint}", err=True)


class Ended(BaseException):
    """A signal ended the command.

    It is no KeyboardInterrupt: if one passes through an exec(), as in many an import, `python -m` forgets the exit
    status and dies of SIGINT.
    """


def guard_signals() -> None:
    """SIGTERM ends a command like Ctrl-C does, within 10 s: what was begun is in the journal."""
    from certagent.host import ending
    from certagent.host.programs import end_all

    def stop(_number: int, _frame: object) -> NoReturn:
        ending.begin()
        end_all()  # threads may wait for programs, and the end of the process waits for them
        raise Ended

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # ignored, as in a shell's background job
        signal.signal(signal.SIGINT, stop)
