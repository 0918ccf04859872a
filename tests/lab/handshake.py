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
            starttls(plain, "smtp")
        with context.wrap_socket(plain, server_hostname=name) as tls:
            der = tls.getpeercert(binary_form=True)
            assert der
            return x509.load_der_x509_certificate(der)


def served_tlsa(address: str, port: int = 25, name: str | None = None) -> str:
    """The "3 1 1" record that would match what the server shows."""
    return tlsa_311(leaf(address, port, name))


def starttls(plain: socket.socket, mode: str) -> None:
    """On return the next byte belongs to TLS; OSError with the server's words where it does not come to that."""
    for command, answer in _DIALOGUES[mode]:
        plain.sendall(command)
        _await(plain, answer)


_DIALOGUES = {
    "smtp": ((b"", b"220 "), (b"EHLO probe.example\r\n", b"250 "), (b"STARTTLS\r\n", b"220 ")),
    "imap": ((b"", b"* OK "), (b"a1 STARTTLS\r\n", b"a1 OK ")),
}
"""What is said, and how the last line of the answer begins."""


def _await(plain: socket.socket, answer: bytes) -> None:
    said = b""
    while received := plain.recv(4096):
        said += received
        last = said.splitlines()[-1]
        if said.endswith(b"\n") and last.startswith(answer):
            return
        if said.endswith(b"\n") and last[3:4] != b"-":
            break
    raise OSError(f"instead of {answer.decode()!r} it said {said.decode(errors='replace')!r}")
