"""Dynamic updates: `python -m tests.bench.dns`, as root.

1. CHANGES changes of TLSA and TXT records in ZONES zones at BIND: by certagent's provider, which reads each set before
   it writes, and by nsupdate, which does not: once as a process per change, once as one process that sends each change
   alone. Then all records are read back, and BIND's journals tell in which order the changes of each zone were made.
2. From a write until every name server gives it, beside what a witness sees that asks both of them all the time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from certagent.dns.authority import Resolver
from certagent.dns.providers.protocol import RdType
from certagent.dns.providers.rfc2136 import Options, Rfc2136, rdata_text
from certagent.errors import Error
from tests.bench.measure import median
from tests.lab import namespace
from tests.lab.addresses import PRIMARY, RESOLVER, SECONDARY, SPARE, ZONE
from tests.lab.dns import Dns
from tests.lab.process import Server
from tests.lab.wait import until

CHANGES, ZONES = 1000, 100
ROUNDS = 3
"""A process per change takes so much longer than all others that one round says enough."""
AT_ONCE = 8
"""Zones that are written at the same time; the changes of one zone are made one after the other."""
WRITES = 40
SECRET = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="
KEY = f'key "bench" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n'
ADDED = re.compile(r"^add (?P<name>\S+)\s+\d+\s+IN\s+(?P<rdtype>TLSA|TXT)\s+(?P<text>.+)$", re.MULTILINE)


class Change(NamedTuple):
    """One value comes."""

    zone: str
    name: str
    rdtype: RdType
    value: str


def changes(label: str) -> Iterator[list[Change]]:
    """Those of each zone, in their order; `label` keeps the runs apart."""
    for number in range(ZONES):
        zone = f"z{number}.bench.example."
        tlsa, txt = f"_25._tcp.{label}.{zone}", f"_acme-challenge.{label}.{zone}"
        yield [
            Change(zone, txt, "TXT", f"value-{n}") if n % 2 else Change(zone, tlsa, "TLSA", f"3 1 1 {n:064x}")
            for n in range(CHANGES // ZONES)
        ]


class Bind:
    """A server with the zones, and nothing else to do."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory, self.key_file = directory, directory / "bench.key"
        self.key_file.touch(0o600)
        self.key_file.write_text(KEY)
        self.zones = [f"z{number}.bench.example" for number in range(ZONES)]
        zone = 'zone "{0}" {{ type primary; file "{0}.zone"; notify no; allow-update {{ key "bench"; }}; }};\n'
        for name in self.zones:
            (directory / f"{name}.zone").write_text(
                f"$ORIGIN {name}.\n$TTL 60\n@ SOA ns1 hostmaster 1 60 60 86400 1\n@ NS ns1\nns1 A {SPARE}\n"
            )
        (directory / "named.conf").write_text(
            KEY
            + f'options {{ directory "{directory}"; pid-file "named.pid"; session-keyfile "session.key";'
            + f' managed-keys-directory "."; listen-on port 53 {{ {SPARE}; }}; listen-on-v6 {{ none; }}; recursion no;'
            + " dnssec-validation no; empty-zones-enable no; };\ncontrols { };\n"
            + "".join(map(zone.format, self.zones))
        )
        self._server = Server(directory / "named.log", "named", "-4", "-n", "1", "-f", "-c", directory / "named.conf")
        self.provider = Rfc2136(Options(server=SPARE, zones=tuple(self.zones), key_file=str(self.key_file)))
        until(self._ready, 30, "BIND has its zones")

    def _ready(self) -> bool:
        self._server.alive()
        try:
            return self.provider.get(f"x.{self.zones[-1]}.", "TXT") is None
        except Error:  # not yet
            return False

    def stop(self) -> None:
        """Ends it."""
        self._server.stop()

    def judge(self, label: str) -> str:
        """What is wrong; "" if no value is missing, none is too many, and the order is that of the calls."""
        for wanted in changes(label):
            asked: set[tuple[str, RdType]] = {(c.name, c.rdtype) for c in wanted}
            for name, rdtype in asked:
                found = self.provider.get(name, rdtype)
                if (found.values if found else set()) != {c.value for c in wanted if c.name == name}:
                    return f"{name} {rdtype}: {found}"
            journal = self.directory / f"{wanted[0].zone}zone.jnl"
            said = subprocess.run(["named-journalprint", journal], capture_output=True, text=True, check=True).stdout
            made = [(m["name"], m["text"].replace(" ", "")) for m in ADDED.finditer(said) if f".{label}." in m["name"]]
            meant = [(c.name, rdata_text(c.rdtype, c.value).replace(" ", "")) for c in wanted]
            if [(name, text.lower()) for name, text in made] != meant:
                return f"{wanted[0].zone}: {made}"
        return ""


def by_provider(bind: Bind, label: str, at_once: int) -> None:
    """As the agent writes: the set is read, and is the precondition of the write."""

    def write(zone: Sequence[Change]) -> None:
        for change in zone:
            was = bind.provider.get(change.name, change.rdtype)
            bind.provider.add(change.name, change.rdtype, frozenset({change.value}), 60, was)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(write, changes(label)))


def script(change: Change) -> str:
    """For nsupdate."""
    added = f"{change.name} 60 {change.rdtype} {rdata_text(change.rdtype, change.value)}"
    return f"server {SPARE}\nzone {change.zone}\nupdate add {added}\nsend\n"


def nsupdate(bind: Bind, text: str) -> None:
    """One process, by TCP like the provider."""
    subprocess.run(["nsupdate", "-v", "-k", bind.key_file], input=text, text=True, check=True, capture_output=True)


def by_processes(bind: Bind, label: str) -> None:
    """A process per change."""
    for zone in changes(label):
        for change in zone:
            nsupdate(bind, script(change))


def by_one_process(bind: Bind, label: str) -> None:
    """One for all, which sends each change alone."""
    nsupdate(bind, "".join(script(change) for zone in changes(label) for change in zone))


def rss_kb() -> int:
    """What this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def updates(directory: Path) -> None:
    """The first table."""
    ways: dict[str, tuple[Callable[[Bind, str], None], int]] = {
        "`nsupdate`, a process per change": (by_processes, 1),
        "`nsupdate`, one process, a `send` per change": (by_one_process, ROUNDS),
        "certagent, one zone after the other": (lambda bind, label: by_provider(bind, label, 1), ROUNDS),
        f"certagent, {AT_ONCE} zones at once": (lambda bind, label: by_provider(bind, label, AT_ONCE), ROUNDS),
    }
    took: defaultdict[str, list[float]] = defaultdict(list)
    wrong: list[str] = []
    bind = Bind(directory / "bind")
    try:
        by_provider(bind, "before", AT_ONCE)  # what is loaded and allocated once
        memory = [rss_kb()]
        for number in range(ROUNDS):
            for at, (way, (make, rounds)) in enumerate(ways.items()):
                if number < rounds:
                    label, began = f"mx{number}-{at}", time.monotonic()
                    make(bind, label)
                    took[way].append(time.monotonic() - began)
                    wrong += filter(None, [bind.judge(label)])
            memory.append(rss_kb())
    finally:
        bind.stop()
    print(
        f"{CHANGES} changes, TLSA and TXT by turns, over {ZONES} zones; medians of {ROUNDS} rounds, the first way once:"
    )
    print("\n| by | seconds | changes per second | beside the first |\n|---|---|---|---|")
    first = median(next(iter(took.values())))
    for way, seconds in took.items():
        middle = median(seconds)
        print(f"| {way} | {middle:.1f} | {CHANGES / middle:.0f} | {first / middle:.1f} x |")
    runs = sum(map(len, took.values()))
    print(f"\nRead back after each of {runs} runs, lost or out of order: {'; '.join(wrong) or 'nothing'}.")
    print(f"Memory before, and after each round: {', '.join(f'{kb / 1024:.1f}' for kb in memory)} MB.", flush=True)


class Everywhere:
    """When both servers had a value for the first time, seen by asking them without a pause."""

    def __init__(self, lab: Dns, name: str, rdtype: RdType, value: str) -> None:
        self._lab, self._asked = lab, (name, rdtype)
        self._text = rdata_text(rdtype, value)
        self.at = 0.0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Everywhere:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        left = [PRIMARY, SECONDARY]
        end = time.monotonic() + 30
        while left and time.monotonic() < end:
            if self._text in self._lab.values(left[0], *self._asked):
                left.pop(0)
                self.at = time.monotonic()
            else:
                time.sleep(0.001)


def seen(directory: Path) -> None:
    """The second table."""
    lab = Dns(directory / "dns")
    lab.start()
    try:
        provider = Rfc2136(Options(server=PRIMARY, zones=(ZONE,), key_file=str(lab.keyfile("dane-key"))))
        resolver, soon = Resolver((RESOLVER,)), timedelta(seconds=10)
        print(
            f"\nFrom a write until both servers give it, {WRITES} times each, medians (and the longest):\n\n"
            "| record | the servers | certagent knows it | later than it was so | within 50 ms |\n|---|---|---|---|---|"
        )
        waits: dict[RdType, Callable[[str, str], object]] = {
            "TLSA": lambda name, value: resolver.observe(name, expect=frozenset({value}), budget=soon),
            "TXT": lambda name, value: resolver.wait_for_txt(name, frozenset({value}), soon),
        }
        for rdtype, wait in waits.items():
            name = f"_25._tcp.bench.{ZONE}." if rdtype == "TLSA" else f"_acme-challenge.bench.{ZONE}."
            rows: list[tuple[float, float, float]] = []
            for number in range(WRITES + 1):
                value = f"3 1 1 {number:064x}" if rdtype == "TLSA" else f"value-{number}"
                was = provider.get(name, rdtype)
                began = time.monotonic()
                with Everywhere(lab, name, rdtype, value) as witness:
                    provider.add(name, rdtype, frozenset({value}), 60, was)
                    wait(name, value)
                    known = time.monotonic()
                assert witness.at
                rows.append((witness.at - began, known - began, known - witness.at))
            cells = [
                f"{median(c) * 1000:.0f} ms ({max(c) * 1000:.0f} ms)" for c in zip(*rows[1:], strict=True)
            ]  # not the first: it loads
            within = sum(later < 0.05 for _, _, later in rows[1:])
            print(f"| {rdtype} | {' | '.join(cells)} | {within} of {WRITES} |", flush=True)
    finally:
        lab.stop()


def main() -> int:
    """The exit code."""
    if not namespace.inside():
        namespace.enter([sys.executable, "-m", "tests.bench.dns"])
    updates(namespace.directory())
    seen(namespace.directory())
    print(f"\nPython {sys.version.split()[0]}, {os.cpu_count()} processors.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
