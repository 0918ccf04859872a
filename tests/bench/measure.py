"""Runs a command and measures it: wall time, processor time of it and its children, the largest process.

As a program, `measure.py COMMAND…`, it runs the command and prints one line of JSON. It has to be a small process of
its own: Linux counts the memory of whoever starts a program as that program's, until it is larger.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Installed programs have their bytecode; without this, a source tree would be compiled anew at each start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


class Run(NamedTuple):
    """One run of one command."""

    wall_s: float
    cpu_s: float
    """user and system, of the command and all children that it waited for"""
    rss_mb: float
    """largest process of them"""
    began: float
    """seconds since 1970"""


class Failed(Exception):
    """The command failed; the end of its output."""


def run(argv: Sequence[str], environment: Mapping[str, str] | None = None, cwd: str | None = None) -> Run:
    """Measures one run. Raises: Failed."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", __file__, *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
    )
    *said, last = done.stdout.splitlines() or [""]
    if done.returncode != 0:
        raise Failed("\n".join((*said, done.stderr))[-1500:])
    return Run(**json.loads(last))


def median(values: Sequence[float]) -> float:
    """The middle one."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _main(argv: list[str]) -> int:
    began, start = time.time(), time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    found = Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, began)
    print(f"\n{json.dumps(found._asdict())}", flush=True)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
