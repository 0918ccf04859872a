"""Certificate chains: a CA's answer becomes a credential that a mail server can serve, or is refused with the reason.

Never fetches a missing certificate and never asks a clock: `now` comes in. Every refusal is an `Unsafe` named `pem.…`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certagent.errors import BadChain, NotYetValid, Unsafe
from certagent.facts.tls import Chain
from certagent.pki import keys
from certagent.pki.constraints import outside, unknown_critical
from certagent.pki.credential import Credential
from certagent.pki.names import covers, identifier
from certagent.secret import Secret

_MAX_PEM = 256 * 1024
"""Ten certificates of 10 KB each with room; OpenSSL refuses a handshake with more than 100 KB of them by default."""

_MAX_CERTIFICATES = 10
"""A public chain has two to four; OpenSSL verifies at most 100, GnuTLS at most 16."""

_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
"""Source: RFC 7468 section 3."""

Extension = TypeVar("Extension", bound=x509.ExtensionType)

Path = list[x509.Certificate]
"""The leaf, then each certificate's issuer."""


def facts(certificates: Sequence[bytes]) -> Chain:
    """The facts of a chain as served: DER, leaf first. Verifies nothing of it.

    Raises:
        Unsafe: `pem.no_leaf`, `pem.parse`.
    """
    if not certificates:
        raise BadChain("pem.no_leaf", "there is no certificate")
    with _readable():
        return _facts([x509.load_der_x509_certificate(der) for der in certificates])


def build(
    key: Secret[bytes], certificates_pem: bytes, *, names: Sequence[str], now: datetime, keep_root: bool = False
) -> tuple[Credential, Chain]:
    """The credential of a key and the CA's answer, whatever its order, and the facts of the chain in it.

    Repeated certificates count once. A self-signed root is left out, unless `keep_root` (a TLSA `2 1 1` pins it) or it
    signed the leaf itself. So are certificates of CAs that are not needed: others of the same issuer, strangers, and
    those above an issuer that are not valid at `now`. Any other certificate that does not belong to the leaf's chain is
    refused: the answer is not what was asked for.

    Raises:
        Misconfigured: `pem.key`, `name.invalid`: The key cannot be read; a name is no host name.
        Unsafe: `pem.parse`, `pem.too_big`: It is not certificates in PEM and nothing else, or too many.
        Unsafe: `pem.no_leaf`, `pem.key_mismatch`: There is no certificate for this key (but one for another).
        Unsafe: `pem.signature`, `pem.incomplete`, `pem.self_signed`: There is no path of issuers.
        Unsafe: `pem.stray`: There is another certificate that is not of a CA.
        NotYetValid: `pem.not_yet_valid`: The leaf or its only issuer is, at `now`.
        Unsafe: `pem.expired`: The leaf or its only issuer is, at `now`.
        Unsafe: `pem.critical`: A certificate of the path has a critical extension that is not known.
        Unsafe: `pem.constraints`: The name constraints of an issuer do not allow what is below it.
        Unsafe: `pem.names`: The leaf does not cover one of `names`.
        Unsafe: `pem.leaf_is_ca`, `pem.not_ca`: Basic constraints.
        Unsafe: `pem.not_server_auth`, `pem.key_usage`: A certificate is not for a TLS server.
    """
    spki = keys.spki_sha256(key)
    with _readable():
        found = _unique(_certificates(certificates_pem))
        leaf = _leaf(found, spki)
        path = _path(leaf, found, now)
        if strays := [c for c in found if c not in path and not _is_ca(c)]:
            raise _refusal("stray", strays[0], "does not belong to the chain of the leaf")
        if _self_signed(path[-1]) and len(path) > 2 and not keep_root:
            del path[-1]
        _check(path, names, now)
        first, *issuers = (certificate.public_bytes(Encoding.PEM) for certificate in path)
        return Credential(keys.normal(key), first, b"".join(issuers)), _facts(path)


# -- reading -----------------------------------------------------------------------------------------------------------


@contextmanager
def _readable() -> Generator[None]:
    """Turns what `cryptography` raises for malformed or unknown data into `pem.parse`; it parses lazily."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise BadChain("pem.parse", f"a certificate cannot be read: {str(error)[:200]}") from None


def _certificates(pem: bytes) -> list[x509.Certificate]:
    """Nothing but certificates may be there. Source: RFC 8555 section 9.1, RFC 7468 section 5.1."""
    if len(pem) > _MAX_PEM:
        raise _too_big(f"the chain has more than {_MAX_PEM} bytes")
    labels = _LABEL.findall(pem)
    if len(labels) > _MAX_CERTIFICATES:
        raise _too_big(f"the chain has more than {_MAX_CERTIFICATES} certificates")
    if set(labels) != {b"CERTIFICATE"}:
        raise BadChain("pem.parse", "the chain is not made of PEM certificates and nothing else")
    certificates = x509.load_pem_x509_certificates(pem)
    if len(certificates) != len(labels):
        raise BadChain("pem.parse", "the chain has a damaged PEM block")
    return certificates


def _unique(certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    return list(dict.fromkeys(certificates))


def _facts(path: Sequence[x509.Certificate]) -> Chain:
    leaf = path[0]
    return Chain(
        spki=_spki_sha256(leaf),
        issuers=tuple(map(_spki_sha256, path[1:])),
        names=tuple(sorted(_names(leaf))),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        serial=f"{leaf.serial_number:x}",
        self_signed=_self_signed(leaf),
    )


def _names(certificate: x509.Certificate) -> set[str]:
    alternatives = _extension(certificate, x509.SubjectAlternativeName)
    return {name.lower() for name in alternatives.get_values_for_type(x509.DNSName)} if alternatives else set()


def _spki_sha256(certificate: x509.Certificate) -> str:
    """The digest of the field as it stands in the certificate: encoded anew it could differ, or fail for new keys.

    Source: RFC 6698 section 2.1.2; RFC 5280 section 4.1: it follows version (tag 0, optional), serial number,
    signature, issuer, validity and subject.
    """
    fields = list(_elements(_content(certificate.tbs_certificate_bytes)))
    return hashlib.sha256(fields[6 if fields[0][0] == 0xA0 else 5]).hexdigest()


def _elements(der: bytes) -> Iterator[bytes]:
    """The elements of DER that `cryptography` has parsed already, so that it is known to be sound."""
    while der:
        start, size = _extent(der)
        yield der[: start + size]
        der = der[start + size :]


def _content(der: bytes) -> bytes:
    return der[_extent(der)[0] :]


def _extent(der: bytes) -> tuple[int, int]:
    """Where the content of the first element starts, and its size. Source: X.690 section 8.1.3."""
    if der[1] < 0x80:
        return 2, der[1]
    start = 2 + (der[1] & 0x7F)
    return start, int.from_bytes(der[2:start])


# -- the path ----------------------------------------------------------------------------------------------------------


def _leaf(certificates: Sequence[x509.Certificate], spki: str) -> x509.Certificate:
    mine = [certificate for certificate in certificates if _spki_sha256(certificate) == spki]
    if len(mine) > 1:
        raise _refusal("stray", mine[1], "is a second certificate for the same key")
    if mine:
        return mine[0]
    if others := [certificate for certificate in certificates if not _is_ca(certificate)]:
        raise _refusal("key_mismatch", others[0], "is for another key")
    raise BadChain("pem.no_leaf", "the chain has only certificates of CAs")


def _path(leaf: x509.Certificate, certificates: Sequence[x509.Certificate], now: datetime) -> Path:
    """From the leaf up, by name and signature, as far as the certificates go; the same for every order they come in.

    Of several certificates of an issuer it takes one that breaks no rule; then one that another CA signed, for older
    senders; then the one that is valid longest. Above the first issuer it ends where no certificate is valid.

    Source: RFC 5280 section 6.1; RFC 8446 section 4.4.2 (each certificate certifies the one before it).
    """
    path = [leaf]
    while not _self_signed(path[-1]):
        top = path[-1]
        there = {(c.subject, _spki_sha256(c)) for c in path}  # CAs that sign each other would make a circle
        named = [c for c in certificates if c.subject == top.issuer and (c.subject, _spki_sha256(c)) not in there]
        signers = [c for c in named if _signed(top, c)]
        if len(path) == 1 and named and not signers:
            raise _refusal("signature", top, "bears no signature of the issuer it names")
        usable = [c for c in signers if len(path) == 1 or c.not_valid_before_utc <= now <= c.not_valid_after_utc]
        if not usable:
            break
        path.append(min(usable, key=lambda c: _preference(c, path, now)))
    if len(path) > 1:
        return path
    if _self_signed(leaf):
        raise _refusal("self_signed", leaf, "is signed by its own key", "order it from a CA")
    raise _refusal("incomplete", leaf, "comes without the certificate of its issuer")


def _preference(issuer: x509.Certificate, path: Path, now: datetime) -> tuple[bool, bool, float, bytes]:
    try:
        _check_dates(issuer, now)
        _check_issuer(issuer, path)
        _check_server_auth(issuer)
    except (Unsafe, NotYetValid):
        breaks = True
    else:
        breaks = False
    return breaks, _self_signed(issuer), -issuer.not_valid_after_utc.timestamp(), issuer.fingerprint(SHA256())


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _self_signed(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer and _signed(certificate, certificate)


# -- the rules ---------------------------------------------------------------------------------------------------------


def _check(path: Path, names: Sequence[str], now: datetime) -> None:
    for certificate in path:
        _check_dates(certificate, now)
    _check_leaf(path[0], names)
    for depth, issuer in enumerate(path[1:], start=1):
        _check_issuer(issuer, path[:depth])
    for certificate in path:
        _check_server_auth(certificate)


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    """Both ends are inclusive, and no skew is allowed: senders' clocks differ too. Source: RFC 5280 section 4.1.2.5."""
    if now < certificate.not_valid_before_utc:
        why = f"is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC only"
        detail = f"the certificate {certificate.serial_number:x} {why}"
        raise NotYetValid("pem.not_yet_valid", detail, "check the clock of this host: timedatectl")
    if now > certificate.not_valid_after_utc:
        why = f"expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
        raise _refusal("expired", certificate, why, "check the clock of this host; order a new certificate")


def _check_leaf(leaf: x509.Certificate, names: Sequence[str]) -> None:
    has = _names(leaf)
    if missing := [name for name in map(identifier, names) if not any(covers(pattern, name) for pattern in has)]:
        raise _refusal("names", leaf, f"is not for {', '.join(missing)[:200]}")
    _check_critical(leaf)
    if _is_ca(leaf):
        raise _refusal("leaf_is_ca", leaf, "is that of a CA")
    usage = _extension(leaf, x509.KeyUsage)
    if usage and not usage.digital_signature:  # the server signs the handshake; RFC 8446 section 4.4.2.2
        raise _refusal("key_usage", leaf, "is not for signatures")


def _check_critical(certificate: x509.Certificate) -> None:
    if why := unknown_critical(certificate):
        raise _refusal("critical", certificate, why)


def _check_issuer(issuer: x509.Certificate, below: Path) -> None:
    """Source: RFC 5280 sections 4.2.1.9 (self-issued certificates do not count for the path length) and 4.2.1.3; for
    name constraints they do not count either (section 6.1.3), but for the leaf.
    """
    _check_critical(issuer)
    constraints = _extension(issuer, x509.BasicConstraints)
    if not constraints or not constraints.ca:
        raise _refusal("not_ca", issuer, "signs another one, but is not that of a CA")
    length = sum(certificate.subject != certificate.issuer for certificate in below[1:])
    if constraints.path_length is not None and length > constraints.path_length:
        raise _refusal("not_ca", issuer, f"allows {constraints.path_length} CAs below it, not {length}")
    usage = _extension(issuer, x509.KeyUsage)
    if usage and not usage.key_cert_sign:
        raise _refusal("key_usage", issuer, "is not for signing certificates")
    if limits := _extension(issuer, x509.NameConstraints):
        for certificate in [below[0], *(c for c in below[1:] if c.subject != c.issuer)]:
            if name := outside(limits, certificate):
                raise _refusal("constraints", issuer, f"may not sign for {name}")


def _check_server_auth(certificate: x509.Certificate) -> None:
    """An issuer's extended key usage limits what it signs, as OpenSSL reads it. Source: RFC 5280 section 4.2.1.12."""
    usage = _extension(certificate, x509.ExtendedKeyUsage)
    if usage and not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}.intersection(usage):
        raise _refusal("not_server_auth", certificate, "is not for TLS servers")


def _is_ca(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _refusal(what: str, certificate: x509.Certificate, why: str, hint: str = "look at what the CA sent") -> Unsafe:
    subject = certificate.subject.rfc4514_string()[:200]
    return BadChain(f"pem.{what}", f"the certificate {certificate.serial_number:x} ({subject!r}) {why}", hint)


def _too_big(why: str) -> Unsafe:
    return BadChain("pem.too_big", why)
