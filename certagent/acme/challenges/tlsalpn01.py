"""`tls-alpn-01`: the response is in a certificate that this host shows at port 443, where that is free (RFC 8737).

certagent takes the port while the CA looks and no longer. Who asks for another name is shown nothing.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certagent.acme.challenges import looking
from certagent.acme.challenges.protocol import Means, Offer, listens
from certagent.facts.challenge import Challenge
from certagent.host.files import in_memory
from certagent.host.listener import Answers

PORT = 443
PROTOCOL = "acme-tls/1"
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_OCTETS = b"\x04\x20"
"""DER of an OCTET STRING of 32 bytes (RFC 8737 section 3)."""
_REMEDY = "use http-01 or dns-01; or let that program pass connections with ALPN acme-tls/1 on, and `listen` there"


class TlsAlpn01:
    """A ChallengeType."""

    remedy = "look at port 443 of every address of the name from outside: firewall, AAAA records, what answers there"

    def __init__(self, means: Means) -> None:
        self._means = means

    @staticmethod
    def respond(offer: Offer) -> Challenge:
        """The digest of the key authorization, which the certificate will have."""
        digest = hashlib.sha256(offer.key_authorization.encode()).hexdigest()
        return Challenge("tls-alpn-01", offer.identifier, f"{offer.identifier}:{PORT}", digest)

    def present(self, challenges: Sequence[Challenge]) -> None:
        """See that the port is free before the CA hears of it."""
        with self.serving(challenges):
            pass

    def serving(self, challenges: Sequence[Challenge], /) -> AbstractContextManager[None]:
        """Show the certificates."""
        answers = {one.identifier: certificate(one) for one in challenges}
        listen = listens(self._means.method, PORT)
        return self._means.listeners.answering(listen, talk, answers, _REMEDY)

    def ready(self, challenges: Sequence[Challenge]) -> str:
        """Look as the CA does. It looks from elsewhere, so what is not seen is only said."""
        return looking.not_seen(challenges, self._means, _differs)

    def clean_up(self, challenges: Sequence[Challenge]) -> None:
        """Nothing stays."""


def certificate(challenge: Challenge) -> bytes:
    """A certificate that says nothing but the response, with its key, in PEM. The key is of no other use."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ACME challenge")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(challenge.identifier)]), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(ACME_IDENTIFIER, _OCTETS + bytes.fromhex(challenge.value)), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return made.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def talk(client: socket.socket, answers: Answers) -> None:
    """One handshake; who asks for another name gets an alert."""

    def choose(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        pem = answers.get((name or "").lower())
        if pem is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = _context(pem)
        return None

    context = _context()
    context.sni_callback = choose
    with context.wrap_socket(client, server_side=True):
        pass  # the CA has seen it, and sends nothing (RFC 8737 section 3)


def _context(pem: bytes = b"") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8737 section 3
    context.num_tickets = 0
    context.set_alpn_protocols([PROTOCOL])
    if pem:
        with in_memory(pem) as path:
            context.load_cert_chain(path)
    return context


def _differs(challenge: Challenge, address: str) -> str:
    shown = looking.certificate(challenge.identifier, address, PORT, PROTOCOL)
    if shown is None:
        return f"it does not speak {PROTOCOL}"
    try:
        found = x509.load_der_x509_certificate(shown).extensions.get_extension_for_oid(ACME_IDENTIFIER).value
    except x509.ExtensionNotFound:
        return "it shows another certificate"
    assert isinstance(found, x509.UnrecognizedExtension)
    return "" if found.value == _OCTETS + bytes.fromhex(challenge.value) else "it shows another response"
