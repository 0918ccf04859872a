"""The base for services that make, change and delete one record at a time, each by its identifier.

What is new comes first, and what goes comes last: a set is never smaller in between than it was or will be.
"""

from __future__ import annotations

from abc import abstractmethod

from msgspec import Struct

from certagent.dns.providers.compare import Change, ReadCompareWrite
from certagent.dns.providers.protocol import RdType, RRset


class Record(Struct, frozen=True):
    """One record of a set."""

    id: str
    name: str
    rdtype: RdType
    value: str
    """As certagent writes values."""
    ttl_s: int
    own: str = ""
    """As the service writes it, for one that wants it back to delete the record."""


class RecordByRecord(ReadCompareWrite[list[Record]]):
    """`read` and `write` of a provider that has these four."""

    @abstractmethod
    def records(self, name: str, rdtype: RdType) -> list[Record]:
        """All of that name and type."""

    @abstractmethod
    def create(self, name: str, rdtype: RdType, value: str, ttl_s: int) -> None:
        """Make one."""

    @abstractmethod
    def retime(self, record: Record, ttl_s: int) -> None:
        """Change the TTL of one."""

    @abstractmethod
    def delete(self, record: Record) -> None:
        """Delete one; that it has gone already is no error."""

    def read(self, name: str, rdtype: RdType) -> tuple[RRset | None, list[Record]]:
        """Of several TTLs the largest counts: a cache may have met it (RFC 2181 section 5.2)."""
        found = self.records(name, rdtype)
        if not found:
            return None, []
        return RRset(frozenset(record.value for record in found), max(record.ttl_s for record in found)), found

    def uniform(self, records: list[Record]) -> bool:
        """Otherwise a change of the TTL was cut off; where it cannot be changed, that does not count."""
        return self.capabilities.ttl_scope != "set" or len({record.ttl_s for record in records}) <= 1

    def write(self, name: str, rdtype: RdType, change: Change, records: list[Record]) -> None:
        """See `ReadCompareWrite`."""
        if not change.removed and self.capabilities.ttl_scope == "set":
            for record in records:
                if record.ttl_s != change.ttl_s:
                    self.retime(record, change.ttl_s)
        keeps = self.capabilities.ttl_scope == "new" and change.before
        for value in sorted(change.added):
            self.create(name, rdtype, value, keeps.ttl_s if keeps else change.ttl_s)
        for record in records:
            if record.value in change.removed:
                self.delete(record)
