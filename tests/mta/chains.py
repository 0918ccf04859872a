"""Chains made on the spot: root, intermediate, leaf."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from msgspec import Struct

from certagent.pki import keys
from certagent.pki.credential import Credential
from certagent.secret import Secret


class Chain(Struct, frozen=True):
    """What a mail server gets: key, leaf, one issuer."""

    key: bytes
    leaf: bytes
    issuer: bytes
    der: bytes
    issuer_spki: str
    spki: str

    @property
    def pem(self) -> bytes:
        """The combined file."""
        return self.key + self.leaf + self.issuer

    @property
    def credential(self) -> Credential:
        return Credential(Secret(self.key), self.leaf, self.issuer)


def paired(key: Chain, certificates: Chain) -> Credential:
    """The key of one with the certificates of another: they do not fit."""
    return Credential(Secret(key.key), certificates.leaf, certificates.issuer)


def text(combined: bytes) -> Credential:
    """A credential whose combined file is this text, whatever it is."""
    return Credential(Secret(combined), b"", b"")


def make(key_type: str = "ecdsa-p256", name: str = "mx1.corp.example", *more: str) -> Chain:
    key, issuer_key = keys.make(key_type), keys.make("ecdsa-p256")
    issuer_name = _name("Some CA")
    names = x509.SubjectAlternativeName([x509.DNSName(one) for one in (name, *more)])
    leaf = _certificate(key, _name(name), issuer_key, issuer_name, names)
    issuer = _certificate(issuer_key, issuer_name, keys.make("ecdsa-p256"), _name("Some root"), _CA)
    return Chain(
        key.reveal(),
        leaf.public_bytes(Encoding.PEM),
        issuer.public_bytes(Encoding.PEM),
        leaf.public_bytes(Encoding.DER),
        keys.spki_sha256(issuer_key),
        keys.spki_sha256(key),
    )


_CA = x509.BasicConstraints(ca=True, path_length=None)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    key: Secret[bytes], subject: x509.Name, issuer_key: Secret[bytes], issuer: x509.Name, extension: x509.ExtensionType
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(keys.load(key).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=90))
        .add_extension(extension, critical=False)
        .sign(keys.load(issuer_key), hashes.SHA256())
    )
