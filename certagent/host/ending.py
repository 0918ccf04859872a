"""This process ends soon after it was asked to, whatever it waits for. A kill loses nothing, so that is always safe."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

from certagent.host.deadline import cut_all
from certagent.host.programs import end_all

LIMIT_S = 9
"""So that SIGTERM ends it within 10 s."""

PROGRAMS_S = 5.0
"""For a program to come to its end by itself, such as the reload of a server."""


@contextmanager
def ends_soon(*, programs_s: float = PROGRAMS_S) -> Generator[None]:
    """Within, a program that still runs after `programs_s` is killed, and a connection that is waited for is cut. After
    LIMIT_S the kernel ends this process.

    SIGALRM does that, by its default action: it needs no thread of this process to run any more. To be called in the
    main thread.
    """
    timer = threading.Timer(programs_s, _cut_short)
    timer.daemon = True
    begin()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.alarm(0)


def _cut_short() -> None:
    end_all()
    cut_all()


def begin() -> None:
    """From now on the kernel ends this process after LIMIT_S. To be called in the main thread."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIMIT_S)
