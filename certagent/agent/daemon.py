"""The long-running agent: every subject is looked after when the journal says so, and not before.

APScheduler only wakes: what is due, and when, is in the journal, so nothing is lost with the process, and what is idle
costs nothing: one tick, at the earliest date of all, begins the turns of those that are due then. It wakes by the wall
clock, and one that is set back puts it off for as long; so the main thread, which waits for signals by a clock that
nobody sets, ticks once in a HEARTBEAT. SIGTERM and SIGINT end it after the step under way; SIGHUP reads the
configuration again (a broken one is reported and the old one kept); SIGUSR1, sent by other certagent commands after
they changed something, makes it read the journal again.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from certagent.agent.loop import advance
from certagent.agent.wiring import Wiring
from certagent.config.load import load
from certagent.errors import Error, Misconfigured
from certagent.host.ending import ends_soon
from certagent.report import log
from certagent.report.conditions import Condition
from certagent.store.lock import Presence
from certagent.store.subject import SubjectId

LOCK_S = 600.0
"""An operator's command may hold the lock for an issuance; ten minutes are longer than any step's own limits."""
HEARTBEAT = timedelta(minutes=15)
"""How late it is noticed at most that the wall clock was set or the machine slept."""
AT_ONCE = datetime.fromtimestamp(0, UTC)
"""Has come by any wall clock; `now` would be to come for one that is set back before the scheduler reads it."""
RETRY = timedelta(minutes=1)
"""After what no journal could note: a full disk, a command that holds the lock for long."""
WORKERS = 8
"""Subjects side by side: most of the time each waits for a server."""


class Daemon:
    """One running daemon."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wiring = Wiring(load(path))
        self._wiring.check()
        self._presence = Presence(self._wiring.state_dir() / "daemon.pid")
        self._stop = threading.Event()
        # a handler of Python's runs only when the main thread does, which no signal wakes that another thread got
        self._signals, self._signalled = os.pipe()
        os.set_blocking(self._signalled, False)
        self._busy: set[SubjectId] = set()
        self._queued: set[SubjectId] = set()
        """Those whose turn is to begin as soon as a worker is free."""
        self._next: float | None = None
        """When the next tick is. Moments here are of `time.monotonic`, which nobody sets."""
        self._said: dict[SubjectId, str] = {}
        self._wrong: dict[SubjectId, dict[tuple[str, str], Condition]] = {}
        """What was wrong at the last turn, by code and what it is about."""
        self._warned: set[tuple[SubjectId, str]] = set()
        self._later: dict[SubjectId, float] = {}
        """When to come back to those whose turn could not even be journaled, or that were woken in the middle of it."""
        self._mutex = threading.Lock()
        self._ticking = threading.Lock()
        # misfire_grace_time None: a wake-up that comes late is still wanted (the library drops it after a second);
        # max_instances: so is one that comes while its job runs
        self._scheduler: Any = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(WORKERS)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": WORKERS},
        )

    def run(self) -> None:
        """Look after all subjects until a signal ends it.

        Raises:
            Transient: `lock.busy`: A daemon runs already.
        """
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
        with self._presence.held():
            signal.set_wakeup_fd(self._signalled, warn_on_full_buffer=False)  # thousands may wait there: enough
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                signal.signal(number, _in_the_pipe)
            log.logger.info(log.line([("event", "start"), ("pid", os.getpid()), ("config", self._path)]))
            self._scheduler.start()
            try:
                self._loop()
            finally:
                with ends_soon():
                    self._end()
                log.logger.info(log.line([("event", "stop")]))

    def _end(self) -> None:
        """Return when every turn that has begun is over."""
        with self._ticking:  # the shutdown waits for every turn, and none of them may wait for it
            self._stop.set()
        self._scheduler.shutdown(wait=True)

    def _loop(self) -> None:
        self._tick(everyone=True)
        while True:
            if not select.select([self._signals], [], [], HEARTBEAT.total_seconds())[0]:
                self._tick()
                continue
            number = os.read(self._signals, 1)[0]
            if number in (signal.SIGTERM, signal.SIGINT):
                return
            with self._mutex:
                self._later.clear()  # the process that had the lock may be done
            self._tick(everyone=number == signal.SIGHUP and self._reread())

    def _reread(self) -> bool:
        """Whether a new configuration is in force."""
        try:
            fresh = Wiring(load(self._path), self._wiring)
            fresh.check()
            if fresh.config.state_dir != self._wiring.config.state_dir:
                raise Misconfigured("config.value", "state_dir cannot change while the daemon runs", "restart it")
        except Error as error:
            _report("reload", error, "the old configuration stays in force")
            return False
        self._wiring = fresh
        log.logger.info(log.line([("event", "reload"), ("config", self._path)]))
        return True

    def _tick(self, *, everyone: bool = False) -> None:
        """Begin the turn of every subject that is due (or of all, under a new configuration); set the next tick."""
        with self._ticking:  # one after the other: the last one to set the date has read the newest journal
            if self._stop.is_set():
                return
            try:
                texts, following = self._wiring.store.due()
            except Error as error:
                _report("journal", error, "tried again in a minute")
                texts, following = [], RETRY
            ids = map(SubjectId.parse, texts)
            now = time.monotonic()
            wiring = self._wiring
            with self._mutex:
                later = dict(self._later)
                due = {n for n in ids if n not in later} | {n for n, at in later.items() if at <= now}
                wanted = wiring.subjects() if everyone else filter(wiring.knows, due - self._busy)
                begun = [n for n in wanted if n not in self._queued]
                self._queued.update(begun)
            for name in begun:
                self._scheduler.add_job(
                    self._care, "date", run_date=AT_ONCE, args=(name,), id=f"care {name}", replace_existing=True
                )
            dates = [at for at in later.values() if at > now]
            if following is not None:
                dates.append(now + following.total_seconds())
            self._next = None
            if dates:
                self._tick_at(min(dates))

    def _tick_at(self, moment: float) -> None:
        """The next tick is then, or before. Under `_ticking`."""
        if self._next is None or moment < self._next:
            self._next = moment
            date = datetime.now(UTC) + timedelta(seconds=moment - time.monotonic())
            self._scheduler.add_job(self._tick, "date", run_date=date, id="tick", replace_existing=True)

    def _care(self, name: SubjectId) -> None:
        """One subject's turn. If it is woken meanwhile, another one follows."""
        with self._mutex:
            self._queued.discard(name)
            if name in self._busy:
                self._later[name] = time.monotonic()
                return
            self._busy.add(name)
            self._later.pop(name, None)
        moment = None
        try:
            moment = self._turn(name)
        finally:
            with self._mutex:
                self._busy.discard(name)
                moment, more = self._later.get(name, moment), bool(self._queued)
            if more:  # thousands may be due: to read them all again after each turn would take hours
                with self._ticking:
                    if moment is not None and not self._stop.is_set():
                        self._tick_at(moment)
            else:
                self._tick()

    def _turn(self, name: SubjectId) -> float | None:
        """When the next one is."""
        wiring = self._wiring
        if self._stop.is_set() or not wiring.knows(name):
            return None
        try:
            subject, journal = wiring.subject(name)
            with wiring.lock.held(LOCK_S, f"daemon, {subject.name}"):
                wait = advance(subject, journal, report=log.report, stopping=self._stop.is_set)
            about = (subject.kind.name, subject.name)
            state = journal.state(subject.name)
            self._log_conditions(name, subject.conditions(state, journal.now()))
            for word, why in subject.warnings(state):
                if (name, why) not in self._warned:
                    self._warned.add((name, why))
                    log.logger.warning(log.line([about, ("event", word), ("because", why)]))
            if wait is not None and self._said.get(name) != wait.because:
                self._said[name] = wait.because  # observations while caches are waited for would only repeat it
                words: list[tuple[str, object]] = [("event", "wait"), ("for_s", f"{wait.delay.total_seconds():.0f}")]
                log.logger.info(log.line([about, *words, ("because", wait.because)]))
            return time.monotonic() + wait.delay.total_seconds() if wait else None
        except Error as error:
            self._put_off(name, error)
        except Exception as error:  # noqa: BLE001 -- one subject's defect must not end the care for the others
            self._put_off(name, Error("internal.defect", f"unforeseen {type(error).__name__}", "please report this"))
        return None  # `_later` has it

    def _log_conditions(self, name: SubjectId, found: Iterable[Condition]) -> None:
        """Those that have begun or ended since its last turn."""
        old, new = self._wrong.get(name, {}), {(one.code, one.about): one for one in found}
        self._wrong[name] = new
        about = (name.kind, name.name)
        for one in (new[key] for key in new.keys() - old.keys()):
            words: list[tuple[str, object]] = [("code", one.code), ("because", one.detail), ("hint", one.hint)]
            level = logging.ERROR if one.needs_human else logging.WARNING
            log.logger.log(level, log.line([about, ("event", "wrong"), *words]))
        for one in (old[key] for key in old.keys() - new.keys()):
            log.logger.info(log.line([about, ("event", "over"), ("code", one.code), ("because", one.detail)]))

    def _put_off(self, name: SubjectId, error: Error) -> None:
        with self._mutex:
            self._later[name] = time.monotonic() + RETRY.total_seconds()
        _report(str(name), error, "tried again in a minute")


def _in_the_pipe(_number: int, _frame: FrameType | None) -> None:
    """Its number is in the pipe."""


def _report(about: str, error: Error, then: str) -> None:
    words: list[tuple[str, object]] = [
        ("about", about),
        ("code", error.code),
        ("error", error.detail),
        ("hint", error.hint),
    ]
    log.logger.error(log.line([*words, ("then", then)]))
