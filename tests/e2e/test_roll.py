"""A certificate's life on real servers, from the first issue to the withdrawal of its records."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.e2e.site import BOTH_SERVERS, CHALLENGE, NAME, TLSA_NAME, Site, Strict, recursive_ca
from tests.lab import certificates
from tests.lab.addresses import ALIAS_ZONE, INSECURE_ZONE, MX1, PRIMARY, ZONE
from tests.lab.certificates import tlsa_311
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble
from tests.lab.postfix import Sender
from tests.lab.sender import Mailer, Prober
from tests.lab.wait import until


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
    with Site(place, lab_dns, pebble) as site:
        yield site


def serves(site: Site, value: str) -> bool:
    """Whether every port shows this key already: right after a reload some may fail, or show another."""
    try:
        return site.served() == {value}
    except OSError:
        return False


def key_of(site: Site, keys: str) -> str:
    """The TLSA value of a key set's ECDSA key."""
    spki = next(k["spki"] for k in site.state()["keys"] if k["id"] == keys)
    return f"3 1 1 {spki['ecdsa-p256']}"


class TestFirst:
    def test_the_record_comes_only_after_its_key_is_served(self, site: Site) -> None:
        """First publication (RFC 7671 section 8.1): serve, prove, then publish; never a record without a match."""
        with Strict() as witness:
            site.run("renew", "--wait")
            until(lambda: witness.match >= 5, 5, "the record is seen")
            witness.stop()
        assert witness.harm() == []
        kinds = site.kinds()
        assert kinds.index("Installed") < kinds.index("Reloaded") < kinds.index("Verified") < kinds.index("Publish!")
        assert kinds.count("Publish!") == 1
        site.assert_converged()

    def test_the_key_in_service_and_the_standby_are_published(self, site: Site) -> None:
        """Steady state: a record of what is served, and of the key that serves next."""
        site.run("renew", "--wait")
        state = site.state()
        assert [k["id"] for k in state["keys"]] == ["k1", "k2"]
        assert site.served() == {key_of(site, "k1")}
        assert site.published() == [sorted([key_of(site, "k1"), key_of(site, "k2")])] * 2

    def test_the_file_is_private_and_in_the_order_that_postfix_wants(self, site: Site) -> None:
        """One file: mode 0600, the key first, then its certificate, then the issuers in order."""
        site.run("renew", "--wait")
        path = site.files["ecdsa"]
        info = path.stat()
        assert stat.S_IMODE(info.st_mode) == 0o600
        assert info.st_uid == 0
        labels = re.findall(rb"-----BEGIN ([A-Z ]+)-----", path.read_bytes())
        assert labels[0] == b"PRIVATE KEY"
        assert labels[1:] == [b"CERTIFICATE"] * (len(labels) - 1)
        key = load_pem_private_key(path.read_bytes(), None)
        chain = x509.load_pem_x509_certificates(path.read_bytes())
        assert len(chain) >= 2
        assert chain[0].public_key() == key.public_key()
        for certificate, issuer in pairwise(chain):
            certificate.verify_directly_issued_by(issuer)
        root = x509.load_pem_x509_certificate(site.pebble.root())
        chain[-1].verify_directly_issued_by(root)
        assert root not in chain

    def test_a_second_run_has_nothing_to_do(self, site: Site) -> None:
        """What is not due is not done: it observes and verifies, and nothing else; exit 4 where that was asked for."""
        site.run("renew", "--wait")
        before = site.files["ecdsa"].read_bytes()
        seq = len(site.history())
        site.run("renew", "--exit-unchanged", code=4)
        assert site.kinds()[seq:] == ["Requested", "Observed", "Verified"]
        assert site.files["ecdsa"].read_bytes() == before


class TestRoll:
    def test_with_a_standby_nothing_waits_for_caches_and_no_mail_is_deferred(self, site: Site, sender: Sender) -> None:
        """The standby key is in every cache when the renewal comes: swap at once, old record last."""
        site.run("renew", "--wait")
        until(lambda: not waits_for_caches(site), 10, "the standby is in every cache")
        site.dns.flush_resolver()
        old, new = key_of(site, "k1"), key_of(site, "k2")
        with Mailer(sender, rate=10) as mailer, Prober(rate=20) as prober, Strict() as strict:
            until(lambda: prober.match, 5, "the first comparison")
            done = site.run("renew", "--force", "--wait")
            until(lambda: mailer.mailed > 3, 5, "some mails")
            mailed = mailer.stop()
            prober.stop()
            strict.stop()
        assert "caches" not in done.err
        assert (mailed.deferred, mailed.bounced) == (0, 0), mailed.troubles
        assert mailed.sent > 3
        assert prober.failures == []
        assert strict.failures == []
        assert site.served() == {new}
        assert all(new in values and old not in values for values in site.published())
        assert [k["id"] for k in site.state()["keys"]] == ["k2", "k3"]
        site.assert_converged()
        kinds = site.kinds()
        assert kinds.index("Unpublish!") > [i for i, k in enumerate(kinds) if k == "Verified"][-1]

    def test_without_a_standby_the_swap_waits_until_no_cache_lacks_the_new_key(
        self, site: Site, sender: Sender
    ) -> None:
        """A roll with TTL 5 s: the new key serves two TTLs after the last server showed its record, not earlier."""
        site.dane |= {"ttl": "5s", "safety_margin": "1s"}
        site.certificate["standby"] = False
        site.write()
        site.run("renew", "--wait")
        [[old], _] = site.published()
        assert old in site.served()
        site.dns.flush_resolver()
        with Mailer(sender) as mailer, Prober() as prober, Strict() as strict:
            until(lambda: prober.match, 5, "a cache holds the old set")
            done = site.run("renew", "--rotate", "--wait")
            until(lambda: prober.match, 5, "compared")
            until(lambda: mailer.mailed > 20, 10, "many mails")
            mailed = mailer.stop()
            prober.stop()
            strict.stop()
        assert "waits" in done.err
        assert "caches may hold the set seen with TTL 5 s" in done.err
        assert (mailed.deferred, mailed.bounced) == (0, 0), mailed.troubles
        assert mailed.sent > 20
        assert prober.failures == []
        assert strict.failures == []
        new = key_of(site, "k2")
        assert site.served() == {new}
        assert site.published() == [[new], [new]]
        events = site.history()
        seen = [e["at"] for e in events if e["event"]["type"] == "Observed" and everywhere(e["event"], new)]
        swap = [e["at"] for e in events if e["event"]["type"] == "Intended" and e["event"]["step"]["type"] == "Install"]
        assert swap[-1]["elapsed_s"] - seen[0]["elapsed_s"] >= 10
        site.assert_converged()

    def test_keys_that_never_rotate_renew_at_once_and_dns_is_left_alone(self, site: Site) -> None:
        """rotate_key: never: the new certificate has the old key, so nothing waits and no record changes."""
        site.certificate["rotate_key"] = "never"
        site.write()
        site.run("renew", "--wait")
        published, key = site.published(), site.served()
        site.run("renew", "--force", "--wait")
        kinds = site.kinds()
        assert kinds.count("Publish!") == 1
        assert "Unpublish!" not in kinds
        assert site.published() == published
        assert site.served() == key
        assert [g["id"] for g in site.state()["generations"]] == ["g2"]
        site.assert_converged()

    def test_several_rolls_in_a_row_leave_no_trace_of_the_first(self, site: Site) -> None:
        """Keys, chains and records of what is gone are gone."""
        site.run("renew", "--wait")
        seen = site.served()
        for _ in range(2):
            site.run("renew", "--force", "--wait")
            assert not site.served() & seen
            seen |= site.served()
            site.assert_converged()
        assert len(seen) == 3
        assert [k["id"] for k in site.state()["keys"]] == ["k3", "k4"]


def waits_for_caches(site: Site) -> bool:
    return "caches are waited for" in site.run("renew").out


def everywhere(event: dict[str, dict[str, dict[str, dict[str, list[str]]]]], value: str) -> bool:
    answers = event["observation"]["answers"].values()
    return len(answers) == 2 and all(value in a.get("values", []) for a in answers)


class TestKinds:
    @pytest.fixture
    def both(self, place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
        with Site(place, lab_dns, pebble, kinds=("ecdsa", "rsa")) as site:
            yield site

    def test_rsa_and_ecdsa_roll_together(self, both: Site) -> None:
        """Two files, four records (two keys in service, two on standby); a swap changes both."""
        both.run("renew", "--wait")
        assert all(len(values) == 4 for values in both.published())
        first = {kind: path.read_bytes() for kind, path in both.files.items()}
        with Strict() as witness, Prober() as prober:
            both.run("renew", "--force", "--wait")
            witness.stop()
            prober.stop()
        assert witness.harm() == []
        assert [f for f in prober.failures if f.kind == "mismatch"] == []
        for kind, path in both.files.items():
            assert path.read_bytes() != first[kind]
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            leaf = x509.load_pem_x509_certificates(path.read_bytes())[0]
            assert served_with(kind) == tlsa_311(leaf)
            assert all(tlsa_311(leaf) in values for values in both.published())
        assert all(len(values) == 4 for values in both.published())
        both.assert_converged()

    def test_2_1_1_stands_beside_3_1_1(self, site: Site) -> None:
        """records: [3 1 1, 2 1 1]: the issuers' keys are published from the very chain that is served."""
        site.dane["records"] = ["3 1 1", "2 1 1"]
        site.write()
        site.run("renew", "--wait")
        chain = x509.load_pem_x509_certificates(site.files["ecdsa"].read_bytes())
        issuer = tlsa_311(chain[1]).replace("3 1 1", "2 1 1")
        values = site.published()
        assert all(issuer in v and tlsa_311(chain[0]) in v for v in values)
        assert all(len([x for x in v if x.startswith("3 1 1")]) == 2 for v in values)
        with Strict() as witness:
            site.run("renew", "--force", "--wait")
            witness.stop()
        assert witness.harm() == []
        chain = x509.load_pem_x509_certificates(site.files["ecdsa"].read_bytes())
        issuer = tlsa_311(chain[1]).replace("3 1 1", "2 1 1")
        assert all(issuer in v for v in site.published())
        site.assert_converged()


def served_with(kind: str) -> str:
    """The key that a client meets who wants this kind alone, as a TLSA value; openssl is the judge."""
    wanted = {"rsa": "RSA+SHA256:rsa_pss_rsae_sha256", "ecdsa": "ECDSA+SHA256"}[kind]
    command = ["openssl", "s_client", "-connect", f"{MX1}:25", "-starttls", "smtp", "-sigalgs", wanted, "-tls1_2"]
    said = subprocess.run(command, input="QUIT\r\n", capture_output=True, text=True, check=False, timeout=10).stdout
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", said, re.DOTALL)
    assert pem, said
    return tlsa_311(x509.load_pem_x509_certificate(pem[0].encode()))


class TestAliases:
    def test_records_are_written_where_aliases_lead(self, site: Site) -> None:
        """A CNAMEd TLSA name and a CNAMEd challenge name: written in the other zone, seen through the first."""
        tlsa, txt = f"_25._tcp.shared.{ALIAS_ZONE}", f"challenge.{ALIAS_ZONE}"
        site.names += [tlsa, txt]
        site.provider["zones"] = [f"{ALIAS_ZONE}."]  # nothing in corp.example could be written at all
        site.write()
        site.dns.update(TLSA_NAME, "CNAME", [f"{tlsa}."])
        site.dns.update(CHALLENGE, "CNAME", [f"{txt}."])
        site.dns.update(txt, "TXT", ["another"])
        site.dns.settle()
        with recursive_ca(site), Strict(owner=tlsa) as witness:
            site.run("renew", "--wait")
            site.dns.flush_resolver()  # this CA has a cache
            site.run("renew", "--force", "--wait")
            witness.stop()
        assert witness.harm() == []
        assert witness.match > 0
        published = site.published(tlsa)
        assert published[0] == published[1]
        assert len(published[0]) == 2
        assert next(iter(site.served())) in published[0]
        left = ['"another"']
        assert [site.dns.values(server, txt, "TXT") for server in BOTH_SERVERS] == [left, left]
        assert [site.dns.values(server, TLSA_NAME, "CNAME")[0] for server in BOTH_SERVERS] == [f"{tlsa}."] * 2


class TestTakeOver:
    @pytest.mark.parametrize("standby", [True, False])
    def test_a_unmanaged_certificate_with_its_record_is_taken_over_without_a_mismatch(
        self, site: Site, sender: Sender, standby: bool
    ) -> None:
        """What was served and published before certagent came stays covered until no cache needs it."""
        pair = certificates.make([NAME])
        site.certificate["standby"] = standby
        site.write()
        site.files["ecdsa"].touch(0o600)
        site.files["ecdsa"].write_bytes(pair.chain_file)
        site.receiver.reload()
        site.dns.update(TLSA_NAME, "TLSA", [pair.tlsa], ttl=3)
        site.dns.settle()
        until(lambda: serves(site, pair.tlsa), 5, "what was there before is served")
        with Mailer(sender) as mailer, Prober() as prober, Strict() as strict:
            until(lambda: prober.match, 5, "a cache holds the unmanaged set")
            site.run("renew", "--wait")
            until(lambda: mailer.mailed > 10, 5, "some mails")
            mailed = mailer.stop()
            prober.stop()
            strict.stop()
        assert prober.failures == []
        assert strict.failures == []
        assert (mailed.deferred, mailed.bounced) == (0, 0), mailed.troubles
        assert mailed.sent > 10
        assert pair.tlsa not in site.served()
        assert all(pair.tlsa not in values for values in site.published())
        site.assert_converged()

    def test_what_was_served_before_comes_back_if_the_first_certificate_of_ours_is_not_served(self, site: Site) -> None:
        """Its files were kept, are put back byte for byte, and are served again; then the swap is tried once more."""
        pair, file = certificates.make([NAME]), site.files["ecdsa"]
        file.touch(0o600)
        file.write_bytes(pair.chain_file)
        site.receiver.reload()
        site.dns.update(TLSA_NAME, "TLSA", [pair.tlsa], ttl=1)
        site.dns.settle()
        until(lambda: serves(site, pair.tlsa), 5, "what was there before is served")
        with Strict() as strict:
            site.run("renew", "--wait", at={"Installed": f"echo broken >{file}", "Restored": f"cp {file} {file}.back"})
            strict.stop()
        assert [f for f in strict.failures if f.kind == "mismatch"] == []
        back = file.with_name(f"{file.name}.back")
        assert back.read_bytes() == pair.chain_file
        back.unlink()
        kinds = site.kinds()
        at = kinds.index("Restored")
        assert kinds[at + 1] == "Inspected"
        assert f"3 1 1 {site.history()[at + 1]['event']['served'][0]['chain']['spki']}" == pair.tlsa
        assert kinds.count("Installed") == 2
        site.assert_converged()

    def test_a_roll_by_hand_stays_until_every_cache_knows_ours_again(self, site: Site, sender: Sender) -> None:
        """Published, waited for, swapped, and ours removed. What was served before is put back, but not at once."""
        site.run("renew", "--wait")
        pair = certificates.make([NAME])
        site.dns.update(TLSA_NAME, "TLSA", [*site.published()[0], pair.tlsa], ttl=3)
        site.dns.settle()
        with Mailer(sender) as mailer, Prober() as prober, Strict() as strict:
            time.sleep(7)  # two TTLs
            site.files["ecdsa"].write_bytes(pair.chain_file)
            site.receiver.reload()
            until(lambda: serves(site, pair.tlsa), 10, "his key is served")
            site.dns.update(TLSA_NAME, "TLSA", [pair.tlsa], ttl=3)
            site.dns.settle()
            time.sleep(7)
            site.run("renew", code=None)
            assert site.served() == {pair.tlsa}
            until(lambda: site.run("renew", code=None).code == 0 and not serves(site, pair.tlsa), 60, "put back")
            mailed = mailer.stop()
            prober.stop()
            strict.stop()
        assert prober.failures == []
        assert strict.failures == []
        assert (mailed.deferred, mailed.bounced) == (0, 0), mailed.troubles
        assert site.served() == {key_of(site, "k1")}
        assert all({pair.tlsa, key_of(site, "k1")} <= set(values) for values in site.published()), "his is left alone"

    def test_a_record_that_is_nobodys_is_left_alone(self, site: Site) -> None:
        """Values that certagent neither made nor saw served are somebody else's: told, never removed."""
        unmanaged = f"3 1 1 {'ab' * 32}"
        site.run("renew", "--wait")
        there = site.published()[0]
        site.dns.update(TLSA_NAME, "TLSA", [*there, unmanaged], ttl=1)
        site.dns.settle()
        site.run("renew", "--force", "--wait")
        assert all(unmanaged in values for values in site.published())
        status = site.run("status")
        assert "not certagent's, left alone: 3 1 1 abababab" in status.out


class TestEnds:
    def test_a_withdrawn_name_loses_its_record_and_mail_goes_on(self, site: Site) -> None:
        """tlsa: false after publication: our records go, the certificate stays in service."""
        site.run("renew", "--wait")
        key = site.served()
        site.service["tlsa"] = False
        site.write()
        with Strict() as witness:
            site.run("renew", "--wait")
            witness.stop()
        assert witness.harm() == []
        assert site.published() == [[], []]
        assert site.served() == key
        assert site.run("tlsa").out == ""
        # and once no cache can hold a set any more, the next key may serve without a word in DNS
        until(lambda: "caches are waited for" not in site.run("renew").out, 15, "no cache can have it")
        site.run("renew", "--force", "--wait")
        assert site.published() == [[], []]

    def test_in_an_unsigned_zone_the_certificate_serves_and_no_record_is_published(self, site: Site) -> None:
        """Senders use TLSA only where DNSSEC validates (RFC 7672 section 2.2): said plainly, the rest goes on."""
        host = f"mx1.{INSECURE_ZONE}"
        site.certificate["names"] = [host]
        site.provider["zones"] = [f"{INSECURE_ZONE}."]
        for service in site.server["services"]:
            service["host"] = host
        site.write()
        site.run("renew", "--wait")
        assert site.dns.values(PRIMARY, f"_25._tcp.{host}", "TLSA") == []
        assert "Verified" in site.kinds()
        assert "Publish!" not in site.kinds()
        status = site.run("status").out
        assert re.search(r"not published: not known to be signed: insecure", status), status

    def test_a_zone_that_is_signed_later_is_published_then(self, site: Site) -> None:
        """Insecure DNS is not empty DNS, and not for ever."""
        site.certificate["check_interval"] = "1s"
        site.write()
        site.dns.parent(ZONE, "none")
        site.run("renew", "--wait")
        assert site.published() == [[], []]
        site.dns.parent(ZONE, "good")
        until(lambda: site.run("renew", "--wait") and site.published()[0], 15, "published")
        site.assert_converged()

    def test_a_roll_is_given_up_before_the_swap(self, site: Site) -> None:
        """abort: the next keys and their records go, what serves goes on serving."""
        site.dane |= {"ttl": "30s"}
        site.certificate["standby"] = False
        site.write()
        site.run("renew", "--wait")
        served, published = site.served(), site.published()
        site.run("renew", "--rotate")
        assert site.served() == served
        assert site.published()[0] != published[0]
        site.run("abort", NAME)
        until(lambda: site.run("renew") and site.published() == published, 5, "the record of the next key is removed")
        assert site.served() == served
        assert [k["id"] for k in site.state()["keys"]] == ["k1"]
        site.assert_converged()
        again = site.run("abort", NAME, code=3)
        assert again.errors == [f"{NAME}: there is no roll to give up [abort.too_late]"]

    def test_compromised_keys_are_replaced_by_the_standby_at_once_and_revoked(self, site: Site) -> None:
        """Emergency with a standby: swap without a wait, then revoke (reason keyCompromise)."""
        site.run("renew", "--wait")
        until(lambda: not waits_for_caches(site), 10, "the standby is in every cache")
        old, standby = key_of(site, "k1"), key_of(site, "k2")
        serial = x509.load_pem_x509_certificates(site.files["ecdsa"].read_bytes())[0].serial_number
        with Strict() as witness:
            done = site.run("renew", "--compromised", "--wait")
            witness.stop()
        assert witness.failures == []
        assert "caches" not in done.err
        assert site.served() == {standby}
        assert all(old not in values for values in site.published())
        assert "Revoked" in site.kinds()
        assert revoked_by(site.pebble, serial)
        site.assert_converged()

    def test_without_a_standby_compromised_keys_wait_unless_the_operator_accepts_deferrals(self, site: Site) -> None:
        """An explicit choice: caches that lack the new key are not waited for only where that was said."""
        site.dane |= {"ttl": "30s"}
        site.certificate["standby"] = False
        site.write()
        site.run("renew", "--wait")
        old = site.served()
        site.run("renew", "--compromised")
        assert site.served() == old
        site.run("abort", NAME)
        site.run("renew", "--compromised", "--accept-deferrals", "--wait")
        assert not site.served() & old
        assert "Revoked" in site.kinds()
        site.assert_converged()


def revoked_by(pebble: Pebble, serial: int) -> bool:
    """What Pebble's management interface says of a certificate."""
    import ssl
    import urllib.request

    from tests.lab.addresses import ACME

    context = ssl.create_default_context(cafile=pebble.https_ca)
    url = f"https://{ACME}:15000/cert-status-by-serial/{serial:x}"
    with urllib.request.urlopen(url, context=context, timeout=5) as answer:
        return b'"Status":"Revoked"' in answer.read().replace(b" ", b"")


HOOK = """\
#!/bin/sh
# the `command` protocol by means of jq's poor relation, dig and nsupdate
exec {python} - "$@" 3<&0 <<'END'
import json, os, subprocess, sys
asked = json.load(os.fdopen(3))
name, kind = asked["name"], asked["type"]
if asked["action"] == "get":
    said = subprocess.run(["dig", "@{server}", "+noall", "+answer", "+nosplit", name, kind],
                          capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 4) for line in said.splitlines()]
    rows = [row for row in rows if row[3] == kind]
    values = [row[4].lower() if kind == "TLSA" else row[4].strip('"') for row in rows]
    print(json.dumps({{"ok": True, "rrset": {{"values": values, "ttl_s": int(rows[0][1])}} if rows else None}}))
else:
    data = [v if kind == "TLSA" else '"' + v + '"' for v in asked["values"]]
    verb = "add" if asked["action"] == "add" else "delete"
    ttl = str(asked["ttl_s"]) if verb == "add" else ""
    updates = [f"update {{verb}} {{name}} {{ttl}} {{kind}} {{d}}" for d in data]
    lines = "\\n".join(["server {server}", "zone " + asked["zone"], *updates, "send", ""])
    done = subprocess.run(["nsupdate", "-k", sys.argv[1]], input=lines, capture_output=True, text=True)
    failed = {{"ok": False, "error": "transient", "detail": done.stderr[-200:]}}
    print(json.dumps({{"ok": True}} if done.returncode == 0 else failed))
END
"""


class TestCommandProvider:
    def test_a_whole_roll_through_an_operators_program(self, site: Site, place: Path) -> None:
        """Challenges and TLSA records are written by a program, here of version 1, and nothing else differs."""
        program = place / "hook"
        program.write_text(HOOK.format(python=sys.executable, server=PRIMARY))
        program.chmod(0o755)
        args = [str(site.dns.keyfile("dane-key"))]
        site.config["dns"]["providers"]["corp"] = {
            "type": "command",
            "protocol": 1,
            "program": str(program),
            "args": args,
            "zones": [f"{ZONE}."],
        }
        site.write()
        with Strict() as witness:
            site.run("renew", "--wait")
            site.run("renew", "--force", "--wait")
            witness.stop()
        assert witness.harm() == []
        assert witness.match > 0
        site.assert_converged()
