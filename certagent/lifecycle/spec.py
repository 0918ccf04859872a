"""What the operator wants of one certificate (`Spec`).

All values of the core are frozen: no I/O, no clock, no random. Dates are aware UTC, durations `timedelta`; a suffix
names any other unit.
"""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct

from certagent.facts.challenge import DNS_01, Method
from certagent.facts.tls import KeyType, Service
from certagent.pki.names import below


class MailServer(Struct, frozen=True):
    """One mail server that has the certificate, by its name in the configuration."""

    name: str
    services: tuple[Service, ...]


class DnsZone(Struct, frozen=True):
    """A zone that the configuration gives to a DNS provider, and what that says of itself."""

    zone: str = ""
    """Absolute."""
    publish_lag: timedelta = timedelta(0)
    """How long the provider usually takes until its name servers give what was written."""
    ttl_floor_s: int = 0
    """A smaller TTL is raised to it."""
    ttl_scope: str = "set"
    """What has one TTL: as in `Capabilities`."""
    writes_per_day: int | None = None
    """How many writes it takes in a day; None: no known limit."""


class Spec(Struct, frozen=True):
    """One entry of `certificates:` in the configuration."""

    name: str
    names: tuple[str, ...]
    """The identifiers to order, sorted."""
    key_types: tuple[KeyType, ...]
    rotate_key: timedelta | None
    """New keys when those in service are at least that old; zero: at every renewal; None: never."""
    standby: bool
    tlsa_names: dict[str, tuple[str, ...]]
    """TLSA names (`_25._tcp.mx1.example.org.`) and the mail servers that answer there; empty: no DANE."""
    tlsa_parameters: tuple[str, ...]
    """`3 1 1`, and `2 1 1` if asked for (RFC 7672 section 3.1)."""
    ttl_s: int
    safety_margin: timedelta
    """Added to a TTL for clock skew and for caches inside senders."""
    drain: timedelta
    """How long old worker processes of a mail server may live on after a reload."""
    check_interval: timedelta
    """How often DNS and what is served are observed while nothing is due."""
    mail_servers: tuple[MailServer, ...]
    cas: tuple[str, ...]
    """The CAs that may issue, the preferred one first, each by the URL of its directory (RFC 8555 section 7.1.1)."""
    profile: str | None = None
    drop_names: tuple[str, ...] = ()
    """Names that the first certificate may take away from what was served before."""
    undeclared: dict[str, tuple[str, ...]] = {}
    """TLSA names of services without `tlsa: true`, and the mail servers that answer there. certagent keeps no records
    at them; those of somebody else are looked for before a key changes."""
    zones: tuple[DnsZone, ...] = ()
    """For what is to come. What has been written counts as the provider stated it then: that is in the journal."""
    challenge: Method = DNS_01
    """How it shows the CA that this host controls the names."""

    @property
    def challenge_names(self) -> tuple[str, ...]:
        """The names of the TXT records that its challenges need; an alias may lead elsewhere from them."""
        label = self.challenge.label
        return tuple(dict.fromkeys(below(label, name.removeprefix("*.")) for name in self.names)) if label else ()

    def zone_of(self, name: str) -> DnsZone:
        """The zone in which a name without aliases is written; one without a delay if none is configured."""
        above = [one for one in self.zones if f".{name.rstrip('.')}.".endswith(f".{one.zone}")]
        return max(above, key=lambda one: len(one.zone), default=DnsZone())

    def published_ttl_s(self, name: str) -> int:
        """The TTL that records at this name get."""
        return max(self.ttl_s, self.zone_of(name).ttl_floor_s)
