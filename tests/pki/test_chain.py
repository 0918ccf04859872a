from __future__ import annotations

import base64
import hashlib
import itertools
import ssl
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
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
    UNKNOWN,
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


def limited(
    permitted: Sequence[x509.GeneralName] | None = None, excluded: Sequence[x509.GeneralName] | None = None
) -> Pair:
    """The issuer with name constraints."""
    limits = x509.NameConstraints(permitted, excluded)
    return certificate("Issuing", root(), key=issuing().key, ca=True, more=[limits])


def named(text: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]))


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


@pytest.mark.parametrize(
    "limits",
    [
        ([x509.DNSName("example.org")], [x509.DNSName("mx2.example.org")]),
        ([x509.DNSName("")], None),
        ([x509.DNSName(".Example.org"), x509.DNSName("example.net")], [named("Corp")]),
    ],
)
def test_good_within_the_constraints_of_its_issuer(limits: tuple[Any, Any]) -> None:
    """RFC 5280 section 4.2.1.10; nothing constrains the kinds of names that are not there."""
    build(join(leaf(), limited(*limits)))


def test_good_issuer_within_the_constraints_of_the_one_above() -> None:
    """Which has no name in DNS."""
    limits = x509.NameConstraints([x509.DNSName("example.org")], None)
    above = certificate("Above", root(), ca=True, more=[limits])
    below = certificate("Below", above, ca=True)
    build(join(certificate("", below, key=leaf().key, names=[HOST]), below, above))


def test_good_directory_within_its_constraints() -> None:
    signed = certificate("Corp  MX", issuing(), key=leaf().key, names=[HOST])
    build(join(signed, limited([named("corp mx")])))


def superfluous() -> dict[str, list[Pair]]:
    """What CAs have sent above or beside what is needed."""
    old = certificate("Old Root", None, ca=True, extended=None)
    older = certificate("Older Root", None, ca=True, extended=None)
    kind: dict[str, Any] = {"key": root().key, "ca": True, "extended": None}
    return {
        "an expired cross certificate": [certificate("Root", old, end=NOW - SECOND, **kind)],
        "an expired root": [certificate("Root", None, end=NOW - SECOND, **kind)],
        "a second certificate of the intermediate": [
            certificate("Issuing", root(), key=issuing().key, ca=True, end=NOW + DAY)
        ],
        "an expired certificate of the intermediate": [
            certificate("Issuing", root(), key=issuing().key, ca=True, end=NOW - SECOND)
        ],
        "a certificate of the intermediate for later": [
            certificate("Issuing", root(), key=issuing().key, ca=True, start=NOW + SECOND, end=NOW + 900 * DAY)
        ],
        "one of the intermediate with a demand": [
            certificate("Issuing", root(), key=issuing().key, ca=True, end=NOW + 900 * DAY, more=[UNKNOWN])
        ],
        "a stranger": [certificate("Stranger", root(), ca=True), older],
        "another key of the root's name": [certificate("Root", None, key=key_pem(which="forged"), ca=True)],
    }


@pytest.mark.parametrize("what", superfluous())
@pytest.mark.parametrize("last", [True, False])
def test_good_without_what_is_superfluous(what: str, *, last: bool) -> None:
    """It is left out, wherever it stands."""
    more = superfluous()[what]
    answer = join(leaf(), issuing(), *more) if last else join(*more, issuing(), leaf())
    assert build(answer)[0].reveal().split(b"KEY-----\n")[2] == join(leaf(), issuing())


def test_good_one_of_two_cross_certificates() -> None:
    """The one that is valid longest; CAs that sign each other make no circle."""
    old = certificate("Old Root", root(), key=key_pem(which="Old Root"), ca=True, extended=None)
    short, long = (
        certificate("Root", old, key=root().key, ca=True, extended=None, end=NOW + days * DAY) for days in (9, 99)
    )
    for answer in (join(leaf(), issuing(), short, long), join(leaf(), issuing(), long, short, old)):
        assert spki(root()) in build(answer)[1].issuers
        assert long.pem in build(answer)[0].reveal()
        assert short.pem not in build(answer)[0].reveal()


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
    """What is for somebody else is no mistake of the chain alone."""
    return join(leaf(), issuing(), certificate("", issuing(), names=["mx2.example.org"]))


def bad_second_leaf() -> bytes:
    return join(leaf(), certificate("", issuing(), key=leaf().key, names=[HOST]), issuing())


def bad_critical() -> bytes:
    return join(certificate("", issuing(), key=leaf().key, names=[HOST], more=[UNKNOWN]), issuing())


def bad_precertificate() -> bytes:
    """RFC 6962 section 3.1."""
    return join(certificate("", issuing(), key=leaf().key, names=[HOST], more=[x509.PrecertPoison()]), issuing())


def bad_critical_issuer() -> bytes:
    return join(leaf(), certificate("Issuing", root(), key=issuing().key, ca=True, more=[UNKNOWN]))


def bad_permitted() -> bytes:
    return join(leaf(), limited([x509.DNSName("example.net"), x509.DNSName(".mx1.example.org")]))


def bad_excluded() -> bytes:
    return join(leaf(), limited(None, [x509.DNSName("Example.org")]))


def bad_directory() -> bytes:
    signed = certificate("Other", issuing(), key=leaf().key, names=[HOST])
    return join(signed, limited([named("Corp")]))


def bad_kind_of_name() -> bytes:
    """What is not read is refused."""
    address = x509.IPAddress(ip_network("192.0.2.0/24"))
    extra = [x509.IPAddress(ip_address("192.0.2.1"))]
    return join(certificate("", issuing(), key=leaf().key, names=[HOST], others=extra), limited([address]))


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
    bad_critical: "pem.critical",
    bad_precertificate: "pem.critical",
    bad_critical_issuer: "pem.critical",
    bad_permitted: "pem.constraints",
    bad_excluded: "pem.constraints",
    bad_directory: "pem.constraints",
    bad_kind_of_name: "pem.constraints",
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
