"""What `certagent dns` prints: the DNS providers, and trials of their zones, as versioned values and as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from msgspec import Struct

from certagent.dns.providers.protocol import Capabilities
from certagent.report.findings import Finding, Outcome, worst
from certagent.report.terminal import wrapped
from certagent.report.words import brief

VERSION = 1


class Provider(Struct, frozen=True):
    """A DNS provider that is installed: certagent's own, or one of another package."""

    type: str
    """As in the configuration."""
    service: str
    capabilities: Capabilities | None
    """None: they depend on the configuration."""
    zones: tuple[str, ...]
    """Those that the configuration gives it."""
    access: str
    """How to make its key or token."""
    package: str = "certagent"
    """The package that it comes with."""
    trouble: str = ""
    """Why it cannot be used, with the remedy; empty: it can be."""


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


_HEADS = ("type", "atomic", "checks", "least TTL", "TTL of", "shown in", "says when", "writes")
_ROW = "{:<12} {:<7} {:<7} {:<10} {:<8} {:<9} {:<10} {}"
WIDTH = 80
"""Of a terminal as it comes."""


def table(view: Providers) -> str:
    """A line each, and below it what it is, what it lacks, and the zones of those that are in use."""
    rows = (line for one in view.providers for line in (_row(one), *_below(one)))
    return "\n".join([_ROW.format(*_HEADS), *rows, "", *_LEGEND])


_LEGEND = wrapped(
    "checks: what the provider itself compares in the moment of a write. TTL of: what has one TTL. shown in: how long"
    " its name servers usually take; says when: it says when they have a change. writes: how many a day to a zone.",
    WIDTH,
    "",
)


def _row(one: Provider) -> str:
    able = one.capabilities
    if able is None:
        return _ROW.format(one.type, *"?" * (len(_HEADS) - 1))
    return _ROW.format(
        one.type,
        "yes" if able.atomic else "no",
        able.precondition.replace("none", "-"),
        brief(timedelta(seconds=able.ttl_floor_s)) if able.ttl_floor_s else "-",
        able.ttl_scope.replace("new", "new set"),
        brief(timedelta(seconds=able.publish_lag_s)) if able.publish_lag_s else "-",
        "yes" if able.propagation_status else "-",
        able.writes_per_day or "-",
    )


def _below(one: Provider) -> Iterator[str]:
    origin = "" if one.package == "certagent" else f" (of {one.package})"
    lines = [f"{one.service}{origin}", one.trouble, f"in use for {', '.join(one.zones)}" if one.zones else ""]
    for line in filter(None, lines):
        yield from wrapped(line, WIDTH, "  ")
