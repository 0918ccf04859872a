"""The real Sendmail: what `check` finds, that what was installed is what clients meet after the reload, and what the
daemon itself does, as far as certagent relies on it.
"""

from __future__ import annotations

import datetime
import os
import re
import signal
import smtplib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from msgspec.structs import replace

from certagent.errors import Misconfigured, Transient, Unsafe
from certagent.facts.tls import Service
from certagent.facts.unknown import Unknown
from certagent.mta.files import Files
from certagent.mta.sendmail.server import Options, Sendmail
from certagent.pki import keys
from certagent.probe import handshake
from certagent.secret import Secret
from tests.e2e.site import fill, tmpfs
from tests.lab.load import Load
from tests.lab.sendmail import ADDRESS, BINARY, CONFIG, NAME, PROGRAM, SOURCE, TLS
from tests.lab.sendmail import Sendmail as Lab
from tests.lab.wait import until
from tests.mta import chains

BOTH = frozenset({"ecdsa-p256", "rsa-2048"})
SERVICES = [Service(NAME, 25, "smtp"), Service(NAME, 465, "tls"), Service(NAME, 587, "smtp")]
ECDSA, RSA, ISSUERS = TLS / "ecdsa.pem", TLS / "rsa.pem", TLS / "issuers.pem"


def issued(key_type: str, issuer: str) -> chains.Chain:
    """A chain whose issuer can be told from others: Sendmail looks for it by its name."""
    key, issuer_key = keys.make(key_type), keys.make("ecdsa-p256")
    leaf = _certificate(key, NAME, issuer_key, issuer)
    above = _certificate(issuer_key, issuer, keys.make("ecdsa-p256"), "Some root")
    return chains.Chain(
        key.reveal(),
        leaf.public_bytes(Encoding.PEM),
        above.public_bytes(Encoding.PEM),
        leaf.public_bytes(Encoding.DER),
        keys.spki_sha256(issuer_key),
        keys.spki_sha256(key),
    )


def _certificate(key: Secret[bytes], subject: str, issuer_key: Secret[bytes], issuer: str) -> x509.Certificate:
    name, above = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (subject, issuer))
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder(above, name, keys.load(key).public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=90))
        .add_extension(x509.BasicConstraints(ca=subject != NAME, path_length=None), critical=True)
        .sign(keys.load(issuer_key), hashes.SHA256())
    )


OLD, OLD_RSA = issued("ecdsa-p256", "CA 1"), issued("rsa-2048", "CA 2")
NEW, NEW_RSA = issued("ecdsa-p256", "CA 3"), issued("rsa-2048", "CA 4")
BOTH_NEW = {"ecdsa-p256": NEW.credential, "rsa-2048": NEW_RSA.credential}


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Sendmail with both key types, started."""
    lab = Lab([(ECDSA, ECDSA), (RSA, RSA)])
    lab.prepare()
    try:
        written(ECDSA, OLD.pem)
        written(RSA, OLD_RSA.pem)
        ISSUERS.write_bytes(OLD.issuer + OLD_RSA.issuer)
        lab.start()
        yield lab
    finally:
        lab.stop()


@pytest.fixture
def server() -> Sendmail:
    return Sendmail("mx", Options({"ecdsa": str(ECDSA), "rsa": str(RSA)}, str(ISSUERS)))


def written(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def spkis() -> set[tuple[int, str]]:
    """What each port serves: the key, or why none was seen."""
    seen = handshake.probe_all(SERVICES, lambda _: (ADDRESS,), sorted(BOTH), 5)
    return {(one.port, one.chain.why if isinstance(one.chain, Unknown) else one.chain.spki) for one in seen}


def all_serve(*expected: chains.Chain) -> bool:
    return spkis() == {(service.port, chain.spki) for service in SERVICES for chain in expected}


def chains_served() -> set[tuple[str, tuple[str, ...]]]:
    """Leaf and issuers."""
    seen = handshake.probe_all(SERVICES, lambda _: (ADDRESS,), sorted(BOTH), 5)
    assert not [one for one in seen if isinstance(one.chain, Unknown)]
    return {(one.chain.spki, one.chain.issuers) for one in seen if not isinstance(one.chain, Unknown)}


def no_tls() -> bool:
    """Whether it offers STARTTLS nowhere, which is how Sendmail tells that it does not like its files."""
    return {why.startswith("STARTTLS is not offered to ") for port, why in spkis() if port == 25} == {True}


def wrong(server: Sendmail, key_types: frozenset[str] = BOTH, code: str = "mta.config") -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        server.check(key_types)
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


def do_as_told(lab: Lab, error: Misconfigured) -> None:
    """Writes the lines of the hint into sendmail.mc, makes sendmail.cf, and reloads, as the operator would."""
    told = re.fullmatch(r"write (.*) into (\S+) above its MAILER lines, then: make .*", error.hint, re.DOTALL)
    assert told
    assert Path(told[2]) == SOURCE
    SOURCE.write_text(SOURCE.read_text().replace("MAILER(`local')", f"{told[1]}\nMAILER(`local')"))
    lab.make()
    hangup(lab)


def hangup(lab: Lab) -> None:
    """SIGHUP, without certagent; returns when a new daemon is there."""
    old = lab.pid
    assert old
    os.kill(old, signal.SIGHUP)
    until(lambda: lab.pid not in {None, old}, 10, "it comes back")


def in_cf(old: str, new: str) -> None:
    text = CONFIG.read_text()
    assert old in text
    CONFIG.write_text(text.replace(old, new))


class TestCheck:
    def test_a_sound_configuration_passes_also_when_it_is_not_running(self, lab: Lab, server: Sendmail) -> None:
        assert all_serve(OLD, OLD_RSA)
        server.check(BOTH)
        assert server.advice(BOTH) == ()
        lab.kill()
        server.check(BOTH)

    def test_what_it_refuses_itself_is_reported(self, lab: Lab, server: Sendmail) -> None:
        CONFIG.write_text(CONFIG.read_text() + "\nO Nonsense=1\n?\n")
        error = wrong(server)
        assert "sendmail -bt refuses it" in error.detail
        assert error.hint == f"run: sendmail -C {CONFIG} -bt </dev/null"

    def test_an_installed_file_that_is_not_named_is_reported_and_the_remedy_works(
        self, lab: Lab, server: Sendmail
    ) -> None:
        lab.pairs = [(RSA, RSA)]
        lab.configure()
        error = wrong(server)
        assert f"ServerCertFile does not name {ECDSA}, which is installed" in error.detail
        do_as_told(lab, error)
        server.check(BOTH)
        until(lambda: all_serve(OLD, OLD_RSA), 5, "both are served")

    def test_another_file_of_the_same_kind_or_missing_is_reported_and_the_remedy_works(
        self, lab: Lab, server: Sendmail
    ) -> None:
        written(TLS / "other.pem", NEW.pem)
        for other, why in (
            (TLS / "other.pem", "a second key of the same algorithm"),
            (TLS / "gone.pem", "which is missing"),
        ):
            lab.pairs = [(RSA, RSA), (other, other)]
            lab.configure()
            error = wrong(server)
            assert f"names {other}, {why}" in error.detail
            do_as_told(lab, error)
            server.check(BOTH)

    def test_a_file_that_nothing_would_renew_is_reported(self, lab: Lab, server: Sendmail) -> None:
        error = wrong(server, frozenset({"rsa-2048"}))
        assert f"names {ECDSA}, which nothing renews" in error.detail
        do_as_told(lab, error)
        server.check(frozenset({"rsa-2048"}))

    def test_a_file_of_others_and_another_kind_stays(self, lab: Lab) -> None:
        Sendmail("mx", Options({"rsa": str(RSA)}, str(ISSUERS))).check(frozenset({"rsa-2048"}))

    def test_half_of_ours_is_reported(self, lab: Lab, server: Sendmail) -> None:
        in_cf(f"ServerKeyFile={ECDSA},", f"ServerKeyFile={TLS}/other.pem,")
        written(TLS / "other.pem", OLD.pem)
        assert "or half of ours" in wrong(server).detail

    @pytest.mark.parametrize("option", ["CACertPath", "CACertFile"])
    def test_without_a_ca_there_is_no_tls_which_is_reported_and_the_remedy_works(
        self, lab: Lab, server: Sendmail, option: str
    ) -> None:
        CONFIG.write_text(re.sub(rf"(?m)^O {option}=.*", "", CONFIG.read_text()))
        hangup(lab)
        until(no_tls, 5, "no TLS")
        error = wrong(server)
        assert option in error.detail
        do_as_told(lab, error)
        server.check(BOTH)
        until(lambda: all_serve(OLD, OLD_RSA), 5, "both are served")

    def test_a_path_from_which_the_root_would_be_sent_is_reported(self, lab: Lab, server: Sendmail) -> None:
        in_cf(f"CACertPath={TLS}", "CACertPath=/etc/ssl/certs")
        assert "it sends the root from there, too" in wrong(server).detail

    def test_a_directory_above_that_others_may_write_is_reported(self, lab: Lab, server: Sendmail, place: Path) -> None:
        file = place / "ecdsa.pem"  # below /var/tmp
        written(file, OLD.pem)
        lab.pairs = [(file, file)]
        lab.configure()
        hangup(lab)
        until(no_tls, 5, "no TLS")
        server = Sendmail("mx", Options({"ecdsa": str(file)}, str(ISSUERS)))
        assert "others may write into /var/tmp" in wrong(server, frozenset({"ecdsa-p256"}), "mta.files").detail

    def test_a_key_that_the_group_may_read_is_reported_unless_it_is_allowed(self, lab: Lab) -> None:
        for path in (ECDSA, RSA):
            path.chmod(0o640)
        hangup(lab)
        until(no_tls, 5, "no TLS")
        server = Sendmail("mx", Options({"ecdsa": str(ECDSA), "rsa": str(RSA)}, str(ISSUERS), mode="0640"))
        assert "Group readable file" in wrong(server, code="mta.files").detail
        lab.configure("define(`confDONT_BLAME_SENDMAIL', `GroupReadableKeyFile')\n")
        hangup(lab)
        server.check(BOTH)
        until(lambda: all_serve(OLD, OLD_RSA), 5, "both are served")

    def test_a_key_of_another_user_stops_tls_and_is_reported(self, lab: Lab) -> None:
        os.chown(ECDSA, 8, -1)
        hangup(lab)
        until(no_tls, 5, "no TLS")
        with pytest.raises(Misconfigured, match=r"\[mta\.files\]"):
            Sendmail("mx", Options({"ecdsa": str(ECDSA)}, str(ISSUERS))).check(frozenset({"ecdsa-p256"}))
        other = Sendmail("mx", Options({"ecdsa": str(ECDSA)}, str(ISSUERS), owner="mail"))
        with pytest.raises(Misconfigured, match=r"\[mta\.files\]"):
            other.check(frozenset({"ecdsa-p256"}))

    def test_files_that_it_cannot_use_are_refused(self) -> None:
        with pytest.raises(Misconfigured, match=r"\[mta\.config\]"):
            Sendmail("mx", Options({"rsa": Files(cert="/a", chain="/b", key="/c")}, str(ISSUERS)))


class TestInstall:
    def test_every_port_serves_both_new_keys_after_the_reload(self, lab: Lab, server: Sendmail) -> None:
        server.install(BOTH_NEW)
        assert server.installed() == {"ecdsa-p256": NEW.der, "rsa-2048": NEW_RSA.der}
        assert [path.stat().st_mode & 0o777 for path in (ECDSA, RSA)] == [0o600, 0o600]
        server.reload()
        assert all_serve(NEW, NEW_RSA)

    def test_the_whole_chain_of_each_is_served_and_nothing_else(self, lab: Lab, server: Sendmail) -> None:
        assert chains_served() == {(OLD.spki, (OLD.issuer_spki,)), (OLD_RSA.spki, (OLD_RSA.issuer_spki,))}
        server.install(BOTH_NEW)
        server.reload()
        assert chains_served() == {(NEW.spki, (NEW.issuer_spki,)), (NEW_RSA.spki, (NEW_RSA.issuer_spki,))}

    def test_a_certificate_of_a_root_itself_is_served(self, lab: Lab, server: Sendmail) -> None:
        """It has no issuers to send: an empty CACertFile would end TLS."""
        server.install({kind: replace(one, issuers=b"") for kind, one in BOTH_NEW.items()})
        server.reload()
        assert chains_served() == {(NEW.spki, ()), (NEW_RSA.spki, ())}

    def test_one_key_type_is_replaced_beside_the_other(self, lab: Lab, server: Sendmail) -> None:
        server.install({"rsa-2048": NEW_RSA.credential})
        server.reload()
        assert chains_served() == {(OLD.spki, (OLD.issuer_spki,)), (NEW_RSA.spki, (NEW_RSA.issuer_spki,))}

    def test_the_first_installation_is_served_once_it_is_named(self, lab: Lab, server: Sendmail) -> None:
        for path in (ECDSA, RSA):
            path.unlink()
        lab.pairs = []
        lab.configure()
        hangup(lab)
        until(no_tls, 5, "no TLS")
        server.check(BOTH)
        ((what, _),) = server.advice(BOTH)
        assert what == f"{CONFIG} does not name {ECDSA}, {RSA} yet: the first run installs it and stops there"
        with pytest.raises(Misconfigured, match="which is installed") as caught:
            server.install(BOTH_NEW)
        do_as_told(lab, caught.value)
        server.install(BOTH_NEW)
        until(lambda: all_serve(NEW, NEW_RSA), 5, "both are served")

    def test_two_files_are_served(self, lab: Lab) -> None:
        chain, key = TLS / "chain.pem", TLS / "key.pem"
        lab.pairs = [(chain, key)]
        lab.configure()
        server = Sendmail("mx", Options({"ecdsa": Files(fullchain=str(chain), key=str(key))}, str(ISSUERS)))
        server.install({"ecdsa-p256": NEW.credential})
        server.check(frozenset({"ecdsa-p256"}))
        server.reload()
        assert {spki for _, spki in spkis()} >= {NEW.spki}

    def test_a_broken_file_is_refused_and_every_old_one_stays(self, lab: Lab, server: Sendmail) -> None:
        with pytest.raises(Unsafe, match=r"mta\.pem"):
            server.install({"ecdsa-p256": chains.paired(NEW, OLD), "rsa-2048": NEW_RSA.credential})
        assert (ECDSA.read_bytes(), RSA.read_bytes()) == (OLD.pem, OLD_RSA.pem)
        server.reload()
        assert all_serve(OLD, OLD_RSA)

    def test_a_full_disk_leaves_what_is_served(self, lab: Lab, server: Sendmail) -> None:
        present = {path: path.read_bytes() for path in ECDSA.parent.iterdir() if path.is_file()}
        with tmpfs(ECDSA.parent, "64k"):
            for path, content in present.items():
                path.touch(mode=0o600)
                path.write_bytes(content)
            fill(ECDSA.parent)
            with pytest.raises(Transient, match=r"No space left on device \[mta\.disk\]"):
                server.install({"ecdsa-p256": NEW.credential, "rsa-2048": NEW_RSA.credential})
            assert (ECDSA.read_bytes(), RSA.read_bytes()) == (OLD.pem, OLD_RSA.pem)
            server.reload()
            assert all_serve(OLD, OLD_RSA)


class TestReload:
    def test_new_connections_never_meet_a_wrong_certificate(
        self, lab: Lab, server: Sendmail, capsys: pytest.CaptureFixture[str]
    ) -> None:
        load = Load(ADDRESS, NAME)
        with load:
            until(lambda: load.count(OLD) > 20, 20, "connections before the swap")
            server.install(BOTH_NEW)
            installed = load.total
            until(lambda: load.total > installed + 5, 10, "connections after the installation")
            server.reload()
            until(lambda: load.count(NEW) > 20, 20, "connections after the reload")
        with capsys.disabled():
            print(f"\nSendmail: {load.report(OLD, NEW)}")
        assert load.strange(OLD, NEW) == set()
        assert load.failed == []

    def test_a_handshake_that_was_begun_is_finished_after_the_reload_with_the_old_key(
        self, lab: Lab, server: Sendmail
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP(ADDRESS, timeout=10) as client:
            client.ehlo()
            assert client.docmd("STARTTLS")[0] == 220
            server.install(BOTH_NEW)
            server.reload()
            assert all_serve(NEW, NEW_RSA)
            assert client.sock
            with context.wrap_socket(client.sock) as client.sock:
                assert client.sock.getpeercert(binary_form=True) in {OLD.der, OLD_RSA.der}
                client.file = None  # it read without TLS
                assert client.ehlo()[0] == 250

    def test_a_broken_configuration_is_not_reloaded_for_it_would_end_it(self, lab: Lab, server: Sendmail) -> None:
        before, sound = lab.pid, CONFIG.read_text()
        CONFIG.write_text("V10\n?\n")
        with pytest.raises(Transient, match=r"goes on with the old files: .* \[mta\.reload\]"):
            server.reload()
        assert lab.pid == before
        assert all_serve(OLD, OLD_RSA)
        assert before
        os.kill(before, signal.SIGHUP)
        until(lambda: lab.pid is None, 5, "that is what the hangup would have done")
        CONFIG.write_text(sound)

    def test_after_a_swap_that_it_does_not_like_the_old_files_go_back_and_are_served(
        self, lab: Lab, server: Sendmail
    ) -> None:
        saved = server.saved()
        server.install(BOTH_NEW)
        RSA.chmod(0o644)  # by another process
        server.reload()
        until(no_tls, 5, "no TLS")
        RSA.chmod(0o600)
        server.restore(saved)
        server.reload()
        assert all_serve(OLD, OLD_RSA)

    def test_one_that_is_not_running_is_down(self, lab: Lab, server: Sendmail) -> None:
        pid_file = CONFIG.with_suffix(".pid").read_text()
        lab.kill()
        for text in (pid_file, f"{os.getpid()}\n{PROGRAM} -bd\n", "nonsense", ""):
            CONFIG.with_suffix(".pid").write_text(text)
            with pytest.raises(Transient, match=r"not running \[mta\.down\]"):
                server.reload()

    def test_one_that_was_started_without_its_path_is_left_alone(self, lab: Lab, server: Sendmail) -> None:
        lab.kill()
        lab.launch("sendmail")
        before = lab.pid
        with pytest.raises(Transient, match=r"without its full path: .* \[mta\.reload\]"):
            server.reload()
        assert lab.pid == before


class TestDaemon:
    """What certagent relies on."""

    def test_new_files_are_not_read_before_the_reload(self, lab: Lab) -> None:
        written(ECDSA, NEW.pem)
        written(RSA, NEW_RSA.pem)
        assert all_serve(OLD, OLD_RSA)

    def test_its_own_check_accepts_a_key_that_does_not_fit(self, lab: Lab) -> None:
        written(ECDSA, NEW.key + OLD.leaf)
        subprocess.run([BINARY, "-C", CONFIG, "-bt"], check=True, stdin=subprocess.DEVNULL, capture_output=True)
        hangup(lab)
        until(no_tls, 5, "no TLS")


class TestDiscover:
    def test_it_is_found_with_its_ports_and_files(self, lab: Lab) -> None:
        (found,) = Sendmail.discover()
        assert found.options == {"files": {"ecdsa": str(ECDSA), "rsa": str(RSA)}, "issuers": str(ISSUERS)}
        assert found.services == tuple(Service(NAME, s.port, s.mode, (ADDRESS,)) for s in SERVICES)
        assert found.names == (NAME,)
        assert found.uses == {"ServerCertFile": f"{ECDSA},{RSA}", "ServerKeyFile": f"{ECDSA},{RSA}"}
        assert found.changes == ()

    def test_the_change_for_one_without_tls_works(self, lab: Lab) -> None:
        lab.pairs = []
        lab.configure()
        (found,) = Sendmail.discover()
        (own,) = found.options["files"].values()
        Path(own).parent.mkdir(mode=0o700)
        server = Sendmail("mx", Options(**found.options))
        with pytest.raises(Misconfigured, match="which is installed"):
            server.install({"ecdsa-p256": NEW.credential})
        (change,) = found.changes
        assert change.before == SOURCE.read_text()
        SOURCE.write_text(change.after)
        lab.make()
        server.check(frozenset({"ecdsa-p256"}))
        server.reload()
        assert {spki for _, spki in spkis()} >= {NEW.spki}

    def test_nothing_is_found_where_it_is_not_installed(self) -> None:
        assert Sendmail.discover() == []
