"""What certagent asks of a DNS provider: read a set, add exact values, remove exact values. There is no "replace".

Rules that every provider keeps; `certagent.testing.dns_provider_suite` checks them:

- **Exact values.** `add` puts values beside those that are there. `remove` takes away the values that are named.
  Neither touches another value, another type or another name.
- **Precondition.** A write carries the set that `get` gave before it. If the set has changed since, nothing is
  written, and the error is `dns.changed`.
- **Idempotent.** Adding what is there and removing what is not there succeed and change nothing.
- **Atomic**, unless `capabilities` say otherwise: all values of one call appear or vanish together.
- **Time limit.** A call returns or raises within its `timeout`. It waits for the provider's answer, and not for
  propagation, unless `propagation_status` is stated.
- **After an error** a change may have happened (`Transient`), or surely has not (`Rejected`, `Misconfigured`, and
  `dns.changed`). certagent then asks the authoritative servers, which know.
- **Names** are absolute, lower case, with the final dot, and lie inside `zones`. CNAMEs were followed already.
- **Values** are canonical text: TLSA as `3 1 1 <lower-case hex>`, TXT as the text of all its strings without quotes.
- **TTL.** All records of a set have one TTL (RFC 2181 section 5.2). `add` sets it for the whole set, or the least
  that the provider allows.
- **Threads.** Calls for one zone are serialised by the caller. Calls for several zones may overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from msgspec import Meta, Struct

from certagent.dns.message import absolute, is_name
from certagent.errors import Misconfigured, Transient
from certagent.facts.duration import Duration, limit_s

RdType = Literal["TLSA", "TXT"]


Ttl = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""As RFC 2181 section 8 has it; of a service that says another number nothing is believed."""


TtlText = Annotated[str, Meta(pattern="^[0-9]{0,9}$")]
"""The same of a service that writes numbers as text; empty: it says none."""


class RRset(Struct, frozen=True):
    """The values at one name and type, with their TTL in seconds."""

    values: frozenset[str]
    ttl_s: Ttl
    own: tuple[str, ...] = ()
    """The records in the provider's own notation; only the provider that made them reads them, to compare exactly."""


class Capabilities(Struct, frozen=True):
    """What a provider can do, and what it cannot. The defaults are those of RFC 2136 at a server of one's own."""

    atomic: bool = True
    """All values of one call appear together. Otherwise any part of a change may be served, and is written alone."""
    precondition: Literal["values", "set", "none"] = "none"
    """What the provider itself checks in the moment of writing: the values, the values and the TTL, or nothing. With
    `none` the set is read and compared just before the write, which leaves a gap of one request."""
    ttl_floor_s: int = 0
    """The least TTL in seconds; a smaller one is raised to it."""
    ttl_scope: Literal["set", "zone", "new"] = "set"
    """`zone`: all sets of a zone have one TTL, and `add` cannot choose it. `new`: a set that is there keeps its TTL."""
    publish_lag_s: float = 0.0
    """How long the provider usually takes until its name servers give what was written, in seconds."""
    writes_per_day: int | None = None
    """How many writes to one zone it accepts in a day; None: no known limit."""
    propagation_status: bool = False
    """It says when all its name servers give what was written, and a write returns only then. So the CA is asked as
    soon as DNS shows a challenge. TLSA counts with `publish_lag_s` all the same, since an answer may get lost."""
    on_command: bool = False
    """A command at the end of each change publishes it. The command may get lost, so a change that is there already is
    asked for once more."""
    challenges_only: bool = False
    """It takes the TXT values of challenges and no TLSA records. It reads and removes nothing: newer values take the
    place of older ones."""


_LONGEST = "1h"
"""The longest limit of a provider: no service needs more."""


class _WithTimeout(Protocol):
    @property
    def timeout(self) -> Duration: ...


class Timed(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a provider with a `timeout`, which each says in its own words."""

    def __post_init__(self: _WithTimeout) -> None:
        limit_s(self.timeout, _LONGEST)

    @property
    def timeout_s(self: _WithTimeout) -> float:
        """`timeout` in seconds."""
        return limit_s(self.timeout, _LONGEST)


def zones_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The zones in the options of a provider, as `Provider.zones` has them.

    Raises:
        Misconfigured: `dns.options`: There is none, or one is no name of a zone.
    """
    for text in texts:
        if not is_name(text) or text.startswith("*"):
            hint = "write the name of the zone as in its SOA record, such as example.org"
            raise Misconfigured("dns.options", f"zones: {text[:300]!r} is no zone", hint)
    if not texts:
        raise Misconfigured("dns.options", "zones: the list is empty", "list the zones that it may write")
    return tuple(map(absolute, texts))


class Changed(Transient):
    """`dns.changed`: the precondition of a write does not hold. Nothing was written; the set has to be read again."""

    usual_hint = "it is read again by itself; if this goes on, something else writes the same records"

    def __init__(self, name: str, rdtype: RdType, detail: str = "", hint: str = "") -> None:
        said = f": {detail}" if detail else ""
        super().__init__("dns.changed", f"{name} {rdtype} has changed since it was read{said}", hint)


class Provider(Protocol):
    """One account at one provider.

    Errors of every method: `dns.unreachable` (Transient), `dns.unknown_outcome` (Transient: the answer was lost, the
    change may still happen), `dns.refused` (Misconfigured: key, rights or zone), `dns.rejected` (Rejected: content).
    """

    @property
    def zones(self) -> tuple[str, ...]:
        """The zones it may write, absolute, with the final dot."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """The set as the provider has it now; None if there is none."""
        ...

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        """Make sure that the values are there, provided that the set is still `was`, as `get` gave it.

        Raises:
            Changed: `dns.changed`: It is another by now, and nothing was written.
        """
        ...

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        """Make sure that the values are not there, provided that the set is still `was`, as `get` gave it.

        Raises:
            Changed: `dns.changed`: It is another by now, and nothing was written.
        """
        ...
