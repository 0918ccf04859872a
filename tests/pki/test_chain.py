from __future__ import annotations

import base64
import hashlib
import itertools
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from certagent.errors import Misconfigured, NotYetValid, Unsafe
from certagent.facts.tls import Chain
from certagent.pki import bundle, keys
from certagent.secret import Secret
from tests.pki.made import (
    CLIENT,
    DAY,
    HOST,
    NOW,
    Pair,
    at_most_refused,
    certificate,
    issuing,
    key_pem,
    leaf,
    root,
    usage,
)

SECOND = timedelta(seconds=1)


def join(*pairs: Pair) -> bytes:
    return b"".join(pair.pem for pair in pairs)


def build(pem: bytes, key: Secret[bytes] | None = None, *, keep_root: bool = False) -> tuple[Secret[bytes], Chain]:
    """The combined file, and the facts; what was built is built of itself again."""
    credential, facts = bundle.build(key or leaf().key, pem, names=[HOST], now=NOW, keep_root=keep_root)
    again = bundle.build(credential.key, credential.fullchain, names=[HOST], now=NOW, keep_root=keep_root)
    assert (again[0].combined.reveal(), again[1]) == (credential.combined.reveal(), facts)
    return credential.combined, facts


def spki(pair: Pair) -> str:
    der = pair.certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


@cache
def cross_root() -> Pair:
    """The same CA as `root`, signed by an older one."""
    old = certificate("Old Root", None, ca=True, extended=None)
    return certificate("Root", old, key=root().key, ca=True, extended=None)


# -- what is built ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key_type", ["ecdsa-p256", "ecdsa-p384", "rsa-2048"])
def test_good_leaf_first(key_type: str) -> None:
    """Key, leaf, issuers; the facts are those of the file."""
    mine = leaf(key_type)
    file, facts = build(join(mine, issuing()), mine.key)
    assert file.reveal() == mine.key.reveal() + mine.pem + issuing().pem
    assert facts == Chain(
        spki=keys.spki_sha256(mine.key),
        issuers=(spki(issuing()),),
        names=(HOST,),
        not_before=NOW - DAY,
        not_after=NOW + 89 * DAY,
        serial=f"{mine.certificate.serial_number:x}",
    )


def test_good_file_is_loaded_by_openssl(tmp_path: Path) -> None:
    """As Postfix does: key and chain from one file."""
    file, _ = build(join(issuing(), leaf()))
    path = tmp_path / "combined.pem"
    path.write_bytes(file.reveal())
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)


def test_good_root_dropped() -> None:
    file, facts = build(join(leaf(), issuing(), root()))
    assert file.reveal() == leaf().key.reveal() + join(leaf(), issuing())
    assert facts.issuers == (spki(issuing()),)


def test_good_root_kept_for_a_trust_anchor_record() -> None:
    """RFC 7671 section 5.2: what `2 1 1` pins is sent."""
    file, facts = build(join(root(), issuing(), leaf()), keep_root=True)
    assert file.reveal() == leaf().key.reveal() + join(leaf(), issuing(), root())
    assert facts.issuers == (spki(issuing()), spki(root()))


def test_good_signed_by_root() -> None:
    """A private CA without intermediates: its root stays, so that the file proves itself."""
    mine = certificate("", root(), key=key_pem(), names=[HOST], extended=None)
    file, _ = build(join(root(), mine), mine.key)
    assert file.reveal() == mine.key.reveal() + join(mine, root())


def test_good_cross_signed_root_before_the_self_signed_one() -> None:
    for answer in itertools.permutations([leaf(), issuing(), root(), cross_root()]):
        file, _ = build(join(*answer))
        assert file.reveal() == leaf().key.reveal() + join(leaf(), issuing(), cross_root())


def test_good_wildcard() -> None:
    mine = certificate("", issuing(), key=key_pem(), names=["*.Example.org", "example.org"])
    _, facts = build(join(mine, issuing()), mine.key)
    assert facts.names == ("*.example.org", "example.org")


def test_good_key_is_written_anew() -> None:
    """A key from elsewhere in an older form becomes PKCS#8."""
    old = keys.load(leaf().key).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    assert build(join(leaf(), issuing()), Secret(old))[0].reveal() == build(join(leaf(), issuing()))[0].reveal()


def test_good_self_issued_certificates_do_not_count_for_the_path_length() -> None:
    """RFC 5280 section 4.2.1.9."""
    top = certificate("Top", None, ca=True, path_length=1, extended=None)
    first = certificate("Sub", top, key=key_pem(which="first"), ca=True, extended=None)
    rolled = certificate("Sub", first, key=key_pem(which="rolled"), ca=True, extended=None)
    mine = certificate("", rolled, key=key_pem(), names=[HOST])
    _, facts = build(join(mine, rolled, first, top), mine.key, keep_root=True)
    assert facts.issuers == (spki(rolled), spki(first), spki(top))


@pytest.mark.parametrize("now", [NOW - DAY, NOW + 89 * DAY])
def test_good_at_both_ends_of_its_validity(now: datetime) -> None:
    """RFC 5280 section 4.1.2.5: both are inclusive."""
    _, facts = bundle.build(leaf().key, join(leaf(), issuing()), names=[HOST], now=now)
    assert now in {facts.not_before, facts.not_after}


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 2]), max_size=7).flatmap(lambda more: st.permutations([0, 1, 2, *more])),
    st.booleans(),
)
def test_every_order_with_repetitions_builds_the_same_file(order: list[int], keep_root: bool) -> None:
    answer = [leaf(), issuing(), root()]
    file, facts = build(join(*(answer[i] for i in order)), keep_root=keep_root)
    expected, expected_facts = build(join(*answer), keep_root=keep_root)
    assert file.reveal() == expected.reveal()
    assert facts == expected_facts


# -- what is refused -------------------------------------------------------------------------------------------------


def bad_no_leaf() -> bytes:
    return join(issuing(), root())


def bad_key_mismatch() -> bytes:
    return join(certificate("", issuing(), key=key_pem(which="another"), names=[HOST]), issuing())


def bad_leaf_alone() -> bytes:
    return leaf().pem


def bad_gap() -> bytes:
    return join(leaf(), root())


def bad_self_signed() -> bytes:
    return certificate(HOST, None, key=leaf().key, names=[HOST]).pem


def bad_signature() -> bytes:
    """An issuer of the right name with another key."""
    return join(leaf(), certificate("Issuing", root(), key=key_pem("rsa-2048", "forged"), ca=True))


def bad_signature_kind() -> bytes:
    """An issuer of the right name with another key type."""
    return join(leaf(), certificate("Issuing", root(), key=key_pem("ecdsa-p256", "forged"), ca=True))


def bad_stray() -> bytes:
    return join(leaf(), issuing(), certificate("Stranger", root(), ca=True))


def bad_second_leaf() -> bytes:
    return join(leaf(), certificate("", issuing(), key=leaf().key, names=[HOST]), issuing())


def bad_two_issuers() -> bytes:
    return join(leaf(), issuing(), certificate("Issuing", root(), key=issuing().key, ca=True))


def bad_expired_leaf() -> bytes:
    return join(certificate("", issuing(), key=leaf().key, names=[HOST], end=NOW - SECOND), issuing())


def bad_expired_issuer() -> bytes:
    return join(leaf(), certificate("Issuing", root(), key=issuing().key, ca=True, end=NOW - SECOND))


def not_yet_valid() -> bytes:
    return join(certificate("", issuing(), key=leaf().key, names=[HOST], start=NOW + SECOND), issuing())


def bad_names() -> bytes:
    return join(certificate("", issuing(), key=leaf().key, names=["mx2.example.org", "*.mx1.example.org"]), issuing())


def bad_common_name_only() -> bytes:
    """RFC 9525 section 2: a common name is no name of a service."""
    return join(certificate(HOST, issuing(), key=leaf().key), issuing())


def bad_leaf_is_ca() -> bytes:
    return join(certificate("", issuing(), key=leaf().key, names=[HOST], ca=True), issuing())


def bad_issuer_is_no_ca() -> bytes:
    return join(leaf(), certificate("Issuing", root(), key=issuing().key, ca=False))


def bad_issuer_without_constraints() -> bytes:
    return join(leaf(), certificate("Issuing", root(), key=issuing().key, ca=None))


def bad_path_length() -> bytes:
    """`issuing` allows no CA below it."""
    below = certificate("Below", issuing(), ca=True)
    return join(certificate("", below, key=leaf().key, names=[HOST]), below, issuing())


def bad_client_only() -> bytes:
    return join(certificate("", issuing(), key=leaf().key, names=[HOST], extended=CLIENT), issuing())


def bad_issuer_client_only() -> bytes:
    return join(leaf(), certificate("Issuing", root(), key=issuing().key, ca=True, extended=CLIENT))


def bad_leaf_key_usage() -> bytes:
    encipher = usage(sign=False, ca=False)
    return join(certificate("", issuing(), key=leaf().key, names=[HOST], key_usage=encipher), issuing())


def bad_issuer_key_usage() -> bytes:
    return join(
        leaf(), certificate("Issuing", root(), key=issuing().key, ca=True, key_usage=usage(sign=True, ca=False))
    )


def bad_key_inside() -> bytes:
    return leaf().key.reveal() + join(leaf(), issuing())


def bad_damaged_block() -> bytes:
    return join(leaf(), issuing()).replace(b"-----END CERTIFICATE-----", b"-----END-----", 1)


def bad_hidden_block() -> bytes:
    """A block that looks like one here and that the parser does not see: what is served would be unknown."""
    return join(leaf(), issuing()) + b"-----BEGIN CERTIFICATE-----\n"


def bad_many() -> bytes:
    return leaf().pem * 11


def bad_huge() -> bytes:
    return join(leaf(), issuing()) + b"\n" * 262144


BAD: dict[Callable[[], bytes], str] = {
    bad_no_leaf: "pem.no_leaf",
    bad_key_mismatch: "pem.key_mismatch",
    bad_leaf_alone: "pem.incomplete",
    bad_gap: "pem.incomplete",
    bad_self_signed: "pem.self_signed",
    bad_signature: "pem.signature",
    bad_signature_kind: "pem.signature",
    bad_stray: "pem.stray",
    bad_second_leaf: "pem.stray",
    bad_two_issuers: "pem.stray",
    bad_expired_leaf: "pem.expired",
    bad_expired_issuer: "pem.expired",
    bad_names: "pem.names",
    bad_common_name_only: "pem.names",
    bad_leaf_is_ca: "pem.leaf_is_ca",
    bad_issuer_is_no_ca: "pem.not_ca",
    bad_issuer_without_constraints: "pem.not_ca",
    bad_path_length: "pem.not_ca",
    bad_client_only: "pem.not_server_auth",
    bad_issuer_client_only: "pem.not_server_auth",
    bad_leaf_key_usage: "pem.key_usage",
    bad_issuer_key_usage: "pem.key_usage",
    bad_key_inside: "pem.parse",
    bad_damaged_block: "pem.parse",
    bad_hidden_block: "pem.parse",
    bytes: "pem.parse",
    bad_many: "pem.too_big",
    bad_huge: "pem.too_big",
}


@pytest.mark.parametrize(("make", "code"), BAD.items(), ids=[make.__name__ for make in BAD])
def test_a_chain_that_breaks_a_rule_is_refused_by_its_name(make: Callable[[], bytes], code: str) -> None:
    pem = make()
    with pytest.raises(Unsafe) as caught:
        build(pem)
    assert caught.value.code == code
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_chain_that_is_not_valid_yet_may_be_soon() -> None:
    """By a clock that is wrong, perhaps: no fault of the chain."""
    with pytest.raises(NotYetValid) as caught:
        build(not_yet_valid())
    assert caught.value.code == "pem.not_yet_valid"


def test_a_credential_is_in_parts_and_its_key_is_not_shown() -> None:
    credential, _ = bundle.build(leaf().key, join(issuing(), leaf()), names=[HOST], now=NOW)
    assert (credential.leaf, credential.issuers) == (leaf().pem, issuing().pem)
    assert credential.key.reveal() == leaf().key.reveal()
    assert "PRIVATE" not in repr(credential)


def test_a_name_or_key_that_is_wrong_itself_is_the_operators() -> None:
    with pytest.raises(Misconfigured):
        bundle.build(leaf().key, join(leaf(), issuing()), names=["localhost"], now=NOW)
    with pytest.raises(Misconfigured):
        bundle.build(Secret(b""), join(leaf(), issuing()), names=[HOST], now=NOW)


# -- facts of what is served -----------------------------------------------------------------------------------------


def test_facts_are_those_of_the_certificates_in_their_order() -> None:
    facts = bundle.facts([leaf().der, issuing().der, root().der])
    assert facts.spki == spki(leaf())
    assert facts.issuers == (spki(issuing()), spki(root()))


def test_facts_of_a_certificate_without_names() -> None:
    assert bundle.facts([root().der]).names == ()


def test_facts_need_a_certificate() -> None:
    with pytest.raises(Unsafe) as caught:
        bundle.facts([])
    assert caught.value.code == "pem.no_leaf"


def test_facts_of_a_certificate_with_a_broken_extension() -> None:
    """A SAN twice, which `cryptography` does not make: the key usage gets the SAN's number (2.5.29.15 -> 2.5.29.17)."""
    der = leaf().der.replace(bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d11"))
    with pytest.raises(Unsafe) as caught:
        bundle.facts([der])
    assert caught.value.code == "pem.parse"


def test_a_key_of_an_unknown_kind_has_a_digest() -> None:
    """It is that of the bytes in the certificate: id-ecPublicKey (1.2.840.10045.2.1) becomes a number nobody knows."""
    known, unknown = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d027f")
    info = (
        leaf()
        .certificate.public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    facts = bundle.facts([leaf().der.replace(known, unknown)])
    assert facts.spki == hashlib.sha256(info.replace(known, unknown)).hexdigest()


def test_a_certificate_of_version_1_has_facts() -> None:
    """RFC 5280 section 4.1.2.1: it has no version field, and all others are one place earlier."""
    key = root().private
    assert isinstance(key, rsa.RSAPrivateKey)
    fields = elements(elements(root().certificate.tbs_certificate_bytes)[0][1])
    tbs = sequence(b"".join(whole for whole, _ in fields[1:7]))
    signature = b"\x00" + key.sign(tbs, padding.PKCS1v15(), hashes.SHA256())
    der = sequence(tbs + fields[2][0] + b"\x03" + length(len(signature)) + signature)
    assert bundle.facts([der]).spki == spki(root())


def elements(der: bytes) -> list[tuple[bytes, bytes]]:
    """Each element of DER, whole, and its content."""
    found: list[tuple[bytes, bytes]] = []
    while der:
        count = der[1] & 0x7F if der[1] & 0x80 else 0
        size = int.from_bytes(der[2 : 2 + count]) if count else der[1]
        end = 2 + count + size
        found.append((der[:end], der[2 + count : end]))
        der = der[end:]
    return found


def length(size: int) -> bytes:
    return bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2)


def sequence(content: bytes) -> bytes:
    return b"\x30" + length(len(content)) + content


# -- fuzz ------------------------------------------------------------------------------------------------------------

GOOD = join(leaf(), issuing(), root())


def mutated(good: bytes) -> st.SearchStrategy[bytes]:
    """`good` with a part cut out or replaced."""

    def change(at: int, size: int, new: bytes) -> bytes:
        return good[:at] + new + good[at + size :]

    return st.builds(change, st.integers(0, len(good)), st.integers(0, 8), st.binary(max_size=8))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary() | mutated(GOOD))
@example(b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
def test_any_answer_gives_a_chain_or_an_error(data: bytes) -> None:
    with at_most_refused("pem."):
        build(data)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(deadline=None, max_examples=300)
@given(st.binary() | mutated(leaf().der))
def test_any_served_bytes_give_facts_or_an_error(data: bytes) -> None:
    with at_most_refused("pem."):
        bundle.facts([data])


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(deadline=None, max_examples=300)
@given(mutated(leaf().der))
def test_any_leaf_der_in_an_answer_gives_a_chain_or_an_error(data: bytes) -> None:
    """Well-formed PEM around damaged DER reaches deeper."""
    block = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(data) + b"-----END CERTIFICATE-----\n"
    with at_most_refused("pem."):
        build(block + issuing().pem)
