"""`certagent check`: what is served and what is in DNS now, compared with each other and with the journal.

It changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from certagent.agent.edges import Edges
from certagent.checks import undeclared
from certagent.errors import Error
from certagent.facts.dns import Answer
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, Served
from certagent.facts.unknown import Unknown
from certagent.lifecycle import caches
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.pki.names import tlsa_name
from certagent.report.findings import Finding, dnssec, no_time_to_roll
from certagent.report.words import count


def run(spec: Spec, state: State, edges: Edges, now: Instant) -> list[Finding]:
    """Every finding about one certificate."""
    found: list[Finding] = []
    every: list[Served] = []
    met: dict[str, list[Chain]] = {}
    for server in spec.mail_servers:
        found += _configuration(server.name, frozenset(spec.key_types), edges)
        at = state.mail_servers.get(server.name)
        installed = state.generation(at.generation) if at and at.generation else None
        for served in edges.probe(server.services, spec.key_types):
            every.append(served)
            found.append(_compare(served, installed.chains if installed else None))
            if isinstance(served.chain, Chain):
                met.setdefault(tlsa_name(served.host, served.port), []).append(served.chain)
    for name in spec.tlsa_names:
        found += _records(name, met.get(name, []), edges)
    found += undeclared.findings(spec, state, every, edges, now.wall)
    newest = state.newest
    for key_type, chain in (newest.chains if newest else {}).items():
        found += no_time_to_roll(spec, state, key_type, chain)
    return found


def _configuration(server: str, key_types: frozenset[str], edges: Edges) -> list[Finding]:
    what = f"mail server {server}"
    try:
        edges.check(server, key_types)
        advice = edges.servers[server].advice(key_types)
    except Error as error:
        return [Finding("error", what, str(error), error.hint)]
    sound = Finding("ok", what, "its configuration is sound")
    return [sound, *(Finding("note", what, detail, command) for detail, command in advice)]


def _compare(served: Served, installed: Mapping[str, Chain] | None) -> Finding:
    what = served.where
    if isinstance(served.chain, Unknown):
        return Finding("error", what, served.chain.why)
    until = f"valid until {served.chain.not_after:%Y-%m-%d %H:%M} UTC, answered in {served.took_s * 1000:.0f} ms"
    if installed is None:
        return Finding("note", what, f"serves a certificate that certagent did not install; {until}")
    expected = installed.get(served.key_type)
    if expected is None:
        hint = "if certagent plan has nothing to do: take it out of the mail server, or list both key types under keys"
        return Finding("error", what, "serves a key type that certagent did not install", hint)
    if served.chain != expected:
        same = (served.chain.spki, served.chain.serial) == (expected.spki, expected.serial)
        wrong = "serves what was installed, with other issuers" if same else "does not serve what was installed"
        return Finding("error", what, wrong, "run: certagent renew")
    return Finding("ok", what, f"serves what was installed; {until}")


def _records(name: str, met: list[Chain], edges: Edges) -> list[Finding]:
    try:
        observation = edges.resolver().observe(name, expect=None, gone=frozenset(), budget=timedelta(0))
    except Error as error:
        return [Finding("error", f"DNS {name}", str(error), error.hint)]
    answers = [_answer(f"DNS {name} at {server}", answer, met) for server, answer in observation.answers.items()]
    return [dnssec(name, observation), *answers]


def _answer(what: str, answer: Answer | Unknown, met: list[Chain]) -> Finding:
    """Whether what one server answers matches what was met."""
    if isinstance(answer, Unknown):
        return Finding("error", what, answer.why)
    unmatched = sorted({parameters for chain in met for parameters in caches.unmatched(answer.values, chain)})
    if unmatched:
        hint = "senders defer mail now; certagent renew publishes what is missing"
        return Finding("error", what, f"no {', '.join(unmatched)} record matches what is served", hint)
    if not answer.values:
        return Finding("note", what, "no TLSA records: senders do not use DANE")
    return Finding("ok", what, f"{count(len(answer.values), 'record')}, TTL {answer.ttl_s} s; what is served matches")
