"""The simulation must be able to fail: the engine is broken on purpose, one mutant at a time, and each must be caught.

`make mutants`, or this module with N=, JOBS=, ONLY=name,…, WITH=mischief (only histories that begin with it) and
EXPLORE=states (whether an exploration of the smallest worlds finds it, too): a mutant is a replacement in the syntax
tree of one module, made in memory as a separate process imports it. It is caught when one of N histories ends in a
violation that the engine as it is does not have: each such seed is run on both. First come those that `make simulate`
begins with, then those that begin with what shows it soonest, or else one tree of each shape in turn. One that so many
histories do not show has to fail a test of the rules; it is counted apart. The list is printed; exit status 1 if one
survives both or does not apply to the sources any more (see `mutations.py`).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import chain, islice
from types import CodeType, ModuleType
from typing import NamedTuple

from tests.simulation.mutations import EQUIVALENT, MUTANTS, Mutant


class _Loader(SourceFileLoader):
    """Loads the module with the substitution; no byte code is read or written."""

    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.get_filename(fullname)).decode()
        return compile(self.mutant.applied(source), self.get_filename(fullname), "exec")


class _Finder(MetaPathFinder):
    """Hands out the loader for one module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, server: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        loader = _Loader(fullname, spec.origin)
        loader.mutant = self.mutant
        spec.loader = loader
        return spec


BEGINNING = 160
"""Trees that come as in `make simulate`: five thousand histories catch what breaks in many."""


def hunt(mutant: Mutant, passed_over: set[int], most: int, mischief: str) -> int:
    """In a process of its own: run histories until one is violated, but for seeds that are passed over."""
    sys.meta_path.insert(0, _Finder(mutant))
    from tests.simulation.ca import cheap
    from tests.simulation.tree import TREE, beginning_with, grown, of_each_shape

    soonest = beginning_with(mischief or mutant.shown_by) if mischief or mutant.shown_by else of_each_shape(BEGINNING)
    numbers = soonest if mischief else chain(range(BEGINNING), soonest)
    with cheap() as dice:
        for number in islice(numbers, -(-most // TREE)):
            try:
                for outcome in grown(number, dice):
                    if outcome.violation and outcome.seed not in passed_over:
                        print(f"{outcome.seed}\t{outcome.violation}")
                        return 0
            except Exception as error:  # a mutant that breaks the simulation itself is noticed, too
                print(f"{number * TREE}\t{type(error).__name__}: {error}")
                return 0
    print("-\tsurvived")
    return 1


TESTS = ("tests/lifecycle", "tests/test_surprises.py", "tests/test_edges.py", "tests/test_budgets.py", "tests/probe")
"""What the rules, and what asks and does for them, are tested by."""


FAILS = "it fails"


def tested(mutant: Mutant) -> int:
    """In a process of its own: run the tests of the rules until one fails."""
    sys.meta_path.insert(0, _Finder(mutant))
    import pytest

    class First:
        """Says which it was."""

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                print(f"\n{FAILS} {report.nodeid}")

    options = ["-x", "-p", "no:cacheprovider"]
    return 0 if pytest.main([*options, *TESTS], plugins=[First()]) == pytest.ExitCode.TESTS_FAILED else 1


def explored(mutant: Mutant, states: int) -> int:
    """In a process of its own: explore the smallest worlds until a history is violated."""
    sys.meta_path.insert(0, _Finder(mutant))
    from tests.simulation.explore import explore

    for found in explore(states=states, seconds=1e9):
        if found.violations:
            path, what = found.violations[0]
            print(f"{' > '.join(path)}: {what}")
            return 0
    return 1


class Verdict(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    caught: bool
    seed: str
    how: str
    took_s: float


def judge(mutant: Mutant, count: int, mischief: str) -> Verdict:
    """Hunt it in a new process."""
    began = time.monotonic()
    passed_over: set[str] = set()
    while True:
        one = [f"ONE={mutant.name}", f"N={count}", f"PASS={','.join(sorted(passed_over))}", f"WITH={mischief}"]
        argv = [sys.executable, "-m", "tests.simulation.mutants", *one]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        seed, _, how = done.stdout.strip().partition("\t")
        if done.returncode not in (0, 1) or not how:
            seed, how = "?", (done.stderr.strip().splitlines() or ["no answer"])[-1]
        caught = done.returncode == 0 and seed != "?"
        if not caught or not violated(seed):
            return Verdict(mutant, caught, seed, how, time.monotonic() - began)
        print(f"the engine as it is violates SEED={seed}; it does not count", flush=True)
        passed_over.add(seed)


def violated(seed: str) -> bool:
    """Whether the engine as it is fails in that history: it should not."""
    argv = [sys.executable, "-m", "tests.simulation.simulate", f"SEED={seed}"]
    return subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode != 0


def main(arguments: list[str]) -> int:
    """The command."""
    given = dict(a.split("=", 1) for a in arguments)
    count, jobs = int(given.get("N") or 12000), int(given.get("JOBS") or 2)
    states, mischief = int(given.get("EXPLORE") or 0), given.get("WITH", "")
    if one := given.get("ONE"):
        mutant = next(m for m in MUTANTS if m.name == one)
        passed_over = set(map(int, filter(None, given.get("PASS", "").split(","))))
        if given.get("TESTS"):
            return tested(mutant)
        return explored(mutant, states) if states else hunt(mutant, passed_over, count, mischief)
    only = set(given["ONLY"].split(",")) if given.get("ONLY") else None
    chosen = [m for m in MUTANTS if only is None or m.name in only]
    words: Counter[str] = Counter()
    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed(pool.submit(_report, mutant, count, mischief, states) for mutant in chosen):
            word, lines = future.result()
            words[word] += 1
            print("\n        ".join(lines), flush=True)
    for name, why in EQUIVALENT.items():
        print(f"equivalent (not counted)  {name}: {why}")
    both = words["caught"] + words["tested"]
    print(f"{both} of {len(chosen)} mutants caught, {words['caught']} by histories, {words['tested']} by tests alone")
    return 0 if both == len(chosen) else 1


def _report(mutant: Mutant, count: int, mischief: str, states: int) -> tuple[str, list[str]]:
    """What became of it in one word, and what is printed."""
    verdict = judge(mutant, count, mischief)
    seen = f"SEED={verdict.seed} after {verdict.took_s:.0f} s: {verdict.how[:160]}"
    word = "caught" if verdict.caught else "MISSED"
    more: list[str] = []
    if not verdict.caught and (test := _apart(mutant, "TESTS=1")):
        word, more = "tested", [test]
    if states:
        more.append(f"explored: {_apart(mutant, f'EXPLORE={states}') or 'not by these states'}")
    return word, [f"{word}  {mutant.name}: {mutant.rule}", seen, *more]


def _apart(mutant: Mutant, how: str) -> str:
    """What noticed it, in a process of its own; empty: nothing did."""
    argv = [sys.executable, "-m", "tests.simulation.mutants", f"ONE={mutant.name}", how]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith(FAILS) or "EXPLORE" in how]
    return found[0][:200] if done.returncode == 0 and found else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
