"""Programs are run within bounds."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from certagent.errors import Misconfigured, Transient
from certagent.host import programs
from certagent.host.programs import Killed, beside, end_all, program, run
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


def test_one_that_a_signal_ends_has_not_answered() -> None:
    """Out of memory, say: it is tried again, and nothing is concluded from it."""
    with pytest.raises(Killed, match=r"ended by signal 9 \(Killed\) \[mta\.config\]") as caught:
        run([SHELL, "-c", "kill -9 $$"], 5, code="mta.config")
    assert isinstance(caught.value, Transient)


def test_it_has_ended_although_a_grandchild_holds_its_output() -> None:
    pid = run([SHELL, "-c", "(setsid sleep 60 & echo $!)"], 20).out
    os.kill(int(pid), signal.SIGKILL)  # it is still there, outside of the group


def test_the_beginning_of_the_output_is_kept_and_the_end_of_the_errors() -> None:
    """The error output says at its end why."""
    _, out, err = run([SHELL, "-c", "printf abcdef; printf abcdef >&2"], 5, limit_bytes=3)
    assert (out, err) == ("abc", "def")


def test_no_descriptor_of_the_agent_is_inherited(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        shown = run([SHELL, "-c", "ls -l /proc/self/fd"], 5).out
    assert str(tmp_path) not in shown


def test_a_program_that_others_may_change_is_not_run(tmp_path: Path) -> None:
    """Nor one with such an interpreter, nor one in such a directory. The error says what to do."""
    ran, shared = tmp_path / "ran", tmp_path / "shared"
    shared.mkdir()
    own, interpreter, moved = tmp_path / "own", shared / "interpreter", shared / "moved"
    for one, first in ((own, SHELL), (moved, SHELL), (interpreter, SHELL)):
        one.write_text(f"#!{first}\ntouch {ran}\n")
        one.chmod(0o755)
    own.chmod(0o775)
    with pytest.raises(Misconfigured, match=r"others may write into .*own: group.*mta\.config") as caught:
        run([str(own)], 5, code="mta.config")
    assert caught.value.hint == f"chmod go-w {own}"
    own.chmod(0o755)
    own.write_text(f"#! {interpreter} -x\n")
    shared.chmod(0o777)
    for one in (own, moved):
        with pytest.raises(Misconfigured, match=rf"others may write into {shared}: anybody"):
            run([str(one)], 5)
    assert not ran.exists()
    shared.chmod(0o755)
    assert run([str(own)], 5).code == 0
    assert ran.exists()


def test_a_nul_in_an_argument_is_for_the_operator() -> None:
    for argv in ([SHELL, "-c", "a\0b"], ["/bin/s\0h"]):
        with pytest.raises(Misconfigured, match=r"run\.failed"):
            run(argv, 5)


def test_all_that_run_can_be_ended_from_another_thread(tmp_path: Path) -> None:
    """As at SIGTERM. They ignore what they can; their group goes with them."""
    script = f"trap '' TERM INT HUP; sleep 60 & echo $$ $! >{tmp_path}/pids; wait; sleep 60"
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(run, [SHELL, "-c", script], 60)
        until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().strip() != "", 10, "it runs")
        end_all()
        with pytest.raises(Killed):
            ended.result(5)
    until(lambda: all(map(dead, (tmp_path / "pids").read_text().split())), 5, "all are dead")


class TestBeside:
    """A program that runs while something else is done."""

    def test_it_answers_and_ends_with_the_block(self) -> None:
        with beside([SHELL, "-c", "while read -r _; do echo $$; done"], 5) as ask:
            pid = ask(5).decode()
            assert ask(5).decode() == pid
        assert dead(pid)

    def test_no_answer_in_time_is_empty_and_a_deaf_one_is_killed(self) -> None:
        with beside([SHELL, "-c", "read -r _; echo $$; exec sleep 60 </dev/null"], 0.1) as ask:
            pid = ask(5).decode()
            assert ask(0.1) == b""
        assert dead(pid)

    def test_one_that_has_ended_answers_nothing(self) -> None:
        with beside(["/bin/true"], 5) as ask:
            assert ask(5) == ask(5) == b""


def test_nothing_else_starts_a_program() -> None:
    """One runner, so that its bounds hold for all. The suites in `testing` are no part of the agent."""
    package = Path(programs.__file__).parents[1]
    starts = re.compile(
        r"\bsubprocess\b|\bPopen\b|posix_spawn|os\.(exec|spawn|popen|system|fork)|multiprocessing|\bpty\b"
    )
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if starts.search(path.read_text())}
    assert {name for name in found if not name.startswith("testing/")} == {"host/programs.py"}


def dead(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z")
    except OSError:
        return True
