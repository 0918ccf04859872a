"""Certificates made in code, each named by what it proves. Keys are made once a process: RSA is slow."""

from __future__ import annotations

import datetime
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certagent.errors import Error
from certagent.pki import keys
from certagent.pki.keys import PrivateKey
from certagent.secret import Secret

NOW = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
HOST = "mx1.example.org"

SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


@contextmanager
def at_most_refused(codes: str) -> Generator[None]:
    """Nothing but an error of certagent whose code begins with `codes` leaves the block."""
    try:
        yield
    except Error as error:
        if not error.code.startswith(codes):
            raise AssertionError(error.code) from error


@cache
def key_pem(key_type: str = "ecdsa-p256", which: str = "") -> Secret[bytes]:
    """A key of that kind; another `which` is another key."""
    del which
    return keys.make(key_type)


@dataclass(frozen=True)
class Pair:
    """A key and a certificate of it."""

    key: Secret[bytes]
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def private(self) -> PrivateKey:
        return keys.load(self.key)


def usage(*, sign: bool, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def certificate(
    subject: str,
    issuer: Pair | None,
    *,
    key: Secret[bytes] | None = None,
    ca: bool | None = False,
    path_length: int | None = None,
    names: Sequence[str] = (),
    start: datetime.datetime = NOW - DAY,
    end: datetime.datetime = NOW + 89 * DAY,
    extended: Iterable[x509.ObjectIdentifier] | None = SERVER,
    key_usage: x509.KeyUsage | None = None,
    issuer_name: str | None = None,
    more: Iterable[x509.ExtensionType] = (),
    others: Iterable[x509.GeneralName] = (),
) -> Pair:
    """A certificate signed by `issuer`, or by itself; `ca=None` leaves out the basic constraints.

    `more`: critical extensions; `others`: names of the leaf that are not in DNS.
    """
    key = key or key_pem(which=subject)
    private = keys.load(key)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])

    by = name(issuer_name) if issuer_name else issuer.certificate.subject if issuer else name(subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(by)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    if names:
        alternatives = x509.SubjectAlternativeName([*map(x509.DNSName, names), *others])
        builder = builder.add_extension(alternatives, critical=False)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=True)
    if key_usage:
        builder = builder.add_extension(key_usage, critical=True)
    return Pair(key, builder.sign(issuer.private if issuer else private, hashes.SHA256()))


@cache
def root() -> Pair:
    """RSA as Pebble's; no extended key usage, as roots have none."""
    return certificate(
        "Root", None, key=key_pem("rsa-2048", "Root"), ca=True, extended=None, key_usage=usage(sign=True, ca=True)
    )


@cache
def issuing() -> Pair:
    """The intermediate that signs leaves; RSA, so that ECDSA leaves are signed by another key type."""
    key = key_pem("rsa-2048", "Issuing")
    return certificate("Issuing", root(), key=key, ca=True, path_length=0, key_usage=usage(sign=True, ca=True))


@cache
def leaf(key_type: str = "ecdsa-p256") -> Pair:
    """What a CA issues: empty subject, the name as SAN."""
    key = key_pem(key_type, "leaf")
    return certificate("", issuing(), key=key, names=[HOST], key_usage=usage(sign=True, ca=False))


def raw(key: Secret[bytes]) -> ec.EllipticCurvePrivateKey:
    """The key as an ECDSA one, for what is not made by certagent."""
    private = keys.load(key)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private
