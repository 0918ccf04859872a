"""What a service serves is told as it is, and what could not be seen is told with its reason."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from certagent.agent.act import dispatch, serving
from certagent.checks import served as served_check
from certagent.errors import Transient
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, Mode, Served, Service
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle.fold import fold
from certagent.lifecycle.spec import MailServer
from certagent.lifecycle.state import Generation, Installation, Phase, State
from certagent.lifecycle.steps import Verify
from certagent.pki.bundle import facts
from certagent.probe import handshake, starttls
from certagent.report.findings import Finding
from tests.lab.wait import until
from tests.lifecycle.play import SPEC
from tests.mta import chains, servers

HOST = "mx1.corp.example"
EC = chains.make("ecdsa-p256", HOST)
RSA = chains.make("rsa-2048", HOST)
EC_LEAF = x509.load_der_x509_certificate(EC.der)
BOTH = servers.context(EC, RSA)
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def ask(
    talk: servers.Talk, key_type: str = "ecdsa-p256", mode: Mode = "smtp", timeout_s: float = 5, **more: Any
) -> Served:
    with servers.serving(talk) as port:
        return handshake.probe(Service(HOST, port, mode), "127.0.0.1", key_type, timeout_s, **more)


def ask_all(talk: servers.Talk, *key_types: str, sni: tuple[str, ...] = ()) -> list[Served]:
    with servers.serving(talk) as port:
        return handshake.probe_all([Service(HOST, port, "smtp", ("127.0.0.1",), sni)], lambda _: (), key_types, 5)


def silent(connection: socket.socket) -> None:
    """Says nothing until the client has left."""
    while connection.recv(4096):
        pass


def ed25519() -> bytes:
    """A self-signed certificate with such a key."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 1, EC_LEAF.not_valid_before_utc, EC_LEAF.not_valid_after_utc
    )
    pem = made.sign(key, None).public_bytes(Encoding.PEM)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem


def offers_13(connection: socket.socket) -> bool:
    """Whether the client has TLS 1.3 and 1.2 on offer: its supported_versions (RFC 8446 section 4.2.1)."""
    return b"\x00\x2b\x00\x05\x04\x03\x04\x03\x03" in connection.recv(4096, socket.MSG_PEEK)


def why(served: Served) -> str:
    assert isinstance(served.chain, Unknown)
    return served.chain.why


def spki(served: Served) -> str:
    assert not isinstance(served.chain, Unknown), served.chain
    return served.chain.spki


HANDSHAKE = "TLS 1.3 or 1.2 handshake for an ecdsa certificate"
NOT_OFFERED = (
    "STARTTLS is not offered to 127.0.0.1: TLS is off in the server's settings or kept from this host, "
    "or it has no certificate"
)
INJECTED = "TLS: the server goes on in the clear"
TLS_REFUSED = "TLS not available: the server cannot use its certificate or key, or TLS is off"
NO_TLS = "TLS not available: the server cannot use its certificate or key"
FIRST = "STARTTLS or a login must come first; if this port is for TLS from the first byte, use mode: tls"
BUSY = "it closes the connection: busy, shutting down, or too many connections from this host; try again"
BAD_NAME = "it refuses the syntax, or the name that this host gives in EHLO (see hostname -f, or set ehlo)"
PREAUTH = "logged in from the start (PREAUTH), where TLS cannot begin"
BEFORE_TLS = ("greeting: ", "EHLO: ", "CAPABILITY: ")
"""Who is refused there has learned nothing of TLS."""
TURNED_AWAY = "it turns this host away: busy, shutting down, too many connections, or not allowed"


class TestHandshake:
    @pytest.mark.parametrize("mode", ["smtp", "tls"])
    @pytest.mark.parametrize("chain", [EC, RSA])
    @pytest.mark.parametrize("version", [None, TLS12])
    def test_each_key_type_is_seen_beside_the_other(
        self, chain: chains.Chain, mode: Mode, version: ssl.TLSVersion | None
    ) -> None:
        context = servers.context(EC, RSA, version=version)
        talk = servers.smtp(context) if mode == "smtp" else servers.tls(context)
        served = ask(talk, "ecdsa-p256" if chain is EC else "rsa-2048", mode)
        assert spki(served) == chain.spki

    def test_the_facts_are_those_of_the_chain_as_it_was_sent(self) -> None:
        served = ask(servers.smtp(BOTH))
        leaf = served.chain
        assert not isinstance(leaf, Unknown)
        assert (leaf.issuers, leaf.names) == ((EC.issuer_spki,), (HOST,))
        assert (served.host, served.address, served.key_type) == (HOST, "127.0.0.1", "ecdsa-p256")
        assert served.took_s > 0

    @pytest.mark.parametrize(("chain", "key_type"), [(EC, "ecdsa-p256"), (RSA, "rsa-2048")])
    @pytest.mark.parametrize("newest", ["1.2", "1.3"])
    def test_the_version_is_reported(self, chain: chains.Chain, key_type: str, newest: str) -> None:
        served = ask(servers.smtp(BOTH), key_type, newest=newest)
        assert (spki(served), served.version) == (chain.spki, newest)

    def test_a_server_for_tls_12_only_is_met_with_that(self) -> None:
        served = ask(servers.smtp(servers.context(EC, RSA, version=TLS12)), "rsa-2048")
        assert (spki(served), served.version) == (RSA.spki, "1.2")

    def test_a_missing_key_type_is_reported(self) -> None:
        for version in (None, TLS12, TLS13):
            told = why(ask(servers.smtp(servers.context(EC, version=version)), "rsa-2048"))
            assert told.startswith("TLS 1.3 or 1.2 handshake for an rsa certificate failed: ")
            assert told.endswith(" alert handshake failure")  # OpenSSL 3.x: sslv3, then tls
        assert why(ask(servers.smtp(servers.context(EC)), "rsa-2048", newest="1.2")) == "not served with TLS 1.2"

    def test_a_server_without_any_certificate_fails_the_handshake(self) -> None:
        assert "handshake for an ecdsa certificate failed" in why(ask(servers.smtp(servers.context())))

    def test_alone_the_server_chooses_and_what_it_chooses_is_reported_with_its_own_kind(self) -> None:
        served = ask(servers.smtp(BOTH), "rsa-2048", alone=True)
        assert (spki(served), served.key_type, served.version) == (EC.spki, "ecdsa-p256", "1.3")
        served = ask(servers.smtp(servers.context(RSA)), "rsa-4096", alone=True)
        assert (spki(served), served.key_type) == (RSA.spki, "rsa-4096")

    def test_a_key_of_neither_kind_is_reported(self) -> None:
        assert why(ask(servers.smtp(servers.context(ed25519())), alone=True)) == (
            "the server shows a key that is neither RSA nor ECDSA"
        )

    def test_the_name_is_asked_for(self) -> None:
        names: list[str | None] = []
        context = servers.context(EC)
        context.sni_callback = lambda _sock, name, _context: names.append(name)
        talk = servers.smtp(context)
        served = [ask(talk), ask(talk, sni="mail.corp.example"), ask(talk, sni="")]
        assert names == [one.sni or None for one in served] == [HOST, "mail.corp.example", None]

    def test_no_session_is_resumed(self) -> None:
        context = servers.context(EC)
        with servers.serving(servers.smtp(context)) as port:
            for _ in range(3):
                assert spki(handshake.probe(Service(HOST, port, "smtp"), "127.0.0.1", "ecdsa-p256", 5)) == EC.spki
        assert context.session_stats()["hits"] == 0

    @pytest.mark.parametrize(
        ("junk", "told"),
        [
            (b"", f"{HANDSHAKE} failed: the server closed the connection without a word; see its own log"),
            (b"\x16\x03\x03\xff\xff" + b"x" * 99, f"{HANDSHAKE} failed: "),
            (b"220 mx1\r\n250 ok\r\n", "TLS: the server goes on in the clear (its own words: 220 mx1)"),
            (b"\x80junk", "TLS: the server goes on in the clear (its own words: ?junk)"),
            (b"421 Too many\r\n", f"greeting: {BUSY} (its own words: 421 Too many)"),
        ],
    )
    def test_what_is_not_tls_is_reported(self, junk: bytes, told: str) -> None:
        def talk(connection: socket.socket) -> None:
            connection.recv(9999)
            connection.sendall(junk)

        assert why(ask(talk, mode="tls")).startswith(told)

    def test_a_reset_is_reported(self) -> None:
        def talk(connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        leaf = ask(talk, mode="tls").chain
        assert isinstance(leaf, Unknown)
        assert leaf.reached

    def test_an_unknown_key_type_is_reported(self) -> None:
        assert "pem.key_type" in why(ask(servers.smtp(BOTH), "dsa-1024"))


class TestSmtp:
    @pytest.mark.parametrize(
        ("talk", "told", "words"),
        [
            (servers.smtp(banner=b"554 5.7.1 no\r\n"), "greeting: no SMTP service for this host here", "554 5.7.1 no"),
            (servers.smtp(banner=b"521 x\r\n"), "greeting: this server takes no mail at all", "521 x"),
            (servers.smtp(banner=b"421-busy\r\n421 later\r\n"), f"greeting: {BUSY}", "421 busy later"),
            (servers.smtp(banner=b"450 x\r\n"), "greeting: not now (greylisting does that); try again", "450 x"),
            (servers.smtp(banner=b"432 x\r\n"), "greeting: not now; try again", "432 x"),
            (servers.smtp(banner=b"SSH-2.0-x\r\n"), "not an SMTP reply: SSH-2.0-x", ""),
            (servers.smtp(banner=b"220-a\r\n221 b\r\n"), "not an SMTP reply: 221 b", ""),
            (servers.smtp(banner=b"\x1b[31mred\r\n"), "not an SMTP reply: ?[31mred", ""),
            (servers.smtp(banner=b"220-x\r\n" * 101), "a reply of more than 100 lines", ""),
            (servers.smtp(banner=b"220 " + b"x" * 9000), "a line of more than 8192 bytes", ""),
            (servers.smtp(ehlo=b"502 what\r\n"), "EHLO: it does not know this command", "502 what"),
            (servers.smtp(ehlo=b"501 5.5.4 x\r\n"), f"EHLO: {BAD_NAME}", "501 5.5.4 x"),
            (servers.smtp(ehlo=b"220 x\r\n"), "EHLO: not the 250 that belongs here", "220 x"),
            (servers.smtp(ehlo=b"421 4.7.0 x\r\n"), f"EHLO: {BUSY}", "421 4.7.0 x"),
            (servers.smtp(ehlo=b"250 mx1\r\n"), NOT_OFFERED, ""),
            (servers.smtp(ehlo=b"250-STARTTLS\r\n250 HELP\r\n"), NOT_OFFERED, ""),
            (servers.smtp(starttls=b"454 4.7.0 x\r\n"), f"STARTTLS: {NO_TLS}", "454 4.7.0 x"),
            (servers.smtp(starttls=b"530 5.7.0 x\r\n"), f"STARTTLS: {FIRST}", "530 5.7.0 x"),
            (servers.smtp(starttls=b"554 x\r\n"), "STARTTLS: it refuses this host", "554 x"),
            (servers.smtp(starttls=b"220 go\r\n250 more\r\n"), INJECTED, "250 more"),
            (servers.hang_up, "connection closed before TLS", ""),
        ],
    )
    def test_an_answer_is_reported_as_what_it_means(self, talk: servers.Talk, told: str, words: str) -> None:
        chain = ask(talk).chain
        assert isinstance(chain, Unknown)
        assert chain.why == told + f" (its own words: {words})" * bool(words)
        assert chain.reached != told.startswith(BEFORE_TLS)

    def test_a_greeting_in_two_parts_is_waited_for(self) -> None:
        def talk(connection: socket.socket) -> None:
            connection.sendall(b"220-please")
            time.sleep(0.2)
            connection.sendall(b" wait\r\n")
            time.sleep(0.2)
            servers.smtp(BOTH)(connection)

        assert spki(ask(talk)) == EC.spki

    def test_the_server_is_left_politely(self) -> None:
        got: list[bytes] = []

        def talk(connection: socket.socket) -> None:
            connection.sendall(b"220 x\r\n")
            lines = connection.makefile("rb")
            got.append(lines.readline().split()[0])
            connection.sendall(b"250-x\r\n250 starttls\r\n")
            got.append(lines.readline())
            connection.sendall(b"220 x\r\n")
            with BOTH.wrap_socket(connection, server_side=True) as secure:
                got.append(secure.recv(100))
                secure.sendall(b"221 bye\r\n")

        ask(talk)
        until(lambda: got == [b"EHLO", b"STARTTLS\r\n", b"QUIT\r\n"], 5, "each was heard")


class TestOtherProtocols:
    @pytest.mark.parametrize(
        ("mode", "talk"),
        [
            ("imap", servers.imap(BOTH)),
            ("imap", servers.imap(BOTH, banner=b"* ok [capability IMAP4 starttls] x\r\n", capability=b"")),
            ("imap", servers.imap(BOTH, starttls=b"* OK still here\r\na2 OK begin\r\n")),
            ("pop3", servers.pop3(BOTH)),
            ("pop3", servers.pop3(BOTH, capa=b"-ERR what is that\r\n")),
            ("sieve", servers.sieve(BOTH)),
            ("sieve", servers.sieve(BOTH, banner=b'"STARTTLS"\r\nok\r\n', starttls=b"OK {5}\r\nbegin\r\n")),
        ],
    )
    def test_tls_begins(self, mode: Mode, talk: servers.Talk) -> None:
        assert spki(ask(talk, "rsa-2048", mode)) == RSA.spki

    @pytest.mark.parametrize(
        ("mode", "talk", "told", "words"),
        [
            ("imap", servers.imap(banner=b"* BYE full\r\n"), f"greeting: {TURNED_AWAY}", "* BYE full"),
            ("imap", servers.imap(banner=b"* PREAUTH hi\r\n"), f"greeting: {PREAUTH}", "* PREAUTH hi"),
            ("imap", servers.imap(banner=b"+OK POP3\r\n"), "not an IMAP greeting: +OK POP3", ""),
            ("imap", servers.imap(banner=b"* OKAY\r\n"), "not an IMAP greeting: * OKAY", ""),
            ("imap", servers.imap(banner=b"* OK [CAPABILITY IMAP4rev1 XSTARTTLS] x\r\n"), NOT_OFFERED, ""),
            ("imap", servers.imap(capability=b"* CAPABILITY IMAP4rev1\r\na1 OK x\r\n"), NOT_OFFERED, ""),
            ("imap", servers.imap(capability=b"a1 BAD what\r\n"), "CAPABILITY: refused", "a1 BAD what"),
            ("imap", servers.imap(capability=b"a7 OK x\r\n"), "not an IMAP reply: a7 OK x", ""),
            ("imap", servers.imap(capability=b"a1 OKAY\r\n"), "not an IMAP reply: a1 OKAY", ""),
            ("imap", servers.imap(capability=b"* x\r\n" * 101), "a reply of more than 100 lines", ""),
            ("imap", servers.imap(starttls=b"a2 NO [X] y\r\n"), f"STARTTLS: {TLS_REFUSED}", "a2 NO [X] y"),
            ("imap", servers.imap(starttls=b"a2 BAD x\r\n"), f"STARTTLS: {TLS_REFUSED}", "a2 BAD x"),
            ("imap", servers.imap(starttls=b"* BYE \x07now\r\n"), f"STARTTLS: {TURNED_AWAY}", "* BYE ?now"),
            ("imap", servers.imap(starttls=b"a2 OK go\r\n* OK hello\r\n"), INJECTED, "* OK hello"),
            ("imap", servers.imap(banner=b"* OK " + b"x" * 9000), "a line of more than 8192 bytes", ""),
            ("pop3", servers.pop3(banner=b"-ERR [IN-USE] x\r\n"), f"greeting: {TURNED_AWAY}", "-ERR [IN-USE] x"),
            ("pop3", servers.pop3(banner=b"220 mx1\r\n"), "not a POP3 reply: 220 mx1", ""),
            ("pop3", servers.pop3(capa=b"+OK\r\nTOP\r\nXSTLS\r\n.\r\n"), NOT_OFFERED, ""),
            ("pop3", servers.pop3(capa=b"+OK\r\n" + b"X\r\n" * 101), "a reply of more than 100 lines", ""),
            ("pop3", servers.pop3(stls=b"-ERR x\r\n"), f"STLS: {TLS_REFUSED}", "-ERR x"),
            ("pop3", servers.pop3(stls=b"+OK go\r\n+OK hello\r\n"), INJECTED, "+OK hello"),
            ("sieve", servers.sieve(banner=b'BYE "full"\r\n'), f"greeting: {TURNED_AWAY}", 'BYE "full"'),
            ("sieve", servers.sieve(banner=b"NO {6}\r\na\r\nb c\r\n"), f"greeting: {TURNED_AWAY}", "NO {6} a b c"),
            ("sieve", servers.sieve(banner=b'"SASL" "PLAIN"\r\n"XSTARTTLS"\r\nOK\r\n'), NOT_OFFERED, ""),
            ("sieve", servers.sieve(banner=b"* OK IMAP\r\n"), "not a ManageSieve reply: * OK IMAP", ""),
            ("sieve", servers.sieve(banner=b'"x"\r\n' * 101), "a reply of more than 100 lines", ""),
            ("sieve", servers.sieve(starttls=b'NO "x"\r\n'), f"STARTTLS: {TLS_REFUSED}", 'NO "x"'),
            ("sieve", servers.sieve(starttls=b'OK\r\n"SIEVE" "y"\r\n'), INJECTED, '"SIEVE" "y"'),
            ("sieve", servers.sieve(starttls=b"OK {998}\r\n" + b"\r\n" * 500 + b"OK\r\n"), INJECTED, "OK"),
            ("imap", servers.hang_up, "connection closed before TLS", ""),
            ("pop3", servers.hang_up, "connection closed before TLS", ""),
            ("sieve", servers.hang_up, "connection closed before TLS", ""),
        ],
    )
    def test_an_answer_is_reported_as_what_it_means(
        self, mode: Mode, talk: servers.Talk, told: str, words: str
    ) -> None:
        chain = ask(talk, mode=mode).chain
        assert isinstance(chain, Unknown)
        assert chain.why == told + f" (its own words: {words})" * bool(words)
        assert chain.reached != told.startswith(BEFORE_TLS)

    @pytest.mark.parametrize("mode", ["imap", "pop3", "sieve"])
    def test_one_that_never_answers_is_given_up(self, mode: Mode) -> None:
        assert why(ask(silent, mode=mode, timeout_s=0.2)) == "no answer within 0.2 s"

    @pytest.mark.parametrize(
        ("mode", "expected"),
        [
            ("imap", [b"a1 CAPABILITY\r\n", b"a2 STARTTLS\r\n", b"a3 LOGOUT\r\n"]),
            ("pop3", [b"CAPA\r\n", b"STLS\r\n", b"QUIT\r\n"]),
            ("sieve", [b"STARTTLS\r\n", b"LOGOUT\r\n"]),
        ],
    )
    def test_what_is_said_and_that_the_server_is_left_politely(self, mode: Mode, expected: list[bytes]) -> None:
        got: list[bytes] = []

        def talk(connection: socket.socket) -> None:
            plain = {"imap": servers.imap, "pop3": servers.pop3, "sieve": servers.sieve}[mode]
            heard = _Heard(connection, got)
            plain()(heard)  # pyright: ignore[reportArgumentType]
            with BOTH.wrap_socket(connection, server_side=True) as secure:
                got.append(secure.recv(100))

        ask(talk, mode=mode)
        until(lambda: got == expected, 5, "each was heard")

    @given(st.sampled_from(["smtp", "imap", "pop3", "sieve"]), st.lists(st.binary(max_size=30), max_size=6))
    def test_anything_at_all_ends_with_a_reason(self, mode: Mode, said: list[bytes]) -> None:
        stream = _Recorded(b"\n".join(said))
        with contextlib.suppress(starttls.Unseen):
            starttls.begin(stream, mode)
            assert not stream.pending()


class _Heard:
    """A connection whose lines are noted as they are read."""

    def __init__(self, connection: socket.socket, got: list[bytes]) -> None:
        self.sendall = connection.sendall
        self._lines, self._got = connection.makefile("rb"), got

    def makefile(self, _: str) -> _Heard:
        return self

    def readline(self) -> bytes:
        self._got.append(self._lines.readline())
        return self._got[-1]


class _Recorded(starttls.Stream):
    """What a server said, to the last byte; then it closes."""

    def __init__(self, said: bytes) -> None:
        self.deadline = 0.0
        self._buffer = said

    def receive(self) -> bytes:
        return b""

    def send(self, data: bytes) -> None:
        pass

    def own_address(self) -> str:
        return "::1"


class TestTime:
    @pytest.mark.parametrize("mode", ["smtp", "tls"])
    def test_a_server_that_never_answers_is_given_up(self, mode: Mode) -> None:
        assert why(ask(silent, mode=mode, timeout_s=0.2)) == "no answer within 0.2 s"

    def test_a_server_that_drips_is_given_up(self) -> None:
        def talk(connection: socket.socket) -> None:
            for _ in range(100):
                connection.sendall(b"2")
                time.sleep(0.05)

        assert why(ask(talk, timeout_s=0.3)) == "no answer within 0.3 s"

    def test_a_server_silent_after_starttls_is_given_up(self) -> None:
        def talk(connection: socket.socket) -> None:
            servers.smtp()(connection)
            silent(connection)

        assert why(ask(talk, timeout_s=0.3)) == "no answer within 0.3 s"

    def test_one_that_does_not_answer_quit_was_seen_all_the_same(self) -> None:
        got: list[bytes] = []
        left = threading.Event()

        def talk(connection: socket.socket) -> None:
            servers.smtp()(connection)
            with BOTH.wrap_socket(connection, server_side=True) as secure:
                got.append(secure.recv(100))
                got.append(secure.recv(100))
                left.set()

        assert spki(ask(talk, timeout_s=60)) == EC.spki
        assert left.wait(5)
        assert got == [b"QUIT\r\n", b""]


def test_a_closed_port_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    served = handshake.probe(Service(HOST, port, "smtp"), "127.0.0.1", "rsa-2048", 5)
    assert why(served) == "Connection refused"


class TestAll:
    @pytest.fixture
    def port(self) -> Iterator[int]:
        with servers.serving(servers.smtp(BOTH)) as port:
            yield port

    def test_every_address_and_every_key_type_in_order(self, port: int) -> None:
        services = [Service("a.example", port, "smtp"), Service("b.example", port, "smtp", ("127.0.0.1",))]
        served = handshake.probe_all(services, lambda host: ("127.0.0.1", "127.0.0.2"), ["ecdsa-p256", "rsa-2048"], 5)
        assert [(one.host, one.address, one.key_type, one.version) for one in served] == [
            ("a.example", "127.0.0.1", "ecdsa-p256", "1.3"),
            ("a.example", "127.0.0.1", "ecdsa-p256", "1.2"),
            ("a.example", "127.0.0.1", "rsa-2048", "1.3"),
            ("a.example", "127.0.0.1", "rsa-2048", "1.2"),
            ("a.example", "127.0.0.2", "ecdsa-p256", ""),
            ("a.example", "127.0.0.2", "rsa-2048", ""),
            ("b.example", "127.0.0.1", "ecdsa-p256", "1.3"),
            ("b.example", "127.0.0.1", "ecdsa-p256", "1.2"),
            ("b.example", "127.0.0.1", "rsa-2048", "1.3"),
            ("b.example", "127.0.0.1", "rsa-2048", "1.2"),
        ]
        assert spki(served[1]) == EC.spki
        assert spki(served[2]) == spki(served[3]) == RSA.spki
        assert why(served[4]) == "Connection refused"

    @pytest.mark.parametrize(("version", "spoken"), [(TLS12, "1.2"), (TLS13, "1.3")])
    def test_a_version_that_a_server_does_not_speak_is_no_failure(self, version: ssl.TLSVersion, spoken: str) -> None:
        served = ask_all(servers.smtp(servers.context(EC, RSA, version=version)), "ecdsa-p256", "rsa-2048")
        assert [(spki(one), one.version) for one in served] == [(EC.spki, spoken), (RSA.spki, spoken)]

    def test_a_server_that_closes_where_it_does_not_speak_tls_12_is_no_failure(self) -> None:
        context = servers.context(EC)

        def talk(connection: socket.socket) -> None:
            servers.smtp()(connection)
            if offers_13(connection):
                servers.tls(context)(connection)
            else:
                connection.recv(4096)

        assert [(spki(one), one.version) for one in ask_all(talk, "ecdsa-p256")] == [(EC.spki, "1.3")]

    def test_a_missing_key_type_is_reported_once(self) -> None:
        *well, missing = ask_all(servers.smtp(servers.context(EC)), "ecdsa-p256", "rsa-2048")
        assert [(spki(one), one.version) for one in well] == [(EC.spki, "1.3"), (EC.spki, "1.2")]
        assert why(missing).endswith(" alert handshake failure")

    def test_tls_12_that_fails_in_another_way_is_a_failure(self) -> None:
        context = servers.context(EC)

        def talk(connection: socket.socket) -> None:
            servers.smtp()(connection)
            if offers_13(connection):
                servers.tls(context)(connection)
            else:
                connection.recv(4096)
                connection.sendall(b"\x15\x03\x03\x00\x02\x02\x50")  # the alert `internal error`

        well, failed = ask_all(talk, "ecdsa-p256")
        assert (spki(well), well.version) == (EC.spki, "1.3")
        assert why(failed).endswith(" alert internal error")

    def test_a_server_that_always_closes_is_a_failure(self) -> None:
        (served,) = ask_all(servers.smtp(), "ecdsa-p256")
        assert "closed the connection without a word" in why(served)

    def test_a_server_whose_tls_13_fails_is_not_taken_for_one_without(self) -> None:
        with_13, with_12 = servers.context(), servers.context(EC, version=TLS12)

        def talk(connection: socket.socket) -> None:
            servers.smtp()(connection)
            context = with_13 if offers_13(connection) else with_12
            context.wrap_socket(connection, server_side=True).close()

        failed, well = ask_all(talk, "ecdsa-p256")
        assert (spki(well), well.version) == (EC.spki, "1.2")
        assert why(failed).startswith("TLS 1.3 or 1.2 handshake failed: ")

    def test_a_second_certificate_that_the_server_prefers_is_seen(self) -> None:
        served = ask_all(servers.smtp(BOTH), "rsa-2048")
        assert [(spki(one), one.key_type, one.version) for one in served] == [
            (EC.spki, "ecdsa-p256", "1.3"),
            (RSA.spki, "rsa-2048", "1.2"),
        ]

    def test_every_name_is_asked_for(self) -> None:
        other = chains.make("ecdsa-p256", "mail.corp.example")
        context, second = servers.context(EC), servers.context(other)

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            connection.context = second if name == "mail.corp.example" else context

        context.sni_callback = choose
        served = ask_all(servers.smtp(context), "ecdsa-p256", sni=(HOST, "", "mail.corp.example"))
        assert [(one.sni, one.version, spki(one)) for one in served] == [
            (sni, version, spki_)
            for sni, spki_ in ((HOST, EC.spki), ("", EC.spki), ("mail.corp.example", other.spki))
            for version in ("1.3", "1.2")
        ]
        where = f"{HOST} [127.0.0.1]:{served[0].port} ecdsa-p256, TLS 1.3"
        assert [one.where for one in served[::2]] == [where, f"{where}, SNI none", f"{where}, SNI mail.corp.example"]

    def test_ipv6(self) -> None:
        with servers.serving(servers.smtp(BOTH), "::1") as port:
            served = handshake.probe_all([Service(HOST, port, "smtp", ("::1",))], lambda _: (), ["ecdsa-p256"], 5)
        assert [(spki(one), one.where) for one in served] == [
            (EC.spki, f"{HOST} [::1]:{port} ecdsa-p256, TLS {version}") for version in ("1.3", "1.2")
        ]

    def test_a_host_without_addresses_is_not_passed_over(self, port: int) -> None:
        def addresses(host: str) -> tuple[str, ...]:
            if host == "broken.example":
                raise Transient("dns.timeout", "no answer from DNS")
            return ()

        services = [Service(name, port, "smtp") for name in ("none.example", "broken.example")]
        served = handshake.probe_all(services, addresses, ["rsa-2048"], 5)
        assert [(one.host, one.address, why(one)) for one in served] == [
            ("none.example", "", "none.example has no address"),
            ("broken.example", "", "no answer from DNS [dns.timeout]"),
        ]

    def test_side_by_side(self) -> None:
        there: list[int] = [0]
        counting = threading.Lock()
        full = threading.Barrier(8)

        def silent(connection: socket.socket) -> None:
            with counting:
                there.append(there[-1] + 1)
            full.wait(30)
            time.sleep(0.2)  # a ninth would come now
            with counting:  # before it is closed: nobody is counted who has left
                there.append(there[-1] - 1)

        with servers.serving(silent) as port:
            services = [Service(HOST, port, "tls", ("127.0.0.1",))] * 8
            handshake.probe_all(services, lambda _: (), ["rsa-2048", "ecdsa-p256"], 60)
        assert len(there) == 1 + 2 * 32
        assert max(there) == 8


class TestChain:
    """What is sent is compared whole and in order: the leaf, and each issuer after it."""

    ROOT = chains.make("ecdsa-p256", "root.example").issuer
    INSTALLED = facts(
        [EC.der, *(x509.load_pem_x509_certificate(p).public_bytes(Encoding.DER) for p in (EC.issuer, ROOT))]
    )
    GENERATION = Generation("g1", "k1", {"ecdsa-p256": INSTALLED}, Instant(INSTALLED.not_before, 0.0))

    def served(self, *certificates: bytes) -> Served:
        return ask(servers.smtp(servers.context(b"".join((EC.key, *certificates)))))

    def checked(self, served: Served, installed: Generation | None) -> Finding:
        at = Installation(generation=installed.id if installed else None, phase="drained")
        state = State(name="mx", generations=(installed,) if installed else ())
        now = self.INSTALLED.not_before
        [finding] = served_check._compare(served, at, state, now)  # pyright: ignore[reportPrivateUsage]
        return finding

    def test_the_whole_chain_is_right(self) -> None:
        served = self.served(EC.leaf, EC.issuer, self.ROOT)
        assert serving._is(served, self.GENERATION)  # pyright: ignore[reportPrivateUsage]
        assert self.checked(served, self.GENERATION).outcome == "ok"

    @pytest.mark.parametrize(
        ("sent", "told"),
        [
            ([EC.leaf], "the wrong issuers: 0 issuers in place of 2, or others"),
            ([EC.leaf, EC.issuer], "the wrong issuers: 1 issuer in place of 2, or others"),
            ([EC.leaf, ROOT, EC.issuer], "the wrong issuers: in another order"),
            ([EC.leaf, EC.issuer, RSA.issuer], "the wrong issuers: 2 issuers in place of 2, or others"),
            ([EC.leaf, EC.issuer, ROOT, ROOT], "the wrong issuers: 3 issuers in place of 2, or others"),
        ],
    )
    def test_an_issuer_that_is_missing_misplaced_or_strange_is_reported(self, sent: list[bytes], told: str) -> None:
        served = self.served(*sent)
        assert spki(served) == EC.spki
        assert not serving._is(served, self.GENERATION)  # pyright: ignore[reportPrivateUsage]
        assert serving._difference(served, self.GENERATION).endswith(told)  # pyright: ignore[reportPrivateUsage]
        finding = self.checked(served, self.GENERATION)
        assert (finding.outcome, finding.detail) == ("error", "serves what was installed, with other issuers")

    def test_another_certificate_another_key_and_another_kind_are_reported(self) -> None:
        served = self.served(EC.leaf, EC.issuer, self.ROOT)
        assert isinstance(served.chain, Chain)
        later = replace(self.INSTALLED, serial="1", not_before=self.INSTALLED.not_before + timedelta(days=1))
        other = replace(later, spki="0" * 64)
        for leaves, told in (
            ({"ecdsa-p256": later}, f"serves certificate {served.chain.serial} in place of 1"),
            ({"ecdsa-p256": other}, f"serves another key, {EC.spki[:12]} in place of 000000000000"),
            ({"rsa-2048": other}, "serves a key type that is not installed; take it out, or list both under keys"),
        ):
            generation = replace(self.GENERATION, chains=leaves)
            assert not serving._is(served, generation)  # pyright: ignore[reportPrivateUsage]
            assert serving._difference(served, generation) == f"{served.where}: {told}"  # pyright: ignore[reportPrivateUsage]
            assert self.checked(served, generation).outcome == "error"
        assert self.checked(served, None).outcome == "note"


class TestKindThatWent:
    """RSA was taken out of the config: its records go only when no handshake gets it any more."""

    @pytest.mark.parametrize(("context", "ends"), [(BOTH, ev.VerifyFailed), (servers.context(EC), ev.Verified)])
    def test_it_is_looked_for_before_the_old_generation_counts_as_gone(
        self, context: ssl.SSLContext, ends: type[ev.AnyEvent]
    ) -> None:
        with servers.serving(servers.smtp(context)) as port:
            service = Service(HOST, port, "smtp", ("127.0.0.1",))
            ec, rsa = (handshake.probe(service, "127.0.0.1", a, 5).chain for a in ("ecdsa-p256", "rsa-2048"))
            assert isinstance(ec, Chain)
            both = {"ecdsa-p256": ec, "rsa-2048": rsa if isinstance(rsa, Chain) else replace(ec, spki="00" * 32)}
            now = Instant(ec.not_before, 0.0)
            generations = Generation("g1", "k1", both, now), Generation("g2", "k2", {"ecdsa-p256": ec}, now)
            at = Installation(("g1", "g2"), ("g1", "g2"), "g2", "g1", "verified", now, now)
            state = State(HOST, generations=generations, mail_servers={"postfix": at})
            spec = replace(SPEC, mail_servers=(MailServer("postfix", (service,)),))

            def met(services: Iterable[Service], kinds: Sequence[str], **more: Any) -> list[Served]:
                return handshake.probe_all(services, lambda _: (), kinds, 5, **more)

            edges: Any = SimpleNamespace(probe=met, servers={"postfix": QUIET})
            step = Verify(server="postfix", generation="g2", drained=True, because="")
            first, *_ = dispatch.act(step, spec, state, edges, now, lambda _: None)
        assert isinstance(first, ends)


QUIET = SimpleNamespace(installed=dict, claims=tuple)
"""A mail server without files."""


class TestFiles:
    """While old processes answer with what is expected, the files may hold something else already."""

    @pytest.mark.parametrize("drained", [True, False])
    @pytest.mark.parametrize("there", [{}, {"ecdsa-p256": EC.der}, {"ecdsa-p256": EC.der, "rsa-2048": RSA.der}])
    def test_another_certificate_in_the_files_is_no_proof_that_nothing_else_is_served(
        self, drained: bool, there: dict[str, bytes]
    ) -> None:
        with servers.serving(servers.smtp(servers.context(EC.key + EC.leaf + EC.issuer + TestChain.ROOT))) as port:
            service = Service(HOST, port, "smtp", ("127.0.0.1",))

            def probe(services: Iterable[Service], kinds: Sequence[str], **more: Any) -> list[Served]:
                return handshake.probe_all(services, lambda _: (), kinds, 5, **more)

            now = Instant(TestChain.INSTALLED.not_before, 0.0)
            at = Installation(("g1",), ("g1",), "g1", None, "drained", now, now)
            state = State(HOST, generations=(TestChain.GENERATION,), mail_servers={"postfix": at})
            spec = replace(SPEC, mail_servers=(MailServer("postfix", (service,)),))
            edges: Any = SimpleNamespace(
                probe=probe, servers={"postfix": SimpleNamespace(installed=lambda: there, claims=tuple)}
            )
            step = Verify(server="postfix", generation="g1", drained=drained, because="")
            events = dispatch.act(step, spec, state, edges, now, lambda _: None)
        if len(there) < 2 or not drained:
            assert [type(event) for event in events] == [ev.Verified]
            return
        failed, why = events
        assert isinstance(failed, ev.VerifyFailed)
        assert isinstance(why, ev.Failed)
        assert (why.code, why.concerns) == ("mta.replaced", "served")
        assert RSA.spki[:12] in why.detail
        after = fold(fold(state, failed, now), why, now)
        assert after.mail_servers["postfix"].phase == "drifted"
        assert [chain.spki for chain in after.mail_servers["postfix"].strange] == [RSA.spki]


class TestNotOffered:
    """A port without TLS, which was so before the swap, or which is new, or which the swap brought."""

    @pytest.mark.parametrize(
        ("phase", "services", "before", "code"),
        [
            ("reloaded", (), True, "mta.not_offered"),
            ("reloaded", (), False, "mta.not_served"),
            ("drained", (), False, "mta.not_offered"),
            ("drained", (HOST,), False, "mta.not_served"),
        ],
    )
    def test_only_what_the_swap_brought_is_put_back(
        self, phase: Phase, services: tuple[str, ...], before: bool, code: str
    ) -> None:
        with servers.serving(servers.smtp(ehlo=b"250 mx1\r\n")) as port:
            service = Service(HOST, port, "smtp", ("127.0.0.1",))
            met = tuple(f"{host}:{port}" for host in services)

            def probe(services: Iterable[Service], kinds: Sequence[str], **more: Any) -> list[Served]:
                return handshake.probe_all(services, lambda _: (), kinds, 5)

            seen = tuple(str(one.unseen) for one in probe([service], ["ecdsa-p256"])) if before else ()
            leaf = TestChain.INSTALLED
            now = Instant(leaf.not_before, 0.0)
            at = Installation(("g1",), ("g1",), "g1", None, phase, now, now, met, before=seen)
            state = State(HOST, generations=(TestChain.GENERATION,), mail_servers={"postfix": at})
            spec = replace(SPEC, mail_servers=(MailServer("postfix", (service,)),))
            edges: Any = SimpleNamespace(probe=probe, servers={"postfix": QUIET})
            step = Verify(server="postfix", generation="g1", drained=True, because="")
            first, failed = dispatch.act(step, spec, state, edges, now, lambda _: None)
        assert isinstance(first, ev.VerifyFailed)
        assert isinstance(failed, ev.Failed)
        assert (failed.code, failed.concerns == "served", first.as_before) == (
            code,
            code == "mta.not_served",
            code == "mta.not_offered",
        )


class TestReply:
    @given(
        st.integers(200, 599),
        st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=99), min_size=1, max_size=99),
    )
    def test_every_reply_of_rfc_5321_is_read(self, code: int, texts: list[str]) -> None:
        lines = [f"{code}-{text}" for text in texts[:-1]] + [f"{code} {texts[-1]}"]
        left = iter([line.encode() for line in lines] + [b"250 of the next reply"])
        assert starttls.reply(lambda: next(left)) == (str(code), texts)
        assert next(left) == b"250 of the next reply"

    @given(st.lists(st.binary(max_size=40)))
    def test_anything_else_fails_and_what_is_reported_is_printable(self, lines: list[bytes]) -> None:
        left = iter([*lines, *[b"220-x"] * 101])
        try:
            code, texts = starttls.reply(lambda: next(left))
        except starttls.Unseen as unseen:
            code, texts = "", [str(unseen)]
        assert code == "" or code.isdigit()
        assert all(text.isprintable() for text in texts)
