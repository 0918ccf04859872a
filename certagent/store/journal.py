"""The journal: everything that ever happened to each subject of one kind, and the state it folds to.

Each row carries a digest chained to the row before it, and the head one chained to the last row. A torn page, a lost
or a changed row is found, not believed. The state in the head is only a shortcut: `verify` folds everything again and
compares. A head that an older version of the kind wrote is folded anew from the rows whenever it is read, until the
next append replaces it.

What is seen again and is the same adds no row (see `SubjectKind.topic`): its date moves in the head, which is folded
after the rows. Before the next row of any other kind it becomes a row itself, so nothing is ever folded out of order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import Generic

import msgspec

from certagent.errors import Misconfigured, Transient
from certagent.facts.moment import ClockId, Instant
from certagent.store import chain
from certagent.store.protocol import Found, Head, Row, Store, Wake
from certagent.store.subject import E, S, SubjectId, SubjectKind


class Known(msgspec.Struct, Generic[S], frozen=True):
    """What is known of a subject, and the number of the last row it rests on."""

    seq: int
    state: S


class Entry(msgspec.Struct, Generic[E], frozen=True):
    """One event: when it was, whose clock said so, and what happened."""

    seq: int
    at: Instant
    clock: ClockId | None
    """None if it is not kept: of what was seen again."""
    event: E
    again: bool = False
    """The row of that number once more, as last seen; it has no separate row."""


class Again(msgspec.Struct, frozen=True, array_like=True):
    """The last row of a topic, with nothing but other topics after it; and when the same was last seen again."""

    seq: int
    at: Instant | None = None


Topics = dict[str, Again]
_TOPICS = msgspec.json.Decoder(Topics)
_PORTION = 32
"""States read at once: few, so that they are let go of before they cost the collector anything."""


class Journal(Generic[S, E]):
    """The subjects of one kind in a store. Any thread may use it; errors are those of `Store`."""

    def __init__(self, store: Store, kind: SubjectKind[S, E]) -> None:
        self.store = store
        self._kind = kind

    @cached_property
    def _event(self) -> msgspec.json.Decoder[E]:  # milliseconds to make, and `status` reads no event
        return msgspec.json.Decoder(self._kind.event)

    @cached_property
    def _state(self) -> msgspec.json.Decoder[S]:
        return msgspec.json.Decoder(self._kind.state)

    def now(self) -> Instant:
        """See `Store.now`."""
        return self.store.now()

    # -- reading -------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Every subject of this kind that the journal knows."""
        return [name for subject in self.store.subjects() if (name := self._name(subject)) is not None]

    def state(self, name: str) -> S:
        """What is known of a subject; a new state where nothing is."""
        return self.read(name).state

    def read(self, name: str) -> Known[S]:
        """The state, and the row it rests on."""
        [found] = self.store.heads([self._subject(name)])
        return self._known(name, found)[0]

    def states(self, names: Iterable[str]) -> Iterator[S]:
        """What is known of each of these, in their order; as `state`, but for thousands."""
        rest = iter(names)
        while some := list(islice(rest, _PORTION)):
            heads = self.store.heads([self._subject(name) for name in some])
            yield from [self._known(name, found)[0].state for name, found in zip(some, heads, strict=True)]

    def history(self, name: str, after: int = 0) -> Iterator[Entry[E]]:
        """Every event after that number, each checked against the one before it; then what was seen again since."""
        subject = self._subject(name)
        rows, found = self.store.read(subject, after)
        yield from self._entries(subject, rows, after)
        topics = self._known(name, found)[1]
        if any(again.at for again in topics.values()):
            yield from self._seen_again(topics, self._recent(subject, topics))

    def verify(self, name: str) -> int:
        """Fold every event again and compare with the stored state; the number of rows."""
        subject = self._subject(name)
        rows, found = self.store.read(subject, 0)
        known, topics = self._known(name, found)
        if known.state != self._folded(name, rows, topics):
            raise self.store.damaged(f"{subject}: the events do not fold to the stored state")
        return known.seq

    def _folded(self, name: str, rows: Sequence[Row], topics: Topics) -> S:
        """The state that all these rows fold to, with what was seen again after them."""
        state, recent = self._kind.new(name), dict[int, E]()
        for entry in self._entries(self._subject(name), rows, 0):
            state = self._kind.fold(state, entry.event, entry.at)
            recent[entry.seq] = entry.event
        for entry in self._seen_again(topics, recent):
            state = self._kind.fold(state, entry.event, entry.at)
        return state

    def _known(self, name: str, found: Found) -> tuple[Known[S], Topics]:
        subject = self._subject(name)
        if found.head is None and found.last is None:
            return Known(0, self._kind.new(name)), {}
        head = found.head
        if head is None or found.last is None or not chain.belongs(head, found.last):
            raise self.store.damaged(f"{subject}: the state does not belong to the last event")
        if head.version > self._kind.version:
            detail = f"{subject}: its events are of version {head.version}; this certagent knows {self._kind.version}"
            raise Misconfigured("journal.version", detail, "use the certagent that wrote it, or a newer one")
        try:
            topics = _TOPICS.decode(head.again)
            if head.version == self._kind.version:
                return Known(head.seq, self._state.decode(head.state)), topics
        except (msgspec.MsgspecError, ValueError) as error:
            raise self.store.damaged(f"{subject}: the state does not read: {error}") from None
        rows, _ = self.store.read(subject, 0)  # another process may have added some meanwhile
        return Known(head.seq, self._folded(name, rows[: head.seq], topics)), topics

    def _entries(self, subject: str, rows: Sequence[Row], after: int) -> Iterator[Entry[E]]:
        previous = b"" if after < 1 else None
        expected = max(after, 1)
        for row in rows:
            if row.seq != expected:
                raise self.store.damaged(f"{subject}: event {expected} is missing")
            if previous is not None and row.digest != chain.row_digest(
                previous, subject, row.seq, row.wall, row.elapsed_s, row.clock, row.body
            ):
                raise self.store.damaged(f"{subject}: event {row.seq} was changed")
            previous, expected = row.digest, row.seq + 1
            if row.seq <= after:
                continue
            try:
                at = Instant(datetime.fromisoformat(row.wall), row.elapsed_s)
                yield Entry(row.seq, at, row.clock, self._event.decode(row.body))
            except (msgspec.MsgspecError, ValueError) as error:
                raise self.store.damaged(f"{subject}: event {row.seq} does not read: {error}") from None

    def _recent(self, subject: str, topics: Topics) -> dict[int, E]:
        """The events that the topics are about, by number: few, and the last ones."""
        first = min(again.seq for again in topics.values()) - 1
        rows, _ = self.store.read(subject, first)
        return {entry.seq: entry.event for entry in self._entries(subject, rows, first)}

    def _seen_again(self, topics: Topics, recent: dict[int, E]) -> Iterator[Entry[E]]:
        """What was seen again, in the order of the last time."""
        dated = [(again.at, again.seq) for again in topics.values() if again.at]
        for at, seq in sorted(dated, key=lambda pair: (pair[0].elapsed_s, pair[1])):
            yield Entry(seq, at, None, recent[seq], again=True)

    # -- writing -------------------------------------------------------------------------------------------------------

    def append(self, name: str, *events: E, expected: int | None = None) -> Known[S]:
        """Append the events in one durable transaction; what is known after them.

        `expected`: the last row that the caller knows; without it, whichever is last now.

        Raises:
            Transient: `journal.conflict`: There are newer rows.
            Error: Those of `Store.append`.
        """
        subject = self._subject(name)
        [found] = self.store.heads([subject])
        known, topics = self._known(name, found)
        if expected is not None and expected != known.seq:
            raise conflict(subject, expected)
        now, state = self.store.now(), known.state
        recent = self._recent(subject, topics) if topics else {}
        written = _Written(subject, self.store.clock, found.last or (0, b""))
        for event in events:
            state = self._kind.fold(state, event, now)
            topic = self._kind.topic(event)
            before = topics.get(topic) if topic else None
            if topic and before and recent[before.seq] == event:
                topics[topic] = Again(before.seq, now)
                continue
            moved = {e.seq: written.add(_encode(e.event), e.at) for e in self._seen_again(topics, recent)}
            recent |= {new: recent[old] for old, new in moved.items()}
            topics = {about: Again(moved.get(again.seq, again.seq)) for about, again in topics.items()}
            if topic is None or before:
                topics = {}
            seq = written.add(_encode(event), now)
            if topic:
                topics[topic], recent[seq] = Again(seq), event
        seq, last = written.last
        body, again, version = _encode(state), _encode(topics), self._kind.version
        digest = chain.head_digest(last, version, body, again)
        self.store.append(subject, known.seq, written.rows, Head(seq, version, body, again, digest))
        return Known(seq, state)

    def sleep(self, name: str, delay: timedelta, why: str) -> None:
        """See `Store.sleep`."""
        self.store.sleep(self._subject(name), delay, why)

    def wakes(self) -> dict[str, Wake]:
        """See `Store.wakes`, by name."""
        return {n: wake for subject, wake in self.store.wakes().items() if (n := self._name(subject)) is not None}

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def _subject(self, name: str) -> str:
        return str(self._kind.subject(name))

    def _name(self, text: str) -> str | None:
        subject = SubjectId.parse(text)
        return subject.name if subject.kind == self._kind.name else None


class _Written:
    """The rows of one append, chained as they are added."""

    def __init__(self, subject: str, clock: ClockId, last: tuple[int, bytes]) -> None:
        self._subject = subject
        self._clock = clock
        self.last = last
        self.rows: list[Row] = []

    def add(self, body: bytes, at: Instant) -> int:
        """The number of the new row."""
        seq, wall = self.last[0] + 1, at.wall.isoformat()
        digest = chain.row_digest(self.last[1], self._subject, seq, wall, at.elapsed_s, self._clock, body)
        self.rows.append(Row(seq, wall, at.elapsed_s, self._clock, body, digest))
        self.last = seq, digest
        return seq


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def conflict(subject: str, expected: int) -> Transient:
    """Another row came first."""
    detail = f"{subject}: something happened after event {expected}, the last one known here"
    return Transient("journal.conflict", detail, "nothing: the journal is read again")
