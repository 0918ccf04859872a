"""One DNS message: names as text, what an answer says, and one question to one address.

Standards: RFC 1034 section 4.3 (authority), RFC 2308 section 2 (no data), RFC 1035 section 3.3.14 (TXT).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import cast

import dns.exception
import dns.name
import dns.query
import dns.rdtypes.ANY.TXT
from dns.flags import AA
from dns.message import Message
from dns.rcode import NOERROR, NXDOMAIN
from dns.rdata import Rdata
from dns.rdatatype import CNAME, DNAME, RdataType
from dns.rrset import RRset
from msgspec import Struct

from certagent.errors import Misconfigured
from certagent.facts.dns import Answer
from certagent.facts.unknown import Unknown
from certagent.host.deadline import left

MAX_RECORDS = 64  # far above any RRset of a mail host: more is a mistake or an attack


class Alias(Struct, frozen=True):
    """A CNAME that one server gave for a name."""

    target: str
    ttl_s: int


Said = Answer | Alias | Unknown


def absolute(name: str) -> str:
    """Lower case, with the final dot: names are compared as text here."""
    return name.lower().rstrip(".") + "."


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
    if sum(map(len, response.answer)) > MAX_RECORDS:
        return Unknown(f"gives more than {MAX_RECORDS} records")
    # The alias comes before the rcode: NXDOMAIN is then about the end of the chain (RFC 6604 section 3).
    if alias := rrset_of(response, name, CNAME):
        # Caches keep a DNAME for its own TTL, whatever the CNAME made from it says (RFC 6672 section 3.1).
        below = dns.name.from_text(name)
        dnames = [r.ttl for r in response.answer if r.rdtype == DNAME and below.is_subdomain(r.name)]
        return Alias(records(alias)[0].to_text().lower(), max(alias.ttl, *dnames, 0))
    if rrset := rrset_of(response, name, rdtype):
        return Answer(frozenset(map(value_text, records(rrset))), rrset.ttl)
    return Answer(frozenset(), 0)


def majority(said: Iterable[Said]) -> str:
    """The alias target that most servers give; empty if most give none. The first by alphabet where they tie."""
    votes = Counter(s.target if isinstance(s, Alias) else "" for s in said if not isinstance(s, Unknown))
    return max(sorted(votes), key=votes.__getitem__, default="")


def rrset_of(response: Message, name: str, rdtype: RdataType) -> RRset | None:
    """The RRset of that name and type in the answer section, if it is there."""
    return next((r for r in response.answer if r.rdtype == rdtype and name_text(r.name) == name and len(r)), None)


def records(rrset: RRset) -> list[Rdata]:
    """The records of the set; dnspython leaves their type open."""
    return list(cast("Iterable[Rdata]", rrset))


def name_text(name: dns.name.Name) -> str:
    """Absolute, lower case."""
    return name.canonicalize().to_text()


def exchange(query: Message, address: str, timeout_s: float) -> Message | Unknown:
    """One question, asked again if lost, over TCP where the answer is cut off. At most 2 x `timeout_s`.

    Raises:
        Overdue: `step.overdue`: Nothing is left of the step.
    """
    timeout_s = left(timeout_s)
    try:
        for share in (0.3, 0.7):
            try:
                # What does not fit the question (a forgery, garbage) is passed over, and waiting goes on.
                return dns.query.udp_with_fallback(
                    query, address, timeout_s * share, ignore_unexpected=True, ignore_errors=True
                )[0]
            except dns.exception.Timeout:
                continue
    except (OSError, EOFError) as error:
        return Unknown(getattr(error, "strerror", None) or "closed the connection")
    except dns.exception.DNSException as error:
        return Unknown(f"gives an answer that cannot be read ({type(error).__name__})")
    return Unknown(f"gave no answer within {timeout_s:g} s")
