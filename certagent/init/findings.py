"""What `certagent init` says of what it found: the mail servers, their ports, names, and DNS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

from certagent.facts.dns import Answer
from certagent.facts.tls import Chain, Service
from certagent.facts.unknown import Unknown
from certagent.host import mounts
from certagent.init import domain, host, others
from certagent.init.domain import Name
from certagent.init.survey import CA, Survey, dane, method, observed, tlsa_parameters, ttl_s
from certagent.lifecycle import caches
from certagent.mta.claims import identity
from certagent.mta.server import Found
from certagent.pki import tlsa
from certagent.pki.names import tlsa_name
from certagent.report.findings import Finding
from certagent.report.words import brief, count

_STRANGER = "if it presents this host's certificate, add it under mail_servers (type: command fits anything)"

_CONTAINER = (
    "add it under mail_servers (type: command); give it the directory of its files, not single files: "
    "a file that is mounted by itself is not replaced by a rename"
)


def of(survey: Survey) -> Iterator[Finding]:
    """What people want to know of it, the servers first."""
    if os.geteuid() != 0:
        yield Finding("note", "this run", "not as root: what only root may read is missing", "sudo certagent init")
    yield from survey.failed
    for server in survey.found:
        yield from _server(server, survey)
    yield from _elsewhere(survey)
    if not survey.resolvers.addresses:
        yield Finding("error", "DNS", survey.resolvers.why, f"{domain.to_start_unbound()}, or repair /etc/resolv.conf")
    elif not survey.resolvers.validates:
        hint = f"{domain.to_start_unbound()}; or apt install bind9-dnsutils: certagent then validates by delv"
        yield Finding("note", "DNS", f"no validating resolver: {survey.resolvers.why}", hint)
    yield from _names(survey)


def _elsewhere(survey: Survey) -> Iterator[Finding]:
    """What runs here and is not proposed."""
    for server in survey.idle:
        detail = f"its configuration is there, but nothing listens at its ports: {server.type} is left out"
        yield Finding(
            "note", f"mail server {server.name}", detail, "start it and run certagent init again, or leave it"
        )
    plain = {(server.name, port): todo for server in survey.found for port, todo in server.plain}
    for port, program, server in survey.strangers:
        who = program or "something"
        what = f"port {port} ({host.PORTS[port]})"
        if todo := plain.get((server, port)):
            detail = f"the {server} above listens there: {todo.what}, so no certificate is proposed for it"
            yield Finding("note", what, detail, f"{todo.command}; then begin again with certagent init")
            continue
        if server:
            detail = f"the {server} above listens there, and it is left out: without TLS, or as a note below says"
            yield Finding("note", what, detail, "see the notes in the proposal")
            continue
        detail, hint = f"{who} listens there, and no mail server above accounts for it", _STRANGER
        if who in others.CONTAINERS:
            detail, hint = f"{who} listens there for a container: the mail server in it is not observed", _CONTAINER
        yield Finding("note", what, detail, hint)


def _names(survey: Survey) -> Iterator[Finding]:
    here = survey.names.here()
    for name in survey.names.known.values():
        if name.name in here or name.name in {n for server in survey.found for n in survey.names.of(server)}:
            yield from _name(name, method(name.name, survey))
    for service in dict.fromkeys(one for services in survey.services.values() for one in services):
        yield from _records(service, survey)
    wanted = {name for server in survey.found for name in survey.names.wanted([server], survey.services)}
    for left in survey.names.left_out(wanted):
        yield Finding("note", left.name, f"{left.why}: it is left out", left.todo)


def _server(server: Found, survey: Survey) -> Iterator[Finding]:
    what = f"mail server {server.name}"
    ports = ", ".join(dict.fromkeys(f"{s.port} {s.mode}" for s in sorted(server.services, key=lambda s: s.port)))
    kind = "" if server.type == server.name else f"{server.type}, "
    yield Finding("ok", what, f"{kind}ports {ports or 'none'}, as {', '.join(survey.names.of(server)) or 'nobody'}")
    used = {one.file: one for one in survey.names.in_use[server.name]}
    keys = {one.key for one in used.values()}
    reported: set[str] = set()
    for setting, value in server.uses.items():
        if value in reported or (value in keys and value not in used):
            continue  # a key: its certificate is reported
        reported.add(value)
        facts = [f"{u.key_type} by {u.issuer}, until {u.not_after:%Y-%m-%d}" for f, u in used.items() if f in value]
        yield Finding("ok", what, "; ".join([f"{setting} = {value}", *facts]))
    for file in host.used(server):
        if readers := survey.shared.get(identity(file)):
            hint = f"if that is to get the new one, too: {mounts.REMEDY}" if "mounted alone" in readers else ""
            detail = f"{file} is read by {readers}: new files are proposed, and this one is left"
            yield Finding("note", what, detail, hint)
    silent = [port for name, port in survey.silent if name == server.name]
    if silent:
        yield Finding("note", what, f"nothing listens at its ports {', '.join(map(str, silent))}: is it running?")
    for service in survey.services[server.name]:
        met = [s for s in survey.served[server.name] if (s.host, s.port) == (service.host, service.port)]
        if met and service.port not in silent and not any(isinstance(s.chain, Chain) for s in met):
            why = "; ".join(dict.fromkeys(s.chain.why for s in met if isinstance(s.chain, Unknown)))
            yield Finding("note", f"{service.host}:{service.port} {service.mode}", f"no certificate was met: {why}")


def _name(name: Name, challenge: str) -> Iterator[Finding]:
    own = [host.is_own(address) for address in name.addresses]
    where = "this host" if all(own) else "not this host (NAT?)" if not any(own) else "in part this host"
    mail = f"; the MX of {', '.join(name.mail_for)}" if name.mail_for else "; no MX that was asked leads here"
    if name.addresses:
        yield Finding("ok" if any(own) else "note", name.name, f"{', '.join(name.addresses)}: {where}{mail}")
    for trouble in name.trouble:
        yield Finding("note", name.name, trouble)
    if objection := domain.forbidden(name.caa, CA, challenge):
        detail = f"{name.caa_at} {objection}: its order would be refused"
        yield Finding("error", f"CAA {name.name}", detail, "change the CAA records, or propose another CA below")
    elif name.caa:
        yield Finding("ok", f"CAA {name.name}", f"{name.caa_at} allows {', '.join(name.caa)}")


def _records(service: Service, survey: Survey) -> Iterator[Finding]:
    observation, verdict = observed(service, survey), dane(service, survey)
    if observation is None or verdict is None:
        return
    what = f"DNS {tlsa_name(service.host, service.port)}"
    for server, answer in observation.answers.items():
        if isinstance(answer, Unknown):
            yield Finding("note", what, f"{server} {answer.why}")
    yes, why = verdict
    yield Finding("error" if observation.security == "bogus" else "ok" if yes else "note", what, why)
    if ttl := ttl_s(observation):
        heard = [answer for answer in observation.answers.values() if isinstance(answer, Answer)]
        values = survey.names.records(service.host, service.port)
        detail = (
            f"{count(len(values), 'record')}, TTL {brief(timedelta(seconds=ttl))}, at {count(len(heard), 'server')}"
        )
        met = [
            one.chain
            for all_ in survey.served.values()
            for one in all_
            if (one.host, one.port) == (service.host, service.port) and isinstance(one.chain, Chain)
        ]
        unmatched = sorted({t for answer in heard for leaf in met for t in caches.unmatched(answer.values, leaf)})
        if unmatched:
            hint = "senders that use DANE defer mail now, whatever certagent does; see what is served and what is there"
            yield Finding("error", what, f"{detail}; no {', '.join(unmatched)} record matches what is served", hint)
        else:
            yield Finding("ok", what, detail + ("; what is served matches" if met else ""))
    if odd := tlsa_parameters(observation) - {tlsa.DANE_EE_SPKI_SHA256, tlsa.DANE_TA_SPKI_SHA256}:
        hint = "remove them by hand, and wait two of their TTLs before the first run"
        yield Finding(
            "note", what, f"certagent makes no {', '.join(sorted(odd))} records and will not roll these", hint
        )
