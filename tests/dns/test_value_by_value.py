"""A change that a service does not make at once: the real rules, act and provider, on the stand-in of each service."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from certagent.agent.act.dispatch import act
from certagent.agent.act.records import add_txt, remove_txt
from certagent.agent.edges import Edges, Zones
from certagent.dns.providers.protocol import Provider
from certagent.errors import NotAtomic
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.spec import Spec
from certagent.pki import tlsa
from tests.dns.fakes.known import KNOWN, Known
from tests.dns.fakes.service import TOKEN, Service, private
from tests.lifecycle.play import SPEC, TLSA_NAME, Life

ZONE = "example.org."


class Site:
    """The edges to DNS. What the service has is read after each write."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.sets: list[frozenset[str]] = []
        self.journaled: list[ev.AnyEvent] = []

    @contextmanager
    def writing(self, _zone: str, _name: str) -> Generator[Provider]:
        yield cast("Provider", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.provider, name)

    def add(self, *arguments: Any) -> None:
        self.provider.add(*arguments)
        self._look()

    def remove(self, *arguments: Any) -> None:
        self.provider.remove(*arguments)
        self._look()

    def _look(self) -> None:
        found = self.provider.get(TLSA_NAME, "TLSA")
        self.sets.append(found.values if found else frozenset())

    def final(self, name: str) -> tuple[str, str]:
        return ZONE, name

    def hidden(self, _zone: str, _name: str) -> tuple[()]:
        return ()

    def wildcards(self, _zone: str, _name: str) -> tuple[str, ...]:
        return ()

    def do(self, step: st.AnyStep, life: Life) -> None:
        edges = Edges(
            issuer=cast("Any", None),
            resolver=cast("Any", lambda: self),
            zones=cast("Any", self),
            vault=cast("Any", None),
            servers={"postfix": cast("Any", _NoFiles())},
            probe=cast("Any", _meets_nobody),
        )
        act(step, life.spec, life.state, edges, life.now, self.journaled.append)


class _NoFiles:
    """A mail server without files."""

    def installed(self) -> dict[str, bytes]:
        return {}


def _meets_nobody(*_: object, **__: object) -> list[object]:
    return []


@pytest.fixture(params=KNOWN, ids=lambda known: known.name)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    known = cast("Known", request.param)
    service: Service = known.fake(tmp_path)
    path = private(tmp_path / "token", known.secret.format(TOKEN) + "\n")
    yield Site(known.provider(service, path, "30s", ZONE))
    service.stop()


def publishing(spec: Spec = SPEC) -> tuple[Life, st.Publish, frozenset[str]]:
    """The first publication, and the values of what is served."""
    life = Life(spec)
    step = life.until(st.Publish)
    assert isinstance(step, st.Publish)
    life.looks(frozenset())
    life.happens(ev.Intended(step=step, lane=step.lane))
    served = frozenset(tlsa.of_key(chain.spki) for chain in life.names[TLSA_NAME].served)
    assert served < step.values
    return life, step, served


def test_what_is_served_comes_first_and_goes_last(site: Site) -> None:
    """Every set in between may be cached: it is journaled before it comes to be, and matches what is served."""
    life, step, served = publishing()
    atomic = site.capabilities.atomic
    site.do(step, life)
    assert site.sets == ([step.values] if atomic else [served, step.values])
    life.looks(step.values)
    life.spec = replace(SPEC, tlsa_names={})
    over = st.Unpublish(tlsa_name=TLSA_NAME, values=step.values, because="withdrawn")
    site.do(over, life)
    assert site.sets[1 if atomic else 2 :] == ([frozenset()] if atomic else [served, frozenset()])
    superseding = [event for event in site.journaled if isinstance(event, ev.Superseding)]
    assert [event.after for event in superseding] == site.sets
    assert {event.publish_lag_s for event in superseding} == {site.capabilities.publish_lag_s}
    counted = [event for event in site.journaled if isinstance(event, ev.Writing)]
    assert len(counted) == (len(site.sets) if site.capabilities.writes_per_day else 0)


def test_with_several_keys_there_is_no_order_that_is_safe(site: Site) -> None:
    """Nothing is written."""
    life, step, served = publishing(replace(SPEC, key_types=("ecdsa-p256", "rsa-2048")))
    assert len(served) == 2
    if site.capabilities.atomic:
        site.do(step, life)
        assert site.sets == [step.values]
        return
    with pytest.raises(NotAtomic, match=r"dns\.not_atomic"):
        site.do(step, life)
    assert site.sets == site.journaled == []


def test_the_provider_is_not_called_where_nothing_is_to_change(site: Site) -> None:
    """But where a command publishes, and may have been lost."""
    life, step, _ = publishing()
    site.do(step, life)
    zones: Any = site
    name, there, absent = f"_acme-challenge.mx1.{ZONE}", frozenset({"v" * 43}), frozenset({"w" * 43})
    add_txt(zones, ZONE, name, there, 3600)
    calls = len(site.sets)
    site.do(step, life)
    site.do(st.Unpublish(tlsa_name=TLSA_NAME, values=frozenset({f"3 1 1 {'0' * 64}"}), because=""), life)
    add_txt(zones, ZONE, name, there, 3600)
    remove_txt(zones, ZONE, name, absent)
    assert len(site.sets) == (calls + 4 if site.capabilities.on_command else calls)


def test_a_provider_that_says_when_it_is_published_has_waited_for_it(site: Site) -> None:
    """So nothing more is waited for; but an earlier write, whose answer may be lost, says nothing of it."""
    zones, name = cast("Zones", site), f"_acme-challenge.mx1.{ZONE}"
    able, values = site.capabilities, frozenset({"v" * 43})
    says = site.provider.capabilities.propagation_status
    assert add_txt(zones, ZONE, name, values, 3600) == (0.0 if says else able.publish_lag_s)
    assert add_txt(zones, ZONE, name, values, 3600) == able.publish_lag_s


def test_the_services_that_are_meant() -> None:
    """By what they publish of themselves."""
    assert {"netcup", "porkbun", "cloudflare"} <= {known.name for known in KNOWN}
    says = {known.name for known in KNOWN if known.kind.capabilities.propagation_status}
    assert says == {"hetzner", "route53"}
