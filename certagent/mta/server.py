"""What certagent asks of a mail server: one file a kind of server, each tested against the real daemon.

`check` reads, `install` is the cut-over (new processes read the new file at once), `reload` only ends the mixture of
old and new. Exit codes of a daemon's own check and reload prove nothing about TLS: the proof is a handshake
(`mta/probe.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct

from certagent.facts.tls import Service
from certagent.pki.credential import Credential
from certagent.secret import Secret


class Server(Protocol):
    """One mail server on this host. Every method may be called again after a crash.

    Errors: `mta.config` (Misconfigured: its own check fails, or it does not use the files installed here),
    `mta.files` (Misconfigured: owner, mode, symlink), `mta.pem` (Unsafe: the file does not load or its rehearsal
    handshake fails; nothing was changed), `mta.disk` (Transient: disk full or I/O error; the old file is untouched),
    `mta.reload` (Transient), `mta.down` (Transient).
    """

    def check(self, key_types: frozenset[str]) -> None:
        """The server's configuration is sound and its TLS settings name exactly the files `install` writes."""
        ...

    def ahead(self, key_types: frozenset[str]) -> tuple[tuple[str, str], ...]:
        """What the operator will have to do once the files are there, or should know: (what, the command)."""
        ...

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """Put the combined PEM (key, leaf, issuers) of each algorithm in its place, durably, in the server's own
        layout, rehearsed before the first rename.
        """
        ...

    def installed(self) -> Mapping[str, bytes]:
        """The leaf (DER) of each algorithm's file as it is now; algorithms without a readable file are missing."""
        ...

    def saved(self) -> Mapping[str, Secret[bytes]]:
        """The content, by path, of every file that `install` may replace; those that are not there are missing."""
        ...

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """Put back what `saved` gave, byte for byte, and remove what was not there. It is not judged: it was served."""
        ...

    def reload(self) -> None:
        """Make the server read its files again."""
        ...


class Change(Struct, frozen=True):
    """One change that a mail server's own configuration needs: the file, its text now and then, and why."""

    file: str
    before: str
    after: str
    why: str
    generate: tuple[str, ...] = ()
    """The command that makes what the server reads of this file, where that is another one: it is run after the change,
    and again after it was undone."""


class Found(Struct, frozen=True):
    """A mail server on this host, as `certagent init` proposes to care for it.

    Each kind of server has a static method `discover() -> list[Found]`, which reads and changes nothing. It gives []
    where the server is not installed, and never raises for a host where it is not configured.
    """

    type: str
    name: str
    """For the config: `postfix`, or `postfix-out` for an instance of that name."""
    options: dict[str, Any]
    """As they would stand in the config; the files are those it uses already where they fit."""
    services: tuple[Service, ...]
    """What it listens on and with which name; `addresses` only where it listens on some and not on all."""
    names: tuple[str, ...]
    """Host names it answers to: its own, and those of SNI."""
    uses: dict[str, str]
    """The certificate files it uses now, by the setting that names them."""
    notes: tuple[str, ...] = ()
    """What the operator should know: a sentence each, told as comments in the proposed config."""
    changes: tuple[Change, ...] = ()
    """What must change in its own configuration, for the first run or after it."""
