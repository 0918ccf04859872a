"""No decision reads how a code or a lane is spelled."""

from __future__ import annotations

import ast
from pathlib import Path

from certagent.lifecycle import steps as st
from certagent.lifecycle.lane import Lane
from tests.lifecycle.play import Life, lane_of

PACKAGE = Path(__file__).resolve().parents[2] / "certagent"
DECIDES = [
    p for folder in ("lifecycle", "agent", "report", "cli", "checks", "acme") for p in (PACKAGE / folder).rglob("*.py")
]
SPELLING = {"code", "lane"}


def reads(tree: ast.AST) -> list[ast.AST]:
    """Comparisons of `….code` and text methods of `….code`, and `….lane`."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                sides = [left, *others]
                if any(isinstance(s, ast.Attribute) and s.attr == "code" for s in sides):
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
        f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
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
        "w.lane.partition(' ')",
    ):
        assert len(reads(ast.parse(text))) == 1, text


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
