"""What a server shows to whoever connects; nothing is verified."""

from __future__ import annotations

import socket
import ssl

from cryptography import x509

from tests.lab.certificates import tlsa_311

IMPLICIT_TLS = (465, 993)


def leaf(address: str, port: int = 25, name: str | None = None, seconds: float = 5) -> x509.Certificate:
    """The leaf certificate after a full handshake (STARTTLS unless the port is for TLS only); OSError without one."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((address, port), seconds) as plain:
        if port not in IMPLICIT_TLS:
            _starttls(plain)
        with context.wrap_socket(plain, server_hostname=name) as tls:
            der = tls.getpeercert(binary_form=True)
            assert der
            return x509.load_der_x509_certificate(der)


def served_tlsa(address: str, port: int = 25, name: str | None = None) -> str:
    """The "3 1 1" record that would match what the server shows."""
    return tlsa_311(leaf(address, port, name))


def _starttls(plain: socket.socket) -> None:
    with plain.makefile("rwb", buffering=0) as stream:
        _reply(stream, b"220")
        stream.write(b"EHLO probe.example\r\n")
        _reply(stream, b"250")
        stream.write(b"STARTTLS\r\n")
        _reply(stream, b"220")


def _reply(stream: socket.SocketIO, code: bytes) -> None:
    while True:
        line = stream.readline()
        if not line.startswith(code):
            raise OSError(f"SMTP answer {line.decode(errors='replace').strip()!r}")
        if line[3:4] != b"-":
            return
