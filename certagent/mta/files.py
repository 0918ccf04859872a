"""The files of one credential, by the part that each holds.

Order of placing: issuers, key, certificate. What watches a certificate finds its key.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from certagent.mta import pkcs12

SETS = ({"combined"}, {"key", "fullchain"}, {"chain", "key", "cert"}, {"pkcs12", "password_file"})

_ORDER = ("combined", "chain", "key", "cert", "fullchain", "pkcs12")
"""Of placing; `password_file` is only read."""

CERTIFICATES = {"chain", "cert", "fullchain"}
"""The parts without a key."""


class Files(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The files of one key type, by absolute path.

    One of: `combined` (key, leaf, issuers); `fullchain` (leaf, issuers) and `key`; `cert` (leaf), `chain` (issuers) and
    `key`; `pkcs12` (all of it, RFC 7292, under the password in `password_file`).
    """

    combined: str | None = None
    """The key, the leaf and its issuers, in this order."""
    fullchain: str | None = None
    """The leaf and its issuers."""
    cert: str | None = None
    """The leaf."""
    chain: str | None = None
    """The issuers."""
    key: str | None = None
    """The key."""
    pkcs12: str | None = None
    """All of it, as PKCS #12 (RFC 7292)."""
    password_file: str | None = None
    """Only certagent's user may read it; an end of line is not part of the password, which is UTF-8."""
    pkcs12_cipher: pkcs12.Cipher = "AES256_SHA256"
    """How `pkcs12` is encrypted: AES-256, or Triple DES for software that cannot read it."""

    @property
    def named(self) -> dict[str, str]:
        """What is set of it, by the name of the option."""
        paths = {part: getattr(self, part) for part in (*_ORDER, "password_file")}
        return {part: path for part, path in paths.items() if path is not None}

    @property
    def placed(self) -> dict[str, Path]:
        """The files that are written, by the name of the option, in their order."""
        return {part: Path(path) for part, path in self.named.items() if part != "password_file"}

    @property
    def main(self) -> Path:
        """The file that stands for all in errors: the last to be placed."""
        return [*self.placed.values()][-1]
