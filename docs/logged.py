"""What the daemon logs: the words and the priority of each event, read off its syntax tree."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

from raised import assigned

import certagent
from certagent.report.log import EVENTS, priority

DAEMON = Path(certagent.__file__).parent / "agent" / "daemon.py"
OTHERS = set(EVENTS) - {"start", "stop", "reload", "wait", "wrong", "over"}
"""Those that a kind of subject names, as its warnings."""


def logged() -> dict[str, tuple[list[str], list[str]]]:
    """Of each event its priorities, and its words in their order."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for function in ast.walk(ast.parse(DAEMON.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Attribute(attr="logger"), attr=how),
                    args=[*level, ast.Call(func=ast.Attribute(attr="line"), args=[ast.List(elts=elements)])],
                ):
                    pairs = list(_pairs(function, elements))
                    event = next((value for word, value in pairs if word == "event"), None)
                    levels = sorted({priority(one) for one in _levels(function, how, level)})
                    words = [word for word, _ in pairs if word != "event"]
                    for name in OTHERS if event == "" else {event} - {None}:
                        found[str(name)] = ([str(one) for one in levels], words)
                case _:
                    pass
    return found


def _pairs(function: ast.AST, elements: list[ast.expr]) -> Iterator[tuple[str, str]]:
    """The words, each with its value if that is a text; of the first, which names the subject, `certificate`."""
    for element in elements:
        match element:
            case ast.Tuple(elts=[ast.Constant(value=str(word)), value]):
                yield word, value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
            case ast.Name(id="about"):
                yield "certificate", ""
            case ast.Starred(value=ast.Name(id=name)):
                for value in assigned(function, name):
                    if isinstance(value, ast.List):
                        yield from _pairs(function, value.elts)
            case _:
                raise ValueError(ast.unparse(element))


def _levels(function: ast.AST, how: str, level: list[ast.expr]) -> Iterator[int]:
    if how != "log":
        yield getattr(logging, how.upper())
        return
    for one in level:
        for value in assigned(function, one.id) if isinstance(one, ast.Name) else [one]:
            for choice in [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]:
                yield getattr(logging, ast.unparse(choice).rpartition(".")[2])
