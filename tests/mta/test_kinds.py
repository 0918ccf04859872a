"""A kind of mail server is known in its own folder, and in the one line that registers it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from certagent.agent.plugins import BUILT_IN

PACKAGE = Path(__file__).resolve().parents[2] / "certagent"
KINDS = sorted(path.name for path in (PACKAGE / "mta").iterdir() if (path / "server.py").exists())
REGISTER = {text for name, place in BUILT_IN["certagent.mail_servers"].items() for text in (name, place)}


def words(path: Path) -> Iterator[str]:
    """Every name and every text of the code; docstrings and comments may give a server as a reason."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in said:
                yield text
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.arg(arg=text):
                yield text
            case ast.alias(name=text) | ast.ImportFrom(module=str(text)):
                yield text
            case ast.FunctionDef(name=text) | ast.ClassDef(name=text):
                yield text
            case _:
                pass


def test_no_kind_is_named_outside_its_folder() -> None:
    """What certagent must know of a server, the protocol says."""
    assert KINDS == ["dovecot", "exim", "opensmtpd", "postfix", "sendmail"]
    own = {PACKAGE / "mta" / kind for kind in KINDS}
    named = {
        (path.relative_to(PACKAGE).as_posix(), word)
        for path in PACKAGE.rglob("*.py")
        if own.isdisjoint(path.parents)
        for word in words(path)
        if any(kind in word.lower() for kind in KINDS)
    }
    assert {word for path, word in named if path == "agent/plugins.py"} <= REGISTER
    assert sorted(found for found in named if found[0] != "agent/plugins.py") == []


def test_the_test_sees_names_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('"""Of Exim."""\nfrom x.postfix import y\nif kind == "exim":  # as dovecot\n    sendmail()\n')
    assert {word for word in words(path) if any(kind in word for kind in KINDS)} == {"x.postfix", "exim", "sendmail"}
