"""What a child process of a provider was given, and what it said."""

from __future__ import annotations

from typing import Any

import pytest

from certagent.dns.providers import child
from certagent.host.programs import Result, run


def given_and_said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments, environment, standard input and output of each call from now on."""
    seen: list[str] = []

    def spy(argv: Any, timeout_s: float, **how: Any) -> Result:
        result = run(argv, timeout_s, **how)
        seen.append(repr((argv, how, result)))
        return result

    monkeypatch.setattr(child, "run", spy)
    return seen
