"""A whole has an end, not only each of its waits: it is kept from outside, by another thread.

A limit for each answer bounds nothing: a peer that sends one byte a second keeps every one of them, for weeks. Here a
step has a total. What it waits for ends with it: `left` bounds the waits that know their length, `cutting` shuts down
connections.

Threads that a step starts do not know its end by themselves: see `carried`.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

from certagent.errors import Transient

T = TypeVar("T")
R = TypeVar("R")

STEP_S = 600.0
"""What gets on needs far less: a minute for the CA's work, a minute until all name servers follow, a restart of 90 s.
The lease of the store must be longer, see `agent/wiring.py`."""

_end: ContextVar[float] = ContextVar("_end", default=float("inf"))
"""By `time.monotonic`."""


class Overdue(Transient):
    """`step.overdue`: The time of the step is over."""


@contextmanager
def total(seconds: float) -> Generator[None]:
    """Within, in this thread, every wait ends when this time is over, or sooner if a block around this one ends."""
    token = _end.set(min(_end.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _end.reset(token)


def left(limit_s: float) -> float:
    """How long one wait may take: its own limit in seconds, or what is left of the whole.

    Raises:
        Overdue: `step.overdue`: Nothing is left.
    """
    rest = _end.get() - time.monotonic()
    if rest <= 0:
        hint = "it is tried again by itself; the durations in certagent history NAME show who was slow"
        raise Overdue("step.overdue", "the time of this step is over", hint)
    return min(limit_s, rest)


def carried(function: Callable[[T], R]) -> Callable[[T], R]:
    """The function, for another thread: it ends there when the whole does."""
    end = _end.get()

    def call(item: T) -> R:
        token = _end.set(end)
        try:
            return function(item)
        finally:
            _end.reset(token)

    return call


def pauses(until: float, first_s: float, longest_s: float) -> Iterator[bool]:
    """True after each pause. Each is twice as long as the one before, and none ends after `until` (`time.monotonic`).

    For `while` something goes on `and next(waits, False)`.
    """
    pause_s = first_s
    while time.monotonic() + pause_s <= until:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s)
        yield True


class Cut:
    """The connections of one block, which another thread shuts down when its time is over."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._connections: list[socket.socket] = []
        self.over = False
        """Then what was read may be less than what was sent: a stream that was cut looks ended."""

    def add(self, connection: int) -> None:
        """From now on this descriptor's connection is shut down with the others; at once if the time is over."""
        with self._mutex:
            # a duplicate is the same connection, and stays with us when TLS takes it over or its owner closes it
            self._connections.append(socket.socket(fileno=os.dup(connection)))
            if self.over:
                _shut(self._connections[-1])

    def now(self) -> None:
        """The time is over. Who reads meets the end of the stream, who writes an OSError."""
        with self._mutex:
            self.over = True
            for connection in self._connections:
                _shut(connection)

    def done(self) -> None:
        """The block is over."""
        with self._mutex:
            while self._connections:
                self._connections.pop().close()


@contextmanager
def cutting(limit_s: float) -> Generator[Cut]:
    """Within, what was added is shut down after `limit_s`, or when the whole is over, whatever the other side does.

    Raises:
        Overdue: `step.overdue`: Nothing is left.
    """
    cut = Cut()
    timer = threading.Timer(left(limit_s), cut.now)
    timer.daemon = True
    timer.start()
    _under_way.add(cut)
    try:
        yield cut
    finally:
        _under_way.discard(cut)
        timer.cancel()
        cut.done()


def cut_all() -> None:
    """The time of every block of `cutting` is over now, for this process is to end. Not for a signal handler."""
    for cut in list(_under_way):
        cut.now()


_under_way: set[Cut] = set()
"""Adding, removing and copying are atomic."""


def connected(host: str, port: int, limit_s: float) -> socket.socket:
    """A TCP connection to one of the addresses of a host, tried in turn: all of it within `limit_s`.

    The system's own look-up of the name has its limits in /etc/resolv.conf, and comes before.

    Raises:
        Overdue: `step.overdue`: Nothing is left.
        OSError: There is none.
    """
    failed: OSError = TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    end = time.monotonic() + left(limit_s)
    for family, kind, protocol, _, address in addresses:
        wait_s = end - time.monotonic()
        if wait_s <= 0:
            break
        with ExitStack() as undo:
            connection = undo.enter_context(socket.socket(family, kind, protocol))
            connection.settimeout(wait_s)
            try:
                connection.connect(address)
            except OSError as error:
                failed = error
                continue
            undo.pop_all()
            return connection
    raise failed


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_RDWR)
