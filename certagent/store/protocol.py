"""What is asked of a store. The journal above it folds and checks; a store keeps rows, and keeps writers apart.

SQLite is the first (`store/sqlite.py`). Another one passes `certagent.testing.store_suite`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct

from certagent.errors import Misconfigured
from certagent.facts.moment import ClockId, Instant
from certagent.secret import Secret


class Row(Struct, frozen=True):
    """One event of one subject, as it is kept."""

    seq: int
    """From 1, without a gap."""
    wall: str
    """RFC 3339, as it was written: the digest is over its characters."""
    elapsed_s: float
    clock: ClockId
    """The clock of the writer."""
    body: bytes
    digest: bytes


class Head(Struct, frozen=True):
    """What stands beside the rows of a subject: a shortcut to the state they fold to."""

    seq: int
    """Of the last row."""
    version: int
    """The version of the kind (see `SubjectKind.version`) that wrote the state."""
    state: bytes
    again: bytes
    """What was seen again since, and when (see `journal.Again`)."""
    digest: bytes


class Found(Struct, frozen=True):
    """The head of a subject and the last row, of one moment; None if there is none."""

    head: Head | None
    last: tuple[int, bytes] | None
    """Number and digest."""


class Wake(Struct, frozen=True):
    """When a subject is to be looked after again, and what is waited for."""

    at: datetime
    why: str


class Store(Protocol):
    """One open store. Any thread may use it.

    Raises, in every method: `store.disk` (Transient), `journal.damaged` (Misconfigured).
    """

    @property
    def clock(self) -> ClockId:
        """The clock that this process reads."""
        ...

    def now(self) -> Instant:
        """The present moment. `elapsed_s` is at least that of every row that can be read, by any writer. It is ahead
        of it by no more than has surely passed since.
        """
        ...

    def damaged(self, detail: str) -> Misconfigured:
        """The error `journal.damaged`, with the place and the hint of this store."""
        ...

    def subjects(self) -> list[str]:
        """Every subject that has a head, sorted."""
        ...

    def heads(self, subjects: Sequence[str]) -> list[Found]:
        """The head of each, in their order, all of one moment."""
        ...

    def read(self, subject: str, after: int) -> tuple[list[Row], Found]:
        """The rows from number `after` on, that one included, and the head, of one moment."""
        ...

    def append(self, subject: str, expected: int, rows: Sequence[Row], head: Head) -> None:
        """Add the rows and replace the head: all of it, durably, or nothing. A hint when to wake is gone with it.

        It happens only if the last row is `expected` and the lease is this store's; the statements that write check
        both. Without a lease one is taken, as by `lease`.

        Raises:
            Transient: `journal.conflict`: Another row came first.
            Transient: `lease.lost`: Another writer has the lease by now.
            Transient: `lock.busy`: As `lease`.
        """
        ...

    def lease(self, purpose: str, seconds: float, *, alone: bool = False) -> None:
        """Become the one writer, until `release` or until another takes over. That may be at any moment after
        `seconds` without an append, or at once after a reboot of this host.

        `alone`: no other process of this host can be a writer, so a lease that one of them has left is void.

        Raises:
            Transient: `lock.busy`.
        """
        ...

    def release(self) -> None:
        """Give the lease back; nothing if it is lost or was never taken."""
        ...

    def sleep(self, subject: str, delay: timedelta, why: str) -> None:
        """Note when the subject is to be looked after again: a hint, never evidence. The longest is `LONGEST`."""
        ...

    def wakes(self) -> dict[str, Wake]:
        """The hints, by subject; those that have none are missing."""
        ...

    def due(self) -> tuple[list[str], timedelta | None]:
        """The subjects to be looked after now, those without a hint included; and the time until the next of the
        others. Subjects that are idle cost nothing.
        """
        ...

    def close(self) -> None:
        """Close it; what was appended is durable already."""
        ...


LONGEST = timedelta(days=7)
"""The longest `check_interval`. A hint that lies further ahead is damaged: the subject is due."""


class Vault(Protocol):
    """Where keys and chains are kept. Files are the first (`store/vault.py`); another one passes `vault_suite`."""

    def put_key(self, certificate: str, keys_id: str, key_type: str, key: Secret[bytes]) -> None:
        """Store a key durably, never over another one.

        Raises:
            Unsafe: `vault.exists`: Another key is kept there.
        """
        ...

    def key(self, certificate: str, keys_id: str, key_type: str) -> Secret[bytes]:
        """The key.

        Raises:
            Misconfigured: `vault.missing`.
        """
        ...

    def put_chain(self, certificate: str, generation_id: str, key_type: str, pem: bytes) -> None:
        """Store the CA's chain durably."""
        ...

    def chain(self, certificate: str, generation_id: str, key_type: str) -> bytes:
        """The chain.

        Raises:
            Misconfigured: `vault.missing`.
        """
        ...

    def drop_keys(self, certificate: str, keys_id: str) -> None:
        """Delete the keys; gone already is fine."""
        ...

    def keep(self, certificate: str, server: str, files: Mapping[str, Secret[bytes]]) -> None:
        """Keep the files of somebody else, by path, durably; replaces those kept before."""
        ...

    def kept(self, certificate: str, server: str) -> Mapping[str, Secret[bytes]]:
        """Those files; none if none were kept."""
        ...

    def drop_chain(self, certificate: str, generation_id: str) -> None:
        """Delete the chains; gone already is fine."""
        ...
