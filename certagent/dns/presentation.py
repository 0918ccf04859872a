"""Records in zone file syntax (RFC 1035 section 5.1), as many APIs have them, and certagent's own text of values."""

from __future__ import annotations

import dns.exception
import dns.rdata
import dns.rdtypes.ANY.TXT
from dns.rdataclass import IN
from dns.rdatatype import TXT

from certagent.dns.message import canonical, value_text

_STRING_MAX_BYTES = 255
"""RFC 1035 section 3.3."""


def text_of(rdtype: str, content: str) -> str:
    """A record of an API as certagent writes values. A TXT without quotes is taken as it is: some give it so."""
    if rdtype != "TXT":
        return canonical(rdtype, content)
    if not content.startswith('"'):
        return content
    try:
        return value_text(dns.rdata.from_text(IN, TXT, content))
    except (dns.exception.DNSException, ValueError):
        return content


def value_of(rdtype: str, value: str) -> str:
    """A value of certagent's in zone file syntax: a TXT in strings of at most 255 bytes."""
    if rdtype != "TXT":
        return canonical(rdtype, value)
    data = value.encode()
    parts = [data[at : at + _STRING_MAX_BYTES] for at in range(0, max(1, len(data)), _STRING_MAX_BYTES)]
    return dns.rdtypes.ANY.TXT.TXT(IN, TXT, parts).to_text()


def label_of(name: str, zone: str) -> str:
    """The name without the zone, as APIs have it; `@` for the zone itself."""
    return name.removesuffix(zone).rstrip(".") or "@"
