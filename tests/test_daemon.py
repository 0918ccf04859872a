"""The daemon's turns, when thousands are due at once or a clock is set; the rest of it: tests/e2e/test_daemon.py."""

from __future__ import annotations

# pyright: reportPrivateUsage=false
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from threading import Event, Thread

import pytest
from msgspec.structs import replace

from certagent.agent import daemon
from certagent.agent.certificate import CERTIFICATE, Certificate
from certagent.agent.wiring import Wiring
from certagent.errors import Transient
from certagent.facts.moment import ClockId, Reading
from certagent.facts.wait import Wait
from certagent.host.clock import Clock, SystemClock
from certagent.lifecycle import events as ev
from certagent.report.conditions import Condition
from certagent.store.journal import Journal
from certagent.store.sqlite import Sqlite
from tests.lab.wait import until
from tests.store.opened import Certificates

COUNT = 200
ENTRY = "  mx%d.example.org: {ca: ca, challenge: {type: http-01}}\n"
BEAT = timedelta(milliseconds=50)
HOUR = timedelta(hours=1)
YEARS = timedelta(days=5 * 365)
NONE = timedelta(0)


@pytest.fixture(autouse=True)
def no_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> None: ...

    monkeypatch.setattr(Wiring, "edges", nothing)


def made(place: Path, count: int, clock: Clock, kind: type[Sqlite] = Sqlite) -> daemon.Daemon:
    """A daemon that has so many certificates to look after."""
    path = place / "config.yaml"
    path.touch(0o600)
    head = f"state_dir: {place}/state\nca: {{ca: {{directory: 'https://ca.example/dir'}}}}\ncertificates:\n"
    path.write_text(head + "".join(ENTRY % number for number in range(count)))
    (place / "state").mkdir(0o700)
    store = kind(place / "state" / "journal.db", clock)
    for number in range(count):
        Journal(store, CERTIFICATE).append(f"mx{number}.example.org", ev.Requested(what="retry"))
    looking = daemon.Daemon(path)
    looking._wiring._store = store
    return looking


def test_each_has_one_turn_and_what_is_due_is_not_asked_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a long pause all are due. What waits for a worker is not begun again, and the work grows with their number,
    not with its square.
    """
    turns: Counter[str] = Counter()
    asked = 0
    done = Event()

    def advance(subject: Certificate, journal: Certificates, *_: object, **__: object) -> Wait:
        turns[subject.name] += 1
        journal.sleep(subject.name, timedelta(hours=6), "check interval")
        if turns.total() == COUNT:
            done.set()
        return Wait(timedelta(hours=6), "check interval")

    class Counting(Sqlite):
        def due(self) -> tuple[list[str], timedelta | None]:
            nonlocal asked
            asked += 1
            return super().due()

    monkeypatch.setattr(daemon, "advance", advance)
    looking = made(tmp_path, COUNT, SystemClock(), Counting)
    looking._scheduler.start()
    looking._tick(everyone=True)
    assert done.wait(30)
    looking._end()
    looking._wiring.store.close()
    assert set(turns.values()) == {1}
    assert asked <= 2 * daemon.WORKERS + 1


# ---- a clock that is set ---------------------------------------------------------------------------------------------


class Host:
    """The clocks of a host, for the journal and for APScheduler alike. They go on by themselves; beside that, the wall
    is set and time passes in an instant.
    """

    def __init__(self) -> None:
        self.moved = (NONE, NONE)
        """By how much the wall is off, and how much time has passed in an instant."""
        self.back_at_each_observation = NONE

    def wall(self) -> datetime:
        off, passed = self.moved
        self.moved = off - self.back_at_each_observation, passed
        return datetime.now(UTC) + off + passed

    def reading(self) -> Reading:
        return Reading(ClockId("host", "first"), time.monotonic() + self.moved[1].total_seconds())


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()

    class StepReport(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # pyright: ignore[reportIncompatibleMethodOverride]
            return host.wall().astimezone(tz)

    for module in ("apscheduler.schedulers.base", "apscheduler.triggers.date"):
        monkeypatch.setattr(f"{module}.datetime", StepReport)
    monkeypatch.setattr(daemon, "datetime", StepReport)
    monkeypatch.setattr(daemon, "HEARTBEAT", BEAT)
    return host


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose turn it was; each has nothing to do for an hour."""
    turns: list[str] = []

    def advance(subject: Certificate, journal: Certificates, *_: object, **__: object) -> Wait:
        turns.append(subject.name)
        journal.sleep(subject.name, HOUR, "check interval")
        return Wait(HOUR, "check interval")

    monkeypatch.setattr(daemon, "advance", advance)
    return turns


@contextmanager
def running(looking: daemon.Daemon) -> Generator[Certificates]:
    """As `Daemon.run`, which only a main thread may do; its journal."""
    loop = Thread(target=looking._loop)
    looking._scheduler.start()
    loop.start()
    try:
        yield looking._wiring.journal
    finally:
        os.write(looking._signalled, bytes([signal.SIGTERM]))
        loop.join()
        looking._end()
        looking._wiring.store.close()


@pytest.mark.parametrize(
    ("off", "set_to", "passed"),
    [
        pytest.param(NONE, -6 * HOUR, HOUR, id="set back by hours"),
        pytest.param(YEARS, NONE, HOUR, id="years ahead, then set right"),
        pytest.param(NONE, 6 * HOUR, NONE, id="set forward"),
        pytest.param(NONE, NONE, 8 * HOUR, id="asleep"),
    ],
)
def test_the_next_turn_comes_whatever_was_done_to_the_clock(
    tmp_path: Path, host: Host, turns: list[str], off: timedelta, set_to: timedelta, passed: timedelta
) -> None:
    """With the next heartbeat, and once."""
    host.moved = off, NONE
    with running(made(tmp_path, 1, host)) as journal:
        until(journal.wakes, 5, "it sleeps")
        host.moved = set_to, passed
        until(lambda: len(turns) == 2 and journal.wakes() and not journal.store.due()[0], 5, "it sleeps again")
    assert len(turns) == 2


def test_what_could_not_be_noted_is_tried_again_also_if_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: Host, turns: list[str]
) -> None:
    """The pause before it is by no date."""

    class Full(Sqlite):
        def sleep(self, subject: str, delay: timedelta, why: str) -> None:
            if len(turns) == 1:
                raise Transient("store.disk", "no space left on device")
            super().sleep(subject, delay, why)

    def reported(*_: object) -> None:
        host.moved = -6 * HOUR, NONE

    monkeypatch.setattr(daemon, "_report", reported)
    monkeypatch.setattr(daemon, "RETRY", 2 * BEAT)
    with running(made(tmp_path, 1, host, Full)) as journal:
        until(journal.wakes, 5, "it sleeps")
    assert len(turns) == 2
    assert host.moved != (NONE, NONE)


def test_a_turn_begins_also_if_the_clock_is_set_back_just_then(tmp_path: Path, host: Host, turns: list[str]) -> None:
    """Between the tick and the scheduler's own look at the clock."""
    looking = made(tmp_path, 1, host)
    host.back_at_each_observation = HOUR
    with running(looking) as journal:
        until(journal.wakes, 5, "it sleeps")
    assert len(turns) == 1


# ---- what is wrong although no step fails ----------------------------------------------------------------------------


def test_a_condition_is_logged_when_it_begins_and_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at each turn, although its words change with the time; two of one code are two."""
    wrong: list[Condition] = []

    def conditions(*_: object) -> tuple[Condition, ...]:
        return tuple(wrong)

    def advance(*_: object, **__: object) -> Wait:
        return Wait(HOUR, "check interval")

    def turn() -> list[str]:
        caplog.clear()
        looking._turn(CERTIFICATE.subject("mx0.example.org"))
        return [record.getMessage() for record in caplog.records if "event=wait" not in record.getMessage()]

    monkeypatch.setattr(Certificate, "conditions", conditions)
    monkeypatch.setattr(daemon, "advance", advance)
    looking = made(tmp_path, 1, SystemClock())
    caplog.set_level(logging.INFO, "certagent")
    assert turn() == []
    wrong[:] = [Condition("served.expired", "g1 expired", "act", needs_human=True, about="g1")]
    assert turn() == [
        'certificate=mx0.example.org event=wrong code=served.expired because="g1 expired" hint=act',
    ]
    assert caplog.records[0].levelno == logging.ERROR
    wrong[:] = [replace(wrong[0], detail="g1 expired again"), replace(wrong[0], about="g2", needs_human=False)]
    assert len(turn()) == 1
    assert caplog.records[0].levelno == logging.WARNING
    assert turn() == []
    wrong.clear()
    assert [line.partition(" because")[0] for line in turn()] == [
        "certificate=mx0.example.org event=over code=served.expired"
    ] * 2
    assert turn() == []
    looking._wiring.store.close()
