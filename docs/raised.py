"""What the code says with each error code: read off the calls that make errors, in the syntax tree."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import certagent
from certagent import errors
from certagent.cli.errors import exit_status, exit_status_of

PACKAGE = Path(certagent.__file__).parent
CLASSES: dict[str, type[errors.Error]] = {
    name: one for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.Error)
}


class Raised(NamedTuple):
    """An error as a line of the code makes it: `…` stands for what is known only when it is raised."""

    made_by: type[errors.Error]
    detail: str
    hint: str


@cache
def raised() -> Mapping[str, frozenset[Raised]]:
    """Of each code, all that is made with it, as far as the text stands beside the call."""
    found: defaultdict[str, set[Raised]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            for node in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
                for code, made_by, detail, hint in _made(node):
                    for said in _texts(function, node, detail):
                        for remedy in _texts(function, node, hint):
                            found[code].add(Raised(made_by, said, remedy))
    return {code: frozenset(every) for code, every in found.items()}


def exits(code: str, kind: str) -> str:
    """The exit statuses of a command that ends with it."""
    made = {exit_status_of(one.made_by(code, "")) for one in raised().get(code, ())} or {exit_status(kind)}
    return " or ".join(str(int(status)) for status in sorted(made))


def _made(node: ast.Call) -> Iterator[tuple[str, type[errors.Error], ast.expr, ast.expr]]:
    """Code, class, detail and hint of a call that makes an error: of its class, or of `wrong` of the configuration."""
    none = ast.Constant("")
    match node:
        case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(code)), detail, *more]) if name in CLASSES:
            yield code, CLASSES[name], detail, more[0] if more else none
        case ast.Call(func=ast.Attribute(attr="wrong"), args=[ast.Constant(value=str(code)), _, detail, hint]):
            yield code, errors.Usage, detail, hint
        case ast.Call(func=ast.Attribute(attr="wrong"), args=[_, detail, hint]):
            yield "config.value", errors.Usage, detail, hint
        case _:
            pass


def _texts(function: ast.AST, call: ast.expr, text: ast.expr) -> Iterator[str]:
    """The text; of a variable, all that was put into it before the call."""
    match text:
        case ast.Constant(value=str(plain)):
            yield plain
        case ast.JoinedStr(values=values):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in values)
        case ast.IfExp(body=body, orelse=orelse):
            yield from _texts(function, call, body)
            yield from _texts(function, call, orelse)
        case ast.Name(id=name):
            before = list(assigned(function, name, call.lineno))
            for value in before:
                yield from _texts(function, call, value)
            if not before:
                yield "…"
        case _:
            yield "…"


def assigned(function: ast.AST, name: str, before: int | None = None) -> Iterator[ast.expr]:
    """All that is put into a variable of a function; `before`: up to that line."""
    for node in ast.walk(function):
        if before is not None and getattr(node, "lineno", 0) > before:
            continue
        match node:
            case ast.Assign(targets=[ast.Name(id=one)], value=value) if one == name:
                yield value
            case ast.AnnAssign(target=ast.Name(id=one), value=ast.expr() as value) if one == name:
                yield value
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                pairs = zip(targets, values, strict=False)
                yield from (value for target, value in pairs if isinstance(target, ast.Name) and target.id == name)
            case _:
                pass
