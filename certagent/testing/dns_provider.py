"""Checks for plugin authors: a DNS provider that passes `dns_provider_suite` can be used by certagent.

    from certagent.testing import dns_provider_suite

    @pytest.mark.parametrize("check", dns_provider_suite, ids=lambda check: check.__name__)
    def test_provider(check):
        check(MyProvider(options), "test.example.org.")

Each check is a plain function `(provider, zone)`. Its docstring is the rule, and it raises AssertionError where that
is broken. It writes at `_25._tcp.certagent-test` and `_acme-challenge.certagent-test` in the zone and clears both, also
when it fails; other names are never touched. Nothing here waits: a provider answers for its primary, not for others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import product

from certagent.dns.providers.protocol import Provider, RdType

DnsCheck = Callable[[Provider, str], None]

A, B, C = (f"3 1 1 {digit * 64}" for digit in "abc")
DIGEST = "Zm9v_-LoqXO1PBaGvG8Y0kV7sN2qWeRtYuIoPaSdFgH"  # an ACME digest: base64url (RFC 8555 section 8.4)
TTL_S = 3600  # deSEC's minimum, the largest known, and a common maximum; so every provider takes it as it is
_TYPES: tuple[RdType, ...] = ("TLSA", "TXT")
_checks: list[DnsCheck] = []


class _Site:
    """Two names for one check."""

    def __init__(self, zone: str) -> None:
        self.name = f"_25._tcp.certagent-test.{zone}"
        self.other = f"_acme-challenge.certagent-test.{zone}"


def _check(rule: Callable[[Provider, _Site], None]) -> DnsCheck:
    """Makes a rule a check that leaves nothing behind."""

    @functools.wraps(rule)
    def check(provider: Provider, zone: str) -> None:
        site = _Site(zone)
        _clear(provider, site)  # of a run that was killed
        try:
            rule(provider, site)
        finally:
            _clear(provider, site)

    _checks.append(check)
    return check


def _clear(provider: Provider, site: _Site) -> None:
    for name, rdtype in product((site.name, site.other), _TYPES):
        if rrset := provider.get(name, rdtype):
            provider.remove(name, rdtype, rrset.values)


def _has(provider: Provider, name: str, rdtype: RdType, *values: str) -> None:
    rrset = provider.get(name, rdtype)
    found = rrset.values if rrset else frozenset[str]()
    if found != frozenset(values) or (rrset and not found):
        raise AssertionError(f"{name} {rdtype}: expected {sorted(values)}, got {rrset}")


@_check
def missing_is_none(provider: Provider, site: _Site) -> None:
    """`get` of a name without records is None, not an error and not an empty set."""
    if (rrset := provider.get(site.name, "TLSA")) is not None:
        raise AssertionError(f"expected None, got {rrset}")


@_check
def add_is_seen(provider: Provider, site: _Site) -> None:
    """What was added is there when `add` returns, for TLSA and for TXT, at names with underscores."""
    provider.add(site.name, "TLSA", frozenset({A}), TTL_S)
    provider.add(site.other, "TXT", frozenset({DIGEST}), TTL_S)
    _has(provider, site.name, "TLSA", A)
    _has(provider, site.other, "TXT", DIGEST)


@_check
def add_is_beside(provider: Provider, site: _Site) -> None:
    """`add` leaves the values that are there."""
    provider.add(site.name, "TLSA", frozenset({A}), TTL_S)
    provider.add(site.name, "TLSA", frozenset({B}), TTL_S)
    _has(provider, site.name, "TLSA", A, B)


@_check
def add_is_idempotent(provider: Provider, site: _Site) -> None:
    """`add` of what is there succeeds and doubles nothing, also beside something new."""
    provider.add(site.name, "TLSA", frozenset({A}), TTL_S)
    provider.add(site.name, "TLSA", frozenset({A}), TTL_S)
    provider.add(site.name, "TLSA", frozenset({A, B}), TTL_S)
    _has(provider, site.name, "TLSA", A, B)


@_check
def several_at_once(provider: Provider, site: _Site) -> None:
    """Several values of one call are all added, and all removed."""
    provider.add(site.name, "TLSA", frozenset({A, B, C}), TTL_S)
    _has(provider, site.name, "TLSA", A, B, C)
    provider.remove(site.name, "TLSA", frozenset({A, C}))
    _has(provider, site.name, "TLSA", B)
    provider.remove(site.name, "TLSA", frozenset({B}))
    _has(provider, site.name, "TLSA")


@_check
def remove_only_named(provider: Provider, site: _Site) -> None:
    """`remove` takes away the values named and no other, and no other name's."""
    provider.add(site.name, "TXT", frozenset({"one", "two"}), TTL_S)
    provider.add(site.other, "TXT", frozenset({"one"}), TTL_S)
    provider.remove(site.name, "TXT", frozenset({"one"}))
    _has(provider, site.name, "TXT", "two")
    _has(provider, site.other, "TXT", "one")


@_check
def remove_is_idempotent(provider: Provider, site: _Site) -> None:
    """`remove` of what is not there succeeds, with other values beside it and without any."""
    provider.remove(site.name, "TLSA", frozenset({A}))
    provider.add(site.name, "TLSA", frozenset({B}), TTL_S)
    provider.remove(site.name, "TLSA", frozenset({A, C}))
    _has(provider, site.name, "TLSA", B)
    provider.remove(site.name, "TLSA", frozenset({A, B}))
    provider.remove(site.name, "TLSA", frozenset({A, B}))
    _has(provider, site.name, "TLSA")


@_check
def other_types_stay(provider: Provider, site: _Site) -> None:
    """Neither `add` nor `remove` touches another type at the same name."""
    provider.add(site.name, "TXT", frozenset({"stays"}), TTL_S)
    provider.add(site.name, "TLSA", frozenset({A}), TTL_S)
    _has(provider, site.name, "TXT", "stays")
    provider.remove(site.name, "TLSA", frozenset({A}))
    _has(provider, site.name, "TXT", "stays")
    _has(provider, site.name, "TLSA")


@_check
def lookalikes_differ(provider: Provider, site: _Site) -> None:
    """Values that look alike are different values: other numbers or one more digit for TLSA, other case for TXT."""
    alike = frozenset({A, A.replace("3 1 1", "2 1 1"), A.replace("3 1 1", "3 0 1"), A[:-1] + "b"})
    provider.add(site.name, "TLSA", alike, TTL_S)
    provider.remove(site.name, "TLSA", frozenset({A}))
    _has(provider, site.name, "TLSA", *(alike - {A}))
    provider.add(site.other, "TXT", frozenset({DIGEST, DIGEST.lower(), DIGEST[:-1], "v=1; x y", "v=1;  x y"}), TTL_S)
    provider.remove(site.other, "TXT", frozenset({DIGEST.lower(), "v=1; x y"}))
    _has(provider, site.other, "TXT", DIGEST, DIGEST[:-1], "v=1;  x y")


@_check
def longest_txt(provider: Provider, site: _Site) -> None:
    """A TXT value may have 255 bytes, the most one string can hold (RFC 1035 section 3.3)."""
    provider.add(site.other, "TXT", frozenset({"x" * 255}), TTL_S)
    _has(provider, site.other, "TXT", "x" * 255)


@_check
def ttl_is_set(provider: Provider, site: _Site) -> None:
    """`add` sets the TTL of the whole set, also of values that were there; a provider's minimum is the exception."""
    provider.add(site.name, "TLSA", frozenset({A}), TTL_S // 2)
    rrset = provider.get(site.name, "TLSA")
    least = rrset.ttl_s if rrset else 0
    if least < TTL_S // 2:
        raise AssertionError(f"expected a TTL of {TTL_S // 2} or more, got {rrset}")
    for ttl_s, values in ((TTL_S - 2, {B}), (TTL_S - 1, {A}), (TTL_S, {A, B}), (TTL_S // 2, {A, C})):
        provider.add(site.name, "TLSA", frozenset(values), ttl_s)
        rrset = provider.get(site.name, "TLSA")
        if rrset is None or rrset.ttl_s != max(ttl_s, least):
            raise AssertionError(f"expected a TTL of {max(ttl_s, least)} after adding {sorted(values)}, got {rrset}")
    _has(provider, site.name, "TLSA", A, B, C)


@_check
def zones_are_told(provider: Provider, site: _Site) -> None:
    """`zones` are absolute, lower case, with the final dot, and one of them holds the zone that is tested."""
    zones = provider.zones
    if not all(zone.endswith(".") and zone == zone.lower() for zone in zones):
        raise AssertionError(f"not absolute in lower case: {zones}")
    if not any(site.name.endswith(f".{zone}") for zone in zones):
        raise AssertionError(f"none of {zones} holds {site.name}")


dns_provider_suite: tuple[DnsCheck, ...] = tuple(_checks)
"""Every check, for `pytest.mark.parametrize`."""
