"""Whatever is away or broken: a clear line, the old certificate goes on serving, the journal is whole; and when the
fault ends certagent goes on where it was."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.acme.front import Forward, Front, Reply, answer, problem
from tests.e2e.site import CHALLENGE, NAME, TLSA_NAME, Done, Site, Strict, fill, recursive_ca, tmpfs
from tests.e2e.watch import HOLD_S, Watch
from tests.lab.addresses import ACME, INSECURE_ZONE, PRIMARY, SECONDARY, ZONE
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble
from tests.lab.postfix import Sender
from tests.lab.wait import until

NS2 = f"ns2.{ZONE}./{SECONDARY}"


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
    """A host with a certificate in service, and TLSA records at each of its ports."""
    with Site(place, lab_dns, pebble) as site:
        site.publish_all()
        site.write()
        site.run("renew", "--wait")
        site.await_caches()
        yield site


@contextlib.contextmanager
def old_one_serves(site: Site) -> Generator[None]:
    """What was served and published before is so after, and at every moment between."""
    served, published, generation = site.served(), site.published(), site.newest()["id"]
    assert len(served) == 1
    with Strict(rate=10) as witness:
        yield
        witness.stop()
    assert witness.harm() == []
    assert site.served() == served
    site.dns.heal()
    until(site.dns.in_step, 10, "the secondary follows")
    assert all(set(before) <= set(after) for before, after in zip(published, site.published(), strict=True))
    assert f"event {generation}" not in site.run("history", NAME).out  # and the journal verifies


def one_error(done: Done, pattern: str) -> None:
    """One line of error that names the place, and one of hint."""
    assert len(done.errors) == 1, done
    assert re.search(pattern, done.errors[0]), done
    assert len(done.hints) == 1, done


def goes_on(site: Site) -> None:
    """The roll that was begun is brought to its end."""
    old = site.served()
    site.run("renew", "--wait")
    assert not site.served() & old
    site.assert_converged()


class TestCa:
    def test_away(self, site: Site) -> None:
        """Connection refused: transient, exit 1, and status tells of it with 1 too."""
        with old_one_serves(site):
            site.pebble.stop()
            try:
                one_error(site.run("renew", "--force", code=1), rf"{ACME}.*\[ca\.unreachable\]")
                status = site.run("status", code=1)
            finally:
                site.pebble.restart()
        assert "FAILING order ecdsa-p256, 1 time since " in status.out
        goes_on(site)

    def test_without_a_word(self, site: Site) -> None:
        """A CA that accepts and never answers: SIGTERM ends the wait at once, 130, and nothing is lost."""
        with old_one_serves(site):
            site.pebble.pause()
            try:
                process = site.start("-m", "certagent", "renew", "--force")
                intended = "about to order a certificate"
                until(lambda: site.run("history", NAME).out.count(intended) == 2, 10, "it asks the CA")
                process.send_signal(signal.SIGTERM)
                out, err = process.communicate(timeout=20)  # less than a silent CA is given
            finally:
                site.pebble.resume()
        done = site.judge(Done(("renew", "--force"), process.returncode, out, err), 130)
        assert done.err.strip().startswith("certagent: interrupted; ")
        goes_on(site)

    def test_that_has_forgotten_the_account(self, site: Site) -> None:
        """A restarted Pebble knows no account: a new one is made, and the renewal goes on in the same run."""
        site.pebble.restart()
        old = site.served()
        site.run("renew", "--force", "--wait")
        assert not site.served() & old
        site.assert_converged()

    def test_busy_and_bad_at_nonces(self, site: Site, sender: Sender) -> None:
        """503, 429, and half of all nonces refused: told, tried again no sooner than a CA likes, and all goes on."""
        said: list[bytes] = []

        def noted(forward: Forward) -> Reply:
            reply = forward()
            said.append(reply.body)
            return reply

        site.pebble.stop()
        site.pebble.start(nonce_reject=50)
        try:
            with Front(site.place, (site.pebble.directory, site.pebble.https_ca)) as front:
                site.ca |= {"directory": front.directory, "ca_bundle": str(front.ca_bundle)}
                site.write()
                with Watch(site, sender, "a CA that answers 503, 429 and badNonce"):
                    front.once("/order-plz", answer(problem(503, "serverInternal", Retry_After="1")))
                    front.once("/chalZ", answer(Reply(503, b"<html>busy</html>")))
                    front.once("/finalize-order", answer(problem(429, "rateLimited", Retry_After="1")))
                    front.always("/", noted)
                    old = site.served()
                    done = site.run("renew", "--force", "--wait", seconds=200)
                    codes = [error.rpartition(" ")[2] for error in done.errors]
                    assert codes == ["[ca.busy]", "[ca.busy]", "[ca.rate_limited]"], done
                    assert any(b"badNonce" in body for body in said)
                    assert not site.served() & old
                    site.assert_converged()
        finally:
            site.pebble.stop()
            site.pebble.start()

    def test_that_refuses_the_name(self, site: Site) -> None:
        """A name on the CA's blocklist: rejected, told with the CA's own words, and not asked again at once."""
        site.certificate["names"] = [NAME, f"blocked.{ZONE}"]
        site.write()
        with old_one_serves(site):
            one_error(site.run("renew", code=1), rf"blocked\.{ZONE}.*\[ca\.")
            again = site.run("renew", code=1)
            assert again.errors == []  # an operator's retry does not ask a CA that has refused
        assert "tried once: " in again.out


class TestDns:
    def test_a_silent_secondary_delays_the_challenge_and_no_more(self, site: Site) -> None:
        """The CA asks from anywhere: the silent server is named, waited for, and then passed over. The CA judges."""
        before = len(site.kinds())
        with old_one_serves(site):
            site.dns.stop_secondary()
            done = site.run("renew", "--force", code=1, seconds=240)  # a question to a silent server takes its time
            one_error(done, rf"{re.escape(NS2)} gave no answer.*\[dns\.not_yet\]")
            until(lambda: site.run("renew", code=None) and "Issued" in site.kinds()[before:], 120, "it is issued")
            ready = [e["event"] for e in site.history() if e["event"]["type"] == "OrderReady"][-1]
            assert f"{NS2} gave no answer" in ready["passed_over"]
            assert NS2 in site.run("history", NAME).out
        goes_on(site)

    @pytest.mark.parametrize(
        ("update", "name"), [("Present!", CHALLENGE), ("Publish!", TLSA_NAME), ("Unpublish!", TLSA_NAME)]
    )
    def test_a_frozen_zone(self, site: Site, sender: Sender, update: str, name: str) -> None:
        """REFUSED, whichever update it is: a human is needed, exit 3, with the record and the server in the line."""
        freeze = f"rndc -s {PRIMARY} -k {site.dns.keyfile('rndc-key')} freeze {ZONE}"
        with Watch(site, sender, f"refused: {update}"):
            try:
                done = site.run("renew", "--force", code=3, at={update: freeze})
                assert re.search(rf"{PRIMARY}.*REFUSED.*{name}.*\[dns\.refused\]", done.errors[0]), done
                # what else is due in that zone is refused too: challenge values may still be there
                assert all(error.endswith("[dns.refused]") for error in done.errors), done
            finally:
                site.dns.thaw()
            site.run("renew", "--wait")
            site.assert_converged()

    def test_a_wrong_secret(self, site: Site) -> None:
        """BADSIG: exit 3; neither the right secret nor the wrong one is ever shown."""
        wrong = "d3JvbmcgYnV0IHN0aWxsIGEgc2VjcmV0IG9mIHNvbWU="
        file = site.place / "wrong.conf"
        file.touch(0o600)
        file.write_text(f'key "dane-key" {{ algorithm hmac-sha256; secret "{wrong}"; }};\n')
        right = site.provider["key_file"]
        site.provider["key_file"] = str(file)
        site.write()
        with old_one_serves(site):
            done = site.run("renew", "--force", code=3)
            one_error(done, r"BADSIG.*\[dns\.refused\]")
            assert wrong not in done.out + done.err
        assert wrong.encode() not in b"".join(p.read_bytes() for p in site.state_dir.glob("journal*"))
        site.provider["key_file"] = right
        site.write()
        goes_on(site)

    def test_a_primary_that_is_away(self, site: Site) -> None:
        """Silent: transient, exit 1, and on it goes when it is back."""
        with old_one_serves(site):
            site.dns.stop_primary()
            done = site.run("renew", "--force", code=1)
            assert done.errors
            site.dns.cont_primary()
        goes_on(site)

    def test_an_update_whose_answer_is_lost(self, site: Site) -> None:
        """An unknown outcome is resolved by asking DNS: applied later, it is neither repeated nor forgotten."""
        named = subprocess.run(["pgrep", "-f", "primary/named.conf"], capture_output=True, text=True, check=True)
        pid = int(named.stdout)
        # where a processor is busy a thread may go on for a moment: until all have stopped
        stop = f"kill -STOP {pid}; while grep -q '^State:.[^T]' /proc/{pid}/task/*/status; do sleep 0.01; done"
        silence = {"update TLSA": stop, "Failed": f"kill -CONT {pid}"}
        old = site.served()
        with Strict(server=SECONDARY) as witness:
            done = site.run("renew", "--force", code=None, at=silence)
            assert any("dns.unknown_outcome" in error for error in done.errors), done
            site.run("renew", "--wait")
            witness.stop()
        assert witness.failures == []
        assert not site.served() & old
        site.assert_converged()

    def test_a_lagging_secondary_delays_the_swap_until_it_follows(self, site: Site, sender: Sender) -> None:
        """While one server answers without the new key's record its caches may too: not swapped, and told which."""
        site.certificate["standby"] = False
        site.write()
        site.run("renew", "--rotate", "--wait")
        with elsewhere(site), Watch(site, sender, "a lagging secondary"), Strict(server=SECONDARY) as at_secondary:
            old = site.served()
            site.dns.lag()
            done = site.run("renew", "--rotate")
            assert NS2 in done.out, f"does not say which server is waited for: {done}"
            time.sleep(2 * HOLD_S)  # TTL and guard are over since long
            assert NS2 in site.run("renew").out
            assert site.served() == old
            site.dns.catch_up()
            site.run("renew", "--wait")
            at_secondary.stop()
        assert at_secondary.failures == []
        assert not site.served() & old
        site.assert_converged()

    def test_a_silent_secondary_delays_the_swap_and_is_named(self, site: Site) -> None:
        """What was not heard is unknown, and nothing irreversible is done on it."""
        site.certificate["standby"] = False
        site.write()
        site.run("renew", "--rotate", "--wait")
        with elsewhere(site), Strict() as witness:
            old = site.served()
            # only then: the CA's resolver would sometimes wait for the silent server until its own time is up
            site.run("renew", "--rotate", code=None, at={"OrderReady": f"kill -STOP {site.dns.secondary_pid}"})
            until(lambda: NS2 in site.run("renew", code=None).out, 30, "it says which server is waited for")
            assert f"{NS2} UNKNOWN" in site.run("status", code=1).out  # silence is a failure
            assert site.served() == old
            site.dns.cont_secondary()
            site.run("renew", "--wait")
            witness.stop()
        assert witness.failures == []
        assert not site.served() & old
        site.assert_converged()


@contextlib.contextmanager
def elsewhere(site: Site) -> Generator[None]:
    """Challenges are answered in another zone with another server, so that only the TLSA records meet the fault."""
    txt = f"challenge.{INSECURE_ZONE}"
    site.names.append(txt)
    site.provider["zones"] = [f"{ZONE}.", f"{INSECURE_ZONE}."]
    site.dns.update(CHALLENGE, "CNAME", [f"{txt}."])
    site.dns.update(txt, "TXT", ["another"])
    site.dns.settle()
    with recursive_ca(site):
        yield
    site.dns.update(CHALLENGE, "CNAME", [])
    site.dns.settle()


class TestMailServer:
    def test_a_configuration_that_postfix_refuses(self, site: Site) -> None:
        """main.cf is broken: nothing is installed, exit 3, told how to look; repaired, it goes on."""
        main = site.receiver.config_dir / "main.cf"
        good, file = main.read_text(), site.files["ecdsa"].read_bytes()
        with old_one_serves(site):
            site.receiver.configure("main.cf", good + "\n=x broken\n")
            one_error(site.run("renew", "--force", code=3), r"postfix: .*\[mta\.config\]")
            assert site.files["ecdsa"].read_bytes() == file
            site.receiver.configure("main.cf", good)
        goes_on(site)

    def test_a_reload_that_fails(self, site: Site, sender: Sender) -> None:
        """main.cf breaks between the files and the reload: told; repaired, the reload is made and proven."""
        main = site.receiver.config_dir / "main.cf"
        shutil.copy2(main, main.with_name("good"))
        # a setting of which smtpd knows nothing: what runs goes on
        broken = f"echo 'daemon_directory = /nowhere' >> {main}; touch -d '-10 seconds' {main}"
        old = site.served()
        with Watch(site, sender, "a failing reload"):
            one_error(site.run("renew", "--force", code=1, at={"Installed": broken}), r"\[mta\.reload\]")
            shutil.copy2(main.with_name("good"), main)
            site.run("renew", "--wait")
        assert not site.served() & old
        site.assert_converged()

    def test_stopped(self, site: Site) -> None:
        """Not running: told with the command that starts it; started, it serves the new certificate at once."""
        old = site.served()
        site.receiver.stop()
        done = site.run("renew", "--force", code=1)
        one_error(done, r"postfix is not running \[mta\.down\]")
        assert done.hints == [f"run: postfix -c {site.receiver.config_dir} start"]
        subprocess.run(["sh", "-c", done.hints[0].removeprefix("run: ")], check=True, capture_output=True)
        until(site.receiver.running, 5, "it runs")
        site.run("renew", "--wait")
        assert not site.served() & old
        site.assert_converged()

    def test_that_loses_tls_by_the_reload(self, site: Site) -> None:
        """The proof fails: the old files are put back, the old key is served and proven, its record is still there."""
        served, published = site.served(), site.published()
        main = site.receiver.config_dir / "main.cf"
        shutil.copy2(main, main.with_name("good"))
        edit = f"echo 'smtpd_tls_protocols = !TLSv1, !TLSv1.1, !TLSv1.2, !TLSv1.3' >> {main}"
        edit += (
            f"; echo 'smtpd_tls_mandatory_protocols = $smtpd_tls_protocols' >> {main}; touch -d '-10 seconds' {main}"
        )
        repair = f"cp -p {main.with_name('good')} {main}"
        done = site.run("renew", "--force", code=1, at={"Installed": edit, "VerifyFailed": repair})
        one_error(done, rf"{NAME} .*:25 .*\[mta\.not_served\]")
        assert "put back postfix to g1" in done.out
        assert site.served() == served
        assert all(set(before) <= set(after) for before, after in zip(published, site.published(), strict=True))
        status = site.run("status", code=1)
        assert "g2 was taken back: certagent history says why" in status.out
        site.run("renew", "--wait")  # the operator has looked: tried again at once
        assert not site.served() & served
        site.assert_converged()

    def test_whose_file_is_spoilt_by_another_hand(self, site: Site) -> None:
        """What was proven and then lost is put right without being asked, at the next observation."""
        site.certificate["check_interval"] = "1s"
        site.write()
        site.files["ecdsa"].write_bytes(b"not PEM at all\n")
        site.receiver.reload()
        time.sleep(1.1)
        served = site.published()[0]
        until(lambda: site.run("renew", code=None).code == 0 and whole(site), 20, "put right")
        assert site.served() <= set(served)
        site.assert_converged()


def whole(site: Site) -> bool:
    try:
        return bool(site.served())
    except OSError:
        return False


class TestDisk:
    def test_full_where_the_certificate_is(self, site: Site, sender: Sender) -> None:
        """ENOSPC: nothing half-written, exit 1, the old one serves; room again, and it goes on."""
        before = site.files["ecdsa"].read_bytes()
        with tmpfs(site.tls, "32k"):
            site.files["ecdsa"].touch(0o600)
            site.files["ecdsa"].write_bytes(before)
            with Watch(site, sender, "a full disk for the certificate"):
                with old_one_serves(site):
                    ballast = fill(site.tls)
                    done = site.run("renew", "--force", code=1)
                    one_error(done, rf"{site.tls}.*No space left on device \[mta\.disk\]")
                    assert site.files["ecdsa"].read_bytes() == before
                    assert site.leftovers() == []
                    ballast.unlink()
                goes_on(site)

    def test_read_only_where_the_certificate_is(self, site: Site) -> None:
        """EROFS: the same."""
        before = site.files["ecdsa"].read_bytes()
        subprocess.run(["mount", "--bind", site.tls, site.tls], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", site.tls], check=True)
        try:
            with old_one_serves(site):
                done = site.run("renew", "--force", code=1)
                one_error(done, rf"{site.tls}.*Read-only file system \[mta\.disk\]")
        finally:
            subprocess.run(["umount", "--lazy", site.tls], check=True)
        assert site.files["ecdsa"].read_bytes() == before
        goes_on(site)

    def test_full_where_the_state_is(self, place: Path, lab_dns: Dns, pebble: Pebble, sender: Sender) -> None:
        """ENOSPC at whatever point of a roll: a clear line, never a wrong state; room again, and it goes on."""
        with Site(place, lab_dns, pebble) as site, tmpfs(site.state_dir, "3m", mode="700"):
            site.run("renew", "--wait")
            with Watch(site, sender, "a full disk for the state"):
                for leave in (0, 8 << 10, 44 << 10, 60 << 10, 90 << 10):
                    site.await_caches()
                    served = site.served()
                    ballast = fill(site.state_dir, leave)
                    done = site.run("renew", "--force", code=1)
                    assert done.errors, done
                    for error in done.errors:
                        assert re.search(rf"{site.state_dir}.*\[store\.disk\]", error), done
                    ballast.unlink()
                    site.run("history", NAME)
                    site.run("renew", "--force", "--wait")
                    assert not site.served() & served
                    site.assert_converged()
