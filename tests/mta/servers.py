"""Servers of TLS, SMTP, IMAP, POP3 and ManageSieve inside the test, on a free port of a loopback address."""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.mta.chains import Chain

Talk = Callable[[socket.socket], None]
"""One side of a connection, from its first byte to its last."""


def context(*chains: Chain | bytes, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A server's side; bytes are a PEM file as it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for chain in chains:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "chain.pem")
            path.write_bytes(chain if isinstance(chain, bytes) else chain.pem)
            context.load_cert_chain(path)
    if version:
        context.minimum_version = context.maximum_version = version
    return context


def tls(context: ssl.SSLContext) -> Talk:
    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(100)

    return talk


def smtp(
    context: ssl.SSLContext | None = None,
    *,
    banner: bytes = b"220 mx1 ESMTP\r\n",
    ehlo: bytes = b"250-mx1\r\n250-PIPELINING\r\n250 STARTTLS\r\n",
    starttls: bytes = b"220 2.0.0 Ready\r\n",
) -> Talk:
    """An SMTP server that answers what it is told to; a reply of b"" means silence."""
    return dialogue(context, banner, ehlo, starttls)


def imap(
    context: ssl.SSLContext | None = None,
    *,
    banner: bytes = b"* OK IMAP4rev1 ready\r\n",
    capability: bytes = b"* CAPABILITY IMAP4rev1 LITERAL+ STARTTLS\r\na1 OK done\r\n",
    starttls: bytes = b"a2 OK begin\r\n",
) -> Talk:
    """The same for IMAP. With `capability` b"" the banner tells what it can."""
    return dialogue(context, banner, *([capability] if capability else []), starttls)


def pop3(
    context: ssl.SSLContext | None = None,
    *,
    banner: bytes = b"+OK ready\r\n",
    capa: bytes = b"+OK\r\nTOP\r\nSTLS\r\n.\r\n",
    stls: bytes = b"+OK begin\r\n",
) -> Talk:
    """The same for POP3."""
    return dialogue(context, banner, capa, stls)


def sieve(
    context: ssl.SSLContext | None = None,
    *,
    banner: bytes = b'"IMPLEMENTATION" "x"\r\n"SASL" ""\r\n"STARTTLS"\r\nOK "ready"\r\n',
    starttls: bytes = b'OK "begin"\r\n',
) -> Talk:
    """The same for ManageSieve."""
    return dialogue(context, banner, starttls)


def dialogue(context: ssl.SSLContext | None, banner: bytes, *replies: bytes) -> Talk:
    """A banner, a reply to each line, then TLS; a reply of b"" means silence."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(banner)
        lines = connection.makefile("rb")
        for reply in replies:
            if not reply or not lines.readline():
                lines.read()
                return
            connection.sendall(reply)
        if context:
            tls(context)(connection)

    return talk


def hang_up(_: socket.socket) -> None:
    """Says nothing and closes."""


@contextmanager
def serving(talk: Talk, address: str = "127.0.0.1") -> Generator[int]:
    """Serves every connection, each in its own thread; yields the port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:

        def one(connection: socket.socket) -> None:
            connection.settimeout(5)
            with suppress(OSError), connection:
                talk(connection)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=one, args=[server.accept()[0]], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
