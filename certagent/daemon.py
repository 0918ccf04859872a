"""The long-running agent: every certificate is looked after when its journal says so, and not before.

APScheduler only wakes: what is due, and when, is in the journal, so nothing is lost with the process. SIGTERM and
SIGINT end it after the step under way; SIGHUP reads the configuration again (a broken one is reported and the old
one kept); SIGUSR1, sent by other certagent commands after they changed something, makes it read the journal again.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from certagent import config, log
from certagent.agent import advance
from certagent.build import Built
from certagent.errors import Error, Misconfigured
from certagent.store.lock import Presence

LOCK_S = 600.0
"""An operator's command may hold the lock for an issuance; ten minutes are longer than any step's own limits."""
HEARTBEAT = timedelta(minutes=15)
"""Sleeps are told by a clock that stands still in suspend and ignores a set clock; this bounds how late that is
noticed."""
WORKERS = 8
"""Certificates side by side: most of the time each waits for a server."""


class Daemon:
    """One running daemon."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._built = Built(config.load(path))
        self._built.check()
        self._presence = Presence(self._built.state_dir() / "daemon.pid")
        self._stop = threading.Event()
        # a handler may run in the middle of any line, also while a lock is held: it only writes a byte
        self._signals, self._signalled = os.pipe()
        os.set_blocking(self._signalled, False)
        self._busy: set[str] = set()
        self._said: dict[str, str] = {}
        self._mutex = threading.Lock()
        # misfire_grace_time None: a wake-up that comes late is still wanted (the library drops it after a second)
        self._scheduler: Any = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(WORKERS)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def run(self) -> None:
        """Look after all certificates until a signal ends it. Raises: `lock.busy` where a daemon runs already."""
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
        with self._presence.held():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                signal.signal(number, self._on_signal)
            log.logger.info(log.line([("event", "start"), ("pid", os.getpid()), ("config", self._path)]))
            self._scheduler.add_job(self._schedule, "interval", seconds=HEARTBEAT.total_seconds(), id="heartbeat")
            self._scheduler.start()
            try:
                self._loop()
            finally:
                self._scheduler.shutdown(wait=True)
                log.logger.info(log.line([("event", "stop")]))

    def _loop(self) -> None:
        self._schedule(first=True)
        while True:
            number = os.read(self._signals, 1)[0]
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop.set()
                return
            self._schedule(first=number == signal.SIGHUP and self._reread())

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        with suppress(BlockingIOError):  # thousands are waiting to be read: one more changes nothing
            os.write(self._signalled, bytes([number]))

    def _reread(self) -> bool:
        """Whether a new configuration is in force."""
        try:
            fresh = Built(config.load(self._path), self._built)
            fresh.check()
            if fresh.config.state_dir != self._built.config.state_dir:
                raise Misconfigured("config.value", "state_dir cannot change while the daemon runs", "restart it")
        except Error as error:
            _report("reload", error, "the old configuration stays in force")
            return False
        self._built = fresh
        log.logger.info(log.line([("event", "reload"), ("config", self._path)]))
        return True

    def _schedule(self, *, first: bool = False) -> None:
        """Set every certificate's wake-up to what the journal says; at once where it says nothing."""
        now = datetime.now(UTC)
        try:
            wakes = self._built.journal.wakes()
        except Error as error:
            _report("journal", error, "tried again")
            self._scheduler.add_job(
                self._schedule, "date", run_date=now + timedelta(minutes=1), id="journal", replace_existing=True
            )
            return
        for name in self._built.config.certificates:
            wake = wakes.get(name)
            self._at(name, now if first or wake is None else wake.at)
        for job in self._scheduler.get_jobs():
            if job.id.startswith("care ") and job.id.removeprefix("care ") not in self._built.config.certificates:
                job.remove()

    def _at(self, name: str, when: datetime) -> None:
        self._scheduler.add_job(
            self._care, "date", run_date=when, args=(name,), id=f"care {name}", replace_existing=True
        )

    def _care(self, name: str) -> None:
        """One certificate's turn. It sets its own next wake-up; a second wake-up meanwhile finds it busy and leaves."""
        with self._mutex:
            if name in self._busy:
                return
            self._busy.add(name)
        try:
            self._turn(name)
        finally:
            with self._mutex:
                self._busy.discard(name)

    def _turn(self, name: str) -> None:
        built = self._built
        entry = built.config.certificates.get(name)
        if entry is None or self._stop.is_set():
            return
        delay = timedelta(minutes=1)
        try:
            with built.lock.held(LOCK_S, f"daemon, {name}"):
                wait = advance(entry.spec, built.journal, built.world(name), tell=log.told, stopping=self._stop.is_set)
            if wait is None:
                return
            delay = wait.delay
            if self._said.get(name) != wait.because:  # looks while caches are waited for would only repeat it
                self._said[name] = wait.because
                seconds = f"{delay.total_seconds():.0f}"
                words: list[tuple[str, object]] = [("certificate", name), ("event", "wait"), ("for_s", seconds)]
                log.logger.info(log.line([*words, ("because", wait.because)]))
        except Error as error:
            _report(name, error, "tried again in a minute")
        except Exception as error:  # noqa: BLE001 -- one certificate's defect must not end the care for the others
            _report(name, Error("internal.defect", f"unforeseen {type(error).__name__}", "please report this"), "")
        if not self._stop.is_set():
            self._at(name, datetime.now(UTC) + delay)


def _report(about: str, error: Error, then: str) -> None:
    words: list[tuple[str, object]] = [
        ("about", about),
        ("code", error.code),
        ("error", error.detail),
        ("hint", error.hint),
    ]
    log.logger.error(log.line([*words, ("then", then)]))
