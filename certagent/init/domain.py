"""What DNS says of a host name, as far as a certificate and its TLSA records go. Every question has a time limit, and a
name server that does not answer is a note, not a failure.

Standards: RFC 5321 section 5.1 (MX), RFC 1035 section 3.3.13 (SOA), RFC 8659 (CAA), RFC 8657 (its parameters), RFC 7672
(TLSA).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import dns.exception
import dns.message
from dns.flags import AD, CD, RD
from dns.message import QueryMessage
from dns.rcode import NOERROR, NXDOMAIN
from dns.rdatatype import CAA, MX, NS, SOA, TLSA, RdataType
from msgspec import Struct, structs

from certagent.agent.act.hiding import in_words
from certagent.dns import resolvconf
from certagent.dns.authority import Resolver
from certagent.dns.message import MAX_RECORDS, absolute, exchange, records
from certagent.errors import Error, Misconfigured, NoAddress, Transient
from certagent.facts.dns import Observation
from certagent.facts.unknown import Unknown
from certagent.host.programs import program
from certagent.pki import endpoint
from certagent.pki.names import challenge_name, hostname

_TIMEOUT_S = 6.0
"""Of one question to a resolver: it asks others in turn, and gives up by itself after some seconds."""

_WORKERS = 16
"""Names side by side; each asks a handful of questions."""

MX_PORT = 25
"""Where other servers bring mail. Here the authoritative servers are asked; at other ports a resolver is, first."""

UNBOUND = "127.0.0.1"
"""Where Debian's unbound listens as it comes, whether /etc/resolv.conf names it or not."""


class Resolvers(Struct, frozen=True):
    """The recursive resolvers to ask. `validates`: they do, and are on this host, so that their word counts."""

    addresses: tuple[str, ...]
    validates: bool
    why: str
    """In words, what was found."""


class Name(Struct, frozen=True):
    """A host name in DNS."""

    name: str
    addresses: tuple[str, ...] = ()
    absent: bool = False
    """DNS says that it has no address."""
    mx: dict[str, tuple[str, ...]] = {}
    """The MX names of the domains from the name up to its zone."""
    mail_for: tuple[str, ...] = ()
    """Domains whose MX it is, of those that were asked for any name."""
    zone: str = ""
    """Where the answer to a CA's challenge is written, aliases followed; "": not found, ".": in no zone below it."""
    primary: str = ""
    """The zone's SOA MNAME."""
    name_servers: tuple[str, ...] = ()
    """Those of the zone, absolute."""
    tlsa: dict[int, Observation] = {}
    """By port: what is there, or could not be found out. A port without an entry has no records."""
    caa: tuple[str, ...] = ()
    """The values of `issue`; of several, any will do. Empty: every CA may."""
    caa_at: str = ""
    trouble: tuple[str, ...] = ()
    """What could not be found out, and why."""


def resolvers() -> Resolvers:
    """Those of /etc/resolv.conf; where they do not validate, or could be forged on the way, one on this host that does.

    None answer: `addresses` is empty.
    """
    listed: tuple[str, ...] = ()
    with suppress(Misconfigured):
        listed = resolvconf.resolvers()
    here = bool(listed) and all(map(endpoint.is_loopback, listed))
    shown = ", ".join(listed) or "none"
    if here and all(_validates(server) for server in listed):
        return Resolvers(listed, validates=True, why=f"{shown} of /etc/resolv.conf is on this host and validates")
    if _validates(UNBOUND):
        why = f"{UNBOUND} validates; those of /etc/resolv.conf ({shown}) do not, or are not on this host"
        return Resolvers((UNBOUND,), validates=True, why=why)
    alive = tuple(server for server in listed if _validates(server) is not None)
    why = f"{shown} of /etc/resolv.conf: {'does not validate' if here else 'not on this host, so it could be forged'}"
    return Resolvers(alive, validates=False, why=why if alive else f"no resolver answers ({shown} of /etc/resolv.conf)")


def to_start_unbound() -> str:
    """The command after which a validating resolver runs on this host."""
    try:
        program("unbound")
    except Misconfigured:
        return "apt install unbound"
    return "systemctl restart unbound"


def _validates(server: str) -> bool | None:
    """Whether it answers for the signed root with AD; None: it does not answer at all."""
    response = exchange(dns.message.make_query(".", SOA, use_edns=0, flags=RD | AD), server, 3.0)
    return None if isinstance(response, Unknown) else bool(response.flags & AD)


def is_host(name: str) -> bool:
    """Whether it is a full host name, such as a CA knows."""
    try:
        return hostname(name) == name
    except Misconfigured:
        return False


def look_up(names: Iterable[str], ports: Iterable[int], use: Resolvers) -> dict[str, Name]:
    """What DNS says of each name, and of the MX names of their domains; TLSA records are looked for at these ports."""
    # it shows what there is; the first swap asks again
    resolver, asked = Resolver(use.addresses, public_view=True), sorted(ports)

    def work(name: str) -> Name:
        return _look_up(name, asked, use, resolver)

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="names") as pool:
        found = {one.name: one for one in pool.map(work, names)}
        exchanges: dict[str, dict[str, None]] = {}
        for one in found.values():
            for at, listed in one.mx.items():
                for name in filter(is_host, listed):  # "." says that there is no mail, RFC 7505
                    exchanges.setdefault(name, {})[at] = None
        found |= {one.name: one for one in pool.map(work, sorted(exchanges.keys() - found.keys()))}
    return {n: structs.replace(one, mail_for=tuple(exchanges.get(n, ()))) for n, one in found.items()}


def _look_up(name: str, ports: list[int], use: Resolvers, resolver: Resolver) -> Name:
    trouble: list[str] = []

    def tried(function: Any, *arguments: Any, otherwise: Any) -> Any:
        try:
            return function(*arguments)
        except Error as error:
            trouble.append(error.detail)
            return otherwise

    def addresses_of() -> tuple[str, ...] | None:
        try:
            return resolver.addresses(name)
        except NoAddress as error:
            trouble.append(error.detail)
            return None

    def tlsa_at(port: int) -> Observation | None:
        return resolver.observe(f"_{port}._tcp.{name}") if port == MX_PORT or _may_have(use, name, port) else None

    with ThreadPoolExecutor(5) as pool:
        addresses = pool.submit(tried, addresses_of, otherwise=())
        tlsa = {port: pool.submit(tlsa_at, port) for port in ports}
        caa = pool.submit(tried, _caa, use, name, otherwise=("", ()))
        zone, _ = tried(lambda: resolver.final(challenge_name(name)), otherwise=("", ""))
        hidden = tried(resolver.hidden, zone, challenge_name(name), otherwise=()) if zone else ()
        trouble += ["; ".join(in_words(one, challenge_name(name))) for one in hidden]
        primary = pool.submit(tried, _primary, use, zone, otherwise="") if zone else None
        name_servers = pool.submit(tried, _name_servers, use, zone, otherwise=()) if zone else None
        mx: dict[str, tuple[str, ...]] = tried(_mx, use, name, zone, otherwise={})
        (at, issue), met = caa.result(), addresses.result()
        return Name(
            name=name,
            addresses=met or (),
            absent=met is None,
            mx=mx,
            zone=zone,
            primary=primary.result() if primary else "",
            name_servers=name_servers.result() if name_servers else (),
            tlsa={port: found for port, future in tlsa.items() if (found := future.result())},
            caa=issue,
            caa_at=at,
            trouble=tuple(dict.fromkeys(trouble)),
        )


def _mx(use: Resolvers, name: str, zone: str) -> dict[str, tuple[str, ...]]:
    """The MX names of the domains from the name up to its zone."""
    return {
        at.rstrip("."): tuple(str(record.exchange).lower().rstrip(".") for record in _ask(use, at, MX))
        for at in _upwards(name, zone)
    }


def _may_have(use: Resolvers, name: str, port: int) -> bool:
    """Whether there may be TLSA records: a resolver has some, or could not be asked."""
    try:
        return bool(_ask(use, f"_{port}._tcp.{name}.", TLSA))
    except Error:
        return True


def _primary(use: Resolvers, zone: str) -> str:
    return next((str(record.mname).lower() for record in _ask(use, zone, SOA)), "")


def _name_servers(use: Resolvers, zone: str) -> tuple[str, ...]:
    return tuple(sorted(str(record.target).lower() for record in _ask(use, zone, NS)))


def _caa(use: Resolvers, name: str) -> tuple[str, tuple[str, ...]]:
    """Where the nearest CAA records are, and what they allow (RFC 8659 section 3: the first that has any, upwards)."""
    for domain in _upwards(name, "."):
        found = _ask(use, domain, CAA)
        if found:
            issue = [r.value.decode("ascii", "replace") for r in found if r.tag.lower() == b"issue"]
            return domain.rstrip("."), tuple(issue)
    return "", ()


def forbidden(caa: Iterable[str], ca: str, method: str = "dns-01") -> str:
    """Why CAA keeps the CA from issuing by that type of challenge; "": it does not."""
    values = list(caa)
    why = f"allows {', '.join(v or 'nobody' for v in values)}, not {ca}"
    for value in values:
        domain, *rest = (part.strip() for part in value.split(";"))
        parameters = {tag: words for tag, _, words in (part.partition("=") for part in rest)}
        methods = parameters.get("validationmethods")
        if domain.lower() != ca:
            continue
        if methods is not None and method not in methods.split(","):  # RFC 8657 section 4
            why = f"allows {ca} with {methods} only, and certagent uses {method}"
        elif account := parameters.get("accounturi"):  # RFC 8657 section 3
            why = f"allows {ca} for the account {account} only, and certagent makes another"
        else:
            return ""
    return why if values else ""


def _upwards(name: str, zone: str) -> list[str]:
    """The name and those above it, down to the zone, which is included unless it is the root."""
    labels = absolute(name).rstrip(".").split(".")
    domains = [absolute(".".join(labels[i:])) for i in range(len(labels))]
    return [domain for domain in domains if zone in ("", ".") or f".{domain}".endswith(f".{zone}")]


def _ask(use: Resolvers, name: str, rdtype: RdataType) -> list[Any]:
    """The records at the end of the aliases. Checking is off: a bogus zone is to be described, not believed.

    Raises:
        Transient: `dns.unreachable`: No resolver has an answer.
    """
    query = dns.message.make_query(name, rdtype, use_edns=0, payload=1232, flags=RD | CD)
    why = "no resolver"
    for server in use.addresses:
        response = exchange(query, server, _TIMEOUT_S)
        if isinstance(response, Unknown):
            why = f"{server} {response.why}"
        elif response.rcode() not in (NOERROR, NXDOMAIN):
            why = f"{server} says {response.rcode().name}"
        else:
            try:
                rrset = response.resolve_chaining().answer if isinstance(response, QueryMessage) else None
            except dns.exception.DNSException:  # a broken chain leads nowhere
                rrset = None
            return records(rrset)[:MAX_RECORDS] if rrset else []
    raise Transient("dns.unreachable", f"{name} {rdtype.name} cannot be looked up: {why}")
