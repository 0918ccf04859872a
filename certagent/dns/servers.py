"""Who answers for a name: its zone, the servers that the zone lists, and those that the parent delegates it to.

Senders' resolvers come from the parent. So a server that only the parent names is asked as well, and so is an address
that only the parent's glue has. A parent that cannot be asked adds nothing: an internal zone has none, and a firewall
may hide it.

Standards: RFC 1034 section 4.2.1 (delegation, glue), RFC 9471 (glue in referrals), RFC 1912 section 2.8 (lame servers).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import dns.exception
import dns.message
import dns.name
from dns.flags import AA
from dns.message import Message, QueryMessage
from dns.rcode import NOERROR, NXDOMAIN
from dns.rdataclass import IN
from dns.rdatatype import AAAA, NS, SOA, A, RdataType

from certagent.dns.message import MAX_RECORDS, UDP_PAYLOAD, name_text, records, rrset_of
from certagent.errors import ServerFailure, Transient
from certagent.facts.dns import Delegation
from certagent.facts.unknown import Unknown
from certagent.host.deadline import carried

MAX_THREADS = 32
"""13 name servers with two addresses each fit."""
MAX_ADDRESSES = 64
"""Of the name servers of a zone, in all: asked twice over, that takes seconds."""
PARENT_SERVERS = 3
"""So many of the parent's are asked: they differ only while it changes, and one may be away."""

T = TypeVar("T")
R = TypeVar("R")

Servers = dict[str, str | Unknown]
"""By `ns-name/address`: the address to ask, or why it cannot be asked."""

Glue = dict[str, tuple[str, ...]]
"""By the name of a server: its addresses as the parent has them, if it has any."""


def has_route(address: str) -> bool:
    """Whether this host can send to the address at all; connecting a UDP socket sends nothing."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 53))
    except OSError:
        return False
    return True


def parallel(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results in the order of the items."""
    with ThreadPoolExecutor(MAX_THREADS, "dns") as pool:
        return list(pool.map(carried(function), items))


def targets(response: Message) -> list[str]:
    """The end of an answer's aliases: addresses, or names of servers; one more than is asked shows that there are."""
    try:
        rrset = response.resolve_chaining().answer if isinstance(response, QueryMessage) else None
    except dns.exception.DNSException:  # a broken chain leads nowhere
        return []
    return sorted(record.to_text().lower() for record in records(rrset))[: MAX_RECORDS + 1] if rrset else []


class Atlas:
    """Zones and their servers, as found during one call. It raises Transient `dns.unreachable`, `dns.servfail`.

    Args:
        lookup: asks a recursive resolver.
        ask: sends one question to the authoritative server at an address.
        ipv6: as for `authority.Resolver`.
    """

    def __init__(
        self,
        lookup: Callable[[str, RdataType], Message],
        ask: Callable[[str, Message], Message | Unknown],
        ipv6: bool | None,
    ) -> None:
        self._lookup = lookup
        self._ask = ask
        self._ipv6 = ipv6
        self._zones: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}
        self._hosts: dict[str, tuple[str, ...] | Unknown] = {}
        self._referrals: dict[str, tuple[str, Glue | Unknown]] = {}
        self._servers: dict[str, Servers] = {}

    # -- zones ---------------------------------------------------------------------------------------------------------

    def zone(self, name: str) -> str:
        """The zone that holds the name, which need not exist: the nearest name at or above it with an own SOA."""
        if name not in self._zones:
            self._zones[name] = self._walk(name)
        return self._zones[name]

    def zones_of(self, *names: str) -> list[str]:
        """Those of them that were found so far."""
        return [self._zones[name] for name in names if name in self._zones]

    def _walk(self, name: str) -> str:
        apex, failed = dns.name.from_text(name), None
        while apex != dns.name.root:
            try:
                if rrset_of(self._lookup(name_text(apex), SOA), name_text(apex), SOA):
                    return name_text(apex)
            except ServerFailure as error:
                # An alias that leads into a broken zone spoils the question, while its own zone is fine. Were the zone
                # itself the broken one, the zone above is found, whose servers do not answer with authority.
                failed = error
            apex = apex.parent()
        if failed:
            raise failed
        return "."

    # -- servers -------------------------------------------------------------------------------------------------------

    def servers(self, zone: str) -> Servers:
        """Every address of every name server of the zone, by itself or by its parent.

        Of too many some are asked, and the rest is one `Unknown`.
        """
        if zone not in self._servers:
            parallel(lambda find: find(zone), (self._listed, self._delegated))
            listed, (_, delegated) = self._listed(zone), self._delegated(zone)
            glue = {} if isinstance(delegated, Unknown) else delegated
            names = list(dict.fromkeys([*listed, *glue]))
            found: Servers = {}
            for name, addresses in zip(names, parallel(self._addresses, names), strict=True):
                found |= self._to_ask(name, addresses, glue.get(name, ()))
            self._servers[zone] = dict(islice(found.items(), MAX_ADDRESSES))
            if len(found) > MAX_ADDRESSES or len(listed) > MAX_RECORDS:
                why = f"has name servers with more than {MAX_ADDRESSES} addresses: not all were asked"
                self._servers[zone][f"{zone}/-"] = Unknown(why)
            if not found:
                self._servers[zone] = {f"{zone}/-": Unknown("has no name servers")}
        return self._servers[zone]

    def added(self, zone: str) -> frozenset[str]:
        """Those of `servers` that are there by the parent alone: the zone does not list them, or not that address."""
        known = {name: self._addresses(name) for name in self._listed(zone)}
        own = {f"{name}/{a}" for name, found in known.items() if not isinstance(found, Unknown) for a in found}
        own |= {f"{name}/-" for name in known} | {f"{zone}/-"}
        return frozenset(self.servers(zone)) - own

    def delegation(self, zone: str) -> Delegation:
        """What the parent says of the zone's servers, and what the zone says."""
        self.servers(zone)
        listed, (parent, delegated) = self._listed(zone), self._delegated(zone)
        names = dict.fromkeys([*listed, *(() if isinstance(delegated, Unknown) else delegated)])
        known = {name: self._addresses(name) for name in names}
        found = {name: addresses for name, addresses in known.items() if not isinstance(addresses, Unknown)}
        return Delegation(zone, parent, frozenset(listed), delegated, found)

    def _listed(self, zone: str) -> list[str]:
        """The names of its servers by the zone itself, as a resolver gives them; one more than is asked of many."""
        if zone not in self._names:
            self._names[zone] = targets(self._lookup(zone, NS))
        return self._names[zone]

    def _delegated(self, zone: str) -> tuple[str, Glue | Unknown]:
        """The parent's zone, and what it delegates to: what each of some of its servers says counts."""
        if zone not in self._referrals:
            try:
                self._referrals[zone] = self._refer(zone)
            except Transient as error:
                self._referrals[zone] = "", Unknown(error.detail)
        return self._referrals[zone]

    def _refer(self, zone: str) -> tuple[str, Glue | Unknown]:
        if zone == ".":
            return "", Unknown("the root has no parent")
        parent = self.zone(name_text(dns.name.from_text(zone).parent()))
        hosts = self._listed(parent)[:PARENT_SERVERS]
        places = [
            self._to_ask(host, found, ()) for host, found in zip(hosts, parallel(self._addresses, hosts), strict=True)
        ]
        # RD is not set: it is the delegation that is asked for, not what a resolver makes of it
        query = dns.message.make_query(zone, NS, use_edns=0, payload=UDP_PAYLOAD, flags=0)
        said = parallel(
            lambda place: place if isinstance(place, Unknown) else referral(self._ask(place, query), zone),
            [next(iter(place.values())) for place in places],
        )
        heard = [one for one in said if not isinstance(one, Unknown)]
        if not heard:
            silent = [f"{host} {one.why}" for host, one in zip(hosts, said, strict=True) if isinstance(one, Unknown)]
            return parent, Unknown("; ".join(silent) or f"{parent} has no name servers")
        names = dict.fromkeys(name for one in heard for name in one)
        glue = {name: tuple(dict.fromkeys(a for one in heard for a in one.get(name, ()))) for name in names}
        return parent, dict(islice(glue.items(), MAX_RECORDS))

    def _addresses(self, host: str) -> tuple[str, ...] | Unknown:
        """As a resolver gives them, IPv4 first."""
        if host not in self._hosts:
            try:
                self._hosts[host] = (*targets(self._lookup(host, A)), *targets(self._lookup(host, AAAA)))
            except Transient as error:
                self._hosts[host] = Unknown(error.detail)
        return self._hosts[host]

    def _to_ask(self, host: str, known: tuple[str, ...] | Unknown, glue: tuple[str, ...]) -> Servers:
        """The addresses that this host can reach.

        By the practice of RFC 1034 section 4.1 one name is one machine: if one of the two families reaches it, it is
        asked by that.
        """
        if isinstance(known, Unknown) and not glue:
            return {f"{host}/-": known}
        every = dict.fromkeys([*(() if isinstance(known, Unknown) else known), *glue])
        unreached = {address: why for address in every if (why := self._unreached(address))}
        ask: Servers = {f"{host}/{address}": address for address in every if address not in unreached}
        if not ask:
            ask = {f"{host}/{address}": Unknown(f"cannot be asked: {why}") for address, why in unreached.items()}
        return ask or {f"{host}/-": Unknown("has no address")}

    def _unreached(self, address: str) -> str:
        """Why this host does not reach the address by its family; empty: it does."""
        if ":" in address and self._ipv6 is not None:
            return "" if self._ipv6 else "dns.ipv6 is false"
        return "" if has_route(address) else f"no IPv{6 if ':' in address else 4} route from this host"


def referral(response: Message | Unknown, zone: str) -> Glue | Unknown:
    """The servers that a server of the parent names for the zone, with their glue; empty: there is no delegation."""
    if isinstance(response, Unknown):
        return response
    if response.rcode() not in (NOERROR, NXDOMAIN):
        return Unknown(f"says {response.rcode().name}")
    # a server of the parent that has the zone as well answers for that
    given = [r for r in (*response.answer, *response.authority) if (r.rdclass, r.rdtype) == (IN, NS)]
    names = [record.to_text().lower() for r in given if name_text(r.name) == zone for record in records(r)]
    if not names and not response.flags & AA:
        return Unknown("does not answer with authority")
    glue: dict[str, list[str]] = {name: [] for name in names[:MAX_RECORDS]}
    for rrset in response.additional:
        if rrset.rdclass == IN and rrset.rdtype in (A, AAAA) and (host := name_text(rrset.name)) in glue:
            glue[host] += [record.to_text() for record in records(rrset)][:MAX_RECORDS]
    return {host: tuple(addresses) for host, addresses in glue.items()}
