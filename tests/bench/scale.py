"""What many certificates cost: `python -m tests.bench.scale [COUNT ...]` (default: 10 1000 10000 100000). Needs no
root. `python -m tests.bench.scale names`: what a plan costs by the number of TLSA names.

A journal of COUNT certificates in mixed states (see `KINDS`: four of five are idle) and the configuration that belongs
to it are made by the real planner and the real fold; then the real code is measured on them: reading, folding and
planning each; the daemon's tick; `status`; memory.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import yaml
from msgspec.structs import replace

from certagent.agent.certificate import CERTIFICATE, VERSION
from certagent.config.load import load
from certagent.facts.dns import Answer
from certagent.facts.moment import Instant
from certagent.host.clock import SystemClock
from certagent.lifecycle import events as ev
from certagent.lifecycle import forecast, planner
from certagent.lifecycle import steps as st
from certagent.lifecycle.converged import converged
from certagent.lifecycle.fold import fold
from certagent.lifecycle.schedule import OBSERVE_AT_MOST
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State, TlsaState
from certagent.store import chain
from certagent.store.protocol import Head, Row
from certagent.store.sqlite import Sqlite
from tests.bench import measure
from tests.store.opened import opened

KINDS = ("idle",) * 12 + ("idle, RSA and ECDSA",) * 4 + ("new", "waits for caches", "fails", "in the middle")
"""Every twenty certificates."""
OPTIONS: dict[str, dict[str, object]] = {
    "idle, RSA and ECDSA": {"keys": ["ecdsa-p256", "rsa-2048"]},
    "waits for caches": {"standby": False},
}
ENTRY = {
    "ca": "ca",
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


def names(count: int) -> Iterator[str]:
    """The first ones have one of each kind."""
    return (f"mx-{number}.example.org" for number in range(count))


def kind_of(number: int) -> str:
    """What the certificate of that number is at; the first of each kind come first, for small counts."""
    kinds = tuple(dict.fromkeys(KINDS)) + KINDS
    return kinds[number] if number < len(set(KINDS)) else KINDS[number % len(KINDS)]


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
    entries = {
        kind: yaml.safe_dump({"certificates": {"NAME": ENTRY | OPTIONS.get(kind, {})}}, sort_keys=False).partition(
            "\n"
        )[2]
        for kind in KINDS
    }
    text = (
        yaml.safe_dump(head, sort_keys=False)
        + "certificates:\n"
        + "".join(entries[kind_of(number)].replace("NAME", name) for number, name in enumerate(names(count)))
    )
    path = directory / "config.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return path


class Pass(NamedTuple):
    """One pass of the planner in a life: all that had happened, when it was, and what the planner said."""

    happened: tuple[tuple[Instant, ev.AnyEvent], ...]
    now: Instant
    step: st.AnyStep | st.Wait


def life(spec: Spec, now: Instant) -> list[Pass]:
    """A first issue and a roll in an ideal world, up to the rest that follows."""
    state, zone = State(name=spec.name), dict[str, frozenset[str]]()
    happened: list[tuple[Instant, ev.AnyEvent]] = []
    passes: list[Pass] = []

    def take(event: ev.AnyEvent) -> None:
        nonlocal state
        state = fold(state, event, now)
        happened.append((now, event))

    rotated = False
    for _ in range(200):
        step = planner.plan(spec, state, now)
        passes.append(Pass(tuple(happened), now, step))
        if isinstance(step, st.Wait):
            if converged(spec, state) and rotated and step.delay > OBSERVE_AT_MOST:
                return passes
            if converged(spec, state) and not rotated:
                rotated = True
                take(ev.Requested(what="rotate"))
            now = later(now, step.delay)
            continue
        if step.changes:
            take(ev.Intended(step=step, lane=step.lane))
        for event in forecast._ideal(step, spec, state, zone, now):  # pyright: ignore[reportPrivateUsage]
            take(event)
        now = later(now, timedelta(milliseconds=1))
    raise AssertionError("a life that does not come to rest")


def later(now: Instant, delay: timedelta) -> Instant:
    """The moment after a delay, in elapsed time."""
    return Instant(now.wall + delay, now.elapsed_s + delay.total_seconds())


def up_to_now(spec: Spec, now: Instant, chosen: Callable[[Pass], bool]) -> Iterator[Pass]:
    """Lives that have just come to one of these passes; the last ones first."""
    foreseen = life(spec, now)
    for index in reversed([i for i, one in enumerate(foreseen) if chosen(one)]):
        yield life(spec, later(now, -foreseen[index].now.since(now)))[index]


def failing(one: Pass) -> Pass:
    """The same, but its next step was taken and has failed."""
    assert not isinstance(one.step, st.Wait)
    intended = [ev.Intended(step=one.step, lane=one.step.lane)] if one.step.changes else []
    failure = ev.Failed(lane=one.step.lane, kind="transient", code="dns.silent", detail="no answer in 5 s", hint="look")
    return one._replace(happened=(*one.happened, *((one.now, event) for event in (*intended, failure))))


def templates(specs: Mapping[str, Spec], now: Instant) -> dict[str, list[Template]]:
    """What the certificates of each kind have behind them; nothing, where they are new."""
    chosen: dict[str, Callable[[Pass], bool]] = {
        "idle": lambda p: isinstance(p.step, st.Wait) and "check interval" in p.step.because,
        "idle, RSA and ECDSA": lambda p: isinstance(p.step, st.Wait) and "check interval" in p.step.because,
        "waits for caches": lambda p: isinstance(p.step, st.Wait) and "not swapped" in p.step.because,
        "fails": lambda p: isinstance(p.step, st.PlaceOrder | st.Reload | st.Observe),
        "in the middle": lambda p: bool(p.happened) and not isinstance(p.step, st.Wait),
    }
    found = {kind: up_to_now(specs[kind], now, choice) for kind, choice in chosen.items()}
    found["fails"] = map(failing, found["fails"])
    for kind in ("idle", "idle, RSA and ECDSA"):
        found[kind] = islice(found[kind], 1)
    made = {kind: [_template(specs[kind], one) for one in some] for kind, some in found.items()}
    assert all(made.values())
    return made


class Template(NamedTuple):
    """The rows of one certificate, to be written for others."""

    name: str
    rows: list[tuple[int, str, float]]
    bodies: bytes
    """Of each row, then the state, with a NUL between them; JSON has none."""
    keys: list[bytes]
    """Their digests: no two certificates have the same."""

    def of(self, number: int, name: str) -> list[bytes]:
        """The bodies and the state for another one."""
        text = self.bodies.replace(self.name.encode(), name.encode())
        for key in self.keys:
            text = text.replace(key, key[:-8] + b"%08x" % number)
        return text.split(b"\0")


def _template(spec: Spec, one: Pass) -> Template:
    state = State(name=spec.name)
    rows: list[tuple[int, str, float]] = []
    bodies: list[bytes] = []
    for seq, (at, event) in enumerate(one.happened, 1):
        state = fold(state, event, at)
        rows.append((seq, at.wall.isoformat(), at.elapsed_s))
        bodies.append(msgspec.json.encode(event))
    text = b"\0".join([*bodies, msgspec.json.encode(state, order="sorted")])
    return Template(spec.name, rows, text, sorted(set(re.findall(rb"[0-9a-f]{64}", text))))


def fill(path: Path, specs: Mapping[str, Spec], count: int) -> None:
    """The journal: each certificate has the events of a life of its own, as `Journal.append` would write them."""
    store = Sqlite(path, SystemClock())
    now, clock = store.now(), store.clock
    made = templates(specs, now)
    store.lease("bench", 3600)
    db = store._db  # pyright: ignore[reportPrivateUsage]
    db.execute("PRAGMA synchronous=OFF")
    for number, name in enumerate(names(count)):
        some = made.get(kind_of(number))
        if some is None:
            continue
        template = some[number // len(KINDS) % len(some)]
        *bodies, state = template.of(number, name)
        subject, last, rows = str(CERTIFICATE.subject(name)), b"", list[Row]()
        for (seq, at, elapsed_s), body in zip(template.rows, bodies, strict=True):
            last = chain.row_digest(last, subject, seq, at, elapsed_s, clock, body)
            rows.append(Row(seq, at, elapsed_s, clock, body, last))
        store.append(
            subject, 0, rows, Head(len(rows), VERSION, state, b"{}", chain.head_digest(last, VERSION, state, b"{}"))
        )
        store.sleep(subject, timedelta(seconds=3600 + number % 3600), "check interval")
    store.close()


def specs_of(path: Path) -> dict[str, Spec]:
    """A certificate of each kind."""
    found = load(path).certificates
    return {kind_of(number): entry.spec for number, entry in enumerate(islice(found.values(), len(set(KINDS))))}


def cpu_s(lane: Callable[[], object]) -> float:
    """Processor time of some work."""
    gc.collect()
    began = time.process_time()
    lane()
    return time.process_time() - began


def measured(count: int) -> list[str]:
    """The row of the table for so many certificates."""
    with tempfile.TemporaryDirectory(prefix="certagent-scale-", dir="/var/tmp") as place:
        directory = Path(place)
        (directory / "state").mkdir(0o700)
        path = write_config(directory, count)
        reading = cpu_s(lambda: load(path))
        fill(directory / "state" / "journal.db", specs_of(path), count)
        again = cpu_s(lambda: load(path))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        loaded = load(path)
        journal = opened(directory / "state" / "journal.db")
        due = journal.store.due()
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
        tick = cpu_s(journal.store.due)
        journal.close()
        environment = {**os.environ, "CERTAGENT_CONFIG": str(path)}
        # it ends with 1: some fail
        argv = ["sh", "-c", f"{sys.executable} -m certagent status >/dev/null; test $? = 1"]
        runs = [measure.run(argv, environment) for _ in range(5)]
        status = [f"{measure.median(times):.2f} s" for times in ([r.cpu_s for r in runs], [r.wall_s for r in runs])]
    size = f"{planning / count * 1e6:.0f} µs"
    return [
        f"{count:,}",
        f"{reading:.2f} s",
        f"{again * 1e3:.1f} ms",
        size,
        f"{tick * 1e3:.2f} ms",
        f"{bytes_each:.0f}" if count >= 1000 else "",
        *status,
    ]


SHARED = "_dane.mx-0.example.org."


def wide(one: Spec, now: Instant, count: int, *, shared: bool) -> tuple[Spec, State, Instant]:
    """A certificate at rest with that many TLSA names; `shared`: all are aliases of one name."""
    state, last = State(name=one.name), life(one, now)[-1]
    for at, event in last.happened:
        state = fold(state, event, at)
    [(known, servers)] = [(state.tlsa_names[name], one.tlsa_names[name]) for name in one.tlsa_names]
    observation = known.observation
    assert observation is not None
    path = ((SHARED, 3600),) if shared else ()
    answers = {a: replace(x, path=path) for a, x in observation.answers.items() if isinstance(x, Answer)}
    tlsa_names: dict[str, TlsaState] = {}
    for number in range(count):
        name = f"_25._tcp.mx-{number}.example.org."
        seen = replace(observation, name=SHARED if shared else name, answers=answers, path=path)
        cached = tuple(replace(item, path=path) for item in known.cached)
        tlsa_names[name] = replace(known, observation=seen, cached=cached)
    spec = replace(one, tlsa_names=dict.fromkeys(tlsa_names, servers))
    return spec, replace(state, tlsa_names=tlsa_names), last.now


def planning(count: int, *, shared: bool) -> str:
    """What one plan for a certificate with so many TLSA names takes."""
    with tempfile.TemporaryDirectory(prefix="certagent-scale-", dir="/var/tmp") as place:
        (Path(place) / "state").mkdir(0o700)
        [one, *_] = specs_of(write_config(Path(place), 1)).values()
    now = Instant(datetime(2027, 1, 1, tzinfo=UTC), 0.0)
    spec, state, now = wide(one, now, count, shared=shared)
    assert isinstance(planner.plan(spec, state, now), st.Wait)
    times = 1 + 100 // count
    best = min(cpu_s(lambda: [planner.plan(spec, state, now) for _ in range(times)]) for _ in range(5))
    return f"{best / times * 1e3:.2f} ms"


def of_names() -> list[str]:
    """The table of TLSA names."""
    head = ["| TLSA names of one certificate | plan | plan, all aliases of one name |", "|---|---|---|"]
    counts = (1, 10, 40, 160)
    return head + [f"| {n} | {planning(n, shared=False)} | {planning(n, shared=True)} |" for n in counts]


def main(arguments: list[str]) -> int:
    """The exit code."""
    if arguments == ["names"]:
        print("\n".join(of_names()))
        return 0
    counts = [int(a) for a in arguments] or [10, 1000, 10_000, 100_000]
    head = [
        "certificates",
        "config, first time",
        "config, again",
        "state and plan, each",
        "tick",
        "bytes each",
        "`status`",
        "`status`, wall",
    ]
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for count in counts:
        print("| " + " | ".join(measured(count)) + " |", flush=True)
    made = f"Python {sys.version.split()[0]}, {datetime.now(UTC):%Y-%m-%d}"
    print(f"\nProcessor time, but for the last column; `status`: medians of 5. {made}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
