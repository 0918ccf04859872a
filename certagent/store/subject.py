"""What the journal knows of a kind of subject: its events and its states, and nothing of what they mean.

A subject is named `KIND/NAME`; `certificate/mx1.example.org` is of the first kind. How one is looked after:
`agent/subject.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Self, TypeVar

from msgspec import Struct

from certagent.facts.moment import Instant

S = TypeVar("S")
E = TypeVar("E")


class SubjectId(NamedTuple):
    """What a subject is called. The store has it as text; it is made of text only here."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The subject of that text. A kind has no slash in it; a name may have some."""
        kind, _, name = text.partition("/")
        return cls(kind, name)


class SubjectKind(Struct, Generic[S, E], frozen=True):
    """One kind of subject. Everything here is pure."""

    name: str
    event: Any
    """The type of its events: structs with a tag, as msgspec reads them."""
    state: type[S]
    new: Callable[[str], S]
    """The state of a subject of that name before its first event."""
    fold: Callable[[S, E, Instant], S]
    """The state after an event. The only way a state changes."""
    version: int
    """Of events, state and fold. It rises whenever the same events fold to another state, or an event or a field of one
    is new. A stored state of a smaller version is folded anew from the events; one of a greater version is refused.
    """
    topic: Callable[[E], str | None]
    """What an event that only says what was seen is about; None for any other event.

    Seen again and the same, with nothing but other topics in between, it moves dates and adds no row. So its fold
    changes only its own part of the state, and twice in a row does what the last one does.
    """

    def subject(self, name: str) -> SubjectId:
        """The subject of this kind with that name."""
        return SubjectId(self.name, name)
