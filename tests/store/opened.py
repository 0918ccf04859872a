"""The journal of the certificates in a file, as the wiring opens it."""

from __future__ import annotations

from pathlib import Path

from certagent.agent.certificate import CERTIFICATE
from certagent.host.clock import Clock, SystemClock
from certagent.lifecycle.events import AnyEvent
from certagent.lifecycle.state import State
from certagent.store.journal import Journal
from certagent.store.sqlite import Sqlite

Certificates = Journal[State, AnyEvent]


def opened(path: Path, clock: Clock | None = None) -> Certificates:
    """Opened, or made."""
    return Journal(Sqlite(path, clock or SystemClock()), CERTIFICATE)
