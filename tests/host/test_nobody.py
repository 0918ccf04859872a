"""What an unprivileged user of this host tries against root's certagent."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from certagent.errors import Misconfigured
from certagent.host import processes, replace
from certagent.host.files import private_dir, private_file, read_text, scratch
from certagent.host.programs import run
from certagent.store.lock import Lock
from tests.lab.wait import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory like /etc/postfix: everybody may look into it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(act: Callable[[], object]) -> int:
    """The exit status of a process of theirs: 0 if it can, 1 if it is refused."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def locks(path: Path) -> Callable[[], object]:
    return lambda: fcntl.flock(os.open(path, os.O_RDONLY | os.O_NONBLOCK), fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_no_lock_can_be_taken(place: Path) -> None:
    """Not the lock of the agent, not that of an SNI map, not that of a file in the making; but the directory's can."""
    private_dir(place / "state")
    replace.write(place / "chain.pem", b"old")
    seen: list[Path] = []

    def look(new: Path) -> None:
        seen.append(new)
        assert as_nobody(locks(new)) == 1

    with Lock(place / "state" / "lock").held(0, "test"), private_file(place / ".map.lock"):
        for path in (place / "state", place / "state" / "lock", place / ".map.lock"):
            assert as_nobody(locks(path)) == 1, path
    assert as_nobody(locks(place)) == 0
    with ExitStack() as stack:
        fd = os.open(place, os.O_RDONLY)
        stack.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX)  # as they may
        replace.write(place / "chain.pem", b"new", rehearse=look)
        with private_file(place / ".map.lock"):
            pass
    assert len(seen) == 1


def test_who_runs_the_servers_program_is_not_taken_for_the_server(place: Path) -> None:
    """It would be waited for at every restart, and stop every swap."""
    sleep = Path(shutil.copy(os.path.realpath(shutil.which("sleep") or ""), place / "smtpd"))
    sleep.chmod(0o755)
    with ExitStack() as stack:
        theirs = stack.enter_context(subprocess.Popen([sleep, "600"], user=NOBODY, group=NOBODY, extra_groups=[]))
        stack.callback(theirs.kill)
        until(lambda: Path(f"/proc/{theirs.pid}/comm").read_text() == "smtpd\n", 5, "it runs")
        assert not processes.running(str(sleep))
        ours = stack.enter_context(subprocess.Popen([sleep, "600"]))
        stack.callback(ours.kill)
        until(lambda: set(processes.running(str(sleep))) == {ours.pid}, 5, "only root's")


def test_a_process_that_the_server_has_given_to_its_own_user_is_the_servers() -> None:
    """As the parts of OpenSMTPD."""
    binary = os.path.realpath("/proc/self/exe")
    child = os.fork()
    if not child:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        signal.pause()
        os._exit(0)
    try:
        until(lambda: processes._user(child)[0] == NOBODY, 5, "it is theirs")  # pyright: ignore[reportPrivateUsage]
        assert {os.getpid(), child} <= processes.running(binary)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("trap", ["fifo", "zero", "device", "directory", "giant", "gone"])
def test_nothing_in_the_place_of_a_file_is_waited_for_or_read_without_end(place: Path, trap: str) -> None:
    """A mail server's own user may make any of these where its configuration names a file."""
    path = place / "sendmail.cf"
    match trap:
        case "fifo":
            os.mkfifo(path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "device":
            path.symlink_to("/dev/tty")
        case "directory":
            path.mkdir()
        case "giant":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case _:
            path.symlink_to("/proc/1/missing")
    with pytest.raises(Misconfigured, match=r"\[store\.path\]"):
        read_text(path)


def test_a_program_that_they_could_exchange_is_not_run(place: Path) -> None:
    (place / "theirs").mkdir()
    program = Path(shutil.copy("/bin/true", place / "theirs" / "hook"))
    program.chmod(0o755)
    assert run([str(program)], 10).code == 0
    os.chown(place / "theirs", NOBODY, NOBODY)
    with pytest.raises(Misconfigured, match=r"belongs to user 65534"):
        run([str(program)], 10)


def test_what_is_written_for_a_moment_they_cannot_enter(place: Path) -> None:
    with scratch() as here:
        assert as_nobody(lambda: os.listdir(here)) == 1
    assert not here.exists()
