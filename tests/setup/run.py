"""Runs all tests, several pytest processes side by side, and adds up.

One process per directory of tests without servers, and one per class in tests/e2e: each of these has its own lab, so
they cannot meet. The output of each is printed whole when it ends. Then come what could not be set up and what was
skipped (ending.py); the last line is the sum. `--no-servers` leaves out tests/e2e, which need root; every other
argument goes to each pytest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from tests.setup.ending import ending, not_set_up

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
SERVERS = "tests/e2e/"
SLOW = ("test_simulation", "test_roll", "test_crash", "test_faults")
"""Files with twenty thousand histories, or in which TTLs and time-outs are waited for: they begin first."""
LIMIT_S = 600
"""For one process: twice the longest on a busy machine. All of them are over in less than 20 minutes."""
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


def jobs(tests: Sequence[str]) -> dict[str, list[str]]:
    """What each process runs, by name: every test is in exactly one."""
    weights: Counter[str] = Counter()
    found: dict[str, list[str]] = {}
    for test in tests:
        path, *inner = test.split("::")
        if path.startswith(SERVERS):
            # functions that are in no class go together
            name, part = (
                ("::".join((path, inner[0])),) * 2 if len(inner) > 1 else (path, f"{path}::{inner[0].split('[')[0]}")
            )
        else:
            name, part = str(Path(*Path(path).parts[:2])), path
        parts = found.setdefault(name, [])
        if part not in parts:
            parts.append(part)
        # the longest begin first, so that none is left running alone at the end
        weights[name] += 10_000 if Path(path).stem in SLOW else 100 if path.startswith(SERVERS) else 1
    return {name: found[name] for name, _ in weights.most_common()}


def collect(arguments: Sequence[str]) -> tuple[list[str], int]:
    """The ids of all tests that the arguments do not leave out, and how many they do."""
    argv = [*PYTEST, "--collect-only", *arguments]
    done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stdout)
    left_out = re.search(r"(\d+) deselected", done.stdout)
    tests = [line for line in done.stdout.splitlines() if line.startswith("tests/") and "::" in line]
    return tests, int(left_out[1]) if left_out else 0


class Runner:
    """Runs jobs and counts."""

    def __init__(self, arguments: Sequence[str], directory: Path) -> None:
        self._arguments = arguments
        self._directory = directory
        self._printing = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.skipped: dict[str, str] = {}
        """The reasons, by test."""
        self.broken: list[str] = []
        """Jobs that ended badly."""

    def run(self, number: int, name: str, paths: Sequence[str]) -> None:
        report, skipped = self._directory / f"{number}.xml", self._directory / f"{number}.json"
        files = (f"--junitxml={report}", f"--skipped-to={skipped}")
        # where a test hangs, it says at what line
        argv = [*PYTEST, *files, "-o", f"faulthandler_timeout={LIMIT_S // 2}", *self._arguments, *paths]
        began = time.monotonic()
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self._directory)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            out, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # a lab ends with all that is in it
            out, _ = process.communicate()
            out += f"\nended after {LIMIT_S} s"
        counts = _count(report)
        with self._printing:
            print(f"---- {name} ({time.monotonic() - began:.1f} s)", flush=True)
            print(out.strip("\n"), flush=True)
            self.counts.update(counts)
            if skipped.exists():
                self.skipped |= json.loads(skipped.read_text())
            if process.returncode != 0:
                self.broken.append(f"{name}: pytest ended with {process.returncode}")


def _count(report: Path) -> Counter[str]:
    """passed, failed, errors and skipped, as pytest itself noted them."""
    counts: Counter[str] = Counter()
    if report.exists():
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            bad = {"failed": int(suite.get("failures", 0)), "errors": int(suite.get("errors", 0))}
            skipped = int(suite.get("skipped", 0))
            counts.update(bad, skipped=skipped, passed=int(suite.get("tests", 0)) - sum(bad.values()) - skipped)
    return counts


def _summary(counts: Counter[str], seconds: float) -> Iterator[str]:
    yield f"{counts['passed']} passed"
    yield f"{counts['failed']} failed"
    yield from (f"{counts[word]} {word}" for word in ("errors", "skipped") if counts[word])
    yield f"in {seconds:.0f} s"


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 only where every process ended well and tests were run."""
    began = time.monotonic()
    if "--no-servers" not in arguments and os.geteuid() != 0:
        print("error: tests on real servers need root; all others: make unit", file=sys.stderr)
        return 2
    # every user of the system may enter it: some servers give up root
    directory = Path(tempfile.mkdtemp(prefix="certagent-test-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        runner = Runner(arguments, directory)
        tests, left_out = collect(arguments)
        # as many as there are processors: tests on servers have time-outs of their own to keep
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            work = [pool.submit(runner.run, n, *job) for n, job in enumerate(jobs(tests).items())]
        for item in work:
            item.result()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if sum(runner.counts.values()) != len(tests):
        runner.broken.append(f"{len(tests)} tests were collected, and {sum(runner.counts.values())} run")
    if len(runner.skipped) != runner.counts["skipped"]:
        runner.broken.append(f"{runner.counts['skipped']} tests were skipped, and {len(runner.skipped)} gave a reason")
    if left_out:
        print(f"left out: {left_out} tests, by {' '.join(arguments)}")
    for line in (*ending(not_set_up(), runner.skipped), *runner.broken):
        print(line)
    print(f"==== {', '.join(_summary(runner.counts, time.monotonic() - began))} ====", flush=True)
    return 1 if runner.broken or not runner.counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
