"""The views as text: plain lines, the verdict first, then what fails; a date before what happened, the reason last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from certagent.errors import printable
from certagent.lifecycle.schedule import FOLLOWING
from certagent.report.overview import WORDS, verdicts
from certagent.report.terminal import escaped
from certagent.report.words import brief, count, date, short

if TYPE_CHECKING:  # `status` does without the planner, which the other views need
    from certagent.report.conditions import Condition
    from certagent.report.findings import Finding
    from certagent.report.history import Event
    from certagent.report.roll import Stage
    from certagent.report.status import (
        Certificate,
        Failure,
        MailServer,
        Roll,
        Status,
        TlsaName,
    )
    from certagent.report.views import CheckedCertificate, Planned, RehearsedCertificate, Taken, TlsaRecord


def to_json(value: Any) -> bytes:
    """One document; dates are RFC 3339 in UTC, keys sorted."""
    document = msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2)
    return escaped(document.decode()).encode()


# -- steps -------------------------------------------------------------------------------------------------------------


def step(certificate: str, taken: Taken) -> str:
    """The line of a step that was taken: why it was due, or why it failed."""
    if taken.failure:
        return f"{certificate}: FAILED {taken.what} [{taken.took_s:.2f} s]: {taken.failure.detail}"
    return f"{certificate}: {taken.what} [{taken.took_s:.2f} s]: {taken.because}"


def timeline(steps: Sequence[Planned]) -> str:
    """A forecast, one line per step; a wait shows its length and its reason."""
    lines: list[str] = []
    waits: list[Planned] = []

    def waited() -> None:
        if waits:
            total = timedelta(seconds=sum(wait.wait_s or 0.0 for wait in waits))
            lines.append(f"{'':19}  … {brief(total)}: {waits[-1].because}")
            waits.clear()

    for item in steps:
        if item.wait_s is not None:
            waits.append(item)
        elif not (waits and item.step == "Observe" and item.because != FOLLOWING):
            # an observation while a wait goes on says nothing new in a forecast
            waited()
            lines.append(f"{date(item.at)}  {item.what}: {item.because}")
    waited()
    return "\n".join(lines)


# -- findings ----------------------------------------------------------------------------------------------------------


def outcome(checked: CheckedCertificate) -> str:
    """How many findings there are of each kind, the worst first."""
    outcomes = [finding.outcome for finding in checked.findings]
    parts = [
        count(outcomes.count(one), one) if one != "ok" else f"{outcomes.count(one)} ok"
        for one in dict.fromkeys(outcomes)
    ]
    return ", ".join(parts) or "nothing to check"


def finding(item: Finding) -> str:
    """A line of `check`, of `init` or of a rehearsal; the hint below it."""
    mark = {"ok": "ok", "note": "note", "warning": "WARNING", "error": "ERROR"}[item.outcome]
    return f"  {mark:<8}{item.what}: {item.detail}" + (f"\n          hint: {item.hint}" if item.hint else "")


def rehearsal(report: RehearsedCertificate) -> str:
    """What a rehearsal wrote and removed, and the timeline of the real run."""
    lines = [f"  wrote   {record}" for record in report.written]
    lines += [f"  removed {record}" for record in report.removed]
    nothing = "nothing else" if lines else "nothing"
    lines.append(f"  {nothing} was changed: no TLSA record, no file of a mail server, no reload")
    lines.append("the real run:")
    stops = "ERROR: the real run would stop at what is marked above"
    return "\n".join([*lines, timeline(report.plan), "the real run would succeed" if report.succeeds else stops])


# -- status ------------------------------------------------------------------------------------------------------------

_STAGES: dict[Stage, str] = {
    "issue": "a certificate is being issued",
    "publish": "its TLSA records are published, and caches are waited for",
    "swap": "the mail servers are swapped now",
    "drain": "old processes of the mail servers are ending",
    "records": "the TLSA records are being brought up to date",
}
_PHASES = {
    "inspected": "serves {}",
    "installing": "is being swapped to {}",
    "installed": "has the files of {}, and is not reloaded yet",
    "reloaded": "is reloaded with {}, which is not verified yet",
    "verify_failed": "DOES NOT SERVE {}; it is tried again",
    "verified": "serves {}; old processes may serve what was before",
    "drained": "serves {} and nothing else",
    "drifted": "SERVES SOMETHING ELSE than {}",
    "restoring": "gets back its own files in place of {}",
    "restored": "has its own files again in place of {}",
}


def status(view: Status) -> str:
    """Certificates in full."""
    return "\n".join([*(certificate(c, view.at) for c in view.certificates), verdicts(view)])


def certificate(view: Certificate, now: datetime) -> str:
    """One certificate in full, for somebody woken at night: what is wrong comes first."""
    lines = [f"{view.name}: {_headline(view, now)}"]
    for condition in view.conditions:
        lines += _condition(condition)
    for failure in view.failures:
        lines += _failure(failure)
    if view.explanation_url:
        lines.append(f"  the CA explains its renewal window: {printable(view.explanation_url)}")
    if view.roll:
        lines += _roll(view.roll, now)
    lines += [f"  {server.name} {_mail_server(server)}" for server in view.mail_servers]
    for name in view.tlsa_names:
        lines += _tlsa_name(name)
    lines += _standby(view, now)
    lines.append(f"  {_next(view)}")
    return "\n".join(lines)


def _headline(view: Certificate, now: datetime) -> str:
    word = WORDS[view.verdict]
    if view.valid_until is None:
        new = view.roll.new if view.roll else None
        return f"{word}; {f'{new} is issued and not served yet' if new else 'no certificate yet'}"
    ids = " and ".join(generation.id for generation in view.served)
    names = ", ".join(view.served[-1].names)
    left = view.valid_until - now
    if left <= timedelta(0):
        return f"{word}; {ids} EXPIRED {date(view.valid_until)} UTC ({names})"
    return f"{word}; {ids} valid until {date(view.valid_until)} UTC, {brief(left)} more ({names})"


def _condition(condition: Condition) -> Iterator[str]:
    word = WORDS["needs_human" if condition.needs_human else "failing"]
    yield f"  {word} {condition.detail} [{condition.code}]"
    yield f"    hint: {condition.hint}"


def _failure(failure: Failure) -> Iterator[str]:
    word = "ALARM" if failure.alarm else "note:" if failure.note else "FAILING"
    since = f"{count(failure.count, 'time')} since {date(failure.since)}"
    yield f"  {word} {failure.lane}, {since}: {failure.detail} [{failure.code}]"
    if failure.hint:
        yield f"    hint: {failure.hint}"
    if failure.again_at - failure.last_at > timedelta(hours=1):
        yield f"    tried again {date(failure.again_at)}"


def _roll(roll: Roll, now: datetime) -> Iterator[str]:
    new = f" to {roll.new}" if roll.new else ""
    when = f"; swap in {brief(roll.swap_at - now)}, {date(roll.swap_at)}" if roll.swap_at else ""
    yield f"  roll{new}: {_STAGES[roll.stage]}{when}"
    for reason in roll.waits_for:
        yield f"    waits for {reason}"


def _mail_server(server: MailServer) -> str:
    back = f"; {server.rejected} was taken back: certagent history says why" if server.rejected else ""
    if server.phase is None:
        return "was not inspected yet"
    subject = server.generation or " and ".join(server.serves)
    if not subject:
        return f"serves nothing that is known{back}"
    own = "" if server.generation else ", not certagent's"
    seen = f", verified {date(server.verified_at)}" if server.verified_at else ""
    return f"{_PHASES[server.phase].format(subject)}{own}{seen}{back}"


def _tlsa_name(name: TlsaName) -> Iterator[str]:
    if name.observed_at is None:
        yield f"  {name.name} was not observed yet"
        return
    if name.blocked:
        head = f"not published: {name.blocked}"
    elif name.withdrawn and not name.wanted:
        head = "withdrawn"
    else:
        head = f"{count(len(name.wanted), 'record')} at {name.in_dns} of {count(name.servers, 'server')}"
    dnssec = "DNSSEC unknown" if name.dnssec == "unknown" else name.dnssec
    yield f"  {name.name} {head}; {dnssec}; observed {date(name.observed_at)}"
    if name.unmanaged:
        yield f"    note: not certagent's, left alone: {short(name.unmanaged)}"
    for answer in name.answers:
        if answer.unknown:
            yield f"    {answer.server} UNKNOWN: {answer.unknown}"
        else:
            yield f"    {answer.server} TTL {answer.ttl_s} s: {short(answer.values)}"


def _standby(view: Certificate, now: datetime) -> Iterator[str]:
    standby = view.standby
    if standby.made_at is None:
        return
    words = {
        "next": "next keys, for the roll under way",
        "waiting": f"standby, ready in {brief(standby.ready_at - now)}"
        if standby.ready_at
        else "standby, not ready yet",
        "ready": "standby, ready",
    }[standby.state]
    yield f"  keys {standby.keys}: {words}; made {date(standby.made_at)}"


def _next(view: Certificate) -> str:
    return f"next {date(view.next.at)}: {view.next.what}" if view.next else "next: now, as soon as certagent runs"


# -- tlsa and history --------------------------------------------------------------------------------------------------


def tlsa_record(record: TlsaRecord) -> str:
    """A line of a zone file."""
    return f"{record.tlsa_name} {record.ttl_s} IN TLSA {record.value} ; {record.comment}"


def event(one: Event) -> str:
    """One line of the history, or a few: the date, what happened, and the evidence."""
    head = f"{one.seq:>5} {date(one.at)}  {one.what}"
    return "\n".join([head, *(f"{'':27}{line}" for line in one.details)])
