"""Checks for plugin authors: a DNS provider that passes `dns_provider_suite` can be used by certagent.

    from certagent.testing import dns_provider_suite

    @pytest.mark.parametrize("check", dns_provider_suite, ids=lambda check: check.__name__)
    def test_provider(check):
        check(MyProvider(options), "test.example.org.")

Each check is a plain function `(provider, zone)`. Its docstring is the rule, and it raises AssertionError if the rule
is broken. It writes at `_25._tcp.certagent-test` and `_acme-challenge.certagent-test` in the zone and clears both, also
when it fails; other names are never touched. Nothing here waits: a provider answers for its primary, not for others.

What a provider states about itself (`capabilities`) is checked as far as it can be seen from here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from itertools import product
from threading import Event, Lock, Thread

from certagent.dns.providers.protocol import Changed, Provider, RdType, RRset

DnsCheck = Callable[[Provider, str], None]

A, B, C = (f"3 1 1 {digit * 64}" for digit in "abc")
DIGEST = "Zm9v_-LoqXO1PBaGvG8Y0kV7sN2qWeRtYuIoPaSdFgH"  # an ACME digest: base64url (RFC 8555 section 8.4)
TTL_S = 3600
"""DeSEC's minimum, the largest known, and a common maximum; so every provider takes it as it is."""
MANY = 70
"""In each of three sets: more than a page of an API has, and BIND takes no more than 100 in one set."""
ROUNDS = 5
"""Of a change that an observer must never see half done."""
WRITERS, EACH = 2, 4
TRIES = 20
"""Of one write against another writer who writes at most four times."""
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
            provider.remove(name, rdtype, rrset.values, rrset)


def _add(provider: Provider, name: str, rdtype: RdType, *values: str, ttl_s: int = TTL_S) -> None:
    provider.add(name, rdtype, frozenset(values), ttl_s, provider.get(name, rdtype))


def _remove(provider: Provider, name: str, rdtype: RdType, *values: str) -> None:
    provider.remove(name, rdtype, frozenset(values), provider.get(name, rdtype))


def _has(provider: Provider, name: str, rdtype: RdType, *values: str) -> None:
    rrset = provider.get(name, rdtype)
    found = rrset.values if rrset else frozenset[str]()
    if found != frozenset(values) or (rrset and not found):
        raise AssertionError(f"{name} {rdtype}: expected {sorted(values)}, got {rrset}")


@contextmanager
def _refused(what: str) -> Generator[None]:
    """What is done here must be refused as changed."""
    try:
        yield
    except Changed:
        return
    raise AssertionError(f"{what}: expected dns.changed, and it was done")


@_check
def missing_is_none(provider: Provider, site: _Site) -> None:
    """`get` of a name without records is None, not an error and not an empty set."""
    if (rrset := provider.get(site.name, "TLSA")) is not None:
        raise AssertionError(f"expected None, got {rrset}")


@_check
def add_is_seen(provider: Provider, site: _Site) -> None:
    """What was added is there when `add` returns, for TLSA and for TXT, at names with underscores."""
    _add(provider, site.name, "TLSA", A)
    _add(provider, site.other, "TXT", DIGEST)
    _has(provider, site.name, "TLSA", A)
    _has(provider, site.other, "TXT", DIGEST)


@_check
def add_is_beside(provider: Provider, site: _Site) -> None:
    """`add` leaves the values that are there."""
    _add(provider, site.name, "TLSA", A)
    _add(provider, site.name, "TLSA", B)
    _has(provider, site.name, "TLSA", A, B)


@_check
def add_is_idempotent(provider: Provider, site: _Site) -> None:
    """`add` of what is there succeeds and doubles nothing, also beside something new."""
    _add(provider, site.name, "TLSA", A)
    _add(provider, site.name, "TLSA", A)
    _add(provider, site.name, "TLSA", A, B)
    _has(provider, site.name, "TLSA", A, B)


@_check
def several_at_once(provider: Provider, site: _Site) -> None:
    """Several values of one call are all added, and all removed."""
    _add(provider, site.name, "TLSA", A, B, C)
    _has(provider, site.name, "TLSA", A, B, C)
    _remove(provider, site.name, "TLSA", A, C)
    _has(provider, site.name, "TLSA", B)
    _remove(provider, site.name, "TLSA", B)
    _has(provider, site.name, "TLSA")


@_check
def remove_only_named(provider: Provider, site: _Site) -> None:
    """`remove` takes away the values named and no other, and no other name's."""
    _add(provider, site.name, "TXT", "one", "two")
    _add(provider, site.other, "TXT", "one")
    _remove(provider, site.name, "TXT", "one")
    _has(provider, site.name, "TXT", "two")
    _has(provider, site.other, "TXT", "one")


@_check
def remove_is_idempotent(provider: Provider, site: _Site) -> None:
    """`remove` of what is not there succeeds, with other values beside it and without any."""
    _remove(provider, site.name, "TLSA", A)
    _add(provider, site.name, "TLSA", B)
    _remove(provider, site.name, "TLSA", A, C)
    _has(provider, site.name, "TLSA", B)
    _remove(provider, site.name, "TLSA", A, B)
    _remove(provider, site.name, "TLSA", A, B)
    _has(provider, site.name, "TLSA")


@_check
def other_types_stay(provider: Provider, site: _Site) -> None:
    """Neither `add` nor `remove` touches another type at the same name."""
    _add(provider, site.name, "TXT", "stays")
    _add(provider, site.name, "TLSA", A)
    _has(provider, site.name, "TXT", "stays")
    _remove(provider, site.name, "TLSA", A)
    _has(provider, site.name, "TXT", "stays")
    _has(provider, site.name, "TLSA")


@_check
def lookalikes_differ(provider: Provider, site: _Site) -> None:
    """Values that look alike are different values: other numbers or one more digit for TLSA, other case for TXT."""
    alike = frozenset({A, A.replace("3 1 1", "2 1 1"), A.replace("3 1 1", "3 0 1"), A[:-1] + "b"})
    _add(provider, site.name, "TLSA", *alike)
    _remove(provider, site.name, "TLSA", A)
    _has(provider, site.name, "TLSA", *(alike - {A}))
    _add(provider, site.other, "TXT", DIGEST, DIGEST.lower(), DIGEST[:-1], "v=1; x y", "v=1;  x y")
    _remove(provider, site.other, "TXT", DIGEST.lower(), "v=1; x y")
    _has(provider, site.other, "TXT", DIGEST, DIGEST[:-1], "v=1;  x y")


@_check
def long_txt(provider: Provider, site: _Site) -> None:
    """A TXT value of more than 255 bytes is several strings (RFC 1035 section 3.3), and comes back as one value."""
    for value in ("x" * 255, "y" * 300):
        _add(provider, site.other, "TXT", value)
    _has(provider, site.other, "TXT", "x" * 255, "y" * 300)
    _remove(provider, site.other, "TXT", "y" * 300)
    _has(provider, site.other, "TXT", "x" * 255)


@_check
def upper_case_hex_is_the_same(provider: Provider, site: _Site) -> None:
    """A TLSA value in upper case is the same value, and comes back in lower case."""
    _add(provider, site.name, "TLSA", A.upper(), B)
    _has(provider, site.name, "TLSA", A, B)
    _add(provider, site.name, "TLSA", A)
    _has(provider, site.name, "TLSA", A, B)
    _remove(provider, site.name, "TLSA", A.upper())
    _has(provider, site.name, "TLSA", B)


@_check
def ttl_is_set(provider: Provider, site: _Site) -> None:
    """`add` sets the TTL of the whole set, also of values that were there; not less than the stated floor."""
    capabilities = provider.capabilities
    for ttl_s, values in ((1, {A}), (TTL_S - 2, {B}), (TTL_S - 1, {A}), (TTL_S, {A, B}), (TTL_S // 2, {A, C})):
        _add(provider, site.name, "TLSA", *values, ttl_s=ttl_s)
        rrset = provider.get(site.name, "TLSA")
        due_s = max(ttl_s, capabilities.ttl_floor_s)
        if rrset is None or (rrset.ttl_s != due_s and capabilities.ttl_scope == "set"):
            raise AssertionError(f"expected a TTL of {due_s} after adding {sorted(values)}, got {rrset}")
    _has(provider, site.name, "TLSA", A, B, C)


@_check
def many_records_stay(provider: Provider, site: _Site) -> None:
    """Of 210 records in three sets none is lost when one more is added, and removed again."""
    txt = [f"value-{number}" for number in range(MANY)]
    tlsa = [f"3 1 1 {number:064x}" for number in range(MANY)]
    _add(provider, site.other, "TXT", *txt)
    _add(provider, site.name, "TXT", *txt)
    _add(provider, site.name, "TLSA", *tlsa)
    _add(provider, site.other, "TXT", DIGEST)
    _has(provider, site.other, "TXT", *txt, DIGEST)
    _remove(provider, site.other, "TXT", DIGEST)
    _has(provider, site.other, "TXT", *txt)
    _has(provider, site.name, "TXT", *txt)
    _has(provider, site.name, "TLSA", *tlsa)


# -- preconditions -----------------------------------------------------------------------------------------------------


@_check
def a_stale_set_is_refused(provider: Provider, site: _Site) -> None:
    """If another writer has changed the values since they were read, a write is refused and changes nothing."""
    _add(provider, site.name, "TLSA", A)
    read = provider.get(site.name, "TLSA")
    _add(provider, site.name, "TLSA", B)
    with _refused("adding beside a value that came since"):
        provider.add(site.name, "TLSA", frozenset({C}), TTL_S, read)
    with _refused("removing beside a value that came since"):
        provider.remove(site.name, "TLSA", frozenset({A}), read)
    _has(provider, site.name, "TLSA", A, B)
    read = provider.get(site.name, "TLSA")
    _remove(provider, site.name, "TLSA", B)
    with _refused("adding beside a value that went since"):
        provider.add(site.name, "TLSA", frozenset({C}), TTL_S, read)
    _has(provider, site.name, "TLSA", A)


@_check
def a_stale_set_is_refused_also_for_nothing(provider: Provider, site: _Site) -> None:
    """Also a write that would have changed nothing is refused: what it wanted may not be so any more."""
    _add(provider, site.name, "TLSA", A, B)
    read = provider.get(site.name, "TLSA")
    _remove(provider, site.name, "TLSA", A)
    with _refused("adding what is not there any more"):
        provider.add(site.name, "TLSA", frozenset({A}), TTL_S, read)
    _has(provider, site.name, "TLSA", B)


@_check
def no_set_is_a_precondition(provider: Provider, site: _Site) -> None:
    """That there was no set is a precondition, too; and so is a set that is gone by now."""
    _add(provider, site.name, "TLSA", A)
    with _refused("adding where a set came since"):
        provider.add(site.name, "TLSA", frozenset({B}), TTL_S, None)
    with _refused("removing where a set came since"):
        provider.remove(site.name, "TLSA", frozenset({A}), None)
    _has(provider, site.name, "TLSA", A)
    read = provider.get(site.name, "TLSA")
    _remove(provider, site.name, "TLSA", A)
    with _refused("adding to a set that is gone"):
        provider.add(site.name, "TLSA", frozenset({B}), TTL_S, read)
    _has(provider, site.name, "TLSA")


@_check
def a_stale_ttl_is_refused(provider: Provider, site: _Site) -> None:
    """If the TTL has changed since it was read, a write is refused, unless only values are compared."""
    if provider.capabilities.precondition == "values":
        return
    _add(provider, site.name, "TLSA", A, ttl_s=TTL_S)
    read = provider.get(site.name, "TLSA")
    _add(provider, site.name, "TLSA", A, ttl_s=2 * TTL_S)
    if provider.get(site.name, "TLSA") == read:  # one TTL for the whole zone
        return
    with _refused("adding to a set whose TTL has changed"):
        provider.add(site.name, "TLSA", frozenset({B}), TTL_S, read)
    _has(provider, site.name, "TLSA", A)


@_check
def two_writers_lose_nothing(provider: Provider, site: _Site) -> None:
    """Of two that write the same set at the same moment, each reading again after `dns.changed`, both get their way.

    A provider that cannot check preconditions itself is never called by two at once: certagent holds a lock.
    """
    lock = Lock() if provider.capabilities.precondition == "none" else nullcontext()
    failures: list[Exception] = []

    def write(writer: int) -> None:
        try:
            for number in range(EACH):
                _insist(provider, site.other, f"writer-{writer}-{number}", lock)
        except Exception as error:  # noqa: BLE001 -- it is raised below, in the thread of the test
            failures.append(error)

    threads = [Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    wanted = [f"writer-{writer}-{number}" for writer, number in product(range(WRITERS), range(EACH))]
    _has(provider, site.other, "TXT", *wanted)


def _insist(provider: Provider, name: str, value: str, lock: Lock | nullcontext[None]) -> None:
    for _ in range(TRIES):
        with lock:
            try:
                return _add(provider, name, "TXT", value)
            except Changed:
                continue
    raise AssertionError(f"{TRIES} times dns.changed, and nobody else writes any more")


# -- capabilities ------------------------------------------------------------------------------------------------------


@_check
def atomic_is_true(provider: Provider, site: _Site) -> None:
    """If changes are stated to be atomic, one who reads all the time never sees a part of one."""
    if not provider.capabilities.atomic:
        return
    whole, over = frozenset({A, B, C}), Event()
    seen: list[RRset | Exception | None] = []

    def observe() -> None:
        while not over.is_set():
            try:
                seen.append(provider.get(site.name, "TLSA"))
            except Exception as error:  # noqa: BLE001 -- it is raised below
                seen.append(error)
                return

    observer = Thread(target=observe)
    observer.start()
    try:
        for _ in range(ROUNDS):
            _add(provider, site.name, "TLSA", *whole)
            _remove(provider, site.name, "TLSA", *whole)
    finally:
        over.set()
        observer.join()
    for found in seen:
        if isinstance(found, Exception):
            raise found
        if found is not None and found.values != whole:
            raise AssertionError(f"a part of a change was seen: {sorted(found.values)}")


@_check
def capabilities_are_plausible(provider: Provider, site: _Site) -> None:  # noqa: ARG001 -- one signature for all
    """What is stated makes sense: no negative time, and more than no write in a day."""
    capabilities = provider.capabilities
    if capabilities.ttl_floor_s < 0 or capabilities.publish_lag_s < 0 or capabilities.writes_per_day == 0:
        raise AssertionError(f"implausible: {capabilities}")


@_check
def zones_are_stated(provider: Provider, site: _Site) -> None:
    """`zones` are absolute, lower case, with the final dot, and one of them holds the zone that is tested."""
    zones = provider.zones
    if not all(zone.endswith(".") and zone == zone.lower() for zone in zones):
        raise AssertionError(f"not absolute in lower case: {zones}")
    if not any(site.name.endswith(f".{zone}") for zone in zones):
        raise AssertionError(f"none of {zones} holds {site.name}")


dns_provider_suite: tuple[DnsCheck, ...] = tuple(_checks)
"""Every check, for `pytest.mark.parametrize`."""
