"""`certagent status` of a fleet: what fares well has a line, and nothing that fails is ever left out."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from certagent.cli.main import cli
from certagent.errors import Misconfigured
from certagent.facts.dns import Answer, Observation
from certagent.facts.tls import Chain
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.steps import Install
from certagent.report import overview
from tests.store.opened import opened

ONE = """\
  NAME:
    ca: ca
    mail_servers:
      postfix:
        type: postfix
        chain_files: {ecdsa: /etc/postfix/NAME.pem}
        services: [{host: NAME, port: 25, mode: smtp, tlsa: true}]
"""
TLSA_NAME = "_25._tcp.mx0.example.org."
HEARD = Answer(frozenset(), 60)


def names(count: int) -> list[str]:
    return [f"mx{number}.example.org" for number in range(count)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(0o700)
    return tmp_path


def status(place: Path, count: int, *arguments: str) -> Result:
    path = place / "config.yaml"
    path.touch(0o600)
    head = f"state_dir: {place}/state\nca: {{ca: {{directory: 'https://ca.example/dir'}}}}\ncertificates:\n"
    path.write_text(head + "".join(ONE.replace("NAME", name) for name in names(count)))
    return CliRunner().invoke(cli, ["status", "--config", str(path), *arguments])


def happened(place: Path, name: str, *events: ev.AnyEvent) -> None:
    journal = opened(place / "state" / "journal.db")
    journal.append(name, *events)
    journal.sleep(name, timedelta(hours=1), "watch")
    journal.close()


def served(for_: timedelta) -> list[ev.AnyEvent]:
    return [issued(for_), INSTALLED, ev.Installed(server="postfix", generation="g1", lane=Lane("install", "postfix"))]


def issued(for_: timedelta) -> ev.Issued:
    now = datetime.now(UTC)
    chain = Chain("ab" * 32, (), ("mx0.example.org",), now - timedelta(days=90), now + for_, "01")
    return ev.Issued(
        key_type="ecdsa-p256",
        keys="k1",
        generation="g1",
        chain=chain,
        completes=True,
        lane=Lane("issuance", "ecdsa-p256"),
        ca="https://ca.test/",
    )


def looked(answer: Answer | Unknown, security: str = "secure") -> ev.Observed:
    observation = Observation("example.org.", TLSA_NAME, {"ns1/192.0.2.1": answer}, security)  # pyright: ignore[reportArgumentType]
    return ev.Observed(tlsa_name=TLSA_NAME, observation=observation, lane=Lane("observe", TLSA_NAME))


INSTALLED = ev.Intended(step=Install(server="postfix", generation="g1", because=""), lane=Lane("install", "postfix"))


def test_it_loads_only_what_it_uses(place: Path) -> None:
    """Monitors call it every minute. What plans, acts and asks takes longer to load than `status` takes to answer."""
    happened(place, "mx0.example.org", *served(timedelta(days=29)), looked(HEARD))
    status(place, 1)
    script = "import sys\nfrom certagent.cli.main import cli\ntry: cli(standalone_mode=False)\n"
    script += "except SystemExit: print('loaded', *sys.modules)"
    argv = [sys.executable, "-c", script, "status", "--config", str(place / "config.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("loaded ")[2].split())
    assert "certagent.report.status" in loaded
    unused = {"acme", "asyncio", "concurrent.futures", "cryptography", "ctypes", "difflib", "dns", "logging", "random"}
    ours = {"acme", "dns", "mta", "lifecycle.planner", "lifecycle.forecast", "agent.act", "report.views", "store.vault"}
    assert not loaded & (unused | {f"certagent.{name}" for name in ours})


FLEET = 51


def test_each_has_a_line(place: Path) -> None:
    """How long what is served is valid, and what comes next; rolls are drawn for a few."""
    happened(place, "mx0.example.org", *served(timedelta(days=29, minutes=1)), looked(HEARD))
    head, *rows = status(place, FLEET).output.splitlines()
    assert head.split() == ["CERTIFICATE", "SERVED", "VALID", "UNTIL", "IN", "DNS", "STANDBY", "NEXT"]
    assert [row.split()[1] for row in rows[:FLEET]] == names(FLEET)
    assert re.fullmatch(r"◐ mx0.example.org   g1       20\S+ 29 d  not yet  none     swap", rows[0])
    assert rows[1] == "◐ mx1.example.org   nothing  –                not yet  none     issue"
    assert sum("[issue]" in row or "[swap]" in row for row in rows) == overview.ROLLS
    assert rows[-5] == f"◐ {FLEET - overview.ROLLS} more: rolling"
    assert rows[-3].endswith("UTC, 51 certificates: 51 rolling")


@pytest.mark.parametrize(
    ("events", "said", "below"),
    [
        (
            [ev.Failed(lane=Lane("observe", TLSA_NAME), kind="transient", code="dns.silent", detail="no answer")],
            f"FAILING observe {TLSA_NAME}",
            f"observe {TLSA_NAME}: no answer [dns.silent]; 1 time since",
        ),
        (served(timedelta(seconds=-1)), "g1 EXPIRED 20", "MAIL IS AFFECTED: g1 is served and has expired"),
        ([looked(Unknown("timed out"))], "UNKNOWN: timed out", "is not heard at ns1/192.0.2.1: timed out"),
        ([looked(HEARD, "bogus")], "bogus", f"MAIL IS AFFECTED: DNSSEC of {TLSA_NAME} is broken"),
        (
            [issued(timedelta(days=29)), INSTALLED, ev.VerifyFailed(server="postfix", generation="g1", served=())],
            "postfix DOES NOT SERVE g1",
            "MAIL MAY BE AFFECTED: postfix does not serve everywhere",
        ),
    ],
)
def test_what_is_not_well_is_said_below_the_table_and_in_full_by_name(
    place: Path, events: list[ev.AnyEvent], said: str, below: str
) -> None:
    """The table says that something is wrong; the lines below what, and whether mail is affected."""
    happened(place, "mx0.example.org", *events)
    assert said in status(place, FLEET, "mx0.example.org").output
    table, block, *_ = status(place, FLEET).output.split("\n\n")
    assert table.splitlines()[1].startswith("✖ mx0.example.org")
    assert re.match(r"✖ mx0.example.org: (FAILING|NEEDS YOU)\n    mail is not affected|.*\n    MAIL ", block)
    assert below in block


def test_the_exit_status_is_that_of_the_worst(place: Path) -> None:
    """It does not depend on how much is shown."""
    happened(
        place,
        "mx0.example.org",
        ev.Failed(lane=Lane("observe", TLSA_NAME), kind="transient", code="dns.silent", detail=""),
    )
    assert status(place, FLEET).exit_code == 1
    happened(
        place, "mx1.example.org", ev.Failed(lane=Lane("observe", TLSA_NAME), kind="unsafe", code="dane.gate", detail="")
    )
    assert status(place, FLEET).exit_code == 3


def test_a_damaged_row_is_reported(place: Path) -> None:
    """Also among so many that nobody would look at it."""
    for name in names(2):
        happened(place, name, looked(HEARD))
    journal = opened(place / "state" / "journal.db")
    journal.close()
    with closing(sqlite3.connect(place / "state" / "journal.db")) as db, db:
        db.execute("UPDATE head SET state='{}' WHERE subject='certificate/mx1.example.org'")
    ended = status(place, FLEET)
    assert isinstance(ended.exception, Misconfigured)
    assert ended.exception.code == "journal.damaged"
    assert "mx1.example.org: the state does not belong" in ended.exception.detail
