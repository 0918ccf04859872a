"""`certagent check`: what is served and what is in DNS now, compared with each other and with the journal.

It changes nothing, and says the worst first.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from certagent.agent.act import serving
from certagent.agent.edges import Edges
from certagent.checks import challenges, delegation, serials, undeclared, wildcards
from certagent.dns.servers import parallel
from certagent.errors import Error
from certagent.facts.dns import Answer, Observation
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, Served
from certagent.facts.unknown import Unknown
from certagent.host import mounts
from certagent.lifecycle import caches, schedule
from certagent.lifecycle.events import Observed
from certagent.lifecycle.fold import fold
from certagent.lifecycle.rules.deployment import STAGES
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Installation, State
from certagent.lifecycle.tlsaname import TlsaName, TlsaNames
from certagent.mta.server import written
from certagent.pki import tlsa
from certagent.pki.names import tlsa_name
from certagent.report.conditions import Condition, beside_expiry, running_out
from certagent.report.findings import Finding, dnssec, no_time_to_roll, worst_first
from certagent.report.words import brief, count, short
from certagent.store.protocol import Wake

_RENEW = "run: certagent renew"


def run(
    spec: Spec, state: State, edges: Edges, now: Instant, wake: Wake | None = None, daemon: int | None = None
) -> list[Finding]:
    """Every finding about one certificate, the worst first."""
    found: list[Finding] = []
    met: dict[str, list[Served]] = {}
    for server in spec.mail_servers:
        found += configuration(server.name, frozenset(spec.key_types), edges)
        at = state.mail_servers.get(server.name)
        found += _files(server.name, at, state, edges)
        for served in edges.probe(server.services, spec.key_types):
            if isinstance(served.chain, Unknown) and not served.chain.reached:
                hint = serving.unmet([served], edges.servers[server.name]).hint
                found.append(Finding("error", served.where, served.chain.why, hint))
            else:
                found += _compare(served, at, state, now.wall)
            met.setdefault(tlsa_name(served.host, served.port), []).append(served)
    for some in parallel(lambda name: [*_records(name, met.get(name, []), spec, state, edges, now)], spec.tlsa_names):
        found += some
    found += challenges.findings(spec)
    found += delegation.findings(spec.tlsa_names, edges)
    found += serials.findings(spec.tlsa_names, edges)
    found += wildcards.findings(spec, edges)
    found += undeclared.findings(spec, state, [one for some in met.values() for one in some], edges, now.wall)
    newest = state.newest
    for key_type, chain in (newest.chains if newest else {}).items():
        found += no_time_to_roll(spec, state, key_type, chain)
    found += [_wrong(spec.name, condition) for condition in beside_expiry(spec, state, now, wake, daemon)]
    return worst_first(found)


def _wrong(what: str, condition: Condition) -> Finding:
    return Finding("error", what, f"{condition.detail} [{condition.code}]", condition.hint)


def configuration(server: str, key_types: frozenset[str], edges: Edges) -> list[Finding]:
    """Of one mail server: its own check, what its operator should know, and files that a swap would not reach."""
    what = f"mail server {server}"
    try:
        edges.check(server, key_types)
        advice = edges.servers[server].advice(key_types)
    except Error as error:
        return [Finding("error", what, str(error), error.hint)]
    sound = Finding("ok", what, "its configuration is sound")
    alone = [Finding("warning", what, str(one), mounts.REMEDY) for one in mounts.alone(written(edges.servers[server]))]
    return [sound, *alone, *(Finding("note", what, detail, command) for detail, command in advice)]


def _files(server: str, at: Installation | None, state: State, edges: Edges) -> Iterator[Finding]:
    """What is served next time the mail server reads its files."""
    installed = state.generation(at.generation) if at and at.generation and at.phase == "drained" else None
    if installed is None:
        return
    try:
        others = serving.others_in_files(server, installed, edges)
    except Error:
        return  # `_configuration` says it
    if others:
        error = serving.replaced(server, others)
        yield Finding("error", f"mail server {server}", str(error), error.hint)


def _compare(served: Served, at: Installation | None, state: State, now: datetime) -> Iterator[Finding]:
    what, chain = served.where, served.chain
    if isinstance(chain, Unknown):
        yield Finding("error", what, chain.why)
        return
    if late := running_out("what it serves", chain.not_after, schedule.last_chance(chain), now):
        yield _wrong(what, late)
    until = f"valid until {chain.not_after:%Y-%m-%d %H:%M} UTC, answered in {served.took_s * 1000:.0f} ms"
    installed = state.generation(at.generation) if at and at.generation else None
    if at is None or installed is None:
        yield Finding("note", what, f"serves a certificate that certagent did not install; {until}")
        return
    expected = installed.chains.get(served.key_type)
    if chain == expected:
        yield Finding("ok", what, f"serves what was installed; {until}")
    elif at.phase in _ON_ITS_WAY and (old := _older(chain, at, state)):
        stage = STAGES[at.phase].done
        yield Finding("note", what, f"serves {old} still; {installed.id} is {at.phase}, and next it is {stage}")
    elif expected is None:
        hint = "if certagent plan has nothing to do: take it out of the mail server, or list both key types under keys"
        yield Finding("error", what, "serves a key type that certagent did not install", hint)
    else:
        same = (chain.spki, chain.serial) == (expected.spki, expected.serial)
        wrong = "serves what was installed, with other issuers" if same else "does not serve what was installed"
        yield Finding("error", what, wrong, _RENEW)


_ON_ITS_WAY = ("installing", "installed", "reloaded", "verified", "restoring", "restored")
"""Processes from before the swap may answer."""


def _older(chain: Chain, at: Installation, state: State) -> str | None:
    """The generation from before the swap that has this chain."""
    known = (g for id_ in at.serves if (g := state.generation(id_)))
    return next((g.id for g in known if chain in g.chains.values()), None)


# -- DNS ---------------------------------------------------------------------------------------------------------------


def _records(name: str, met: list[Served], spec: Spec, state: State, edges: Edges, now: Instant) -> Iterator[Finding]:
    """What each server answers, against what is served and against the set that should be there."""
    what = f"DNS {name}"
    try:
        observation = edges.resolver().observe(name, expect=None, gone=frozenset(), budget=timedelta(0))
    except Error as error:
        yield Finding("error", what, str(error), error.hint)
        return
    yield dnssec(name, observation)
    known = TlsaNames(spec, state)[name]
    wanted = _wanted(known, observation, spec, state, now)
    for server, answer in observation.answers.items():
        place = f"{what} at {server}"
        if isinstance(answer, Unknown):
            yield Finding("error", place, answer.why)
        else:
            yield _answer(place, answer, met, wanted, known, now)


def _wanted(known: TlsaName, observation: Observation, spec: Spec, state: State, now: Instant) -> frozenset[str]:
    """The set that should be there, by what is in DNS now; by what was there last, if somebody has emptied it."""
    event = Observed(tlsa_name=known.name, observation=observation, mail_servers=known.mail_servers)
    return TlsaNames(spec, fold(state, event, now))[known.name].desired or known.desired


def _answer(
    what: str, answer: Answer, met: list[Served], wanted: frozenset[str], known: TlsaName, now: Instant
) -> Finding:
    chains = [(served.key_type, served.chain) for served in met if isinstance(served.chain, Chain)]
    unmatched = sorted(
        {
            f"{parameters} ({key_type})"
            for key_type, chain in chains
            for parameters in caches.unmatched(answer.values, chain)
        }
    )
    if unmatched:
        hint = "senders defer mail now; run: certagent renew"
        return Finding("error", what, f"no {', '.join(unmatched)} record matches what is served", hint)
    lacking = wanted - answer.values
    usable = any(map(tlsa.usable, answer.values))
    if not wanted and not usable:
        because = f": {known.publication_blocked}" if known.publication_blocked else ""
        return Finding("note", what, f"no TLSA records yet, senders do not use DANE{because}")
    if not lacking:
        return Finding(
            "ok", what, f"{count(len(answer.values), 'record')}, TTL {answer.ttl_s} s; what is served matches"
        )
    if since := _on_its_way(known, now):
        return Finding("note", what, f"lacks {short(lacking)}: being published, {since}")
    if not usable or any(tlsa.matches(value, chain) for value in lacking for _, chain in chains):
        harm = (
            "no usable record, senders do not use DANE" if not usable else "senders lose the record of what is served"
        )
        return Finding("error", what, f"lacks {short(lacking)}: {harm}", _RENEW)
    return Finding("warning", what, f"lacks {short(lacking)}, of keys to come", _RENEW)


def _on_its_way(known: TlsaName, now: Instant) -> str | None:
    """Since when, if a publication is under way that may take so long."""
    state = known.known
    if state.changed_at is None:
        return "the first step of which is due"
    change = next((c for c in (state.change, state.other) if c and not c.removes), None)
    began = change.first_at if change else None
    if began is None or now.since(began) >= schedule.UNSHOWN + known.publish_lag:
        return None
    return f"since {brief(now.since(began))}"
