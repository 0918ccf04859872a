"""How the journal grows: `python -m tests.bench.growth [DAYS]` (default: 365). Needs no root.

One certificate lives for that long in an ideal world, with a clock set by hand: the real planner and the real journal,
in a file. It is measured as it is, and as it would be if everything that was seen had a row. Then a hundred copies of
it go into the same file, which gives the bytes of each of many.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec.structs import replace

from certagent.agent.certificate import CERTIFICATE
from certagent.facts.moment import ClockId, Reading
from certagent.facts.wait import Wait
from certagent.lifecycle import events as ev
from certagent.lifecycle import forecast, planner
from certagent.lifecycle.spec import Spec
from certagent.store.journal import Journal
from certagent.store.sqlite import Sqlite
from tests.bench.scale import specs_of, write_config

ASK_AGAIN_S = 6 * 3600.0
"""Let's Encrypt's Retry-After for renewal windows."""
COPIES = 100


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.passed = timedelta(0)

    def wall(self) -> datetime:
        return datetime(2026, 11, 30, tzinfo=UTC) + self.passed

    def reading(self) -> Reading:
        return Reading(ClockId("host", "boot"), self.passed.total_seconds())


def never(_event: ev.AnyEvent) -> str | None:
    """Nothing is a topic: every event has a row."""
    return None


def live(path: Path, spec: Spec, days: int, topic: Callable[[ev.AnyEvent], str | None]) -> tuple[Sqlite, int, int]:
    """The store after so many days, and how many events and rows there were."""
    clock = Hands()
    store = Sqlite(path, clock)
    store._db.execute("PRAGMA synchronous=OFF")  # pyright: ignore[reportPrivateUsage] -- only sizes are measured
    journal = Journal(store, replace(CERTIFICATE, topic=topic))
    zone: dict[str, frozenset[str]] = {}
    known, events = journal.read(spec.name), 0

    def take(event: ev.AnyEvent) -> None:
        nonlocal known, events
        known, events = journal.append(spec.name, event), events + 1

    while clock.passed < timedelta(days=days):
        step = planner.plan(spec, known.state, journal.now())
        if isinstance(step, Wait):
            clock.passed += step.delay
            continue
        if step.changes:
            take(ev.Intended(step=step, lane=step.lane))
        for event in forecast._ideal(step, spec, known.state, zone, journal.now()):  # pyright: ignore[reportPrivateUsage]
            take(replace(event, ask_again_s=ASK_AGAIN_S) if isinstance(event, ev.RenewalInfo) else event)
        clock.passed += timedelta(milliseconds=1)
    assert journal.verify(spec.name) == known.seq
    return store, events, known.seq


def size_of(store: Sqlite) -> int:
    """Bytes of the file, without what is free in it."""
    db = store._db  # pyright: ignore[reportPrivateUsage]
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store.path.stat().st_size


def copied(store: Sqlite, name: str) -> None:
    """A hundred more of the same size."""
    db = store._db  # pyright: ignore[reportPrivateUsage]
    for number in range(COPIES):
        subjects = [str(CERTIFICATE.subject(n)) for n in (f"{name[: -len(str(number))]}{number}", name)]
        for table, columns in (
            ("event", "seq, wall, elapsed_s, clock, body, digest"),
            ("head", "seq, version, state, again, digest, wake_at, wake_s, why"),
        ):
            db.execute(f"INSERT INTO {table} SELECT ?, {columns} FROM {table} WHERE subject=?", subjects)


def main(arguments: list[str]) -> int:
    """The exit code."""
    days = int(arguments[0]) if arguments else 365
    print(f"| {days} days | events | rows | file of one | each of many | 10,000 |")
    print("|---|---|---|---|---|---|")
    for label, topic in (("a row for all that is seen", never), ("a row for all that changes", CERTIFICATE.topic)):
        with tempfile.TemporaryDirectory(prefix="certagent-growth-", dir="/var/tmp") as place:
            (Path(place) / "state").mkdir(0o700)
            spec = specs_of(write_config(Path(place), 1))["idle"]
            store, events, rows = live(Path(place) / "state" / "journal.db", spec, days, topic)
            one = size_of(store)
            copied(store, spec.name)
            each = (size_of(store) - one) / COPIES
            store.close()
        sizes = f"{one / 1024:,.0f} KiB | {each / 1024:,.0f} KiB | {each * 1e4 / 2**30:.2f} GiB"
        print(f"| {label} | {events:,} | {rows:,} | {sizes} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
