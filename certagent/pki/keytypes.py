"""The key types, by name; apart from `keys.py` so that the config can check a name without loading cryptography."""

from __future__ import annotations

from typing import Final, Literal

from certagent.errors import Misconfigured

Algorithm = Literal["ecdsa", "rsa"]

_TABLE: Final[dict[str, tuple[Algorithm, int]]] = {
    "ecdsa-p256": ("ecdsa", 256),
    "ecdsa-p384": ("ecdsa", 384),
    "rsa-2048": ("rsa", 2048),
    "rsa-3072": ("rsa", 3072),
    "rsa-4096": ("rsa", 4096),
}
"""The algorithm, and the bits of the curve or of the modulus."""

KEY_TYPES: Final = tuple(_TABLE)
"""What public CAs sign and what every mail server loads. Source: CA/B TLS Baseline Requirements section 6.1.5."""


def algorithm(key_type: str) -> Algorithm:
    """What a server holds at most one certificate of: all ECDSA curves count as one, all RSA sizes too.

    Raises:
        Misconfigured: `pem.key_type`.
    """
    return _row(key_type)[0]


def bits(key_type: str) -> int:
    """Of the curve (RFC 5480 section 2.1.1.1), or of the modulus.

    Raises:
        Misconfigured: `pem.key_type`.
    """
    return _row(key_type)[1]


def named(algorithm: Algorithm, bits: int) -> str | None:
    """The name of such a key; None if certagent does not handle it."""
    return next((name for name, row in _TABLE.items() if row == (algorithm, bits)), None)


def _row(key_type: str) -> tuple[Algorithm, int]:
    if row := _TABLE.get(key_type):
        return row
    raise Misconfigured("pem.key_type", f"unknown key type: {key_type[:40]!r}", f"use {', '.join(KEY_TYPES)}")
