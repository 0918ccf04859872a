"""A challenge of a CA, with the response that meets it, and how a certificate's challenges are to be met."""

from __future__ import annotations

from msgspec import Struct


class About(Struct, frozen=True):
    """What the configuration has to know of a type, without loading it."""

    place: str
    """Of its class."""
    wildcards: bool = False
    """It can validate them."""
    label: str = ""
    """Of its TXT records, below the names."""
    lasting: bool = False
    """Its TXT records stay, so they can be made by hand."""
    port: int = 0
    """At which this host answers the CA, if certagent itself can; 0: it cannot."""
    webroot: bool = False
    """A web server of this host can answer, from its files."""


TYPES = {
    "dns-01": About("certagent.acme.challenges.dns01:Dns01", wildcards=True, label="_acme-challenge"),
    "http-01": About("certagent.acme.challenges.http01:Http01", port=80, webroot=True),
}
"""Every type that certagent can meet. A certificate has one of them, by its configuration."""


class Method(Struct, frozen=True):
    """How the challenges of a certificate are met, by its configuration."""

    type: str = "dns-01"
    """As the CA writes it (IANA registry "ACME Validation Methods")."""
    label: str = "_acme-challenge"
    """Of the TXT records below the names; "": it needs none."""
    webroot: str = ""
    """The directory of a web server in which responses are placed, absolute; "": none."""
    listen: tuple[str, ...] = ()
    """Where certagent itself listens while the CA looks, as `endpoint.address` reads it; none: at every address of this
    host."""


DNS_01 = Method()
"""Without a word in the configuration."""


class Challenge(Struct, frozen=True, omit_defaults=True):
    """A challenge still to be met (RFC 8555 section 8). What `name` and `value` mean, the type says."""

    type: str
    """As the CA writes it: `dns-01`, … (IANA registry "ACME Validation Methods")."""
    identifier: str
    """What the CA validates: a host name without `*.`."""
    name: str
    """Where the CA looks. `dns-01`: the name of a TXT record, absolute. `http-01`: a URL."""
    value: str
    """The response. `dns-01`: the text of that record."""
    webroot: str = ""
    """The directory in which the response is placed: another one may be configured by the time it is removed."""

    def __str__(self) -> str:
        """For people: `dns-01 _acme-challenge.mx1.example.org. gfj9Xq…`."""
        return f"{self.type} {self.name} {self.value}"
