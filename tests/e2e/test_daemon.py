"""`certagent run`: looks after every certificate by itself, at the dates of the journal, with one line per step."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.site import NAME, Daemon, Site, Strict
from tests.lab.addresses import MX2, ZONE
from tests.lab.dns import Dns
from tests.lab.handshake import served_tlsa
from tests.lab.pebble import Pebble
from tests.lab.postfix import Receiver
from tests.lab.wait import until

WORDS = {
    "step": {"certificate", "seq", "step", "lane", "outcome", "took", "because"},
    "failed": {"kind", "code", "error", "hint"},
    "event": {"event", "pid", "config", "certificate", "for_s", "because"},
    "report": {"about", "code", "error", "hint", "then"},
}
"""What the lines may say: see certagent/report/log.py."""


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
    with Site(place, lab_dns, pebble) as site:
        yield site


def waiting(daemon: Daemon, count: int = 1, name: str = NAME) -> None:
    """Until the daemon has nothing more to do for now than to wait for hours."""

    def idle() -> bool:
        waits = [w for w in daemon.lines if w.get("event") == "wait" and w["certificate"] == name]
        return len(waits) >= count and int(waits[-1]["for_s"]) > 5 * 3600

    until(idle, 20, f"idle: {daemon.log}")


def switches(daemon: Daemon) -> tuple[int, int]:
    """How often its threads gave up the processor, and the CPU time it used, in clock ticks."""
    voluntary = 0
    for path in Path(f"/proc/{daemon.process.pid}/task").glob("*/status"):
        voluntary += int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", path.read_text(), re.MULTILINE)[0])
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return voluntary, int(fields[11]) + int(fields[12])


def test_the_first_issue_and_publication_need_nobody(site: Site) -> None:
    """Started on a new host it brings the certificate into service and the records into DNS, and then waits."""
    with Strict() as witness, site.daemon() as daemon:
        waiting(daemon)
        witness.stop()
        assert witness.harm() == []
        site.assert_converged()
        status = site.run("status", "--json").json
        assert status["daemon"] == daemon.process.pid
        assert daemon.stop() == 0
    assert site.run("status", "--json").json["daemon"] is None
    first, *_, last = daemon.lines
    assert (first["event"], last["event"]) == ("start", "stop")


def test_every_line_is_logfmt_of_documented_words(site: Site) -> None:
    """Machines read the log: the words are those of the documentation, also when something fails."""
    site.pebble.stop()
    try:
        with site.daemon() as daemon:
            daemon.until(lambda w: w.get("outcome") == "failed", 10, "the CA is away")
            site.pebble.restart()
            waiting(daemon)
    finally:
        site.pebble.restart()
    for words in daemon.lines:
        if "step" in words:
            failed = words["outcome"] == "failed"
            assert WORDS["step"] <= words.keys() <= WORDS["step"] | (WORDS["failed"] if failed else set())
            assert failed == ("code" in words)
            assert re.fullmatch(r"\d+\.\d{3}", words["took"])
        elif "event" in words:
            assert words.keys() <= WORDS["event"], words
        else:
            assert words.keys() <= WORDS["report"], words
    assert "PEM" not in daemon.log
    priorities = {line[:3] for line in daemon.log.splitlines()}
    assert priorities == {"<6>", "<3>"}


def test_it_wakes_at_the_journaled_date_and_sleeps_between(site: Site) -> None:
    """The routine look comes when the journal says, again and again; between the dates there is no work at all."""
    site.certificate["check_interval"] = "3s"
    site.write()
    site.run("renew", "--wait")
    proofs = [e for e in site.history() if e["event"]["type"] == "Verified"]
    last = datetime.fromisoformat(proofs[-1]["at"]["wall"])
    with site.daemon() as daemon:
        line = daemon.until(
            lambda w: w.get("step") == "Verify" and w["because"] == "check interval", 10, "verified again"
        )
        assert line["outcome"] == "done"
        assert (datetime.now(UTC) - last).total_seconds() >= 3.0
        count = daemon.log.count("step=Verify")
        until(lambda: daemon.log.count("step=Verify") >= count + 2, 10, "and again")


def test_an_idle_daemon_does_nothing(site: Site) -> None:
    """No polling: in two seconds an idle daemon wakes a handful of times at most and uses no CPU time."""
    site.run("renew", "--wait")
    with site.daemon() as daemon:
        waiting(daemon)
        until(lambda: still(daemon), 10, "it is idle")
        before = switches(daemon)
        time.sleep(2)
        after = switches(daemon)
        assert after[0] - before[0] <= 5
        assert after[1] - before[1] <= 1


def still(daemon: Daemon) -> bool:
    before = switches(daemon)
    time.sleep(0.3)
    return switches(daemon)[0] - before[0] <= 1


def test_sigterm_ends_it_at_once_also_during_a_wait_and_during_a_step(site: Site) -> None:
    """It ends with exit 0, whatever it waits for; the next one goes on from there."""
    with site.daemon(at={"PlaceOrder!": "kill $PPID"}) as daemon:
        assert daemon.process.wait(30) == 0
    assert "OrderPlaced" in site.kinds(), "it brought the step to its end"
    assert "Verified" not in site.kinds(), "it did not go on to the end of the roll"
    with site.daemon() as daemon:
        waiting(daemon)
        assert daemon.stop() == 0
    site.assert_converged()


def test_sigint_ends_it_too(site: Site) -> None:
    """Ctrl-C is the same as SIGTERM."""
    site.run("renew", "--wait")
    with site.daemon() as daemon:
        waiting(daemon)
        daemon.signal(signal.SIGINT)
        assert daemon.process.wait(30) == 0


def test_sighup_reads_the_configuration_again(site: Site) -> None:
    """A changed file counts at once; a broken one is told with its place, and the old one stays in force."""
    site.run("renew", "--wait")
    with site.daemon() as daemon:
        waiting(daemon)
        good = site.path.read_text()
        site.path.write_text(good.replace("keys:", "keyz:"))
        daemon.signal(signal.SIGHUP)
        line = daemon.until(lambda w: w.get("about") == "reload", 5, "the mistake is told")
        assert line["code"] == "config.key"
        assert re.match(rf"{site.path}:\d+: certificates\.{NAME}\.keyz: unknown key", line["error"])
        assert line["hint"] == "did you mean keys?"
        assert "old configuration stays" in line["then"]
        site.path.write_text(good)
        site.certificate["keys"] = ["ecdsa-p384"]
        site.write()
        old = site.served()
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda w: w.get("event") == "reload", 5, "the new file is read")
        try:
            until(lambda: not site.served([25]) & old, 40, "a certificate of the new kind is served")
        except TimeoutError as error:
            raise AssertionError(daemon.log) from error
        until(lambda: converged(site), 20, "converged")
        assert daemon.stop() == 0
    leaf = next(iter(site.newest()["chains"]))
    assert leaf == "ecdsa-p384"


def converged(site: Site) -> bool:
    try:
        site.assert_converged()
    except (AssertionError, OSError):
        return False
    return True


def test_a_second_daemon_is_refused(site: Site) -> None:
    """One daemon a state directory: the second says which one runs, and ends with 2."""
    site.run("renew", "--wait")
    with site.daemon() as daemon:
        waiting(daemon)
        done = site.run("run", code=2)
        assert done.errors == [
            f"a daemon runs already: certagent (pid {daemon.process.pid}) is at work: daemon [lock.daemon]"
        ]
        assert done.hints == ["stop it first"]
        assert daemon.process.poll() is None


def test_a_command_beside_it_works_and_wakes_it(site: Site) -> None:
    """`renew --force` in the terminal, the daemon running: one roll, begun here, finished there."""
    site.certificate["drain"] = "6s"  # so long that the command does not finish the roll
    site.write()
    site.run("renew", "--wait")
    with site.daemon() as daemon, Strict() as witness:
        waiting(daemon)
        old = site.served()
        done = site.run("renew", "--force")
        assert "next in" in done.out
        daemon.until(lambda w: w.get("step") == "Delete", 15, "the daemon finishes the roll")
        waiting(daemon)
        witness.stop()
        assert witness.harm() == []
        assert not site.served() & old
        site.assert_converged()
        assert site.kinds().count("Install!") == 2


def test_two_certificates_at_once(site: Site, place: Path) -> None:
    """Each has its own roll; a fault of one does not hold up the other."""
    host = f"mx2.{ZONE}"
    chain = site.tls / "mx2.pem"
    receiver = Receiver(place / "mx2", "mx2", chain_files=[chain], addresses=(MX2,))
    receiver.start()
    site.names += [f"_25._tcp.{host}", f"_acme-challenge.{host}"]
    server = {
        "type": "postfix",
        "config_dir": str(receiver.config_dir),
        "chain_files": {"ecdsa": str(chain)},
        "services": [{"host": host, "port": 25, "mode": "smtp", "tlsa": True}],
    }
    site.config["certificates"][host] = {**site.certificate, "mail_servers": {"second": server}}
    site.write()
    site.receiver.stop()
    try:
        with site.daemon() as daemon:
            daemon.until(lambda w: w.get("code") == "mta.down", 20, "the first mail server is away")
            waiting(daemon, name=host)
            first = site.state(host)["keys"][0]["spki"]["ecdsa-p256"]
            assert f"3 1 1 {first}" == served_tlsa(MX2, 25, host)
            site.receiver.start()
            site.run("renew", NAME)
            until(lambda: converged(site), 20, "the first is done too")
            published = site.published(f"_25._tcp.{host}")
            assert published[0] == published[1]
            assert served_tlsa(MX2, 25, host) in published[0]
    finally:
        receiver.stop()
