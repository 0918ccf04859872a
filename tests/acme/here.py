"""What a challenge type may use that needs this host alone."""

from __future__ import annotations

from typing import Any

from certagent.facts.challenge import Method
from certagent.host.listener import Listeners


class Here:
    """Means: this host alone."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.listeners = Listeners()

    @property
    def txt(self) -> Any:
        raise AssertionError

    def addresses(self, host: str) -> tuple[str, ...]:
        return ("127.0.0.1",)
