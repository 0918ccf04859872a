"""A challenge of a CA, with the response that meets it."""

from __future__ import annotations

from msgspec import Struct


class Challenge(Struct, frozen=True):
    """A challenge still to be met (RFC 8555 section 8). What `name` and `value` mean, the type says."""

    type: str
    """As the CA writes it: `dns-01`, … (IANA registry "ACME Validation Methods")."""
    identifier: str
    """What the CA validates: a host name without `*.`."""
    name: str
    """Where the response goes. `dns-01`: the name of a TXT record, absolute."""
    value: str
    """The response. `dns-01`: the text of that record."""

    def __str__(self) -> str:
        """For people: `dns-01 _acme-challenge.mx1.example.org. gfj9Xq…`."""
        return f"{self.type} {self.name} {self.value}"
