"""The real Postfix with certificate and key named apart, with services that differ, and with several instances."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from certagent.errors import Misconfigured
from certagent.mta.files import Files
from certagent.mta.postfix.postconf import Instance
from certagent.mta.postfix.server import Options, Postfix
from tests.e2e.postfixes import (
    BOTH,
    HOST,
    SUBMISSION,
    do_as_told,
    met,
    override,
    private,
    served,
    set_main,
    told,
    wrong,
)
from tests.e2e.test_postfix import NEW, NEW_RSA, OLD, OLD_RSA, all_serve
from tests.lab.addresses import MX1, MX2
from tests.lab.postfix import Receiver
from tests.lab.wait import until
from tests.mta import chains

PEMS = {"ecdsa-p256": NEW.credential, "rsa-2048": NEW_RSA.credential}
OTHER, OTHER_RSA = chains.make(name="other.example"), chains.make("rsa-2048", "other.example")
SLOTS = {"rsa": "", "ecdsa": "ec"}


@pytest.fixture
def tls(place: Path) -> Path:
    """The directory of the files, with the old ones."""
    directory = place / "tls"
    directory.mkdir(mode=0o755)
    for kind, chain in (("ecdsa", OLD), ("rsa", OLD_RSA)):
        private(directory / f"{kind}.key", chain.key)
        (directory / f"{kind}.crt").write_bytes(chain.leaf + chain.issuer)
    return directory


@pytest.fixture
def receiver(place: Path, tls: Path) -> Iterator[Receiver]:
    """Postfix with both key types, each in two files, started."""
    receiver = Receiver(place / "mx1", chain_files=[])
    files = {
        f"smtpd_tls_{prefix}{role}_file": str(tls / f"{kind}.{end}")
        for kind, prefix in SLOTS.items()
        for role, end in (("cert", "crt"), ("key", "key"))
    }
    receiver.start(files)
    yield receiver
    receiver.stop()


@pytest.fixture
def options(receiver: Receiver, tls: Path) -> Options:
    files: dict[str, str | Files] = {
        kind: Files(fullchain=str(tls / f"{kind}.crt"), key=str(tls / f"{kind}.key")) for kind in SLOTS
    }
    return Options(cert_files=files, config_dir=str(receiver.config_dir))


@pytest.fixture
def postfix(options: Options) -> Postfix:
    return Postfix("mx1", options)


class TestTwoFiles:
    def test_pairs_of_both_kinds_are_swapped_and_put_back(
        self, receiver: Receiver, postfix: Postfix, tls: Path
    ) -> None:
        postfix.check(BOTH)
        assert all_serve(OLD, OLD_RSA)
        saved, before = postfix.saved(), {path: path.read_bytes() for path in tls.iterdir()}
        postfix.install(PEMS)
        postfix.check(BOTH)
        assert postfix.installed() == {"ecdsa-p256": NEW.der, "rsa-2048": NEW_RSA.der}
        postfix.reload()
        until(lambda: all_serve(NEW, NEW_RSA), 5, "every port serves the new keys")
        postfix.restore(saved)
        assert {path: path.read_bytes() for path in tls.iterdir()} == before
        postfix.reload()
        until(lambda: all_serve(OLD, OLD_RSA), 5, "every port serves the old keys")

    def test_the_change_to_chain_files_is_offered_and_works(
        self, receiver: Receiver, postfix: Postfix, tls: Path
    ) -> None:
        override(receiver, f"smtpd_tls_eccert_file={tls}/ecdsa.crt -o smtpd_tls_eckey_file={tls}/ecdsa.key")
        do_as_told(told(postfix, "certificate and key are two files, which no rename replaces together"))
        files = {kind: str(receiver.config_dir / "tls" / f"{kind}.pem") for kind in SLOTS}
        changed = Postfix("mx1", Options(files, str(receiver.config_dir)))
        changed.check(BOTH)
        assert changed.advice(BOTH) == ()
        assert "cert_file" not in (receiver.config_dir / "main.cf").read_text()
        until(lambda: all_serve(OLD, OLD_RSA), 5, "the same keys")
        changed.install(PEMS)
        changed.reload()
        until(lambda: all_serve(NEW, NEW_RSA), 5, "the new keys")

    def test_one_file_that_both_settings_name_is_no_pair(self, receiver: Receiver, tls: Path) -> None:
        """smtpd_tls_key_file is smtpd_tls_cert_file where it is not set; an ECDSA key may stand there as well."""
        both = private(tls / "both.pem", OLD.pem)
        text = (
            (receiver.config_dir / "main.cf").read_text().replace(f"cert_file = {tls}/rsa.crt", f"cert_file = {both}")
        )
        text = "".join(line for line in text.splitlines(keepends=True) if "key" not in line and "eccert" not in line)
        receiver.configure("main.cf", text)
        postfix = Postfix("mx1", Options(cert_files={"ecdsa": str(both)}, config_dir=str(receiver.config_dir)))
        only = frozenset({"ecdsa-p256"})
        postfix.check(only)
        assert postfix.advice(only) == ()
        postfix.install({"ecdsa-p256": PEMS["ecdsa-p256"]})
        postfix.reload()
        until(lambda: served([None], NEW), 5, "the new key")

    def test_chain_files_that_disable_them_are_reported_and_the_remedy_works(
        self, receiver: Receiver, postfix: Postfix, tls: Path
    ) -> None:
        set_main(receiver, "smtpd_tls_chain_files", str(private(tls / "other.pem", OTHER.pem)))
        receiver.reload()
        until(lambda: served([None], OTHER), 5, "the other key")
        error = wrong(postfix)
        assert f"main.cf: smtpd_tls_chain_files = {tls}/other.pem disables smtpd_tls_cert_file" in error.detail
        do_as_told(error.hint)
        postfix.check(BOTH)
        until(lambda: all_serve(OLD, OLD_RSA), 5, "ours")

    @pytest.mark.parametrize(
        ("setting", "value", "why"),
        [
            ("smtpd_tls_cert_file", "{tls}/other.pem", "does not name {tls}/rsa.crt with the key {tls}/rsa.key"),
            ("smtpd_tls_dcert_file", "{tls}/other-rsa.pem", "a second certificate of the same algorithm"),
            ("smtpd_tls_dcert_file", "{tls}/gone.pem", "which is missing: no TLS at all"),
            ("smtpd_tls_key_file", "{tls}/other.pem", "does not name {tls}/rsa.crt with the key {tls}/rsa.key"),
        ],
    )
    def test_what_stops_our_files_is_reported_and_the_remedy_works(
        self, receiver: Receiver, postfix: Postfix, tls: Path, setting: str, value: str, why: str
    ) -> None:
        private(tls / "other.pem", OTHER.pem)
        private(tls / "other-rsa.pem", OTHER_RSA.pem)
        set_main(receiver, setting, value.format(tls=tls))
        receiver.reload()
        until(lambda: not all_serve(OLD, OLD_RSA), 5, "the damage")
        error = wrong(postfix)
        assert why.format(tls=tls) in error.detail
        do_as_told(error.hint)
        postfix.check(BOTH)
        until(lambda: all_serve(OLD, OLD_RSA), 5, "ours")

    def test_a_pair_that_nothing_renews_is_reported(self, postfix: Postfix, receiver: Receiver) -> None:
        only = frozenset({"ecdsa-p256"})
        error = wrong(postfix, only)
        assert "which nothing renews" in error.detail
        do_as_told(error.hint)
        postfix.check(only)
        until(lambda: served([None], OLD), 5, "the key that is renewed")

    def test_a_service_with_a_pair_of_its_own_is_reported_and_the_remedy_works(
        self, receiver: Receiver, options: Options, tls: Path
    ) -> None:
        private(tls / "other.pem", OTHER.pem)
        override(receiver, f"smtpd_tls_eccert_file={tls}/other.pem -o smtpd_tls_eckey_file={tls}/other.pem")
        error = wrong(Postfix("mx1", options))
        assert f"{SUBMISSION}: smtpd_tls_eccert_file does not name {tls}/ecdsa.crt" in error.detail
        meant = Postfix("mx1", Options(None, options.config_dir, (SUBMISSION,), options.cert_files))
        meant.check(BOTH)
        assert told(meant, f"{SUBMISSION} names {tls}/other.pem, which this entry does not look after") == ""
        receiver.reload()
        until(lambda: met(port=587) == OTHER.der, 5, "its own")
        do_as_told(error.hint)
        Postfix("mx1", options).check(BOTH)
        until(lambda: all_serve(OLD, OLD_RSA), 5, "ours")

    def test_an_old_version_takes_only_them(
        self, postfix: Postfix, options: Options, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not on a real one: only its version is told as older."""

        def answer(instance: Instance, *arguments: str) -> str:
            return "3.3.22" if "mail_version" in arguments else real(instance, *arguments)

        real = Instance.postconf
        monkeypatch.setattr(Instance, "postconf", answer)
        postfix.check(BOTH)
        assert "upgrade it to 3.4" in told(postfix, "Postfix 3.3.22 opens the file of a key apart")

    def test_one_way_is_chosen_and_it_is_one_that_postfix_has(self) -> None:
        parts = Files(cert="/a.crt", chain="/a.issuers", key="/a.key")
        for options, why in (
            (Options(), "one of chain_files and cert_files must be there"),
            (Options({"rsa": "/a.pem"}, cert_files={"rsa": "/b.pem"}), "one of chain_files and cert_files"),
            (Options(cert_files={"rsa": parts}), "Postfix reads leaf and issuers from one file"),
        ):
            with pytest.raises(Misconfigured, match=why):
                Postfix("postfix", options)


class TestServices:
    def test_postscreen_serves_what_tlsproxy_was_reported(self, receiver: Receiver, tls: Path) -> None:
        chain, other = private(tls / "ecdsa.pem", OLD.pem), private(tls / "other.pem", OTHER.pem)
        set_main(receiver, "smtpd_tls_chain_files", str(chain))
        set_main(receiver, "tlsproxy_tls_chain_files", str(other))
        for name, value in (("greet_wait", "1s"), ("pipelining_enable", "yes"), ("cache_map", ""), ("access_list", "")):
            set_main(receiver, f"postscreen_{name}", value)
        set_main(receiver, "inet_interfaces", f"{MX1}, {MX2}")
        master = (receiver.config_dir / "master.cf").read_text()
        more = [f"{MX2}:25 inet n - n - 1 postscreen", "smtpd pass - - n - - smtpd", "tlsproxy unix - - n - 0 tlsproxy"]
        receiver.configure("master.cf", "\n".join([master, *more, "dnsblog unix - - n - 0 dnsblog", ""]))
        receiver.stop()
        receiver.restart()
        postfix = Postfix("postfix", Options({"ecdsa": str(chain)}, str(receiver.config_dir)))
        only = frozenset({"ecdsa-p256"})
        assert met(address=MX2) == OTHER.der
        error = wrong(postfix, only)
        assert error.detail.startswith("postfix: main.cf: tlsproxy_tls_chain_files does not list")
        do_as_told(error.hint)
        postfix.check(only)
        until(lambda: met(address=MX2) == OLD.der, 10, "postscreen serves ours")

    @pytest.mark.parametrize("name", ["postscreen", "tlsproxy"])
    def test_a_level_that_kills_another_daemon_is_reported(
        self, receiver: Receiver, postfix: Postfix, name: str
    ) -> None:
        set_main(receiver, f"{name}_tls_security_level", "nonsense")
        assert f"main.cf: {name}_tls_security_level = nonsense is unknown: {name} dies of it" in wrong(postfix).detail


def test_only_the_instance_in_question_is_reloaded(place: Path) -> None:
    chain, other = private(place / "chain.pem", OLD.pem), private(place / "other.pem", OTHER.pem)
    one = Receiver(place / "mx1", chain_files=[chain])
    two = Receiver(place / "mx2", "mx2", chain_files=[other], addresses=[MX2])
    try:
        one.start()
        two.start()
        postfix = Postfix("postfix-out", Options({"ecdsa": str(other)}, str(two.config_dir)))
        postfix.check(frozenset({"ecdsa-p256"}))
        postfix.install({"ecdsa-p256": NEW.credential})
        postfix.reload()
        until(lambda: met(HOST, address=MX2) == NEW.der, 5, "the new key")
        assert met(HOST) == OLD.der
        assert "reload -- version" in two.log
        assert "reload -- version" not in one.log
    finally:
        one.stop()
        two.stop()
