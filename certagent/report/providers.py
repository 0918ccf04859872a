"""What `certagent dns` prints: the DNS providers, and trials of their zones, as versioned values and as text."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from certagent.dns.providers.protocol import Capabilities
from certagent.report.findings import Finding, Outcome, worst

VERSION = 1


class Provider(Struct, frozen=True):
    """A DNS provider that comes with certagent."""

    type: str
    """As in the configuration."""
    service: str
    capabilities: Capabilities | None
    """None: they depend on the configuration."""
    zones: tuple[str, ...]
    """Those that the configuration gives it."""
    access: str
    """How to make its key or token."""


class Providers(Struct, frozen=True):
    """All of them."""

    version: int
    providers: tuple[Provider, ...]


class TriedZone(Struct, frozen=True):
    """What became of a record that was written to a zone and removed again."""

    zone: str
    outcome: Outcome
    """The worst of the findings."""
    findings: tuple[Finding, ...]


class Trial(Struct, frozen=True):
    """Every zone that was tried."""

    version: int
    zones: tuple[TriedZone, ...]


def tried(zone: str, findings: Iterable[Finding]) -> TriedZone:
    """The view of the findings about one zone."""
    every = tuple(findings)
    return TriedZone(zone, worst(every), every)


def table(view: Providers) -> str:
    """A line each, and the zones of those that are in use."""
    lines = [f"{'type':<12} {'atomic':<7} {'least TTL':<10} {'published in':<13} {'writes a day':<13} service"]
    for one in view.providers:
        able = one.capabilities
        cells = ("?", "?", "?", "?")
        if able:
            cells = (
                "yes" if able.atomic else "no",
                f"{able.ttl_floor_s} s" if able.ttl_floor_s else "-",
                f"{able.publish_lag_s:g} s" if able.publish_lag_s else "-",
                str(able.writes_per_day or "-"),
            )
        atomic, ttl, lag, writes = cells
        lines.append(f"{one.type:<12} {atomic:<7} {ttl:<10} {lag:<13} {writes:<13} {one.service}")
        if one.zones:
            lines.append(f"{'':<12} in use for {', '.join(one.zones)}")
    return "\n".join(lines)
