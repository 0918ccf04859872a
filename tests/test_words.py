"""The words that were given up do not come back; tests/words.py has them."""

from __future__ import annotations

import pytest

from tests import words
from tests.words import files, hits


def test_old_words_do_not_come_back() -> None:
    """No file has a word that was given up."""
    assert [str(hit) for path in files() for hit in hits(path)] == []


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
