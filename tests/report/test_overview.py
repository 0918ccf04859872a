"""The screen of `certagent status`: 80 columns are enough, nothing is cut, and it says whether mail is affected."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.report import status
from certagent.report.mail import mail
from certagent.report.overview import overview
from certagent.report.roll import Roll, Stage
from certagent.report.status import Certificate, Status, Verdict
from certagent.report.timeline import picture
from tests.lifecycle.play import SPEC, STRANGE, TLSA_NAME, Life, chain_of, served
from tests.script.test_script import SCRIPTS, situation

ROOT = Path(__file__).resolve().parents[2]
LONG = "a-mail-exchanger-with-a-very-long-name.of-a-department.example.org"


def certificate(life: Life) -> Certificate:
    return status.certificate(life.spec, life.state, life.now, None, 1)


def view(*certificates: Certificate, daemon: int | None = 1) -> Status:
    return status.status(certificates, Life().now, daemon)


def rolling() -> Life:
    """Issued, and caches are waited for."""
    life = Life.published(replace(SPEC, standby=False))
    life.happens(ev.Requested(what="rotate"))
    life.until(st.Install)
    return life


def fleet() -> Status:
    """Well, rolling, failing, with a name that needs a line for itself."""
    well, failing = Life.published(), Life.published()
    failing.fails("challenge ecdsa-p256", "dns.refused", "misconfigured", times=6)
    rolls = rolling()
    rolls.looks(rolls.in_dns - rolls.records("g2"))
    return view(
        certificate(well),
        replace(certificate(rolls), name="mx2.example.org"),
        replace(certificate(failing), name=LONG),
    )


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(width: int) -> None:
    wide, narrow = overview(fleet(), None), overview(fleet(), width)
    assert max(map(len, narrow.splitlines())) <= width
    assert set(re.findall(r"\S+", wide)) == set(re.findall(r"\S+", narrow))
    assert LONG in narrow


def test_in_a_pipe_each_thing_is_one_line() -> None:
    lines = overview(fleet(), None).splitlines()
    [failure] = [line for line in lines if "[dns.refused]" in line]
    assert "6 times since" in failure
    assert "    do: look at it" in lines


def test_a_roll_is_drawn_with_its_times() -> None:
    """What is over, where it is now, and when the rest comes."""
    life = Life()
    at = life.now.wall

    def after(minutes: int) -> Roll:
        return Roll(
            "publish", ("g1",), "g2", began_at=at, issued_at=at, swap_at=at + timedelta(minutes=minutes), ends_at=at
        )

    above, below = picture(after(120), at + timedelta(minutes=60))
    assert above == "issue ━━ publish ━━ caches ━━━━━━━▶┄┄┄┄┄┄ swap ┄┄ verify ┄┄ remove"
    assert below.split() == ["00:00", "00:00", "now", "01:00", "02:00", "00:00", "00:00"]
    assert [below.index(time) for time in ("now", "02:00")] == [above.index("caches"), above.index("swap")]
    for minutes in (0, 1, 61, 3000, 10**6):
        for line in picture(after(minutes), at + timedelta(minutes=60)):
            assert len(line) <= 76
    above, below = picture(after(3000), at + timedelta(minutes=1500))
    assert below.split() == ["01-01", "00:00", "00:00", "now", "01:00", "01-03", "02:00", "01-01", "00:00", "00:00"]
    assert len(above) <= 76
    words: dict[Stage, str] = {"issue": "issue", "swap": "swap", "drain": "verify", "records": "remove"}
    for stage, word in words.items():
        above, below = picture(Roll(stage, (), None), at)
        assert f"[{word}]" in above
        assert below.index("now") == above.index("[")


def test_what_was_asked_for_and_what_is_to_be_revoked_is_said() -> None:
    life = Life.published()
    life.happens(ev.Requested(what="emergency"))
    assert "the operator asked for: emergency" in overview(view(certificate(life)), 80)
    life.until(st.Revoke)
    assert "g1 is revoked as soon as nothing serves it" in overview(view(certificate(life)), 80)


# -- mail --------------------------------------------------------------------------------------------------------------


def affected(life: Life) -> tuple[str, str]:
    found = mail(life.spec, life.state, life.names, life.now.wall)
    return found.affected, found.why


def test_whether_mail_is_affected() -> None:
    """Expired, DNSSEC broken, no record that matches what is served, something else served; else until when not."""
    assert affected(Life()) == ("no", "nothing of a mail server was changed")
    life = Life.published()
    assert affected(life) == ("no", "g1 is valid until 2027-04-01")
    life.looks(life.in_dns, STRANGE)
    assert affected(life) == ("yes", f"no record that ns2./192.0.2.2 gives for {TLSA_NAME} matches what is served")
    life.looks(life.in_dns, frozenset({"1 1 1 " + "ee" * 32}), frozenset())
    assert affected(life)[0] == "no", "without a usable record senders do not use DANE"
    life.looks(life.in_dns | STRANGE, None)
    assert affected(life)[0] == "no", "one record that matches is enough; silence says nothing"
    life.looks(security="bogus")
    assert affected(life)[0] == "yes"
    life.looks()
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=(served(Unknown("454", reached=True)),)))
    assert affected(life) == ("perhaps", "postfix does not serve everywhere what it should")
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=(served(chain_of("ee")),)))
    assert affected(life)[0] == "yes", "its record is in no set"
    life.passes(timedelta(days=90))
    assert affected(life) == ("yes", "g1 is served and has expired")


# -- the exit status and the terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("daemon", "wanted"), [(1, True), (None, True), (None, False)])
@pytest.mark.parametrize("verdict", ["well", "rolling", "failing", "needs_human"])
def test_without_a_daemon_it_is_never_well(verdict: Verdict, daemon: int | None, wanted: bool) -> None:
    """Unless something else runs certagent."""
    one = replace(certificate(Life.published()), verdict=verdict)
    found = status.status((one,), Life().now, daemon, daemon_wanted=wanted)
    absent = daemon is None and wanted
    assert found.verdict == ("failing" if absent and verdict in ("well", "rolling") else verdict)
    assert ("NO DAEMON" in overview(found, 80)) == absent
    assert status.status((), Life().now, None).verdict == "well"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    [script] = [path for path in SCRIPTS if path.stem == "rolling"]
    with situation(script.read_text(), tmp_path):
        yield tmp_path


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_a_terminal_that_wants_it(place: Path, more: dict[str, str], coloured: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **more}
    argv = [sys.executable, "-m", "certagent", "status", "--config", str(place / "config.yaml")]
    subprocess.run(argv, env=environment, stdout=theirs, stdin=subprocess.DEVNULL, timeout=60, check=False)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    text = said.decode().replace("\r", "")
    assert "mx1.example.org" in text
    assert ("\x1b[" in text) == coloured
    assert max(len(re.sub(r"\x1b\[\d+m", "", line)) for line in text.splitlines()) <= 80
