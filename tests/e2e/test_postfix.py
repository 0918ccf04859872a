"""The real Postfix: what `check` finds, and that what was installed is what clients meet."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from certagent.errors import Misconfigured, Transient, Unsafe
from certagent.facts.tls import Served, Service
from certagent.facts.unknown import Unknown
from certagent.mta.postfix import postconf
from certagent.mta.postfix.postconf import Instance
from certagent.mta.postfix.server import Options, Postfix
from certagent.probe import handshake
from tests.e2e.postfixes import BOTH, EC, HOST, SUBMISSION, do_as_told, override, private, set_main, told, wrong
from tests.lab.addresses import MX1, SPARE
from tests.lab.postfix import Receiver
from tests.lab.wait import until
from tests.mta import chains

SERVICES = [Service(HOST, 25, "smtp"), Service(HOST, 587, "smtp"), Service(HOST, 465, "tls")]

OLD, OLD_RSA = chains.make(name=HOST), chains.make("rsa-2048", HOST)
NEW, NEW_RSA = chains.make(name=HOST), chains.make("rsa-2048", HOST)


@pytest.fixture
def tls(place: Path) -> Path:
    """The directory of the chain files, with the old ones."""
    directory = place / "tls"
    directory.mkdir(mode=0o755)
    for name, chain in (("ecdsa.pem", OLD), ("rsa.pem", OLD_RSA)):
        private(directory / name, chain.pem)
    return directory


@pytest.fixture
def receiver(place: Path, tls: Path) -> Iterator[Receiver]:
    """Postfix with both key types, started."""
    receiver = Receiver(place / "mx1", chain_files=[tls / "ecdsa.pem", tls / "rsa.pem"])
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture
def options(receiver: Receiver, tls: Path) -> Options:
    return Options({kind: str(tls / f"{kind}.pem") for kind in ("ecdsa", "rsa")}, str(receiver.config_dir))


@pytest.fixture
def postfix(options: Options) -> Postfix:
    return Postfix("mx1", options)


def seen() -> list[Served]:
    return handshake.probe_all(SERVICES, lambda _: (MX1,), sorted(BOTH), 5)


def spkis() -> set[tuple[int, str]]:
    """What each port serves: the key, or why none was seen."""
    return {(one.port, one.chain.why if isinstance(one.chain, Unknown) else one.chain.spki) for one in seen()}


def everywhere(*expected: chains.Chain) -> set[tuple[int, str]]:
    return {(service.port, chain.spki) for service in SERVICES for chain in expected}


def all_serve(*expected: chains.Chain) -> bool:
    return spkis() == everywhere(*expected)


class TestCheck:
    def test_a_sound_configuration_passes(self, postfix: Postfix) -> None:
        postfix.check(BOTH)

    def test_it_passes_when_postfix_is_not_running(self, receiver: Receiver, postfix: Postfix) -> None:
        receiver.stop()
        postfix.check(BOTH)

    def test_files_of_others_may_be_listed_too(self, receiver: Receiver, tls: Path, options: Options) -> None:
        only_rsa = Options({"rsa": (options.chain_files or {})["rsa"]}, options.config_dir)
        Postfix("mx1", only_rsa).check(frozenset({"rsa-2048"}))
        assert Postfix("mx1", only_rsa).advice(frozenset({"rsa-2048"})) == (
            (f"main.cf names {tls}/ecdsa.pem, which this entry does not look after", ""),
        )

    @pytest.mark.parametrize(
        "listed",
        ["{tls}/ecdsa.pem", "{tls}/old.pem, {tls}/ecdsa.pem", "{tls}/old.key, {tls}/old.crt", "/gone.pem", ""],
    )
    def test_an_installed_file_that_is_not_listed_is_reported_and_the_remedy_works(
        self, receiver: Receiver, postfix: Postfix, tls: Path, listed: str
    ) -> None:
        (tls / "old.pem").write_bytes(NEW_RSA.pem)
        (tls / "old.key").write_bytes(NEW_RSA.key)
        (tls / "old.crt").write_bytes(NEW_RSA.leaf)
        set_main(receiver, "smtpd_tls_chain_files", listed.format(tls=tls))
        error = wrong(postfix)
        assert f"main.cf: smtpd_tls_chain_files does not list {tls}/" in error.detail
        do_as_told(error.hint)
        postfix.check(BOTH)
        until(lambda: all_serve(OLD, OLD_RSA), 5, "both are served")

    def test_a_file_of_another_key_type_is_kept_by_the_remedy(
        self, receiver: Receiver, options: Options, tls: Path
    ) -> None:
        set_main(receiver, "smtpd_tls_chain_files", str(tls / "rsa.pem"))
        only_ecdsa = Postfix("mx1", Options({"ecdsa": (options.chain_files or {})["ecdsa"]}, options.config_dir))
        with pytest.raises(Misconfigured) as caught:
            only_ecdsa.check(frozenset({"ecdsa-p256"}))
        do_as_told(caught.value.hint)
        until(lambda: all_serve(OLD, OLD_RSA), 5, "both are served")

    @pytest.mark.parametrize("other", ["gone", "of the same algorithm"])
    def test_another_file_that_stops_all_tls_is_reported_and_the_remedy_works(
        self, receiver: Receiver, postfix: Postfix, tls: Path, other: str
    ) -> None:
        if other == "of the same algorithm":
            (tls / "other.pem").write_bytes(NEW.pem)
        set_main(receiver, "smtpd_tls_chain_files", f"{tls}/other.pem, {tls}/ecdsa.pem, {tls}/rsa.pem")
        receiver.reload()
        until(lambda: not any(spki in {OLD.spki, OLD_RSA.spki} for _, spki in spkis()), 5, "no TLS at all")
        error = wrong(postfix)
        assert f"lists {tls}/other.pem, " in error.detail
        do_as_told(error.hint)
        postfix.check(BOTH)
        until(lambda: all_serve(OLD, OLD_RSA), 5, "both are served")

    @pytest.mark.parametrize("gone", ["other.key", "other.crt"])
    def test_half_of_a_key_and_certificate_in_two_files_goes_with_the_other(
        self, receiver: Receiver, options: Options, tls: Path, gone: str
    ) -> None:
        (tls / "other.key").write_bytes(NEW_RSA.key)
        (tls / "other.crt").write_bytes(NEW_RSA.leaf)
        (tls / gone).unlink()
        set_main(receiver, "smtpd_tls_chain_files", f"{tls}/other.key, {tls}/other.crt, {tls}/ecdsa.pem")
        postfix = Postfix("mx1", Options({"ecdsa": (options.chain_files or {})["ecdsa"]}, options.config_dir))
        error = wrong(postfix, EC)
        assert f"lists {tls}/{gone}, which is missing: no TLS at all" in error.detail
        do_as_told(error.hint)
        postfix.check(EC)
        until(lambda: (25, OLD.spki) in spkis(), 5, "ours is served")

    def test_what_was_never_installed_is_listed_only_when_it_is_there(
        self, receiver: Receiver, postfix: Postfix, tls: Path
    ) -> None:
        (tls / "rsa.pem").unlink()
        set_main(receiver, "smtpd_tls_chain_files", str(tls / "ecdsa.pem"))
        receiver.reload()
        postfix.check(BOTH)
        with pytest.raises(Misconfigured, match=rf"does not list {tls}/rsa\.pem, which is installed") as caught:
            postfix.install({"ecdsa-p256": OLD.credential, "rsa-2048": NEW_RSA.credential})
        assert wrong(postfix).hint == caught.value.hint
        assert (25, OLD.spki) in spkis()
        do_as_told(caught.value.hint)
        postfix.install({"ecdsa-p256": OLD.credential, "rsa-2048": NEW_RSA.credential})
        until(lambda: all_serve(OLD, NEW_RSA), 5, "both are served")

    def test_the_file_in_use_before_stays_until_ours_is_there(
        self, receiver: Receiver, options: Options, tls: Path
    ) -> None:
        (tls / "ecdsa.pem").rename(tls / "before.pem")
        (tls / "rsa.pem").unlink()
        set_main(receiver, "smtpd_tls_chain_files", str(tls / "before.pem"))
        receiver.reload()
        postfix = Postfix("mx1", Options({"ecdsa": (options.chain_files or {})["ecdsa"]}, options.config_dir))
        postfix.check(frozenset({"ecdsa-p256"}))
        with pytest.raises(Misconfigured, match="a second key of the same algorithm") as caught:
            postfix.install({"ecdsa-p256": NEW.credential})
        do_as_told(caught.value.hint)
        until(lambda: (25, NEW.spki) in spkis(), 5, "the new key is served")
        postfix.check(frozenset({"ecdsa-p256"}))

    @pytest.mark.parametrize("before", ["{tls}/old.pem", "{tls}/old.key, {tls}/old.crt"])
    def test_the_command_for_later_works_once_the_file_is_there(
        self, receiver: Receiver, options: Options, tls: Path, before: str
    ) -> None:
        (tls / "ecdsa.pem").rename(tls / "old.pem")
        (tls / "old.key").write_bytes(OLD.key)
        (tls / "old.crt").write_bytes(OLD.leaf)
        set_main(receiver, "smtpd_tls_chain_files", f"{before.format(tls=tls)}, {tls}/rsa.pem")
        postfix = Postfix("mx1", Options({"ecdsa": (options.chain_files or {})["ecdsa"]}, options.config_dir))
        later = told(postfix, f"main.cf does not list {tls}/ecdsa.pem yet", EC)
        assert later.startswith("once it is there: postconf ")
        with pytest.raises(Misconfigured, match=rf"does not list {tls}/ecdsa\.pem, which is installed"):
            postfix.install({"ecdsa-p256": NEW.credential})
        do_as_told(later)
        postfix.check(EC)
        until(lambda: all_serve(NEW, OLD_RSA), 5, "the new key, and the one of another kind")

    def test_a_file_that_nothing_would_renew_is_reported(self, receiver: Receiver, postfix: Postfix, tls: Path) -> None:
        error = wrong(postfix, frozenset({"ecdsa-p256"}))
        assert f"lists {tls}/rsa.pem, which nothing renews" in error.detail
        do_as_told(error.hint)
        postfix.check(frozenset({"ecdsa-p256"}))

    @pytest.mark.parametrize("own", ["smtpd_tls_chain_files=/etc/own.pem", "smtpd_tls_chain_files="])
    def test_a_service_with_files_of_its_own_is_reported_and_the_remedy_works(
        self, receiver: Receiver, postfix: Postfix, options: Options, own: str
    ) -> None:
        override(receiver, own)
        error = wrong(postfix)
        assert f"{SUBMISSION}: smtpd_tls_chain_files does not list" in error.detail
        meant = Options(options.chain_files, options.config_dir, other_services=(SUBMISSION,))
        Postfix("mx1", meant).check(BOTH)
        do_as_told(error.hint)
        postfix.check(BOTH)

    def test_an_old_style_file_of_a_service_has_no_effect_and_is_reported(
        self, receiver: Receiver, postfix: Postfix
    ) -> None:
        override(receiver, "smtpd_tls_cert_file=/etc/own.pem")
        postfix.check(BOTH)
        do_as_told(told(postfix, f"{SUBMISSION}: smtpd_tls_chain_files disables smtpd_tls_cert_file"))
        assert "own.pem" not in (receiver.config_dir / "master.cf").read_text()
        postfix.reload()
        until(lambda: all_serve(OLD, OLD_RSA), 5, "every port serves our files")

    def test_hundreds_of_services_are_read_to_the_last_one(
        self, receiver: Receiver, postfix: Postfix, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [f"{MX1}:{port}" for port in range(20000, 20300)]
        options = [
            "syslog_name=postfix/customer",
            "smtpd_tls_security_level=encrypt",
            "smtpd_sasl_auth_enable=yes",
            "smtpd_client_restrictions=permit_sasl_authenticated,reject",
        ]
        lines = [f"{name} inet n - n - - smtpd{''.join(f' -o {option}' for option in options)}" for name in names]
        master = (receiver.config_dir / "master.cf").read_text()
        receiver.configure("master.cf", "\n".join([master, *lines, ""]))
        postfix.check(BOTH)
        receiver.configure("master.cf", "\n".join([master, *lines, "  -o smtpd_tls_chain_files=/etc/own.pem", ""]))
        assert f"{names[-1]}/inet: smtpd_tls_chain_files does not list" in wrong(postfix).detail
        monkeypatch.setattr(postconf, "_OUTPUT_LIMIT_BYTES", 64 << 10)
        assert "too long to be read" in wrong(postfix).detail

    @pytest.mark.parametrize("level", ["nonsense", "dane"])
    def test_a_level_that_kills_smtpd_is_reported(self, receiver: Receiver, postfix: Postfix, level: str) -> None:
        set_main(receiver, "smtpd_tls_security_level", level)
        assert f"main.cf: smtpd_tls_security_level = {level} is unknown" in wrong(postfix).detail
        set_main(receiver, "smtpd_tls_security_level", "may")
        override(receiver, f"smtpd_tls_security_level={level}")
        assert f"{SUBMISSION}: smtpd_tls_security_level = {level}" in wrong(postfix).detail

    @pytest.mark.parametrize("level", ["", "none"])
    def test_no_starttls_anywhere_is_reported_and_the_remedy_works(
        self, receiver: Receiver, postfix: Postfix, level: str
    ) -> None:
        set_main(receiver, "smtpd_tls_security_level", level)
        postfix.check(BOTH)  # submission still offers it
        text = (receiver.config_dir / "master.cf").read_text()
        text = text.replace("-o smtpd_tls_security_level=encrypt", "").replace("-o smtpd_tls_wrappermode=yes", "")
        receiver.configure("master.cf", text)
        error = wrong(postfix)
        assert "no service offers STARTTLS" in error.detail
        do_as_told(error.hint)
        postfix.check(BOTH)

    def test_the_old_style_switch_counts(self, receiver: Receiver, postfix: Postfix) -> None:
        set_main(receiver, "smtpd_tls_security_level", "")
        set_main(receiver, "smtpd_use_tls", "yes")
        receiver.configure("master.cf", (receiver.config_dir / "master.cf").read_text().replace("=encrypt", "=none"))
        postfix.check(BOTH)

    def test_a_configuration_that_postfix_refuses_is_reported(self, receiver: Receiver, postfix: Postfix) -> None:
        receiver.configure("main.cf", (receiver.config_dir / "main.cf").read_text() + "\n=x broken\n")
        assert wrong(postfix).hint.startswith("run: post")

    def test_an_instance_that_does_not_exist_is_reported(self, options: Options) -> None:
        wrong(Postfix("mx2", Options(options.chain_files, "/nonexistent")))

    def test_a_key_type_without_a_file_is_reported(self, options: Options, tls: Path) -> None:
        error = wrong(Postfix("mx1", Options({"ecdsa-p256": str(tls / "ecdsa.pem")}, options.config_dir)))
        assert "no file for rsa-2048" in error.detail

    def test_paths_are_absolute_and_of_one_use(self) -> None:
        for files in ({"rsa": "rsa.pem"}, {"rsa": "/a.pem", "ecdsa": "/a.pem"}):
            with pytest.raises(Misconfigured, match="relative or used twice"):
                Postfix("mx1", Options(files))

    def test_too_old_a_version_is_reported(self, postfix: Postfix, monkeypatch: pytest.MonkeyPatch) -> None:
        def answer(instance: Instance, *arguments: str) -> str:
            return version if "mail_version" in arguments else real(instance, *arguments)

        real = Instance.postconf
        monkeypatch.setattr(Instance, "postconf", answer)
        version = "3.12-20260101"
        postfix.check(BOTH)
        for version in ("3.3.22", "2.11.0", "", "x"):
            error = wrong(postfix)
            assert f"its version is {version or 'unknown'}," in error.detail
            assert "cert_files in place of chain_files" in error.hint


class TestInstall:
    def test_every_port_serves_both_new_keys_after_the_reload(
        self, receiver: Receiver, postfix: Postfix, tls: Path
    ) -> None:
        assert spkis() == everywhere(OLD, OLD_RSA)
        postfix.install({"ecdsa-p256": NEW.credential, "rsa-2048": NEW_RSA.credential})
        assert postfix.installed() == {"ecdsa-p256": NEW.der, "rsa-2048": NEW_RSA.der}
        assert [path.stat().st_mode & 0o777 for path in sorted(tls.iterdir())] == [0o600, 0o600]
        postfix.reload()
        until(lambda: all_serve(NEW, NEW_RSA), 5, "every port serves the new keys")

    def test_the_whole_chain_is_served(self, receiver: Receiver) -> None:
        issuers = {one.chain.issuers for one in seen() if not isinstance(one.chain, Unknown)}
        assert issuers == {(OLD.issuer_spki,), (OLD_RSA.issuer_spki,)}

    def test_one_key_type_is_replaced_beside_the_other(self, postfix: Postfix) -> None:
        postfix.install({"rsa-2048": NEW_RSA.credential})
        postfix.reload()
        until(lambda: all_serve(OLD, NEW_RSA), 5, "every port serves one new key")

    @pytest.mark.parametrize(
        "broken",
        [b"", NEW.leaf + NEW.key + NEW.issuer, NEW.key + OLD.leaf + OLD.issuer, NEW.pem[:-30], NEW.pem[:300]],
        ids=["empty", "leaf before key", "key of another", "truncated at the end", "truncated"],
    )
    def test_a_broken_file_is_refused_and_every_old_one_stays(self, postfix: Postfix, tls: Path, broken: bytes) -> None:
        with pytest.raises(Unsafe, match=r"mta\.pem"):
            postfix.install({"rsa-2048": NEW_RSA.credential, "ecdsa-p256": chains.text(broken)})
        assert sorted(path.name for path in tls.iterdir()) == ["ecdsa.pem", "rsa.pem"]
        assert (tls / "ecdsa.pem").read_bytes() == OLD.pem
        assert (tls / "rsa.pem").read_bytes() == OLD_RSA.pem
        until(lambda: spkis() == everywhere(OLD, OLD_RSA), 5, f"the old keys; served: {spkis()}")

    def test_a_full_disk_leaves_the_old_file(self, postfix: Postfix, tls: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=755", "small", tls], check=True)
        try:
            postfix.install({"ecdsa-p256": OLD.credential})
            (tls / "ballast").write_bytes(b"x" * (3 * 4096))
            with pytest.raises(Transient, match=r"No space left on device \[mta\.disk\]"):
                postfix.install({"ecdsa-p256": NEW.credential})
            assert sorted(path.name for path in tls.iterdir()) == ["ballast", "ecdsa.pem"]
            assert (tls / "ecdsa.pem").read_bytes() == OLD.pem
            (tls / "ballast").unlink()
            subprocess.run(["mount", "-o", "remount,ro", tls], check=True)
            with pytest.raises(Transient, match=r"Read-only file system \[mta\.disk\]"):
                postfix.install({"ecdsa-p256": NEW.credential})
            subprocess.run(["mount", "-o", "remount,rw", tls], check=True)
            postfix.install({"ecdsa-p256": NEW.credential})
            assert (tls / "ecdsa.pem").read_bytes() == NEW.pem
        finally:
            subprocess.run(["umount", tls], check=True)

    def test_a_file_made_unreadable_by_another_process_is_reported_and_left(self, postfix: Postfix, tls: Path) -> None:
        for change in (["chmod", "0"], ["chown", "mail:mail"]):
            subprocess.run([*change, tls / "ecdsa.pem"], check=True)
            with pytest.raises(Misconfigured, match=r"ecdsa\.pem.*\[mta\.files\]"):
                postfix.install({"ecdsa-p256": NEW.credential})
            with pytest.raises(Misconfigured, match=r"ecdsa\.pem.*\[mta\.files\]") as caught:
                postfix.check(BOTH)
            assert (tls / "ecdsa.pem").read_bytes() == OLD.pem
            command = caught.value.hint.removeprefix("run: ")
            subprocess.run(["sh", "-ec", command], check=True, stdin=subprocess.DEVNULL)
            postfix.check(BOTH)

    def test_a_file_with_another_key_type_counts_as_missing(self, postfix: Postfix, tls: Path) -> None:
        (tls / "ecdsa.pem").write_bytes(OLD_RSA.pem)
        assert postfix.installed() == {"rsa-2048": OLD_RSA.der}
        (tls / "rsa.pem").unlink()
        assert postfix.installed() == {}


class TestReload:
    def test_a_stopped_postfix_is_down(self, receiver: Receiver, postfix: Postfix) -> None:
        receiver.stop()
        with pytest.raises(Transient, match=r"not running \[mta\.down\]") as caught:
            postfix.reload()
        assert caught.value.hint == f"run: postfix -c {shlex.quote(str(receiver.config_dir))} start"

    def test_a_broken_configuration_cannot_be_reloaded(self, receiver: Receiver, postfix: Postfix) -> None:
        sound = (receiver.config_dir / "main.cf").read_text()
        receiver.configure("main.cf", sound + "\n=x broken\n")
        with pytest.raises(Transient, match=r"cannot reload: .* \[mta\.reload\]"):
            postfix.reload()
        receiver.configure("main.cf", sound)
        postfix.reload()


class TestProbe:
    def test_broken_tls_is_reported_in_the_words_of_postfix(self, receiver: Receiver, tls: Path) -> None:
        for path in tls.iterdir():
            path.write_bytes(b"")
        receiver.reload()
        served = until(
            lambda: [one for one in seen() if one.port == 25 and isinstance(one.chain, Unknown)], 5, "broken"
        )
        for one in served:
            assert isinstance(one.chain, Unknown)
            assert "454 4.7.0 TLS not available due to local problem" in one.chain.why
            assert one.chain.reached

    def test_a_dead_smtpd_is_given_up(self, receiver: Receiver) -> None:
        set_main(receiver, "smtpd_tls_security_level", "nonsense")
        receiver.reload()
        silent = Unknown("no answer within 0.5 s")
        until(lambda: handshake.probe(SERVICES[0], MX1, "rsa-2048", 0.5).chain == silent, 5, "it is given up")

    def test_nobody_there(self, receiver: Receiver) -> None:
        assert handshake.probe(SERVICES[0], SPARE, "rsa-2048", 2).chain == Unknown("Connection refused")

    def test_the_log_shows_no_lost_connection(self, receiver: Receiver) -> None:
        for key_type in sorted(BOTH):
            handshake.probe(SERVICES[0], MX1, key_type, 5)
        until(lambda: receiver.log.count("ehlo=1 starttls=1 quit=1") == 2, 5, "both were left politely")
        assert re.findall("lost connection after (?!CONNECT)", receiver.log) == []  # the lab's own, at the start
