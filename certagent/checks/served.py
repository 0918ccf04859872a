"""`certagent check`: the world as it is now, compared with itself and with the journal. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from certagent.agent.edges import Edges
from certagent.errors import Error
from certagent.facts.tls import Chain, Served
from certagent.facts.unknown import Unknown
from certagent.lifecycle import caches
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.report.findings import Finding, no_time_to_roll


def run(spec: Spec, state: State, edges: Edges) -> list[Finding]:
    """Every finding about one certificate; `refused` stands for what is wrong."""
    found: list[Finding] = []
    met: dict[str, list[Chain]] = {}
    for server in spec.mail_servers:
        try:
            edges.check(server.name, frozenset(spec.key_types))
            found.append(Finding("ok", f"mail server {server.name}", "its configuration is sound"))
            advice = edges.servers[server.name].advice(frozenset(spec.key_types))
            found += [Finding("note", f"mail server {server.name}", what, command) for what, command in advice]
        except Error as error:
            found.append(Finding("error", f"mail server {server.name}", str(error), error.hint))
        installation = state.mail_servers.get(server.name)
        expected = state.generation(installation.generation) if installation and installation.generation else None
        for served in edges.probe(server.services, spec.key_types):
            found.append(_compare(served, expected.chains if expected else None))
            if isinstance(served.chain, Chain):
                met.setdefault(f"_{served.port}._tcp.{served.host}.", []).append(served.chain)
    for tlsa_name in spec.tlsa_names:
        found += _records(tlsa_name, met.get(tlsa_name, []), edges)
    newest = state.newest
    found += [
        note
        for a, chain in (newest.chains if newest else {}).items()
        for note in no_time_to_roll(spec, state, a, chain)
    ]
    return found


def _compare(served: Served, installed: Mapping[str, Chain] | None) -> Finding:
    what = served.where
    if isinstance(served.chain, Unknown):
        return Finding("error", what, served.chain.why)
    until = f"valid until {served.chain.not_after:%Y-%m-%d %H:%M} UTC, answered in {served.took_s * 1000:.0f} ms"
    if installed is None:
        return Finding("note", what, f"serves a certificate that certagent did not install; {until}")
    expected = installed.get(served.key_type)
    if expected is None:
        hint = "if certagent plan has nothing to do: take it out of the mail server, or list both kinds under keys"
        return Finding("error", what, "serves a kind of key that certagent did not install", hint)
    if served.chain != expected:
        same = (served.chain.spki, served.chain.serial) == (expected.spki, expected.serial)
        wrong = "serves what was installed, with other issuers" if same else "does not serve what was installed"
        return Finding("error", what, wrong, "certagent renew puts it right")
    return Finding("ok", what, f"serves what was installed; {until}")


def _records(tlsa_name: str, met: list[Chain], edges: Edges) -> list[Finding]:
    what = f"DNS {tlsa_name}"
    try:
        observation = edges.resolver().observe(tlsa_name, expect=None, gone=frozenset(), budget=timedelta(0))
    except Error as error:
        return [Finding("error", what, str(error), error.hint)]
    outcome = "ok" if observation.security == "secure" else "error"
    found = [Finding(outcome, f"DNSSEC {tlsa_name}", f"{observation.security} {observation.why}".strip())]
    for server, answer in observation.answers.items():
        if isinstance(answer, Unknown):
            found.append(Finding("error", f"{what} at {server}", answer.why))
            continue
        unmatched = sorted({t for chain in met for t in caches.unmatched(answer.values, chain)})
        if unmatched:
            hint = "senders defer mail now; certagent renew publishes what is missing"
            found.append(
                Finding(
                    "error", f"{what} at {server}", f"no {', '.join(unmatched)} record matches what is served", hint
                )
            )
        elif not answer.values:
            found.append(Finding("note", f"{what} at {server}", "no TLSA records: senders do not use DANE"))
        else:
            found.append(
                Finding(
                    "ok",
                    f"{what} at {server}",
                    f"{len(answer.values)} records, TTL {answer.ttl_s} s; what is served matches",
                )
            )
    return found
