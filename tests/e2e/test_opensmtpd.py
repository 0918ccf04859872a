"""The real OpenSMTPD: what `check` finds, that what was installed is what clients meet after the restart, and what the
daemon itself does, as far as certagent relies on it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec import structs

from certagent.errors import Misconfigured, Transient, Unsafe
from certagent.facts.tls import Service
from certagent.facts.unknown import Unknown
from certagent.mta.files import Files
from certagent.mta.opensmtpd.server import OpenSmtpd, Options
from certagent.probe.handshake import probe_all
from tests.e2e.site import fill, tmpfs
from tests.lab import handshake, opensmtpd
from tests.lab.load import Load
from tests.lab.opensmtpd import ADDRESS, CONFIG, NAME, PORTS, asked, greets, paused, session
from tests.lab.opensmtpd import OpenSmtpd as Lab
from tests.lab.wait import until
from tests.mta import chains

RSA = frozenset({"rsa-2048"})
SNI = "sni.corp.example"
SERVICES = [Service(NAME, 25, "smtp"), Service(NAME, 465, "tls"), Service(NAME, 587, "smtp")]

OLD, NEW = chains.make("rsa-2048", NAME), chains.make("rsa-2048", NAME)
EC = chains.make("ecdsa-p256", NAME)
OTHER = chains.make("ecdsa-p256", SNI)


@pytest.fixture(autouse=True)
def _there() -> None:
    if why := opensmtpd.missing():
        pytest.skip(why)


@pytest.fixture
def pem(place: Path) -> Path:
    """The combined file, with the old certificate."""
    return written(place / "tls" / "rsa.pem", OLD.pem)


@pytest.fixture
def lab(place: Path, pem: Path) -> Iterator[Lab]:
    """OpenSMTPD with one certificate for all, and another by SNI; started."""
    other = written(pem.parent / "other.pem", OTHER.pem)
    lab = Lab(place / "smtpd", {NAME: (pem, pem), SNI: (other, other)})
    try:
        lab.start()
        lab.configure(lab.text().replace(f"pki {NAME}\n", f"pki {NAME} pki {SNI}\n"))
        subprocess.run([lab.restart_script], check=True)
        until(lambda: all_serve(OLD), 10, "the old certificate")
        yield lab
    finally:
        lab.stop()


@pytest.fixture
def options(lab: Lab, pem: Path) -> Options:
    return Options({"rsa": str(pem)}, restart=(str(lab.restart_script),))


@pytest.fixture
def patient(options: Options) -> Options:
    """It waits for as long as can be configured: longer than anything here takes."""
    return structs.replace(options, pause="20s")


@pytest.fixture
def server(options: Options) -> OpenSmtpd:
    return OpenSmtpd("smtpd", options)


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def served(name: str = NAME, key_type: str = "rsa-2048") -> set[str]:
    """The keys that all ports serve for a name, or why none was seen."""
    services = [Service(name, service.port, service.mode) for service in SERVICES]
    found = probe_all(services, lambda _: (ADDRESS,), [key_type], 5)
    return {one.chain.why if isinstance(one.chain, Unknown) else one.chain.spki for one in found}


def all_serve(chain: chains.Chain) -> bool:
    return served() == {chain.spki}


def wrong(server: OpenSmtpd, key_types: frozenset[str] = RSA) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        server.check(key_types)
    assert caught.value.code == "mta.config"
    assert caught.value.hint
    return caught.value


def replace(old: str, new: str) -> None:
    text = CONFIG.read_text()
    assert old in text
    CONFIG.write_text(text.replace(old, new))


class TestCheck:
    def test_a_sound_configuration_passes_also_when_it_is_not_running(self, lab: Lab, server: OpenSmtpd) -> None:
        server.check(RSA)
        assert server.advice(RSA) == ()
        lab.kill()
        server.check(RSA)

    def test_it_changes_nothing_and_restarts_nothing(self, lab: Lab, server: OpenSmtpd, pem: Path) -> None:
        before = (lab.pid, CONFIG.read_bytes(), pem.stat())
        server.check(RSA)
        assert (lab.pid, CONFIG.read_bytes(), pem.stat()) == before

    def test_what_it_refuses_itself_is_reported(self, lab: Lab, server: OpenSmtpd) -> None:
        replace("match for local", "match nonsense")
        error = wrong(server)
        assert "syntax error" in error.detail
        assert error.hint == f"run: smtpd -n -f {CONFIG}"

    def test_an_installed_file_that_is_not_named_is_reported(self, lab: Lab, server: OpenSmtpd, pem: Path) -> None:
        replace(f'"{pem}"', f'"{pem.parent}/other.pem"')
        error = wrong(server)
        assert f"no pki names {pem}, which is installed" in error.detail
        assert f'pki NAME cert "{pem}" and pki NAME key "{pem}"' in error.hint

    def test_a_pki_with_only_one_of_the_files_is_reported(self, lab: Lab, server: OpenSmtpd, pem: Path) -> None:
        replace(f'key "{pem}"', f'key "{pem.parent}/other.pem"')
        assert f"pki {NAME} has only one of the certificate" in wrong(server).detail

    def test_a_listener_that_uses_other_certificates_only_is_reported(self, lab: Lab, server: OpenSmtpd) -> None:
        replace(f"pki {NAME} pki {SNI}", f"pki {SNI}")
        assert f"no listener offers TLS with pki {NAME}" in wrong(server).detail

    def test_rsa_and_ecdsa_for_one_name_are_refused(self, lab: Lab, options: Options, pem: Path) -> None:
        both = OpenSmtpd("smtpd", Options({"rsa": str(pem), "ecdsa": str(pem.parent / "ec.pem")}))
        assert "one key type for a name" in wrong(both, frozenset({"rsa-2048", "ecdsa-p256"})).detail

    def test_a_file_that_the_daemon_would_refuse_is_reported(self, lab: Lab, server: OpenSmtpd, pem: Path) -> None:
        for owner, mode in ((0, 0o644), (1, 0o600)):
            os.chown(pem, owner, -1)
            pem.chmod(mode)
            assert subprocess.run(["smtpd", "-n"], check=False, capture_output=True).returncode == 1
            with pytest.raises(Misconfigured, match=r"\[mta\.files\]"):
                server.check(RSA)

    def test_without_systemd_and_a_restart_command_it_is_reported(self, lab: Lab, pem: Path) -> None:
        assert "nothing is known to restart it" in wrong(OpenSmtpd("smtpd", Options({"rsa": str(pem)}))).detail

    def test_files_that_it_cannot_use_are_refused(self) -> None:
        for files, owner in (
            (Files(pkcs12="/a.p12", password_file="/b"), None),
            (Files(cert="/a", chain="/b", key="/c"), None),
            (Files(combined="/a"), "opensmtpd"),
        ):
            with pytest.raises(Misconfigured, match=r"\[mta\.config\]"):
                OpenSmtpd("smtpd", Options({"rsa": files}, owner=owner))

    def test_debian_12s_own_cannot_serve_tls_and_is_reported(self, place: Path, pem: Path) -> None:
        lab = Lab(place / "smtpd", {NAME: (pem, pem)}, version="6.8")
        try:
            lab.start()
            assert not served().intersection({OLD.spki})
            options = Options({"rsa": str(pem)}, restart=(str(lab.restart_script),))
            assert "OpenSMTPD 6 with OpenSSL 3 fails every TLS handshake" in wrong(OpenSmtpd("smtpd", options)).detail
        finally:
            lab.stop()


class TestInstall:
    def test_the_first_installation_is_served_once_it_is_named(self, lab: Lab, options: Options, pem: Path) -> None:
        first = pem.parent / "first.pem"
        server = OpenSmtpd("smtpd", Options({"rsa": str(first)}, restart=options.restart))
        server.check(RSA)
        assert [what for what, _ in server.advice(RSA)] == [
            f"{CONFIG} does not name {first} yet: the first run installs it and stops there"
        ]
        with pytest.raises(Misconfigured, match="which is installed"):
            server.install({"rsa-2048": NEW.credential})
        assert all_serve(OLD)
        replace(str(pem), str(first))
        server.check(RSA)
        server.install({"rsa-2048": NEW.credential})
        server.reload()
        assert all_serve(NEW)

    def test_named_before_it_is_there_passes_but_for_other_faults(self, lab: Lab, server: OpenSmtpd, pem: Path) -> None:
        pem.unlink()
        server.check(RSA)
        (pem.parent / "other.pem").unlink()
        assert "smtpd -n refuses it" in wrong(server).detail

    def test_two_files_are_served_with_the_whole_chain(self, lab: Lab, options: Options, pem: Path) -> None:
        chain, key = pem.parent / "chain.pem", pem.parent / "key.pem"
        replace(f'cert "{pem}"', f'cert "{chain}"')
        replace(f'key "{pem}"', f'key "{key}"')
        files = Files(fullchain=str(chain), key=str(key))
        server = OpenSmtpd("smtpd", Options({"rsa": files}, restart=options.restart))
        server.check(RSA)
        server.install({"rsa-2048": NEW.credential})
        assert server.installed() == {"rsa-2048": NEW.der}
        server.reload()
        seen = probe_all(SERVICES, lambda _: (ADDRESS,), ["rsa-2048"], 5)
        assert {one.chain for one in seen if not isinstance(one.chain, Unknown) and one.chain.spki != NEW.spki} == set()
        assert {one.chain.issuers for one in seen if not isinstance(one.chain, Unknown)} == {(NEW.issuer_spki,)}

    def test_another_key_type_can_follow(self, lab: Lab, options: Options, pem: Path) -> None:
        server = OpenSmtpd("smtpd", Options({"ecdsa": str(pem)}, restart=options.restart))
        server.install({"ecdsa-p256": EC.credential})
        server.reload()
        assert served(key_type="ecdsa-p256") == {EC.spki}

    def test_the_certificate_of_another_name_stays(self, lab: Lab, server: OpenSmtpd) -> None:
        server.install({"rsa-2048": NEW.credential})
        server.reload()
        assert served(SNI, "ecdsa-p256") == {OTHER.spki}
        assert all_serve(NEW)

    def test_a_broken_file_is_refused_and_the_old_one_stays(self, lab: Lab, server: OpenSmtpd, pem: Path) -> None:
        for broken in (b"", NEW.key + OLD.leaf + OLD.issuer, NEW.pem[:-30]):
            with pytest.raises(Unsafe, match=r"mta\.pem"):
                server.install({"rsa-2048": chains.text(broken)})
        assert pem.read_bytes() == OLD.pem
        server.reload()
        assert all_serve(OLD)

    def test_a_full_disk_leaves_what_is_served(self, lab: Lab, server: OpenSmtpd, pem: Path) -> None:
        other = {path.name: path.read_bytes() for path in pem.parent.iterdir()}
        with tmpfs(pem.parent, "32k"):
            for name, content in other.items():
                written(pem.parent / name, content)
            fill(pem.parent)
            with pytest.raises(Transient, match=r"No space left on device \[mta\.disk\]"):
                server.install({"rsa-2048": NEW.credential})
            assert pem.read_bytes() == OLD.pem
            server.reload()
            assert all_serve(OLD)
        server.reload()


class TestReload:
    def test_new_connections_never_meet_a_wrong_certificate(
        self, lab: Lab, patient: Options, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server, load = OpenSmtpd("smtpd", patient), Load(ADDRESS, NAME)
        with load:
            until(lambda: load.count(OLD) > 20, 10, "connections before the swap")
            server.install({"rsa-2048": NEW.credential})
            installed = load.total
            until(lambda: load.total > installed + 5, 10, "connections after the installation")
            server.reload()
            until(lambda: load.count(NEW) > 20, 10, "connections after the restart")
        with capsys.disabled():
            print(f"\nOpenSMTPD: {load.report(OLD, NEW)}")
        assert load.strange(OLD, NEW) == set()
        assert load.went_from(OLD, NEW)
        assert load.failed == []

    def test_it_listens_and_serves_the_new_certificate_on_return(self, lab: Lab, server: OpenSmtpd) -> None:
        first = lab.pid
        for chain in (NEW, OLD, NEW):
            server.install({"rsa-2048": chain.credential})
            server.reload()
            assert {handshake.served_tlsa(ADDRESS, port) for port in PORTS} == {f"3 1 1 {chain.spki}"}
        assert lab.pid != first

    def test_a_refused_configuration_is_not_restarted_into(self, lab: Lab, server: OpenSmtpd) -> None:
        before = lab.pid
        replace("match for local", "match nonsense")
        with pytest.raises(Transient, match=r"goes on unrestarted: smtpd -n refuses it: .* \[mta\.reload\]"):
            server.reload()
        assert lab.pid == before
        assert all_serve(OLD)

    def test_a_file_made_unreadable_by_others_is_not_restarted_into(
        self, lab: Lab, server: OpenSmtpd, pem: Path
    ) -> None:
        before = lab.pid
        server.install({"rsa-2048": NEW.credential})
        pem.chmod(0o666)
        with pytest.raises(Transient, match=r"insecure permissions: .* \[mta\.reload\]"):
            server.reload()
        assert lab.pid == before
        assert all_serve(OLD)

    def test_after_a_restart_that_fails_the_old_files_go_back_and_are_served(
        self, lab: Lab, options: Options, pem: Path
    ) -> None:
        saved = OpenSmtpd("smtpd", options).saved()
        script = lab.restart_script.read_text()
        lab.restart_script.write_text(script.replace("exec smtpd", "echo no room >&2; exit 1; exec smtpd"))
        server = OpenSmtpd("smtpd", options)
        server.install({"rsa-2048": NEW.credential})
        with pytest.raises(Transient, match=r"does not listen after its restart: no room \[mta\.down\]"):
            server.reload()
        server.restore(saved)
        assert pem.read_bytes() == OLD.pem
        assert pem.stat().st_mode & 0o777 == 0o600
        lab.restart_script.write_text(script)
        server.reload()  # it was stopped from here: it may be started from here
        assert all_serve(OLD)

    def test_a_restart_command_that_does_nothing_is_reported(self, lab: Lab, pem: Path, fast: None) -> None:
        server = OpenSmtpd("smtpd", Options({"rsa": str(pem)}, restart=("/bin/true",)))
        with pytest.raises(Transient, match=r"goes on unrestarted: nothing after .* \[mta\.reload\]"):
            server.reload()

    def test_one_that_was_stopped_is_down_and_is_not_started(self, lab: Lab, server: OpenSmtpd) -> None:
        lab.kill()
        with pytest.raises(Transient, match=r"not running \[mta\.down\]") as caught:
            server.reload()
        assert caught.value.hint.startswith(f"run: {lab.restart_script}")
        assert lab.pid is None


class TestPause:
    """Sessions that are in progress when it is to be restarted."""

    def test_a_session_is_served_to_its_end_and_nobody_new_meanwhile(self, lab: Lab, patient: Options) -> None:
        before = lab.pid
        with session() as client, ThreadPoolExecutor(1) as pool:
            reload = pool.submit(OpenSmtpd("smtpd", patient).reload)
            until(paused, 10, "it is paused")
            assert not greets(ADDRESS, 25)
            assert asked(client, "NOOP").startswith("250 ")
            assert lab.pid == before
            assert asked(client, "QUIT").startswith("221 ")
            reload.result()
        assert lab.pid != before
        until(lambda: greets(ADDRESS, 25), 5, "it greets")

    def test_a_session_that_does_not_end_is_waited_for_no_longer_than_configured(
        self, lab: Lab, patient: Options
    ) -> None:
        for pause in ("1s", "0s"):
            before = lab.pid
            with session() as client:
                OpenSmtpd("smtpd", structs.replace(patient, pause=pause)).reload()
                assert lab.pid != before
                assert client.recv(100) == b""

    def test_certagent_killed_in_the_pause_leaves_it_accepting_and_the_restart_can_be_made_again(
        self, lab: Lab, server: OpenSmtpd, pem: Path
    ) -> None:
        before = lab.pid
        code = (
            "import sys; from certagent.mta.opensmtpd.server import OpenSmtpd, Options; "
            "OpenSmtpd('smtpd', Options({'rsa': sys.argv[1]}, restart=(sys.argv[2],), pause='20s')).reload()"
        )
        # As under the systemd unit, where smtpctl's setgid has no effect.
        argv = ["setpriv", "--no-new-privs", sys.executable, "-c", code, pem, lab.restart_script]
        with session() as client:
            with subprocess.Popen(argv) as certagent:
                until(paused, 20, "it is paused")
                certagent.kill()
            until(lambda: not paused(), 10, "it is resumed")
            until(lambda: greets(ADDRESS, 25), 5, "it greets")
            assert asked(client, "NOOP").startswith("250 ")
            assert lab.pid == before
        server.reload()
        assert lab.pid != before

    def test_a_pause_that_was_left_over_ends_with_the_restart(self, lab: Lab, server: OpenSmtpd) -> None:
        subprocess.run(["smtpctl", "pause", "smtp"], check=True, stdout=subprocess.DEVNULL)
        assert paused()
        assert not greets(ADDRESS, 25)
        server.reload()
        until(lambda: greets(ADDRESS, 25), 5, "it greets")

    def test_a_restart_that_fails_leaves_it_accepting(self, lab: Lab, pem: Path) -> None:
        before = lab.pid
        with pytest.raises(Transient, match=r"goes on unrestarted: .* \[mta\.reload\]"):
            OpenSmtpd("smtpd", Options({"rsa": str(pem)}, restart=("/bin/false",))).reload()
        assert lab.pid == before
        assert all_serve(OLD)

    def test_where_it_cannot_be_paused_it_is_restarted_all_the_same(self, lab: Lab, patient: Options) -> None:
        before = lab.pid
        Path("/usr/local/sbin/smtpctl").unlink()
        with session():
            OpenSmtpd("smtpd", patient).reload()
        assert lab.pid != before


class TestDaemon:
    """What certagent relies on, or stands against."""

    def test_a_new_file_is_not_read_before_the_restart(self, lab: Lab, pem: Path) -> None:
        pem.write_bytes(NEW.pem)
        assert all_serve(OLD)

    def test_a_hangup_ends_it(self, lab: Lab) -> None:
        pid = lab.pid
        assert pid
        os.kill(pid, signal.SIGHUP)
        until(lambda: lab.pid is None, 5, "it ends")

    def test_its_own_check_accepts_a_key_that_does_not_fit_and_the_first_client_kills_it(
        self, lab: Lab, pem: Path
    ) -> None:
        pem.write_bytes(NEW.key + OLD.leaf)
        assert subprocess.run(["smtpd", "-n"], check=False, capture_output=True).returncode == 0
        subprocess.run([lab.restart_script], check=True)
        until(lambda: served() and lab.pid is None, 10, "it dies")


class TestDiscover:
    def test_each_certificate_is_found_with_its_ports_and_files(self, lab: Lab, pem: Path) -> None:
        one, two = OpenSmtpd.discover()
        assert (one.type, one.name, two.name) == ("opensmtpd", "opensmtpd", "opensmtpd-2")
        assert one.options == {"files": {"rsa": str(pem)}}
        assert one.uses == {f"pki {NAME} cert": str(pem), f"pki {NAME} key": str(pem)}
        assert one.services == tuple(Service(NAME, s.port, s.mode, (ADDRESS,)) for s in SERVICES)
        assert (one.names, two.names) == ((NAME,), (SNI,))
        assert one.changes == two.changes == ()

    def test_a_listener_for_the_proxy_protocol_is_left_out_with_the_reason(self, lab: Lab) -> None:
        replace("smtps pki", "smtps proxy-v2 pki")
        assert subprocess.run(["smtpd", "-n"], check=False, capture_output=True).returncode == 0
        one, _ = OpenSmtpd.discover()
        assert {service.port for service in one.services} == {25, 587}
        [note] = [note for note in one.notes if "PROXY" in note]
        assert "port 465 is left out" in note

    def test_a_link_to_somebody_elses_file_is_to_be_replaced_by_a_file_of_its_own(self, lab: Lab, pem: Path) -> None:
        live = pem.parent / "live.pem"
        live.symlink_to(pem)
        replace(f'"{pem}"', f'"{live}"')
        found = OpenSmtpd.discover()[0]
        (change,) = found.changes
        assert found.options == {"files": {"rsa": "/etc/smtpd/rsa.pem"}}
        assert change.before == CONFIG.read_text()
        assert change.after == change.before.replace(str(live), "/etc/smtpd/rsa.pem")

    def test_the_change_for_one_without_tls_is_accepted_by_the_daemon_and_by_check(
        self, lab: Lab, options: Options
    ) -> None:
        CONFIG.write_text(f'listen on localhost\nlisten on {ADDRESS}\naction "a" maildir\nmatch for local action "a"\n')
        (found,) = OpenSmtpd.discover()
        (change,) = found.changes
        (own,) = found.options["files"].values()
        Path(own).parent.mkdir(mode=0o700)
        server = OpenSmtpd("smtpd", Options(found.options["files"], restart=options.restart))
        with pytest.raises(Misconfigured, match="which is installed"):
            server.install({"ecdsa-p256": EC.credential})
        CONFIG.write_text(change.after)
        server.check(frozenset({"ecdsa-p256"}))
        server.reload()
        assert handshake.served_tlsa(ADDRESS) == f"3 1 1 {EC.spki}"
        assert [(service.port, service.mode, service.addresses) for service in found.services] == [
            (25, "smtp", (ADDRESS,))
        ]

    def test_nothing_is_found_where_it_is_not_installed(self) -> None:
        assert OpenSmtpd.discover() == []


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits less long for what does not come."""
    monkeypatch.setattr("certagent.mta.opensmtpd.server._LISTENS_S", 0.5)
