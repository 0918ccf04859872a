"""What certagent asks of a mail server. Each kind is one file or folder here, and is tested against the real daemon.

`check` reads, `install` is the cut-over (new processes read the new file at once), `reload` only ends the mixture of
old and new. The exit codes of a daemon's own check and reload say nothing about TLS: only a handshake verifies it
(`probe/handshake.py`). `certagent.testing.mail_server_suite` holds every kind to these rules.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from certagent.facts.tls import Service
from certagent.mta.claims import Claim, Identity
from certagent.pki.credential import Credential
from certagent.secret import Secret


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a mail server can do as it is configured. None: only its operator knows."""

    both_key_types: bool | None
    """It serves an RSA and an ECDSA certificate for one name at the same time."""
    sni: bool | None
    """It chooses certificates by the name that a client asks for (RFC 6066 section 3)."""
    keeps_ports: bool | None
    """It accepts connections throughout a reload."""
    one_step: bool
    """One rename replaces key and certificate together."""


class Advice(NamedTuple):
    """What the operator has to do once the files are there, or should know."""

    what: str
    command: str
    """What does it; "" if there is nothing to run."""


class Stop(Advice):
    """The first run installs the files and stops there, until the operator has done it."""


class Server(Protocol):
    """One mail server on this host. Every method may be called again after a crash.

    Raises:
        Misconfigured: `mta.config`: Its own check fails, or it does not use the files installed here.
        Misconfigured: `mta.files`: Owner, mode, symlink.
        Unsafe: `mta.pem`: The file does not load, or its rehearsal handshake fails; nothing was changed.
        Transient: `mta.disk`: The disk is full or failing; the old file is untouched.
        Transient: `mta.reload`, `mta.down`: It cannot reload; it is not running.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What it can do. Reads no file and runs nothing."""
        ...

    @property
    def reload_command(self) -> str:
        """What an operator types for `reload`."""
        ...

    @property
    def connection_limits(self) -> str:
        """How to let this host connect more often, for a hint: the settings that limit one client; "" if unknown."""
        ...

    def claims(self) -> tuple[Claim, ...]:
        """Every file that `install` and `restore` may write, whatever is on the disk now, and what no other server may
        serve. Runs nothing.
        """
        ...

    def check(self, key_types: frozenset[str]) -> None:
        """The server's configuration is sound and its TLS settings name exactly the files that `install` writes."""
        ...

    def advice(self, key_types: frozenset[str]) -> tuple[Advice, ...]:
        """What the operator has to do, or should know, of a configuration that `check` accepts."""
        ...

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """Put the credential of each key type in its place, durably, in the server's own layout.

        All files are rehearsed before the first rename.
        """
        ...

    def installed(self) -> Mapping[str, bytes]:
        """The leaf (DER) that is in place, by key type. Missing: no readable file, or its key does not fit."""
        ...

    def saved(self) -> Mapping[str, Secret[bytes]]:
        """The content, by path, of every file that `install` may replace. Missing: the file is not there."""
        ...

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """Put back what `saved` gave, byte for byte, and remove what was not there. It is not judged: it was served."""
        ...

    def reload(self) -> None:
        """Make the server read its files again."""
        ...


def written(server: Server) -> list[Path]:
    """The files that it writes."""
    return [Path(claim.path) for claim in server.claims() if claim.written]


def directories(servers: Iterable[Server]) -> list[Path]:
    """The directories that must be writable to certagent, sorted; a unit of systemd lists them."""
    return sorted({Path(os.path.realpath(path)).parent for server in servers for path in written(server)})


class Change(Struct, frozen=True):
    """One change that a mail server's own configuration needs: the file, its text now and then, and why."""

    file: str
    before: str
    after: str
    why: str
    generate: tuple[str, ...] = ()
    """The command that makes what the server reads of this file, if that is another file. It is run after the change,
    and again after an undo."""


class Found(Struct, frozen=True):
    """A mail server on this host, as `certagent init` proposes to care for it."""

    type: str
    name: str
    """For the configuration; the type itself, or with more behind it for a second instance."""
    options: dict[str, Any]
    """As they would stand in the configuration; the files are those it uses already if they fit."""
    services: tuple[Service, ...]
    """What it listens on and with which name; `addresses` only if it listens on some and not on all."""
    names: tuple[str, ...]
    """Host names it answers to: its own, and those of SNI."""
    uses: dict[str, str]
    """The certificate files it uses now, by the setting that names them."""
    notes: tuple[str, ...] = ()
    """What the operator should know: one sentence each, comments in the proposed configuration."""
    changes: tuple[Change, ...] = ()
    """What must change in its own configuration, for the first run or after it."""
    others: tuple[str, ...] = ()
    """Further files with keys and certificates that its configuration names: of other services, blocks, names."""
    by_hand: tuple[Advice, ...] = ()
    """What must change in its own configuration besides, and cannot be a `Change`."""
    plain: tuple[tuple[int, Advice], ...] = ()
    """Ports at which it offers no TLS, so that no certificate is proposed for them: what is so, and what to do."""


class Discover(Protocol):
    """See `Kind`."""

    def __call__(self, shared: Collection[Identity] = ()) -> list[Found]:
        """The mail servers of this kind. `shared`: files that somebody else reads too, so new ones are proposed."""
        ...


class Kind(Protocol):
    """A kind of mail server: the class that a plug-in exports. Its entry point is its type in the configuration."""

    Options: Any
    """A `msgspec.Struct`: what the configuration may say of one."""
    directory: str
    """Where `discover` proposes new files; "": nowhere. certagent's unit lets it write there."""
    programs: tuple[str, ...]
    """Its processes that have a listening socket, as the kernel calls them: another program's are not this server."""
    privileges: tuple[str, ...]
    """Optional: the capabilities of root that it needs and certagent's unit does not give; `check` asks for them."""
    discover: Discover
    """The mail servers of this kind on this host. It reads and changes nothing. It gives [] if the server is not
    installed, and never raises for a host where it is not configured."""

    def __call__(self, name: str, options: Any) -> Server:
        """One of them.

        Raises:
            Misconfigured: `mta.config`: For options that make no sense.
        """
        ...
