"""What happened to a certificate: the `History` view, made from the events of the journal."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from certagent.facts.dns import Answer
from certagent.facts.tls import Served
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.pki import tlsa
from certagent.report.status import Date, Heard, heard
from certagent.report.views import StepFailure, step_failure
from certagent.report.words import date, short, step_words
from certagent.store.journal import Entry

VERSION = 1


class Met(Struct, frozen=True):
    """What a handshake met at one address."""

    where: str
    spki: str
    """SHA-256 of the SubjectPublicKeyInfo; empty if no certificate was met."""
    serial: str
    unknown: str
    """Why no certificate was met; empty if one was."""


class Event(Struct, frozen=True, omit_defaults=True):
    """An event of the journal. Fields that do not belong to it are left out."""

    seq: int
    at: Date
    event: str
    """The kind of event."""
    what: str
    """What happened, in a sentence."""
    details: tuple[str, ...] = ()
    """The evidence, line by line."""
    step: str = ""
    """Of `Intended`: the kind of step."""
    lane: str = ""
    """The work that it belongs to."""
    tlsa_name: str = ""
    server: str = ""
    generation: str = ""
    keys: str = ""
    key_type: str = ""
    values: tuple[str, ...] = ()
    """TLSA values that were, or will be, published or removed."""
    answers: tuple[Heard, ...] = ()
    """What the authoritative servers answered."""
    served: tuple[Met, ...] = ()
    """What handshakes met."""
    drained: bool = False
    """Nothing else is served any more."""
    failure: StepFailure | None = None
    again: bool = False
    """The event of that number once more, as last seen: nothing had changed."""


class History(Struct, frozen=True):
    """Everything that happened to a certificate."""

    version: int
    certificate: str
    events: tuple[Event, ...]


def history(certificate: str, entries: Iterable[Entry[ev.AnyEvent]]) -> History:
    """The view of a journal."""
    return History(VERSION, certificate, tuple(event(entry) for entry in entries))


def event(entry: Entry[ev.AnyEvent]) -> Event:
    """The view of one event."""
    happened = entry.event
    about = happened.step if isinstance(happened, ev.Intended) else happened
    what, *details = _words(happened)
    return Event(
        seq=entry.seq,
        at=entry.at.wall,
        event=type(happened).__name__,
        what=f"{what} (as before)" if entry.again else what,
        details=() if entry.again else tuple(details),
        step=type(about).__name__ if about is not happened else "",
        lane=str(happened.lane or ""),
        tlsa_name=_text(about, "tlsa_name"),
        server=_text(about, "server"),
        generation=_text(about, "generation"),
        keys=_text(about, "keys"),
        key_type=_text(about, "key_type"),
        values=tuple(sorted(getattr(about, "values", ()))),
        answers=tuple(heard(happened.observation)) if isinstance(happened, ev.Observed) else (),
        served=tuple(_met(one) for one in getattr(happened, "served", ())),
        drained=getattr(about, "drained", False),
        failure=step_failure(happened) if isinstance(happened, ev.Failed) else None,
        again=entry.again,
    )


def _text(about: object, name: str) -> str:
    """A field that names one thing; some events have several, which are in `what`."""
    value = getattr(about, name, "")
    return value if isinstance(value, str) else ""


def _met(served: Served) -> Met:
    chain = served.chain
    if isinstance(chain, Unknown):
        return Met(served.where, "", "", chain.why)
    return Met(served.where, chain.spki, chain.serial, "")


def _words(happened: ev.AnyEvent) -> list[str]:  # noqa: C901, PLR0911, PLR0912 -- one sentence per event
    """The sentence, and the lines of evidence."""
    match happened:
        case ev.Intended():
            return [f"about to {step_words(happened.step)}: {happened.step.because}"]
        case ev.Failed():
            return [f"FAILED {happened.lane}: {happened.detail} [{happened.code}]"]
        case ev.KeysMade():
            return [f"made keys {happened.keys}", *(f"{a} {tlsa.of_key(spki)}" for a, spki in happened.spki.items())]
        case ev.OrderPlaced():
            todo = [str(challenge) for challenge in happened.challenges] or ["no challenge"]
            return [f"ordered for {happened.keys} ({happened.key_type}): {happened.url}", *todo]
        case ev.Presented():
            return [f"put the responses in place ({happened.key_type})"]
        case ev.ResponseNotSeen():
            return [f"the responses to the challenges cannot be seen ({happened.key_type})"]
        case ev.OrderReady(passed_over=passed_over) if passed_over:
            return [f"the CA has seen the challenges ({happened.key_type}), this host not everywhere", passed_over]
        case ev.OrderReady():
            return [f"the CA has seen the challenges ({happened.key_type})"]
        case ev.OrderAbandoned():
            return [f"abandoned the order ({happened.key_type})"]
        case ev.Issued():
            chain = happened.chain
            until = f"valid until {date(chain.not_after)} UTC, serial {chain.serial}"
            return [f"issued {happened.generation} ({happened.key_type}), {until}"]
        case ev.CleanedUp():
            names = ", ".join(dict.fromkeys(challenge.name for challenge in happened.challenges))
            return [f"took the responses to challenges away: {names}"]
        case ev.Observed():
            seen = happened.observation
            answers = [
                f"{s} TTL {a.ttl_s} s: {short(a.values)}" if isinstance(a, Answer) else f"{s} UNKNOWN: {a.why}"
                for s, a in sorted(seen.answers.items())
            ]
            why = f", {seen.why}" if seen.why else ""
            return [f"observed {happened.tlsa_name}: {seen.security}{why}", *answers]
        case ev.Superseding():
            before = f"from TTL {happened.before_ttl_s} s: {short(happened.before)}"
            after = f"to TTL {happened.after_ttl_s} s: {short(happened.after)}"
            return [f"about to change the provider's set at {happened.tlsa_name}", before, after]
        case ev.Writing():
            return [f"about to write to {happened.zone}, which takes {happened.per_day} writes a day"]
        case ev.Published():
            return [f"published {short(happened.values)} at {happened.tlsa_name}"]
        case ev.Unpublished():
            return [f"removed {short(happened.values)} at {happened.tlsa_name}"]
        case ev.Inspected():
            return [f"inspected {happened.server}", *_rows(happened.served)]
        case ev.Installed():
            kept = "; the files that were there are kept" if happened.kept else ""
            return [f"swapped {happened.server} to {happened.generation}{kept}"]
        case ev.Restored():
            return [f"put the files back that {happened.server} had before certagent's"]
        case ev.Reloaded():
            return [f"reloaded {happened.server}"]
        case ev.Verified():
            rest = " and nothing else" if happened.drained else ""
            return [f"verified: {happened.server} serves {happened.generation}{rest}", *_rows(happened.served)]
        case ev.VerifyFailed():
            return [f"NOT verified: {happened.server} does not serve {happened.generation}", *_rows(happened.served)]
        case ev.Met():
            return [f"met at {happened.server} just before a change, and not expected", *_rows(happened.served)]
        case ev.RenewalInfo():
            when = f"renew {happened.generation} at {date(happened.at)} UTC" if happened.at else "no suggestion"
            return [f"asked the CA when to renew ({happened.key_type}): {when}"]
        case ev.Revoked():
            return [f"revoked {happened.generation}"]
        case ev.Deleted():
            gone = (*happened.generations, *happened.keys, *happened.tlsa_names, *happened.mail_servers)
            return [f"deleted {', '.join(gone)}"]
        case ev.Requested():
            more = ", deferrals accepted" if happened.accept_deferrals else ""
            return [f"the operator asked: {happened.what}{more}"]


def _rows(served: Iterable[Served]) -> list[str]:
    return [
        f"{s.where}: "
        + (s.chain.why if isinstance(s.chain, Unknown) else f"key {s.chain.spki[:12]}… serial {s.chain.serial}")
        for s in served
    ]
