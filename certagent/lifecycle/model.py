"""The words of the core: what the operator wants (`Spec`), what was found out, and what is known of a certificate
(`State`).

Only frozen values; no I/O, no clock, no random. Dates are aware UTC, durations `timedelta`; a suffix names any other
unit.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from certagent.pki.leaf import Leaf

Algorithm = str
"""A kind of key: `ecdsa-p256`, `ecdsa-p384`, `rsa-2048`, `rsa-3072`, `rsa-4096`; at most one RSA and one ECDSA."""

Value = str
"""A TLSA record's data in canonical text, `3 1 1 <lower-case hex>`."""


class Instant(Struct, frozen=True):
    """A moment, told twice. `wall` is for people, certificates and CAs; it may jump.

    `lived_s` counts only seconds this host has surely lived through since the journal began (CLOCK_BOOTTIME within a
    boot, nothing for the gap between two boots). Every wait that protects a sender is measured in it, so that no
    clock step, suspension or reboot can make a wait shorter than it is.
    """

    wall: datetime
    lived_s: float

    def since(self, earlier: Instant) -> timedelta:
        """The time surely lived through between the two."""
        return timedelta(0, self.lived_s - earlier.lived_s)


# -- what the operator wants -----------------------------------------------------------------------------------------


Mode = Literal["smtp", "imap", "pop3", "sieve", "tls"]
"""How TLS begins: STARTTLS of SMTP (RFC 3207), IMAP and POP3 (RFC 2595, 9051) or ManageSieve (RFC 5804); or at once."""


class Service(Struct, frozen=True):
    """One thing clients connect to: where it is proven, and which name it must be good for."""

    host: str
    port: int
    mode: Mode
    addresses: tuple[str, ...] = ()
    """Addresses to prove; empty: every A and AAAA of `host`."""
    sni: tuple[str, ...] = ()
    """Names to ask for in TLS (RFC 6066 section 3), one handshake each; "" asks for none. Empty: `host` alone."""


class Target(Struct, frozen=True):
    """One mail server that holds the certificate, by its name in the config."""

    name: str
    services: tuple[Service, ...]


class Spec(Struct, frozen=True):
    """One entry of `certificates:` in the config."""

    name: str
    names: tuple[str, ...]
    """The identifiers to order, sorted."""
    algorithms: tuple[Algorithm, ...]
    rotate_key: timedelta | None
    """New keys when those in service are at least that old; zero: at every renewal; None: never."""
    standby: bool
    owners: dict[str, tuple[str, ...]]
    """TLSA owner names (`_25._tcp.mx1.example.org.`) and the targets that answer there; empty: no DANE."""
    triples: tuple[str, ...]
    """`3 1 1`, and `2 1 1` where asked for (RFC 7672 section 3.1)."""
    ttl_s: int
    guard: timedelta
    """Added to a TTL for clock skew and for caches inside senders."""
    drain: timedelta
    """How long old worker processes of a mail server may live on after a reload."""
    watch: timedelta
    """How often DNS and what is served are looked at while nothing is due."""
    targets: tuple[Target, ...]
    ca: str = ""
    """The directory of the CA that issues (RFC 8555 section 7.1.1)."""
    profile: str | None = None


# -- what was found out ----------------------------------------------------------------------------------------------


class Answer(Struct, frozen=True, tag=True):
    """What one authoritative address said of a TLSA name: the values and their TTL, and how it got there.

    `path`: for each CNAME on the way, the name it leads to and its TTL.
    """

    values: frozenset[Value]
    ttl_s: int
    path: tuple[tuple[str, int], ...] = ()


class Unknown(Struct, frozen=True, tag=True):
    """What was not observed, and why. Nothing irreversible is done on it."""

    why: str
    reached: bool = False
    """Of a service: it came to TLS, but showed no certificate. False where nobody was there, or it turned us away."""


Security = Literal["secure", "insecure", "bogus", "unknown"]
"""What a validating resolver says of the name (RFC 4035 section 4.3); `unknown`: none could be asked."""


class Sighting(Struct, frozen=True):
    """One round of questions to every authoritative address of a TLSA name, and to one validating resolver."""

    zone: str
    """The zone that holds the records, at the end of any CNAMEs."""
    name: str
    """The name in that zone."""
    answers: dict[str, Answer | Unknown]
    """By address, with the server's name: `ns1.example.org./192.0.2.1`."""
    security: Security
    why: str = ""
    path: tuple[tuple[str, int], ...] = ()
    """Each CNAME on the way, as in `Answer`: also where nobody was heard behind it."""


class Served(Struct, frozen=True):
    """What one handshake met."""

    host: str
    address: str
    port: int
    algorithm: Algorithm
    leaf: Leaf | Unknown
    took_s: float
    sni: str | None = None
    """The name that was asked for; "": none was; None: not noted, as in journals before 0.2, which asked for `host`."""
    version: str = ""
    """The version of TLS that was spoken, `1.2` or `1.3`; "" where none was."""

    @property
    def where(self) -> str:
        """For people: `mx1.example.org [192.0.2.25]:25 ecdsa-p256, TLS 1.3`, and the SNI where it is not the host."""
        parts = [f"{self.host} [{self.address}]:{self.port} {self.algorithm}"]
        parts += [f"TLS {self.version}"] if self.version else []
        parts += [f"SNI {self.sni or 'none'}"] if self.sni not in (None, self.host) else []
        return ", ".join(parts)
