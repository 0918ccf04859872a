"""What was found once, and some hundred inputs from a fixed seed; `make fuzz` goes on for as long as it is told."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.parsers import corpus, parsers
from tests.fuzz.run import crash

INPUTS = 200


@pytest.mark.parametrize("name", parsers())
def test_nothing_but_its_errors_comes_out(name: str) -> None:
    """Of each parser of bytes that somebody else wrote."""
    parser, random = parsers()[name], Random(name)
    starts = [*parser.starts, *corpus(name)]
    for data in [b"", *starts, *(mutated(random, starts) for _ in range(INPUTS))]:
        assert crash(parser, data) is None, data
