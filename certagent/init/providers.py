"""Who keeps a zone: a service, known by the names of its name servers, or a DNS server that runs on this host."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from ipaddress import ip_address
from itertools import islice

import dns.message
from dns.flags import AA
from dns.rdatatype import SOA

from certagent.agent.plugins import DNS_PROVIDERS, built_in
from certagent.dns.message import exchange
from certagent.dns.providers.about import About
from certagent.facts.unknown import Unknown
from certagent.host import processes
from certagent.host.sockets import Listener

SERVERS = {"named": "rfc2136", "knotd": "knot", "pdns_server": "powerdns"}
"""DNS servers by the names of their programs, with the provider that writes their zones."""

MANY = 64
"""Sockets that are checked: whose they are is found out by a walk through all processes."""
_ANSWER_S = 2.0
"""For a server on this host."""


@cache
def abouts() -> dict[str, About]:
    """What people read about each provider, by its type."""
    return {name: plugin.about for name, plugin in built_in(DNS_PROVIDERS)}


def service(name_servers: Iterable[str]) -> str | None:
    """The type of the provider whose names all these name servers have; None: of no one that is known."""
    servers = [name.lower() for name in name_servers]
    for kind, about in abouts().items():
        if servers and all(any(fnmatchcase(name, f"*{end}") for end in about.name_servers) for name in servers):
            return kind
    return None


def here(zones: Iterable[str], listeners: Iterable[Listener]) -> dict[str, str]:
    """The program on this host that answers for a zone with authority, as its primary or as a secondary."""
    found: dict[str, str] = {}
    wanted = sorted({*zones} - {"", "."})
    for listener in islice(sorted(listeners, key=lambda one: one.port != 53), MANY if wanted else 0):
        program = processes.holder(listener.inode)
        if program in SERVERS:
            address = _reached_at(listener)
            found |= {zone: program for zone in wanted if zone not in found and _authoritative(address, zone)}
    return found


def _reached_at(listener: Listener) -> str:
    address = ip_address(listener.address)
    if address.is_unspecified:
        address = ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]:{listener.port}" if address.version == 6 else f"{address}:{listener.port}"


def _authoritative(address: str, zone: str) -> bool:
    response = exchange(dns.message.make_query(zone, SOA, flags=0), address, _ANSWER_S)
    return not isinstance(response, Unknown) and bool(response.flags & AA and response.answer)
