"""What a DNS provider makes of the waits and writes in a zone, for `plan` and `renew --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from msgspec import Struct

from certagent.facts.moment import Instant
from certagent.lifecycle import budget, caches
from certagent.lifecycle.budget import ZoneBudget
from certagent.lifecycle.spec import DnsZone, Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaName, TlsaNames
from certagent.report.words import brief


class PlannedZone(Struct, frozen=True):
    """A zone of the certificate whose provider limits what is done there."""

    zone: str
    limits: tuple[str, ...]
    """In words."""
    publish_lag_s: float
    ttl_s: int
    """Of the TLSA records, as it is counted with."""
    writes_per_day: int | None
    writes_used: int
    """Of the last day, by all certificates."""

    def __str__(self) -> str:
        return f"zone {self.zone}: {'; '.join(self.limits)}"


def planned(spec: Spec, state: State, budgets: Iterable[ZoneBudget], now: Instant) -> tuple[PlannedZone, ...]:
    """Those in which the certificate has TLSA records or challenges. `budgets`: those of all certificates."""
    every, names = tuple(budgets), TlsaNames(spec, state).configured
    zones = dict.fromkeys(map(spec.zone_of, (*(name.place for name in names), *spec.challenge_names)))
    found = (_planned(zone, spec, names, every, now) for zone in zones if zone.zone)
    return tuple(one for one in found if one.limits)


def _planned(
    zone: DnsZone, spec: Spec, every_name: tuple[TlsaName, ...], every: tuple[ZoneBudget, ...], now: Instant
) -> PlannedZone:
    names = [name for name in every_name if spec.zone_of(name.place) == zone]
    seen = [a.ttl_s for name in names if name.known.observation for a in caches.known(name.known.observation)]
    ttl_s = max([max(spec.ttl_s, zone.ttl_floor_s), *seen])
    used = budget.together(every, zone.zone, zone.writes_per_day).used(now) if zone.writes_per_day else 0
    limits = (
        *([f"changes are usually shown within {brief(zone.publish_lag)}"] if zone.publish_lag else ()),
        *(_ttl(zone, spec, ttl_s, known=any(seen)) if names else ()),
        *([f"{used} of {zone.writes_per_day} writes a day are used"] if zone.writes_per_day else ()),
    )
    return PlannedZone(zone.zone, limits, zone.publish_lag.total_seconds(), ttl_s, zone.writes_per_day, used)


def _ttl(zone: DnsZone, spec: Spec, ttl_s: int, *, known: bool) -> Iterator[str]:
    ttl = brief(timedelta(seconds=ttl_s))
    match zone.ttl_scope:
        case "zone" if known or zone.ttl_floor_s:
            yield f"all its records have one TTL, {ttl}"
        case "zone":
            yield f"all its records have one TTL, which is not known yet: {ttl} is counted with until it is seen"
        case "new":
            yield "a set that is there keeps its TTL"
        case _:
            pass
    if zone.ttl_scope != "zone" and zone.ttl_floor_s > spec.ttl_s:
        yield f"records get its least TTL, {brief(timedelta(seconds=zone.ttl_floor_s))}"
