"""What a look at the world came to: the words of `certagent check` and of a rehearsal."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from certagent.facts.tls import Chain
from certagent.lifecycle.forecast import Foreseen
from certagent.lifecycle.rules import rotation
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State


class Finding(Struct, frozen=True):
    """One thing looked at or tried, and how it ended. `refused` stands for what is wrong; `note` for what is worth
    knowing.
    """

    outcome: Literal["ok", "note", "refused"]
    what: str
    detail: str
    hint: str = ""


def no_time_to_roll(spec: Spec, state: State, key_type: str, chain: Chain) -> list[Finding]:
    """A warning where the lifetime of a certificate leaves too little room for rolls."""
    why = rotation.no_time_to_roll(spec, state, chain)
    hint = "lower the TTL of the TLSA records"
    if "2 1 1" in spec.tlsa_parameters:
        hint += ", or publish 3 1 1 alone"
    elif not spec.standby:
        hint += ", or set standby: true"
    return [Finding("note", f"certificate {key_type}", why, hint)] if why else []


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
