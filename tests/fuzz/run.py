"""`make fuzz`: each parser of what others wrote, FOR so many seconds (20), from SEED (drawn), and what came of it.

A line for each: how many inputs, how many of them had anything else come out than the parser may raise, and the input
that took longest for its size. Exit status 1 if there is any of the former; it is printed as a line for the corpus.
"""

from __future__ import annotations

import sys
import time
from random import Random

from tests.fuzz.mutate import mutated
from tests.fuzz.parsers import Parser, corpus, parsers


def crash(parser: Parser, data: bytes) -> Exception | None:
    """What came out and may not."""
    try:
        parser.call(data)
    except parser.may:
        return None
    except Exception as error:
        return error
    return None


def run(name: str, seconds: float, seed: int) -> int:
    """How many inputs crash it."""
    parser, random = parsers()[name], Random(f"{seed} {name}")
    starts = [*parser.starts, *corpus(name)]
    inputs, found, slowest, size = 0, dict[str, bytes](), 0.0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(random, starts)
        begun = time.thread_time()
        error = crash(parser, data)
        rate = (time.thread_time() - begun) / max(len(data), 256)
        inputs += 1
        if rate > slowest:
            slowest, size = rate, len(data)
        if error is not None:
            found.setdefault(f"{type(error).__name__}: {str(error)[:80]}", data)
    worst = f"{slowest * 1e6:.2f} µs a byte ({size} bytes)"
    print(f"{name:<15}{inputs:>9} inputs  {len(found)} crashes  slowest {worst}", flush=True)
    for what, data in found.items():
        print(f"  {what!a}\n  {data[:2000]!a}")
    return len(found)


def main() -> int:
    """See the module."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    seconds, seed = float(given.get("FOR") or 20), int(given.get("SEED") or time.time_ns() % 2**32)
    print(f"seed {seed}, {seconds:g} s each")
    return min(1, sum(run(name, seconds, seed) for name in parsers()))


if __name__ == "__main__":
    sys.exit(main())
