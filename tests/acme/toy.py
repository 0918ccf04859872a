"""A challenge type that only the tests know: responses are notes on a board."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from certagent.acme.challenges.protocol import Means, Offer
from certagent.facts.challenge import Challenge


class Toy:
    """A ChallengeType."""

    board: ClassVar[set[str]] = set()
    remedy = "look at the board"

    def __init__(self, means: Means) -> None: ...

    @staticmethod
    def respond(offer: Offer) -> Challenge:
        return Challenge("toy-01", offer.identifier, f"board/{offer.identifier}", offer.token)

    def present(self, challenges: Sequence[Challenge]) -> None:
        self.board.update(map(str, challenges))

    def serving(self, challenges: Sequence[Challenge]) -> AbstractContextManager[None]:
        return nullcontext()

    def ready(self, challenges: Sequence[Challenge]) -> str:
        assert self.board >= {str(c) for c in challenges}
        return ""

    def clean_up(self, challenges: Sequence[Challenge]) -> None:
        self.board.difference_update(map(str, challenges))
