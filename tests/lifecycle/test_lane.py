"""No decision reads how a code or a lane is spelled."""

from __future__ import annotations

import ast
from pathlib import Path

from certagent.lifecycle import steps as st
from certagent.lifecycle.lane import Lane
from tests.lifecycle.play import Life, lane_of

PACKAGE = Path(__file__).resolve().parents[2] / "certagent"
PEOPLE = PACKAGE.parent / "tests" / "simulation" / "history.py"
"""What operators do in the simulated world. Its judge asserts codes, and decides nothing."""
DECIDES = [
    path
    for path in (*PACKAGE.rglob("*.py"), PEOPLE)
    if PACKAGE / "testing" not in path.parents  # its checks say which code is wanted, and decide nothing
]
SPELLING = {"code", "lane"}


def reads(tree: ast.AST) -> list[ast.AST]:
    """Comparisons of `….code` with anything but a number, and text methods of `….code` and `….lane`.

    The number is the exit status of a program, also under a name of the file.
    """
    found: list[ast.AST] = []
    numbers = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, int)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                sides = [left, *others]
                rest = [s for s in sides if not (isinstance(s, ast.Attribute) and s.attr == "code")]
                numeric = all(
                    (isinstance(s, ast.Constant) and isinstance(s.value, int))
                    or (isinstance(s, ast.Name) and s.id in numbers)
                    for s in rest
                )
                if len(rest) < len(sides) and not (rest and numeric):
                    found.append(node)
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr=attribute), attr=method)):
                if attribute in SPELLING and method in {"startswith", "endswith", "partition", "split", "removeprefix"}:
                    found.append(node)
            case ast.Match(subject=ast.Attribute(attr="code")):
                found.append(node)
            case _:
                pass
    return found


def test_no_decision_reads_the_spelling_of_a_code() -> None:
    """What must be known of a failure is a field, an event or a type."""
    places = [
        f"{path.relative_to(PACKAGE.parent)}:{getattr(node, 'lineno', 0)}"
        for path in DECIDES
        for node in reads(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert len(DECIDES) > 50
    assert places == []


def test_such_a_reading_is_found() -> None:
    for text in (
        'failure.code == "a.b"',
        'if error.code in ("a", "b"): ...',
        'x.code.startswith("ca.")',
        "error.code != KNOWN",
        "one.code == other.code",
        "w.lane.partition(' ')",
    ):
        assert len(reads(ast.parse(text))) == 1, text
    for text in ("result.code != 0", "DOWN = 75\nresult.code == DOWN"):
        assert not reads(ast.parse(text)), text


def test_lanes_are_values_with_words_for_people() -> None:
    """Two mail servers, or two kinds of work on one, do not hold each other back."""
    assert str(Lane("install", "postfix")) == "install postfix"
    assert str(Lane("clean up")) == "clean up"
    assert st.Install(server="a", generation="g1", because="").lane == Lane("install", "a")
    assert st.Install(server="a", generation="g1", rollback=True, because="").lane == Lane("rollback", "a")
    life = Life()
    life.fails("install a", times=2)
    life.fails("install b")
    assert [(str(f.lane), f.count) for f in life.state.failing] == [("install a", 2), ("install b", 1)]
    assert life.state.failure(lane_of("reload a")) is None
