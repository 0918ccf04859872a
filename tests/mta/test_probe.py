"""What a service serves is told as it is, and what could not be seen is told with its reason."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certagent.errors import Transient
from certagent.lifecycle.model import Served, Service, Unknown
from certagent.mta import probe
from tests.mta import chains, servers

HOST = "mx1.corp.example"
EC = chains.make("ecdsa-p256", HOST)
RSA = chains.make("rsa-2048", HOST)
BOTH = servers.context(EC, RSA)
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def ask(
    talk: servers.Talk, algorithm: str = "ecdsa-p256", mode: Literal["smtp", "tls"] = "smtp", timeout_s: float = 5
) -> Served:
    with servers.serving(talk) as port:
        return probe.probe(Service(HOST, port, mode), "127.0.0.1", algorithm, timeout_s)


def why(served: Served) -> str:
    assert isinstance(served.leaf, Unknown)
    return served.leaf.why


def spki(served: Served) -> str:
    assert not isinstance(served.leaf, Unknown), served.leaf
    return served.leaf.spki


class TestHandshake:
    @pytest.mark.parametrize("mode", ["smtp", "tls"])
    @pytest.mark.parametrize("chain", [EC, RSA])
    @pytest.mark.parametrize("version", [None, TLS12])
    def test_each_kind_of_key_is_seen_beside_the_other(
        self, chain: chains.Chain, mode: Literal["smtp", "tls"], version: ssl.TLSVersion | None
    ) -> None:
        context = servers.context(EC, RSA, version=version)
        talk = servers.smtp(context) if mode == "smtp" else servers.tls(context)
        served = ask(talk, "ecdsa-p256" if chain is EC else "rsa-2048", mode)
        assert spki(served) == chain.spki

    def test_the_facts_are_those_of_the_chain_as_it_was_sent(self) -> None:
        served = ask(servers.smtp(BOTH))
        leaf = served.leaf
        assert not isinstance(leaf, Unknown)
        assert (leaf.issuers, leaf.names) == ((EC.issuer_spki,), (HOST,))
        assert (served.host, served.address, served.algorithm) == (HOST, "127.0.0.1", "ecdsa-p256")
        assert 0 < served.took_s < 5

    def test_a_server_for_tls_13_only_is_taken_as_it_is(self) -> None:
        talk = servers.smtp(servers.context(RSA, version=TLS13))
        assert spki(ask(talk, "rsa-2048")) == RSA.spki
        told = why(ask(talk, "ecdsa-p256"))
        assert told.startswith("no ecdsa certificate: with TLS 1.3 the server chose another kind (TLS 1.2 handshake")

    def test_a_missing_kind_of_key_is_told(self) -> None:
        assert "no rsa certificate" in why(ask(servers.smtp(servers.context(EC)), "rsa-2048"))
        why_12 = why(ask(servers.smtp(servers.context(EC, version=TLS12)), "rsa-2048"))
        assert why_12.startswith("TLS 1.2 handshake failed: ")
        assert why_12.endswith(" alert handshake failure")  # OpenSSL 3.x: sslv3, then tls

    def test_a_server_without_any_certificate_fails_the_handshake(self) -> None:
        assert "handshake failed" in why(ask(servers.smtp(servers.context())))

    def test_the_name_is_asked_for(self) -> None:
        names: list[str | None] = []
        context = servers.context(EC)
        context.sni_callback = lambda _sock, name, _context: names.append(name)
        ask(servers.smtp(context))
        assert names == [HOST]

    def test_no_session_is_resumed(self) -> None:
        context = servers.context(EC)
        with servers.serving(servers.smtp(context)) as port:
            for _ in range(3):
                assert spki(probe.probe(Service(HOST, port, "smtp"), "127.0.0.1", "ecdsa-p256", 5)) == EC.spki
        assert context.session_stats()["hits"] == 0

    @pytest.mark.parametrize("junk", [b"", b"junk" * 9, b"\x16\x03\x03\xff\xff" + b"x" * 99])
    def test_what_is_not_tls_is_a_failed_handshake(self, junk: bytes) -> None:
        def talk(connection: socket.socket) -> None:
            connection.recv(9999)
            connection.sendall(junk)

        assert "handshake failed" in why(ask(talk, mode="tls"))

    def test_a_reset_is_told(self) -> None:
        def talk(connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        assert why(ask(talk, mode="tls"))

    def test_an_unknown_kind_of_key_is_told(self) -> None:
        assert "pem.algorithm" in why(ask(servers.smtp(BOTH), "dsa-1024"))


class TestSmtp:
    @pytest.mark.parametrize(
        ("talk", "told"),
        [
            (servers.smtp(banner=b"554 5.7.1 no\r\n"), "greeting: 554 5.7.1 no"),
            (servers.smtp(banner=b"421-busy\r\n421 later\r\n"), "greeting: 421 busy later"),
            (servers.smtp(banner=b"SSH-2.0-x\r\n"), "not an SMTP reply: SSH-2.0-x"),
            (servers.smtp(banner=b"220-a\r\n221 b\r\n"), "not an SMTP reply: 221 b"),
            (servers.smtp(banner=b"\x1b[31mred\r\n"), "not an SMTP reply: ?[31mred"),
            (servers.smtp(banner=b"220-x\r\n" * 101), "a reply of more than 100 lines"),
            (servers.smtp(banner=b"220 " + b"x" * 5000), "a line of more than 2048 bytes"),
            (servers.smtp(ehlo=b"502 what\r\n"), "EHLO: 502 what"),
            (servers.smtp(ehlo=b"250 mx1\r\n"), "STARTTLS is not offered"),
            (servers.smtp(ehlo=b"250-STARTTLS\r\n250 HELP\r\n"), "STARTTLS is not offered"),
            (servers.smtp(starttls=b"454 4.7.0 TLS not available\r\n"), "STARTTLS: 454 4.7.0 TLS not available"),
            (servers.smtp(starttls=b"220 go\r\n250 more\r\n"), "data in the clear after the reply to STARTTLS"),
            (servers.hang_up, "connection closed before TLS"),
        ],
    )
    def test_an_answer_is_told_as_what_it_means(self, talk: servers.Talk, told: str) -> None:
        assert why(ask(talk)) == told

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

        assert ask(talk).took_s < 1
        assert got == [b"EHLO", b"STARTTLS\r\n", b"QUIT\r\n"]


class TestTime:
    @pytest.mark.parametrize("mode", ["smtp", "tls"])
    def test_a_server_that_never_answers_is_given_up(self, mode: Literal["smtp", "tls"]) -> None:
        served = ask(lambda connection: time.sleep(2), mode=mode, timeout_s=0.2)
        assert why(served) == "no answer within 0.2 s"
        assert served.took_s < 1

    def test_a_server_that_drips_is_given_up(self) -> None:
        def talk(connection: socket.socket) -> None:
            for _ in range(100):
                connection.sendall(b"2")
                time.sleep(0.05)

        served = ask(talk, timeout_s=0.3)
        assert why(served) == "no answer within 0.3 s"
        assert served.took_s < 1

    def test_a_server_silent_after_starttls_is_given_up(self) -> None:
        def silent(connection: socket.socket) -> None:
            servers.smtp()(connection)
            time.sleep(2)

        assert why(ask(silent, timeout_s=0.3)) == "no answer within 0.3 s"

    def test_one_that_does_not_answer_quit_was_seen_all_the_same(self) -> None:
        def talk(connection: socket.socket) -> None:
            servers.smtp()(connection)
            with BOTH.wrap_socket(connection, server_side=True):
                time.sleep(3)

        served = ask(talk)
        assert spki(served) == EC.spki
        assert served.took_s < 2


def test_a_closed_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    served = probe.probe(Service(HOST, port, "smtp"), "127.0.0.1", "rsa-2048", 5)
    assert why(served) == "Connection refused"


class TestAll:
    @pytest.fixture
    def port(self) -> Iterator[int]:
        with servers.serving(servers.smtp(BOTH)) as port:
            yield port

    def test_every_address_and_every_kind_of_key_in_order(self, port: int) -> None:
        services = [Service("a.example", port, "smtp"), Service("b.example", port, "smtp", ("127.0.0.1",))]
        served = probe.probe_all(services, lambda host: ("127.0.0.1", "127.0.0.2"), ["ecdsa-p256", "rsa-2048"], 5)
        assert [(one.host, one.address, one.algorithm) for one in served] == [
            ("a.example", "127.0.0.1", "ecdsa-p256"),
            ("a.example", "127.0.0.1", "rsa-2048"),
            ("a.example", "127.0.0.2", "ecdsa-p256"),
            ("a.example", "127.0.0.2", "rsa-2048"),
            ("b.example", "127.0.0.1", "ecdsa-p256"),
            ("b.example", "127.0.0.1", "rsa-2048"),
        ]
        assert spki(served[1]) == RSA.spki
        assert why(served[2]) == "Connection refused"

    def test_a_host_without_addresses_is_not_passed_over(self, port: int) -> None:
        def addresses(host: str) -> tuple[str, ...]:
            if host == "broken.example":
                raise Transient("dns.timeout", "no answer from DNS")
            return ()

        services = [Service(name, port, "smtp") for name in ("none.example", "broken.example")]
        served = probe.probe_all(services, addresses, ["rsa-2048"], 5)
        assert [(one.host, one.address, why(one)) for one in served] == [
            ("none.example", "", "none.example has no address"),
            ("broken.example", "", "no answer from DNS [dns.timeout]"),
        ]

    def test_side_by_side(self) -> None:
        with servers.serving(lambda connection: time.sleep(2)) as port:
            began = time.monotonic()
            services = [Service(HOST, port, "tls", ("127.0.0.1",))] * 8
            served = probe.probe_all(services, lambda _: (), ["rsa-2048", "ecdsa-p256"], 0.5)
        assert len(served) == 16
        assert time.monotonic() - began < 1.5


class TestReply:
    @given(
        st.integers(200, 599),
        st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=99), min_size=1, max_size=99),
    )
    def test_every_reply_of_rfc_5321_is_read(self, code: int, texts: list[str]) -> None:
        lines = [f"{code}-{text}" for text in texts[:-1]] + [f"{code} {texts[-1]}"]
        left = iter([line.encode() for line in lines] + [b"250 of the next reply"])
        assert probe.reply(lambda: next(left)) == (str(code), texts)
        assert next(left) == b"250 of the next reply"

    @given(st.lists(st.binary(max_size=40)))
    def test_anything_else_fails_and_what_is_told_is_printable(self, lines: list[bytes]) -> None:
        left = iter([*lines, *[b"220-x"] * 101])
        try:
            code, texts = probe.reply(lambda: next(left))
        except probe.Unseen as unseen:
            code, texts = "", [str(unseen)]
        assert code == "" or code.isdigit()
        assert all(text.isprintable() for text in texts)
