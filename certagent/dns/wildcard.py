"""Addresses that a host has from a wildcard, and loses to a record below its name.

A wildcard answers for names that do not exist. A record at `_25._tcp.mx1.example.org` makes `mx1.example.org` exist,
too, as a name without records; `*.example.org` answers for neither from then on. Source: RFC 4592 section 2.2.2.

In a signed zone the signature says what an answer was made from. In others it is tried out: a name that nobody has,
below a host that does not exist, gets the answer of the same wildcard; below one that exists it gets none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import dns.name
from dns.rdatatype import AAAA, A, RdataType

from certagent.dns.message import Alias, Said, name_text
from certagent.facts.dns import Answer, Hidden

_NOBODY = "certagent-asks-for-nobody"
"""A label that no zone has."""

Ask = Callable[[str, RdataType], Iterable[Said]]
"""What each server of the zone says of a name."""


def hidden(ask: Ask, zone: str, name: str) -> Iterator[Hidden]:
    """The hosts above the name, in its zone, that would lose their addresses to a record at the name."""
    above = dns.name.from_text(name)
    while (above := above.parent()).is_subdomain(dns.name.from_text(zone)) and name_text(above) != zone:
        if above[0].startswith(b"_"):  # no host has such a name
            continue
        given, wildcard = _given(ask, name_text(above))
        if given and not wildcard:
            # one that exists does not let a wildcard above it answer for what is below
            below, _ = _given(ask, f"{_NOBODY}.{name_text(above)}")
            beside, _ = _given(ask, f"{_NOBODY}.{name_text(above.parent())}")
            if given == below == beside:
                wildcard = f"*.{name_text(above.parent())}"
        if given and wildcard:
            yield Hidden(name_text(above), wildcard, tuple(sorted(given)))


def _given(ask: Ask, name: str) -> tuple[frozenset[str], str]:
    """The addresses of a name, or where it leads, as records; and the wildcard that they were made from, if that shows.

    A name of which some servers give its own records, and others a wildcard's, is about to exist.
    """
    given: dict[str, str] = {}
    for rdtype in (A, AAAA):
        for said in ask(name, rdtype):
            if isinstance(said, Alias):
                given[f"CNAME {said.target}"] = said.wildcard
            elif isinstance(said, Answer):
                given |= {f"{rdtype.name} {value}": said.wildcard for value in said.values}
    wildcards = set(given.values())
    return frozenset(given), min(wildcards) if wildcards else ""
