"""What each provider does at its fake, whatever it states of itself: `python -m tests.dns.observed` writes the table.

Nothing here is left to chance: others read after each request of a change, and write just before it is carried out.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

from msgspec.structs import replace

from certagent.dns.providers.acmedns import AcmeDns
from certagent.dns.providers.protocol import Capabilities, Changed, RRset
from certagent.errors import Rejected, Transient
from tests.dns.cases import table as cases_table
from tests.dns.fakes import acmedns
from tests.dns.fakes.known import ACME_DNS, KNOWN, Known
from tests.dns.fakes.service import TOKEN, Service, private

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "dns.md"
PART = re.compile(r"(?s)(?<=<!-- observed: providers -->\n).*?(?=<!-- end -->)")
CASES_PART = re.compile(r"(?s)(?<=<!-- observed: cases -->\n).*?(?=<!-- end -->)")
ZONE = "example.org."
A, B, C = (f"3 1 1 {digit * 64}" for digit in "abc")
TTL_S = 3600
TTLS_S = (1, 60, 300, 600, TTL_S)
"""Services have one of these as their least."""
LONG = "60s"
SEEN = tuple(known for known in KNOWN if known.name != "lexicon-porkbun")
"""The bridge to lexicon has one row: what it does is alike at all services."""


class Observed(NamedTuple):
    """One provider."""

    type: str
    atomic: bool
    precondition: Literal["values", "set", "none"]
    others_value: Literal["refused", "kept", "lost"]
    """What becomes of a change, or of a value that somebody else adds in the moment of writing."""
    ttl_floor_s: int
    ttl_scope: Literal["set", "zone", "new"]
    requests: int
    """Of one change, with the read before it."""

    def agrees(self, stated: Capabilities) -> bool:
        """Whether the provider states the same of itself. The one TTL of a zone is met as it is, and has no least."""
        floor_s = 0 if stated.ttl_scope == "zone" else stated.ttl_floor_s
        return self[1:3] + self[4:6] == (stated.atomic, stated.precondition, floor_s, stated.ttl_scope)

    def row(self) -> str:
        """Of the table."""
        checks = "nothing" if self.precondition == "none" else self.precondition
        others = "the write is refused" if self.others_value == "refused" else f"it is {self.others_value}"
        least = f"{self.ttl_floor_s} s" if self.ttl_floor_s else "-"
        atomic = "yes" if self.atomic else "no"
        scope = "set, when it is new" if self.ttl_scope == "new" else self.ttl_scope
        return f"| `{self.type}` | {atomic} | {checks} | {others} | {least} | {scope} | {self.requests} |"


class Moments(Protocol):
    """Of one who writes; a fake has them."""

    arrived: Callable[[], None]
    """Called before a change is made, after all that the provider read for it."""
    written: Callable[[], None]
    """Called after each part of a change."""
    asked: list[Any]
    """Every request."""


class Observer:
    """Looks at one provider; `beside` is what somebody else reads and writes with."""

    def __init__(self, provider: Any, moments: Moments, zone: str = ZONE, beside: Any = None) -> None:
        self._provider, self._moments, self._beside = provider, moments, beside or provider
        self._names = (f"_25._tcp.observed1.{zone}", f"_25._tcp.observed2.{zone}")
        self._get()  # sessions and ids are had

    def all(self, name: str, crowd: Callable[[], None] = lambda: None) -> Observed:
        """Everything; `crowd` puts 200 records of others into the zone."""
        requests, scope = self._requests(crowd), self._scope()
        precondition, others = self._precondition(scope)
        floor = self._floor() if scope != "zone" else 0
        return Observed(name, self._atomic(), precondition, others, floor, scope, requests)

    def _get(self, which: int = 0) -> RRset | None:
        return self._provider.get(self._names[which], "TLSA")

    def _values(self) -> frozenset[str]:
        found = self._get()
        return found.values if found else frozenset()

    def _seen_beside(self) -> frozenset[str]:
        found = self._beside.get(self._names[0], "TLSA")
        return found.values if found else frozenset()

    def _add(self, *values: str, ttl_s: int = TTL_S, which: int = 0) -> None:
        self._provider.add(self._names[which], "TLSA", frozenset(values), ttl_s, self._get(which))

    def _add_beside(self, value: str, ttl_s: int = TTL_S) -> None:
        name = self._names[0]
        self._beside.add(name, "TLSA", frozenset({value}), ttl_s, self._beside.get(name, "TLSA"))

    def _clear(self) -> None:
        for which, name in enumerate(self._names):
            if found := self._get(which):
                self._provider.remove(name, "TLSA", found.values, found)

    def _atomic(self) -> bool:
        """Whether nobody who reads after each request sees a part of three values that come, or that go."""
        self._clear()
        seen: set[frozenset[str]] = set()
        self._moments.written = lambda: seen.add(self._seen_beside())
        try:
            self._add(A, B, C)
            assert self._values() == {A, B, C}
            self._clear()
        finally:
            self._moments.written = lambda: None
        return seen == {frozenset({A, B, C}), frozenset()}

    def _precondition(
        self, scope: Literal["set", "zone", "new"]
    ) -> tuple[Literal["values", "set", "none"], Literal["refused", "kept", "lost"]]:
        """What is refused if somebody else writes between the provider's last read and its write."""
        refused = self._meanwhile(lambda: self._add_beside(C))
        if not refused:
            return "none", "kept" if C in self._values() else "lost"
        both = scope == "set" and self._meanwhile(lambda: self._add_beside(A, TTL_S // 2))
        return "set" if both else "values", "refused"

    def _meanwhile(self, other: Callable[[], None]) -> bool:
        self._clear()
        self._add(A)
        was = self._get()

        def write() -> None:
            self._moments.arrived = lambda: None
            other()

        self._moments.arrived = write
        try:
            self._provider.add(self._names[0], "TLSA", frozenset({B}), TTL_S, was)
        except Changed:
            assert B not in self._values()
            return True
        except Transient:  # it was written, and read otherwise
            pass
        assert B in self._values()
        return False

    def _scope(self) -> Literal["set", "zone", "new"]:
        self._add(A, ttl_s=TTL_S)
        for ttl_s in (2 * TTL_S, TTL_S // 2):  # some take no more than an hour, one no less
            self._add(A, ttl_s=ttl_s, which=1)
            if [rrset and rrset.ttl_s for rrset in map(self._get, (0, 1))] == [TTL_S, ttl_s]:
                self._add(B, ttl_s=ttl_s)
                found = self._get()
                return "set" if found and found.ttl_s == ttl_s else "new"
        return "zone"

    def _floor(self) -> int:
        """The least TTL that the service takes and gives back, asked for by a provider that knows of none."""
        stated = self._provider.capabilities
        self._provider.capabilities = replace(stated, ttl_floor_s=0)
        try:
            least = next(ttl_s for ttl_s in TTLS_S if self._takes(ttl_s))
            assert least == 1 or not self._takes(least - 1)
        finally:
            self._provider.capabilities = stated
        return 0 if least == 1 else least

    def _takes(self, ttl_s: int) -> bool:
        self._clear()
        try:
            self._add(A, ttl_s=ttl_s)
        except Rejected:
            return False
        found = self._get()
        return found is not None and found.ttl_s == ttl_s

    def _requests(self, crowd: Callable[[], None]) -> int:
        """With the records of others in the zone."""
        self._clear()
        crowd()
        self._add(A)
        before = len(self._moments.asked)
        self._add(B)
        count = len(self._moments.asked) - before
        assert self._values() == {A, B}
        return count


def of_acme_dns(fake: acmedns.AcmeDns, provider: AcmeDns) -> Observed:
    """It is not read: what DNS gives counts."""
    name, (own, more, others) = acmedns.NAME, (digit * 43 for digit in "123")

    def add(*values: str) -> None:
        provider.add(name, "TXT", frozenset(values), TTL_S, provider.get(name, "TXT"))

    seen: list[set[str]] = []
    fake.written = lambda: seen.append(set(fake.values()))
    add(own, more)
    assert seen[-1] == {own, more}
    fake.written = lambda: None
    fake.arrived = lambda: fake.take(others)
    before = len(fake.asked)
    add(own)
    assert own in fake.values()
    kept = "kept" if others in fake.values() else "lost"
    scope = "zone" if str(TTL_S) not in str([asked.text for asked in fake.asked]) else "set"
    return Observed("acme-dns", len(seen) == 1, "none", kept, 0, scope, len(fake.asked) - before)


@contextmanager
def at_acme_dns(place: Path) -> Generator[tuple[acmedns.AcmeDns, AcmeDns]]:
    """The fake, and the provider that writes there."""
    accounts = private(place / "token", ACME_DNS.secret.format(TOKEN))
    fake = acmedns.AcmeDns(place)
    try:
        yield fake, cast("AcmeDns", ACME_DNS.provider(fake, accounts, LONG, ACME_DNS.zone))
    finally:
        fake.stop()


@contextmanager
def at_fake(known: Known, place: Path) -> Generator[tuple[Service, Observer, Any]]:
    """The fake, who looks, and the provider that writes there.

    What is confined while it asks is alone in its process; so somebody else is in another one.
    """
    token = private(place / "token", known.secret.format(TOKEN) + "\n")
    fake = known.fake(place)
    try:
        provider = known.provider(fake, token, LONG, ZONE)
        beside = known.provider(fake, token, LONG, ZONE, front=True) if known.front else provider
        yield fake, Observer(provider, fake, beside=beside), provider
    finally:
        fake.stop()


def table() -> Iterator[str]:
    """Line by line."""
    heads = (
        "type",
        "atomic",
        "checks as it writes",
        "a value that somebody else adds just then",
        "least TTL",
        "one TTL per",
        "requests per change",
    )
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for known in SEEN:
        with tempfile.TemporaryDirectory() as place, at_fake(known, Path(place)) as (fake, observer, _):
            yield observer.all(known.name.removesuffix("-luadns"), partial(known.others, fake)).row()
    with tempfile.TemporaryDirectory() as place, at_acme_dns(Path(place)) as service:
        yield of_acme_dns(*service).row()


def main() -> int:
    """The exit code."""
    from tests.dns import test_cases  # whose rows are functions there

    rows, cases = ("\n".join(lines) + "\n" for lines in (table(), cases_table(test_cases.CASES)))
    page = CASES_PART.sub(lambda _: cases, PART.sub(lambda _: rows, PAGE.read_text("utf-8")))
    PAGE.write_text(page, "utf-8")
    print(rows, cases, sep="\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
