"""`certagent init` on the Postfix that a host really has, in /etc/postfix, as the guides set it up; then its proposal,
completed as its TODOs say, is put to work.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from certagent.errors import Misconfigured
from certagent.init import changes, command
from certagent.lifecycle.model import Service
from certagent.mta.postfix.server import Postfix
from certagent.mta.probe import probe
from certagent.mta.server import Change
from certagent.pki.leaf import Leaf
from tests.e2e.site import NAME, OWNER, Done, Site
from tests.lab import certificates
from tests.lab.addresses import INSECURE_ZONE, MX1, MX2, ZONE
from tests.lab.dns import Dns
from tests.lab.dovecot import Dovecot
from tests.lab.exim import TRUSTED, Exim
from tests.lab.handshake import served_tlsa
from tests.lab.pebble import Pebble
from tests.lab.postfix import Receiver
from tests.mta import chains

ETC = Path("/etc/postfix")
OTHER = f"mx2.{ZONE}"

PLAIN = """\
smtp      inet  n       -       n       -       -       smtpd
submission inet n       -       n       -       -       smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
smtps     inet  n       -       n       -       -       smtpd
  -o syslog_name=postfix/smtps
  -o smtpd_tls_wrappermode=yes
"""
"""master.cf as the guides have it; CHROOT is Debian's default."""

CHROOT = PLAIN.replace("n       -       n ", "n       -       y ")


class Guide(Receiver):
    """The default instance of the host, configured in /etc/postfix; its queue is the lab's."""

    def __init__(self, directory: Path, tls: Mapping[str, str], master: str) -> None:
        super().__init__(directory, chain_files=[])
        self.config_dir = ETC
        self._settings, self._table = tls, master

    def configure(self, name: str, text: str) -> None:
        super().configure(name, text.replace(f"config_directory = {self._directory}/etc", f"config_directory = {ETC}"))

    def _own_settings(self, common: Mapping[str, object]) -> str:
        lines = super()._own_settings(common).splitlines()
        kept = [line for line in lines if not line.startswith("smtpd_tls_chain_files")]
        return "\n".join([*kept, *(f"{name} = {value}" for name, value in self._settings.items())]) + "\n"

    def _services(self) -> list[str]:
        return self._table.splitlines()


class Host(Site):
    """A site whose configuration is what `certagent init` proposed."""

    def guide(self, tls: Mapping[str, str], master: str = PLAIN) -> None:
        self.receiver = Guide(self.place / "mx1", tls, master)

    def init(self, *args: str, code: int | None = 0) -> Done:
        """Runs it as an admin does, at a terminal 100 columns wide at most."""
        done = self.run("init", *args, code=code)
        if not {"--json", "--output"} & set(args):
            assert all(len(line) <= 100 or "/" in line or "hint:" in line for line in done.err.splitlines()), done
        return done

    def complete(self, proposed: str) -> Any:
        """The proposal with its TODOs done; the CA is the lab's, and so is the place of the state."""
        self.config = yaml.safe_load(proposed)
        self.config["state_dir"] = str(self.state_dir)
        self.config["ca"]["letsencrypt"] = self.ca
        [provider] = self.config["dns"]["providers"].values()
        provider["key_file"] = str(self.dns.keyfile("dane-key"))
        [certificate] = self.config["certificates"].values()
        certificate["drain"] = "0s"
        if "dane" in certificate:
            certificate["dane"] |= {"ttl": "1s", "guard": "0s"}
        self.write()
        return certificate


@pytest.fixture
def etc(place: Path) -> Iterator[None]:
    """What the servers have in /etc is as it was before when the test is over."""
    for name in ("postfix", "exim4", "dovecot"):
        if (Path("/etc") / name).exists():
            shutil.copytree(Path("/etc") / name, place / "saved" / name, symlinks=True)
    yield
    for name in ("postfix", "exim4", "dovecot"):
        shutil.rmtree(Path("/etc") / name, ignore_errors=True)
        if (place / "saved" / name).exists():
            shutil.copytree(place / "saved" / name, Path("/etc") / name, symlinks=True)


@pytest.fixture
def host(etc: None, place: Path, lab_dns: Dns, pebble: Pebble) -> Host:
    """Not started."""
    return Host(place, lab_dns, pebble)


@pytest.fixture
def ecdsa() -> certificates.Pair:
    return certificates.make([NAME])


def put(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    path.write_bytes(data)
    return str(path)


def served(kind: str) -> str:
    """The key of that kind at port 25, as a TLSA value."""
    leaf = probe(Service(NAME, 25, "smtp"), MX1, {"ecdsa": "ecdsa-p256", "rsa": "rsa-2048"}[kind], 10).leaf
    assert isinstance(leaf, Leaf), leaf
    return f"3 1 1 {leaf.spki}"


def words(text: str) -> str:
    """Without line breaks and comment signs, so that wrapping does not matter."""
    return " ".join(text.replace("#", " ").split())


def services(certificate: Any) -> set[tuple[str, int, str]]:
    [server] = certificate["mail_servers"].values()
    return {(s["host"], s["port"], s["mode"]) for s in server["services"]}


def expected(
    ports: Sequence[tuple[int, str]] = ((25, "smtp"), (465, "tls"), (587, "smtp")),
) -> set[tuple[str, int, str]]:
    return {(NAME, port, mode) for port, mode in ports}


@pytest.mark.parametrize("master", [PLAIN, CHROOT], ids=["plain", "chroot"])
def test_one_combined_file_is_taken_over_as_it_is(host: Host, ecdsa: certificates.Pair, master: str) -> None:
    """smtpd_tls_chain_files = /etc/postfix/combined.pem: nothing must change; the proposal rolls the key, with TLSA."""
    combined = put(ETC / "combined.pem", ecdsa.chain_file)
    host.guide({"smtpd_tls_chain_files": combined}, master)
    with host:
        host.dns.update(OWNER, "TLSA", [ecdsa.tlsa], ttl=2)
        host.dns.settle()
        done = host.init()
        assert "what is served matches" in words(done.err)
        certificate = host.complete(done.out)
        assert certificate["names"] == [NAME]
        assert certificate["keys"] == ["ecdsa-p256"]
        assert services(certificate) == expected()
        assert "ECDSA: what is served today" in words(done.out)
        assert "tlsa: true: the zone is signed and TLSA records are there" in words(done.out)
        assert host.config["dns"]["providers"]["primary"]["server"] == f"ns1.{ZONE}"
        assert host.config["dns"]["providers"]["primary"]["zones"] == [ZONE]
        assert host.config["dns"]["resolvers"] == ["127.0.0.1"]
        if master == CHROOT:
            host.run("check")
            assert "the real run would succeed" in host.run("renew", "--dry-run").out
            assert Path(combined).read_bytes() == ecdsa.chain_file
        else:
            host.run("renew", "--wait")
            served = served_tlsa(MX1, 25, NAME)
            assert served != ecdsa.tlsa
            assert all(served in values for values in host.published())
            assert "--- /etc/postfix" not in host.init().err


def test_separate_files_are_offered_the_change_that_makes_a_swap_atomic(
    host: Host, ecdsa: certificates.Pair, place: Path
) -> None:
    """smtpd_tls_cert_file, smtpd_tls_eccert_file and their keys: both kinds are kept, and the change waits until the
    new files are there. Then the commands that are told, as they are, in their order: Postfix serves the same keys
    from one file each, and the first run swaps them.
    """
    rsa = chains.make("rsa-2048", NAME)
    tls = {
        "smtpd_tls_cert_file": put(place / "ssl" / "rsa.pem", rsa.leaf + rsa.issuer),
        "smtpd_tls_key_file": put(place / "ssl" / "rsa.key", rsa.key),
        "smtpd_tls_eccert_file": put(place / "ssl" / "ecdsa.pem", ecdsa.certificate_pem),
        "smtpd_tls_eckey_file": put(place / "ssl" / "ecdsa.key", ecdsa.key_pem),
    }
    host.guide(tls, CHROOT)
    with host:
        before = {ecdsa.tlsa, f"3 1 1 {rsa.spki}"}
        host.dns.update(OWNER, "TLSA", sorted(before), ttl=2)
        host.dns.settle()
        main = (ETC / "main.cf").read_text()
        done = host.init("--json").json
        assert "ECDSA and RSA: both are served today" in words(done["config"])
        assert "\n-smtpd_tls_eccert_file" in done["changes"][0]["diff"]
        early = host.init("--apply")
        assert "to be made later, a change to /etc/postfix/main.cf" in words(early.out)
        assert (ETC / "main.cf").read_text() == main
        assert sorted(ETC.glob("*.before-certagent-*")) == []

        steps = [step["command"] for step in done["next"]]
        for step in (step for step in steps if step.startswith("install ")):
            subprocess.run(["sh", "-ec", step], check=True)
        assert {path.stat().st_mode & 0o777 for path in (ETC / "tls").iterdir()} == {0o600}
        applied = host.init("--apply")
        assert "changed /etc/postfix/main.cf" in applied.out
        [backup] = ETC.glob("main.cf.before-certagent-*")
        assert backup.read_text() == main
        assert backup.stat().st_mode == (ETC / "main.cf").stat().st_mode
        assert "postfix reload" in applied.out
        host.receiver.reload()
        assert {served(kind) for kind in ("ecdsa", "rsa")} == before

        certificate = host.complete(done["config"])
        assert certificate["keys"] == ["ecdsa-p256", "rsa-2048"]
        assert services(certificate) == expected()
        host.run("check")
        host.run("renew", "--wait", seconds=60)
        assert before.isdisjoint({served(kind) for kind in ("ecdsa", "rsa")})
        again = host.init()
        assert "what is served matches" in words(again.err)
        assert "--- /etc/postfix" not in again.err


def test_what_is_wrong_today_is_told_and_the_proposal_is_made_all_the_same(
    host: Host, ecdsa: certificates.Pair
) -> None:
    """A record that matches nothing that is served, a secondary that is silent, an IMAP server nobody knows."""
    host.guide({"smtpd_tls_chain_files": put(ETC / "combined.pem", ecdsa.chain_file)})
    with host, socket.create_server(("127.0.0.12", 143)):
        host.dns.update(OWNER, "TLSA", [f"3 1 1 {'ab' * 32}"], ttl=2)
        host.dns.settle()
        host.dns.stop_secondary()
        try:
            done = host.init("--json").json
        finally:
            host.dns.cont_secondary()
        told = {(f["outcome"], f["what"], f["detail"]) for f in done["findings"]}

        def tells(outcome: str, what: str, detail: str) -> bool:
            return any((o, w) == (outcome, what) and detail in d for o, w, d in told)

        assert tells("refused", f"DNS _25._tcp.{NAME}.", "no 3 1 1 record matches what is served"), told
        assert tells("note", f"DNS _25._tcp.{NAME}.", "127.0.0.3 gave no answer"), told
        assert tells("note", "port 143 (IMAP)", "listens there"), told
        assert services(host.complete(done["config"])) == expected()


def test_in_an_unsigned_zone_no_records_are_begun(host: Host, ecdsa: certificates.Pair) -> None:
    """tlsa is left out, with the reason."""
    name = f"mx1.{INSECURE_ZONE}"
    tls = {"myhostname": name, "smtpd_tls_chain_files": put(ETC / "combined.pem", ecdsa.chain_file)}
    host.guide(tls, PLAIN.partition("submission")[0])
    with host:
        done = host.init()
        assert "tlsa is left out: the zone is not signed." in words(done.out)
        certificate = host.complete(done.out)
        assert services(certificate) == {(name, 25, "smtp")}
        assert "dane" not in certificate
        assert host.config["dns"]["providers"]["primary"]["zones"] == [INSECURE_ZONE]


def test_a_change_is_kept_only_if_the_server_agrees(host: Host, ecdsa: certificates.Pair) -> None:
    """A host without TLS: the level is set at once, the old file stays beside it. A level that would kill smtpd is
    noticed by Postfix's check, and undone.
    """
    host.guide({"smtpd_tls_chain_files": put(ETC / "combined.pem", ecdsa.chain_file)}, PLAIN.partition("submission")[0])
    with host:
        plain = (ETC / "main.cf").read_text().replace("smtpd_tls_security_level = may\n", "")
        host.receiver.configure("main.cf", plain)
        done = host.init("--apply")
        assert "+smtpd_tls_security_level = may" in done.out
        assert "postfix reload" in done.out
        [backup] = ETC.glob("main.cf.before-certagent-*")
        assert backup.read_text() == plain
        made = (ETC / "main.cf").read_text()
        [found] = Postfix.discover()
        assert found.changes == ()
        mad = made.replace("smtpd_tls_security_level = may", "smtpd_tls_security_level = mad")
        found = replace(found, changes=(Change(str(ETC / "main.cf"), made, mad, "a mistake"),))
        with pytest.raises(Misconfigured, match=r"so it was undone: .* = mad is unknown"):
            changes.apply(found, datetime.now(UTC), command.complaint(found, Postfix, ("ecdsa-p256",)))
        assert (ETC / "main.cf").read_text() == made
        assert list(ETC.glob("main.cf.before-certagent-*")) == [backup]


@pytest.fixture
def guests(etc: None, place: Path) -> Iterator[dict[str, str]]:
    """Exim and Dovecot as the default instances of mx2, with the files of the guides; both are running."""
    made = certificates.make([OTHER])
    exim = Exim(place / "exim", {})
    with default_exim(exim):
        tls = {
            "tls_certificate": put(Path("/etc/exim4/exim.crt"), made.certificate_pem),
            "tls_privatekey": put(Path("/etc/exim4/exim.key"), made.key_pem),
        }
        for path in tls.values():  # as Debian's README has it
            shutil.chown(path, "root", "Debian-exim")
            Path(path).chmod(0o640)
        exim.configure({**tls, "tls_advertise_hosts": "*"})
        exim.start()
        dovecot = Dovecot(place / "dovecot", "2.3", MX2)
        dovecot.config = Path("/etc/dovecot/dovecot.conf")
        combined = put(Path("/etc/dovecot/private/combined.pem"), made.chain_file)
        dovecot.configure(f"hostname = {OTHER}\n{dovecot.pair(combined)}")
        dovecot.start()
        yield {**tls, "combined": combined}
        dovecot.stop()
        exim.stop()


@contextmanager
def default_exim(exim: Exim) -> Generator[None]:
    """What `exim4` means on this host is this one, with its configuration where Debian's is."""
    first_in_path = Path("/usr/local/sbin")
    subprocess.run(["mount", "-t", "tmpfs", "lab", first_in_path], check=True)
    try:
        (first_in_path / "exim4").symlink_to(exim.program)
        exim.config = Path("/etc/exim4/exim4.conf")
        TRUSTED.write_text(f"{exim.config}\n")
        yield
    finally:
        exim.config.unlink(missing_ok=True)
        subprocess.run(["umount", "--lazy", first_in_path], check=True)


def test_exim_and_dovecot_of_one_name_share_a_certificate(host: Host, guests: dict[str, str]) -> None:
    """tls_certificate and tls_privatekey of Exim, one file of Dovecot: each is cared for where it is."""
    (ETC / "main.cf").unlink(missing_ok=True)  # no Postfix on this host
    done = host.run("init")
    certificate = host.complete(done.out)
    assert certificate["names"] == [OTHER]
    assert set(certificate["mail_servers"]) == {"exim", "dovecot"}
    exim, dovecot = (certificate["mail_servers"][name] for name in ("exim", "dovecot"))
    assert exim["files"] == {"ecdsa": {"fullchain": guests["tls_certificate"], "key": guests["tls_privatekey"]}}
    assert dovecot["files"] == {"ecdsa": guests["combined"]}
    assert {(s["port"], s["mode"]) for s in exim["services"]} == {(25, "smtp"), (465, "tls"), (587, "smtp")}
    assert {(143, "imap"), (993, "tls")} <= {(s["port"], s["mode"]) for s in dovecot["services"]}
    assert "the first are published once what is served is proven" in words(done.out)
    host.run("check")
    assert "the real run would succeed" in host.run("renew", "--dry-run").out
