"""What a provider takes in a day: several certificates have one budget, and people are told."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from certagent.agent.act.challenges import clean_up, present
from certagent.agent.act.spending import Counted
from certagent.agent.edges import Edges
from certagent.agent.wiring import Wiring
from certagent.checks import providers, rehearsal
from certagent.checks.counted import Counted as CountedTrial
from certagent.config.load import parse
from certagent.dns.providers.protocol import Capabilities, RRset
from certagent.errors import Transient
from certagent.facts.challenge import Challenge
from certagent.lifecycle import budget
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.report import status
from certagent.report.conditions import conditions
from tests.lifecycle.play import ECDSA, SPEC, Life

ZONE = "example.org."
CHALLENGES = tuple(Challenge("dns-01", n, f"_acme-challenge.{n}.{ZONE}", "v") for n in ("a", "b", "c"))
STEP = st.Present(key_type=ECDSA, because="")


class Site:
    """Resolver, zones and provider in one."""

    def __init__(self, per_day: int | None, lag_s: float = 0.0) -> None:
        self.capabilities = Capabilities(writes_per_day=per_day, publish_lag_s=lag_s)
        self.written: dict[str, frozenset[str]] = {}
        self.writes = 0
        self.edges = Edges(
            issuer=cast("Any", None),
            resolver=cast("Any", lambda: self),
            zones=cast("Any", self),
            vault=cast("Any", None),
            servers={},
        )

    def final(self, name: str) -> tuple[str, str]:
        return ZONE, name

    def hidden(self, _zone: str, _name: str) -> tuple[()]:
        return ()

    @contextmanager
    def writing(self, _zone: str, _name: str) -> Generator[Site]:
        yield self

    def get(self, name: str, _rdtype: str) -> RRset | None:
        found = self.written.get(name)
        return RRset(found, 60) if found else None

    def add(self, name: str, _rdtype: str, values: frozenset[str], _ttl_s: int, _was: object) -> None:
        if self.written.get(name) != values:  # what is there already is said again, and is no write
            self.writes += 1
        self.written[name] = values

    def remove(self, name: str, _rdtype: str, _values: frozenset[str], _was: object) -> None:
        self.writes += name in self.written
        self.written.pop(name, None)


def test_each_write_is_journaled_before_it_is_made_and_none_is_too_many() -> None:
    """A step that is refused in its middle goes on later where it was."""
    site, life = Site(per_day=10), Life.published()
    seen: list[int] = []

    def note(event: ev.AnyEvent) -> None:
        seen.append(site.writes)
        life.happens(event)

    def counted() -> Counted:
        return Counted(STEP, life.spec, life.state, site.edges, life.now, note)

    for _ in range(6):
        life.happens(ev.Writing(zone=ZONE, per_day=10))
    with pytest.raises(Transient, match=r"8 of 10 writes a day to example.org. are used.*dns\.budget"):
        present(CHALLENGES, SPEC, site.edges, counted())
    assert (seen, site.writes) == ([0, 1], 2)
    life.passes(budget.DAY)
    present(CHALLENGES, SPEC, site.edges, counted())
    assert site.writes == 3
    clean_up(CHALLENGES, SPEC, site.edges, counted())
    assert (seen, site.writes) == ([0, 1, 2, 3, 4, 5], 6)


def test_what_other_certificates_wrote_counts() -> None:
    """All of them write one zone."""
    site, life, other = Site(per_day=10), Life.published(), Life.published()
    for _ in range(8):
        other.happens(ev.Writing(zone=ZONE, per_day=10))
    site.edges.budgets_elsewhere = lambda: other.state.budgets
    with pytest.raises(Transient, match=r"dns\.budget"):
        present(CHALLENGES, SPEC, site.edges, Counted(STEP, life.spec, life.state, site.edges, life.now, life.happens))
    assert (site.writes, life.state.budgets) == (0, ())


def test_where_nobody_counts_nothing_is_journaled() -> None:
    site, life = Site(per_day=None, lag_s=60.0), Life.published()
    lag_s = present(
        CHALLENGES, SPEC, site.edges, Counted(STEP, life.spec, life.state, site.edges, life.now, life.happens)
    )
    assert (site.writes, life.state.budgets, lag_s) == (3, (), 60.0)
    site = Site(per_day=None, lag_s=10.0)
    assert present(CHALLENGES, SPEC, site.edges) == 0.0  # `ready` asks for as long


def test_people_are_told() -> None:
    """With a code, the count and the end of the wait."""
    life = Life.published()
    for _ in range(240):
        life.happens(ev.Writing(zone=ZONE, per_day=300))
    [condition] = conditions(life.spec, life.state, life.now)
    assert condition.code == "dns.writes_used"
    assert condition.detail.startswith(
        f"240 of 300 writes a day to {ZONE} are used; all but urgent ones wait until 2027-"
    )
    assert not condition.needs_human
    assert status.certificate(life.spec, life.state, life.now, None).verdict == "failing"
    life.passes(budget.DAY)
    assert conditions(life.spec, life.state, life.now) == ()


CONFIG = """
ca: {le: {directory: "https://ca.example/dir", agree_tos: true}}
dns:
  providers:
    slow: {type: netcup, token_file: /nowhere, zones: [example.org]}
    few: {type: desec, token_file: /nowhere, zones: [Example.NET, dane.example.org]}
    mine: {type: command, program: PROGRAM, zones: [example.com]}
    gone: {type: command, program: /nowhere/dns, zones: [example.edu]}
certificates:
  mx1.example.org:
    ca: le
    mail_servers:
      postfix:
        type: postfix
        chain_files: {ecdsa: /nowhere.pem}
        services: [{host: mx1.example.org, port: 25, mode: smtp}]
"""


def test_a_spec_has_what_the_providers_say_of_themselves(tmp_path: Path) -> None:
    """No secret is read for that. One that cannot be asked says nothing."""
    program = tmp_path / "dns"
    program.write_text('#!/bin/sh\necho \'{"ok": true, "capabilities": {"publish_lag_s": 90, "ttl_floor_s": 120}}\'\n')
    program.chmod(0o755)
    config = parse(tmp_path / "config.yaml", CONFIG.replace("PROGRAM", str(program)).encode())
    spec = Wiring(config).spec("mx1.example.org")
    found = {zone.zone: (zone.publish_lag.total_seconds(), zone.ttl_floor_s) for zone in spec.zones}
    assert found == {
        "example.org.": (1200, 0),
        "example.net.": (60, 3600),
        "dane.example.org.": (60, 3600),
        "example.com.": (90, 120),
        "example.edu.": (0, 0),
    }
    assert SPEC.zones == ()


@pytest.fixture
def wiring(tmp_path: Path) -> Wiring:
    return Wiring(parse(tmp_path / "config.yaml", f"state_dir: {tmp_path}/state\n{CONFIG}".encode()))


def used(wiring: Wiring) -> int:
    """By the journal of the one certificate."""
    return sum(one.used(wiring.journal.now()) for one in wiring.journal.state("mx1.example.org").budgets)


def test_trials_count_too_and_leave_what_is_kept_for_urgent_writes(wiring: Wiring) -> None:
    """What other certificates wrote counts with them. A value that a trial wrote may be taken away at the last."""
    few = Capabilities(writes_per_day=10)
    adds, removes = (CountedTrial(wiring, "mx1.example.org", removes=removes) for removes in (False, True))
    wiring.journal.append("mx2.example.org", *[ev.Writing(zone=ZONE, per_day=10)] * 6)
    for _ in range(2):
        adds(ZONE, few)
    with pytest.raises(Transient, match=r"8 of 10 writes a day to example.org. are used.*dns\.budget"):
        adds(ZONE, few)
    for _ in range(2):
        removes(ZONE, few)
    with pytest.raises(Transient, match=r"10 of 10 .*dns\.budget"):
        removes(ZONE, few)
    adds("example.com.", few)
    adds(ZONE, Capabilities())
    assert used(wiring) == 5


@pytest.mark.parametrize("before", [6, 8])
def test_a_trial_of_a_zone_is_counted_or_refused(wiring: Wiring, before: int) -> None:
    """`dns test` at a provider whose day is over writes nothing."""
    site = Site(per_day=10)
    wiring.journal.append("mx1.example.org", *[ev.Writing(zone=ZONE, per_day=10)] * before)
    given: dict[str, Any] = {
        "config": wiring.config,
        "journal": wiring.journal,
        "lock": wiring.lock,
        "budgets": wiring.budgets,
        "zones": site.edges.zones,
        "resolver": lambda: SimpleNamespace(final=site.final, wait_for_txt=print),
        "providers": lambda: [SimpleNamespace(zones=(ZONE,), capabilities=site.capabilities)],
    }
    said = [f"{one.outcome} {one.detail}" for one in providers.trial(cast("Any", SimpleNamespace(**given)), ZONE)]
    if before == 6:
        assert not any(words.startswith("error") for words in said)
        assert (site.writes, used(wiring)) == (2, 8)
    else:
        assert "8 of 10 writes a day" in said[0]
        assert (site.writes, used(wiring)) == (0, 8)


def test_a_rehearsal_is_counted(wiring: Wiring) -> None:
    """Each response to a challenge, and its removal."""
    site = Site(per_day=20)
    module = cast("Any", rehearsal)
    spec = replace(SPEC, name="mx1.example.org")
    with module._presented(module._Run(list[object]().append), wiring, spec, site.edges, CHALLENGES):
        assert (site.writes, used(wiring)) == (3, 3)
    assert (site.writes, used(wiring)) == (6, 6)
