"""The daemon's turns, when thousands are due at once; the rest of it: tests/e2e/test_daemon.py."""

from __future__ import annotations

# pyright: reportPrivateUsage=false
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event

import pytest

from certagent import daemon
from certagent.build import Built
from certagent.clock import SystemClock
from certagent.lifecycle import events as ev
from certagent.lifecycle.model import Spec
from certagent.lifecycle.steps import Wait
from certagent.store.journal import Journal

COUNT = 200
ENTRY = "  mx%d.example.org: {ca: ca}\n"


def test_each_has_one_turn_and_what_is_due_is_not_asked_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a long pause all are due. What waits for a worker is not begun again, and the work grows with their number,
    not with its square.
    """
    path = tmp_path / "config.yaml"
    path.touch(0o600)
    head = f"state_dir: {tmp_path}/state\nca: {{ca: {{directory: 'https://ca.example/dir'}}}}\ncertificates:\n"
    path.write_text(head + "".join(ENTRY % number for number in range(COUNT)))
    turns: Counter[str] = Counter()
    asked = 0
    done = Event()

    def advance(spec: Spec, journal: Journal, *_: object, **__: object) -> Wait:
        turns[spec.name] += 1
        journal.sleep(spec.name, timedelta(hours=6), "watch")
        if turns.total() == COUNT:
            done.set()
        return Wait(timedelta(hours=6), "watch")

    def no_world(*_: object) -> None: ...

    class Counting(Journal):
        def due(self) -> tuple[list[str], datetime | None]:
            nonlocal asked
            asked += 1
            return super().due()

    monkeypatch.setattr(daemon, "advance", advance)
    monkeypatch.setattr(Built, "world", no_world)
    (tmp_path / "state").mkdir(0o700)
    journal = Counting(tmp_path / "state" / "journal.db", SystemClock())
    for number in range(COUNT):
        journal.append(f"mx{number}.example.org", ev.Requested(what="retry"))
    looking = daemon.Daemon(path)
    looking._built._journal = journal
    looking._scheduler.start()
    looking._tick(everyone=True)
    assert done.wait(30)
    with looking._ticking:  # as `_loop` does at SIGTERM
        looking._stop.set()
    looking._scheduler.shutdown(wait=True)
    journal.close()
    assert set(turns.values()) == {1}
    assert asked <= 2 * daemon.WORKERS + 1
