"""Files are opened, and programs are started, in one place: there everything is bounded and nobody else is believed."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.words import ROOT

ELSEWHERE = ("certagent/host/", "certagent/store/", "certagent/testing/")
"""The one place; what is in `state_dir`, which nobody else can enter; what runs in the tests of authors of plug-ins."""
HERE = {("certagent/cli/main.py", "os.open"): "/dev/null"}
PROGRAMS = {"certagent/host/programs.py"}

OPENS = {
    *(f"os.{name}" for name in ("open", "fdopen", "mkfifo", "mknod", "sendfile", "memfd_create")),
    *("io.open", "codecs.open", "tokenize.open", "fileinput.input", "mmap.mmap"),
    *("open", "read_bytes", "read_text", "write_bytes", "write_text", "touch"),
}
"""Functions, and methods of `Path` by their names alone."""
OURS = {"read_text"}
"""A function of `host/files.py` has this name; as a method it is that of `Path`."""
MODULES = {"subprocess", "shutil", "tempfile", "pty", "fileinput", "multiprocessing", "linecache"}
STARTS = ("exec", "spawn", "posix_spawn", "system", "popen", "fork", "startfile")


def found(source: str) -> Iterator[tuple[int, str]]:
    """Calls that open a file or start a program, and imports of what does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            yield from ((node.lineno, name) for name in names if name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            whole = ast.unparse(node.func)
            name = node.func.attr
            if whole in OPENS or (name in OPENS and not whole.startswith("os.")):
                yield node.lineno, whole if whole in OPENS else name
            if whole.startswith("os.") and name.startswith(STARTS):
                yield node.lineno, whole
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OPENS - OURS:
            yield node.lineno, node.func.id


def test_nothing_else_opens_files_or_starts_programs() -> None:
    odd: list[str] = []
    for path in sorted((ROOT / "certagent").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(ELSEWHERE):
            continue
        odd += [f"{name}:{line}: {what}" for line, what in found(path.read_text("utf-8")) if (name, what) not in HERE]
    assert odd == []


def test_programs_are_started_in_one_file() -> None:
    starts = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "certagent").rglob("*.py")
        if "certagent/testing/" not in path.as_posix()
        and any(w.startswith(("subprocess", "os.exec", "os.spawn", "os.posix")) for _, w in found(path.read_text()))
    }
    assert starts == PROGRAMS


@pytest.mark.parametrize(
    "text",
    [
        *("open(p)", "os.open(p, 0)", "io.open(p)", "p.open()", "p.touch()", "p.read_bytes()", "Path(p).read_text()"),
        *("import subprocess as s", "from shutil import copy2", "import tempfile", "os.execv(p, a)", "os.system(p)"),
    ],
)
def test_each_way_is_found(text: str) -> None:
    assert list(found(text))
