"""What certagent asks of a mail server: one file a kind of server, each tested against the real daemon.

`check` reads, `install` is the cut-over (new processes read the new file at once), `reload` only ends the mixture of
old and new. Exit codes of a daemon's own check and reload prove nothing about TLS: the proof is a handshake
(`mta/probe.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from certagent.secret import Secret


class Server(Protocol):
    """One mail server on this host. Every method may be called again after a crash.

    Errors: `mta.config` (Misconfigured: its own check fails, or it does not use the files installed here),
    `mta.files` (Misconfigured: owner, mode, symlink), `mta.pem` (Unsafe: the file does not load or its rehearsal
    handshake fails; nothing was changed), `mta.disk` (Transient: disk full or I/O error; the old file is untouched),
    `mta.reload` (Transient), `mta.down` (Transient).
    """

    def check(self, algorithms: frozenset[str]) -> None:
        """The server's configuration is sound and its TLS settings name exactly the files `install` writes."""
        ...

    def ahead(self, algorithms: frozenset[str]) -> tuple[tuple[str, str], ...]:
        """What the operator will have to do once the files are there: (what, the command). Empty after that."""
        ...

    def install(self, pems: Mapping[str, Secret[bytes]]) -> None:
        """Put the combined PEM (key, leaf, issuers) of each algorithm in its place, durably, rehearsed before the
        rename.
        """
        ...

    def installed(self) -> Mapping[str, bytes]:
        """The leaf (DER) of each algorithm's file as it is now; algorithms without a readable file are missing."""
        ...

    def reload(self) -> None:
        """Make the server read its files again."""
        ...
