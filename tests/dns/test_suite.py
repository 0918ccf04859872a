"""The conformance checks pass for right providers, fail for each wrong one, and leave nothing behind."""

from __future__ import annotations

import time
from threading import RLock
from typing import ClassVar

import pytest
from msgspec.structs import replace

from certagent.dns.message import canonical
from certagent.dns.providers.compare import Change, ReadCompareWrite
from certagent.dns.providers.protocol import Capabilities, Changed, RdType, RRset
from certagent.testing.dns_provider import DnsCheck, dns_provider_suite

ZONE = "example.org."
each_check = pytest.mark.parametrize("check", dns_provider_suite, ids=lambda check: check.__name__)
NOTHING = RRset(frozenset(), 0)
PAUSE_S = 0.003  # long enough for another thread to come between


class Right:
    """Keeps records in memory, by the rules, and checks preconditions natively."""

    zones: tuple[str, ...] = (ZONE,)
    capabilities = Capabilities(precondition="set")
    breaks: ClassVar[frozenset[str]] = frozenset()
    """The checks that must find what is wrong with a wrong one."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, RdType], RRset] = {}
        self.lock = RLock()

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        return self.records.get((name, rdtype))

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        with self.lock:
            self.check(name, rdtype, was)
            there = was or NOTHING
            self.put(name, rdtype, there.values | {canonical(rdtype, v) for v in values}, self.ttl(there, ttl_s))

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        with self.lock:
            self.check(name, rdtype, was)
            there = was or NOTHING
            self.put(name, rdtype, there.values - {canonical(rdtype, v) for v in values}, there.ttl_s)

    def check(self, name: str, rdtype: RdType, was: RRset | None) -> None:
        if self.records.get((name, rdtype)) != was:
            raise Changed(name, rdtype)

    def ttl(self, there: RRset, ttl_s: int) -> int:
        return max(ttl_s, self.capabilities.ttl_floor_s)

    def put(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        self.records.pop((name, rdtype), None) if not values else self.records.update(
            {(name, rdtype): RRset(values, ttl_s)}
        )


class Floor(Right):
    """Has a minimum TTL, as deSEC has."""

    capabilities = Capabilities(precondition="set", ttl_floor_s=3600)


class ZoneTtl(Right):
    """Has one TTL for all, as netcup has."""

    capabilities = Capabilities(precondition="set", ttl_scope="zone")

    def ttl(self, there: RRset, ttl_s: int) -> int:
        return 300


class Compares(ReadCompareWrite[None]):
    """Cannot check anything, and uses the base for such services."""

    zones = (ZONE,)
    capabilities = Capabilities()

    def __init__(self) -> None:
        self.records: dict[tuple[str, RdType], RRset] = {}
        self.calls: list[str] = []

    def read(self, name: str, rdtype: RdType) -> tuple[RRset | None, None]:
        self.calls.append("read")
        return self.records.get((name, rdtype)), None

    def write(self, name: str, rdtype: RdType, change: Change, records: None) -> None:
        self.calls.append("write")
        self.records.pop((name, rdtype), None)
        if change.after:
            self.records[name, rdtype] = RRset(change.after, change.ttl_s)


class NotAtomic(Right):
    """Changes value by value, as Cloudflare does, and says so."""

    capabilities = Capabilities(precondition="set", atomic=False)

    def put(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        there = (self.get(name, rdtype) or NOTHING).values
        for value in sorted(values - there):
            there |= {value}
            super().put(name, rdtype, there, ttl_s)
            time.sleep(PAUSE_S)
        for value in sorted(there - values):
            there -= {value}
            super().put(name, rdtype, there, ttl_s)
            time.sleep(PAUSE_S)
        super().put(name, rdtype, values, ttl_s)


class SaysAtomic(NotAtomic):
    capabilities = Capabilities(precondition="set")
    breaks = frozenset({"atomic_is_true"})


class Replaces(Right):
    breaks = frozenset({"add_is_beside", "many_records_stay", "two_writers_lose_nothing"})

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        with self.lock:
            self.check(name, rdtype, was)
            self.put(name, rdtype, frozenset(canonical(rdtype, v) for v in values), ttl_s)


class RemovesAll(Right):
    breaks = frozenset({"remove_only_named", "several_at_once", "lookalikes_differ", "long_txt"})

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        super().remove(name, rdtype, was.values if was else values, was)


class RemovesEveryType(Right):
    breaks = frozenset({"other_types_stay"})

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        super().remove(name, rdtype, values, was)
        for other in ("TLSA", "TXT"):
            if other != rdtype:
                self.records.pop((name, other), None)


class FailsOnMissing(Right):
    breaks = frozenset({"remove_is_idempotent"})

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        if not {canonical(rdtype, v) for v in values} <= (was or NOTHING).values:
            raise AssertionError(f"not there: {name}")
        super().remove(name, rdtype, values, was)


class FailsOnDouble(Right):
    breaks = frozenset({"add_is_idempotent", "ttl_is_set"})

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        if (was or NOTHING).values & values:
            raise AssertionError(f"is there already: {name}")
        super().add(name, rdtype, values, ttl_s, was)


class IgnoresCase(Right):
    breaks = frozenset({"add_is_seen", "lookalikes_differ"})

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        super().add(name, rdtype, frozenset(v.lower() for v in values), ttl_s, was)


class KeepsCase(Right):
    breaks = frozenset({"upper_case_hex_is_the_same"})

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        with self.lock:
            self.check(name, rdtype, was)
            self.put(name, rdtype, (was or NOTHING).values | values, ttl_s)


class KeepsTtl(Right):
    breaks = frozenset({"ttl_is_set"})

    def ttl(self, there: RRset, ttl_s: int) -> int:
        return there.ttl_s or ttl_s


class HidesFloor(Right):
    breaks = frozenset({"ttl_is_set"})

    def ttl(self, there: RRset, ttl_s: int) -> int:
        return max(60, ttl_s)


class EmptyNotNone(Right):
    breaks = frozenset({"missing_is_none"})

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        return super().get(name, rdtype) or NOTHING

    def check(self, name: str, rdtype: RdType, was: RRset | None) -> None:
        super().check(name, rdtype, was if was and was.values else None)


class Quotes(Right):
    breaks = frozenset({"add_is_seen", "long_txt"})

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        found = super().get(name, rdtype)
        return replace(found, values=frozenset(f'"{v}"' for v in found.values)) if found and rdtype == "TXT" else found

    def check(self, name: str, rdtype: RdType, was: RRset | None) -> None:
        super().check(name, rdtype, was and replace(was, values=frozenset(v.strip('"') for v in was.values)))


class SplitsTxt(Right):
    breaks = frozenset({"long_txt"})

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        super().add(name, rdtype, frozenset(f"{v[:255]} {v[255:]}" if len(v) > 255 else v for v in values), ttl_s, was)


class FirstOnly(Right):
    breaks = frozenset({"several_at_once", "lookalikes_differ"})

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        super().add(name, rdtype, frozenset(sorted(values)[:1]), ttl_s, was)


class FirstPage(Right):
    breaks = frozenset({"many_records_stay"})

    def put(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        super().put(name, rdtype, frozenset(sorted(values)[:50]), ttl_s)


class RelativeZones(Right):
    breaks = frozenset({"zones_are_stated"})
    zones = ("example.org",)


class ChecksNothing(Right):
    breaks = frozenset({"a_stale_set_is_refused", "no_set_is_a_precondition", "a_stale_ttl_is_refused"})

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        with self.lock:
            super().add(name, rdtype, values, ttl_s, self.records.get((name, rdtype)))

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        with self.lock:
            super().remove(name, rdtype, values, self.records.get((name, rdtype)))


class WritesBlindly(Right):
    breaks = frozenset({"a_stale_set_is_refused", "no_set_is_a_precondition", "two_writers_lose_nothing"})

    def check(self, name: str, rdtype: RdType, was: RRset | None) -> None:
        time.sleep(PAUSE_S)


class TakesNoneForAny(Right):
    breaks = frozenset({"no_set_is_a_precondition"})

    def check(self, name: str, rdtype: RdType, was: RRset | None) -> None:
        if was is not None:
            super().check(name, rdtype, was)


class ComparesOnlyIfItChanges(Right):
    breaks = frozenset({"a_stale_set_is_refused_also_for_nothing"})

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        if was is None or not values <= was.values or was.ttl_s != ttl_s:
            super().add(name, rdtype, values, ttl_s, was)


class ComparesNoTtl(Right):
    breaks = frozenset({"a_stale_ttl_is_refused"})

    def check(self, name: str, rdtype: RdType, was: RRset | None) -> None:
        there = self.records.get((name, rdtype))
        if (there and there.values) != (was and was.values):
            raise Changed(name, rdtype)


class ComparesTooEarly(Right):
    """Reads, and writes a moment later: a native check that is none."""

    breaks = frozenset({"two_writers_lose_nothing"})

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        self.check(name, rdtype, was)
        time.sleep(PAUSE_S)
        there = was or NOTHING
        self.put(name, rdtype, there.values | {canonical(rdtype, v) for v in values}, ttl_s)


class NoWrites(Right):
    breaks = frozenset({"capabilities_are_plausible"})
    capabilities = Capabilities(precondition="set", writes_per_day=0)


class ComparesNoTtlAndSaysSo(ComparesNoTtl):
    capabilities = Capabilities(precondition="values")
    breaks = frozenset()


RIGHT = (Right, Floor, ZoneTtl, NotAtomic, ComparesNoTtlAndSaysSo, Compares)
WRONG = [kind for kind in (*Right.__subclasses__(), SaysAtomic) if kind.breaks]


@each_check
@pytest.mark.parametrize("kind", RIGHT, ids=lambda kind: kind.__name__)
def test_a_right_provider_passes(check: DnsCheck, kind: type[Right | Compares]) -> None:
    """And other records stay, while its own are taken away."""
    provider = kind()
    provider.add(f"_25._tcp.mx1.{ZONE}", "TLSA", frozenset({"x"}), 60, None)
    before = dict(provider.records)
    check(provider, ZONE)
    assert provider.records == before


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_a_wrong_provider_fails(kind: type[Right]) -> None:
    """The checks that are there for it find it."""
    failed: set[str] = set()
    for check in dns_provider_suite:
        try:
            check(kind(), ZONE)
        except (AssertionError, Changed):
            failed.add(check.__name__)
    assert kind.breaks <= failed


def test_every_check_can_fail() -> None:
    """Each has a wrong provider above, and states its rule."""
    assert {check.__name__ for check in dns_provider_suite} == {name for kind in WRONG for name in kind.breaks}
    assert all(check.__doc__ for check in dns_provider_suite)


class TestReadCompareWrite:
    NAME = f"_25._tcp.mx1.{ZONE}"

    def test_what_a_change_costs(self) -> None:
        """With the caller's reading: three reads and one write; nothing is written if nothing changes."""
        provider = Compares()
        provider.add(self.NAME, "TLSA", frozenset({"3 1 1 aa"}), 60, provider.get(self.NAME, "TLSA"))
        assert provider.calls == ["read", "read", "write", "read"]
        provider.calls.clear()
        provider.add(self.NAME, "TLSA", frozenset({"3 1 1 aa"}), 60, RRset(frozenset({"3 1 1 aa"}), 60))
        provider.remove(self.NAME, "TLSA", frozenset({"3 1 1 bb"}), RRset(frozenset({"3 1 1 aa"}), 60))
        assert provider.calls == ["read", "read"]

    def test_a_change_of_the_ttl_alone(self) -> None:
        """It is written, and nothing is new in it."""
        provider = Compares()
        provider.add(self.NAME, "TLSA", frozenset({"3 1 1 aa"}), 60, None)
        provider.add(self.NAME, "TLSA", frozenset({"3 1 1 aa"}), 90, provider.get(self.NAME, "TLSA"))
        assert provider.get(self.NAME, "TLSA") == RRset(frozenset({"3 1 1 aa"}), 90)

    def test_another_writer_in_the_gap_is_noticed(self) -> None:
        """What is read after the write is not what was written: nobody knows what became of either change."""

        class Overtaken(Compares):
            def write(self, name: str, rdtype: RdType, change: Change, records: None) -> None:
                super().write(name, rdtype, change, records)
                self.records[name, rdtype] = RRset(frozenset({"3 1 1 bb"}), 60)

        with pytest.raises(Exception, match=r"dns\.unknown_outcome"):
            Overtaken().add(self.NAME, "TLSA", frozenset({"3 1 1 aa"}), 60, None)
