"""Which processes run a program, also if some may not be inspected."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from certagent.errors import Misconfigured
from certagent.host import processes
from tests.lab.wait import until


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A program with a name that is longer than the kernel keeps."""
    return Path(shutil.copy(os.path.realpath(shutil.which("sleep") or ""), tmp_path / "sleeps-as-nobody-else"))


@pytest.fixture
def pid(binary: Path) -> Iterator[int]:
    """A process that runs it."""
    with subprocess.Popen([binary, "600"]) as running:
        name = Path(f"/proc/{running.pid}/comm")
        until(lambda: binary.name.startswith(name.read_text().strip()), 5, "the kernel calls it by its name")
        yield running.pid
        running.kill()


@pytest.fixture
def closed(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may not be inspected, as without CAP_SYS_PTRACE."""
    real = os.readlink

    def readlink(path: str | Path) -> str:
        if str(path).startswith(f"/proc/{pid}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "readlink", readlink)


def somebody_else(_pid: int) -> tuple[int, int]:
    return 1000, 1


def not_shown(_pid: int, _binary: str) -> None:
    return None


def names() -> list[str]:
    return [processes.name(int(entry)) for entry in os.listdir("/proc") if entry.isdecimal()]


def test_a_program_is_found_by_its_file_also_when_that_was_replaced(binary: Path, pid: int) -> None:
    assert processes.running(str(binary)) == {pid}
    binary.unlink()
    assert processes.running(str(binary)) == {pid}


def test_one_that_may_not_be_inspected_is_known_by_its_name(binary: Path, pid: int, closed: None) -> None:
    """Also when its number is known."""
    assert processes.running(str(binary)) == {pid}
    assert processes.runs(pid, str(binary))


def test_the_name_of_a_process_that_somebody_else_has_begun_says_nothing(
    binary: Path, pid: int, closed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(processes, "_user", somebody_else)
    assert processes.running(str(binary)) == frozenset()
    assert not processes.runs(pid, str(binary))


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a namespace")
def test_nor_does_that_of_one_in_a_container(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_shown", not_shown)
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", binary, "600"]) as outside:
        try:
            until(lambda: "sleeps-as-nobod" in names(), 5, "it runs")
            assert processes.running(str(binary)) == frozenset()
        finally:
            outside.kill()


def test_another_program_that_may_not_be_inspected_is_in_nobodys_way(pid: int, closed: None) -> None:
    assert processes.running("/usr/sbin/smtpd-of-nobody") == frozenset()


def test_one_that_has_ended_is_not_there(binary: Path) -> None:
    with subprocess.Popen([binary, "0"]) as ended:
        ended.wait()
    assert not processes.runs(ended.pid, str(binary))


def test_a_socket_is_found_with_the_program_that_holds_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert processes.holder(os.fstat(server.fileno()).st_ino) == processes.name(os.getpid())
    assert processes.holder(1) == ""


def test_one_that_has_ended_has_no_name(binary: Path) -> None:
    with subprocess.Popen([binary, "0"]) as ended:
        ended.wait()
    assert processes.name(ended.pid) == ""
    with pytest.raises(OSError, match="No such"):
        processes.command_line(ended.pid)


class TestPidFile:
    """The server's own user may write it: nothing in it makes certagent wait, and nothing in it is believed."""

    def test_number_and_command_line(self, tmp_path: Path) -> None:
        path = tmp_path / "pid"
        assert processes.pid_file(path) is None
        path.write_bytes(b" 4711 \nsendmail -bd \xff\n")
        assert processes.pid_file(path) == (4711, "sendmail -bd \ufffd")

    @pytest.mark.parametrize("content", [b"", b"x", b"-1", b"\0", b"9" * 24, "²".encode(), b"1 2", b"1" * (1 << 17)])
    def test_what_is_no_number(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "pid").write_bytes(content)
        with pytest.raises(Misconfigured, match=r"store\.path"):
            processes.pid_file(tmp_path / "pid")

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "zero").symlink_to("/dev/zero")
        for name in ("fifo", "zero"):
            with pytest.raises(Misconfigured, match=r"store\.path"):
                processes.pid_file(tmp_path / name)
