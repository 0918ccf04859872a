"""Zone files, and signing of those that BIND does not sign by itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import dns.dnssec
import dns.name
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec
from dns.dnssectypes import DSDigest
from dns.rdtypes.ANY.DNSKEY import DNSKEY
from dns.rdtypes.ANY.DS import DS

from tests.lab.addresses import (
    ACME,
    ACME_ZONE,
    ALIAS_ZONE,
    CUT_ZONE,
    EXPIRED_ZONE,
    IMAP,
    INSECURE_ZONE,
    KNOT,
    KNOT_ZONE,
    MX1,
    MX2,
    NSD,
    PRIMARY,
    ROOT,
    SECONDARY,
    SENDMAIL,
    SMTPD,
    STEALTH_ZONE,
    TCP_ZONE,
    ZONE,
)
from tests.lab.powerdns import ADDRESS as PDNS
from tests.lab.powerdns import PDNS_ZONE

DAY = 86400
NAME_SERVERS: Mapping[str, Sequence[str]] = {
    CUT_ZONE: [PRIMARY],
    ZONE: [PRIMARY, SECONDARY],
    ALIAS_ZONE: [PRIMARY, SECONDARY],
    STEALTH_ZONE: [SECONDARY],
    INSECURE_ZONE: [PRIMARY],
    EXPIRED_ZONE: [PRIMARY],
    KNOT_ZONE: [KNOT],
    PDNS_ZONE: [PDNS],
}
"""Every zone below example., the deeper first, with the addresses of its name servers."""
CUT_SERVERS: Mapping[str, str] = {f"ns3.{ZONE}.": KNOT, f"ns4.{ZONE}.": NSD}
"""Of TCP_ZONE and ACME_ZONE, which are delegated only while a test wants it (`Dns.cut`)."""
SERVICE = "ns1.desec.io."
"""The name server of INSECURE_ZONE is called like those of a service."""


class Signer:
    """Signs one zone with one key."""

    def __init__(self, zone: str) -> None:
        self.zone = dns.name.from_text(zone)
        self._private = ec.generate_private_key(ec.SECP256R1())
        public = self._private.public_key()
        self.dnskey: DNSKEY = dns.dnssec.make_dnskey(public, "ECDSAP256SHA256", flags=257)  # pyright: ignore[reportUnknownMemberType]

    def ds(self) -> list[str]:
        return ds(str(self.zone), [self.dnskey])

    def sign(self, text: str, *, expired: bool = False) -> str:
        """The zone file, signed for a month, or until three days ago: unbound forgives one day."""
        zone = dns.zone.from_text(text, origin=self.zone, relativize=False)
        end = time.time() + (-3 * DAY if expired else 30 * DAY)
        dns.dnssec.sign_zone(zone, keys=[(self._private, self.dnskey)], inception=end - 60 * DAY, expiration=end)
        return zone.to_text(relativize=False)


def ds(zone: str, keys: Iterable[DNSKEY]) -> list[str]:
    """The DS records of a zone's keys."""
    owner = dns.name.from_text(zone)
    made: list[DS] = [dns.dnssec.make_ds(owner, key, DSDigest.SHA256) for key in keys]
    return [record.to_text() for record in made]


def child(zone: str, ttl: int, mx1: Sequence[str] = (MX1,)) -> str:
    """A zone with its name servers and mail hosts."""
    if zone in (TCP_ZONE, ACME_ZONE):
        return _text([_head(zone, ttl), *(f"@ NS {name}" for name in CUT_SERVERS)])
    servers = NAME_SERVERS[zone]
    hosts = [("mx1", address) for address in mx1]
    if zone == ZONE:
        hosts += [
            (f"ns1.{CUT_ZONE}.", PRIMARY),
            *CUT_SERVERS.items(),
            ("mx2", MX2),
            ("imap", IMAP),
            ("acme", ACME),
            ("smtpd", SMTPD),
            ("sendmail", SENDMAIL),
        ]
    lines = [
        _head(zone, ttl),
        *(
            f"@ NS {SERVICE}" if zone == INSECURE_ZONE else f"@ NS ns{n}\nns{n} A {address}"
            for n, address in enumerate(servers, 1)
        ),
        "@ MX 10 mx1",
        *([f"{CUT_ZONE}. NS ns1.{CUT_ZONE}."] if zone == ZONE else []),
        *(f"{host} A {address}" for host, address in hosts),
    ]
    return _text(lines)


def example(delegations: Mapping[str, Sequence[str]], serial: int, added: Sequence[str] = ()) -> str:
    """The zone example. with the delegations and their DS records, and lines that a test adds."""
    lines = [_head("example", 5, serial), "@ NS ns", f"ns A {ROOT}"]
    for zone, records in delegations.items():
        for n, address in enumerate(NAME_SERVERS[zone], 1):
            glue = f"ns{n}.{zone}. A {address}"
            lines += [f"{zone}. NS {SERVICE}"] if zone == INSECURE_ZONE else [f"{zone}. NS ns{n}.{zone}.", glue]
        lines += [f"{zone}. DS {record}" for record in records]
    return _text([*lines, *added])


def root(example_ds: Sequence[str]) -> str:
    """The root zone, whose only delegation is example.; it has the address of the service itself."""
    lines = [_head(".", 5), ". NS a.root.", f"a.root. A {ROOT}", "example. NS ns.example.", f"ns.example. A {ROOT}"]
    lines.append(f"{SERVICE} A {PRIMARY}")
    return _text(lines + [f"example. DS {record}" for record in example_ds])


def _head(zone: str, ttl: int, serial: int = 1) -> str:
    origin = "." if zone == "." else f"{zone}."
    # the primary is a hidden one in the unsigned zone: nobody finds it by its name
    primary = "hidden.invalid." if zone == INSECURE_ZONE else "ns1"
    return f"$ORIGIN {origin}\n$TTL {ttl}\n@ SOA {primary} hostmaster {serial} 5 5 86400 1"


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
