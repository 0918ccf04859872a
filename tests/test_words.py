"""The words that were given up do not come back; tests/words.py has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import words
from tests.words import ROOT, files, hits

UNCLEAN = Path(__file__).with_name("words.unclean")
"""Files that still have such words. The list only gets shorter: a file that is clean may not stay on it."""


def unclean() -> list[str]:
    return UNCLEAN.read_text(encoding="utf-8").split()


def test_old_words_do_not_come_back() -> None:
    """No file has a word that was given up, but for those on the list."""
    left = set(unclean())
    print(f"{len(left)} files are not clean yet: {' '.join(sorted(left))}")
    found = [str(hit) for path in files() if path.relative_to(ROOT).as_posix() not in left for hit in hits(path)]
    assert found == []


def test_clean_files_leave_the_list() -> None:
    """A file that is clean, or gone, is not on the list."""
    clean = {path.relative_to(ROOT).as_posix() for path in files() if not any(hits(path))}
    there = {path.relative_to(ROOT).as_posix() for path in files()}
    assert [name for name in unclean() if name in clean or name not in there] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("class StillHeld: ...", ["still held"]),
        ("    # the set is\n    # hurt by it\n", ["hurt"]),
        ("``one line an\nevent``", ["one line an event"]),
        ("a name of its own", ["of its own"]),
        ("whom to ask", ["whom"]),
        ("RFC 6125 section 6", ["rfc 6125"]),
        ("look it up, or look at it", []),
        ("the lock is held; the capabilities; recommend; threshold", []),
    ],
)
def test_rules_find_words(text: str, found: list[str]) -> None:
    """Names are read as words, and phrases run over the end of a line; parts of other words are not found."""
    assert [hit.text for hit in words.found("README.md", text)] == found
