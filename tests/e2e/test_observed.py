"""As tests/dns/test_observed.py, at real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.opcode
import pytest

from certagent.dns.providers import knot, powerdns, rfc2136
from tests.dns.observed import PAGE, Observer
from tests.lab.addresses import KNOT, KNOT_ZONE, PRIMARY, ZONE
from tests.lab.dns import Dns
from tests.lab.powerdns import ADDRESS, PDNS_ZONE, PowerDns


class Watched:
    """The moments of a provider, taken at the method by which it asks its server.

    `begins` says which requests begin a change, and `changes` which may be seen by others afterwards.
    """

    def __init__(self, holder: Any, method: str, begins: Callable[..., bool], changes: Callable[..., bool]) -> None:
        self.arrived: Callable[[], None] = lambda: None
        self.written: Callable[[], None] = lambda: None
        self.asked: list[Any] = []
        self._inside = False
        ask = getattr(holder, method)

        def watched(*words: Any, **more: Any) -> Any:
            if not self._inside:
                self.asked.append(words)
                if begins(*words):
                    self._beside(self.arrived)
            answer = ask(*words, **more)
            if not self._inside and changes(*words):
                self._beside(self.written)
            return answer

        setattr(holder, method, watched)

    def _beside(self, other: Callable[[], None]) -> None:
        """What others do meanwhile is no part of the change."""
        self._inside = True
        try:
            other()
        finally:
            self._inside = False


def by_update(server: str, zone: str, key_file: Path) -> tuple[Any, Watched, str]:
    provider = rfc2136.Rfc2136(rfc2136.Options(server=server, zones=(zone,), key_file=str(key_file)))

    def updates(message: Any, _lost: str) -> bool:
        return message.opcode() == dns.opcode.UPDATE

    return provider, Watched(provider, "_send", updates, updates), f"{zone}."


def by_knotc(lab: Dns) -> tuple[Any, Watched, str]:
    """From the beginning of a transaction on, nobody else writes."""
    provider = knot.Knot(knot.Options(zones=(KNOT_ZONE,), socket=str(lab.knot_socket)))
    watched = Watched(
        provider,
        "_call",
        lambda *words: words[0] == "zone-begin",
        lambda *words: words[0] in ("zone-set", "zone-commit"),
    )
    return provider, watched, f"{KNOT_ZONE}."


def by_api(server: PowerDns, place: Path) -> tuple[Any, Watched, str]:
    options = powerdns.Options(url=server.url, zones=(PDNS_ZONE,), token_file=str(server.token(place / "token")))
    provider = powerdns.PowerDns(options)

    def writes(method: str, *_: Any) -> bool:
        return method == "PATCH"

    api = provider._api  # pyright: ignore[reportPrivateUsage]
    return provider, Watched(api, "call", writes, writes), f"{PDNS_ZONE}."


@pytest.fixture
def server(place: Path) -> Iterator[PowerDns]:
    server = PowerDns(place / "powerdns")
    server.start()
    yield server
    server.stop()


def judge(name: str, provider: Any, moments: Watched, zone: str) -> None:
    """The provider states the same of itself, and so does the documentation."""
    observed = Observer(provider, moments, zone).all(name)
    assert observed.agrees(provider.capabilities), observed
    assert observed.row() in PAGE.read_text("utf-8").splitlines()


def test_bind(lab_dns: Dns) -> None:
    judge("rfc2136 (BIND)", *by_update(PRIMARY, ZONE, lab_dns.keyfile("dane-key")))


def test_knot(lab_dns: Dns) -> None:
    judge("rfc2136 (Knot)", *by_update(KNOT, KNOT_ZONE, lab_dns.keyfile("dane-key")))
    judge("knot", *by_knotc(lab_dns))


def test_powerdns(server: PowerDns, place: Path) -> None:
    judge("rfc2136 (PowerDNS)", *by_update(ADDRESS, PDNS_ZONE, server.keyfile(place / "key")))
    judge("powerdns (PowerDNS)", *by_api(server, place))
