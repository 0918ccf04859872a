"""A process that was asked to end does so, whatever it waits for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from certagent.host import deadline, ending
from tests.lab.wait import until

ROOT = Path(ending.__file__).parents[2]
STUBBORN = "trap '' TERM INT HUP; echo $$ >{}; while :; do sleep 60; done"
COMMAND = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from certagent.cli.errors import Ended, guard_signals
from certagent.host import ending
from certagent.host.programs import run
ending.LIMIT_S = 2
guard_signals()
what, script = sys.argv[1:]
with ThreadPoolExecutor() as pool:
    pool.submit(run, ["/bin/sh", "-c", script], 60)
    if what == "thread":
        pool.submit(time.sleep, 60)
    try:
        pool.submit(run, ["/bin/sh", "-c", script], 60).result()
    except Ended:
        sys.exit(130)
"""
DAEMON = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from certagent.host import ending
from certagent.host.programs import Killed, run
with ThreadPoolExecutor() as pool:
    ended = pool.submit(run, ["/bin/sh", "-c", sys.argv[1]], 60)
    time.sleep(0.5)
    with ending.ends_soon(programs_s=0.2):
        try:
            ended.result()
        except Killed:
            print("killed")
time.sleep(0.1)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("waits_for", "status"), [("program", 130), ("thread", -signal.SIGALRM)])
def test_sigterm_ends_a_command_in_time(tmp_path: Path, waits_for: str, status: int) -> None:
    """Whatever its programs do in whatever thread, and whatever else holds a thread: that is left to the kernel."""
    pid = tmp_path / "pid"
    with start(COMMAND, waits_for, STUBBORN.format(pid)) as command:
        until(lambda: pid.exists() and pid.read_text().strip() != "", 30, "its program runs")
        time.sleep(0.2)
        command.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert command.wait(20) == status
        assert time.monotonic() - began < 8
    until(lambda: not Path(f"/proc/{pid.read_text().strip()}/exe").exists(), 5, "the program is dead")


def test_the_daemon_lets_a_program_end_and_kills_it_then(tmp_path: Path) -> None:
    with start(DAEMON, STUBBORN.format(tmp_path / "pid")) as daemon:
        assert daemon.communicate(timeout=30)[0] == "killed\n"
        assert daemon.returncode == 0


def test_a_connection_that_is_waited_for_is_cut() -> None:
    """The step ends with its own error, and that is journaled."""
    one, other = socket.socketpair()
    with one, other, deadline.cutting(60) as cut, ending.ends_soon(programs_s=0.1):
        cut.add(one.fileno())
        one.settimeout(30)
        assert one.recv(1) == b""
    assert cut.over


def test_ten_seconds_are_kept() -> None:
    assert ending.PROGRAMS_S < ending.LIMIT_S < 10


def test_nothing_is_left_of_it_after_the_block() -> None:
    with ending.ends_soon():
        assert signal.alarm(ending.LIMIT_S) > 0
    assert signal.alarm(0) == 0
