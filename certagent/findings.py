"""What a look at the world came to: the words of `certagent check` and of a rehearsal."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from certagent.lifecycle.forecast import Foreseen


class Finding(Struct, frozen=True):
    """One thing looked at or tried, and how it ended. `refused` stands for what is wrong; `note` for what is worth
    knowing.
    """

    outcome: Literal["ok", "note", "refused"]
    what: str
    detail: str
    hint: str = ""


class Rehearsal(Struct, frozen=True):
    """All that `renew --dry-run` tried, the records it wrote and removed, and the timeline of the real run."""

    certificate: str
    findings: tuple[Finding, ...]
    written: tuple[str, ...]
    removed: tuple[str, ...]
    timeline: tuple[Foreseen, ...]

    @property
    def refused(self) -> bool:
        """Whether the real run would be stopped."""
        return any(f.outcome == "refused" for f in self.findings)
