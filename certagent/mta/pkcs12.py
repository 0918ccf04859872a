"""PKCS#12 bundles: key, leaf and issuers in one encrypted file, for appliances, Java and Exchange (RFC 7292)."""

from __future__ import annotations

from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    PBES,
    load_pkcs12,
    serialize_key_and_certificates,
)

from certagent.errors import Misconfigured
from certagent.pki import keys
from certagent.pki.credential import Credential
from certagent.pki.keys import PrivateKey
from certagent.secret import Secret

Cipher = Literal["AES256_SHA256", "TripleDES_SHA1"]
"""How key and certificates are encrypted and the whole is authenticated; by the names of Windows.

AES256_SHA256: PBES2 with AES-256-CBC, HMAC with SHA-256. TripleDES_SHA1: for what cannot read that, such as Windows
Server 2016 and older. Source: Microsoft, Export-PfxCertificate -CryptoAlgorithmOption; RFC 7292 appendices B and C.
"""

_TRIPLE_DES = bytes.fromhex("060a2a864886f70d010c0103")
"""pbeWithSHAAnd3-KeyTripleDES-CBC, 1.2.840.113549.1.12.1.3, in DER. Source: RFC 7292 appendix C."""


def make(credential: Credential, password: Secret[bytes], cipher: Cipher, old: bytes | None) -> Secret[bytes]:
    """The bundle of a credential. It is salted: `old` comes back if it has the same content and cipher already.

    Raises:
        Misconfigured: `pem.key`: The key cannot be read.
        ValueError: A certificate cannot be read, or the password is empty or not UTF-8.
    """
    if old is not None and holds(old, credential, password) and (_TRIPLE_DES in old) == (cipher == "TripleDES_SHA1"):
        return Secret(old)
    modern = cipher == "AES256_SHA256"
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .key_cert_algorithm(PBES.PBESv2SHA256AndAES256CBC if modern else PBES.PBESv1SHA1And3KeyTripleDESCBC)
        .hmac_hash(hashes.SHA256() if modern else hashes.SHA1())  # noqa: S303
        .build(password.reveal())
    )
    leaf, *issuers = x509.load_pem_x509_certificates(credential.fullchain)
    return Secret(serialize_key_and_certificates(None, keys.load(credential.key), leaf, issuers, encryption))


def holds(bundle: bytes, credential: Credential, password: Secret[bytes]) -> bool:
    """Whether the bundle opens with the password and has this key, this leaf and these issuers, in their order."""
    opened = _open(bundle, password)
    if opened is None:
        return False
    key, chain = opened
    wanted = x509.load_pem_x509_certificates(credential.fullchain)
    return chain == wanted and key.public_key() == keys.load(credential.key).public_key()


def leaf_der(bundle: bytes, password: Secret[bytes]) -> bytes | None:
    """Its leaf; None if the bundle does not open with the password, or its key is missing or does not fit."""
    opened = _open(bundle, password)
    if opened is None or opened[0].public_key() != opened[1][0].public_key():
        return None
    return opened[1][0].public_bytes(Encoding.DER)


def _open(bundle: bytes, password: Secret[bytes]) -> tuple[PrivateKey, list[x509.Certificate]] | None:
    """Key, and leaf with issuers; None if one is missing, or it does not open."""
    try:
        found = load_pkcs12(bundle, password.reveal())
        if found.cert is None or not isinstance(found.key, PrivateKey):
            return None
        keys.key_type_of(found.key.public_key())
    except (ValueError, Misconfigured):
        return None
    return found.key, [found.cert.certificate, *(other.certificate for other in found.additional_certs)]
