"""The real Dovecot, 2.3 and 2.4: names of SNI, and what is found on a host."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from certagent.facts.tls import Service
from certagent.mta.dovecot.server import Dovecot, Options
from tests.e2e.dovecots import (
    BOTH,
    ECDSA,
    HOST,
    NEW,
    NEW_PEMS,
    OLD,
    OLD_RSA,
    SERVICES,
    A,
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


class TestNames:
    """Two names of SNI with certificates of their own, beside the top level."""

    @pytest.fixture
    def named(self, imap: lab.Dovecot, tls: Path) -> dict[str, chains.Chain]:
        found = {name: chains.make(name=name) for name in (A, B)}
        for name, chain in found.items():
            write(tls / f"{name}.pem", chain.pem)
            imap.add(f"local_name {name} {{\n{imap.pair(tls / f'{name}.pem')}}}\n")
        subprocess.run(["sh", "-c", f"doveadm -c {shlex.quote(str(imap.config))} reload"], check=True)
        until(lambda: served("ecdsa-p256", sni=B) == found[B].spki, 5, "the names are served")
        return found

    def test_each_name_is_swapped_by_itself(
        self, imap: lab.Dovecot, dovecot: Dovecot, named: dict[str, chains.Chain], tls: Path
    ) -> None:
        options = Options(files={"ecdsa": f"{tls}/{A}.pem"}, config=str(imap.config), top_level=False, local_name=(A,))
        of_a = Dovecot("a", options)
        of_a.check(ECDSA)
        dovecot.check(BOTH)
        of_a.install({"ecdsa-p256": NEW_PEMS["ecdsa-p256"]})
        of_a.reload()
        until(lambda: {served("ecdsa-p256", p, A) for p in SERVICES} == {NEW.spki}, 5, "the new key for that name")
        assert {served("ecdsa-p256", port, B) for port in SERVICES} == {named[B].spki}
        assert {served("ecdsa-p256", port, name) for port in SERVICES for name in (HOST, "")} == {OLD.spki}

    def test_names_under_which_our_files_are_meant_too_are_checked(
        self, imap: lab.Dovecot, options: Options, named: dict[str, chains.Chain], tls: Path
    ) -> None:
        both = Dovecot("imap", Options(files=options.files, config=options.config, local_name=(A, B, f"c.{ZONE}")))
        for name in (A, B):  # the third has no block, and gets what the top level has
            error = wrong(lambda: both.check(BOTH))
            assert f"local_name {name} does not name {tls}/ecdsa.pem" in error.detail
            do_as_told(error.hint)
        both.check(BOTH)
        until(lambda: everywhere(A) == everywhere(B) == keys_of(OLD, OLD_RSA), 5, "ours are served under both")

    def test_a_name_without_a_block_is_reported_and_the_remedy_works(self, imap: lab.Dovecot, tls: Path) -> None:
        write(tls / "a.pem", NEW.pem)
        options = Options(files={"ecdsa": f"{tls}/a.pem"}, config=str(imap.config), top_level=False, local_name=(A,))
        error = wrong(lambda: Dovecot("a", options).check(ECDSA))
        assert f"local_name {A} does not name {tls}/a.pem" in error.detail
        do_as_told(error.hint)
        Dovecot("a", options).check(ECDSA)
        until(lambda: served("ecdsa-p256", sni=A) == NEW.spki, 5, "it is served")
        assert served("ecdsa-p256") == OLD.spki

    def test_files_of_other_names_are_noted(self, dovecot: Dovecot, named: dict[str, chains.Chain], tls: Path) -> None:
        notes = [what for what, _ in dovecot.advice(BOTH)]
        assert notes == [f"local_name {n} names {tls}/{n}.pem, which is not renewed here" for n in (A, B)]

    def test_blocks_that_contradict_each_other_are_reported(
        self, imap: lab.Dovecot, dovecot: Dovecot, named: dict[str, chains.Chain], tls: Path
    ) -> None:
        imap.add(f"protocol pop3 {{\n{imap.pair(tls / 'ecdsa.pem')}}}\n")
        dovecot.reload()
        if imap.version == "2.3":
            until(lambda: served("ecdsa-p256", 995, A) not in {OLD.spki, named[A].spki}, 5, "no TLS for that name")
            assert (
                f"protocol pop3 and local_name {A} both set certificates" in wrong(lambda: dovecot.check(BOTH)).detail
            )
        else:
            until(lambda: served("ecdsa-p256", 995, A) == OLD.spki, 5, "the last block counts")
            dovecot.check(BOTH)


class TestDiscover:
    """On the configuration that Dovecot reads by itself."""

    @pytest.fixture
    def default(self, place: Path, tls: Path, version: str) -> Iterator[lab.Dovecot]:
        """As admins set it up by the guides: a symlink to the certificate, its key elsewhere, and a name of SNI."""
        server = lab.Dovecot(place / "imap", version, config=Path("/etc/dovecot/dovecot.conf"))
        before = server.config.read_bytes() if server.config.exists() else None
        live = place / "live"
        live.mkdir(mode=0o700)
        write(place / "1.key", OLD.key)
        write(place / "1.pem", OLD.leaf + OLD.issuer)
        (live / "fullchain.pem").symlink_to(place / "1.pem")
        (live / "privkey.pem").symlink_to(place / "1.key")
        write(tls / "a.pem", chains.make(name=A).pem)
        server.configure("!include lab-*.conf\n")
        self.ssl_file(server).write_text(
            "# TLS\n"
            + server.setting("cert", live / "fullchain.pem")
            + "#"
            + server.setting("key", "/nonexistent")
            + server.setting("key", live / "privkey.pem")
            + f"local_name {A} {{\n{server.pair(tls / 'a.pem')}}}\n"
        )
        server.start()
        yield server
        server.stop()
        self.ssl_file(server).unlink()
        server.config.write_bytes(before) if before is not None else server.config.unlink()

    def ssl_file(self, server: lab.Dovecot) -> Path:
        return server.config.with_name("lab-ssl.conf")

    def test_what_is_proposed_leads_to_what_is_served(self, default: lab.Dovecot, tls: Path, place: Path) -> None:
        [top, of_a] = Dovecot.discover()
        assert (top.name, of_a.name) == ("dovecot", "dovecot-2")
        assert top.options == {"files": {"ecdsa": "/etc/dovecot/tls/ecdsa.pem"}}
        assert of_a.options == {"files": {"ecdsa": f"{tls}/a.pem"}, "local_name": [A], "top_level": False}
        assert of_a.changes == ()
        for found, host in ((top, HOST), (of_a, A)):
            assert set(found.services) == {
                Service(host, service.port, service.mode, (IMAP,)) for service in SERVICES.values()
            }
        assert top.names == (HOST,)
        assert set(top.uses.values()) == {f"{place}/live/fullchain.pem", f"{place}/live/privkey.pem"}

        server = Dovecot("imap", msgspec.convert(top.options, Options))
        directory = Path("/etc/dovecot/tls")
        directory.mkdir(mode=0o700)
        try:
            server.check(ECDSA)
            wrong(lambda: server.install({"ecdsa-p256": NEW_PEMS["ecdsa-p256"]}))
            [change] = top.changes
            path = self.ssl_file(default)
            assert (change.file, change.before) == (str(path), path.read_text())
            assert change.after.splitlines()[0] == "# TLS"
            assert change.after.count("/etc/dovecot/tls/ecdsa.pem") == 2
            assert change.after.partition("local_name")[2] == change.before.partition("local_name")[2]
            path.write_text(change.after)
            server.check(ECDSA)
            server.reload()
            until(lambda: served("ecdsa-p256") == NEW.spki, 5, "the new key is served")
            [again, _] = Dovecot.discover()
            assert (again.options, again.changes) == (top.options, ())
        finally:
            shutil.rmtree(directory)

    @pytest.mark.parametrize(
        ("blocks", "ports"),
        [
            (["protocol pop3"], {143, 993, 4190}),
            ([f"local {IMAP}"], set[int]()),
            ([f"local {IMAP}/24", "protocol imap"], {110, 995, 4190}),
            (["local 192.0.2.1"], {*SERVICES}),
            (["remote 192.0.2.1"], {*SERVICES}),
        ],
    )
    def test_only_ports_where_no_block_of_others_holds_are_listed(
        self, default: lab.Dovecot, tls: Path, blocks: list[str], ports: set[int]
    ) -> None:
        begin, end = "".join(f"{block} {{\n" for block in blocks), "}\n" * len(blocks)
        default.add(f"{begin}{default.pair(tls / 'other.pem')}{end}")
        default.stop()
        default.start()
        assert {port for port in SERVICES if served("ecdsa-p256", port) == OLD.spki} == ports
        top = Dovecot.discover()[0]
        assert top.options["other_blocks"] == [" / ".join(blocks)]
        assert {service.port for service in top.services} == ports

    def test_a_block_for_one_of_all_addresses_is_reported(self, default: lab.Dovecot, tls: Path) -> None:
        default.add(f"listen = *\nlocal {IMAP} {{\n{default.pair(tls / 'other.pem')}}}\n")
        top = Dovecot.discover()[0]
        assert {(service.port, service.addresses) for service in top.services} == {(port, ()) for port in SERVICES}
        assert f"local {IMAP}: if {HOST} leads there, give its services the other `addresses`" in top.notes

    def test_a_listener_for_the_proxy_protocol_is_left_out_with_the_reason(self, default: lab.Dovecot) -> None:
        default.add("service pop3-login {\ninet_listener pop3s {\nhaproxy = yes\n}\n}\n")
        top, of_a = Dovecot.discover()
        assert {service.port for service in top.services} == {service.port for service in of_a.services}
        assert {service.port for service in top.services} == {*SERVICES} - {995}
        [note] = [note for note in top.notes if "PROXY" in note]
        assert note.startswith("inet_listener pop3s (port 995) is left out: ")

    def test_a_configuration_that_dovecot_refuses_is_reported(self, default: lab.Dovecot) -> None:
        default.add("nonsense = yes\n")
        assert "Unknown setting: nonsense" in wrong(Dovecot.discover).detail

    def test_a_host_without_a_configuration_has_nothing(self, default: lab.Dovecot) -> None:
        default.config.rename(away := default.config.with_name("away"))
        try:
            assert Dovecot.discover() == []
        finally:
            away.rename(default.config)
