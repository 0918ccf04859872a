"""The words of the command line: scripts with commands and what they print.

A script has a comment, a line `given: …` with phrases of `given.py`, and commands after `$ `. What follows a command
is its output, standard error after standard output. `...` stands for any text in a line; alone in a line, for any
lines. `[exit 3]` ends the output of a command that does not end with 0. PLACE is the directory of the configuration.

`python -m tests.script.test_script NAME…` writes what is printed now into scripts, to be read before it is committed.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import click
import pytest

from certagent.cli import main
from certagent.host.clock import SystemClock
from tests.script.given import NAME, Clock, Given

__all__ = ["NAME", "SCRIPTS", "run", "situation"]

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


def commands(script: str) -> Iterator[tuple[str, str]]:
    """Each command, and the output that stands below it."""
    for part in re.split(r"(?m)^\$ ", script)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected.strip("\n")


def run(command: str, given: Given) -> str:
    """What the command prints and how it ends."""
    program, *words = shlex.split(command)
    assert program == "certagent"
    found = main.cli.get_command(click.Context(main.cli), words[0]) if words else None
    if found and any(parameter.name == "path" for parameter in found.params):
        words[1:1] = ["--config", str(given.path)]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        mock.patch.object(sys, "argv", ["certagent", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main.main()
    both = out.buffer.getvalue() + err.buffer.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    shown = both.decode().replace(str(given.path.parent), "PLACE").strip("\n")
    code = int(ended.value.code or 0)
    return "\n".join(filter(None, [shown, f"[exit {code}]" if code else ""]))


def matches(expected: str, printed: str) -> bool:
    """Whether the output is as the script says."""
    pattern = "".join(
        r"(.*\n)*?" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + "\n"
        for line in expected.splitlines()
    )
    return re.fullmatch(pattern, f"{printed}\n" if printed else "") is not None


@contextlib.contextmanager
def situation(script: str, place: Path) -> Generator[Given]:
    """What the `given` line says has happened."""
    [line] = re.findall(r"(?m)^given: (.*)$", script)
    clock = Clock()
    with ExitStack() as cleanup:
        cleanup.enter_context(mock.patch.object(SystemClock, "wall", clock.wall))
        cleanup.enter_context(mock.patch.object(SystemClock, "reading", clock.reading))
        given = Given(place, clock, cleanup)
        for phrase in line.split("; "):
            given.happens(phrase)
        yield given


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path, tmp_path: Path) -> None:
    """Every command prints what stands below it."""
    script = path.read_text(encoding="utf-8")
    with situation(script, tmp_path) as given:
        for command, expected in commands(script):
            printed = run(command, given)
            assert matches(expected, printed), f"$ {command}\n{printed}"


def test_there_are_scripts() -> None:
    """And each says in a comment what it is about."""
    assert len(SCRIPTS) >= 25
    assert [path.name for path in SCRIPTS if not path.read_text(encoding="utf-8").startswith("# ")] == []


def record(path: Path) -> None:
    """Write what is printed now below each command."""
    script = path.read_text(encoding="utf-8")
    head = script[: script.index("$ ")]
    with tempfile.TemporaryDirectory() as place, situation(script, Path(place)) as given:
        parts = [f"$ {command}\n{run(command, given)}\n" for command, _ in commands(script)]
    path.write_text(head + "\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        record(Path(__file__).with_name(f"{name}.txt"))
