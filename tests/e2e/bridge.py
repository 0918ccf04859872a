"""Services that exist as fakes only, with the lab's DNS behind them: what their API takes, BIND publishes.

Time runs faster there. What a service states of its TTLs and delays is less, in the fake and in certagent alike:
`python -m tests.e2e.bridge '{"PROVIDER": {"CAPABILITY": VALUE}}' ARGS` is certagent with other capabilities.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import dns.rdata

from tests.dns.fakes.cloudflare import Cloudflare
from tests.dns.fakes.netcup import Netcup
from tests.dns.fakes.route53 import Route53
from tests.dns.fakes.service import Service
from tests.lab.dns import Dns


class Record(NamedTuple):
    """As a zone file has it."""

    name: str
    rdtype: str
    ttl_s: int
    text: str


Sets = Mapping[tuple[str, str], frozenset[Record]]


def of_cloudflare(fake: Cloudflare) -> Iterable[Record]:
    """What the service holds."""
    return (_record(r["name"], r["type"], r["ttl"], r["content"]) for r in fake.records.values())


def of_netcup(fake: Netcup) -> Iterable[Record]:
    """What the service holds."""
    return (_record(f"{r['hostname']}.{fake.zones[0]}", r["type"], fake.ttl_s, r["destination"]) for r in fake.records)


def of_route53(fake: Route53) -> Iterable[Record]:
    """What the service holds."""
    sets = (one for one in fake.zone.rrsets if one.type in ("TLSA", "TXT"))
    return (_record(one.name.rstrip("."), one.type, int(one.ttl), text) for one in sets for text in one.records)


def _record(name: str, rdtype: str, ttl_s: int, text: str) -> Record:
    return Record(name, rdtype, ttl_s, dns.rdata.from_text("IN", rdtype, text).to_text())


class Bridge:
    """Publishes what the fake holds: with each of its writes, in rounds, or when it says that it has.

    Use as a context manager. `held` is one of the functions above.
    """

    def __init__(self, fake: Service, held: Callable[[Any], Iterable[Record]], dns: Dns, round_s: float = 0) -> None:
        self._fake, self._held, self._dns, self._round_s = fake, held, dns, round_s
        self._published: Sets = {}
        self._over = threading.Event()
        self._rounds = threading.Thread(target=self._go_round)
        self.changes: list[tuple[frozenset[Record], frozenset[Record]]] = []
        """Of each change of a set in DNS, what was there and what came."""

    def __enter__(self) -> Self:
        if self._round_s:
            self._rounds.start()
        elif isinstance(self._fake, Route53):
            self._fake.in_sync = self._publish_now
        else:
            self._fake.written = self._publish  # within the request, so that no write is passed over
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._round_s:
            self._rounds.join()

    def _go_round(self) -> None:
        while not self._over.wait(self._round_s):
            self._publish()

    def _publish(self) -> None:
        with self._fake.turn:
            self._publish_now()

    def _publish_now(self) -> None:
        sets: defaultdict[tuple[str, str], set[Record]] = defaultdict(set)
        for record in self._held(self._fake):
            sets[record.name, record.rdtype].add(record)
        held = {key: frozenset(records) for key, records in sets.items()}
        for name, rdtype in sorted({*held, *self._published}):
            old, new = (of.get((name, rdtype), frozenset[Record]()) for of in (self._published, held))
            if new != old:
                ttl_s = max((record.ttl_s for record in new), default=0)
                self._dns.update(name, rdtype, sorted(record.text for record in new), ttl_s)
                self.changes.append((old, new))
        self._published = held


def changed(capabilities: Mapping[str, Mapping[str, Any]]) -> None:
    """The providers state these from now on."""
    from msgspec.structs import replace

    from certagent.agent.plugins import BUILT_IN, loaded

    for name, values in capabilities.items():
        provider = loaded(BUILT_IN["certagent.dns_providers"][name])
        provider.capabilities = replace(provider.capabilities, **values)


if __name__ == "__main__":
    changed(json.loads(sys.argv.pop(1)))
    from certagent.cli import main

    sys.argv[0] = "certagent"
    main.main()
