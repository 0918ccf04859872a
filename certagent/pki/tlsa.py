"""TLSA records as text: what a chain needs in DNS, and whether a record found there matches it.

Works on canonical text and `Chain` facts alone; a match that these facts cannot decide is None, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal

from certagent.errors import Misconfigured, Rejected
from certagent.facts.tls import Chain

DANE_EE_SPKI_SHA256: Final = "3 1 1"
"""DANE-EE, the leaf's SubjectPublicKeyInfo, SHA-256. Source: RFC 7672 section 3.1.1."""

DANE_TA_SPKI_SHA256: Final = "2 1 1"
"""DANE-TA, the SubjectPublicKeyInfo of a CA in the served chain, SHA-256. Source: RFC 7672 section 3.1.2."""

MadeParameters = Literal["3 1 1", "2 1 1"]
"""The TLSA parameters of records that certagent makes."""

_MAX_TEXT = 256 * 1024
"""RDATA is at most 65535 octets (RFC 1035 section 3.2.1), twice that in hex; the same again for white space."""

_HEX = frozenset("0123456789abcdef")

_DIGEST_HEX = {1: 64, 2: 128}
"""Hex digits of SHA-256 and SHA-512 by matching type. Source: RFC 6698 section 7.4."""


def canonical(text: str) -> str:
    """`usage selector matching-type hex` in lower case with single spaces; unknown numbers are kept, no hex is not.

    Source: RFC 6698 section 2.2 (unsigned 8-bit decimals; white space is allowed inside the hex).

    Raises:
        Rejected: `tlsa.invalid`.
    """
    fields = _fields(text)
    if not fields[3]:
        raise _invalid(text)
    return "{} {} {} {}".format(*fields)


def parameters(value: str) -> str:
    """`3 1 1` of a record.

    Raises:
        Rejected: `tlsa.invalid`.
    """
    return "{} {} {}".format(*_fields(value))


@lru_cache(512)
def of_key(spki_hex: str) -> str:
    """The record for a key, by the SHA-256 of its SubjectPublicKeyInfo; it needs no certificate, so it can be early.

    Raises:
        Rejected: `tlsa.invalid`.
    """
    return _sha256(DANE_EE_SPKI_SHA256, spki_hex)


def records(leaf: Chain, tlsa_parameters: Iterable[str]) -> frozenset[str]:
    """The records that DNS must hold for this chain, one for each TLSA parameters.

    `2 1 1` pins the topmost CA certificate of the served chain, the one that changes least; without one there is none.

    Source: RFC 7671 section 5.2 (the trust anchor's certificate must be in the chain the server sends).

    Raises:
        Misconfigured: `tlsa.parameters`: For any other TLSA parameters.
        Rejected: `tlsa.invalid`.
    """
    values: set[str] = set()
    for wanted in tlsa_parameters:
        if wanted == DANE_EE_SPKI_SHA256:
            values.add(of_key(leaf.spki))
        elif wanted == DANE_TA_SPKI_SHA256:
            values.update(_sha256(DANE_TA_SPKI_SHA256, issuer) for issuer in leaf.issuers[-1:])
        else:
            raise Misconfigured(
                "tlsa.parameters",
                f"certagent makes no TLSA {wanted!r}",
                f"use {DANE_EE_SPKI_SHA256} or {DANE_TA_SPKI_SHA256}",
            )
    return frozenset(values)


def matches(value: str, leaf: Chain) -> bool | None:
    """The record matches the served chain; None: the facts of a `Chain` cannot tell (`3 0 1`, `2 0 1`, `3 1 2`, …).

    Source: RFC 6698 section 2.1; `2 1 1` may match any CA certificate that is served (RFC 7671 section 5.2).

    Raises:
        Rejected: `tlsa.invalid`.
    """
    *numbers, digest = _fields(value)
    match numbers:
        case [3, 1, 1]:
            return digest == leaf.spki
        case [2, 1, 1]:
            return digest in leaf.issuers
        case _:
            return None


def usable(value: str) -> bool:
    """An SMTP client can authenticate a server with it.

    Source: RFC 7672 section 3.1.3 (usages 0 and 1 are not), RFC 6698 section 4.1 (unknown parameters, malformed data).

    Raises:
        Rejected: `tlsa.invalid`.
    """
    usage, selector, matching, data = _fields(value)
    if usage not in {2, 3} or selector not in {0, 1} or not data:
        return False
    return matching == 0 or len(data) == _DIGEST_HEX.get(matching)


def _sha256(wanted: str, digest: str) -> str:
    value = canonical(f"{wanted} {digest}")
    if not usable(value):
        raise _invalid(value)
    return value


@lru_cache(512)  # the few values of a certificate are read again at every decision
def _fields(text: str) -> tuple[int, int, int, str]:
    if len(text) > _MAX_TEXT:
        raise _invalid(text)
    words = text.split() if text.isascii() else []
    numbers, data = words[:3], "".join(words[3:]).lower()
    if len(numbers) < 3 or not all(word.isdigit() and len(word) <= 3 and int(word) <= 255 for word in numbers):
        raise _invalid(text)
    if len(data) % 2 or not _HEX.issuperset(data):  # a record without any may stand in DNS, and nobody can use it
        raise _invalid(text)
    usage, selector, matching = map(int, numbers)
    return usage, selector, matching, data


def _invalid(text: str) -> Rejected:
    return Rejected("tlsa.invalid", f"not a TLSA record: {text[:80]!r}", "three numbers and hex, as in 3 1 1 9f86…")
