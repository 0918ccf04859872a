"""The journals of every version are read for years: their events keep their meaning, and their form.

If one of these fails, events, state or fold have changed. Is the present version not released yet, write its file anew:
`python -m tests.lifecycle.recorded`. Else raise `VERSION` in `agent/certificate.py` first: stored states are then
folded anew, and an older certagent refuses what it would not understand.
"""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from certagent.agent.certificate import VERSION
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps
from tests.lifecycle.recorded import encoded, kinds, read, refolded


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_events_of_every_version_fold(version: int) -> None:
    for recorded in read(version):
        assert refolded(recorded).name == "mail"


def test_stored_states_of_this_version_are_what_the_events_fold_to() -> None:
    """To the byte: a new field shows, too."""
    for recorded in read(VERSION):
        assert encoded(refolded(recorded)) == bytes(recorded.state)


def test_events_of_this_version_are_written_as_they_were() -> None:
    for recorded in read(VERSION):
        for _, body in recorded.events:
            now = encoded(msgspec.json.decode(body, type=ev.AnyEvent))
            assert msgspec.json.decode(now) == msgspec.json.decode(body)  # values: a whole number may be written as 1.0


def test_every_kind_of_event_and_of_intent_is_there() -> None:
    events = [msgspec.json.decode(body, type=ev.AnyEvent) for one in read(VERSION) for _, body in one.events]
    shown = {kind for event in events for kind in kinds(event)}
    assert shown >= {kind.__name__ for kind in get_args(ev.AnyEvent)}
    assert shown >= {f"intended {kind.__name__}" for kind in get_args(steps.AnyStep) if kind.CHANGES}
