"""The precondition for services that cannot check one: read, compare, write, read.

The caller holds the zone's lock, so that certagent itself never comes between. Somebody else still can. Between write
and read, or where single records are written, what is read is not what was written, and that is an error. Between read
and write, a service that takes whole sets has lost what came, and nothing shows it. One change costs three reads (the
caller's is the first) and one write.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from msgspec import Struct

from certagent.dns.message import canonical
from certagent.dns.providers.protocol import Capabilities, Changed, RdType, RRset
from certagent.errors import Transient

R = TypeVar("R")
"""The records in the service's own form."""


class Change(Struct, frozen=True):
    """One change of a set, for services that write whole sets (`after`) and for those that write records."""

    before: RRset | None
    added: frozenset[str]
    removed: frozenset[str]
    ttl_s: int

    @property
    def after(self) -> frozenset[str]:
        """All values of the set that is to be; none: the set is to be deleted."""
        before = self.before.values if self.before else frozenset[str]()
        return (before | self.added) - self.removed


class ReadCompareWrite(ABC, Generic[R]):
    """`get`, `add` and `remove` of a provider that has a `read` and a `write`."""

    capabilities: Capabilities

    @abstractmethod
    def read(self, name: str, rdtype: RdType) -> tuple[RRset | None, R]:
        """The set as in `Provider.get`, and the records that it was made of, such as `write` needs them."""

    @abstractmethod
    def write(self, name: str, rdtype: RdType, change: Change, records: R) -> None:
        """Make the change to the set that was just read; errors as in `Provider`."""

    def uniform(self, records: R) -> bool:  # noqa: ARG002 -- only some can be otherwise
        """Whether they have one TTL (RFC 2181 section 5.2), as where the service has sets."""
        return True

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """See `Provider`."""
        return self.read(name, rdtype)[0]

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        """See `Provider`."""
        values = frozenset(canonical(rdtype, value) for value in values)
        there = was.values if was else frozenset[str]()
        ttl_s = max(ttl_s, self.capabilities.ttl_floor_s)
        keeps = was is not None and (was.ttl_s == ttl_s or self.capabilities.ttl_scope != "set")

        def nothing(records: R) -> bool:
            return keeps and values <= there and self.uniform(records)

        self._change(name, rdtype, was, Change(was, values - there, frozenset(), ttl_s), nothing)

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        """See `Provider`."""
        values = frozenset(canonical(rdtype, value) for value in values)
        there = was.values if was else frozenset[str]()
        ttl_s = was.ttl_s if was else 0
        self._change(name, rdtype, was, Change(was, frozenset(), values & there, ttl_s), lambda _: not values & there)

    def _change(
        self, name: str, rdtype: RdType, was: RRset | None, change: Change, nothing: Callable[[R], bool]
    ) -> None:
        """`nothing`: whether there is nothing to do for these records."""
        found, records = self.read(name, rdtype)
        if not same(found, was):
            raise Changed(name, rdtype)
        if nothing(records):
            return
        self.write(name, rdtype, change, records)
        found = self.get(name, rdtype)
        if (found.values if found else frozenset[str]()) != change.after:
            what = "does not read as it was written: somebody else wrote at the same moment, or the service lags"
            raise Transient("dns.unknown_outcome", f"{name} {rdtype} {what}")


def same(one: RRset | None, other: RRset | None) -> bool:
    """The same values with the same TTL."""
    if one is None or other is None:
        return one is other
    return (one.values, one.ttl_s) == (other.values, other.ttl_s)
