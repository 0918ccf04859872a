"""One certagent at work at a time, and a way to find the daemon: two files that the kernel keeps locked (flock).

A lock is never left stale: the kernel frees it when its holder dies, however it dies. The files stay; what is written
in them (the process and what it is doing) is for messages and signals, never for the decision who holds the lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from certagent.errors import Misconfigured, Transient, Usage

_FIRST_PAUSE_S = 0.01
"""Before a lock is tried again; it doubles."""
_LAST_PAUSE_S = 0.5
"""Steps of a reconcile loop take seconds: asking twice a second costs nothing and keeps nobody waiting."""

_PATIENCE_S = 1.0
"""`daemon_pid` of another process has the file locked for a moment: that is no daemon."""

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""What may pass without anybody's mistake."""

_NOTE_BYTES = 256
"""A process number and a few words."""


def _nothing(*_: object) -> None: ...


class Busy(Transient):
    """`lock.busy`: another process has it."""


class Lock:
    """The right to change the world, held by one process; threads that share this object share it.

    One object for each file and process: two of them would lock each other out.
    """

    def __init__(
        self, path: Path, *, taken: Callable[[str], None] = _nothing, left: Callable[[], None] = _nothing
    ) -> None:
        """`taken` runs when this process gets the lock, with the purpose; `left` just before it lets go of it."""
        self._path = path
        self._taken = taken
        self._leaving = left
        self._gate = threading.Lock()
        self._holders = 0
        self._fd = -1

    @contextmanager
    def held(self, timeout_s: float, purpose: str) -> Generator[None]:
        """Holds the lock inside the block; waits for another process at most `timeout_s`.

        `purpose` is for the message to others.

        Raises:
            Transient: `lock.busy`.
            Misconfigured: `lock.file`.
        """
        deadline = time.monotonic() + timeout_s
        pause = _FIRST_PAUSE_S
        while not self._entered(purpose):
            left = deadline - time.monotonic()
            if left <= 0:
                pid, what = _note(self._path)
                detail = f"certagent (pid {pid or 'unknown'}) is at work: {what or 'unknown'}"
                raise Busy("lock.busy", detail, "wait for it, or stop it")
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LAST_PAUSE_S)
        try:
            yield
        finally:
            self._left()

    def _entered(self, purpose: str) -> bool:
        with self._gate:
            if self._holders == 0:
                fd = _locked(self._path, purpose)
                if fd is None:
                    return False
                try:
                    self._taken(purpose)
                except BaseException:
                    _free(fd)
                    raise
                self._fd = fd
            self._holders += 1
            return True

    def _left(self) -> None:
        with self._gate:
            self._holders -= 1
            if self._holders == 0:
                try:
                    self._leaving()
                finally:
                    _free(self._fd)


class Presence:
    """What the daemon holds for its life, so that `daemon_pid` finds it."""

    def __init__(self, path: Path) -> None:
        self._lock = Lock(path)

    @contextmanager
    def held(self) -> Generator[None]:
        """Says inside the block that this process is the daemon.

        Raises:
            Usage: `lock.daemon`: Another one runs.
            Transient: `store.disk`: Nothing can be written there.
            Misconfigured: `lock.file`.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._lock.held(_PATIENCE_S, "daemon"))
            except Busy as busy:  # a full or read-only disk is another matter, and may pass
                raise Usage("lock.daemon", f"a daemon runs already: {busy.detail}", "stop it first") from None
            yield


def daemon_pid(path: Path) -> int | None:
    """The process that holds the `Presence` of this file; None when there is none, or it has only just begun.

    Raises:
        Misconfigured: `lock.file`.
    """
    if not os.path.lexists(path):
        return None
    with _translated(path), ExitStack() as stack:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _note(path)[0]
    return None


def _locked(path: Path, purpose: str) -> int | None:
    """An open file with the lock and a note in it; None when another process has the lock."""
    with _translated(path), ExitStack() as stack:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        with suppress(OSError):  # the note is for messages: a full disk must not stop anybody
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {purpose}\n".encode()[:_NOTE_BYTES], 0)
        stack.pop_all()
        return fd


def _free(fd: int) -> None:
    with suppress(OSError):
        os.ftruncate(fd, 0)  # so that nobody signals a process that has ended
    os.close(fd)


def _note(path: Path) -> tuple[int | None, str]:
    """Who holds the lock, and what for; unknown while it is being written."""
    with _translated(path):
        pid, _, purpose = path.read_bytes()[:_NOTE_BYTES].decode(errors="replace").strip().partition(" ")
    return (int(pid) if pid.isascii() and pid.isdigit() else None), purpose


@contextmanager
def _translated(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK:
            raise Transient(
                "store.disk", f"{path}: {error.strerror}", f"look at the disk: df -h {path.parent}"
            ) from error
        hint = f"look at it: ls -ld {path.parent} {path}"
        raise Misconfigured("lock.file", f"{path}: {error.strerror}", hint) from error
