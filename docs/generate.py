"""Writes what the documentation takes from the code: `make docs`. With `--check` it writes nothing, and only compares.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; in the manual page these are comments of
mdoc. tests/test_docs.py holds every page to it. `draw` has the parts of a roll, `tables` those of a reader who
looks something up, `providers` that of the DNS providers, `codes` those of errors and the log (read off the code by
`raised` and `logged`), `manual` those of the manual page. Each JSON schema is a file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import codes
import draw
import manual
import providers
import tables

from certagent.cli.schema import TITLES, made
from certagent.report.text import to_json

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "packaging" / "man" / "certagent.1"])
SCHEMAS = ROOT / "docs" / "reference" / "schemas"
PARTS: dict[str, Callable[[], str]] = {**draw.PARTS, **tables.PARTS, **providers.PARTS, **manual.PARTS, **codes.PARTS}
_PART = re.compile(
    r"""(?mx) ( ^ (?:<!-- | \.\\") \s generated:\ ([a-z-]+) (?:\ -->)? \n )  # where it begins, and its name
        .*? ( ^ (?:<!-- | \.\\") \s end (?:\ -->)? $ )  # where it ends""",
    re.DOTALL,
)


def parts(page: str) -> list[str]:
    """The names of the generated parts of a page."""
    return [match[2] for match in _PART.finditer(page)]


def generated(page: str) -> str:
    """The page with its generated parts made anew."""
    return _PART.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}{match[3]}", page)


def written() -> Iterator[tuple[Path, str]]:
    """Every file that has something from the code, as it should be."""
    for path in PAGES:
        yield path, generated(path.read_text(encoding="utf-8"))
    for name in TITLES:
        yield SCHEMAS / f"{name}.json", to_json(made(name)).decode() + "\n"


def main() -> int:
    """Write the files; with `--check`, 1 if one is out of date."""
    check = "--check" in sys.argv
    stale: list[str] = []
    for path, new in written():
        if not path.exists() or path.read_text(encoding="utf-8") != new:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(new, encoding="utf-8")
    if stale:
        print("out of date:" if check else "written:", ", ".join(stale))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
