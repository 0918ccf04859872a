from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from certagent.errors import Misconfigured
from certagent.pki import keys, keytypes
from certagent.secret import Secret
from tests.pki.made import at_most_refused, key_pem, raw

PKCS8 = serialization.PrivateFormat.PKCS8
CLEAR = serialization.NoEncryption()


def pem(private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Secret[bytes]:
    return Secret(private.private_bytes(serialization.Encoding.PEM, PKCS8, CLEAR))


@pytest.mark.parametrize("key_type", keytypes.KEY_TYPES)
def test_a_key_is_of_the_kind_asked_for_and_hides_itself(key_type: str) -> None:
    key = key_pem(key_type)
    assert key.reveal().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert "PRIVATE" not in repr(key)
    assert keys.key_type_of(key) == key_type
    assert keys.key_type_of(keys.load(key).public_key()) == key_type
    assert keytypes.algorithm(key_type) == key_type.partition("-")[0]
    assert keys.normal(key).reveal() == key.reveal()


def test_an_unknown_kind_is_refused() -> None:
    for key_type in ("", "rsa", "rsa-1024", "ed25519"):
        with pytest.raises(Misconfigured) as caught:
            keys.make(key_type)
        assert caught.value.code == "pem.key_type"


def test_the_kinds_are_known_without_loading_cryptography() -> None:
    code = (
        "import sys, certagent.pki.keytypes, certagent.pki.names, certagent.pki.tlsa\n"
        "sys.exit('cryptography' in sys.modules or 'idna' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_the_digest_is_that_of_the_public_key_info() -> None:
    """RFC 6698 section 2.1.2."""
    spki = (
        raw(key_pem())
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    assert keys.spki_sha256(key_pem()) == digest.finalize().hex()


def bad_encrypted() -> Secret[bytes]:
    return Secret(
        raw(key_pem()).private_bytes(
            serialization.Encoding.PEM, PKCS8, serialization.BestAvailableEncryption(b"passphrase")
        )
    )


@pytest.mark.parametrize(
    "key",
    [
        bad_encrypted(),
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP521R1())),
        pem(rsa.generate_private_key(65537, 1024)),
        Secret(b""),
        Secret(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        Secret(b" " * 16385),
    ],
    ids=["encrypted", "ed25519", "p521", "rsa-1024", "empty", "damaged", "too-big"],
)
def test_a_key_that_cannot_serve_is_refused_without_showing_it(key: Secret[bytes]) -> None:
    with pytest.raises(Misconfigured) as caught:
        keys.spki_sha256(key)
    assert caught.value.code == "pem.key"
    assert "AAAA" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("key_type", "digest"),
    [("ecdsa-p256", hashes.SHA256), ("ecdsa-p384", hashes.SHA384), ("rsa-2048", hashes.SHA256)],
)
def test_a_request_names_the_names_and_nothing_else(key_type: str, digest: type[hashes.HashAlgorithm]) -> None:
    """RFC 8555 section 7.4."""
    key = key_pem(key_type)
    request = x509.load_pem_x509_csr(
        keys.csr(key, ["mx2.example.org", "MX1.example.org.", "*.example.org", "mx1.example.org"])
    )
    assert not list(request.subject)
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["*.example.org", "mx1.example.org", "mx2.example.org"]
    assert len(request.extensions) == 1
    assert isinstance(request.signature_hash_algorithm, digest)
    assert request.is_signature_valid
    assert request.public_key() == keys.load(key).public_key()


@pytest.mark.parametrize("names", [[], ["localhost"]])
def test_a_request_without_a_good_name_is_refused(names: list[str]) -> None:
    with pytest.raises(Misconfigured) as caught:
        keys.csr(key_pem(), names)
    assert caught.value.code == "name.invalid"


@given(st.binary(max_size=300) | st.integers(0, 230).map(lambda at: key_pem().reveal()[:at]))
def test_any_bytes_give_a_key_or_an_error(data: bytes) -> None:
    with at_most_refused("pem.key"):
        keys.load(Secret(data))
