"""What a certificate chain is, as far as DANE and renewal care: a plain value, cheap to import and to store."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class Leaf(Struct, frozen=True, tag=True):
    """The facts of one chain.

    `spki` is the SHA-256 of the leaf's SubjectPublicKeyInfo, `issuers` those of the CA certificates that follow it
    in the served chain, in their order (RFC 6698 section 2.1: selector 1, matching type 1); all lower-case hex.
    """

    spki: str
    issuers: tuple[str, ...]
    names: tuple[str, ...]
    """Its dNSName SANs, lower case, sorted."""
    not_before: datetime
    not_after: datetime
    serial: str
    """Lower-case hex without prefix."""
