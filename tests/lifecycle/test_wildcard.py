"""The last record of a name below a wildcard stays: the wildcard's keys would come back (RFC 4592)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from certagent.agent.act.dispatch import act
from certagent.agent.act.records import write_tlsa
from certagent.agent.act.spending import uncounted
from certagent.agent.edges import Edges
from certagent.dns.providers.protocol import Capabilities, RRset
from certagent.errors import Unsafe, Wildcard
from certagent.facts.dns import Hidden
from certagent.lifecycle import steps as st
from certagent.lifecycle.tlsaname import TlsaNames
from tests.lifecycle.play import SPEC, TLSA_NAME, Life


class Zone:
    """A resolver and a provider in one."""

    capabilities = Capabilities()

    def __init__(self, zone: str, values: frozenset[str], *wildcards: str) -> None:
        self.zone = zone
        self.values = values
        self._wildcards = wildcards

    def final(self, name: str) -> tuple[str, str]:
        return self.zone, name

    def wildcards(self, zone: str, name: str) -> tuple[str, ...]:
        return self._wildcards

    def hidden(self, zone: str, name: str) -> tuple[Hidden, ...]:
        return tuple(Hidden("mx1.example.org.", wildcard, ("A 192.0.2.1",)) for wildcard in self._wildcards)

    @contextmanager
    def writing(self, zone: str, name: str) -> Generator[Zone]:
        yield self

    def get(self, name: str, rdtype: str) -> RRset | None:
        return RRset(self.values, 60) if self.values else None

    def add(self, name: str, rdtype: str, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        self.values |= values

    def remove(self, name: str, rdtype: str, values: frozenset[str], was: RRset | None) -> None:
        self.values -= values


@pytest.mark.parametrize("more", [frozenset[str](), frozenset({"1 1 1 " + "ee" * 32})])
@pytest.mark.parametrize("wildcards", [(), ("*.example.org.",)])
def test_a_withdrawal_uncovers_no_wildcard(more: frozenset[str], wildcards: tuple[str, ...]) -> None:
    life = Life.published()
    life.spec = replace(SPEC, tlsa_names={})
    step = life.until(st.Unpublish)
    assert isinstance(step, st.Unpublish)
    seen = life.tlsa_name.observation
    assert seen
    zone = Zone(seen.zone, life.in_dns | more, *wildcards)
    made: Any = Edges
    edges = made(issuer=None, resolver=lambda: zone, zones=zone, vault=None, servers={})
    if wildcards and not more:
        with pytest.raises(Wildcard, match=rf"{TLSA_NAME} keeps its records: without them \*\.example\.org\."):
            act(step, life.spec, life.state, edges, life.now, life.happens)
        assert zone.values == life.in_dns
    else:
        act(step, life.spec, life.state, edges, life.now, life.happens)
        assert zone.values == more


@pytest.mark.parametrize("wildcards", [(), ("*.example.org.",)])
def test_a_publication_hides_no_address(wildcards: tuple[str, ...]) -> None:
    """A host with a wildcard's address has none as soon as there is a record below its name."""
    life = Life()
    step = life.until(st.Publish)
    assert isinstance(step, st.Publish)
    seen = life.tlsa_name.observation
    assert seen
    zone = Zone(seen.zone, frozenset(), *wildcards)
    made: Any = Edges
    edges = made(issuer=None, resolver=lambda: zone, zones=zone, vault=None, servers={})
    tlsa_name = TlsaNames(life.spec, life.state)[TLSA_NAME]
    if wildcards:
        with pytest.raises(Unsafe, match=rf"from the wildcard \*\.example\.org\. alone: a record at {TLSA_NAME}"):
            write_tlsa(step, tlsa_name, edges, life.happens, uncounted)
        assert not zone.values
    else:
        write_tlsa(step, tlsa_name, edges, life.happens, uncounted)
        assert zone.values == step.values
