"""What TLS shows: key types, services, certificate chains and what one handshake met."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from msgspec import Struct

from certagent.facts.unknown import Unknown

KeyType = str
"""A key type: `ecdsa-p256`, `ecdsa-p384`, `rsa-2048`, `rsa-3072`, `rsa-4096`; at most one RSA and one ECDSA."""

Mode = Literal["smtp", "imap", "pop3", "sieve", "tls"]
"""How TLS begins: STARTTLS of SMTP (RFC 3207), IMAP and POP3 (RFC 2595, 9051) or ManageSieve (RFC 5804); or at once."""


class Service(Struct, frozen=True):
    """One thing clients connect to: where it is verified, and which name it must be good for."""

    host: str
    port: int
    mode: Mode
    addresses: tuple[str, ...] = ()
    """Addresses to verify; empty: every A and AAAA of `host`."""
    sni: tuple[str, ...] = ()
    """Names to ask for in TLS (RFC 6066 section 3), one handshake each; "" asks for none. Empty: `host` alone."""
    ehlo: str = ""
    """The name to give in EHLO; "": this host's, or its address."""
    source: tuple[str, ...] = ()
    """Addresses to connect from, at most one per family; of a family without one: as the system chooses."""
    timeout_s: float = 0.0
    """How long one connection may take; 0: as long as is usual."""
    proxy: Literal["", "v2"] = ""
    """The version of the PROXY protocol that it wants to hear first; "": none."""


class Chain(Struct, frozen=True, tag=True):
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
    self_signed: bool = False
    """The leaf is signed by its own key: no client believes its names."""

    @property
    def in_records(self) -> tuple[str, tuple[str, ...]]:
        """What records can tell it by from another chain: its key and its issuers."""
        return self.spki, self.issuers


def distinct(chains: Iterable[Chain]) -> tuple[Chain, ...]:
    """The chains without those that no record can tell from another."""
    return tuple({chain.in_records: chain for chain in chains}.values())


class Served(Struct, frozen=True):
    """What one handshake met."""

    host: str
    address: str
    port: int
    key_type: KeyType
    chain: Chain | Unknown
    took_s: float
    sni: str | None = None
    """The name that was asked for; "": none was; None: that of the host."""
    version: str = ""
    """The version of TLS that was spoken, `1.2` or `1.3`; "" where none was."""

    @property
    def place(self) -> str:
        """For people: `mx1.example.org [192.0.2.1]:25`."""
        return f"{self.host} [{self.address}]:{self.port}" if self.address else f"{self.host}:{self.port}"

    @property
    def unseen(self) -> str | None:
        """Where somebody answered and no certificate was shown: which answer, to compare with another time's."""
        if isinstance(self.chain, Chain) or not self.chain.reached:
            return None
        return f"{self.place} {self.key_type} SNI {self.sni or 'none'}: {self.chain.answer or self.chain.why}"

    @property
    def where(self) -> str:
        """For people: `mx1.example.org [192.0.2.25]:25 ecdsa-p256, TLS 1.3`, and the SNI if it is not the host."""
        parts = [f"{self.place} {self.key_type}"]
        parts += [f"TLS {self.version}"] if self.version else []
        parts += [f"SNI {self.sni or 'none'}"] if self.sni not in (None, self.host) else []
        return ", ".join(parts)
