"""`renew --dry-run`: the whole way against a test CA, and nothing changed that a mail client or a sender could notice.

Real: the CA's challenges, the TXT records for them (written, seen at every authoritative server, removed), a
certificate for a throw-away key, its verification and rehearsal, the mail server's own check, and every question to
DNS. Verified without a change: that TLSA records may be written, by asking the provider to remove a value that is not
there. Never done: TLSA records added or removed, files installed, a server reloaded, the journal written.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from certagent.acme.challenges import TYPES
from certagent.agent.act import challenges as act
from certagent.agent.edges import Edges
from certagent.agent.wiring import Wiring
from certagent.errors import Error, Misconfigured
from certagent.facts.challenge import Challenge
from certagent.facts.dns import Observation
from certagent.facts.tls import Chain
from certagent.facts.unknown import Unknown
from certagent.lifecycle import caches
from certagent.lifecycle.events import Observed
from certagent.lifecycle.fold import fold
from certagent.lifecycle.forecast import forecast
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.report.findings import Finding, Outcome, Rehearsal, no_time_to_roll
from certagent.report.words import brief


class _Run:
    def __init__(self, tell: Callable[[Finding], None]) -> None:
        self.findings: list[Finding] = []
        self.written: list[str] = []
        self.removed: list[str] = []
        self._tell = tell

    def found(self, outcome: Outcome, what: str, detail: str, hint: str = "") -> None:
        finding = Finding(outcome, what, detail, hint)
        self.findings.append(finding)
        self._tell(finding)

    @contextmanager
    def trying(self, what: str) -> Generator[None]:
        try:
            yield
        except Error as error:
            self.found("error", what, str(error), error.hint)


def rehearse(wiring: Wiring, name: str, tell: Callable[[Finding], None]) -> Rehearsal:
    """Go the whole way for one certificate; nothing is raised for what goes wrong on it: it is a finding."""
    entry = wiring.config.certificates[name]
    spec, edges = entry.spec, wiring.edges(name)
    state, now = wiring.journal.state(name), wiring.journal.now()
    run = _Run(tell)
    for server in edges.servers:
        with run.trying(f"mail server {server}"):
            edges.check(server, frozenset(spec.key_types))
            run.found("ok", f"mail server {server}", "its configuration is sound")
            for what, command in edges.servers[server].advice(frozenset(spec.key_types)):
                run.found("note", f"mail server {server}", what, command)
    for tlsa_name in spec.tlsa_names:
        state = _look(run, edges, tlsa_name, state, spec, wiring)
    with run.trying("CA"):
        for key_type, chain in _issue(run, wiring, name, spec, edges):
            for note in no_time_to_roll(spec, state, key_type, chain):
                run.found(note.outcome, note.what, note.detail, note.hint)
    timeline = tuple(forecast(spec, state, now))
    return Rehearsal(name, tuple(run.findings), tuple(run.written), tuple(run.removed), timeline)


def _look(run: _Run, edges: Edges, tlsa_name: str, state: State, spec: Spec, wiring: Wiring) -> State:
    with run.trying(f"DNS {tlsa_name}"):
        observation = edges.resolver().observe(tlsa_name, expect=None, gone=frozenset(), budget=timedelta(0))
        state = fold(state, Observed(tlsa_name=tlsa_name, observation=observation), wiring.journal.now())
        _judge(run, tlsa_name, observation, spec)
        absent = f"3 1 1 {secrets.token_hex(32)}"
        with edges.zones.writing(observation.zone, observation.name) as provider:
            there = provider.get(observation.name, "TLSA")
            provider.remove(observation.name, "TLSA", frozenset({absent}), there)
        run.found(
            "ok",
            f"DNS {tlsa_name}",
            "TLSA records may be written (the removal of a value that is not there was accepted)",
        )
    return state


def _judge(run: _Run, tlsa_name: str, observation: Observation, spec: Spec) -> None:
    for server, answer in observation.answers.items():
        if isinstance(answer, Unknown):
            run.found(
                "error",
                f"DNS {tlsa_name}",
                f"{server}: {answer.why}",
                "every authoritative server must answer before a swap",
            )
    known = caches.known(observation)
    if known:
        values = sorted({v for a in known for v in a.values}) or ["no TLSA records"]
        ttl = max(a.ttl_s for a in known)
        wait = caches.retire_interval_of(ttl, spec.safety_margin)
        run.found(
            "ok",
            f"DNS {tlsa_name}",
            f"{len(observation.answers)} servers answer: {', '.join(values)}; a set may be cached for {brief(wait)}",
        )
    outcome = "ok" if observation.security == "secure" else "error"
    hint = "" if outcome == "ok" else "senders use TLSA records only where DNSSEC validates (RFC 7672 section 2.2)"
    run.found(outcome, f"DNSSEC {tlsa_name}", f"{observation.security} {observation.why}".strip(), hint)


def _issue(run: _Run, wiring: Wiring, name: str, spec: Spec, edges: Edges) -> Iterator[tuple[str, Chain]]:
    from certagent.pki import bundle, keys

    entry = wiring.config.certificates[name]
    ca = wiring.config.cas[entry.ca]
    directory = ca.staging or (ca.directory if ca.test else None)
    if directory is None:
        hint = f"set staging under ca.{entry.ca}, or test: true if the directory itself is a test CA"
        raise Misconfigured("dryrun.no_test_ca", f"CA {entry.ca} has no staging directory", hint)
    issuer = wiring.issuer(entry.ca, directory)
    for key_type in spec.key_types:
        key = keys.make(key_type)
        csr = keys.csr(key, spec.names)
        order = issuer.order(csr, profile=spec.profile)
        with _presented(run, edges, order.challenges or _made_up(spec)) as challenges:
            act.ready(challenges, edges)
            run.found("ok", f"challenge {key_type}", "its response is seen everywhere")
            issuer.answer(order.url)
        pem = issuer.finalize(order.url, csr)
        credential, chain = bundle.build(key, pem, names=spec.names, now=wiring.journal.now().wall)
        _rehearse_file(wiring.state_dir(), credential.combined.reveal(), spec.names[0])
        life = chain.not_after - chain.not_before
        run.found(
            "ok",
            f"certificate {key_type}",
            f"issued by {directory}, valid {life.days} days, {len(chain.issuers)} issuers in order, rehearsed",
        )
        yield key_type, chain


def _made_up(spec: Spec) -> tuple[Challenge, ...]:
    """Challenges of no CA. A CA that remembers an earlier validation sends none, and the way is tried all the same."""
    type_ = next(iter(TYPES.values()))
    return tuple(type_.respond(n.removeprefix("*."), secrets.token_hex(8), "dry-run") for n in spec.names)


@contextmanager
def _presented(run: _Run, edges: Edges, challenges: Sequence[Challenge]) -> Generator[Sequence[Challenge]]:
    """The responses, for as long as they are needed; taken away whatever happens."""
    try:
        run.written += map(str, challenges)  # before: if the answer is lost, they may be there
        act.present(challenges, edges)
        yield challenges
    finally:
        with run.trying("removing the responses to challenges"):
            act.clean_up(challenges, edges)
            run.removed += map(str, challenges)


def _rehearse_file(state_dir: Path, pem: bytes, host: str) -> None:
    from certagent.host import replace
    from certagent.mta import pemfile

    with tempfile.TemporaryDirectory(prefix="dry-run-", dir=state_dir) as place:
        path = Path(place) / "chain.pem"
        replace.write(path, pem)
        pemfile.rehearse(path, None if host.startswith("*.") else host)
