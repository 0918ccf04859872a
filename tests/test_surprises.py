"""What is served is asked for once more before a swap; of a mail server that is down its files are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
from msgspec.structs import replace

from certagent.agent.act import serving
from certagent.agent.edges import Edges
from certagent.facts.tls import Chain
from certagent.facts.unknown import Unknown
from certagent.lifecycle.state import State
from certagent.pki import bundle
from tests.lifecycle.play import SPEC, Life, served
from tests.pki import made

FILE = made.leaf().der
CHAIN = bundle.facts([FILE])
DOWN = Unknown("connection refused")
NO_TLS = Unknown("454 TLS not available", reached=True)


class Parts:
    """A mail server that answers so, with this file."""

    def __init__(self, answer: Chain | Unknown, file: bytes) -> None:
        self.answer = answer
        self.file = file
        self.servers = {"postfix": self}

    def probe(self, *_: Any) -> list[Any]:
        return [served(self.answer)]

    def installed(self) -> Mapping[str, bytes]:
        return {"ecdsa-p256": self.file}


def surprising(state: State, answer: Chain | Unknown) -> list[Chain | Unknown]:
    events = serving.surprises(("postfix",), SPEC, state, cast("Edges", Parts(answer, FILE)))
    return [one.chain for event in events for one in cast("Any", event).served]


@pytest.mark.parametrize(("answer", "found"), [(DOWN, [DOWN, CHAIN]), (NO_TLS, [])])
def test_a_file_of_others_counts_as_met_if_nobody_answers(answer: Unknown, found: list[Chain | Unknown]) -> None:
    """As soon as it is up, it serves that file."""
    assert surprising(Life.published().state, answer) == found


def test_a_file_of_what_is_known_to_be_served_is_no_surprise() -> None:
    state = Life.published().state
    [newest] = state.generations[-1:]
    known = replace(newest, chains={"ecdsa-p256": replace(CHAIN, issuers=("ca" * 32,))})
    assert surprising(replace(state, generations=(*state.generations[:-1], known)), DOWN) == []
