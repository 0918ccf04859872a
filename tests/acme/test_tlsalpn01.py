"""tls-alpn-01: what the certificate says, and who is shown it."""

from __future__ import annotations

import hashlib
import socket
import ssl
from contextlib import suppress

import pytest
from cryptography import x509

from certagent.acme.challenges import tlsalpn01
from certagent.acme.challenges.protocol import Offer
from certagent.acme.challenges.tlsalpn01 import ACME_IDENTIFIER, PROTOCOL, TlsAlpn01
from certagent.errors import Misconfigured
from certagent.facts.challenge import Challenge, Method
from tests.acme.here import Here

HOST, OTHER = "mx1.example.org", "mail.example.org"
TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    monkeypatch.setattr(tlsalpn01, "PORT", port)
    return port


def made(port: int, *names: str) -> tuple[TlsAlpn01, list[Challenge]]:
    method = Method("tls-alpn-01", "", listen=(f"127.0.0.1:{port}",))
    return TlsAlpn01(Here(method)), [TlsAlpn01.respond(Offer(n, TOKEN, f"thumb-{n}", method)) for n in names]


def shake(port: int, name: str | None, *protocols: str) -> tuple[str | None, bytes]:
    """The protocol that was agreed on, and the certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols([*protocols])
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    with client, context.wrap_socket(client, server_hostname=name) as shown:
        return shown.selected_alpn_protocol(), shown.getpeercert(binary_form=True) or b""


def test_the_certificate_is_that_of_rfc_8737(port: int) -> None:
    """Section 3: one name, and the digest in a critical extension; the protocol is acme-tls/1."""
    type_, challenges = made(port, HOST, OTHER)
    type_.present(challenges)
    with type_.serving(challenges):
        for name in (HOST, OTHER):
            protocol, der = shake(port, name, PROTOCOL)
            shown = x509.load_der_x509_certificate(der)
            assert protocol == "acme-tls/1"
            names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == [name]
            extension = shown.extensions.get_extension_for_oid(ACME_IDENTIFIER)
            assert extension.critical
            assert isinstance(extension.value, x509.UnrecognizedExtension)
            digest = hashlib.sha256(f"{TOKEN}.thumb-{name}".encode()).digest()
            assert extension.value.value == b"\x04\x20" + digest
    with pytest.raises(ConnectionRefusedError):
        shake(port, HOST, PROTOCOL)


def test_another_name_is_shown_nothing(port: int) -> None:
    type_, challenges = made(port, HOST)
    with type_.serving(challenges):
        for name in (OTHER, "*.example.org", None):
            with pytest.raises(ssl.SSLError):
                shake(port, name, PROTOCOL)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with suppress(ConnectionResetError):
                assert b"HTTP" not in client.recv(100)
        assert shake(port, HOST.upper(), PROTOCOL)[0] == PROTOCOL


def test_no_other_protocol_is_agreed_on(port: int) -> None:
    type_, challenges = made(port, HOST)
    with type_.serving(challenges):
        assert shake(port, HOST, "h2", PROTOCOL)[0] == PROTOCOL
        for protocols in (("h2", "http/1.1"), ()):
            with suppress(ssl.SSLError):  # of a newer OpenSSL, which ends it
                assert shake(port, HOST, *protocols)[0] is None


def test_a_port_in_use_is_said_before_the_ca_is_asked(port: int) -> None:
    type_, challenges = made(port, HOST)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(Misconfigured, match=r"challenge\.port") as info:
        type_.present(challenges)
    assert "http-01" in info.value.hint


def test_what_this_host_sees_is_said(port: int) -> None:
    """A response that is there is not worth a word."""
    type_, challenges = made(port, HOST)
    _, others = made(port, HOST)
    with type_.serving(challenges):
        assert type_.ready(challenges) == ""
        [other] = others
        wrong = Challenge(other.type, other.identifier, other.name, "00" * 32)
        assert type_.ready([wrong]) == f"{HOST} at 127.0.0.1: it shows another response"
        missing = Challenge(other.type, OTHER, other.name, other.value)
        assert type_.ready([missing]).startswith(f"{OTHER} at 127.0.0.1: ")
    assert "Connection refused" in type_.ready(challenges)
