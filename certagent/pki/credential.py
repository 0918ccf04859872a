"""A credential: what a TLS server needs to present one certificate. It travels as one value from vault to file."""

from __future__ import annotations

from msgspec import Struct

from certagent.secret import Secret


class Credential(Struct, frozen=True):
    """The private key, the certificate for it, and that certificate's issuers; each in PEM (RFC 7468)."""

    key: Secret[bytes]
    """Unencrypted PKCS#8 (RFC 5958)."""
    leaf: bytes
    issuers: bytes
    """Each certifies the one before it; the first certifies the leaf (RFC 8446 section 4.4.2)."""

    @property
    def fullchain(self) -> bytes:
        """Leaf and issuers."""
        return self.leaf + self.issuers

    @property
    def combined(self) -> Secret[bytes]:
        """Key, leaf and issuers: the one file that a rename replaces whole."""
        return Secret(self.key.reveal() + self.fullchain)
