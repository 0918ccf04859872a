from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from certagent.errors import Misconfigured, Transient
from certagent.store import lock
from certagent.store.lock import Lock, Presence, daemon_pid

HOLDER = """
import sys, time
from pathlib import Path
from certagent.store.lock import Lock, Presence
path = Path(sys.argv[2])
with Lock(path).held(0, "renewing mx1") if sys.argv[1] == "lock" else Presence(path).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@contextmanager
def another_process(kind: str, path: Path) -> Generator[subprocess.Popen[str]]:
    """A process that holds `path` until its standard input ends."""
    argv = [sys.executable, "-c", HOLDER, kind, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def free(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_the_lock_is_held_inside_the_block_and_says_who_holds_it(path: Path) -> None:
    with Lock(path).held(0, "renewing mx1"):
        assert not free(path)
        assert path.read_text() == f"{os.getpid()} renewing mx1\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert free(path)
    assert path.read_text() == ""


def test_it_is_free_after_an_error_inside_the_block(path: Path) -> None:
    with pytest.raises(KeyError), Lock(path).held(0, "test"):
        raise KeyError
    assert free(path)


def test_threads_of_one_process_share_it(path: Path) -> None:
    mine = Lock(path)
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with mine.held(0, "second"):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    with mine.held(0, "first"):
        thread.start()
        assert inside.wait(10)
    assert not free(path)
    leave.set()
    thread.join(10)
    assert free(path)
    with mine.held(0, "again"):
        assert not free(path)


def test_another_process_is_reported_of(path: Path) -> None:
    with another_process("lock", path) as process, pytest.raises(Transient) as caught, Lock(path).held(0, "status"):
        pass
    assert caught.value.code == "lock.busy"
    assert caught.value.detail == f"certagent (pid {process.pid}) is at work: renewing mx1"


def test_a_holder_that_has_not_said_who_it_is(path: Path) -> None:
    path.touch(0o600)
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(Transient, match=r"pid unknown\) is at work: unknown"), Lock(path).held(0, "status"):
        pass
    assert daemon_pid(path) is None
    os.close(fd)


def test_it_is_free_when_its_holder_is_killed(path: Path) -> None:
    with another_process("lock", path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with Lock(path).held(0, "test"):
            assert path.read_text() == f"{os.getpid()} test\n"


def test_it_waits_with_growing_pauses_no_longer_than_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Lock(path).held(0, "holder"), pytest.raises(Transient), Lock(path).held(2.0, "waiter"):
        pass
    assert pauses[:3] == [0.01, 0.02, 0.04]
    assert max(pauses) == 0.5
    assert sum(pauses) == pytest.approx(2.0)


def test_it_goes_on_when_the_holder_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with another_process("lock", path) as process:

        def sleep(seconds: float) -> None:
            process.kill()
            process.wait()

        monkeypatch.setattr(time, "sleep", sleep)
        with Lock(path).held(10, "waiter"):
            assert not free(path)


def test_a_program_that_is_started_does_not_inherit_it(path: Path) -> None:
    """O_CLOEXEC: a mail server that certagent starts must not keep the lock."""
    with Lock(path).held(0, "test"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert free(path)
    finally:
        child.kill()
        child.wait(10)


def test_a_daemon_is_found_by_its_presence(path: Path) -> None:
    assert daemon_pid(path) is None
    with another_process("daemon", path) as process:
        assert daemon_pid(path) == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert path.read_text() != ""
        assert daemon_pid(path) is None


def test_there_is_one_daemon(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.0)
    with another_process("daemon", path) as process, pytest.raises(Misconfigured) as caught, Presence(path).held():
        pass
    assert caught.value.code == "lock.daemon"
    assert str(process.pid) in caught.value.detail


def test_a_daemon_that_is_asked_for_while_it_starts_is_no_second_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`daemon_pid` locks the file for a moment."""
    path.touch(0o600)
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)

    def sleep(seconds: float) -> None:
        os.close(fd)

    monkeypatch.setattr(time, "sleep", sleep)
    with Presence(path).held():
        assert daemon_pid(path) == os.getpid()


def test_errors_of_the_daemon_are_its_own(path: Path) -> None:
    with pytest.raises(Transient, match="inside"), Presence(path).held():
        raise Transient("test.error", "inside")
    assert daemon_pid(path) is None


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "lock"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for path in (missing, link, tmp_path):
        with pytest.raises(Misconfigured) as caught, Lock(path).held(0, "test"):
            pass
        assert caught.value.code == "lock.file"
        assert str(path) in caught.value.detail
    with pytest.raises(Misconfigured):
        daemon_pid(link)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_may_pass(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Nobody's mistake: tried again, unlike a wrong path."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(Transient, match=r"store\.disk"), Presence(path).held():
        pass  # and no other daemon runs for that
    with pytest.raises(Transient, match=r"store\.disk") as caught, Lock(path).held(0, "renewing"):
        pass
    assert caught.value.hint == f"look at the disk: df -h {path.parent}"
