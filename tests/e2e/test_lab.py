"""The lab itself is right: what the other tests trust is shown here."""

from __future__ import annotations

import os
import signal
import smtplib
import subprocess
import sys
import time
from pathlib import Path

import dns.exception
import dns.flags
import dns.rcode
import pytest

from tests.lab import certificates, namespace
from tests.lab.addresses import (
    ALIAS_ZONE,
    EXPIRED_ZONE,
    INSECURE_ZONE,
    KNOT,
    KNOT_ZONE,
    MX1,
    PRIMARY,
    RESOLVER,
    SECONDARY,
    ZONE,
)
from tests.lab.dns import Dns
from tests.lab.handshake import leaf, served_tlsa
from tests.lab.pebble import Pebble
from tests.lab.postfix import Receiver, Sender
from tests.lab.sender import Mailer, Prober
from tests.lab.wait import until

NAME = f"mx1.{ZONE}"
TLSA_NAME = f"_25._tcp.{NAME}"
WRONG = f"3 1 1 {'ab' * 32}"


def judgement(lab_dns: Dns, zone: str) -> tuple[dns.rcode.Rcode, bool]:
    """The resolver's answer code, and whether it validated the answer."""
    answer = lab_dns.ask(RESOLVER, zone, "MX")
    return answer.rcode(), bool(answer.flags & dns.flags.AD)


def install(pair: certificates.Pair, chain_file: Path) -> None:
    """Replaces the file in one step."""
    new = chain_file.with_suffix(".new")
    new.write_bytes(pair.chain_file)
    new.replace(chain_file)


class TestDns:
    def test_the_resolver_validates(self, lab_dns: Dns) -> None:
        assert judgement(lab_dns, ZONE) == (dns.rcode.NOERROR, True)
        assert judgement(lab_dns, ALIAS_ZONE) == (dns.rcode.NOERROR, True)
        assert judgement(lab_dns, KNOT_ZONE) == (dns.rcode.NOERROR, True)
        assert judgement(lab_dns, INSECURE_ZONE) == (dns.rcode.NOERROR, False)
        assert judgement(lab_dns, EXPIRED_ZONE) == (dns.rcode.SERVFAIL, False)
        assert judgement(lab_dns, "none.example") == (dns.rcode.NXDOMAIN, True)

    def test_the_secondary_follows_within_a_second(self, lab_dns: Dns) -> None:
        for values in [["a", "b"], ["c"], []]:
            lab_dns.update(f"follows.{ZONE}", "TXT", values)
            assert lab_dns.values(PRIMARY, f"follows.{ZONE}", "TXT") == [f'"{value}"' for value in values]
            until(lab_dns.in_step, 1, "the secondary follows")
            assert lab_dns.values(SECONDARY, f"follows.{ZONE}", "TXT") == [f'"{value}"' for value in values]

    def test_knot_takes_updates(self, lab_dns: Dns) -> None:
        lab_dns.update(f"_25._tcp.mx1.{KNOT_ZONE}", "TLSA", [WRONG], ttl=7)
        assert lab_dns.values(KNOT, f"_25._tcp.mx1.{KNOT_ZONE}", "TLSA") == [WRONG]
        assert lab_dns.ask(KNOT, f"_25._tcp.mx1.{KNOT_ZONE}", "TLSA").answer[0].ttl == 7

    def test_names_may_lead_into_the_other_zone(self, lab_dns: Dns) -> None:
        target = f"shared.{ALIAS_ZONE}"
        lab_dns.update(f"alias.{ZONE}", "CNAME", [f"{target}."])
        lab_dns.update(target, "TLSA", [WRONG])
        lab_dns.settle()
        assert lab_dns.values(RESOLVER, f"alias.{ZONE}", "TLSA") == [WRONG]

    def test_a_lagging_secondary_answers_what_was(self, lab_dns: Dns) -> None:
        lab_dns.update(f"lag.{ZONE}", "TXT", ["old"])
        until(lab_dns.in_step, 1, "the secondary follows")
        lab_dns.lag()
        lab_dns.update(f"lag.{ZONE}", "TXT", ["new"])
        time.sleep(0.5)
        assert lab_dns.values(PRIMARY, f"lag.{ZONE}", "TXT") == ['"new"']
        assert lab_dns.values(SECONDARY, f"lag.{ZONE}", "TXT") == ['"old"']
        lab_dns.catch_up()
        assert lab_dns.values(SECONDARY, f"lag.{ZONE}", "TXT") == ['"new"']

    def test_a_frozen_zone_refuses_updates(self, lab_dns: Dns) -> None:
        lab_dns.freeze()
        with pytest.raises(RuntimeError, match="REFUSED"):
            lab_dns.update(f"frozen.{ZONE}", "TXT", ["x"])
        lab_dns.thaw()
        lab_dns.update(f"frozen.{ZONE}", "TXT", ["x"])

    def test_a_stopped_secondary_is_silent(self, lab_dns: Dns) -> None:
        lab_dns.stop_secondary()
        with pytest.raises(dns.exception.Timeout):
            lab_dns.ask(SECONDARY, ZONE, "SOA", seconds=0.2)
        lab_dns.cont_secondary()
        assert lab_dns.values(SECONDARY, ZONE, "SOA")

    def test_the_parent_decides_what_is_valid(self, lab_dns: Dns) -> None:
        lab_dns.parent(ZONE, "bad")
        assert judgement(lab_dns, ZONE) == (dns.rcode.SERVFAIL, False)
        lab_dns.parent(ZONE, "none")
        assert judgement(lab_dns, ZONE) == (dns.rcode.NOERROR, False)
        lab_dns.parent(ZONE, "good")
        assert judgement(lab_dns, ZONE) == (dns.rcode.NOERROR, True)

    def test_key_files_are_secret(self, lab_dns: Dns) -> None:
        for name in ("acme-key", "dane-key"):
            assert lab_dns.keyfile(name).stat().st_mode & 0o777 == 0o600
            assert lab_dns.tsig_secret in lab_dns.keyfile(name).read_text()


def test_a_restarted_pebble_has_another_root(pebble: Pebble) -> None:
    before = pebble.root()
    pebble.restart()
    assert pebble.root() != before


class TestMail:
    @pytest.fixture
    def pair(self, chain_file: Path) -> certificates.Pair:
        """What mx1 serves from its start."""
        pair = certificates.make([NAME])
        install(pair, chain_file)
        return pair

    def test_delivered_when_the_record_is_right(
        self, lab_dns: Dns, pair: certificates.Pair, mx1: Receiver, sender: Sender
    ) -> None:
        lab_dns.update(TLSA_NAME, "TLSA", [pair.tlsa])
        lab_dns.settle()
        delivery = sender.delivery(sender.send(f"user@{ZONE}"))
        assert (delivery.recipient, delivery.status, delivery.dsn) == (f"user@{ZONE}", "sent", "2.0.0")
        assert delivery.tls.startswith("Verified TLS connection")
        until(lambda: mx1.delivered() == 1, 2, "the mail is in the maildir")

    def test_deferred_when_the_record_is_wrong(
        self, lab_dns: Dns, pair: certificates.Pair, mx1: Receiver, sender: Sender
    ) -> None:
        assert served_tlsa(MX1) == pair.tlsa
        lab_dns.update(TLSA_NAME, "TLSA", [WRONG])
        lab_dns.settle()
        delivery = sender.delivery(sender.send(f"user@{ZONE}"))
        assert (delivery.status, delivery.dsn) == ("deferred", "4.7.5")
        assert delivery.detail == "Server certificate not verified"
        assert mx1.delivered() == 0

    def test_witnesses_are_content_when_all_is_right(
        self, lab_dns: Dns, pair: certificates.Pair, mx1: Receiver, sender: Sender
    ) -> None:
        lab_dns.update(TLSA_NAME, "TLSA", [pair.tlsa])
        lab_dns.settle()
        with Mailer(sender) as mailer, Prober() as prober:
            until(lambda: prober.match >= 5 and mailer.mailed >= 3, 5, "five comparisons, three mails")
            mailed = mailer.stop()
            assert prober.stop() == []
        assert mailed.sent >= 3
        assert mailed == (mailed.sent, 0, 0, [])
        until(lambda: mx1.delivered() == mailed.sent, 2, "the mails are in the maildir")

    def test_witnesses_notice_a_key_that_was_not_published(
        self, lab_dns: Dns, pair: certificates.Pair, chain_file: Path, mx1: Receiver, sender: Sender
    ) -> None:
        lab_dns.update(TLSA_NAME, "TLSA", [pair.tlsa])
        lab_dns.settle()
        with Mailer(sender) as mailer, Prober() as prober:
            until(lambda: prober.match >= 2, 5, "two comparisons")
            install(certificates.make([NAME]), chain_file)
            mx1.reload()
            until(lambda: prober.mismatch >= 2, 5, "the wrong key is noticed")
            until(lambda: "status=deferred" in sender.log, 5, "a mail is deferred")
            install(pair, chain_file)
            mx1.reload()
            matches = prober.match
            until(lambda: prober.match > matches, 5, "the right key is noticed")
            mailed = mailer.stop()
            prober.stop()
        assert mailed.deferred > 0
        assert mailed.bounced == 0
        assert {failure.kind for failure in prober.failures} == {"mismatch"}

    def test_the_first_certificate_may_come_late(self, chain_file: Path, mx1: Receiver) -> None:
        with smtplib.SMTP(MX1, 25, local_hostname="client.example") as client:
            client.sendmail("", [f"user@{ZONE}"], "Subject: t\r\n\r\nx\r\n")
        until(lambda: mx1.delivered() == 1, 2, "the mail is in the maildir")
        with pytest.raises(OSError, match="HANDSHAKE_FAILURE"):
            leaf(MX1)
        pair = certificates.make([NAME])
        install(pair, chain_file)
        mx1.reload()
        until(lambda: [shown(port) for port in (25, 465, 587)] == [pair.tlsa] * 3, 5, "every port serves it")


def shown(port: int) -> str:
    """The key that is served there, or why none was seen."""
    try:
        return served_tlsa(MX1, port, NAME)
    except OSError as error:
        return repr(error)


ROOT = Path(__file__).resolve().parents[2]
LAB = (sys.executable, "-m", "tests.lab.namespace")


def lab(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a lab inside the lab."""
    return subprocess.run([*LAB, *command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def _nested() -> None:
    tried = lab("true")
    if tried.returncode:  # an overlay can lie on at most one other: some containers have one already
        pytest.skip(f"no lab inside a lab here: {tried.stderr.strip()}")


@pytest.mark.usefixtures("_nested")
class TestNamespace:
    def start(self) -> tuple[subprocess.Popen[str], Path, int]:
        """A lab with a server that goes into the background: its process, its directory, the server's pid here."""
        script = "setsid sleep 1234 & echo $CERTAGENT_LAB; wait"
        process = subprocess.Popen([*LAB, "bash", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        directory = Path(process.stdout.readline().strip())
        process.stdout.close()
        server = until(lambda: descendants(process.pid, "sleep"), 5, "the server runs")[0]
        return process, directory, server

    def test_the_command_sees_only_its_own_and_leaves_nothing(self) -> None:
        ended = lab("bash", "-c", "echo $CERTAGENT_LAB; ls /proc | grep -c '^[0-9]'; exit 3")
        directory, processes = ended.stdout.split()
        assert ended.returncode == 3
        assert int(processes) <= 5
        assert not Path(directory).exists()
        assert namespace.inside()

    def test_everything_starts_from_one_class(self) -> None:
        program = "from tests.lab import Lab\nwith Lab() as lab: print(lab.mx1.running(), lab.sender.running())"
        assert lab(sys.executable, "-c", program).stdout == "True True\n"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_signal_ends_everything(self, number: signal.Signals) -> None:
        process, directory, server = self.start()
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert not Path(f"/proc/{server}").exists()
        assert not directory.exists()

    def test_sigkill_leaves_at_most_the_directory_and_the_next_lab_removes_it(self) -> None:
        process, directory, server = self.start()
        process.kill()
        process.wait(30)
        until(lambda: not Path(f"/proc/{server}").exists(), 5, "the server is gone")
        until(lambda: lab("true").returncode == 0 and not directory.exists(), 5, "the directory is removed")

    def test_a_living_lab_keeps_its_directory(self) -> None:
        process, directory, _ = self.start()
        lab("true")
        assert directory.exists()
        process.terminate()
        process.wait(30)

    def test_says_that_it_needs_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(SystemExit, match=r"^needs root: "):
            namespace.main(["true"])

    def test_says_when_namespaces_are_not_permitted(self) -> None:
        command = ["setpriv", "--bounding-set", "-sys_admin", *LAB, "true"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode != 0
        assert ended.stderr.startswith("needs root: namespaces are not permitted")
        assert ended.stderr.count("\n") == 1


def descendants(pid: int, name: str) -> list[int]:
    """The processes below `pid` that are called `name`."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        own = [pid] if Path(f"/proc/{pid}/comm").read_text().strip() == name else []
    except OSError:
        return []
    return own + [found for child in children for found in descendants(child, name)]
