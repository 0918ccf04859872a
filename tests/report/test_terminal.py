"""What is printed cannot be obeyed by a terminal."""

from __future__ import annotations

import json
import logging

import pytest
from msgspec import Struct

from certagent.errors import Transient
from certagent.report import log, text
from certagent.report.terminal import say

HOSTILE = "\x1b]0;mine\x07\r\x9b31m\u202e\u200b\x7f\U000e0041"


class View(Struct):
    word: str


def test_text_has_only_what_can_be_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines and columns stay."""
    say(f"a\n\tb {HOSTILE} ä…")
    assert capsys.readouterr().out == "a\n\tb ?]0;mine???31m???? ä…\n"


def test_json_says_the_same_and_has_only_what_can_be_seen() -> None:
    document = text.to_json(View(f"ä {HOSTILE}")).decode()
    assert document.replace("\n", "").isprintable()
    assert json.loads(document) == {"word": f"ä {HOSTILE}"}


def test_neither_an_error_nor_the_log_holds_any(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever raised it."""
    error = Transient("mta.reload", f"it said {HOSTILE}", HOSTILE)
    assert (error.detail + error.hint + str(error)).isprintable()
    log.start()
    logging.getLogger("certagent").warning(HOSTILE)
    assert capsys.readouterr().err.strip("\n").isprintable()
