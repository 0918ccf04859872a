"""What many certificates cost: `python -m tests.bench.scale [COUNT ...]` (default: 10 1000 100000). Needs no root.

A journal of COUNT certificates in mixed states (idle most of them, as it is: one in twenty is in the middle of a first
issue, a roll or a failure) and the configuration that belongs to it are made by the real planner and the real fold;
then the real code is measured on them: reading, folding and planning each; the daemon's tick; `status`; memory.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import yaml

from certagent import config
from certagent.clock import SystemClock
from certagent.lifecycle import events as ev
from certagent.lifecycle import forecast, planner
from certagent.lifecycle import steps as st
from certagent.lifecycle.model import Instant, Spec
from certagent.lifecycle.settled import settled
from certagent.lifecycle.state import State, fold
from certagent.store import journal as store
from certagent.store.journal import Journal
from tests.bench import measure

STATUS = 10_000
"""The size at which `status` is measured: its output is as long as that many certificates need."""
UNFINISHED = 20
"""One in so many is not idle."""
ENTRY = {
    "ca": "ca",
    "keys": ["ecdsa-p256"],
    "mail_servers": {
        "postfix": {
            "type": "postfix",
            "chain_files": {"ecdsa": "/etc/postfix/tls/NAME.pem"},
            "services": [
                {"host": "NAME", "port": 25, "mode": "smtp", "tlsa": True},
                {"host": "NAME", "port": 465, "mode": "tls"},
            ],
        }
    },
}
NAME = "mx-0.example.org"


def names(count: int) -> Iterator[str]:
    """Names of one length, so that a state can be copied under another name."""
    return (f"mx-{number}.example.org" for number in range(count))


def write_config(directory: Path, count: int) -> Path:
    """A configuration of that many certificates."""
    head = {
        "state_dir": str(directory / "state"),
        "ca": {"ca": {"directory": "https://ca.example/directory", "agree_tos": True}},
        "dns": {
            "providers": {
                "p": {"type": "rfc2136", "server": "192.0.2.53", "zones": ["example.org."], "key_file": "/etc/key"}
            }
        },
    }
    one = yaml.safe_dump({"certificates": {"NAME": ENTRY}}, sort_keys=False).partition("\n")[2]
    text = (
        yaml.safe_dump(head, sort_keys=False)
        + "certificates:\n"
        + "".join(one.replace("NAME", n) for n in names(count))
    )
    path = directory / "config.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return path


Life = list[tuple[Instant, ev.AnyEvent]]


def lives(spec: Spec, now: Instant) -> tuple[Life, list[Life], timedelta]:
    """The events of an idle certificate; of some in the middle of something: those before each of its steps; and how
    long the whole of it took.
    """
    began, state, zone = now, State(name=spec.name), dict[str, frozenset[str]]()
    happened: Life = []
    parts: list[Life] = []

    def take(event: ev.AnyEvent) -> None:
        nonlocal state
        state = fold(state, event, now)
        happened.append((now, event))

    rotated = False
    for _ in range(200):
        step = planner.plan(spec, state, now)
        if isinstance(step, st.Wait):
            if settled(spec, state) and rotated:
                return happened, parts, now.since(began)
            if settled(spec, state):
                rotated = True
                take(ev.Requested(what="rotate"))
            now = later(now, step.delay)
            continue
        if step.changes:
            take(ev.Intended(step=step, work=step.work))
        parts.append(list(happened))
        for event in forecast._ideal(step, spec, state, zone, now):  # pyright: ignore[reportPrivateUsage]
            take(event)
        now = later(now, timedelta(milliseconds=1))
    raise AssertionError("a life that does not come to rest")


def later(now: Instant, delay: timedelta) -> Instant:
    """The moment after a delay that was lived through."""
    return Instant(now.wall + delay, now.lived_s + delay.total_seconds())


def fill(path: Path, spec: Spec, count: int) -> None:
    """The journal: each certificate has the events of a life of its own, as `Journal.append` would write them."""
    clock = SystemClock()
    journal = Journal(path, clock)
    now = journal.now()
    length = lives(spec, now)[-1]
    idle, parts, _ = lives(spec, later(now, -length))
    templates = [(_rows(spec, life), 3600.0) for life in (idle, *filter(None, parts))]
    wall = now.wall.timestamp()
    db = journal._db  # pyright: ignore[reportPrivateUsage] -- one transaction for all of them
    db.execute("BEGIN IMMEDIATE")
    for number, name in enumerate(names(count)):
        unfinished = number % UNFINISHED == UNFINISHED - 1
        (rows, state), wake_s = (
            templates[1 + number // UNFINISHED % (len(templates) - 1)] if unfinished else templates[0]
        )
        last = b""
        for seq, at, lived_s, body in rows:
            here = body.replace(NAME.encode(), name.encode())
            last = store._digest(last, store._row(name, seq, at, lived_s, here))  # pyright: ignore[reportPrivateUsage]
            db.execute("INSERT INTO event VALUES (?,?,?,?,?,?)", (name, seq, at, lived_s, here, last))
        stored = state.replace(NAME.encode(), name.encode())
        digest = store._digest(last, stored)  # pyright: ignore[reportPrivateUsage]
        wake = wall + wake_s + number % 3600
        db.execute("INSERT INTO head VALUES (?,?,?,?,?,?)", (name, rows[-1][0], stored, digest, wake, "watch"))
    db.execute("COMMIT")
    journal.close()


Row = tuple[int, str, float, bytes]


def _rows(spec: Spec, life: Life) -> tuple[list[Row], bytes]:
    state, rows = State(name=spec.name), list[Row]()
    for at, event in life:
        state = fold(state, event, at)
        rows.append((state.seq, at.wall.isoformat(), at.lived_s, msgspec.json.encode(event)))
    return rows, msgspec.json.encode(state, order="sorted")


def cpu_s(work: Callable[[], object]) -> float:
    """Processor time of some work."""
    gc.collect()
    began = time.process_time()
    work()
    return time.process_time() - began


def measured(count: int) -> list[str]:
    """The row of the table for so many certificates."""
    with tempfile.TemporaryDirectory(prefix="certagent-scale-", dir="/var/tmp") as place:
        directory = Path(place)
        (directory / "state").mkdir(0o700)
        path = write_config(directory, count)
        reading = cpu_s(lambda: config.load(path))
        spec = config.load(path).certificates[NAME].spec
        fill(directory / "state" / "journal.db", spec, count)
        again = cpu_s(lambda: config.load(path))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        loaded = config.load(path)
        journal = Journal(directory / "state" / "journal.db", SystemClock())
        due = journal.due()
        gc.collect()
        bytes_each = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        assert due[0] == []
        assert due[1] is not None
        now = journal.now()

        def plan_all() -> None:
            for name in loaded.certificates:
                planner.plan(loaded.certificates[name].spec, journal.state(name), now)

        planning = cpu_s(plan_all)
        tick = cpu_s(journal.due)
        journal.close()
        status = ""
        if count <= STATUS:
            environment = {**os.environ, "CERTAGENT_CONFIG": str(path)}
            argv = [sys.executable, "-m", "certagent", "status"]
            runs = [measure.run(argv, environment) for _ in range(5)]
            status = f"{measure.median([r.wall_s for r in runs]):.2f} s"
    size = f"{planning / count * 1e6:.0f} µs"
    return [
        f"{count:,}",
        f"{reading:.2f} s",
        f"{again * 1e3:.1f} ms",
        size,
        f"{tick * 1e3:.2f} ms",
        f"{bytes_each:.0f}" if count >= 1000 else "",
        status,
    ]


def main(arguments: list[str]) -> int:
    """The exit code."""
    counts = [int(a) for a in arguments] or [10, 1000, STATUS, 100_000]
    head = [
        "certificates",
        "config, first time",
        "config, again",
        "state and plan, each",
        "tick",
        "bytes each",
        "`status`",
    ]
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for count in counts:
        print("| " + " | ".join(measured(count)) + " |", flush=True)
    version = sys.version.split()[0]
    print(f"\nProcessor time; `status`: wall, median of 5. Python {version}, {datetime.now(UTC):%Y-%m-%d}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
