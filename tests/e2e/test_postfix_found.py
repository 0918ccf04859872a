"""What `certagent init` finds of Postfix, on configurations as the guides write them, and what it proposes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from certagent.agent.plugins import BUILT_IN
from certagent.facts.tls import Chain, Service
from certagent.init import changes
from certagent.mta.postfix.server import Options, Postfix
from certagent.mta.server import Found
from certagent.probe.handshake import probe_all
from tests.e2e.postfixes import BOTH, HOST, private
from tests.e2e.test_init import PLAIN, Guide
from tests.e2e.test_postfix import OLD, OLD_RSA
from tests.lab.addresses import MX1, ZONE
from tests.mta import chains

ETC = Path("/etc/postfix")
"""The lab's own: nothing of it is seen outside."""

MAIN = f"""\
compatibility_level = 3.6
myhostname = {HOST}
mydomain = {ZONE}
"""

TWO_PAIRS = """\
# TLS, as most guides have it
smtpd_tls_security_level = may
smtpd_tls_cert_file = /etc/ssl/mail/rsa.crt
smtpd_tls_key_file = /etc/ssl/mail/rsa.key
smtpd_tls_eccert_file = /etc/ssl/mail/ecdsa.crt
smtpd_tls_eckey_file = /etc/ssl/mail/ecdsa.key
"""

MASTER = """\
smtp       inet  n       -       {chroot}       -       -       smtpd
submission inet  n       -       {chroot}       -       -       smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_auth_enable=yes
smtps      inet  n       -       {chroot}       -       -       smtpd
  -o syslog_name=postfix/smtps
  -o smtpd_tls_wrappermode=yes
127.0.0.1:10025 inet n   -       n       -       -       smtpd
  -o content_filter=
pickup     unix  n       -       {chroot}       60      1       pickup
"""

SERVICES = (Service(HOST, 25, "smtp"), Service(HOST, 587, "smtp"), Service(HOST, 465, "tls"))


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """The files that the configurations name; both directories are as they were afterwards."""
    mail, package = Path("/etc/ssl/mail"), (ETC / "master.cf").read_bytes()
    mail.mkdir(parents=True)
    for kind, chain in (("ecdsa", OLD), ("rsa", OLD_RSA)):
        private(mail / f"{kind}.key", chain.key)
        private(mail / f"{kind}.crt", chain.leaf + chain.issuer)
    yield
    shutil.rmtree(mail)
    for name in ("main.cf", "combined.pem", "sni", "tls", "own.pem"):
        subprocess.run(["rm", "-rf", ETC / name], check=True)
    (ETC / "master.cf").write_bytes(package)


def configure(main: str, master: str = MASTER.format(chroot="n")) -> None:
    written(ETC / "main.cf", MAIN + main)
    written(ETC / "master.cf", master)


def written(path: Path, text: str) -> None:
    """Long ago: Postfix waits until a file is 2 s old."""
    path.write_bytes(text.encode(errors="surrogateescape"))
    past = time.time() - 10
    os.utime(path, (past, past))


def found() -> Found:
    [one] = Postfix.discover()
    return one


def apply(one: Found) -> None:
    for change in one.changes:
        assert Path(change.file).read_text() == change.before
        written(Path(change.file), change.after)


def server(one: Found) -> Postfix:
    """The server as it is made from a config file with the proposed options."""
    import msgspec

    return Postfix(one.name, msgspec.convert(one.options, Options))


def test_a_host_without_a_configuration_has_none() -> None:
    assert Postfix.discover() == []
    assert "postfix" in BUILT_IN["certagent.mail_servers"]


@pytest.mark.parametrize("chroot", ["n", "y"])
def test_separate_files_of_both_kinds_become_chain_files(chroot: str) -> None:
    configure(TWO_PAIRS, MASTER.format(chroot=chroot))
    one = found()
    new = {kind: f"/etc/postfix/tls/{kind}.pem" for kind in ("ecdsa", "rsa")}
    assert (one.type, one.name, one.options) == ("postfix", "postfix", {"chain_files": new})
    assert one.services == SERVICES
    assert one.names == (HOST,)
    assert one.uses == {
        "smtpd_tls_cert_file": "/etc/ssl/mail/rsa.crt",
        "smtpd_tls_key_file": "/etc/ssl/mail/rsa.key",
        "smtpd_tls_eccert_file": "/etc/ssl/mail/ecdsa.crt",
        "smtpd_tls_eckey_file": "/etc/ssl/mail/ecdsa.key",
    }
    assert any("two files now, which no rename replaces together" in note for note in one.notes)
    [change] = one.changes
    assert change.file == "/etc/postfix/main.cf"
    assert "only once /etc/postfix/tls/ecdsa.pem, /etc/postfix/tls/rsa.pem is there" in change.why
    kept = MAIN + "# TLS, as most guides have it\nsmtpd_tls_security_level = may\n"
    assert change.after == kept + "smtpd_tls_chain_files = /etc/postfix/tls/ecdsa.pem,/etc/postfix/tls/rsa.pem\n"
    assert (ETC / "main.cf").read_text() == change.before, "nothing is changed"
    (ETC / "tls").mkdir(mode=0o700)
    for kind, chain in (("ecdsa", OLD), ("rsa", OLD_RSA)):
        private(ETC / "tls" / f"{kind}.pem", chain.pem)
    apply(one)
    server(one).check(frozenset({"ecdsa-p256", "rsa-2048"}))


def test_a_combined_file_stays_where_it_is() -> None:
    configure("smtpd_tls_security_level = may\nsmtpd_tls_chain_files = /etc/postfix/combined.pem\n")
    private(ETC / "combined.pem", OLD.pem)
    one = found()
    assert one.options == {"chain_files": {"ecdsa": "/etc/postfix/combined.pem"}}
    assert one.changes == ()
    assert one.uses == {"smtpd_tls_chain_files": "/etc/postfix/combined.pem"}
    server(one).check(frozenset({"ecdsa-p256"}))


def test_a_link_of_another_program_is_not_written_through() -> None:
    (ETC / "combined.pem").symlink_to(private(Path("/etc/ssl/mail/live.pem"), OLD.pem))
    configure("smtpd_tls_security_level = may\nsmtpd_tls_chain_files = /etc/postfix/combined.pem\n")
    one = found()
    assert one.options == {"chain_files": {"ecdsa": "/etc/postfix/tls/ecdsa.pem"}}
    assert "smtpd_tls_chain_files = /etc/postfix/tls/ecdsa.pem\n" in one.changes[0].after


def test_a_service_with_files_of_its_own_keeps_them() -> None:
    """A list in main.cf would disable its separate files without a word."""
    private(ETC / "own.pem", chains.make().pem)
    own = MASTER.format(chroot="n").replace(
        "-o smtpd_sasl_auth_enable=yes", "-o smtpd_tls_eccert_file=/etc/postfix/own.pem"
    )
    configure(TWO_PAIRS, own)
    one = found()
    assert one.options["other_services"] == ["submission/inet"]
    assert one.services == (Service(HOST, 25, "smtp"), Service(HOST, 465, "tls")), "587 never serves ours"
    assert one.uses["submission/inet/smtpd_tls_eccert_file"] == "/etc/postfix/own.pem"
    main, master = one.changes
    assert master.file == "/etc/postfix/master.cf"
    assert "-o smtpd_tls_chain_files=" in master.after
    assert "smtpd_tls_eccert_file=/etc/postfix/own.pem" in master.after
    assert "smtpd_tls_chain_files = " in main.after


def test_where_there_is_no_tls_it_is_proposed() -> None:
    configure(f"inet_interfaces = 127.0.0.1, {MX1}\n", "smtp inet n - y - - smtpd\n")
    one = found()
    assert one.options == {"chain_files": {"ecdsa": "/etc/postfix/tls/ecdsa.pem"}}
    [change] = one.changes
    assert "smtpd_tls_security_level = may\n" in change.after
    assert one.services == (Service(HOST, 25, "smtp", (MX1,)),)


TLS_AT_465 = MASTER.format(chroot="n").replace("-o smtpd_tls_wr", "-o smtpd_tls_security_level=encrypt -o smtpd_tls_wr")


def test_port_25_gets_tls_where_nobody_has_decided_that_it_has_none() -> None:
    configure("", TLS_AT_465)
    one = found()
    [change] = one.changes
    assert "smtpd_tls_security_level = may\n" in change.after
    assert (set(one.services), one.plain) == (set(SERVICES), ())


@pytest.mark.parametrize(
    ("main", "own"), [("smtpd_tls_security_level = none\n", ""), ("", "  -o smtpd_tls_security_level=none\n")]
)
def test_port_25_without_tls_is_named_with_the_command(main: str, own: str) -> None:
    """After it, the port is proposed."""
    configure(main, TLS_AT_465.replace("submission inet", f"{own}submission inet"))
    one = found()
    assert {service.port for service in one.services} == {465, 587}
    [(port, todo)] = one.plain
    assert (port, todo.what) == (25, "smtp offers no STARTTLS")
    subprocess.run(["sh", "-ec", todo.command], check=True)
    assert (set(found().services), found().plain) == (set(SERVICES), ())


def test_names_of_an_sni_map_are_found() -> None:
    private(ETC / "combined.pem", OLD.pem)
    private(ETC / "own.pem", chains.make().pem)
    ours, others = [HOST, "mail.a.example", ".a.example"], ["mail.b.example", ".b.example"]
    lines = [f"{n} /etc/postfix/combined.pem\n" for n in ours] + [f"{n} /etc/postfix/own.pem\n" for n in others]
    (ETC / "sni").write_text("".join(lines))
    configure(
        "smtpd_tls_security_level = may\nsmtpd_tls_chain_files = /etc/postfix/combined.pem\n"
        "tls_server_sni_maps = hash:/etc/postfix/sni\n",
        MASTER.format(chroot="n").replace("smtpd_sasl_auth_enable=yes", "tls_server_sni_maps="),
    )
    one, other = Postfix.discover()
    assert one.options["sni"] == {"map": "/etc/postfix/sni", "type": "hash", "names": ours}
    assert one.names == (HOST, "mail.a.example")
    assert {service.port: service.sni for service in one.services} == {25: one.names, 465: one.names, 587: ()}
    assert other.options == {
        "chain_files": {"ecdsa": "/etc/postfix/own.pem"},
        "sni": {"map": "/etc/postfix/sni", "type": "hash", "names": others, "only": True},
    }
    assert {(service.host, service.port) for service in other.services} == {
        ("mail.b.example", port) for port in (25, 465)
    }
    assert server(one)
    assert server(other)


def test_every_port_and_name_that_is_proposed_is_verified(place: Path) -> None:
    """Submission has a certificate of its own, and so has one name of the map."""
    private(ETC / "combined.pem", OLD.pem)
    private(ETC / "own.pem", chains.make().pem)
    (ETC / "sni").write_text("mail.a.example /etc/postfix/combined.pem\nmail.b.example /etc/postfix/own.pem\n")
    tls = {"smtpd_tls_chain_files": "/etc/postfix/combined.pem", "tls_server_sni_maps": "texthash:/etc/postfix/sni"}
    own = "-o smtpd_tls_security_level=encrypt -o smtpd_tls_chain_files=/etc/postfix/own.pem"
    receiver = Guide(place / "mx1", tls, PLAIN.replace("-o smtpd_tls_security_level=encrypt", own))
    receiver.start()
    try:
        one, other = Postfix.discover()
        assert other.names == ("mail.b.example",)
        served = probe_all(one.services, lambda _: (MX1,), ("ecdsa-p256",), 10)
        assert {(each.port, each.sni) for each in served} == {
            (p, n) for p in (25, 465) for n in (HOST, "mail.a.example")
        }
        assert {each.chain.spki if isinstance(each.chain, Chain) else each.chain.why for each in served} == {OLD.spki}
    finally:
        receiver.stop()


@pytest.mark.parametrize(
    ("main", "row", "setting"),
    [
        (
            "",
            "10465 inet n - n - - smtpd\n  -o smtpd_upstream_proxy_protocol=haproxy -o smtpd_tls_wrappermode=yes",
            "smtpd",
        ),
        ("smtpd_upstream_proxy_protocol = haproxy\n", "10465 inet n - n - - smtpd", "smtpd"),
        ("postscreen_upstream_proxy_protocol = haproxy\n", "10465 inet n - n - 1 postscreen", "postscreen"),
    ],
)
def test_a_port_for_the_proxy_protocol_is_left_out_with_the_reason(main: str, row: str, setting: str) -> None:
    configure(TWO_PAIRS + main, f"{row}\n")
    one = found()
    assert one.services == ()
    [note] = [note for note in one.notes if note.startswith("10465 is left out")]
    assert f"{setting}_upstream_proxy_protocol = haproxy" in note
    assert "proxy: v2" in note


def test_bytes_of_any_encoding_and_line_ends_stay_as_they_are() -> None:
    """A comment in Latin-1, as an editor of another system left it."""
    odd = "# Empf\udce4nger\r\n"
    own = "smtpd_tls_eccert_file=/etc/postfix/own.pem"
    configure(odd + TWO_PAIRS, odd + MASTER.format(chroot="n").replace("smtpd_sasl_auth_enable=yes", own))
    (ETC / "tls").mkdir(mode=0o700)
    for name, chain in (("own", chains.make()), ("tls/ecdsa", OLD), ("tls/rsa", OLD_RSA)):
        private(ETC / f"{name}.pem", chain.pem)
    before = {str(ETC / name): (ETC / name).read_bytes() for name in ("main.cf", "master.cf")}
    one = found()
    for outcome in changes.apply(one, datetime.now(UTC), lambda: ""):
        assert outcome.state == "made"
        assert b"# Empf\xe4nger\r\n" in Path(outcome.file).read_bytes()
        assert Path(outcome.backup).read_bytes() == before.pop(outcome.file)
        Path(outcome.backup).unlink()
    assert before == {}
    server(one).check(BOTH)


def test_every_instance_is_found(place: Path) -> None:
    second = place / "postfix-out"
    second.mkdir()
    out = f"multi_instance_name = postfix-out\nmulti_instance_enable = yes\ninet_interfaces = {MX1}\n"
    written(second / "main.cf", f"{MAIN}{TWO_PAIRS}{out}queue_directory = {place}/q\ndata_directory = {place}/d\n")
    written(second / "master.cf", MASTER.format(chroot="n"))
    configure(f"multi_instance_enable = yes\nmulti_instance_directories = {second}\n{TWO_PAIRS}")
    first, other = Postfix.discover()
    assert first.name == "postfix"
    assert "config_dir" not in first.options
    assert (other.name, other.options["config_dir"]) == ("postfix-out", str(second))
    assert other.options["chain_files"]["rsa"] == f"{second}/tls/rsa.pem"
    assert {service.addresses for service in other.services} == {(MX1,)}
    assert [change.file for change in other.changes] == [str(second / "main.cf")]
