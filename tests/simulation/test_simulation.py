"""Simulated histories in every test run; `make simulate` runs as many as one likes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from certagent.facts.tls import Chain
from certagent.lifecycle import gates
from certagent.lifecycle.shared import Shared
from tests.simulation import converged
from tests.simulation.ca import cheap
from tests.simulation.clock import BASE
from tests.simulation.explore import explore
from tests.simulation.judge import unmatched
from tests.simulation.mutations import MUTANTS, Mutant
from tests.simulation.simulate import results
from tests.simulation.tree import TREE, grown, run

HISTORIES = 100_000
"""Three or four minutes on one core."""
STATES = 800
"""Of each smallest world: some seconds."""
SOME = range(0, 1500, 25)
"""Seeds in fifty trees: trunks, and branches of each."""
TRACES = """
import hashlib
from tests.simulation.ca import cheap
from tests.simulation.test_simulation import SOME
from tests.simulation.tree import run
with cheap() as dice:
    lines = [line for seed in SOME for line in run(seed, dice, tracing=True).trace]
print(len(lines), hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def test_histories() -> None:
    parts = list(results(0, HISTORIES, 1))
    bad = [(seed, violation) for part in parts for seed, _, violation in part.bad]
    assert not bad, f"replay with: python -m tests.simulation.simulate SEED={bad[0][0]}; {bad}"
    assert sum(part.histories for part in parts) == HISTORIES


def test_the_smallest_worlds() -> None:
    """Events at places spread over a whole roll, in each of them; `make explore` goes on from here."""
    for found in explore(states=STATES, seconds=1e9):
        assert found.violations == [], found.name
        assert found.states == STATES


def test_an_exploration_can_fail() -> None:
    """No gate, and the swap of the very first roll is found; none after what was disproven, and a later one is."""
    with patch.object(gates, "obstacles", return_value=[]):
        assert next(explore(states=1, seconds=1e9)).violations
    with patch.object(Shared, "strange", []):
        assert next(explore(states=4000, seconds=1e9)).violations


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_still_applies(mutant: Mutant) -> None:
    """What a mutant breaks is in its function once; or `make mutants` proves less than it says."""
    source = (Path(__file__).parents[2] / f"{mutant.module.replace('.', '/')}.py").read_text()
    assert ast.dump(mutant.applied(source)) != ast.dump(ast.parse(source))


def test_a_mutant_that_no_longer_applies_is_an_error() -> None:
    """Of another function, another text, or twice there."""
    source = "def f(x):\n    return (x +\n  1)  # a comment\n\ndef g(x):\n    return x + 1 if x else x + 1"
    mutant = Mutant("plus", "", "m:f", "x + 1", "x - 1")
    assert "x - 1" in ast.unparse(mutant.applied(source))
    for other in (mutant._replace(place="m:g"), mutant._replace(place="m:h"), mutant._replace(old="x + 2")):
        with pytest.raises(LookupError):
            other.applied(source)


def test_a_mutant_of_a_head_leaves_the_body() -> None:
    """Of an `if`, and of a `case`."""
    source = "def f(x):\n    if x:\n        return 1\n    match x:\n        case 2:\n            return 2"
    headless = Mutant("if", "", "m:f", "if x: ...", "if False: ...").applied(source)
    assert ast.unparse(headless) == source.replace("if x", "if False")
    headless = Mutant("case", "", "m:f", "case 2: ...", "case 2 if False: ...").applied(source)
    assert ast.unparse(headless) == source.replace("case 2", "case 2 if False")


def test_a_seed_is_a_history() -> None:
    """In every process, in whatever order Python keeps its sets."""
    said = {
        subprocess.run(
            [sys.executable, "-c", TRACES], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    lines, _, _ = said.pop().partition(b" ")
    assert int(lines) > len(SOME) * 15


def test_what_is_remembered_changes_nothing() -> None:
    with cheap() as dice:
        quick = [run(seed, dice, tracing=True) for seed in SOME]
    converged.made.cache_clear()
    with cheap(remember=False) as dice:
        assert quick == [run(seed, dice, tracing=True) for seed in SOME]


@pytest.mark.parametrize(
    ("values", "bad"),
    [
        ((), set[str]()),
        (("3 1 1 aa",), set[str]()),
        (("3 1 1 aa", "3 1 1 cc"), set[str]()),
        (("3 1 1 cc",), {"3 1 1"}),
        (("3 1 1 aa", "2 1 1 cc"), {"2 1 1"}),
        (("3 1 1 cc", "2 1 1 bb"), {"3 1 1"}),
        (("2 1 1 bb",), set[str]()),
    ],
)
def test_the_judge_asks_each_tlsa_parameters(values: tuple[str, ...], bad: set[str]) -> None:
    # RFC 7671 section 8: whichever TLSA parameters a sender supports, one of its records must match
    chain = Chain("aa", ("bb",), (), BASE, BASE, "1")
    assert unmatched(frozenset(values), chain) == bad


def test_a_branch_is_the_same_alone() -> None:
    """`SEED` replays what a run of all found: copies share nothing that one of them changes."""
    with cheap() as dice:
        together = list(grown(3, dice))
        alone = [run(3 * TREE + i, dice)._replace(trace=[]) for i in reversed(range(TREE))]
    assert len(together) == TREE
    assert alone[::-1] == together
