"""Findings: what `certagent check`, `certagent init` and a rehearsal say of each thing they checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from certagent.facts.dns import Observation
from certagent.facts.tls import Chain
from certagent.lifecycle.forecast import Foreseen
from certagent.lifecycle.rules import rotation
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.pki import tlsa

Outcome = Literal["ok", "note", "warning", "error"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "note", "warning", "error")
"""By severity."""


class Finding(Struct, frozen=True):
    """One thing that was checked or tried, and how it is.

    `note`: worth knowing; `warning`: works now, but will not for long or not always; `error`: wrong, or did not work.
    """

    outcome: Outcome
    what: str
    detail: str
    hint: str = ""


def worst(findings: Iterable[Finding]) -> Outcome:
    """The worst outcome; that of none is `ok`."""
    return OUTCOMES[max((OUTCOMES.index(finding.outcome) for finding in findings), default=0)]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """In the order of severity, else as they come."""
    return sorted(findings, key=lambda finding: -OUTCOMES.index(finding.outcome))


def dnssec(tlsa_name: str, observation: Observation) -> Finding:
    """Whether senders can validate the records."""
    why = f", {observation.why}" if observation.why else ""
    if observation.security == "secure":
        return Finding("ok", f"DNSSEC {tlsa_name}", f"secure{why}")
    hint = "senders use TLSA records only if DNSSEC validates (RFC 7672 section 2.2)"
    if observation.security == "unknown":
        hint = (
            "let a validating resolver run on this host, or install delv (Debian: bind9-dnsutils); or set dns.trust_ad,"
        )
        hint += " or dns.public_view if it is true"
    return Finding("error", f"DNSSEC {tlsa_name}", f"{observation.security}{why}", hint)


def no_time_to_roll(spec: Spec, state: State, key_type: str, chain: Chain) -> list[Finding]:
    """A warning if the lifetime of a certificate leaves too little time to roll its keys."""
    why = rotation.no_time_to_roll(spec, state, chain)
    hint = "lower the TTL of the TLSA records"
    if tlsa.DANE_TA_SPKI_SHA256 in spec.tlsa_parameters:
        hint += f", or publish {tlsa.DANE_EE_SPKI_SHA256} alone"
    elif not spec.standby:
        hint += ", or set standby: true"
    return [Finding("warning", f"certificate {key_type}", why, hint)] if why else []


class Rehearsal(Struct, frozen=True):
    """All that `renew --dry-run` tried, the records it wrote and removed, and the timeline of the real run."""

    certificate: str
    findings: tuple[Finding, ...]
    written: tuple[str, ...]
    removed: tuple[str, ...]
    timeline: tuple[Foreseen, ...]
    kind: str = ""
    """The kind of the failure with which the real run would end; "" if it would not fail."""

    @property
    def failed(self) -> bool:
        """Whether the real run would be stopped."""
        return any(finding.outcome == "error" for finding in self.findings)
