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
