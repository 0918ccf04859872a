"""The probe meets real servers, Postfix, Exim and Dovecot: in each protocol, version, name and key type."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from certagent.facts.tls import Chain, Served, Service
from certagent.facts.unknown import Unknown
from certagent.pki.bundle import facts
from certagent.probe import handshake, pace
from tests.lab.addresses import IMAP, MX1, MX2, SPARE, ZONE
from tests.lab.dovecot import Dovecot
from tests.lab.exim import Exim
from tests.lab.postfix import Receiver
from tests.lab.wait import until
from tests.mta import chains

HOST, OTHER = f"mx1.{ZONE}", f"other.{ZONE}"
KINDS = ("ecdsa-p256", "rsa-2048")
MAIL = (Service(HOST, 25, "smtp", (MX1,)), Service(HOST, 587, "smtp", (MX1,)), Service(HOST, 465, "tls", (MX1,)))
BOXES = (
    Service(HOST, 143, "imap", (IMAP,)),
    Service(HOST, 993, "tls", (IMAP,)),
    Service(HOST, 110, "pop3", (IMAP,)),
    Service(HOST, 995, "tls", (IMAP,)),
    Service(HOST, 4190, "sieve", (IMAP,)),
)
OF = {key_type: chains.make(key_type, HOST) for key_type in KINDS}
STRANGER = chains.make("ecdsa-p256", OTHER)

Seen = tuple[int, str, str, str | None, Chain | str]


def see(services: Iterable[Service], kinds: Iterable[str] = KINDS) -> set[Seen]:
    """Port, key type, version, name, and what was served or why nothing."""

    def told(one: Served) -> Seen:
        leaf = one.chain.why if isinstance(one.chain, Unknown) else one.chain
        return one.port, one.key_type, one.version, one.sni, leaf

    seen = [told(one) for one in handshake.probe_all(services, lambda _: (), tuple(kinds), 10)]
    assert len(seen) == len(set(seen))
    return set(seen)


def due(services: Iterable[Service], *versions: str, kinds: Iterable[str] = KINDS) -> set[Seen]:
    """Every kind in every version at every port, each with its whole chain."""
    everything = itertools.product(services, kinds, versions or ("1.2", "1.3"))
    return {(service.port, kind, version, HOST, sent(OF[kind])) for service, kind, version in everything}


def sent(chain: chains.Chain) -> Chain:
    """The leaf and its issuer, in that order."""
    return facts([chain.der, x509.load_pem_x509_certificate(chain.issuer).public_bytes(Encoding.DER)])


def why(service: Service) -> set[str]:
    """Why nothing was seen, where somebody took the connection."""
    served = handshake.probe_all([service], lambda _: (), KINDS, 10)
    return {one.chain.why for one in served if isinstance(one.chain, Unknown)} - {"Connection refused"}


def more(receiver: Receiver, **settings: str) -> None:
    """Settings with which it does not greet everybody at once."""
    main = (receiver.config_dir / "main.cf").read_text()
    receiver.configure("main.cf", main + "".join(f"\n{name} = {value}\n" for name, value in settings.items()))
    receiver.reload()


@pytest.fixture
def files(place: Path) -> list[Path]:
    """A combined file for each key type, and one for another name."""
    paths: list[Path] = []
    for name, chain in (*OF.items(), ("other", STRANGER)):
        paths.append(place / f"{name}.pem")
        paths[-1].touch(0o600)
        paths[-1].write_bytes(chain.pem)
    return paths


class TestPostfix:
    @pytest.fixture
    def run(self, place: Path, files: list[Path]) -> Callable[..., AbstractContextManager[Receiver]]:
        @contextmanager
        def run(**settings: str) -> Generator[Receiver]:
            receiver = Receiver(place / "mx1", chain_files=files[:2])
            try:
                receiver.start(settings)
                yield receiver
            finally:
                receiver.stop()

        return run

    def test_every_port_key_and_version(self, run: Callable[..., AbstractContextManager[Receiver]]) -> None:
        with run() as receiver:
            assert see(MAIL) == due(MAIL)
            until(lambda: receiver.log.count("ehlo=1 starttls=1 quit=1") == 8, 5, "each was left politely")

    @pytest.mark.parametrize(("protocols", "version"), [("<=TLSv1.2", "1.2"), (">=TLSv1.3", "1.3")])
    def test_one_version_only(
        self, run: Callable[..., AbstractContextManager[Receiver]], protocols: str, version: str
    ) -> None:
        with run(smtpd_tls_protocols=protocols, smtpd_tls_mandatory_protocols=protocols):
            assert see(MAIL) == due(MAIL, version)

    def test_a_key_that_nobody_renews_is_seen_where_the_server_prefers_it(
        self, run: Callable[..., AbstractContextManager[Receiver]]
    ) -> None:
        with run():
            strange = {(s.port, "ecdsa-p256", "1.3", HOST, sent(OF["ecdsa-p256"])) for s in MAIL}
            assert see(MAIL, ["rsa-2048"]) == due(MAIL, "1.2", kinds=["rsa-2048"]) | strange

    def test_postscreen_lets_clients_wait_and_tlsproxy_serves(
        self, run: Callable[..., AbstractContextManager[Receiver]]
    ) -> None:
        waiting = {"postscreen_access_list": "", "postscreen_greet_wait": "1s", "postscreen_pipelining_enable": "yes"}
        with run(**waiting) as receiver:
            master = (receiver.config_dir / "master.cf").read_text()
            screen = f"{MX1}:25 inet n - n - 1 postscreen\nsmtpd pass - - n - - smtpd\n"
            screen += "dnsblog unix - - n - 0 dnsblog\ntlsproxy unix - - n - 0 tlsproxy\n"
            receiver.configure("master.cf", master.replace(f"{MX1}:25 inet n - n - - smtpd\n", screen))
            receiver.reload()
            assert see(MAIL[:1]) == due(MAIL[:1])
            until(lambda: receiver.log.count("/tlsproxy[") >= 4, 5, "tlsproxy served")

    @pytest.mark.parametrize(
        ("setting", "value", "told"),
        [
            ("smtpd_helo_restrictions", "reject", "EHLO: it refuses this host (its own words: 554 5"),
            ("smtpd_tls_security_level", "none", "STARTTLS is not offered to 127.0.0."),
            ("smtpd_discard_ehlo_keywords", "starttls", "STARTTLS is not offered to 127.0.0."),
        ],
    )
    def test_a_refusal_is_reported_as_what_it_means(
        self, run: Callable[..., AbstractContextManager[Receiver]], setting: str, value: str, told: str
    ) -> None:
        with run(**{setting: value}):
            (found,) = why(MAIL[0])
            assert found.startswith(told)

    def test_a_greeting_of_554_is_reported_as_what_it_means(
        self, run: Callable[..., AbstractContextManager[Receiver]]
    ) -> None:
        with run() as receiver:
            more(receiver, smtpd_client_restrictions="reject")
            (found,) = until(lambda: why(MAIL[0]), 5, "the setting has an effect")
            assert found.startswith("greeting: no SMTP service for this host here (its own words: 554 5.7.1 ")

    def test_too_many_connections_are_reported_as_what_they_are(
        self, run: Callable[..., AbstractContextManager[Receiver]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pace, "PAUSES_S", (0.01, 0.02))
        limit = {"smtpd_client_connection_count_limit": "1", "smtpd_client_event_limit_exceptions": ""}
        with run(**limit), socket.create_connection((MX1, 25), 5) as other:
            assert other.recv(4) == b"220 "
            served = handshake.probe_all(MAIL[:1], lambda _: (), KINDS, 10)
        found = [one.chain for one in served if isinstance(one.chain, Unknown)]
        told = "greeting: it closes the connection: busy, shutting down, or too many connections from this host"
        assert [c for c in found if not (c.why.startswith(told) and "(its own words: 421 4.7.0 " in c.why)] == []
        assert {chain.refusal for chain in found} == {"busy"}

    @pytest.mark.parametrize("limit", ["smtpd_client_connection_count_limit", "smtpd_client_connection_rate_limit"])
    def test_limits_on_one_client_are_kept_and_all_is_met(
        self, run: Callable[..., AbstractContextManager[Receiver]], limit: str
    ) -> None:
        settings = {limit: "3", "smtpd_client_event_limit_exceptions": "", "anvil_rate_time_unit": "2s"}
        with run(**settings):
            assert see(MAIL[:1]) == due(MAIL[:1])

    def test_ehlo_and_source_are_as_the_service_says(
        self, run: Callable[..., AbstractContextManager[Receiver]]
    ) -> None:
        """A name that only some give, and STARTTLS that only some are offered: both are answers to this client."""
        settings = {
            "smtpd_delay_reject": "no",
            "smtpd_helo_restrictions": "check_helo_access inline:{friend.example=OK}, reject",
            "smtpd_discard_ehlo_keyword_address_maps": f"inline:{{{SPARE}=starttls}}",
        }
        with run(**settings):
            (found,) = why(MAIL[0])
            assert found.startswith("EHLO: it refuses this host (its own words: 554 5")
            friend = replace(MAIL[0], ehlo="friend.example", source=(MX1,))
            assert see([friend]) == due([friend])
            (found,) = why(replace(friend, source=(SPARE,)))
            assert found.startswith(f"STARTTLS is not offered to {SPARE}: ")

    def test_a_service_says_how_long_it_may_take(self, run: Callable[..., AbstractContextManager[Receiver]]) -> None:
        with run() as receiver:
            more(receiver, smtpd_delay_reject="no", smtpd_client_restrictions="sleep 2")
            impatient = replace(MAIL[0], timeout_s=1.0)
            until(lambda: why(impatient) == {"no answer within 1 s"}, 5, "the setting has an effect")
            patient = replace(MAIL[0], timeout_s=60.0)
            assert {one.chain for one in handshake.probe_all([patient], lambda _: (), KINDS, 1)} == {
                sent(chain) for chain in OF.values()
            }

    def test_a_port_for_the_proxy_protocol_is_met_in_it(
        self, run: Callable[..., AbstractContextManager[Receiver]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pace, "PAUSES_S", (0.01,))
        with run() as receiver:
            more(receiver, smtpd_upstream_proxy_protocol="haproxy", smtpd_upstream_proxy_timeout="1s")
            behind = [replace(service, proxy="v2") for service in MAIL]
            until(lambda: see(behind) == due(behind), 5, "the setting has an effect")
            assert [text for text in why(MAIL[0]) if "421 4.3.0" not in text or "proxy: v2" not in text] == []

    def test_a_key_that_does_not_load_is_reported_as_that(
        self, run: Callable[..., AbstractContextManager[Receiver]], files: list[Path]
    ) -> None:
        with run() as receiver:
            files[0].write_bytes(STRANGER.key + OF["ecdsa-p256"].leaf)
            receiver.reload()
            told = "STARTTLS: TLS not available: the server cannot use its certificate or key (its own words: 454 4.7.0"
            until(lambda: [w for w in why(MAIL[0]) if w.startswith(told)], 5, "Postfix says 454")


class TestExim:
    """GnuTLS, where the others have OpenSSL."""

    SERVICES = tuple(Service(s.host, s.port, s.mode, (MX2,)) for s in MAIL)

    @pytest.mark.parametrize(
        ("priority", "versions"),
        [
            ("NORMAL", ("1.2", "1.3")),
            ("NORMAL:-VERS-TLS1.3", ("1.2",)),
            ("NORMAL:-VERS-ALL:+VERS-TLS1.3", ("1.3",)),
        ],
    )
    def test_every_port_and_key_in_the_versions_that_are_spoken(
        self, place: Path, files: list[Path], priority: str, versions: tuple[str, ...]
    ) -> None:
        for path in files:
            path.chmod(0o644)  # they are nobody's secret
        listed = ":".join(map(str, files[:2]))
        tls = {"tls_certificate": listed, "tls_privatekey": listed, "tls_require_ciphers": priority}
        server = Exim(place / "mx2", {**tls, "tls_advertise_hosts": "*"})
        try:
            server.start()
            assert see(self.SERVICES) == due(self.SERVICES, *versions)
        finally:
            server.stop()


class TestDovecot:
    @pytest.fixture
    def run(self, place: Path, files: list[Path]) -> Callable[..., AbstractContextManager[Dovecot]]:
        @contextmanager
        def run(more: str = "") -> Generator[Dovecot]:
            server = Dovecot(place / "box", "2.3")
            server.configure(server.pair(files[0]) + server.pair(files[1], "alt_") + more)
            try:
                server.start()
                yield server
            finally:
                server.stop()

        return run

    def test_every_protocol_key_and_version(self, run: Callable[..., AbstractContextManager[Dovecot]]) -> None:
        with run() as server:
            assert see(BOXES) == due(BOXES)
            assert "SSL_" not in server.log
            assert "rror" not in server.log.replace("no auth attempts", "")

    def test_tls_13_only(self, run: Callable[..., AbstractContextManager[Dovecot]]) -> None:
        with run("ssl_min_protocol = TLSv1.3\n"):
            assert see(BOXES) == due(BOXES, "1.3")

    def test_tls_12_only(self, run: Callable[..., AbstractContextManager[Dovecot]], place: Path) -> None:
        limits = place / "openssl.cnf"  # Dovecot 2.3 has no setting for it
        limits.write_text("openssl_conf=a\n[a]\nssl_conf=b\n[b]\nsystem_default=c\n[c]\nMaxProtocol=TLSv1.2\n")
        with run(f"import_environment = OPENSSL_CONF={limits}\n"):
            assert see(BOXES) == due(BOXES, "1.2")

    def test_each_name_is_shown_its_own_and_none_the_default(
        self, run: Callable[..., AbstractContextManager[Dovecot]], files: list[Path]
    ) -> None:
        names = (HOST, OTHER, "")
        boxes = [Service(s.host, s.port, s.mode, s.addresses, names) for s in BOXES]
        with run(f"local_name {OTHER} {{\n  ssl_cert = <{files[2]}\n  ssl_key = <{files[2]}\n}}\n"):
            shown = {(port, sni, leaf) for port, kind, _, sni, leaf in see(boxes) if kind == "ecdsa-p256"}
        of = {HOST: sent(OF["ecdsa-p256"]), OTHER: sent(STRANGER), "": sent(OF["ecdsa-p256"])}
        assert shown == {(box.port, name, of[name]) for box in boxes for name in names}

    def test_a_listener_for_the_proxy_protocol_is_met_in_it(
        self, run: Callable[..., AbstractContextManager[Dovecot]]
    ) -> None:
        listener = "inet_listener pop3 {\nhaproxy = yes\n}\ninet_listener pop3s {\nhaproxy = yes\n}\n"
        with run(f"service pop3-login {{\n{listener}}}\nhaproxy_trusted_networks = 127.0.0.0/8\n"):
            behind = [replace(box, proxy="v2") for box in BOXES[2:4]]
            assert see(behind) == due(behind)
            assert why(BOXES[2])

    def test_ipv6(self, run: Callable[..., AbstractContextManager[Dovecot]]) -> None:
        boxes = [Service(s.host, s.port, s.mode, ("::1", IMAP)) for s in BOXES]
        with run(f"listen = {IMAP}, ::1\n"):
            served = handshake.probe_all(boxes, lambda _: (), KINDS, 10)
        assert {one.address for one in served if one.chain == sent(OF[one.key_type])} == {"::1", IMAP}
        assert [one.where for one in served if isinstance(one.chain, Unknown)] == []

    def test_no_tls_is_reported(self, run: Callable[..., AbstractContextManager[Dovecot]]) -> None:
        with run("ssl = no\n"):
            for box in BOXES:
                if box.mode != "tls":
                    (found,) = why(box)
                    assert found.startswith("STARTTLS is not offered to 127.0.0.")

    def test_a_key_that_does_not_load_is_reported(
        self, run: Callable[..., AbstractContextManager[Dovecot]], files: list[Path]
    ) -> None:
        with run() as server:
            files[0].write_bytes(STRANGER.key + OF["ecdsa-p256"].leaf)
            os.kill(server.master(), signal.SIGHUP)
            until(lambda: all(why(box) for box in BOXES), 10, "no key is served")
            for box in BOXES:
                found = why(box)
                if box.mode == "tls":
                    assert all("the server closed the connection without a word; see its own log" in t for t in found)
                else:
                    (text,) = found
                    assert text.startswith("TLS: the server goes on in the clear (its own words: ")
                    assert "TLS initialization failed" in text
