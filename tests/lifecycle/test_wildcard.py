"""The last record of a name below a wildcard stays: the wildcard's keys would come back (RFC 4592)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from certagent.agent.act.dispatch import act
from certagent.agent.edges import Edges
from certagent.dns.providers.protocol import Capabilities, RRset
from certagent.errors import Wildcard
from certagent.lifecycle import steps as st
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

    @contextmanager
    def writing(self, zone: str, name: str) -> Generator[Zone]:
        yield self

    def get(self, name: str, rdtype: str) -> RRset | None:
        return RRset(self.values, 60) if self.values else None

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
