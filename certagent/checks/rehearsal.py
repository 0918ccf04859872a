"""`renew --dry-run`: everything against a test CA; nothing changes that a mail client or a sender could notice.

Real are the CA's challenges and the responses to them (put in place, seen everywhere, taken away), a certificate for a
throw-away key, its verification, the mail server's check, handshakes with every service, and every question to DNS.
That TLSA records may be written is tried by removing a value that is not there. Never done: TLSA records added or
removed, files installed, a server reloaded, the journal written (but for the count of `counted.py`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from msgspec.structs import replace

from certagent.acme.challenges import loaded
from certagent.acme.challenges.protocol import Offer
from certagent.agent.act import challenges as act
from certagent.agent.act import hiding, issuing, serving
from certagent.agent.edges import Edges
from certagent.agent.wiring import Wiring
from certagent.agent.zones import asked_zones
from certagent.checks import delegation, undeclared, wildcards
from certagent.checks.counted import Counted
from certagent.errors import Error, Misconfigured, NoProvider, NotYet, Transient, Unsafe
from certagent.facts.challenge import Challenge
from certagent.facts.dns import Observation
from certagent.facts.tls import Chain, Served
from certagent.facts.unknown import Unknown
from certagent.lifecycle import caches
from certagent.lifecycle.events import Observed
from certagent.lifecycle.fold import fold
from certagent.lifecycle.forecast import forecast
from certagent.lifecycle.spec import Spec
from certagent.mta.server import Advice, Server, Stop
from certagent.pki import tlsa
from certagent.report.findings import Finding, Rehearsal, dnssec, no_time_to_roll
from certagent.report.words import brief, count
from certagent.report.zones import planned


class _Run:
    """What was found so far; each finding is reported at once."""

    def __init__(self, report: Callable[[Finding], None]) -> None:
        self.findings: list[Finding] = []
        self.kinds: set[str] = set()
        """Of the errors that were met: what the real run would end with."""
        self.written: list[str] = []
        self.removed: list[str] = []
        self._report = report

    def found(self, *findings: Finding, kind: str = Misconfigured.kind) -> None:
        """`kind`: of the failure that an error among them is for the real run."""
        for finding in findings:
            self.kinds |= {kind} if finding.outcome == "error" else set()
            self.findings.append(finding)
            self._report(finding)

    def ok(self, what: str, detail: str) -> None:
        self.found(Finding("ok", what, detail))

    @contextmanager
    def trying(self, what: str) -> Generator[None]:
        """An error is a finding, and what comes after the block goes on."""
        try:
            yield
        except Error as error:
            self.found(Finding("error", what, str(error), error.hint), kind=error.kind)

    def advised(self, what: str, advice: Iterable[Advice]) -> None:
        """At some of it the real run stops."""
        for one in advice:
            self.found(Finding("error" if isinstance(one, Stop) else "note", what, *one))

    @property
    def kind(self) -> str:
        """The worst: what needs the operator."""
        needed = {Misconfigured.kind, Unsafe.kind} & self.kinds
        return min(needed or self.kinds, default="")


def rehearse(wiring: Wiring, name: str, report: Callable[[Finding], None]) -> Rehearsal:
    """Rehearse one certificate. Nothing is raised for what goes wrong: it is a finding."""
    spec, edges = wiring.spec(name), wiring.edges(name)
    state, now = wiring.journal.state(name), wiring.journal.now()
    run = _Run(report)
    key_types = frozenset(spec.key_types)
    for server in edges.servers:
        what = f"mail server {server}"
        with run.trying(what):
            edges.check(server, key_types)
            run.ok(what, "its configuration is sound")
            run.advised(what, edges.servers[server].advice(key_types))
    every: list[Served] = []
    for mail_server in spec.mail_servers:
        what = f"services of {mail_server.name}"
        with run.trying(what):
            served = edges.probe(mail_server.services, serving.every_kind(spec))
            every += served
            run.found(*_services(what, served, edges.servers[mail_server.name]))
    run.found(*undeclared.findings(spec, state, every, edges, now.wall, ahead=True), kind=Misconfigured.kind)
    for tlsa_name in spec.tlsa_names:
        with run.trying(f"DNS {tlsa_name}"):
            observation = edges.resolver().observe(tlsa_name, expect=None, gone=frozenset(), budget=timedelta(0))
            state = fold(state, Observed(tlsa_name=tlsa_name, observation=observation), wiring.journal.now())
            run.found(*_answers(tlsa_name, observation, spec), kind=Transient.kind)
            run.found(dnssec(tlsa_name, observation))
            run.found(_may_write(tlsa_name, observation, spec, edges))
    run.found(*delegation.findings(spec.tlsa_names, edges))
    run.found(*wildcards.findings(spec, edges), kind=Unsafe.kind)
    with run.trying("CA"):
        for key_type, chain in _issue(run, wiring, name, spec, edges):
            run.found(*no_time_to_roll(spec, state, key_type, chain))
    spec = replace(spec, zones=asked_zones(wiring.providers()))
    limits = planned(spec, state, wiring.budgets(), now)
    run.found(*(Finding("note", f"zone {one.zone}", "; ".join(one.limits)) for one in limits))
    timeline = tuple(forecast(spec, state, now))
    return Rehearsal(name, tuple(run.findings), tuple(run.written), tuple(run.removed), timeline, run.kind)


def _services(what: str, served: list[Served], server: Server) -> Iterator[Finding]:
    """Every service is met as the real run meets it.

    Raises:
        Transient: `mta.down`, `mta.busy`, `mta.turned_away`: Some cannot be met.
        Transient: `mta.not_offered`: Some show no certificate where the others of this server do.
    """
    if missed := [one for one in served if isinstance(one.chain, Unknown) and not one.chain.reached]:
        raise serving.unmet(missed, server)
    places = dict.fromkeys(one.place for one in served)
    shown = {one.place for one in served if isinstance(one.chain, Chain)}
    without = {one.place: one.chain.why for one in served if isinstance(one.chain, Unknown) and one.place not in shown}
    if shown and without:
        detail = "; ".join(f"{place}: {why}" for place, why in without.items())
        raise Transient("mta.not_offered", detail, serving.NOT_OFFERED)
    for place, why in without.items():
        yield Finding("note", what, f"{place} shows no certificate yet: {why}")
    if shown:
        yield Finding("ok", what, f"met at {', '.join(places)}")


def _answers(tlsa_name: str, observation: Observation, spec: Spec) -> Iterator[Finding]:
    what = f"DNS {tlsa_name}"
    for server, answer in observation.answers.items():
        if isinstance(answer, Unknown):
            hint = "every authoritative server must answer before a swap"
            yield Finding("error", what, f"{server}: {answer.why}", hint)
    known = caches.known(observation)
    if known:
        values = sorted({value for answer in known for value in answer.values}) or ["no TLSA records"]
        wait = caches.retire_interval_of(max(answer.ttl_s for answer in known), spec.safety_margin)
        servers = f"{count(len(known), 'server')} {'answers' if len(known) == 1 else 'answer'}"
        yield Finding("ok", what, f"{servers}: {', '.join(values)}; a set may be cached for {brief(wait)}")


def _may_write(tlsa_name: str, observation: Observation, spec: Spec, edges: Edges) -> Finding:
    """Ask the provider to remove a value that is not there.

    Raises:
        Error: `dns.…`: See `dns.providers.protocol`.
    """
    what = f"DNS {tlsa_name}"
    absent = frozenset({tlsa.of_key(secrets.token_hex(32))})
    try:
        with (
            hiding.explained([tlsa_name], edges),
            edges.zones.writing(observation.zone, observation.name) as provider,
        ):
            there = provider.get(observation.name, "TLSA")
            provider.remove(observation.name, "TLSA", absent, there)
    except NoProvider as error:
        if spec.rotate_key is not None or spec.standby:
            raise
        return Finding("note", what, f"{error.detail}; with the key kept, its record is made by hand once", error.hint)
    why = "the removal of a value that is not there was accepted"
    return Finding("ok", what, f"TLSA records may be written ({why})")


def _issue(run: _Run, wiring: Wiring, name: str, spec: Spec, edges: Edges) -> Iterator[tuple[str, Chain]]:
    from certagent.pki import keys

    entry = wiring.config.certificates[name]
    ca = wiring.config.cas[entry.cas[0]]
    directory = ca.staging or (ca.directory if ca.test else None)
    if directory is None:
        hint = f"set staging under ca.{entry.cas[0]}, or test: true if the directory itself is a test CA"
        raise Misconfigured("dryrun.no_test_ca", f"CA {entry.cas[0]} has no staging directory", hint)
    issuer = wiring.issuer(entry.cas[0], directory)
    for key_type in spec.key_types:
        key = keys.make(key_type)
        csr = keys.csr(key, spec.names)
        order = issuer.order(csr, spec.challenge, profile=spec.profile)
        challenges = order.challenges or _made_up(spec)
        with _presented(run, wiring, spec, edges, challenges) as lag_s:
            _seen(run, f"challenge {key_type}", challenges, spec, edges, lag_s)
            issuer.answer(order.url, spec.challenge.type)
        now = wiring.journal.now().wall + issuing.SKEW  # as a renewal does: it is waited for, and may begin only then
        _, credential, chain = issuing.usable_chain(issuer, order.url, key, spec.names, now)
        _rehearse_file(wiring.state_dir(), credential.combined.reveal(), spec.names[0])
        life = f"valid for {count((chain.not_after - chain.not_before).days, 'day')}"
        issuers = f"{count(len(chain.issuers), 'issuer')} in order"
        run.ok(f"certificate {key_type}", f"issued by {directory}, {life}, {issuers}, loads and serves")
        yield key_type, chain


def _seen(run: _Run, what: str, challenges: Sequence[Challenge], spec: Spec, edges: Edges, lag_s: float) -> None:
    """The responses are seen wherever this host gets an answer; a renewal passes over what is silent, too. Of a
    provider that publishes late, after the time that a renewal waits, too.
    """
    if lag_s:
        lag = brief(timedelta(seconds=lag_s))
        run.found(
            Finding("note", what, f"the DNS provider publishes within {lag}: waiting for that, as a renewal does")
        )
        time.sleep(lag_s)
    try:
        not_seen = act.ready(challenges, spec, edges)
    except NotYet as error:
        if not error.seen:
            raise
        run.found(Finding("warning", what, error.detail, "a renewal waits for it for a while, then lets the CA judge"))
        return
    if not_seen:
        run.found(Finding("warning", what, not_seen, loaded(spec.challenge.type).remedy))
    else:
        run.ok(what, "its response is seen everywhere")


def _made_up(spec: Spec) -> tuple[Challenge, ...]:
    """Challenges of no CA. A CA that remembers an earlier validation sends none, and the way is tried all the same."""
    made = (Offer(n.removeprefix("*."), secrets.token_urlsafe(32), "dry-run", spec.challenge) for n in spec.names)
    return tuple(map(loaded(spec.challenge.type).respond, made))


@contextmanager
def _presented(
    run: _Run, wiring: Wiring, spec: Spec, edges: Edges, challenges: Sequence[Challenge]
) -> Generator[float]:
    """The responses, for as long as they are needed, and in how many seconds they are shown; taken away whatever
    happens.
    """
    try:
        run.written += map(str, challenges)  # before: if the answer is lost, they may be there
        lag_s = act.present(challenges, spec, edges, Counted(wiring, spec.name))
        with act.serving(challenges, spec, edges):
            yield lag_s
    finally:
        with run.trying("removing the responses to challenges"):
            act.clean_up(challenges, spec, edges, Counted(wiring, spec.name, removes=True))
            run.removed += map(str, challenges)


def _rehearse_file(state_dir: Path, pem: bytes, host: str) -> None:
    from certagent.host import replace
    from certagent.host.files import scratch
    from certagent.mta import pemfile

    with scratch(state_dir) as place:
        path = place / "chain.pem"
        replace.write(path, pem)
        pemfile.rehearse(path, None if host.startswith("*.") else host)
