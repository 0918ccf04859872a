"""The key types, by name; apart from `keys.py` so that the config can check a name without loading cryptography."""

from __future__ import annotations

from typing import Final, Literal

from certagent.errors import Misconfigured

Algorithm = Literal["ecdsa", "rsa"]

KEY_TYPES: Final = ("ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096")
"""What public CAs sign and what every mail server loads. Source: CA/B TLS Baseline Requirements section 6.1.5."""


def algorithm(key_type: str) -> Algorithm:
    """What a server holds at most one certificate of: all ECDSA curves count as one, all RSA sizes too.

    Raises:
        Misconfigured: `pem.key_type`.
    """
    if key_type not in KEY_TYPES:
        raise Misconfigured("pem.key_type", f"unknown key type: {key_type[:40]!r}", f"use {', '.join(KEY_TYPES)}")
    return "ecdsa" if key_type.startswith("ecdsa-") else "rsa"
