"""The conformance checks pass for a right provider, fail for each wrong one, and leave nothing behind."""

from __future__ import annotations

import pytest

from certagent.dns.providers.protocol import RdType, RRset
from certagent.testing.dns_provider import DnsCheck, dns_provider_suite

ZONE = "example.org."
each_check = pytest.mark.parametrize("check", dns_provider_suite, ids=lambda check: check.__name__)


class Right:
    """Keeps records in memory, by the rules."""

    zones = (ZONE,)

    def __init__(self) -> None:
        self.records: dict[tuple[str, RdType], RRset] = {}

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        return self.records.get((name, rdtype))

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        there = self.records.get((name, rdtype), RRset(frozenset(), 0))
        self.records[name, rdtype] = RRset(there.values | values, ttl_s)

    def remove(self, name: str, rdtype: RdType, values: frozenset[str]) -> None:
        there = self.records.pop((name, rdtype), RRset(frozenset(), 0))
        if left := there.values - values:
            self.records[name, rdtype] = RRset(left, there.ttl_s)


class Minimum(Right):
    """Has a minimum TTL, as deSEC has."""

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        super().add(name, rdtype, values, max(3600, ttl_s))


class Replaces(Right):
    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        self.records[name, rdtype] = RRset(values, ttl_s)


class RemovesAll(Right):
    def remove(self, name: str, rdtype: RdType, values: frozenset[str]) -> None:
        self.records.pop((name, rdtype), None)


class RemovesEveryType(Right):
    def remove(self, name: str, rdtype: RdType, values: frozenset[str]) -> None:
        super().remove(
            name, "TLSA", values if rdtype == "TLSA" else (self.get(name, "TLSA") or RRset(values, 0)).values
        )
        super().remove(name, "TXT", values if rdtype == "TXT" else (self.get(name, "TXT") or RRset(values, 0)).values)


class FailsOnMissing(Right):
    def remove(self, name: str, rdtype: RdType, values: frozenset[str]) -> None:
        if not values <= self.records[name, rdtype].values:
            raise KeyError(name)
        super().remove(name, rdtype, values)


class IgnoresCase(Right):
    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        super().add(name, rdtype, frozenset(v.lower() for v in values), ttl_s)


class KeepsTtl(Right):
    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        there = self.records.get((name, rdtype))
        super().add(name, rdtype, values, there.ttl_s if there else ttl_s)


class EmptyNotNone(Right):
    def get(self, name: str, rdtype: RdType) -> RRset | None:
        return super().get(name, rdtype) or RRset(frozenset(), 0)


class Quotes(Right):
    def get(self, name: str, rdtype: RdType) -> RRset | None:
        rrset = super().get(name, rdtype)
        return RRset(frozenset(f'"{v}"' for v in rrset.values), rrset.ttl_s) if rrset and rdtype == "TXT" else rrset


class FirstOnly(Right):
    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        super().add(name, rdtype, frozenset(sorted(values)[:1]), ttl_s)


class RelativeZones(Right):
    zones = ("example.org",)


@each_check
@pytest.mark.parametrize("kind", [Right, Minimum])
def test_a_right_provider_passes(check: DnsCheck, kind: type[Right]) -> None:
    """And other records stay, while its own are taken away."""
    provider = kind()
    provider.add(f"_25._tcp.mx1.{ZONE}", "TLSA", frozenset({"x"}), 60)
    before = dict(provider.records)
    check(provider, ZONE)
    assert provider.records == before


@pytest.mark.parametrize("kind", [k for k in Right.__subclasses__() if k is not Minimum], ids=lambda k: k.__name__)
def test_a_wrong_provider_fails(kind: type[Right]) -> None:
    """At least one check finds it."""
    failed = 0
    for check in dns_provider_suite:
        try:
            check(kind(), ZONE)
        except (AssertionError, KeyError):
            failed += 1
    assert failed


def test_every_check_states_its_rule() -> None:
    assert all(check.__doc__ for check in dns_provider_suite)
    assert len({check.__name__ for check in dns_provider_suite}) == len(dns_provider_suite) == 12
