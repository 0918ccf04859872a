"""What `certagent init --json` prints, as a versioned value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from certagent.facts.tls import Service
from certagent.init.changes import Outcome
from certagent.init.survey import Survey
from certagent.mta.server import Found
from certagent.report.findings import Finding

VERSION = 1


class Next(Struct, frozen=True):
    """A thing to do, and the command that does it."""

    what: str
    command: str


class ServerFound(Struct, frozen=True):
    """A mail server on this host."""

    type: str
    name: str
    running: bool
    """False: nothing listens at its ports, and it is left out of the configuration."""
    options: dict[str, Any]
    """As they stand in the configuration."""
    services: tuple[Service, ...]
    names: tuple[str, ...]
    """Host names that it answers to."""
    uses: dict[str, str]
    """The certificate files that it uses now, by the setting that names them."""
    notes: tuple[str, ...]


class InitReport(Struct, frozen=True):
    """What was found, and what is proposed."""

    version: int
    servers: tuple[ServerFound, ...]
    findings: tuple[Finding, ...]
    config: str
    """The proposed configuration."""
    changes: tuple[Outcome, ...]
    """Changes to the mail servers' own configuration, and what became of each."""
    next: tuple[Next, ...]
    """What to do after this, in order."""


def report(
    seen: Survey, findings: Iterable[Finding], config: str, changes: Iterable[Outcome], following: Iterable[Next]
) -> InitReport:
    """The view. Of the servers' own configuration it has only differences: the rest is nobody's business."""
    servers = [_server(found, seen.services[found.name], seen.names.of(found), running=True) for found in seen.found]
    servers += [_server(found, found.services, found.names, running=False) for found in seen.idle]
    return InitReport(VERSION, tuple(servers), tuple(findings), config, tuple(changes), tuple(following))


def _server(found: Found, services: tuple[Service, ...], names: tuple[str, ...], *, running: bool) -> ServerFound:
    return ServerFound(
        type=found.type,
        name=found.name,
        running=running,
        options=found.options,
        services=services,
        names=names,
        uses=found.uses,
        notes=found.notes,
    )
