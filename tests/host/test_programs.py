"""Programs are run within bounds."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from certagent.errors import Misconfigured, Transient
from certagent.host.programs import program, run
from tests.lab.wait import until

SHELL = "/bin/sh"


def test_tells_how_it_ended_and_what_it_said() -> None:
    assert run([SHELL, "-c", "echo out; echo err >&2; exit 3"], 5) == (3, "out\n", "err\n")


def test_the_environment_of_the_agent_stays_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNS_TOKEN", "secret")
    out = run(["/usr/bin/env"], 5, env={"MORE": "1"}).out
    assert {line.split("=")[0] for line in out.splitlines()} == {"PATH", "LC_ALL", "MORE"}


def test_nothing_can_be_typed_in() -> None:
    assert run([SHELL, "-c", "cat"], 5) == (0, "", "")


def test_at_the_time_limit_it_and_its_children_are_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(Transient, match=r"no end after 4 s \[mta\.config\]"):
        run([SHELL, "-c", f"sleep 60 & echo $$ $! >{pids}; wait"], 4, code="mta.config")
    until(lambda: all(map(dead, pids.read_text().split())), 5, "both are dead")


def test_one_that_prints_without_end_meets_its_limit_and_fills_no_memory() -> None:
    with pytest.raises(Transient):
        run([SHELL, "-c", "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyy; done"], 0.3)


def test_the_output_is_cut_and_the_program_goes_on() -> None:
    code, out, _ = run([SHELL, "-c", "head -c 300000 /dev/zero; exit 4"], 5)
    assert (code, len(out)) == (4, 64 << 10)


def test_a_daemon_that_keeps_the_output_open_is_not_waited_for() -> None:
    pid = run([SHELL, "-c", "sleep 60 & echo $!"], 20).out
    os.kill(int(pid), signal.SIGKILL)  # it is still there


def test_what_cannot_be_run_is_for_the_operator(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for argv in ([str(tmp_path / "none")], [str(tmp_path / "file")], ["sh", "-c", "true"]):
        with pytest.raises(Misconfigured, match=r"run\.failed"):
            run(argv, 5)


def test_programs_are_found_where_systemd_looks() -> None:
    assert program("sh").startswith("/")
    with pytest.raises(Misconfigured, match="no-such-program is not installed"):
        program("no-such-program")


def test_its_standard_input_is_what_was_given_and_nothing_otherwise() -> None:
    assert run(["/bin/cat"], 5, text="ä\n" * 50_000).out.startswith("ä\nä\n")
    assert run(["/bin/cat"], 5).out == ""


def test_as_much_of_the_output_is_kept_as_was_asked_for() -> None:
    assert len(run(["/bin/cat"], 5, text="x" * 300_000, limit_bytes=200_000).out) == 200_000
    assert len(run(["/bin/cat"], 5, text="x" * 300_000, limit_bytes=1 << 20).out) == 300_000


def dead(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z")
    except OSError:
        return True
