"""Providers that are programs: the protocol, and programs that misbehave."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Literal

import pytest

from certagent.dns.providers.command import Command, Options
from certagent.dns.providers.program import Question, judge, printable
from certagent.dns.providers.protocol import Capabilities, Changed, RRset
from certagent.errors import Error, Misconfigured, Rejected, Transient
from certagent.host.programs import Result
from certagent.testing.dns_provider import DnsCheck, dns_provider_suite
from tests.lab.wait import until

NAME = "_25._tcp.mx1.example.org."
STORE = """\
import json, sys
path, request = sys.argv[1], json.load(sys.stdin)
try:
    data = json.load(open(path))
except FileNotFoundError:
    data = {}
key = request["name"] + request["type"]
values, ttl_s = data.get(key, [[], 0])
rrset = None
if request["action"] == "add":
    values, ttl_s = sorted({*values, *request["values"]}), request["ttl_s"]
elif request["action"] == "remove":
    values = [v for v in values if v not in request["values"]]
elif values:
    rrset = {"values": values, "ttl_s": ttl_s}
if request["action"] != "get":
    json.dump({**data, key: [values, ttl_s]}, open(path + ".new", "w"))
    import os; os.rename(path + ".new", path)
print(json.dumps({"ok": True, "rrset": rrset}))
"""
"""A program of version 1."""
LOCKED = "import fcntl; lock = open(__file__); fcntl.flock(lock, fcntl.LOCK_EX)\n" + STORE.replace(
    "rrset = None",
    """rrset = None
if request["action"] == "capabilities":
    sys.exit(print(json.dumps({"ok": True, "capabilities": {"precondition": "set", "newer": 1}})))
there = {"values": values, "ttl_s": ttl_s} if values else None
if request["action"] != "get" and request["was"] != there:
    sys.exit(print(json.dumps({"ok": False, "error": "changed"})))""",
).replace('key = request["name"] + request["type"]', 'key = request.get("name", "") + request.get("type", "")')
"""The same in version 2."""


def program(tmp_path: Path, text: str, interpreter: str = "/bin/sh") -> str:
    path = tmp_path / "program"
    path.write_text(f"#!{interpreter}\n{text}")
    path.chmod(0o755)
    return str(path)


def shell(tmp_path: Path, text: str, *, timeout: str = "5s", protocol: Literal[1, 2] = 2) -> Command:
    path = program(tmp_path, text)
    return Command(Options(program=path, zones=("example.org",), timeout=timeout, protocol=protocol))


def caught(command: Command) -> Error:
    with pytest.raises(Error) as caught:
        command.add(NAME, "TLSA", frozenset({"3 1 1 aa"}), 60, None)
    return caught.value


class TestProtocol:
    @pytest.mark.parametrize("check", dns_provider_suite, ids=lambda check: check.__name__)
    @pytest.mark.parametrize("protocol", [1, 2])
    def test_a_small_program_keeps_the_rules(self, tmp_path: Path, check: DnsCheck, protocol: Literal[1, 2]) -> None:
        path = program(tmp_path, STORE if protocol == 1 else LOCKED, sys.executable)
        args = (str(tmp_path / "store"),)
        check(Command(Options(program=path, args=args, zones=("example.org",), protocol=protocol)), "example.org.")

    def test_what_it_can_do_is_asked_once(self, tmp_path: Path) -> None:
        """In version 2; what it does not say is as usual. A program of version 1 is not asked."""
        answer = '{"ok":true,"capabilities":{"atomic":false,"ttl_floor_s":60,"newer":1}}'
        command = shell(tmp_path, f"cat >>{tmp_path}/asked; echo '{answer}'")
        for _ in range(2):
            assert command.capabilities == Capabilities(atomic=False, ttl_floor_s=60)
        assert (tmp_path / "asked").read_text() == '{"version":2,"action":"capabilities"}'
        assert shell(tmp_path, "exit 9", protocol=1).capabilities == Capabilities()
        with pytest.raises(Transient, match=r"dns\.unreachable"):
            assert shell(tmp_path, "exit 9").capabilities

    def test_the_precondition(self, tmp_path: Path) -> None:
        """It is the set as the program gave it, spelt as it was; null for none; "changed" is an outcome."""
        out = tmp_path / "out"
        get = '{"ok":true,"rrset":{"values":["3 1 1 AA bb"],"ttl_s":9}}'
        was = shell(tmp_path, f"echo '{get}'").get(NAME, "TLSA")
        assert was is not None
        assert (was.values, was.ttl_s) == ({"3 1 1 aabb"}, 9)
        command = shell(tmp_path, f"cat >{out}; echo '{{\"ok\":true}}'")
        command.remove(NAME, "TLSA", frozenset({"3 1 1 aabb"}), was)
        assert json.loads(out.read_text())["was"] == {"values": ["3 1 1 AA bb"], "ttl_s": 9}
        command.remove(NAME, "TLSA", frozenset({"3 1 1 aabb"}), None)
        assert json.loads(out.read_text())["was"] is None
        error = caught(shell(tmp_path, 'echo \'{"ok":false,"error":"changed","detail":"now none"}\''))
        assert (type(error), error.code) == (Changed, "dns.changed")
        assert "now none" in error.detail

    def test_what_the_program_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One JSON object, the arguments as they are, and nothing of certagent's environment."""
        monkeypatch.setenv("LEAK", "1")
        out = tmp_path / "out"
        text = f'cat >{out}; echo >>{out}; env >>{out}; echo "$1|$PWD" >>{out}; echo \'{{"ok":true}}\''
        options = Options(
            program=program(tmp_path, text), args=("a b; $(x)",), zones=("example.org", "org"), env={"EXTRA": "2"}
        )
        Command(options).add(NAME, "TLSA", frozenset({"3 1 1 bb", "3 1 1 aa"}), 60, RRset(frozenset({"3 1 1 cc"}), 9))
        request, *environment, last = out.read_text().splitlines()
        assert json.loads(request) == {
            "version": 2,
            "action": "add",
            "zone": "example.org.",
            "name": NAME,
            "type": "TLSA",
            "values": ["3 1 1 aa", "3 1 1 bb"],
            "ttl_s": 60,
            "was": {"values": ["3 1 1 cc"], "ttl_s": 9},
        }
        assert {line.split("=")[0] for line in environment} - {"PWD", "SHLVL", "_", "OLDPWD"} == {
            "PATH",
            "LC_ALL",
            "EXTRA",
        }
        assert last == "a b; $(x)|/"

    def test_get(self, tmp_path: Path) -> None:
        """No RRset and an empty one are the same; fields of a later version are passed over."""
        for told, got in (
            ('{"ok":true,"rrset":{"values":["x"],"ttl_s":9,"new":1},"new":1}', RRset(frozenset({"x"}), 9, ("x",))),
            ('{"ok":true,"rrset":null}', None),
            ('{"ok":true,"rrset":{"values":[],"ttl_s":9}}', None),
        ):
            assert shell(tmp_path, f"echo '{told}'").get(NAME, "TXT") == got

    @pytest.mark.parametrize(
        ("told", "kind", "code"),
        [
            ("transient", Transient, "dns.unknown_outcome"),
            ("rejected", Rejected, "dns.rejected"),
            ("misconfigured", Misconfigured, "dns.refused"),
        ],
    )
    def test_errors(self, tmp_path: Path, told: str, kind: type[Error], code: str) -> None:
        """Told errors count with any exit status, with the end of standard error beside them."""
        answer = json.dumps({"ok": False, "error": told, "detail": "what", "hint": "remedy"})
        error = caught(shell(tmp_path, f"echo 'the log' >&2; echo '{answer}'; exit 3"))
        assert (type(error), error.code, error.hint) == (kind, code, "remedy")
        assert error.detail.endswith("what | the log")


class TestMisbehaviour:
    @pytest.mark.parametrize(
        "text",
        [
            "exit 0",
            "exit 1",
            "echo no json",
            "echo '{\"ok\":1}'",
            "echo '[]'",
            "echo null",
            "echo '\"ok\"'",
            'echo \'{"ok":true,"rrset":[]}\'',
            'echo \'{"ok":true,"rrset":{"values":"x","ttl_s":1}}\'',
            'echo \'{"ok":true,"rrset":{"values":[1],"ttl_s":1}}\'',
            'echo \'{"ok":true,"rrset":{"values":[],"ttl_s":-1}}\'',
            'echo \'{"ok":true,"rrset":{"values":[],"ttl_s":2147483648}}\'',
            'echo \'{"ok":true,"rrset":{"values":[],"ttl_s":1e99}}\'',
            'echo \'{"ok":false,"error":"new"}\'',
            'echo \'{"ok":true}{"ok":true}\'',
            "head -c 20000 /dev/zero | tr '\\0' '['",
            'printf \'{"ok":true,"detail":"\\\\ud800"}\'',
            "echo '{\"ok\":true}'; exit 1",
            "kill -9 $$",
        ],
    )
    def test_no_valid_answer(self, tmp_path: Path, text: str) -> None:
        """Nobody knows what happened; a question has no outcome."""
        command = shell(tmp_path, text)
        error = caught(command)
        assert (type(error), error.code) == (Transient, "dns.unknown_outcome")
        with pytest.raises(Transient, match=r"dns\.unreachable"):
            command.get(NAME, "TXT")

    @pytest.mark.parametrize("text", ["sleep 60 & echo $! >{pid}; wait", "exec >&- 2>&-; echo $$ >{pid}; sleep 60"])
    def test_the_whole_group_is_killed(self, tmp_path: Path, text: str) -> None:
        """At the time limit, with children and although the output is closed."""
        pid = tmp_path / "pid"
        error = caught(shell(tmp_path, text.format(pid=pid), timeout="4s"))
        assert error.code == "dns.unknown_outcome"
        assert "no end after 4 s" in error.detail
        until(lambda: dead(int(pid.read_text())), 5, "it is dead")

    def test_too_much_output(self, tmp_path: Path) -> None:
        text = "head -c 65537 /dev/zero | tr '\\0' ' '; echo '{\"ok\":true}'"
        assert "printed more than" in caught(shell(tmp_path, text)).detail

    def test_an_answer_counts_when_the_program_has_ended_whatever_its_children_hold(self, tmp_path: Path) -> None:
        """As with a connection of ssh that stays for the next call."""
        pid = tmp_path / "pid"
        shell(tmp_path, f"setsid sleep 60 & echo $! >{pid}; echo '{{\"ok\":true}}'").add(
            NAME, "TXT", frozenset("a"), 60, None
        )
        os.kill(int(pid.read_text()), signal.SIGKILL)  # it is still there

    @pytest.mark.parametrize(
        "text", ['printf \'{"ok":false,"detail":"\\377"}\'', "head -c 60000 /dev/zero | tr '\\0' ["]
    )
    def test_odd_bytes_and_deep_json_are_no_valid_answer(self, tmp_path: Path, text: str) -> None:
        assert caught(shell(tmp_path, text)).code == "dns.unknown_outcome"

    def test_much_to_stderr_is_harmless(self, tmp_path: Path) -> None:
        """Only its end is kept."""
        text = "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo end >&2; echo '{\"ok\":false}'"
        error = caught(shell(tmp_path, text))
        assert error.detail.endswith("xxx | end")
        assert len(error.detail) <= 300

    def test_control_characters_do_not_come_through(self) -> None:
        """A terminal or a log cannot be deceived."""
        assert printable("a\x1b[31m\nb", "c\r\x00\n\n d\ufffd\n").isprintable()
        with pytest.raises(Transient) as caught:
            judge("/p", Question(), Result(7, "", "one\ntwo\n"), "dns.unreachable")
        assert caught.value.detail == "/p: exit status 7 | one | two"


class TestProgram:
    def test_who_may_own_and_write_it(self, tmp_path: Path) -> None:
        """Also when that changes between two calls."""
        command = shell(tmp_path, "echo '{\"ok\":true}'")
        path = tmp_path / "program"
        for mode in (0o775, 0o757, 0o644):
            path.chmod(mode)
            error = caught(command)
            assert (type(error), error.code) == (Misconfigured, "dns.program")
        if os.geteuid() == 0:
            path.chmod(0o755)
            os.chown(path, 12345, 0)
            assert caught(command).code == "dns.program"

    def test_what_cannot_be_run(self, tmp_path: Path) -> None:
        """A missing program, a relative path, a directory, a missing interpreter."""
        for path in (str(tmp_path / "missing"), "true", str(tmp_path)):
            with pytest.raises(Misconfigured, match=r"dns\.program"):
                Command(Options(program=path, zones=("example.org",)))
        text = program(tmp_path, "", "/missing/interpreter")
        with pytest.raises(Misconfigured, match=r"/missing does not exist|/missing: No such.*dns\.program"):
            Command(Options(program=text, zones=("example.org",)))

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_nobody_else_may_own_a_directory_on_the_way(self, tmp_path: Path) -> None:
        command = shell(tmp_path, "echo '{\"ok\":true}'")
        os.chown(tmp_path, 65534, 0)
        error = caught(command)
        assert (error.code, error.hint) == ("dns.program", f"chown -h root {tmp_path}")
        assert f"{tmp_path} belongs to user 65534" in error.detail

    def test_a_name_in_no_zone(self, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match=r"dns\.no_zone"):
            shell(tmp_path, "exit 9").get("x.example.net.", "TXT")


def dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z")
    except OSError:
        return True
