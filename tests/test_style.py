"""One style in the whole package, as far as the linter does not hold it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.words import ROOT

PACKAGE = sorted((ROOT / "certagent").rglob("*.py"))
PARAMETERS = re.compile(r"[23] 1 1")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _texts(tree: ast.Module) -> list[ast.Constant]:
    """The strings of a module, f-strings included, that are not documentation."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    ]


def test_tlsa_parameters_have_one_place() -> None:
    """`pki/tlsa.py` names them; the tests for plug-ins write records as a plug-in does."""
    found = [
        f"{_name(path)}:{text.lineno}"
        for path in PACKAGE
        if _name(path) != "certagent/pki/tlsa.py" and not _name(path).startswith("certagent/testing/")
        for text in _texts(ast.parse(path.read_text(encoding="utf-8")))
        if PARAMETERS.search(str(text.value))
    ]
    assert found == []
