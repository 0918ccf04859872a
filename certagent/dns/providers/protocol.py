"""What certagent asks of a DNS provider: read, add and remove exact values. There is no "replace".

Rules every provider keeps (`certagent.testing.dns_provider_suite` checks them):

- **Exact values.** `add` puts values beside those that are there; `remove` takes away just the values named. Neither
  ever
  touches another value, another type or another name.
- **Idempotent.** Adding what is there and removing what is not there succeed and change nothing. So every call may be
  repeated, also after a crash or a lost answer.
- **Atomic.** All values of one call appear or vanish together, as seen by a client of the primary.
- **Time budget.** A call returns or raises within `timeout_s` (default 10 s): the answer of a provider, not
  propagation.
- **After an error** the change may or may not have happened (`Transient`), or surely has not (`Rejected`,
  `Misconfigured`). certagent asks the authoritative servers: they are the truth, a provider's API is not.
- **Names** are absolute, lower case, with the final dot, and lie inside `zones`. certagent has followed CNAMEs already.
- **Values** are presentation text: TLSA as `3 1 1 <lower-case hex>`, TXT as the bare string without quotes.
- **TTL.** All values of an RRset have one TTL (RFC 2181 section 5.2); `add` sets it for the whole RRset, or a larger
  one
  where the provider has a minimum.
- **Threads.** Calls for one zone are serialised by the caller; calls for several zones may come at the same time.
"""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct

RdType = Literal["TLSA", "TXT"]


class RRset(Struct, frozen=True):
    """The values at one name and type, with their TTL in seconds."""

    values: frozenset[str]
    ttl_s: int


class Provider(Protocol):
    """One account at one provider.

    Errors of every method: `dns.unreachable` (Transient), `dns.unknown_outcome` (Transient: the answer was lost, the
    change may still happen), `dns.refused` (Misconfigured: key, rights or zone), `dns.rejected` (Rejected: content).
    """

    @property
    def zones(self) -> tuple[str, ...]:
        """The zones it may write, absolute, with the final dot."""
        ...

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """The RRset as the provider has it now; None where there is none."""
        ...

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        """Make sure the values are there."""
        ...

    def remove(self, name: str, rdtype: RdType, values: frozenset[str]) -> None:
        """Make sure the values are not there."""
        ...
