"""What the commands print, as versioned values: `plan`, `renew`, `check` and `tlsa`. Text and JSON are made from these.

`status` and `history` have separate files; what `init` prints is in `certagent.init.command`.

Each is a contract: its `version` grows when a field goes or changes its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from certagent.lifecycle import steps as st
from certagent.lifecycle.forecast import Foreseen, future_spki
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaNames
from certagent.pki import tlsa
from certagent.report.findings import Finding, Outcome, Rehearsal, worst
from certagent.report.status import Date, Failure
from certagent.report.step import Failed, StepReport
from certagent.report.words import brief, step_words
from certagent.report.zones import PlannedZone

VERSION = 1


# -- plan --------------------------------------------------------------------------------------------------------------


class Planned(Struct, frozen=True):
    """A step, or a wait, and when it comes if nothing fails."""

    at: Date
    step: str
    """The kind of step; `Wait` for a wait."""
    what: str
    """What is done, in words. Keys that do not exist yet are named, their digests are not known."""
    because: str
    wait_s: float | None = None
    """The length of a wait."""


class PlannedCertificate(Struct, frozen=True):
    """What comes next for one certificate."""

    name: str
    steps: tuple[Planned, ...]
    zones: tuple[PlannedZone, ...] = ()
    """Whose DNS providers make waits longer or count writes."""


class Plan(Struct, frozen=True):
    """What `certagent plan` foresees."""

    version: int
    certificates: tuple[PlannedCertificate, ...]


def planned(foreseen: Iterable[Foreseen]) -> tuple[Planned, ...]:
    """The view of a forecast. The digests that it makes up for keys to come are not shown."""
    unmade: dict[str, str] = {}
    result: list[Planned] = []
    for item in foreseen:
        step = item.step
        if isinstance(step, st.Wait):
            result.append(
                Planned(item.at.wall, "Wait", f"wait {brief(step.delay)}", step.because, step.delay.total_seconds())
            )
            continue
        if isinstance(step, st.MakeKeys):
            for key_type in step.key_types:
                unmade[tlsa.of_key(future_spki(step.keys, key_type))] = (
                    f"{tlsa.DANE_EE_SPKI_SHA256} of {step.keys} ({key_type})"
                )
        result.append(Planned(item.at.wall, type(step).__name__, step_words(step, unmade), step.because))
    return tuple(result)


# -- renew -------------------------------------------------------------------------------------------------------------


class StepFailure(Struct, frozen=True):
    """Why a step failed."""

    kind: str
    code: str
    detail: str
    hint: str


class Taken(Struct, frozen=True):
    """A step that was taken."""

    seq: int
    """The last event of it in the journal."""
    step: str
    lane: str
    what: str
    because: str
    took_s: float
    failure: StepFailure | None


class RenewedCertificate(Struct, frozen=True):
    """What `certagent renew` did for one certificate."""

    name: str
    steps: tuple[Taken, ...]
    next_in_s: float
    """How long until there is something to do again."""
    next: str
    """What is waited for."""
    failures: tuple[Failure, ...]
    """What fails now."""


class Renewal(Struct, frozen=True):
    """What `certagent renew` did."""

    version: int
    certificates: tuple[RenewedCertificate, ...]


def taken(report: StepReport) -> Taken:
    """The view of a step that was taken."""
    step, failure = report.step, report.failure
    return Taken(
        seq=report.seq,
        step=type(step).__name__,
        lane=str(step.lane),
        what=step_words(step),
        because=step.because,
        took_s=round(report.took_s, 3),
        failure=step_failure(failure) if failure else None,
    )


def step_failure(failed: Failed) -> StepFailure:
    """The view of a failure."""
    return StepFailure(failed.kind, failed.code, failed.detail, failed.hint)


# -- renew --dry-run ---------------------------------------------------------------------------------------------------


class RehearsedCertificate(Struct, frozen=True):
    """What the rehearsal of one certificate found."""

    name: str
    succeeds: bool
    """Whether the real run would."""
    findings: tuple[Finding, ...]
    written: tuple[str, ...]
    """Records that were written, and then removed."""
    removed: tuple[str, ...]
    plan: tuple[Planned, ...]
    """The real run."""
    kind: str
    """The kind of the failure with which the real run would end; "" if it would not fail."""


class RehearsalReport(Struct, frozen=True):
    """What `certagent renew --dry-run` found."""

    version: int
    certificates: tuple[RehearsedCertificate, ...]


def rehearsed(report: Rehearsal) -> RehearsedCertificate:
    """The view of a rehearsal."""
    return RehearsedCertificate(
        name=report.certificate,
        succeeds=not report.failed,
        findings=report.findings,
        written=report.written,
        removed=report.removed,
        plan=planned(report.timeline),
        kind=report.kind,
    )


# -- check -------------------------------------------------------------------------------------------------------------


class CheckedCertificate(Struct, frozen=True):
    """What `certagent check` found about one certificate."""

    name: str
    outcome: Outcome
    """The worst of the findings."""
    findings: tuple[Finding, ...]


class Check(Struct, frozen=True):
    """What `certagent check` found."""

    version: int
    certificates: tuple[CheckedCertificate, ...]


def checked(name: str, findings: Iterable[Finding]) -> CheckedCertificate:
    """The view of the findings about one certificate."""
    every = tuple(findings)
    return CheckedCertificate(name, worst(every), every)


# -- tlsa --------------------------------------------------------------------------------------------------------------


class TlsaRecord(Struct, frozen=True):
    """A TLSA record that belongs in DNS now."""

    tlsa_name: str
    ttl_s: int
    value: str
    comment: str
    """What it is for."""


class TlsaRecords(Struct, frozen=True):
    """What `certagent tlsa` prints."""

    version: int
    records: tuple[TlsaRecord, ...]


def tlsa_records(spec: Spec, state: State) -> Iterator[TlsaRecord]:
    """The records that belong in DNS now, each with what it is for."""
    comment: dict[str, str] = {}
    for generation in state.generations:
        for chain in generation.chains.values():
            for value in tlsa.records(chain, spec.tlsa_parameters):
                comment[value] = f"{generation.id}, keys {generation.keys or 'not certagent’s'}"
    for keyset in state.keys:
        for key_type, spki in keyset.spki.items():
            role = "in service" if keyset == state.current_keys else "next or standby"
            comment[tlsa.of_key(spki)] = f"keys {keyset.id} {key_type}, {role}"
    for name in TlsaNames(spec, state).configured:
        for value in sorted(name.desired):
            yield TlsaRecord(name.name, spec.ttl_s, value, comment.get(value, ""))
