"""Credentials made on the spot, for tests of mail servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certagent.pki import keys
from certagent.pki.credential import Credential
from certagent.secret import Secret


def issued(key_type: str, name: str) -> Credential:
    """A new key and a certificate for the name, with one intermediate; no two CAs have the same name."""
    key, issuer_key = keys.make(key_type), keys.make("ecdsa-p256")
    issuer = f"Issuer {keys.spki_sha256(issuer_key)[:16]}"
    leaf = _certificate(key, name, issuer_key, issuer, ca=False)
    above = _certificate(issuer_key, issuer, keys.make("ecdsa-p256"), "Root", ca=True)
    return Credential(key, leaf, above)


def _certificate(key: Secret[bytes], subject: str, issuer_key: Secret[bytes], issuer: str, *, ca: bool) -> bytes:
    name, above = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one[:64])]) for one in (subject, issuer))
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(above, name, keys.load(key).public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
    return builder.sign(keys.load(issuer_key), hashes.SHA256()).public_bytes(Encoding.PEM)
