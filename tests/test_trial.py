"""`certagent dns test`: what is written is read back, seen everywhere, timed and removed, whatever comes between."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from certagent.checks import providers
from certagent.dns.providers.protocol import Capabilities, RRset
from certagent.errors import NotYet, Rejected, Transient
from certagent.report.findings import Finding

ZONE, NAME = "example.org.", "_acme-challenge.certagent-test.example.org."
SOME = frozenset({"somebody else's"})


class Site:
    """Wiring, resolver, zones, provider and clock in one. `lag_s`: how long the name servers lag behind."""

    def __init__(self, lag_s: float = 0.0, stated_s: float = 0.0) -> None:
        self.capabilities = Capabilities(publish_lag_s=stated_s)
        self.config = SimpleNamespace(certificates={})
        self.zones = self
        self.lag_s = lag_s
        self.there = SOME
        self.since = 0.0
        self.t = 0.0
        self.rounds = 0
        self.forgets = self.refuses_removal = False

    def providers(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(zones=(ZONE,), capabilities=self.capabilities)]

    def resolver(self) -> Site:
        return self

    def final(self, name: str) -> tuple[str, str]:
        return ZONE, name

    @contextmanager
    def writing(self, zone: str, name: str) -> Generator[Site]:
        assert (zone, name) == (ZONE, NAME)
        yield self

    def get(self, _name: str, _rdtype: str) -> RRset:
        return RRset(self.there, 60)

    def add(self, _name: str, _rdtype: str, values: frozenset[str], _ttl_s: int, _was: object) -> None:
        self.there |= frozenset() if self.forgets else values
        self.since = self.t

    def remove(self, _name: str, _rdtype: str, values: frozenset[str], _was: object) -> None:
        if self.refuses_removal:
            raise Rejected("dns.rejected", "not today")
        self.there -= values

    def wait_for_txt(self, name: str, values: frozenset[str], budget: timedelta) -> None:
        self.rounds += 1
        self.t += budget.total_seconds()
        if not (values <= self.there and self.t - self.since >= self.lag_s):
            raise NotYet("dns.not_yet", f"{name} is not yet everywhere")

    def trial(self) -> Iterator[Finding]:
        return providers.trial(cast("Any", self), ZONE)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site()

    def sleep(seconds: float) -> None:
        made.t += seconds

    monkeypatch.setattr(providers, "time", SimpleNamespace(monotonic=lambda: made.t, sleep=sleep))
    return made


def said(findings: Iterator[Finding]) -> list[str]:
    return [f"{one.outcome} {one.detail}" for one in findings]


def test_each_part_is_said_with_its_time(site: Site) -> None:
    """Whatever else is at the name stays."""
    assert said(site.trial()) == [
        f"ok wrote a TXT value at {NAME} in 0.00 s",
        "ok read it back in 0.00 s",
        "ok every authoritative server gave it after 10.00 s",
        "ok removed it in 0.00 s",
    ]
    assert site.there == SOME


def test_a_provider_that_publishes_late_is_waited_for_without_a_storm(site: Site) -> None:
    """netcup's twenty minutes: said first, asked about now and then, and not for ever."""
    site.capabilities, site.lag_s = Capabilities(publish_lag_s=1200), 1100
    found = said(site.trial())
    assert found[2] == "note the provider publishes within 20 min; waiting for at most 41 min"
    assert found[3].startswith("ok every authoritative server gave it after 11")
    assert site.rounds <= providers.ROUNDS
    site.lag_s, site.rounds = 1e9, 0
    found = said(site.trial())
    assert found[3].startswith("error not everywhere after 41 min")
    assert site.t < 2 * 3600
    assert site.there == SOME


def test_a_provider_that_says_when_it_is_published_is_not_waited_for_again(site: Site) -> None:
    """Its write has ended then; DNS is asked as at one that publishes at once."""
    site.capabilities = Capabilities(publish_lag_s=1200, propagation_status=True)
    assert [one for one in said(site.trial()) if one.startswith("note")] == []


def test_what_the_provider_does_not_have_any_more_is_an_error(site: Site) -> None:
    site.forgets = True
    assert [one.partition(" ")[0] for one in said(site.trial())] == ["ok", "error", "error", "ok"]


def test_a_value_that_stays_is_named(site: Site) -> None:
    """With the place and a remedy."""
    site.refuses_removal = True
    *_, last = site.trial()
    [value] = site.there - SOME
    assert (last.outcome, last.hint) == ("error", "remove it by hand; it does no harm")
    assert f"not removed: the TXT value {value} at {NAME}: not today" in last.detail


class Stop(BaseException):
    """A signal."""


@pytest.mark.parametrize("where", ["add", "get", "wait_for_txt"])
@pytest.mark.parametrize("removable", [True, False])
def test_interrupted_it_is_removed_or_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str, removable: bool
) -> None:
    """Also in the moment of writing, when nobody knows whether it was written."""
    real = getattr(site, where)

    def interrupted(*arguments: object) -> object:
        real(*arguments)
        if site.there != SOME:
            monkeypatch.setattr(site, where, real)
            raise Stop
        return RRset(site.there, 60)

    monkeypatch.setattr(site, where, interrupted)
    site.refuses_removal = not removable
    with pytest.raises(Stop):
        said(site.trial())
    told = capsys.readouterr().err
    assert f"at {NAME} is removed" in told
    if removable:
        assert site.there == SOME
        assert "removed it in" in told
    else:
        [value] = site.there - SOME
        assert f"not removed: the TXT value {value} at {NAME}" in told


def test_a_reader_that_goes_away_is_an_interruption_too(site: Site) -> None:
    """Such as `certagent dns test | head -1`."""
    trial = site.trial()
    next(trial)
    assert site.there != SOME
    cast("Any", trial).close()
    assert site.there == SOME


def test_nothing_is_written_where_nobody_may_write(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_name: str) -> tuple[str, str]:
        raise Transient("dns.unreachable", "nobody answers")

    monkeypatch.setattr(site, "final", unknown)
    assert said(site.trial()) == ["error nobody answers [dns.unreachable]"]
