"""A stored state is a shortcut: one that another version of the kind wrote is never believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from msgspec import Struct
from msgspec.structs import replace

from certagent.errors import Misconfigured
from certagent.facts.moment import Instant
from certagent.store import chain
from certagent.store.journal import Journal
from certagent.store.protocol import Head
from certagent.store.subject import SubjectKind
from certagent.testing import Memory, Shared
from certagent.testing.store import HandClock


class Said(Struct, frozen=True, tag=True):
    what: str


class Seen(Struct, frozen=True, tag=True):
    what: str


class First(Struct, frozen=True):
    """As version 1 had it."""

    words: int = 0
    seen_at: Instant | None = None


class Second(Struct, frozen=True):
    """One field is another, one is new, and one has gone."""

    words: tuple[str, ...] = ()
    last_seen: tuple[str, Instant] | None = None


Event = Said | Seen


def first(state: First, event: Event, now: Instant) -> First:
    return replace(state, words=state.words + 1) if isinstance(event, Said) else replace(state, seen_at=now)


def second(state: Second, event: Event, now: Instant) -> Second:
    if isinstance(event, Said):
        return replace(state, words=(*state.words, event.what))
    return replace(state, last_seen=(event.what, now))


def topic(event: Event) -> str | None:
    return "seen" if isinstance(event, Seen) else None


BEFORE: SubjectKind[First, Event] = SubjectKind("tale", Event, First, lambda _: First(), first, 1, topic)
AFTER: SubjectKind[Second, Event] = SubjectKind("tale", Event, Second, lambda _: Second(), second, 2, topic)


class Host:
    """One store, and what each version finds in it."""

    def __init__(self) -> None:
        self.clock, self.shared = HandClock(), Shared()
        self.store = Memory(self.shared, self.clock)
        self.before, self.after = Journal(self.store, BEFORE), Journal(self.store, AFTER)

    def head(self, name: str) -> Head:
        [found] = self.store.heads([f"tale/{name}"])
        assert found.head
        return found.head


@pytest.fixture
def host() -> Iterator[Host]:
    """The older version wrote three rows, and saw the last thing again an hour later."""
    host = Host()
    host.before.append("a", Said("once"), Said("upon"), Seen("a wolf"))
    host.clock.passes(3600)
    host.before.append("a", Seen("a wolf"))
    assert (host.head("a").seq, host.head("a").version) == (3, 1)
    yield host
    host.store.close()


def test_the_state_of_an_older_version_is_folded_anew(host: Host) -> None:
    """By every way to read it, and with what was seen again: only the head has its date."""
    wanted = Second(("once", "upon"), ("a wolf", host.store.now()))
    assert host.after.state("a") == wanted
    assert host.after.read("a").seq == 3
    assert list(host.after.states(["a", "b"])) == [wanted, Second()]
    assert host.after.verify("a") == 3
    assert [(entry.seq, entry.again) for entry in host.after.history("a")] == [
        (1, False),
        (2, False),
        (3, False),
        (3, True),
    ]
    assert host.head("a").version == 1, "reading writes nothing"


@pytest.mark.parametrize("event", [Said("a time"), Seen("a wolf"), Seen("a hare")])
def test_an_append_goes_on_from_it(host: Host, event: Event) -> None:
    """It is folded onto what the rows say, and the head is of this version from then on."""
    host.clock.passes(60)
    known = host.after.append("a", event, expected=3)
    assert host.head("a").version == 2
    assert host.after.read("a") == known
    assert known.state.words[:2] == ("once", "upon")
    assert host.after.verify("a") == known.seq


def test_rows_that_came_meanwhile_belong_to_the_next_state(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process appends between the reading of the head and that of the rows."""
    read = host.store.read

    def late(subject: str, after: int) -> object:
        monkeypatch.undo()
        host.before.append("a", Said("later"))
        return read(subject, after)

    monkeypatch.setattr(host.store, "read", late)
    known = host.after.read("a")
    assert (known.seq, known.state.words) == (3, ("once", "upon"))
    assert host.after.state("a").words == ("once", "upon", "later")


def test_a_greater_version_is_refused_and_nothing_is_appended(host: Host) -> None:
    """Its events may have a meaning that is not known here."""
    host.after.append("a", Said("a time"))
    for refused in (
        lambda: host.before.state("a"),
        lambda: host.before.verify("a"),
        lambda: list(host.before.history("a")),
    ):
        with pytest.raises(Misconfigured, match=r"of version 2; this certagent knows 1 .*journal\.version"):
            refused()
    rows = len(host.shared.rows["tale/a"])
    with pytest.raises(Misconfigured, match=r"journal\.version"):
        host.before.append("a", Said("no"))
    assert len(host.shared.rows["tale/a"]) == rows


def _changed(host: Host) -> None:
    rows = host.shared.rows["tale/a"]
    rows[1] = replace(rows[1], body=rows[1].body.replace(b"upon", b"open"))


def _lost(host: Host) -> None:
    del host.shared.rows["tale/a"][0]


def _version(host: Host) -> None:
    """A head of this version that says it is of another."""
    host.shared.heads["tale/a"] = replace(host.shared.heads["tale/a"], version=2)


def _unread(host: Host) -> None:
    head, rows = host.shared.heads["tale/a"], host.shared.rows["tale/a"]
    digest = chain.head_digest(rows[-1].digest, head.version, head.state, b"[]")
    host.shared.heads["tale/a"] = replace(head, again=b"[]", digest=digest)


@pytest.mark.parametrize("harm", [_changed, _lost, _version, _unread])
def test_damage_is_refused_as_ever(host: Host, harm: Callable[[Host], None]) -> None:
    harm(host)
    with pytest.raises(Misconfigured, match=r"journal\.damaged"):
        host.after.state("a")
