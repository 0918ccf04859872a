"""A plug-in that hangs takes its own step, and no more."""

from __future__ import annotations

import threading
import time

import pytest

from certagent.agent import bounded
from certagent.agent.bounded import Bounded
from certagent.errors import Misconfigured
from certagent.host.deadline import Overdue, left, total


class Plugin:
    zones = ("example.org",)

    def __init__(self) -> None:
        self.come_back = threading.Event()

    def loop(self) -> str:
        while not self.come_back.is_set():
            pass
        return "at last"

    def add(self, one: int, *, other: int) -> int:
        return one + other

    def time_left(self) -> float:
        return left(1000)

    def wrong(self) -> None:
        raise Misconfigured("dns.refused", "no", "ask")

    @property
    def capabilities(self) -> str:
        return self.loop()


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Plugin:
    monkeypatch.setattr(bounded, "CALL_S", 0.3)
    return Plugin()


def test_it_does_all_that_the_plug_in_does(plugin: Plugin) -> None:
    inside = Bounded(plugin, "toy")
    assert (inside.zones, inside.add(1, other=2), inside.kind) == (("example.org",), 3, Plugin)
    with pytest.raises(Misconfigured, match=r"no \[dns\.refused\]"):
        inside.wrong()
    with pytest.raises(AttributeError):
        _ = inside.nothing


@pytest.mark.parametrize("name", ["loop", "capabilities"])
def test_an_endless_loop_ends_its_step_and_is_not_begun_again(plugin: Plugin, name: str) -> None:
    inside, other = Bounded(plugin, "toy"), Bounded(Plugin(), "other")
    with pytest.raises(Overdue, match=r"the plug-in toy has not come back within 0 s \[step\.overdue\]"):
        _ = inside.loop() if name == "loop" else inside.capabilities
    began = time.monotonic()
    with pytest.raises(Overdue, match="from an earlier call"):
        inside.add(1, other=2)
    assert time.monotonic() - began < 0.3
    assert other.add(1, other=2) == 3
    plugin.come_back.set()
    for thread in threading.enumerate():
        if thread.name == "toy":
            thread.join(10)
    assert inside.add(1, other=2) == 3


def test_the_step_around_it_ends_it_sooner_and_is_known_inside(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "CALL_S", 300.0)
    inside = Bounded(plugin, "toy")
    with total(0.2):
        assert inside.time_left() <= 0.2
        with pytest.raises(Overdue):
            inside.loop()
    plugin.come_back.set()
