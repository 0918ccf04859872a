"""What a look at the world came to: the words of `certagent check` and of a rehearsal."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from certagent.lifecycle import issuance
from certagent.lifecycle.forecast import Foreseen
from certagent.lifecycle.model import Spec
from certagent.lifecycle.state import State
from certagent.pki.leaf import Leaf


class Finding(Struct, frozen=True):
    """One thing looked at or tried, and how it ended. `refused` stands for what is wrong; `note` for what is worth
    knowing.
    """

    outcome: Literal["ok", "note", "refused"]
    what: str
    detail: str
    hint: str = ""


def tight(spec: Spec, state: State, algorithm: str, leaf: Leaf) -> list[Finding]:
    """A warning where the lifetime of a certificate leaves too little room for rolls."""
    why = issuance.tight(spec, state, leaf)
    hint = "lower the TTL of the TLSA records"
    if "2 1 1" in spec.triples:
        hint += ", or publish 3 1 1 alone"
    elif not spec.standby:
        hint += ", or set standby_key: true"
    return [Finding("note", f"certificate {algorithm}", why, hint)] if why else []


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
