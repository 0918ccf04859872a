"""What DNS answered: TLSA record sets as authoritative servers gave them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from certagent.facts.unknown import Unknown

Value = str
"""A TLSA record's data in canonical text, `3 1 1 <lower-case hex>`."""


class Answer(Struct, frozen=True, tag=True):
    """What one authoritative address said of a TLSA name: the values and their TTL, and how it got there.

    `path`: for each CNAME on the way, the name it leads to and its TTL.
    """

    values: frozenset[Value]
    ttl_s: int
    path: tuple[tuple[str, int], ...] = ()
    wildcard: str = ""
    """The wildcard that the records were made from (RFC 4592), such as `*.example.org.`: the name itself has none.
    Empty: they are the name's own, or the zone is not signed."""


Security = Literal["secure", "insecure", "bogus", "unknown"]
"""What a validating resolver says of the name (RFC 4035 section 4.3); `unknown`: none could be asked."""


class Late(Struct, frozen=True):
    """A server whose zone is older than that of others: its transfer is late."""

    serial: int
    newest: int
    """The serial of others."""

    def __str__(self) -> str:
        return f"it is at serial {self.serial}, others are at {self.newest}: its transfer is late"


def late(serials: dict[str, int]) -> dict[str, Late]:
    """Which of these servers are behind, by the serials of one zone: they are numbers of 32 bits that go round
    (RFC 1982 section 3.2).
    """
    found: dict[str, Late] = {}
    for server, serial in serials.items():
        ahead = max(((other - serial) % 2**32 for other in serials.values() if _newer(other, serial)), default=0)
        if ahead:
            found[server] = Late(serial, (serial + ahead) % 2**32)
    return found


def _newer(one: int, other: int) -> bool:
    return 0 < (one - other) % 2**32 < 2**31


class Observation(Struct, frozen=True):
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
    """Each CNAME on the way, as in `Answer`: also if nobody was heard behind it."""
    late: dict[str, Late] = {}
    """Where servers disagree: those whose zone is older than that of others."""


class Delegation(Struct, frozen=True):
    """The name servers of a zone by its parent, where senders' resolvers come from, and by the zone itself."""

    zone: str
    parent: str
    """The zone above it; empty: it was not found."""
    listed: frozenset[str]
    """The names in the zone's own NS records."""
    delegated: dict[str, tuple[str, ...]] | Unknown
    """The names in the parent's, with the addresses that it adds (glue). Empty: the parent has no delegation."""
    addresses: dict[str, tuple[str, ...]]
    """The addresses that these names have, as far as they could be looked up."""


class Hidden(Struct, frozen=True):
    """A host whose addresses are those of a wildcard: a record below its name would take them away."""

    host: str
    wildcard: str
    records: tuple[str, ...]
    """What it gives: `A 192.0.2.1`."""
