"""One DNS message: names as text, what an answer says, and one question to one address.

Standards: RFC 1034 section 4.3 (authority), RFC 2308 section 2 (no data), RFC 1035 section 3.3.14 (TXT).
"""

from __future__ import annotations

import secrets
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import cast

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rdtypes.ANY.RRSIG
import dns.rdtypes.ANY.TLSA
import dns.rdtypes.ANY.TXT
from dns.flags import AA
from dns.message import Message
from dns.rcode import BADVERS, FORMERR, NOERROR, NOTIMP, NXDOMAIN
from dns.rdata import Rdata
from dns.rdataclass import IN
from dns.rdatatype import CNAME, DNAME, RRSIG, RdataType
from dns.rrset import RRset
from msgspec import Struct

from certagent.errors import Misconfigured
from certagent.facts.dns import Answer
from certagent.facts.unknown import Unknown
from certagent.host.deadline import left
from certagent.pki import endpoint

# The library refuses a whole answer for one TLSA record whose digest has a wrong length. Such a record is a fact: a
# client leaves it out (RFC 6698 section 4.1), and only who sees it can say so.
setattr(dns.rdtypes.ANY.TLSA.TLSA, "_cert_length_by_mtype", {})  # noqa: B010

UDP_PAYLOAD = 1232
"""Fits the smallest IPv6 packet, so no fragments (DNS flag day 2020)."""
LARGE_PAYLOAD = 4096
"""What most servers take; its fragments may be lost, so only where TCP is refused."""
MAX_RECORDS = 64
"""Far above any RRset of a mail host: more is a mistake or an attack."""


class Alias(Struct, frozen=True):
    """A CNAME that one server gave for a name."""

    target: str
    ttl_s: int
    wildcard: str = ""
    """The wildcard that it was made from; empty: it is the name's own, as far as that shows."""


class TooMany(Struct, frozen=True):
    """More records than `MAX_RECORDS` in one answer."""

    why: str


Said = Answer | Alias | TooMany | Unknown


def absolute(name: str) -> str:
    """Lower case, with the final dot: names are compared as text here."""
    return name.lower().rstrip(".") + "."


def is_name(text: str) -> bool:
    """Whether a name can be written so. Source: RFC 1035 sections 2.3.4 and 5.1."""
    try:
        dns.name.from_text(text)
    except (dns.exception.DNSException, ValueError):  # of the root's name with more after it: ValueError
        return False
    return bool(text) and text.isascii() and text.isprintable() and not any(c in " \\" for c in text)


def zone_of(name: str, zones: Iterable[str]) -> str | None:
    """The longest of `zones` that holds the name."""
    return max((z for z in zones if z == "." or f".{name}".endswith(f".{z}")), key=len, default=None)


def one_of_zones(name: str, zones: Collection[str]) -> str:
    """The longest of a provider's zones that holds the name.

    Raises:
        Misconfigured: `dns.no_zone`: None does.
    """
    zone = zone_of(name, zones)
    if zone is None:
        raise Misconfigured("dns.no_zone", f"{name} is in none of the zones {', '.join(zones)}", "list its zone")
    return zone


def canonical(rdtype: str, value: str) -> str:
    """The one text of a value: a TLSA as `3 1 1 <lower-case hex>` without white space in the hex, a TXT as it is."""
    if rdtype != "TLSA":
        return value
    *numbers, data = value.lower().split(None, 3) or [""]
    return " ".join((*numbers, "".join(data.split())))


def value_text(rdata: Rdata) -> str:
    """A TLSA in canonical text, a TXT as its strings joined, without quotes."""
    if isinstance(rdata, dns.rdtypes.ANY.TXT.TXT):
        return b"".join(rdata.strings).decode("utf-8", "replace")
    return canonical("TLSA", rdata.to_text())  # dnspython breaks long hex into pieces


def read(response: Message, name: str, rdtype: RdataType) -> Said:
    """What one authoritative server says of the name itself; the rest of a chain is asked for at its own zone."""
    if response.rcode() not in (NOERROR, NXDOMAIN):
        return Unknown(f"says {response.rcode().name}")
    if not response.flags & AA:  # a referral or somebody's cache (RFC 1034 section 4.3.1)
        return Unknown("does not answer with authority")
    if (count := sum(len(rrset) for rrset in response.answer if rrset.rdtype != RRSIG)) > MAX_RECORDS:
        return TooMany(f"gives {count} records for {name} {rdtype.name}, and {MAX_RECORDS} are read at most")
    # The alias comes before the rcode: NXDOMAIN is then about the end of the chain (RFC 6604 section 3).
    if alias := _alias(response, name):
        return alias
    if rrset := rrset_of(response, name, rdtype):
        values = frozenset(map(value_text, records(rrset)))
        return Answer(values, ttl_of(response, rrset), wildcard=wildcard_of(response, rrset))
    return Answer(frozenset(), 0)


def _alias(response: Message, name: str) -> Alias | None:
    """Where a CNAME leads, or a DNAME of which the server makes no CNAME (RFC 6672 section 3.1 wants one)."""
    whole = dns.name.from_text(name)
    above = [r for r in response.answer if (r.rdclass, r.rdtype) == (IN, DNAME) and whole.is_subdomain(r.name)]
    dnames = [r for r in above if r.name != whole]
    if alias := rrset_of(response, name, CNAME):
        # Caches keep a DNAME for its own TTL, whatever the CNAME made from it says (RFC 6672 section 3.1).
        ttl_s = max(ttl_of(response, alias), *(ttl_of(response, r) for r in dnames), 0)
        return Alias(records(alias)[0].to_text().lower(), ttl_s, wildcard_of(response, alias))
    for rrset in dnames[:1]:
        target = dns.name.from_text(records(rrset)[0].to_text())
        return Alias(name_text(whole.relativize(rrset.name).concatenate(target)), ttl_of(response, rrset))
    return None


def majority(said: Iterable[Said]) -> str:
    """The alias target that most servers give; empty if most give none. The first by alphabet where they tie."""
    votes = Counter(s.target if isinstance(s, Alias) else "" for s in said if not isinstance(s, Unknown))
    return max(sorted(votes), key=votes.__getitem__, default="")


def rrset_of(response: Message, name: str, rdtype: RdataType) -> RRset | None:
    """The RRset of that name and type in the answer section, if it is there; of class IN, as the question was."""
    wanted = (r for r in response.answer if (r.rdclass, r.rdtype) == (IN, rdtype) and len(r))
    return next((r for r in wanted if name_text(r.name) == name), None)


def wildcard_of(response: Message, rrset: RRset) -> str:
    """The wildcard that a set was made from, as its signature says (RFC 4034 section 3.1.3, RFC 4035 section 5.3.4).

    Empty: it is the name's own, or nobody signed it.
    """
    for signatures in response.answer:
        if (signatures.rdtype, signatures.covers, signatures.name) == (RRSIG, rrset.rdtype, rrset.name):
            labels = min(r.labels for r in records(signatures) if isinstance(r, dns.rdtypes.ANY.RRSIG.RRSIG))
            if labels < len(rrset.name) - 1:  # without the root
                return f"*.{name_text(dns.name.Name(rrset.name[-labels - 1 :]))}"
    return ""


def ttl_of(response: Message, rrset: RRset) -> int:
    """The longest TTL in the set, as it came.

    A value of 2^31 and more is 0 by RFC 2181 section 8, and so it is for dnspython. By RFC 8767 section 4 a cache takes
    it for what it says. So it is taken here: what a cache may hold is counted, not what it should.
    """
    came = (ttl for name, rdtype, ttl in _ttls(response.wire or b"") if (name, rdtype) == (rrset.name, rrset.rdtype))
    return max(came, default=rrset.ttl)


def _ttls(wire: bytes) -> Iterator[tuple[dns.name.Name, int, int]]:
    """Name, type and TTL of each record in the answer section of a sound message. Source: RFC 1035 section 4.1."""
    if not wire:  # a message that did not come over the network
        return
    questions, answers = struct.unpack_from("!2H", wire, 4)
    at = 12
    for _ in range(questions):
        at += dns.name.from_wire(wire, at)[1] + 4
    for _ in range(answers):
        name, size = dns.name.from_wire(wire, at)
        rdtype, _, ttl, length = struct.unpack_from("!HHIH", wire, at + size)
        at += size + 10 + length
        yield name, rdtype, ttl


def records(rrset: RRset) -> list[Rdata]:
    """The records of the set; dnspython leaves their type open."""
    return list(cast("Iterable[Rdata]", rrset))


def name_text(name: dns.name.Name) -> str:
    """Absolute, lower case."""
    return name.canonicalize().to_text()


def exchange(query: Message, address: str, timeout_s: float) -> Message | Unknown:
    """One question, asked in whatever way the server has: UDP, again, TCP, and at last without EDNS.

    A lost packet and a server that drops what it does not know look the same. Without EDNS there are no signatures, so
    that comes last. In all at most 2 x `timeout_s`. `address`: as `endpoint.address` reads it.

    Over UDP the name is spelt at random, and the answer has to spell it alike: a forger has to guess that, too. A
    server that does not keep the spelling is asked again as usual; a forger would have to guess twice.

    Raises:
        Overdue: `step.overdue`: Nothing is left of the step.
    """
    try:
        host, port = endpoint.address(address)
    except ValueError:
        return Unknown("is no address")
    timeout_s = left(timeout_s)
    usual, query = query, respelt(query)
    for share, way in ((0.2, _udp), (0.3, _udp), (0.25, _tcp), (0.25, _plain)):
        try:
            response = way(query, host, port, timeout_s * share)
            if way is not _plain and query.edns >= 0 and response.rcode() in (FORMERR, NOTIMP, BADVERS):
                # it has not EDNS, or not this version (RFC 6891 section 7)
                response = _plain(query, host, port, timeout_s * share)
            if way is _udp and query is not usual and not _spelt_alike(query, response):
                query = usual
                continue
        except dns.exception.Timeout:
            continue
        except (OSError, EOFError) as error:
            if way is not _tcp:
                return Unknown(getattr(error, "strerror", None) or "closed the connection")
        except dns.exception.DNSException as error:
            return Unknown(f"gives an answer that cannot be read ({type(error).__name__})")
        else:
            return response
    return Unknown(f"gave no answer within {timeout_s:g} s")


def respelt(query: Message) -> Message:
    """The question with another id, and with each letter of the name in upper or lower case, by chance.

    Names are compared without case (RFC 4343), and servers copy the question. Source: draft-vixie-dnsext-dns0x20.
    """
    made = dns.message.from_wire(query.to_wire())
    made.id = secrets.randbits(16)
    name = query.question[0].name
    made.question[0].name = dns.name.Name(bytes(map(secrets.choice, zip(x, x.swapcase(), strict=True))) for x in name)
    return made


def _spelt_alike(query: Message, response: Message) -> bool:
    """The question came back byte by byte; some errors come without it (RFC 6891 section 7)."""
    return not response.question or response.question[0].name.labels == query.question[0].name.labels


def _udp(query: Message, host: str, port: int, timeout_s: float) -> Message:
    """By UDP, and by TCP if it is cut off; where that is refused, by UDP with room for more.

    What does not fit the question (a forgery, garbage) is passed over, and waiting goes on.
    """
    try:
        return dns.query.udp_with_fallback(query, host, timeout_s, port, ignore_unexpected=True, ignore_errors=True)[0]
    except ConnectionError:
        if query.edns < 0 or query.payload >= LARGE_PAYLOAD:
            raise
        large = dns.message.from_wire(query.to_wire())
        large.use_edns(query.edns, query.ednsflags, LARGE_PAYLOAD)
        try:
            return dns.query.udp(
                large, host, timeout_s, port, ignore_unexpected=True, ignore_errors=True, raise_on_truncation=True
            )
        except dns.message.Truncated:
            raise OSError(0, "cuts its answer off, and refuses TCP") from None


def _tcp(query: Message, host: str, port: int, timeout_s: float) -> Message:
    return dns.query.tcp(query, host, timeout_s, port)


def _plain(query: Message, host: str, port: int, timeout_s: float) -> Message:
    """By UDP without EDNS."""
    plain = dns.message.from_wire(query.to_wire())
    plain.use_edns(False)
    return _udp(plain, host, port, timeout_s)
