"""Private keys and what is derived from them; a key leaves this file only inside a `Secret`.

Keys are unencrypted PKCS#8 PEM (RFC 5958 section 2): mail servers load them with nobody there to type a passphrase.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from certagent.errors import Misconfigured
from certagent.pki.keytypes import KEY_TYPES, algorithm, bits, named
from certagent.pki.names import identifier
from certagent.secret import Secret

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_CURVES = {256: ec.SECP256R1, 384: ec.SECP384R1}

_MAX_PEM = 16 * 1024
"""An RSA-4096 key has 3.3 KB; RSA-16384 would still fit."""


def make(key_type: str) -> Secret[bytes]:
    """A new private key as PEM.

    Raises:
        Misconfigured: `pem.key_type`.
    """
    if algorithm(key_type) == "rsa":
        return _pem(rsa.generate_private_key(public_exponent=65537, key_size=bits(key_type)))
    return _pem(ec.generate_private_key(_CURVES[bits(key_type)]()))


def load(key: Secret[bytes]) -> PrivateKey:
    """The key itself, for the functions of this package.

    Raises:
        Misconfigured: `pem.key`: For an encrypted, unsupported or unreadable one.
    """
    pem = key.reveal()
    if len(pem) > _MAX_PEM:
        raise _bad_key(f"has more than {_MAX_PEM} bytes")
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise _bad_key("is encrypted") from None
    except (ValueError, UnsupportedAlgorithm):  # their texts may quote the file
        raise _bad_key("cannot be read") from None
    if not isinstance(private, PrivateKey):
        raise _bad_key("is of another kind")
    key_type_of(private.public_key())
    return private


def normal(key: Secret[bytes]) -> Secret[bytes]:
    """The same key as `make` would have written it.

    Raises:
        Misconfigured: `pem.key`.
    """
    return _pem(load(key))


def key_type_of(key: PublicKeyTypes | Secret[bytes]) -> str:
    """The name in `KEY_TYPES` of a public key, or of a private key's PEM.

    Raises:
        Misconfigured: `pem.key`: For a kind that certagent does not handle.
    """
    public = load(key).public_key() if isinstance(key, Secret) else key
    key_type = None
    match public:
        case ec.EllipticCurvePublicKey() if isinstance(public.curve, tuple(_CURVES.values())):
            key_type = named("ecdsa", public.key_size)
        case rsa.RSAPublicKey():
            key_type = named("rsa", public.key_size)
        case _:
            pass
    if key_type is None:
        raise _bad_key("is of another kind")
    return key_type


def spki_sha256(key: Secret[bytes]) -> str:
    """Lower-case hex of the SHA-256 of its SubjectPublicKeyInfo, as in TLSA `3 1 1`.

    Source: RFC 6698 section 2.1.2, selector 1.

    Raises:
        Misconfigured: `pem.key`.
    """
    spki = (
        load(key).public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return hashlib.sha256(spki).hexdigest()


def csr(key: Secret[bytes], names: Sequence[str]) -> bytes:
    """A certificate request as PEM: empty subject, the names as dNSName SANs in sorted order, each once.

    Source: RFC 8555 section 7.4.

    Raises:
        Misconfigured: `pem.key`, `name.invalid`.
    """
    if not names:
        raise Misconfigured("name.invalid", "no name to order a certificate for", "list at least one under names:")
    private = load(key)
    alternatives = [x509.DNSName(name) for name in sorted({identifier(name) for name in names})]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(private, hashes.SHA384() if key_type_of(private.public_key()) == "ecdsa-p384" else hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM)


def _pem(key: PrivateKey) -> Secret[bytes]:
    return Secret(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _bad_key(why: str) -> Misconfigured:
    return Misconfigured("pem.key", f"the private key {why}", f"use an unencrypted PEM key: {', '.join(KEY_TYPES)}")
