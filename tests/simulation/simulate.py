"""Many simulated histories: `make simulate N=20000 FROM=0`; one with its trace: `make simulate SEED=123`.

`N` histories, in whole trees (see `simulation/tree.py`), from seed `FROM` (0) on, over `JOBS` processes; or one, by its
`SEED`, with a readable trace: time, what the agent did and why, what is served, and every set that some cache may hold.
Exit status 1 on any violation. The digest at the end is of every step and wait of every history: where it is the same
after a change of the code, the agent does the same.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import time
from collections.abc import Iterator
from hashlib import blake2b
from multiprocessing import get_context
from typing import NamedTuple

from tests.simulation.ca import cheap
from tests.simulation.converged import prepare
from tests.simulation.history import Done
from tests.simulation.tree import TREE, grown, run

CHUNK = 16
"""Trees of a process at a time; few enough to keep two processes busy to the end."""


class Part(NamedTuple):
    """What came out of some trees."""

    first: int
    """Number of the first tree."""
    histories: int
    done: Done
    cpu_s: float
    bad: list[tuple[int, float, str]]
    """Of each violation: seed, steps, and what."""
    digests: bytes
    """Of each history, in their order."""


def many(trees: range) -> Part:
    """These, in one process."""
    done, began, histories = Done(), time.process_time(), 0
    bad: list[tuple[int, float, str]] = []
    digests = b""
    with cheap() as dice:
        for number in trees:
            for outcome in grown(number, dice):
                histories += 1
                digests += outcome.digest.ljust(8)
                done += outcome.done
                if outcome.violation:
                    bad.append((outcome.seed, outcome.done.steps, outcome.violation))
    return Part(trees.start, histories, done, time.process_time() - began, bad, digests)


def results(first: int, count: int, jobs: int) -> Iterator[Part]:
    """At least so many from that seed on, over several processes."""
    trees = range(first // TREE, -(-(first + count) // TREE))
    chunks = [trees[i : i + CHUNK] for i in range(0, len(trees), CHUNK)]
    if len(chunks) > 4 * jobs:
        with cheap():
            prepare()  # once, for all processes
        gc.collect()
        gc.freeze()
    if jobs == 1:
        yield from map(many, chunks)
        return
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(many, chunks)


def one(seed: int) -> int:
    """One history with its trace."""
    with cheap() as dice:
        outcome = run(seed, dice, tracing=True)
    print("\n".join(outcome.trace))
    print(f"seed {seed}: {outcome.violation or 'no violation'} ({outcome.done.steps} steps)")
    return 1 if outcome.violation else 0


def main(arguments: list[str]) -> int:
    """The command."""
    given = dict(a.split("=", 1) for a in arguments)
    if unknown := set(given) - {"N", "SEED", "JOBS", "FROM"}:
        print(f"unknown: {', '.join(sorted(unknown))}; known: N= SEED= JOBS= FROM=")
        return 2
    if given.get("SEED"):
        return one(int(given["SEED"]))
    began = time.monotonic()
    jobs = int(given.get("JOBS") or os.cpu_count() or 1)
    parts: list[Part] = []
    done = Done()
    for part in results(int(given.get("FROM") or 0), int(given.get("N") or 20000), jobs):
        parts.append(part)
        done += part.done
        for seed, _, what in part.bad:
            print(f"SEED={seed}: {what}", flush=True)
    histories = sum(p.histories for p in parts)
    bad = [b for p in parts for b in p.bad]
    took = time.monotonic() - began
    cpu_s = sum(p.cpu_s for p in parts)
    each = ", ".join(f"{value / histories:.1f} {name}" for name, value in done.told())
    print(f"{histories} histories in {took:.1f} s over {jobs} processes; in each, on average: {each}")
    sums = ("histories", histories), ("steps", done.steps), ("checks", done.checks)
    rates = ", ".join(f"{value / took:.0f} {name}" for name, value in sums)
    print(f"per second: {rates}; per second of CPU: {histories / cpu_s:.0f} histories, {done.steps / cpu_s:.0f} steps")
    digests = b"".join(p.digests for p in sorted(parts, key=lambda p: p.first))
    print(f"digest of all steps and waits: {blake2b(digests, digest_size=8).hexdigest()}")
    kinds: dict[str, list[tuple[float, int, str]]] = {}
    for seed, count, what in bad:
        kinds.setdefault(re.sub(r"\b[0-9a-f]{6}\b|\bmx\d?\b|\bg\d+\b|\{[^}]*\}", "#", what)[:60], []).append(
            (count, seed, what)
        )
    for found in sorted(kinds.values(), key=len, reverse=True):
        print(
            f"{len(found)} times, shortest: " + "; ".join(f"SEED={s} ({c} steps) {w}" for c, s, w in sorted(found)[:3])
        )
    print(f"{len(bad)} violations" + (": seeds " + " ".join(str(s) for s, _, _ in sorted(bad)[:200]) if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
