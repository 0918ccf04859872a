"""What certagent remembers, as the journal has it: for tests of the engine. Programs read `certagent … --json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tests.store.opened import opened


def state(state_dir: Path, name: str) -> dict[str, Any]:
    """The state of a certificate."""
    journal = opened(state_dir / "journal.db")
    try:
        return msgspec.json.decode(msgspec.json.encode(journal.state(name)))
    finally:
        journal.close()


def events(state_dir: Path, name: str) -> list[Any]:
    """Every event of it, after the journal was verified."""
    journal = opened(state_dir / "journal.db")
    try:
        journal.verify(name)
        return msgspec.json.decode(msgspec.json.encode(list(journal.history(name))))
    finally:
        journal.close()
