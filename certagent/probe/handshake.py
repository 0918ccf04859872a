"""What a mail service serves: a fresh handshake for each key type, version of TLS and name, and the chain exactly as
it was sent.

A probe never raises and never guesses: what no handshake showed is `Unknown`, with the server's own words if it had
any. Nothing is verified here; the chain is compared elsewhere. No session is resumed, since a resumed one shows no
certificate. No mail is sent, no login tried.

Two handshakes show a key type: one with TLS 1.2 only, and one as clients of today begin it, with 1.3 and 1.2 on
offer. Both take that kind alone. But where only one kind is looked for, the server chooses freely in the second: so a
certificate that it prefers and that nobody renews is seen as well.

Standards: RFC 8446 sections 4.2.1 and 4.2.3 (versions, signature algorithms), RFC 6066 section 3 and RFC 7672 section
8.1 (SNI).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace
from OpenSSL import SSL

from certagent.errors import Error
from certagent.facts.tls import Chain, KeyType, Served, Service
from certagent.facts.unknown import Unknown
from certagent.pki.bundle import facts
from certagent.pki.keytypes import Algorithm, algorithm
from certagent.probe import pace, starttls
from certagent.probe.starttls import Busy, Stream, TurnedAway, Unseen

Version = Literal["1.2", "1.3"]

_ALL_S = 480.0
"""All that is asked in one call: a step ends within ten minutes, however long one connection may take."""

_QUIT_S = 1.0
"""How long to wait for the answer to a goodbye: only manners, it shows nothing."""

_CHUNK_BYTES = 16 << 10
"""One TLS record."""

_RECORDS = (21, 22)
"""A server's first byte: of an alert, or of the handshake (RFC 8446 section 5.1)."""

_ABSENT = Unknown("not served with TLS 1.2", reached=True)


def probe(
    service: Service,
    address: str,
    key_type: KeyType,
    timeout_s: float,
    *,
    sni: str | None = None,
    newest: Version = "1.3",
    alone: bool = False,
) -> Served:
    """One connection: what was served within `timeout_s`.

    `sni`: the name to ask for, "" for none; None: the host. `newest`: offered beside TLS 1.2. `alone`: no other key
    type is known, so with `newest` 1.3 the server chooses freely, and what it shows is reported with the type it has.
    """
    began = time.monotonic()
    sni = service.host if sni is None else sni
    version = ""
    leaf: Chain | Unknown
    try:
        client = _Client(sni, algorithm(key_type), newest, alone and newest == "1.3")
        certificates, version = _meet(service, address, client, began + timeout_s)
        shown = _kind(certificates[0])
        leaf = facts([certificate.public_bytes(Encoding.DER) for certificate in certificates])
        if shown != client.kind:
            key_type = _OTHER[shown]
    except _Absent:
        leaf = _ABSENT
    except Unseen as unseen:
        refusal = "busy" if isinstance(unseen, Busy) else "host" if isinstance(unseen, TurnedAway) else ""
        leaf = Unknown(str(unseen), reached=not refusal, refusal=refusal, answer=unseen.answer)
    except TimeoutError:
        leaf = Unknown(f"no answer within {timeout_s:g} s")
    except (OSError, ValueError, UnsupportedAlgorithm, x509.InvalidVersion, Error) as error:  # of odd certificates
        why = getattr(error, "strerror", None) or str(error)
        leaf = Unknown(why, reached=isinstance(error, ConnectionResetError))
    took_s = time.monotonic() - began
    return Served(service.host, address, service.port, key_type, leaf, took_s, sni, version)


def probe_all(
    services: Iterable[Service],
    addresses_of: Callable[[str], tuple[str, ...]],
    key_types: Sequence[KeyType],
    timeout_s: float,
    *,
    wrong: Callable[[Served], bool] = lambda _: False,
    budget_s: float = 0.0,
) -> list[Served]:
    """Probes every service at every address under every name for every key type, some side by side; always in the same
    order. There is at least one answer for each of them, unless the server turns this host away (`pace.ask`). What is
    `wrong` is asked again, for as long as the budget.

    A server that does not speak TLS 1.2, or not 1.3, is reported once, with the version it speaks. A host without an
    address, or whose addresses could not be asked for, gives an `Unknown` with address "" for each key type: it must
    not look like a host where all is well.
    """
    found: list[Served] = []
    jobs: list[Callable[[], Served]] = []
    until = time.monotonic() + _ALL_S

    def one(service: Service, address: str, key_type: KeyType, *, sni: str, newest: Version, alone: bool) -> Served:
        left_s = max(0.0, until - time.monotonic())
        most_s = min(service.timeout_s or timeout_s, left_s)
        return probe(service, address, key_type, most_s, sni=sni, newest=newest, alone=alone)

    for service in services:
        why = f"{service.host} has no address"
        addresses = service.addresses
        try:
            addresses = addresses or addresses_of(service.host)
        except Error as error:
            why = str(error)
        jobs += [
            partial(one, service, address, key_type, sni=sni, newest=newest, alone=len(key_types) == 1)
            for address in addresses
            for sni in service.sni or (service.host,)
            for key_type in key_types
            for newest in _VERSIONS
        ]
        if not addresses:
            found += [Served(service.host, "", service.port, key_type, Unknown(why), 0.0) for key_type in key_types]

    answers = pace.ask(jobs, wrong=lambda one: one.chain != _ABSENT and wrong(one), budget_s=budget_s)
    found += [served for served in answers if served.chain != _ABSENT]
    return list({replace(served, took_s=0.0): served for served in found}.values())


_VERSIONS: Final[tuple[Version, ...]] = ("1.3", "1.2")


class _Client(NamedTuple):
    """What a handshake asks for."""

    sni: str
    kind: Algorithm
    newest: Version
    free: bool
    """The server may show another key type."""

    def __str__(self) -> str:
        versions = {"1.2": "TLS 1.2", "1.3": "TLS 1.3 or 1.2"}[self.newest]
        return f"{versions} handshake" if self.free else f"{versions} handshake for an {self.kind} certificate"


class _Absent(Unseen):
    """TLS 1.2 does not show this key type, and the server may mean it: it speaks 1.3 only, or has no cipher for it.

    There is no one sign of it: OpenSSL says `protocol version` (RFC 8446 appendix D.2), GnuTLS `handshake failure`,
    Dovecot closes. Where TLS does not work at all it ends so too, but then the one with 1.3 on offer fails as well.
    """


_OTHER: Final[dict[Algorithm, KeyType]] = {"rsa": "rsa-2048", "ecdsa": "ecdsa-p256"}
"""What stands for a key type that was not asked for."""


def _kind(certificate: x509.Certificate) -> Algorithm:
    match certificate.public_key():
        case RSAPublicKey():
            return "rsa"
        case EllipticCurvePublicKey():
            return "ecdsa"
        case _:
            raise Unseen("the server shows a key that is neither RSA nor ECDSA")


def _meet(service: Service, address: str, client: _Client, deadline: float) -> tuple[list[x509.Certificate], Version]:
    """One connection; the certificates as they were sent, and the version that was spoken."""
    source = next((one for one in service.source if (":" in one) == (":" in address)), "")
    with Stream(address, service.port, deadline, source) as stream:
        starttls.begin(stream, service.mode, ehlo=service.ehlo, proxy=service.proxy == "v2")
        connection = _handshake(stream, client)
        certificates = connection.get_peer_cert_chain(as_cryptography=True) or []
        version: Version = "1.3" if connection.get_protocol_version() == SSL.TLS1_3_VERSION else "1.2"
        if service.mode in starttls.GOODBYE:
            _leave(stream, connection, starttls.GOODBYE[service.mode])
    if not certificates:
        raise Unseen("no certificate was sent")
    if not client.free and _kind(certificates[0]) != client.kind:
        raise Unseen(f"no {client.kind} certificate: the server shows another key type")
    return certificates, version


# -- TLS ---------------------------------------------------------------------------------------------------------------

_CIPHERS: Final = {"rsa": b"aRSA", "ecdsa": b"aECDSA"}
"""What makes a server choose its certificate in TLS 1.2."""

_SIGNATURES: Final = {
    "rsa": b"RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512:RSA+SHA256:RSA+SHA384:RSA+SHA512",
    "ecdsa": b"ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512",
}
"""And in TLS 1.3, as `SSL_CTX_set1_sigalgs_list(3)` takes them; RSA+… (PKCS #1) is for TLS 1.2 alone."""


def _context(client: _Client) -> SSL.Context:
    """With pyOpenSSL: the `ssl` of Python 3.11 has no public way to the chain as it was sent."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version({"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}[client.newest])
    if not client.free:
        context.set_cipher_list(_CIPHERS[client.kind])
        if client.newest == "1.3":
            # pyOpenSSL has no method for it. Were it without effect, the type of the key that is shown would show it.
            binding: Any = SSL
            binding._lib.SSL_CTX_set1_sigalgs_list(context._context, _SIGNATURES[client.kind])  # pyright: ignore[reportPrivateUsage]
    return context


def _handshake(stream: Stream, client: _Client) -> SSL.Connection:
    """A finished handshake."""
    connection = SSL.Connection(_context(client), None)
    connection.set_connect_state()
    if client.sni:
        connection.set_tlsext_host_name(client.sni.encode("ascii"))
    begun = False
    while True:
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            _flush(stream, connection)
        except SSL.Error as error:
            reason = _reason(error)
            absent = client.newest == "1.2" and reason.endswith(("alert protocol version", "alert handshake failure"))
            raise (_Absent if absent else Unseen)(f"{client} failed: {reason}") from error
        else:
            _flush(stream, connection)
            return connection
        received = b""
        with suppress(ConnectionResetError):
            received = stream.receive()
        if not received:
            closed = "the server closed the connection without a word; see its own log"
            raise (_Absent if client.newest == "1.2" else Unseen)(f"{client} failed: {closed}")
        if not begun and received[0] not in _RECORDS:
            raise starttls.in_the_clear(received)
        begun = True
        connection.bio_write(received)


def _flush(stream: Stream, connection: SSL.Connection) -> None:
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


def _leave(stream: Stream, connection: SSL.Connection, goodbye: bytes) -> None:
    """Leaves politely, so that the server's log shows no lost connection for every probe."""
    stream.deadline = min(stream.deadline, time.monotonic() + _QUIT_S)
    with suppress(OSError, SSL.Error):
        connection.send(goodbye)
        _flush(stream, connection)
        while received := stream.receive():  # until its own close_notify: some wait for ours then (Exim)
            connection.bio_write(received)
            with suppress(SSL.WantReadError):
                while True:
                    connection.recv(_CHUNK_BYTES)
