"""Proves what a mail service serves: one fresh handshake for each kind of key, and the chain exactly as it was sent.

A probe never raises and never guesses: what no handshake showed is `Unknown`, with the server's own words where it had
any. Nothing is verified here; the chain is compared elsewhere. No session is resumed, since a resumed one shows no
certificate. No mail is sent, no login tried.

Standards: RFC 3207 (STARTTLS), RFC 5321 sections 4.2 and 4.5.3 (replies and their limits), RFC 7672 section 8.1 (SNI).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from certagent.errors import Error
from certagent.lifecycle.model import Algorithm, Served, Service, Unknown
from certagent.pki.algorithms import family
from certagent.pki.chain import facts
from certagent.pki.leaf import Leaf

_WORKERS = 16
"""Side by side; well below the 50 that Postfix takes from one client (smtpd_client_connection_count_limit)."""

_LINE_LIMIT_BYTES = 2048
"""As Postfix's line_length_limit; RFC 5321 section 4.5.3.1.5 has 512."""

_LINES_LIMIT = 100
"""Of one reply; a long EHLO reply has twenty."""

_QUIT_S = 1.0
"""How long to wait for the answer to QUIT: only manners, it proves nothing."""

_CHUNK_BYTES = 16 << 10
"""One TLS record."""


def probe(service: Service, address: str, algorithm: Algorithm, timeout_s: float) -> Served:
    """Connects once (twice where the server wants TLS 1.3) and tells what was served within `timeout_s`.

    TLS 1.2 first, since its cipher list is the one way to choose between an RSA and an ECDSA certificate. A server that
    does only TLS 1.3 chooses itself; its certificate counts if its key is of the kind that was asked for.
    """
    began = time.monotonic()
    leaf: Leaf | Unknown
    try:
        leaf = _leaf(service, address, algorithm, began + timeout_s)
    except Unseen as unseen:
        leaf = Unknown(str(unseen), reached=True)
    except TimeoutError:
        leaf = Unknown(f"no answer within {timeout_s:g} s")
    except (OSError, ValueError, Error) as error:  # ValueError: a certificate or a name that makes no sense
        why = getattr(error, "strerror", None) or str(error)
        leaf = Unknown(why, reached=isinstance(error, ConnectionResetError))
    return Served(service.host, address, service.port, algorithm, leaf, time.monotonic() - began)


def probe_all(
    services: Iterable[Service],
    addresses_of: Callable[[str], tuple[str, ...]],
    algorithms: Sequence[Algorithm],
    timeout_s: float,
) -> list[Served]:
    """Probes every service at every address for every algorithm, some side by side; always in the same order.

    A host without an address, or whose addresses could not be asked for, gives an `Unknown` with address "" for each
    algorithm: it must not look like a host where all is well.
    """
    found: list[Served] = []
    jobs: list[tuple[Service, str, Algorithm]] = []
    for service in services:
        why = f"{service.host} has no address"
        addresses = service.addresses
        try:
            addresses = addresses or addresses_of(service.host)
        except Error as error:
            why = str(error)
        jobs += [(service, address, algorithm) for address in addresses for algorithm in algorithms]
        if not addresses:
            found += [Served(service.host, "", service.port, algorithm, Unknown(why), 0.0) for algorithm in algorithms]

    def work(job: tuple[Service, str, Algorithm]) -> Served:
        return probe(*job, timeout_s)

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="probe") as pool:
        return found + list(pool.map(work, jobs))


class Unseen(Exception):
    """Why no certificate was seen."""


class _NoHandshake(Unseen):
    """The connection stood, TLS did not."""


def _leaf(service: Service, address: str, algorithm: Algorithm, deadline: float) -> Leaf:
    wanted = family(algorithm)
    try:
        chain = _chain(service, address, wanted, "1.2", deadline)
    except (_NoHandshake, ConnectionResetError) as with_12:
        try:
            chain = _chain(service, address, wanted, "1.3", deadline)
        except (_NoHandshake, ConnectionResetError):
            raise with_12 from None  # the one that says whether there is a certificate of this kind
        except Unseen as with_13:
            raise Unseen(f"{with_13} ({with_12})") from None
    return facts(chain)


def _chain(service: Service, address: str, wanted: str, version: str, deadline: float) -> list[bytes]:
    """One connection; the certificates (DER) as they were sent."""
    with _Stream(address, service.port, deadline) as stream:
        if service.mode == "smtp":
            _starttls(stream)
        connection = _handshake(stream, service.host, wanted, version)
        certificates = connection.get_peer_cert_chain(as_cryptography=True) or []
        if service.mode == "smtp":
            _quit(stream, connection)
    if not certificates:
        raise Unseen("no certificate was sent")
    key = certificates[0].public_key()
    if not isinstance(key, {"rsa": RSAPublicKey, "ecdsa": EllipticCurvePublicKey}[wanted]):
        raise Unseen(f"no {wanted} certificate: with TLS {version} the server chose another kind")
    return [certificate.public_bytes(Encoding.DER) for certificate in certificates]


# -- TLS -------------------------------------------------------------------------------------------------------------


def _handshake(stream: _Stream, host: str, wanted: str, version: str) -> SSL.Connection:
    """A finished handshake. With pyOpenSSL: the `ssl` of Python 3.11 has no public way to the chain as it was sent."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    number = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}[version]
    context.set_min_proto_version(number)
    context.set_max_proto_version(number)
    if version == "1.2":
        context.set_cipher_list({"rsa": b"aRSA", "ecdsa": b"aECDSA"}[wanted])
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    connection.set_tlsext_host_name(host.encode("ascii"))
    while True:
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            _flush(stream, connection)
        except SSL.Error as error:
            raise _NoHandshake(f"TLS {version} handshake failed: {_reason(error)}") from error
        else:
            _flush(stream, connection)
            return connection
        received = stream.receive()
        if not received:
            raise _NoHandshake(f"TLS {version} handshake failed: connection closed")
        connection.bio_write(received)


def _flush(stream: _Stream, connection: SSL.Connection) -> None:
    """Sends what TLS has to say."""
    with suppress(SSL.WantReadError):
        while True:
            stream.send(connection.bio_read(_CHUNK_BYTES))


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words, such as `sslv3 alert handshake failure`."""
    match error.args:
        case [[(_, _, reason), *_]]:
            return str(reason)  # pyright: ignore[reportUnknownArgumentType]
        case _:
            return "no reason given"


def _quit(stream: _Stream, connection: SSL.Connection) -> None:
    """Leaves politely, so that the server's log shows no lost connection for every probe."""
    stream.deadline = min(stream.deadline, time.monotonic() + _QUIT_S)
    with suppress(OSError, SSL.Error):
        connection.send(b"QUIT\r\n")
        _flush(stream, connection)
        while stream.receive():
            pass


# -- SMTP ------------------------------------------------------------------------------------------------------------


def _starttls(stream: _Stream) -> None:
    """Up to the point where TLS begins.

    The greeting may take as long as the whole probe: postscreen and others make clients wait for it on purpose.
    """
    _expect(stream, "220", "greeting")
    stream.send(f"EHLO {_own_name(stream)}\r\n".encode())
    offers = _expect(stream, "250", "EHLO")
    if not any(line.upper().split()[:1] == ["STARTTLS"] for line in offers[1:]):
        raise Unseen("STARTTLS is not offered")
    stream.send(b"STARTTLS\r\n")
    _expect(stream, "220", "STARTTLS")
    if stream.pending():
        # RFC 3207 section 4.2: what came in the clear must not be taken for what comes under TLS.
        raise Unseen("data in the clear after the reply to STARTTLS")


def _expect(stream: _Stream, code: str, asked: str) -> list[str]:
    """The lines of the next reply, without its code, if that is `code`."""
    got, lines = reply(stream.line)
    if got != code:
        raise Unseen(f"{asked}: {got} {' '.join(lines)}"[:200])
    return lines


def reply(next_line: Callable[[], bytes]) -> tuple[str, list[str]]:
    """One reply (RFC 5321 section 4.2.1): its code, and the text of its lines in printable ASCII."""
    lines: list[str] = []
    first = None
    while len(lines) < _LINES_LIMIT:
        line = next_line()
        match = re.fullmatch(rb"([2-5][0-9]{2})(?:([ -])(.*))?", line, re.DOTALL)
        if not match or first not in (None, match[1]):
            raise Unseen(f"not an SMTP reply: {_printable(line)}")
        first = match[1]
        lines.append(_printable(match[3] or b""))
        if match[2] != b"-":
            return first.decode(), lines
    raise Unseen(f"a reply of more than {_LINES_LIMIT} lines")


def _printable(text: bytes) -> str:
    """What a stranger sent, safe to log."""
    return re.sub(r"[^ -~]", "?", text[:160].decode("latin-1"))


def _own_name(stream: _Stream) -> str:
    """This host's name where it has a full one, otherwise its address (RFC 5321 section 4.1.4)."""
    name = socket.gethostname()
    if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
        return name
    address = stream.own_address()
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


# -- TCP -------------------------------------------------------------------------------------------------------------


class _Stream:
    """A connection whose every wait ends at one deadline (TimeoutError), however slowly the other side drips."""

    def __init__(self, address: str, port: int, deadline: float) -> None:
        self.deadline = deadline
        self._buffer = b""
        self._socket = socket.create_connection((address, port), self._left())

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def receive(self) -> bytes:
        """What comes next; b"" when the other side has closed."""
        self._socket.settimeout(self._left())
        return self._socket.recv(_CHUNK_BYTES)

    def send(self, data: bytes) -> None:
        self._socket.settimeout(self._left())
        self._socket.sendall(data)

    def line(self) -> bytes:
        """The next line, without its end."""
        while b"\n" not in self._buffer[:_LINE_LIMIT_BYTES]:
            if len(self._buffer) >= _LINE_LIMIT_BYTES:
                raise Unseen(f"a line of more than {_LINE_LIMIT_BYTES} bytes")
            received = self.receive()
            if not received:
                raise Unseen("connection closed before TLS")
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.removesuffix(b"\r")

    def pending(self) -> bool:
        """Whether more has come than was read."""
        return bool(self._buffer)

    def own_address(self) -> str:
        return str(self._socket.getsockname()[0])
