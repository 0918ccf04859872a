"""What the rows of test_cases.py are made of: a provider at its fake, and the list of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from certagent.dns.presentation import text_of
from certagent.dns.providers.protocol import Provider, RdType, RRset
from certagent.errors import Error
from tests.dns.fakes.inwx import Inwx
from tests.dns.fakes.known import ACME_DNS, KNOWN, Known
from tests.dns.fakes.service import TOKEN, Fault, Service, private

EVERY = (*KNOWN, ACME_DNS)
LONG = "30s"


class At:
    """One provider at its fake."""

    def __init__(self, known: Known, place: Path) -> None:
        self.known, self.fake = known, cast("Service", known.fake(place))
        if isinstance(self.fake, Inwx):
            self.fake.tfa = False  # a second login would wait for the next code; see test_inwx.py
        self.token_file = private(place / "token", known.secret.format(TOKEN) + "\n")
        self.provider: Any = self.made()
        self.name: str = known.set[0]
        self.rdtype: RdType = known.set[1]
        self.a, self.b, self.c = known.values

    def made(self, *zones: str) -> Provider:
        return self.known.provider(self.fake, self.token_file, LONG, *(zones or (self.known.zone,)))

    def get(self) -> RRset | None:
        return self.provider.get(self.name, self.rdtype)

    def add(self, *values: str, ttl_s: int = 3600, by: Provider | None = None) -> None:
        provider = by or self.provider
        was = provider.get(self.name, self.rdtype)
        provider.add(self.name, self.rdtype, frozenset(values), ttl_s, was)

    def remove(self, *values: str, by: Provider | None = None) -> None:
        provider = by or self.provider
        provider.remove(self.name, self.rdtype, frozenset(values), provider.get(self.name, self.rdtype))

    def tries_again(self) -> None:
        """What was written is there, and the next try does nothing twice; at acme-dns it would take a second place."""
        assert self.there() == [self.a]
        if self.known is not ACME_DNS:
            self.add(self.a)
        assert self.there() == [self.a]

    def put(self, *contents: str) -> None:
        """By somebody else."""
        self.fake.put(self.name, self.rdtype, 3600, *contents)

    def there(self, name: str = "", rdtype: str = "", zone: str = "") -> list[str]:
        """What the service has: a value that is there twice is here twice."""
        rdtype = rdtype or self.rdtype
        return sorted(text_of(rdtype, content) for content in self.fake.kept(name or self.name, rdtype, zone))

    def fails(self, fault: Fault, kind: type[Error], code: str, do: Callable[[], object]) -> Error:
        """What is raised when the service answers so. Nothing of the token or of the answer is shown."""
        self.fake.faults.append(fault)
        with pytest.raises(kind) as caught:
            do()
        assert not self.fake.faults
        assert caught.value.code == code
        assert TOKEN not in repr(caught.value)
        assert str(caught.value).isprintable()
        return caught.value


class Case(NamedTuple):
    """One row."""

    name: str
    run: Callable[[At], None]
    not_at: Mapping[str, str]


CASES: list[Case] = []


def because(reason: str, *providers: str) -> Mapping[str, str]:
    """One reason for several."""
    return dict.fromkeys(providers, reason)


def case(*several: Mapping[str, str], **not_at: str) -> Callable[[Callable[[At], None]], Callable[[At], None]]:
    """Makes a function a row; `not_at` has the reasons, by provider (`_` for `-`)."""

    def mark(run: Callable[[At], None]) -> Callable[[At], None]:
        reasons = {name.replace("_", "-"): reason for name, reason in not_at.items()}
        for one in several:
            reasons |= one
        name = run.__name__.replace("_", " ").replace("ttl", "TTL").replace("html", "HTML")
        CASES.append(Case(name, run, reasons))
        return run

    return mark


def table(rows: list[Case]) -> Iterator[str]:
    """Line by line, for people."""
    yield "| case | not at | because |"
    yield "|---|---|---|"
    for row in rows:
        whose: dict[str, list[str]] = {}
        for known in EVERY:
            if reason := row.not_at.get(known.name):
                whose.setdefault(reason, []).append(f"`{known.name}`")
        for number, (reason, names) in enumerate(whose.items() or [("", ["-"])]):
            yield f"| {'' if number else row.name} | {', '.join(names)} | {reason} |"
