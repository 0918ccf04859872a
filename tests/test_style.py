"""One style in the whole package, as far as the linter does not hold it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

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


def test_proc_has_one_reader() -> None:
    """`host/proc.py` makes each path below /proc."""
    found = [
        f"{_name(path)}:{text.lineno}"
        for path in PACKAGE
        if _name(path) != "certagent/host/proc.py"
        for text in _texts(ast.parse(path.read_text(encoding="utf-8")))
        if str(text.value).startswith("/proc")
    ]
    assert found == []


RAISES = re.compile(r"\n[ ]*Raises:\n(?P<entries>(?:[ ]+\S.*\n?)+)\s*\Z")
ENTRY = re.compile(r"[A-Z]\w+: \S.*")


def _documentation(tree: ast.Module) -> list[str]:
    """The docstrings of a module, with what is in it."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return [text for text in found if text]


def _raises_in_other_words(text: str) -> bool:
    """It says in prose, or in another form, what is raised."""
    if not re.search(r"\bRaises(?: `|: |:\n|:\Z| [A-Z]\w+Error)", text):
        return False
    block = RAISES.search(text)
    if block is None or text.count("Raises:") != 1:
        return True
    lines = block["entries"].splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    entries = [line[indent:] for line in lines if not line[indent:].startswith(" ")]
    return not all(ENTRY.match(entry) for entry in entries)


def test_raises_is_the_last_section_and_names_the_class_first() -> None:
    """Google style: `Class: `code`, `code`: when.`, one line per class or code."""
    found = [
        f"{_name(path)}: {text}"
        for path in PACKAGE
        for text in _documentation(ast.parse(path.read_text(encoding="utf-8")))
        if _raises_in_other_words(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("It.\n\nRaises:\n    Misconfigured: `mta.config`: It is old.\n    Error: As `run`.", False),
        ("It.\n\nRaises:\n    Misconfigured: `mta.config`: It is old, and\n        more.", False),
        ("It raises nothing.", False),
        ("It. Raises: `mta.config`.", True),
        ("Raises `mta.config` if it is old.", True),
        ("It.\n\nRaises:\n    mta.config: (Misconfigured) It is old.", True),
        ("It.\n\nRaises:\n    OSError.", True),
        ("It.\n\nRaises:\n    OSError: It is old.\n\nMore.", True),
    ],
)
def test_other_forms_of_raises_are_found(text: str, wrong: bool) -> None:
    """One form is right."""
    assert _raises_in_other_words(text) is wrong


def test_section_rules_have_one_form() -> None:
    """`# -- subject ---…`, up to column 120."""
    found = [
        f"{_name(path)}:{number}: {line}"
        for path in PACKAGE
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.match(r"\s*# ?[-=]{2,}|\s*#.*[-=]{4,}$", line)
        and (len(line) != 120 or not re.fullmatch(r"\s*# -- \S.*\S -+", line))
    ]
    assert found == []


# -- constants and sections of standards -------------------------------------------------------------------------------

UNITS = re.compile(r"_(S|BYTES|CHARS|DAYS)$")


def _constants_in_other_form(source: str) -> list[str]:
    """Module constants with a number that have a comment in place of a docstring; those with a unit that have none."""
    tree, lines, found = ast.parse(source), source.splitlines(), list[str]()
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        left = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
        parts = {type(part) for part in ast.walk(node.value)} - {ast.Tuple, ast.BinOp, ast.UnaryOp, ast.Load}
        numbers = all(kind is ast.Constant or issubclass(kind, ast.operator | ast.unaryop) for kind in parts)
        values = [part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
        if not numbers or not all(type(value) in {int, float} for value in values):
            continue
        said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        names = left.strip("()").split(", ")
        if "  # " in lines[(node.end_lineno or 1) - 1] or (any(map(UNITS.search, names)) and not said):
            found.append(left)
    return found


def test_constants_say_their_reason_in_one_form() -> None:
    """The name ends with the unit, and the docstring below it gives the reason."""
    found = [
        f"{_name(path)}: {name}"
        for path in PACKAGE
        for name in _constants_in_other_form(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('WAIT_S = 3.0\n"""A CA is done by then."""\n', []),
        ("WAIT_S = 3.0  # a CA is done by then\n", ["WAIT_S"]),
        ("FIRST_S, LAST_BYTES = 1, 2 << 3\n", ["(FIRST_S, LAST_BYTES)"]),
        ("PORT = 80\n", []),
        ("PORT = 80  # http\n", ["PORT"]),
        ('TEXT = "a"  # b\n', []),
    ],
)
def test_other_forms_of_constants_are_found(source: str, found: list[str]) -> None:
    assert _constants_in_other_form(source) == found


OTHER_SECTIONS = re.compile(
    r"§|\bsect?\. ?\d|\bRFC \d+,? (?:Sections?|sec|s\.|para|chapter)(?!tion)\b|\bRFC-?\d+,? [Ss]ec"
    r"|\b[Ss]ections? [\d.]+ of (?:the )?RFC|\bRFC \d+, section"
)


def test_sections_of_standards_have_one_form() -> None:
    """`RFC 8555 section 7.6`, in the package, its documentation and its tests."""
    files = [*PACKAGE, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.py")]
    found = [
        f"{_name(path)}: {match[0]}"
        for path in files
        if path != Path(__file__)
        for match in OTHER_SECTIONS.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_other_forms_of_sections_are_found() -> None:
    wrong = [
        "RFC 8555 §7.6",
        "RFC8555 section 7.6",
        "section 7.6 of RFC 8555",
        "RFC 8555, section 7.6",
        "RFC 8555 Section 7",
    ]
    assert [text for text in wrong if not OTHER_SECTIONS.search(text)] == []
    assert not OTHER_SECTIONS.search("RFC 8555 section 7.6, RFC 8446 sections 4.2.1 and 4.2.3")
