"""Journals as each version of the certificate's events wrote them, with the state that they fold to.

`python -m tests.lifecycle.recorded` writes those of the present version, drawn from simulated histories: few and short
ones, which together have every kind of event, of intended step and of request. A file is never changed after the
release of its version.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from certagent.agent.certificate import VERSION
from certagent.facts.moment import Instant
from certagent.lifecycle import events as ev
from certagent.lifecycle.fold import fold
from certagent.lifecycle.state import State

HERE = Path(__file__).parent
LONGEST = 200
"""Events of a recorded history at most: somebody has to read the file."""


class Recorded(Struct, frozen=True):
    """One history: raw JSON, as it is in the journal."""

    events: list[tuple[Instant, msgspec.Raw]]
    state: msgspec.Raw


def path(version: int) -> Path:
    """The file of that version: one history a line."""
    return HERE / f"recorded-{version}.jsonl"


def read(version: int) -> list[Recorded]:
    """The histories of that version."""
    return [msgspec.json.decode(line, type=Recorded) for line in path(version).read_bytes().splitlines()]


def refolded(recorded: Recorded) -> State:
    """The state that the events fold to today."""
    state = State(name=msgspec.json.decode(recorded.state)["name"])
    for at, body in recorded.events:
        state = fold(state, msgspec.json.decode(body, type=ev.AnyEvent), at)
    return state


def encoded(value: object) -> bytes:
    """As the journal encodes it."""
    return msgspec.json.encode(value, order="sorted")


def kinds(event: ev.AnyEvent) -> set[str]:
    """What a history of it shows."""
    found = {type(event).__name__}
    if isinstance(event, ev.Intended):
        found.add(f"intended {type(event.step).__name__}")
    if isinstance(event, ev.Requested):
        found.add(f"requested {event.what}")
    return found


def drawn() -> Iterator[tuple[list[tuple[ev.AnyEvent, Instant]], State]]:
    """Simulated histories from their first event on."""
    from tests.simulation.ca import cheap
    from tests.simulation.tree import Trunk

    with cheap() as dice:
        for number in range(3000):
            trunk = Trunk(number, dice, tracing=False)
            journal = trunk.history.world.journal
            if journal.first == State(name=journal.first.name) and len(journal.rows) <= LONGEST:
                yield journal.rows, journal.head


def main() -> int:
    """Write the file of the present version."""
    lines: list[tuple[set[str], bytes]] = []
    for rows, state in drawn():
        events = [(at, msgspec.Raw(encoded(event))) for event, at in rows]
        found = {kind for event, _ in rows for kind in kinds(event)}
        lines.append((found, encoded(Recorded(events, msgspec.Raw(encoded(state))))))
    shown: set[str] = set()
    chosen: list[bytes] = []
    while any(found - shown for found, _ in lines):
        found, line = max(lines, key=lambda one: len(one[0] - shown) / len(one[1]))
        shown |= found
        chosen.append(line)
    path(VERSION).write_bytes(b"\n".join(chosen) + b"\n")
    print(f"{path(VERSION).name}: {len(chosen)} histories, {len(shown)} kinds: {', '.join(sorted(shown))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
