"""What is known of each certificate, as people and programs read it: the `Status` view.

It is made from what certagent remembers and asks nobody. Text, JSON, metrics and notices are made from this view; the
state that the planner folds from the journal is never shown. The view is a contract: `VERSION` grows when a field goes
or changes its meaning. Names end in their unit; dates are UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct

from certagent.errors import Misconfigured, Unsafe
from certagent.facts.dns import Answer, Observation, Security
from certagent.facts.moment import Instant
from certagent.lifecycle import caches, gates, schedule, tlsaname
from certagent.lifecycle import state as lifecycle
from certagent.lifecycle.converged import rolled
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Phase, State
from certagent.report.conditions import Condition, conditions, explanation_url, in_service
from certagent.report.mail import Mail, mail
from certagent.report.roll import Date, Roll, over_at, under_way
from certagent.report.step import Problem
from certagent.store.protocol import Wake
from certagent.store.subject import SubjectId

VERSION = 1

Verdict = Literal["well", "rolling", "failing", "needs_human"]
"""`rolling`: something was begun and goes on by itself. `failing`: something fails and is tried again by itself.
`needs_human`: nothing gets better until somebody changes something. In this order of severity."""
VERDICTS: tuple[Verdict, ...] = ("well", "rolling", "failing", "needs_human")


class Generation(Struct, frozen=True):
    """A certificate of each key type, issued together."""

    id: str
    managed: bool
    """False: it was served before certagent came."""
    valid_until: Date
    """The earliest end of its certificates."""
    names: tuple[str, ...]
    key_types: tuple[str, ...]


class MailServer(Struct, frozen=True):
    """What a mail server serves, as last verified."""

    name: str
    serves: tuple[str, ...]
    """The generations that its processes may serve."""
    generation: str | None
    """The one that was installed last."""
    phase: Phase | None
    """How far that one is; None: nothing was inspected yet."""
    verified_at: Date | None
    rejected: str | None
    """A generation that was taken back."""


class Heard(Struct, frozen=True):
    """The answer of one authoritative server."""

    server: str
    ttl_s: int | None
    values: tuple[str, ...]
    unknown: str
    """Why there is no answer; empty if there is one."""


class TlsaName(Struct, frozen=True):
    """The records of a TLSA name, as last seen."""

    name: str
    wanted: tuple[str, ...]
    """The values that belong in DNS now."""
    blocked: str
    """Why nothing is published yet; empty if nothing stands against it."""
    withdrawn: bool
    """It is not configured any more."""
    servers: int
    """How many authoritative servers it has."""
    in_dns: int
    """How many of them give every wanted value."""
    dnssec: Security
    """What a validating resolver says of it."""
    dnssec_detail: str
    observed_at: Date | None
    answers: tuple[Heard, ...]
    unmanaged: tuple[str, ...]
    """Values that are not certagent's and are left alone."""


class Standby(Struct, frozen=True):
    """The next keys. `next`: those of the roll under way; `waiting`: caches may not know them yet; `ready`: a swap to
    them would break no cached set.
    """

    state: Literal["none", "next", "waiting", "ready"]
    keys: str = ""
    made_at: Date | None = None
    ready_at: Date | None = None
    """When they will be ready, if that is only a matter of time."""


class Failure(Struct, frozen=True):
    """What fails, and how often it did in a row."""

    lane: str
    """The work that fails, and on what."""
    since: Date
    last_at: Date
    count: int
    kind: str
    code: str
    detail: str
    hint: str
    alarm: bool
    """It has lasted so long that somebody must look."""
    again_at: Date
    """When it is tried again."""
    note: bool
    """It is the CA's advice, which certagent does without: nothing is wrong for that."""


class Next(Struct, frozen=True):
    """When the certificate is looked after next, and what for."""

    at: Date
    what: str


class Certificate(Struct, frozen=True):
    """One certificate: the verdict first."""

    name: str
    verdict: Verdict
    names: tuple[str, ...]
    """The names that belong in it."""
    key_types: tuple[str, ...]
    served: tuple[Generation, ...]
    """The generations that clients may get now; more than one only during a swap."""
    valid_until: Date | None
    """The earliest end of what is served."""
    renew_at: Date | None
    """When the newest certificate is to be renewed."""
    mail: Mail
    """Whether mail is affected by what is wrong."""
    mail_servers: tuple[MailServer, ...]
    tlsa_names: tuple[TlsaName, ...]
    standby: Standby
    conditions: tuple[Condition, ...]
    """What is wrong although no step fails, the worst first."""
    failures: tuple[Failure, ...]
    explanation_url: str | None
    """The CA's page about its renewal window."""
    roll: Roll | None
    requested: str | None
    """What the operator asked for that is not done yet."""
    revoking: tuple[str, ...]
    """The generations that are revoked as soon as nothing serves them."""
    next: Next | None
    """None: now, as soon as certagent runs."""


class Other(Struct, frozen=True):
    """A subject that is no certificate."""

    subject: str
    """`KIND/NAME`."""
    verdict: Verdict
    failures: tuple[str, ...]
    """What fails, with its code."""
    next: Next | None
    """None: now, as soon as certagent runs."""


class Status(Struct, frozen=True):
    """All certificates, and subjects of other kinds."""

    version: int
    verdict: Verdict
    """The worst of all."""
    at: Date
    daemon: int | None
    """The process of the daemon; None: it does not run."""
    certificates: tuple[Certificate, ...]
    others: tuple[Other, ...] = ()
    daemon_wanted: bool = True
    """False: something else runs certagent, such as a timer, so that there need not be a daemon."""


def status(
    certificates: tuple[Certificate, ...],
    now: Instant,
    daemon: int | None,
    others: tuple[Other, ...] = (),
    *,
    daemon_wanted: bool = True,
) -> Status:
    """The whole of it. Where a daemon is wanted and missing, nothing is renewed: that is not well."""
    absent: tuple[Verdict, ...] = ("failing",) if daemon is None and daemon_wanted and (certificates or others) else ()
    verdict = worst((*(one.verdict for one in (*certificates, *others)), *absent))
    return Status(VERSION, verdict, now.wall, daemon, certificates, others, daemon_wanted)


def other(subject: SubjectId, failed: Iterable[Problem], wake: Wake | None) -> Other:
    """The view of a subject of any kind."""
    failing = tuple(failed)
    needs_human = any(f.kind in (Misconfigured.kind, Unsafe.kind) for f in failing)
    verdict: Verdict = "needs_human" if needs_human else "failing" if failing else "well"
    details = tuple(f"{f.detail} [{f.code}]" for f in failing)
    return Other(str(subject), verdict, details, Next(wake.at, wake.why) if wake else None)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe; of none: well."""
    return VERDICTS[max(map(VERDICTS.index, verdicts), default=0)]


def certificate(spec: Spec, state: State, now: Instant, wake: Wake | None, daemon: int | None = None) -> Certificate:
    """The view of one certificate. `daemon`: the process that looks after it."""
    served = tuple(_generation(g) for g in in_service(spec, state))
    valid_until = min((g.valid_until for g in served), default=None)
    mail_servers = tuple(_mail_server(server.name, state) for server in spec.mail_servers)
    names = tlsaname.TlsaNames(spec, state)
    tlsa_names = tuple(map(_tlsa_name, names))
    failing = tuple(failures(state, now))
    wrong = conditions(spec, state, now, wake, daemon)
    roll = under_way(names, state, now)
    due = schedule.due(state)
    return Certificate(
        name=spec.name,
        verdict=_verdict(wrong, failing, mail_servers, tlsa_names, roll),
        names=spec.names,
        key_types=spec.key_types,
        served=served,
        valid_until=valid_until,
        renew_at=due[0] if due else None,
        mail=mail(spec, state, names, now.wall),
        mail_servers=mail_servers,
        tlsa_names=tlsa_names,
        standby=_standby(names, state, now),
        conditions=wrong,
        failures=failing,
        explanation_url=explanation_url(state),
        roll=roll,
        requested=state.requested.what if state.requested else None,
        revoking=tuple(g.id for g in state.generations if g.revoke),
        next=Next(wake.at, wake.why) if wake else None,
    )


def _verdict(
    conditions: tuple[Condition, ...],
    failures: tuple[Failure, ...],
    mail_servers: tuple[MailServer, ...],
    tlsa_names: tuple[TlsaName, ...],
    roll: Roll | None,
) -> Verdict:
    counted = [failure for failure in failures if not failure.note]
    if any(c.needs_human for c in conditions) or any(
        f.alarm or f.kind in (Misconfigured.kind, Unsafe.kind) for f in counted
    ):
        return "needs_human"
    unsound = any(n.dnssec == "bogus" or any(a.unknown for a in n.answers) for n in tlsa_names)
    unserved = any(s.phase in ("verify_failed", "drifted") or s.rejected for s in mail_servers)
    if conditions or counted or unsound or unserved:
        return "failing"
    return "rolling" if roll else "well"


def failures(state: State, now: Instant) -> Iterator[Failure]:
    """What fails, by lane."""
    in_service = state.in_service
    for failure in sorted(state.failing, key=lambda one: one.lane):
        yield Failure(
            lane=str(failure.lane),
            since=failure.first_at.wall,
            last_at=failure.at.wall,
            count=failure.count,
            kind=failure.kind,
            code=failure.code,
            detail=failure.detail,
            hint=failure.hint,
            alarm=schedule.alarms(failure, now),
            again_at=failure.at.wall + schedule.retry_after(failure, in_service),
            note=failure.lane.advisory,
        )


def _generation(generation: lifecycle.Generation) -> Generation:
    chains = generation.chains
    return Generation(
        id=generation.id,
        managed=not generation.unmanaged,
        valid_until=min(chain.not_after for chain in chains.values()),
        names=next(iter(chains.values())).names,
        key_types=tuple(sorted(chains)),
    )


def _mail_server(name: str, state: State) -> MailServer:
    at = state.mail_servers.get(name)
    if at is None:
        return MailServer(name, (), None, None, None, None)
    return MailServer(
        name=name,
        serves=at.serves,
        generation=at.generation,
        phase=at.phase,
        verified_at=at.verified_at.wall if at.verified_at else None,
        rejected=at.rejected,
    )


def _tlsa_name(name: tlsaname.TlsaName) -> TlsaName:
    seen, observed_at, wanted = name.known.observation, name.known.observed_at, name.desired
    return TlsaName(
        name=name.name,
        wanted=tuple(sorted(wanted)),
        blocked=(name.publication_blocked or "") if name.configured else "",
        withdrawn=not name.configured,
        servers=len(seen.answers) if seen else 0,
        in_dns=sum(wanted <= answer.values for answer in caches.known(seen)) if seen and wanted else 0,
        dnssec=seen.security if seen else "unknown",
        dnssec_detail=seen.why if seen else "",
        observed_at=observed_at.wall if observed_at else None,
        answers=tuple(heard(seen)) if seen else (),
        unmanaged=tuple(sorted(name.seen_somewhere - name.names.ours)),
    )


def heard(observation: Observation) -> Iterator[Heard]:
    """The answers of all servers, by name."""
    for server, answer in sorted(observation.answers.items()):
        if isinstance(answer, Answer):
            yield Heard(server, answer.ttl_s, tuple(sorted(answer.values)), "")
        else:
            yield Heard(server, None, (), answer.why)


def _standby(names: tlsaname.TlsaNames, state: State, now: Instant) -> Standby:
    keys = state.next_keys
    if keys is None:
        return Standby("none")
    made_at = keys.made_at.wall
    if not rolled(names.spec, state):
        return Standby("next", keys.id, made_at)
    obstacles = gates.obstacles(names.configured, tuple(keys.as_if_issued(state.newest).values()), now)
    if not obstacles:
        return Standby("ready", keys.id, made_at)
    return Standby("waiting", keys.id, made_at, over_at(obstacles, now))
