"""A second, tiny kind of subject, in one file: a counter that goes up to its goal one by one.

It runs through journal, loop and daemon as a certificate does, and none of them was changed for it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from msgspec import Struct
from msgspec.structs import replace

from certagent.agent import daemon, wiring
from certagent.agent.loop import SPIN, advance
from certagent.agent.subject import Note, Subject
from certagent.agent.wiring import Kind, Wiring
from certagent.cli.main import cli
from certagent.errors import Error, Misconfigured, Transient
from certagent.facts.moment import Instant
from certagent.facts.wait import Wait
from certagent.report.conditions import Condition
from certagent.report.step import StepReport
from certagent.store.journal import Journal
from certagent.store.sqlite import Sqlite
from certagent.store.subject import SubjectKind
from tests.lab.wait import until
from tests.store.test_journal import Fake

# ---- the kind -------------------------------------------------------------------------------------------------------


class Event(Struct, frozen=True, tag=True):
    """What happened to a counter."""


class Begun(Event, frozen=True):
    lane: str


class Counted(Event, frozen=True):
    to: int


class Seen(Event, frozen=True):
    shown: int


class Failed(Event, frozen=True):
    lane: str
    kind: str
    code: str
    detail: str
    hint: str


AnyEvent = Begun | Counted | Seen | Failed


class State(Struct, frozen=True):
    """What is known of a counter."""

    at: int = 0
    begun: int = 0
    failed: Failed | None = None
    failed_at: Instant | None = None
    seen_at: Instant | None = None


class Step(Struct, frozen=True):
    because: str
    to: int = 0
    lane: str = "count"

    @property
    def changes(self) -> bool:
        return self.lane == "count"


def new(name: str) -> State:
    return State()


def fold(state: State, event: AnyEvent, now: Instant) -> State:
    match event:
        case Begun():
            return replace(state, begun=state.begun + 1)
        case Counted():
            return replace(state, at=event.to, failed=None)
        case Seen():
            return replace(state, seen_at=now)
        case Failed():
            return replace(state, failed=event, failed_at=now)


def topic(event: AnyEvent) -> str | None:
    return "seen" if isinstance(event, Seen) else None


COUNTER: SubjectKind[State, AnyEvent] = SubjectKind("counter", AnyEvent, State, new, fold, 1, topic)
Troubles = dict[int, list[Exception]]
"""What goes wrong on the way to a number, one after the other."""
PAUSE, HOUR = timedelta(seconds=20), timedelta(hours=1)


class Counter:
    """One counter, with the dial in the world that it moves."""

    kind = COUNTER

    def __init__(self, name: str, goal: int, dial: list[int], troubles: Troubles | None = None) -> None:
        self.name = name
        self.goal = goal
        self.dial = dial
        self.troubles = troubles or {}

    def plan(self, state: State, now: Instant) -> Step | Wait:
        if state.failed and state.failed_at and now.since(state.failed_at) < PAUSE:
            return Wait(PAUSE - now.since(state.failed_at), f"count: {state.failed.detail}")
        if state.at < self.goal:
            return Step("the goal is not reached", state.at + 1)
        if state.seen_at is None or now.since(state.seen_at) >= HOUR:
            return Step("the dial is read now and then", lane="look")
        return Wait(HOUR - now.since(state.seen_at), "check interval")

    def act(self, step: Step, state: State, now: Instant, note: Note[AnyEvent]) -> tuple[AnyEvent, ...]:
        if step.lane == "look":
            return (Seen(self.dial[0]),)
        if trouble := self.troubles.get(step.to):
            raise trouble.pop(0)
        self.dial[0] = step.to
        return (Counted(step.to),)

    def intended(self, step: Step) -> AnyEvent:
        return Begun(step.lane)

    def failed(self, step: Step, error: Error) -> AnyEvent:
        return Failed(step.lane, error.kind, error.code, error.detail, error.hint)

    def failure(self, event: AnyEvent) -> Failed | None:
        return event if isinstance(event, Failed) else None

    def failing(self, state: State, step: Step) -> str | None:
        return state.failed.detail if state.failed else None

    def failures(self, state: State) -> tuple[Failed, ...]:
        return (state.failed,) if state.failed else ()

    def alarm(self, state: State, step: Step, now: Instant) -> bool:
        return bool(state.failed and state.failed.kind == "misconfigured")

    def conditions(self, state: State, now: Instant) -> tuple[Condition, ...]:
        return ()

    def warnings(self, state: State) -> tuple[tuple[str, str], ...]:
        return (("high", f"it stands at {state.at}"),) if state.at > 2 else ()


# ---- the loop -------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Fake:
    return Fake()


@pytest.fixture
def journal(tmp_path: Path, clock: Fake) -> Iterator[Journal[State, AnyEvent]]:
    journal = Journal(Sqlite(tmp_path / "journal.db", clock), COUNTER)
    yield journal
    journal.close()


def test_it_reaches_its_goal_over_failures_and_waits(journal: Journal[State, AnyEvent], clock: Fake) -> None:
    dial, reports = [0], list[StepReport]()
    troubles: Troubles = {2: [Transient("dial.stuck", "it is stuck"), RuntimeError("a defect")]}
    counter = Counter("a", 3, dial, troubles)
    assert advance(counter, journal, report=reports.append) == Wait(PAUSE, "count: it is stuck")
    assert journal.wakes()["a"].why == "count: it is stuck"
    assert (dial, journal.state("a").at) == ([1], 1)
    clock.pass_(30)
    assert advance(counter, journal, report=reports.append) == Wait(PAUSE, "count: unforeseen RuntimeError in act")
    clock.pass_(30)
    troubles.clear()
    assert advance(counter, journal, report=reports.append) == Wait(HOUR, "check interval")
    assert dial == [3]
    outcomes = [report.failure.code if report.failure else "" for report in reports]
    assert outcomes == ["", "dial.stuck", "internal.defect", "", "", ""]
    assert reports[2].defect.startswith("RuntimeError at act:")
    assert journal.state("a").begun == 5
    assert journal.verify("a") == reports[-1].seq == 5 * 2 + 1
    assert journal.store.subjects() == ["counter/a"]


def test_what_is_seen_again_adds_no_row(journal: Journal[State, AnyEvent], clock: Fake) -> None:
    dial = [0]
    counter = Counter("a", 1, dial)
    advance(counter, journal, report=lambda _: None)
    rows = journal.read("a").seq
    for _ in range(24):
        clock.pass_(3600)
        advance(counter, journal, report=lambda _: None)
    assert journal.read("a").seq == journal.verify("a") == rows
    assert journal.state("a").seen_at == journal.now()
    assert [(e.seq, e.again) for e in journal.history("a")][-2:] == [(rows, False), (rows, True)]
    dial[0] = 7
    clock.pass_(3600)
    advance(counter, journal, report=lambda _: None)
    assert [e.event for e in journal.history("a")][-3:] == [Seen(1), Seen(1), Seen(7)]
    assert journal.verify("a") == rows + 2


def test_a_failure_that_a_person_has_to_see_is_an_alarm(journal: Journal[State, AnyEvent]) -> None:
    reports: list[StepReport] = []
    advance(Counter("a", 1, [0], {1: [Misconfigured("dial.gone", "no dial")]}), journal, report=reports.append)
    assert [report.alarm for report in reports] == [True]


def test_the_same_step_again_and_again_is_a_defect(journal: Journal[State, AnyEvent]) -> None:
    class Stuck(Counter):
        def plan(self, state: State, now: Instant) -> Step | Wait:
            return Wait(HOUR, "it failed") if state.failed else Step("again", 1)

    reports: list[StepReport] = []
    advance(Stuck("a", 1, [0]), journal, report=reports.append)
    assert len(reports) == SPIN + 1
    assert reports[-1].failure
    assert reports[-1].failure.code == "internal.spin"


def test_nothing_is_done_twice_if_the_journal_has_moved_on(journal: Journal[State, AnyEvent]) -> None:
    """Somebody appends between the intent and the outcome: the turn ends, and the next one reads it."""

    class Slow(Counter):
        def act(self, step: Step, state: State, now: Instant, note: Note[AnyEvent]) -> tuple[AnyEvent, ...]:
            journal.append("a", Counted(5))
            return super().act(step, state, now, note)

    with pytest.raises(Transient, match=r"after event 1.*journal\.conflict"):
        advance(Slow("a", 1, [0]), journal, report=lambda _: None)
    assert journal.state("a").at == 5


# ---- the daemon -----------------------------------------------------------------------------------------------------


@contextmanager
def handlers_kept() -> Generator[None]:
    """The daemon's signal handlers go when it has ended."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)}
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_daemon_looks_after_it_beside_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the wiring; its lines in the log begin with its kind."""
    dials = {"a": [0], "b": [0]}

    class Both(Wiring):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.kinds["counter"] = Kind(COUNTER, dials.keys, self._counter)

        def _counter(self, name: str) -> Subject[Any, Any]:
            return Counter(name, 3, dials[name])

    path = tmp_path / "config.yaml"
    path.touch(0o600)
    path.write_text(
        f"state_dir: {tmp_path}/state\nca: {{ca: {{directory: 'https://ca.example/dir'}}}}\ncertificates: {{}}\n"
    )
    monkeypatch.setattr(daemon, "Wiring", Both)
    running = daemon.Daemon(path)
    store = running._wiring.store  # pyright: ignore[reportPrivateUsage]

    def end() -> None:
        """What a signal leaves in the pipe ends it; no real one is sent, which could meet the test's own process."""
        try:
            until(lambda: set(store.wakes()) == {"counter/a", "counter/b"}, 10, "both have reached their goals")
        finally:
            os.write(running._signalled, bytes([signal.SIGTERM]))  # pyright: ignore[reportPrivateUsage]

    ending = Thread(target=end)
    with caplog.at_level("INFO", "certagent"), handlers_kept():
        ending.start()
        running.run()
        ending.join()
    assert set(store.wakes()) == {"counter/a", "counter/b"}
    assert dials == {"a": [3], "b": [3]}
    lines = [record.getMessage() for record in caplog.records if "counter=a" in record.getMessage()]
    assert [line.split()[1] for line in lines] == [f"seq={n}" for n in (2, 4, 6, 7)] + ["event=high", "event=wait"]
    journal = Journal(store, COUNTER)
    journal.append("b", Failed("count", "unsafe", "dial.gone", "there is no dial", ""))
    monkeypatch.setattr(wiring, "Wiring", Both)
    shown = CliRunner().invoke(cli, ["status", "--config", str(path)])
    assert shown.output.splitlines()[:3] == [
        "● counter/a: well",
        "✖ counter/b: NEEDS YOU",
        "    there is no dial [dial.gone]",
    ]
    assert shown.exit_code == 3
    view = msgspec.json.decode(CliRunner().invoke(cli, ["status", "--json", "--config", str(path)]).stdout)
    assert [(one["subject"], one["verdict"], one["failures"]) for one in view["others"]] == [
        ("counter/a", "well", []),
        ("counter/b", "needs_human", ["there is no dial [dial.gone]"]),
    ]
    assert view["others"][0]["next"]["what"] == "check interval"
    assert view["others"][1]["next"] is None
    assert journal.names() == ["a", "b"]
    assert [journal.verify(name) for name in journal.names()] == [7, 8]
    assert msgspec.json.encode(journal.state("a").at) == b"3"
    store.close()
