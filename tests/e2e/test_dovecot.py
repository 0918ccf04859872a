"""The real Dovecot, 2.3 and 2.4: what `check` finds, and that what was installed and reloaded is what clients meet."""

from __future__ import annotations

import re
import shlex
import socket
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from certagent.errors import Misconfigured, Transient, Unsafe
from certagent.facts.unknown import Unknown
from certagent.host.programs import Result
from certagent.mta.dovecot import doveconf
from certagent.mta.dovecot.doveconf import Doveconf
from certagent.mta.dovecot.server import Dovecot, Options
from certagent.mta.files import Files
from certagent.probe import handshake
from tests.e2e.dovecots import (
    BOTH,
    ECDSA,
    NEW,
    NEW_PEMS,
    NEW_RSA,
    OLD,
    OLD_RSA,
    SERVICES,
    B,
    do_as_told,
    dovecot,
    everywhere,
    imap,
    keys_of,
    options,
    served,
    tls,
    version,
    write,
    wrong,
)
from tests.lab import dovecot as lab
from tests.lab.addresses import IMAP, ZONE
from tests.lab.wait import until
from tests.mta import chains

__all__ = ["dovecot", "imap", "options", "tls", "version"]  # fixtures


class TestCheck:
    def test_a_sound_configuration_passes(self, imap: lab.Dovecot, dovecot: Dovecot) -> None:
        dovecot.check(BOTH)
        assert dovecot.advice(BOTH) == ()
        imap.stop()
        dovecot.check(BOTH)

    @pytest.mark.parametrize(
        "named",
        [("", ""), ("ecdsa", ""), ("other", "rsa"), ("other-rsa", "ecdsa"), ("other-rsa", "other")],
        ids=["nothing", "one", "another", "other kind first", "both others"],
    )
    def test_an_installed_file_that_is_not_named_is_reported_and_the_remedy_works(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path, named: tuple[str, str]
    ) -> None:
        main, alternative = (
            imap.pair(tls / f"{n}.pem", a) if n else "" for n, a in zip(named, ("", "alt_"), strict=True)
        )
        imap.configure(main + alternative)
        error = wrong(lambda: dovecot.check(BOTH))
        assert f"the top level does not name {tls}/" in error.detail
        do_as_told(error.hint)
        dovecot.check(BOTH)
        until(lambda: everywhere() == keys_of(OLD, OLD_RSA), 5, "both are served")

    def test_a_key_of_another_file_is_reported_and_the_remedy_works(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path
    ) -> None:
        imap.configure(
            imap.setting("cert", tls / "ecdsa.pem")
            + imap.setting("key", tls / "other.pem")
            + imap.pair(tls / "rsa.pem", "alt_")
        )
        error = wrong(lambda: dovecot.check(BOTH))
        assert f"names {tls}/ecdsa.pem with the key {tls}/other.pem" in error.detail
        do_as_told(error.hint)
        dovecot.check(BOTH)

    def test_a_second_certificate_of_the_same_kind_is_reported_and_the_remedy_works(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path
    ) -> None:
        imap.configure(imap.pair(tls / "ecdsa.pem") + imap.pair(tls / "other.pem", "alt_"))
        dovecot.reload()
        until(lambda: served("ecdsa-p256") not in {OLD.spki, ""}, 5, "the other one is served")
        error = wrong(lambda: dovecot.check(ECDSA))
        assert f"it names {tls}/other.pem, another certificate of the same algorithm" in f"it {error.detail}".replace(
            "level", "it"
        )
        do_as_told(error.hint)
        dovecot.check(ECDSA)
        until(lambda: served("ecdsa-p256") == OLD.spki, 5, "ours is served")

    def test_a_file_that_nothing_would_renew_is_reported_and_the_remedy_works(
        self, dovecot: Dovecot, tls: Path
    ) -> None:
        error = wrong(lambda: dovecot.check(ECDSA))
        assert f"names {tls}/rsa.pem, which nothing renews" in error.detail
        do_as_told(error.hint)
        dovecot.check(ECDSA)
        until(lambda: served("rsa-2048") != OLD_RSA.spki, 5, "RSA is no longer served")
        until(lambda: served("ecdsa-p256") == OLD.spki, 5, "ECDSA still is")

    def test_a_file_of_somebody_else_with_another_key_type_is_left_alone_and_noted(
        self, imap: lab.Dovecot, options: Options, tls: Path
    ) -> None:
        only_ecdsa = Dovecot("imap", Options(files={"ecdsa": options.files["ecdsa"]}, config=options.config))
        only_ecdsa.check(ECDSA)
        [(what, _)] = only_ecdsa.advice(ECDSA)
        assert what == f"the top level names {tls}/rsa.pem, which is not renewed here"

    def test_what_was_never_installed_is_to_be_named_when_it_is_there(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path
    ) -> None:
        (tls / "ecdsa.pem").unlink()
        (tls / "rsa.pem").unlink()
        imap.configure(imap.pair(tls / "other.pem"))
        dovecot.reload()
        dovecot.check(BOTH)
        [(what, command), _] = dovecot.advice(BOTH)
        assert f"does not name {tls}/ecdsa.pem, {tls}/rsa.pem yet" in what
        error = wrong(lambda: dovecot.install(NEW_PEMS))
        assert error.hint == command
        do_as_told(command)
        dovecot.check(BOTH)
        until(lambda: everywhere() == keys_of(NEW, NEW_RSA), 5, "both are served")

    def test_a_file_that_is_named_already_may_come_with_the_first_run(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path
    ) -> None:
        imap.stop()
        (tls / "rsa.pem").unlink()
        with pytest.raises(RuntimeError, match="No such file"):
            imap.start()
        dovecot.check(BOTH)
        [(what, _)] = dovecot.advice(BOTH)
        assert f"names {tls}/rsa.pem, which the first run installs; until then Dovecot does not start" in what
        dovecot.install(NEW_PEMS)
        imap.start()
        assert everywhere() == keys_of(NEW, NEW_RSA)

    def test_a_missing_file_of_somebody_else_is_reported(self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path) -> None:
        (tls / "gone.pem").unlink(missing_ok=True)
        imap.add(f"local_name {B} {{\n{imap.pair(tls / 'gone.pem')}}}\n")
        error = wrong(lambda: dovecot.check(BOTH))
        assert f"local_name {B}: " in error.detail
        assert f"names {tls}/gone.pem, which is missing: Dovecot does not start" in error.detail

    def test_a_missing_file_beside_ours_is_reported_and_the_remedy_works(
        self, imap: lab.Dovecot, options: Options, tls: Path
    ) -> None:
        only_ecdsa = Dovecot("imap", Options(files={"ecdsa": options.files["ecdsa"]}, config=options.config))
        (tls / "rsa.pem").unlink()
        error = wrong(lambda: only_ecdsa.check(ECDSA))
        assert f"names {tls}/rsa.pem, which is missing" in error.detail
        do_as_told(error.hint)
        only_ecdsa.check(ECDSA)

    def test_a_protocol_with_files_of_its_own_is_reported_and_the_remedy_works(
        self, imap: lab.Dovecot, dovecot: Dovecot, options: Options, tls: Path
    ) -> None:
        imap.add(f"protocol pop3 {{\n{imap.pair(tls / 'other.pem')}}}\n")
        error = wrong(lambda: dovecot.check(BOTH))
        assert f"protocol pop3 does not name {tls}/ecdsa.pem" in error.detail
        meant = Options(files=options.files, config=options.config, other_blocks=("protocol pop3",))
        Dovecot("imap", meant).check(BOTH)
        do_as_told(error.hint)
        dovecot.check(BOTH)
        until(lambda: everywhere() == keys_of(OLD, OLD_RSA), 5, "every port serves ours")

    def test_a_block_in_a_block_is_reported_and_the_remedy_works(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path
    ) -> None:
        imap.add(f"local {IMAP} {{\n protocol imap {{\n{imap.pair(tls / 'other.pem')}}}\n}}\n")
        dovecot.reload()
        until(lambda: served("ecdsa-p256") != OLD.spki, 5, "another one is served")
        error = wrong(lambda: dovecot.check(BOTH))
        assert f"local {IMAP} / protocol imap does not name" in error.detail
        do_as_told(error.hint)
        dovecot.check(BOTH)
        until(lambda: everywhere() == keys_of(OLD, OLD_RSA), 5, "every port serves ours")

    def test_no_tls_at_all_is_reported_and_the_remedy_works(self, imap: lab.Dovecot, dovecot: Dovecot) -> None:
        imap.add("ssl = no")  # without the end of the line
        dovecot.reload()
        until(lambda: served("ecdsa-p256") == "Connection refused", 5, "no TLS")
        error = wrong(lambda: dovecot.check(BOTH))
        do_as_told(error.hint)
        dovecot.check(BOTH)
        until(lambda: everywhere() == keys_of(OLD, OLD_RSA), 5, "TLS is back")

    def test_a_configuration_that_dovecot_refuses_is_reported_without_what_it_holds(
        self, imap: lab.Dovecot, dovecot: Dovecot
    ) -> None:
        imap.add("doveadm_password = geheim\nnonsense = yes\n")
        error = wrong(lambda: dovecot.check(BOTH))
        assert "Unknown setting: nonsense" in error.detail
        assert "geheim" not in repr(error)

    def test_a_key_in_the_configuration_itself_is_never_shown(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path
    ) -> None:
        key = f"ssl_key = {OLD.key.decode().splitlines()[1]}\n"
        imap.configure(imap.setting("cert", tls / "ecdsa.pem") + imap.pair(tls / "rsa.pem", "alt_"))
        imap.add(key if imap.version == "2.3" else key.replace("ssl_key", "ssl_server_key_file"))
        error = wrong(lambda: dovecot.check(BOTH))
        assert "with the key (a value that is no absolute path)" in error.detail
        assert OLD.key.decode().splitlines()[1][:10] not in repr(error)

    def test_the_sign_of_the_other_version_is_reported_and_the_remedy_works(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path
    ) -> None:
        """2.3 takes a path without `<` for the certificate itself, and 2.4 one with it."""
        sign = ("= <", "= ") if imap.version == "2.3" else ("= ", "= <")
        imap.configure(imap.pair(tls / "ecdsa.pem").replace(*sign) + imap.pair(tls / "rsa.pem", "alt_"))
        error = wrong(lambda: dovecot.check(BOTH))
        assert "names (a value that is no absolute path)" in error.detail
        do_as_told(error.hint)
        dovecot.check(BOTH)
        until(lambda: everywhere() == keys_of(OLD, OLD_RSA), 5, "both are served")

    def test_a_key_that_dovecot_itself_quotes_is_never_shown(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path
    ) -> None:
        """2.4 takes `<` before the path for: what is in that file; and tells, in full, that there is no such file."""
        if imap.version == "2.3":
            pytest.skip("2.3 does not")
        imap.add(f"local_name {B} {{\n{imap.pair(tls / 'other.pem').replace('= ', '= <')}}}\n")
        with pytest.raises(Transient, match=r"mta\.reload") as caught:
            dovecot.reload()
        error = wrong(lambda: dovecot.check(BOTH))
        for one in (error, caught.value):
            assert re.search(r"dovecot\.conf line \d+: ssl_server_cert_file$", one.detail)
            assert "PRIVATE" not in repr(one)

    def test_files_that_dovecot_cannot_read_are_refused(self, tls: Path) -> None:
        for files in (Files(cert="/c", chain="/b", key="/k"), Files(pkcs12="/p", password_file="/w")):
            assert "Dovecot wants" in wrong(lambda files=files: Dovecot("imap", Options(files={"rsa": files}))).detail

    def test_files_that_nobody_would_be_served_are_refused(self, tls: Path) -> None:
        options = Options(files={"rsa": f"{tls}/rsa.pem"}, top_level=False)
        assert "served to nobody" in wrong(lambda: Dovecot("imap", options)).detail

    def test_a_configuration_that_is_too_long_to_be_read_is_never_taken_for_sound(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        block = imap.pair(tls / "other.pem")
        imap.add("".join(f"local_name {n}.{ZONE} {{\n{block}}}\n" for n in range(600)))
        dovecot.check(BOTH)
        monkeypatch.setattr(doveconf, "_OUTPUT_LIMIT_BYTES", 64 << 10)
        assert "too long to be read" in wrong(lambda: dovecot.check(BOTH)).detail

    def test_too_old_a_version_is_reported(self, dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch) -> None:
        def answer(conf: Doveconf, name: str, *arguments: str) -> Result:
            return Result(0, f"{said}\n", "") if name == "dovecot" else real(conf, name, *arguments)

        real = Doveconf.run
        monkeypatch.setattr(Doveconf, "run", answer)
        for said in ("2.2.36 (1f10bfa63)", "1.2", "", "x"):
            assert f"its version is {said or 'unknown'};" in wrong(lambda: dovecot.check(BOTH)).detail


class TestInstall:
    def test_the_new_keys_are_served_after_the_reload_and_not_before(self, dovecot: Dovecot, tls: Path) -> None:
        assert everywhere() == keys_of(OLD, OLD_RSA)
        dovecot.install(NEW_PEMS)
        assert dovecot.installed() == {"ecdsa-p256": NEW.der, "rsa-2048": NEW_RSA.der}
        assert [(tls / name).stat().st_mode & 0o777 for name in ("ecdsa.pem", "rsa.pem")] == [0o600, 0o600]
        assert everywhere() == keys_of(OLD, OLD_RSA)
        dovecot.reload()
        until(lambda: everywhere() == keys_of(NEW, NEW_RSA), 5, "every port serves the new keys")

    def test_the_whole_chain_is_served(self, imap: lab.Dovecot) -> None:
        leaf = handshake.probe(SERVICES[143], IMAP, "ecdsa-p256", 5).chain
        assert not isinstance(leaf, Unknown)
        assert leaf.issuers == (OLD.issuer_spki,)

    def test_what_was_saved_is_put_back_and_served_again(self, dovecot: Dovecot, tls: Path) -> None:
        saved = dovecot.saved()
        dovecot.install(NEW_PEMS)
        dovecot.reload()
        until(lambda: everywhere() == keys_of(NEW, NEW_RSA), 5, "the new keys are served")
        dovecot.restore(saved)
        dovecot.reload()
        until(lambda: everywhere() == keys_of(OLD, OLD_RSA), 5, "the old keys are served again")
        assert (tls / "rsa.pem").read_bytes() == OLD_RSA.pem

    def test_a_key_in_a_file_of_its_own_is_served(self, imap: lab.Dovecot, tls: Path) -> None:
        files = {k: Files(fullchain=f"{tls}/{k}-chain.pem", key=f"{tls}/{k}.key") for k in ("ecdsa", "rsa")}
        split = Dovecot("imap", Options(files={**files}, config=str(imap.config)))
        do_as_told(wrong(lambda: split.install(NEW_PEMS)).hint)
        split.check(BOTH)
        until(lambda: everywhere() == keys_of(NEW, NEW_RSA), 5, "both are served")

    def test_a_broken_file_is_refused_and_every_old_one_stays(self, dovecot: Dovecot, tls: Path) -> None:
        with pytest.raises(Unsafe, match=r"mta\.pem"):
            dovecot.install({"rsa-2048": NEW_RSA.credential, "ecdsa-p256": chains.paired(NEW, OLD)})
        assert (tls / "ecdsa.pem").read_bytes() == OLD.pem
        assert (tls / "rsa.pem").read_bytes() == OLD_RSA.pem
        dovecot.reload()
        until(lambda: everywhere() == keys_of(OLD, OLD_RSA), 5, "the old keys are served")

    def test_a_full_disk_leaves_what_is_served(self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "small", tls], check=True)
        try:
            write(tls / "ecdsa.pem", OLD.pem)
            write(tls / "rsa.pem", OLD_RSA.pem)
            with suppress(OSError), (tls / "ballast").open("wb", buffering=0) as ballast:
                while ballast.write(b"x" * 4096):
                    pass
            with pytest.raises(Transient, match=r"No space left on device \[mta\.disk\]"):
                dovecot.install(NEW_PEMS)
            dovecot.check(BOTH)
            dovecot.reload()
            until(lambda: everywhere() == keys_of(OLD, OLD_RSA), 5, "the old keys are served")
        finally:
            subprocess.run(["umount", tls], check=True)

    def test_a_file_whose_mode_another_process_changed_is_reported(self, dovecot: Dovecot, tls: Path) -> None:
        (tls / "ecdsa.pem").chmod(0o644)
        with pytest.raises(Misconfigured, match=r"\[mta\.files\]") as caught:
            dovecot.check(BOTH)
        do_as_told(caught.value.hint.partition(" #")[0])
        dovecot.check(BOTH)


class TestReload:
    def test_a_stopped_dovecot_is_down_and_nobody_else_is_signalled(self, imap: lab.Dovecot, dovecot: Dovecot) -> None:
        imap.stop()
        with pytest.raises(Transient, match=r"not running \[mta\.down\]") as caught:
            dovecot.reload()
        assert caught.value.hint == f"run: dovecot -c {shlex.quote(str(imap.config))}"
        with subprocess.Popen(["sleep", "60"]) as innocent:  # has the number of the old Dovecot
            imap.pid_file.write_text(f"{innocent.pid}\n")
            with pytest.raises(Transient, match=r"not running \[mta\.down\]"):
                dovecot.reload()
            assert innocent.poll() is None
            innocent.kill()
        imap.pid_file.unlink()

    @pytest.mark.parametrize("broken", ["nonsense", "missing", "unreadable"])
    def test_what_dovecot_would_not_take_is_not_sent(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path, broken: str
    ) -> None:
        good = imap.config.read_text()
        if broken == "nonsense":
            imap.config.write_text(f"{good}nonsense = yes\n")
            with pytest.raises(Misconfigured, match="Unknown setting: nonsense"):
                dovecot.check(BOTH)
        else:
            (tls / "rsa.pem").rename(tls / "away.pem")
            if broken == "unreadable":
                (tls / "rsa.pem").mkdir()
        with pytest.raises(Transient, match=r"\[mta\.reload\]") as caught:
            dovecot.reload()
        assert caught.value.hint.startswith(f"run: doveconf -c {imap.config} -x ssl;")
        assert "SIGHUP" not in imap.log
        assert everywhere() == keys_of(OLD, OLD_RSA)
        imap.config.write_text(good)
        if broken != "nonsense":
            if broken == "unreadable":
                (tls / "rsa.pem").rmdir()
            (tls / "away.pem").rename(tls / "rsa.pem")
        dovecot.reload()
        until(lambda: "SIGHUP" in imap.log, 5, "the reload has come")
        until(lambda: everywhere() == keys_of(OLD, OLD_RSA), 5, "the old keys are served")

    def test_a_broken_configuration_before_the_swap_changes_nothing(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path
    ) -> None:
        imap.add("ssl = maybe\n")
        wrong(lambda: dovecot.check(BOTH))
        assert (tls / "ecdsa.pem").read_bytes() == OLD.pem
        assert everywhere() == keys_of(OLD, OLD_RSA)

    def test_clients_that_are_connected_stay_and_new_ones_meet_the_new_key(self, dovecot: Dovecot) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((IMAP, 993), 5) as plain, context.wrap_socket(plain) as before:
            assert before.recv(100).startswith(b"* OK")
            dovecot.install(NEW_PEMS)
            dovecot.reload()
            until(lambda: everywhere() == keys_of(NEW, NEW_RSA), 5, "new clients meet the new keys")
            before.sendall(b"a NOOP\r\n")
            answer = b""
            while b"a OK" not in answer:
                more = before.recv(1000)
                assert more, answer
                answer += more

    def test_files_broken_by_hand_are_seen_by_the_handshake_only(
        self, imap: lab.Dovecot, dovecot: Dovecot, tls: Path
    ) -> None:
        write(tls / "ecdsa.pem", NEW.key + OLD.leaf)
        dovecot.reload()
        until(lambda: served("ecdsa-p256") not in {OLD.spki, NEW.spki}, 5, "no handshake with that key type")
        assert dovecot.installed() == {"rsa-2048": OLD_RSA.der}
