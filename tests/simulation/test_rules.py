"""Every rule of the planner is broken on purpose by some mutant."""

from __future__ import annotations

from certagent.lifecycle.planner import RULES
from tests.simulation.mutations import EQUIVALENT, MUTANTS

ELSEWHERE = {
    "finish": ("no-reload", "drain-skipped", "drifted-not-restored"),
    "inspect": ("inspection-forgotten",),
    "observe_undeclared": ("undeclared-unlooked", "undeclared-unheard"),
    "publish": ("next-keys-unpublished", "publish-before-serving", "rsa-record-forgotten"),
    "unpublish": ("surplus-never", "old-record-dropped"),
    "fetch_renewal_info": ("ari-asked-daily",),
}
"""Of a rule without a mutant in its own lines: those in what it asks, or in what is made of its step."""


def test_every_rule_has_a_mutant() -> None:
    """In its own lines, or one that is named above. A new rule comes with its mutant."""
    names = {mutant.name for mutant in MUTANTS} - EQUIVALENT.keys()
    broken = {mutant.place for mutant in MUTANTS if mutant.name in names}
    own = {rule.__name__ for rule in RULES if f"{rule.__module__.removeprefix('certagent.')}:{rule.__name__}" in broken}
    assert {rule.__name__ for rule in RULES} - own == ELSEWHERE.keys()
    assert all(named and names.issuperset(named) for named in ELSEWHERE.values())
