"""The survey: mail servers, ports, names in DNS and what is served, put together, and what of it is worth saying."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple, cast

from msgspec import Struct
from msgspec.structs import replace

from certagent.errors import Misconfigured
from certagent.facts.dns import Answer
from certagent.facts.tls import Chain, KeyType, Served, Service
from certagent.facts.unknown import Unknown
from certagent.host import processes, sockets
from certagent.init import domain, host
from certagent.init.domain import Name, Resolvers
from certagent.init.host import InUse
from certagent.lifecycle import caches
from certagent.mta.server import Found
from certagent.pki import names as host_names
from certagent.pki import tlsa
from certagent.pki.keytypes import KEY_TYPES, algorithm
from certagent.probe.handshake import probe_all
from certagent.report.findings import Finding
from certagent.report.words import brief, count

CA = "letsencrypt.org"
"""The CA that is proposed, by its name in CAA (RFC 8659 section 4.2)."""

EXAMPLE = "mx1.example.org"
"""Stands where no name was found."""

USUAL = {"ecdsa": "ecdsa-p256", "rsa": "rsa-2048"}

_PROBE_S = 10.0
"""For one handshake: postscreen and others let clients wait for the greeting, some seconds at most."""


class Survey(Struct, frozen=True):
    """All that was found out."""

    found: tuple[Found, ...]
    idle: tuple[Found, ...]
    """Installed beside them, but nothing listens at their ports: they could never be verified, and are left out."""
    failed: tuple[Finding, ...]
    """Plug-ins that could not say what is there."""
    resolvers: Resolvers
    names: dict[str, Name]
    served: dict[str, tuple[Served, ...]]
    """By the name of the mail server."""
    in_use: dict[str, tuple[InUse, ...]]
    """The certificates in the files it uses, by the name of the mail server."""
    strangers: tuple[tuple[int, str], ...]
    """Ports where something listens that no mail server accounts for, with the program if it is known."""
    silent: tuple[tuple[str, int], ...]
    """Mail servers and their ports at which nothing listens."""


class Proposed(NamedTuple):
    """One certificate for servers that answer to the same names with the same key types."""

    name: str
    names: tuple[str, ...]
    keys: tuple[KeyType, ...]
    servers: tuple[Found, ...]


# -- looking -----------------------------------------------------------------------------------------------------------


def take(kinds: dict[str, Any]) -> Survey:
    """Looks at everything, side by side; it takes seconds, and with silent servers some tens of seconds."""
    with ThreadPoolExecutor(3) as pool:
        listeners = pool.submit(sockets.listening)
        resolving = pool.submit(domain.resolvers)
        everyone, failed = host.discover(kinds)
        ports = {listener.port for listener in listeners.result()}
        running = [server for server in everyone if ports & {s.port for s in server.services}]
        found = running or everyone
        use = resolving.result()
        hosts = {name for server in found for name in (*server.names, *(s.host for s in server.services))}
        known = domain.look_up(filter(is_host, sorted(hosts)), use) if use.addresses else {}

        def probe(server: Found) -> tuple[Served, ...]:
            return _probe(services(server, known), known)

        served = pool.map(probe, found)
        return Survey(
            found=tuple(found),
            idle=tuple(server for server in everyone if server not in found),
            failed=tuple(failed),
            resolvers=use,
            names=known,
            served={server.name: met for server, met in zip(found, served, strict=True)},
            in_use={server.name: tuple(host.in_use(server)) for server in found},
            strangers=tuple(_strangers(found, listeners.result())),
            silent=tuple((f.name, port) for f in found for port in sorted({s.port for s in f.services} - ports)),
        )


def _probe(wanted: tuple[Service, ...], known: dict[str, Name]) -> tuple[Served, ...]:
    def addresses_of(name: str) -> tuple[str, ...]:
        return known[name].addresses if name in known else ()

    return tuple(probe_all(wanted, addresses_of, tuple(USUAL.values()), _PROBE_S))


def _strangers(found: Iterable[Found], listeners: Iterable[sockets.Listener]) -> Iterator[tuple[int, str]]:
    accounted = {service.port for server in found for service in server.services}
    reported: set[int] = set()
    for listener in listeners:
        if listener.port in host.PORTS and listener.port not in accounted | reported:
            reported.add(listener.port)
            yield listener.port, processes.holder(listener.inode)


def services(server: Found, known: dict[str, Name]) -> tuple[Service, ...]:
    """Where its certificate is met; another name of it that receives mail is a mail exchanger too (RFC 7672)."""
    mx = next((s for s in server.services if s.port == 25 and s.mode == "smtp"), None)
    if mx is None:
        return server.services
    there = {s.host for s in server.services if s.port == 25}
    more = [n for n in server.names if n not in there and n in known and (known[n].mail_for or _values(known[n]))]
    return (*server.services, *(replace(mx, host=name, sni=()) for name in more))


# -- what follows from it ----------------------------------------------------------------------------------------------


def is_host(name: str) -> bool:
    """Whether it is a full host name, such as a CA knows."""
    try:
        return host_names.hostname(name) == name
    except Misconfigured:
        return False


def orderable(name: str, survey: Survey) -> bool:
    """Whether a public CA could issue for it: a full name in a zone below the root, as far as DNS could be asked."""
    base = name.removeprefix("*.")
    return is_host(base) and (base not in survey.names or survey.names[base].zone != ".")


def kinds(server: Found) -> tuple[str, ...]:
    """The key types, `ecdsa` and `rsa`, that its options have files for."""
    return tuple(sorted({kind for kind, _ in files(server)})) or ("ecdsa",)


def files(server: Found) -> list[tuple[str, dict[str, str]]]:
    """The files of each key type, as `certagent.mta.files.Files` calls them; a bare path is a combined file."""
    found: list[tuple[str, dict[str, str]]] = []
    for value in server.options.values():
        for key, one in cast("dict[object, Any]", value).items() if isinstance(value, dict) else ():
            if isinstance(key, str) and key in {*USUAL, *KEY_TYPES}:
                found.append(
                    (key if key in USUAL else algorithm(key), {"combined": one} if isinstance(one, str) else one)
                )
    return found


def served_kinds(server: Found, survey: Survey) -> tuple[str, ...]:
    """The key types that it answers with now."""
    return tuple(sorted({algorithm(s.key_type) for s in survey.served[server.name] if isinstance(s.chain, Chain)}))


def certificates(survey: Survey) -> list[Proposed]:
    """The servers that share a name and have files for the same key types share a certificate."""
    groups: list[list[Found]] = []
    for server in survey.found:
        mine = {name for name in server.names if orderable(name, survey)}
        related = [
            group
            for group in groups
            if kinds(group[0]) == kinds(server)
            and (not mine or any(mine & set(other.names) or not other.names for other in group))
        ]
        joined = [other for group in related for other in group]
        groups = [group for group in groups if group not in related] + [[*joined, server]]
    taken: set[str] = set()
    return [_proposed(tuple(group), survey, taken) for group in groups]


def _proposed(servers: tuple[Found, ...], survey: Survey, taken: set[str]) -> Proposed:
    met = sorted((s for server in servers for s in server.services), key=lambda s: s.port != 25)
    candidates = [*(s.host for s in met), *(n for server in servers for n in server.names)]
    names = tuple(dict.fromkeys(name for name in candidates if orderable(name, survey)))
    name = next((n for n in names if not n.startswith("*.")), EXAMPLE)
    if name in taken:
        name = f"{name}-{servers[0].name}"
    taken.add(name)
    present = {algorithm(c.key_type): c.key_type for server in servers for c in survey.in_use[server.name]}
    return Proposed(name, names, tuple(present.get(k, USUAL[k]) for k in kinds(servers[0])), servers)


def inside_addresses(service: Service, survey: Survey) -> tuple[str, ...]:
    """Where to verify a service whose public addresses are elsewhere and cannot be reached from here (NAT)."""
    name = survey.names.get(service.host)
    if name is None or service.addresses or not name.addresses or any(map(host.is_own, name.addresses)):
        return ()
    met = [s for all_ in survey.served.values() for s in all_ if (s.host, s.port) == (service.host, service.port)]
    if not met or any(isinstance(s.chain, Chain) or s.chain.reached for s in met):
        return ()
    return tuple(sorted({own for address in name.addresses if (own := host.inside(address))}))


def dane(name: Name | None, use: Resolvers) -> tuple[bool, str]:
    """Whether TLSA records belong to it, and why. Where nobody could be asked there may be some: then certagent shall
    look for them before it changes a key.
    """
    if name is None or name.tlsa is None or not caches.known(name.tlsa):
        return True, "whether TLSA records are there could not be found out, so certagent looks before each change"
    security = name.tlsa.security
    if _values(name):
        why = {
            "secure": "the zone is signed and TLSA records are there",
            "bogus": "TLSA records are there, but the zone is bogus: mail is deferred until its DNSSEC is repaired",
            "insecure": "TLSA records are there; the zone is not signed, so nobody uses them yet",
        }
        return True, why.get(security, "TLSA records are there; whether the zone is signed could not be found out")
    why = {
        "secure": "the zone is signed; no TLSA records yet: the first are published once what is served is verified",
        "bogus": "the zone is bogus: repair its DNSSEC first",
        "insecure": "the zone is not signed",
    }
    return security == "secure", why.get(security, f"whether the zone is signed is not known: {use.why}")


def ttl_s(name: Name) -> int:
    """The largest TTL of its TLSA records at any server; 0 if there are none."""
    return max((a.ttl_s for a in caches.known(name.tlsa) if a.values), default=0) if name.tlsa else 0


def _values(name: Name) -> frozenset[str]:
    return frozenset(v for answer in caches.known(name.tlsa) for v in answer.values) if name.tlsa else frozenset()


def tlsa_parameters(name: Name) -> frozenset[str]:
    """The kinds of TLSA records it has: `3 1 1`."""
    return frozenset(tlsa.parameters(value) for value in _values(name))


# -- saying ------------------------------------------------------------------------------------------------------------


def findings(survey: Survey) -> Iterator[Finding]:
    """What people want to know of it, the servers first."""
    if os.geteuid() != 0:
        yield Finding("note", "this run", "not as root: what only root may read is missing", "sudo certagent init")
    yield from survey.failed
    for server in survey.found:
        yield from _server(server, survey)
    for server in survey.idle:
        detail = f"its configuration is there, but nothing listens at its ports: {server.type} is left out"
        yield Finding(
            "note", f"mail server {server.name}", detail, "start it and run certagent init again, or leave it"
        )
    for port, program in survey.strangers:
        who = program or "something"
        what = f"port {port} ({host.PORTS[port]})"
        hint = "if it presents this host's certificate, add it under mail_servers (type: command fits anything)"
        yield Finding("note", what, f"{who} listens there, and no mail server above accounts for it", hint)
    if not survey.resolvers.addresses:
        yield Finding("error", "DNS", survey.resolvers.why, "apt install unbound, or repair /etc/resolv.conf")
    elif not survey.resolvers.validates:
        yield Finding("note", "DNS", f"no validating resolver: {survey.resolvers.why}", "apt install unbound")
    for name in survey.names.values():
        yield from _name(name, survey)


def _server(server: Found, survey: Survey) -> Iterator[Finding]:
    what = f"mail server {server.name}"
    ports = ", ".join(dict.fromkeys(f"{s.port} {s.mode}" for s in sorted(server.services, key=lambda s: s.port)))
    kind = "" if server.type == server.name else f"{server.type}, "
    yield Finding("ok", what, f"{kind}ports {ports or 'none'}, as {', '.join(server.names) or 'nobody'}")
    used = {one.file: one for one in survey.in_use[server.name]}
    keys = {one.key for one in used.values()}
    reported: set[str] = set()
    for setting, value in server.uses.items():
        if value in reported or (value in keys and value not in used):
            continue  # a key: its certificate is reported
        reported.add(value)
        facts = [f"{u.key_type} by {u.issuer}, until {u.not_after:%Y-%m-%d}" for f, u in used.items() if f in value]
        yield Finding("ok", what, "; ".join([f"{setting} = {value}", *facts]))
    silent = [port for name, port in survey.silent if name == server.name]
    if silent:
        yield Finding("note", what, f"nothing listens at its ports {', '.join(map(str, silent))}: is it running?")
    for service in server.services:
        met = [s for s in survey.served[server.name] if (s.host, s.port) == (service.host, service.port)]
        if met and service.port not in silent and not any(isinstance(s.chain, Chain) for s in met):
            why = "; ".join(dict.fromkeys(s.chain.why for s in met if isinstance(s.chain, Unknown)))
            yield Finding("note", f"{service.host}:{service.port} {service.mode}", f"no certificate was met: {why}")


def _name(name: Name, survey: Survey) -> Iterator[Finding]:
    own = [host.is_own(address) for address in name.addresses]
    where = "this host" if all(own) else "not this host (NAT?)" if not any(own) else "in part this host"
    mail = f"; the MX of {', '.join(name.mail_for)}" if name.mail_for else "; no MX of its zone leads here"
    if name.addresses:
        yield Finding("ok" if any(own) else "note", name.name, f"{', '.join(name.addresses)}: {where}{mail}")
    for trouble in name.trouble:
        yield Finding("note", name.name, trouble)
    if objection := domain.forbidden(name.caa, CA):
        detail = f"{name.caa_at} {objection}: its order would be refused"
        yield Finding("error", f"CAA {name.name}", detail, "change the CAA records, or propose another CA below")
    elif name.caa:
        yield Finding("ok", f"CAA {name.name}", f"{name.caa_at} allows {', '.join(name.caa)}")
    if name.mail_for or _values(name) or any(name.name == s.host and s.port == 25 for s in _all(survey)):
        yield from _records(name, survey)


def _records(name: Name, survey: Survey) -> Iterator[Finding]:
    what = f"DNS _25._tcp.{name.name}."
    if name.tlsa is None:
        return
    for server, answer in name.tlsa.answers.items():
        if isinstance(answer, Unknown):
            yield Finding("note", what, f"{server} {answer.why}")
    yes, why = dane(name, survey.resolvers)
    yield Finding("error" if name.tlsa.security == "bogus" else "ok" if yes else "note", what, why)
    if ttl := ttl_s(name):
        heard = [answer for answer in name.tlsa.answers.values() if isinstance(answer, Answer)]
        records, servers = count(len(_values(name)), "record"), count(len(heard), "server")
        detail = f"{records}, TTL {brief(timedelta(seconds=ttl))}, at {servers}"
        met = [s.chain for s in _met(survey) if (s.host, s.port) == (name.name, 25) and isinstance(s.chain, Chain)]
        unmatched = sorted({t for answer in heard for leaf in met for t in caches.unmatched(answer.values, leaf)})
        if unmatched:
            hint = "senders that use DANE defer mail now, whatever certagent does; see what is served and what is there"
            yield Finding("error", what, f"{detail}; no {', '.join(unmatched)} record matches what is served", hint)
        else:
            yield Finding("ok", what, detail + ("; what is served matches" if met else ""))
    if odd := tlsa_parameters(name) - {tlsa.DANE_EE_SPKI_SHA256, tlsa.DANE_TA_SPKI_SHA256}:
        hint = "remove them by hand, and wait two of their TTLs before the first run"
        yield Finding(
            "note", what, f"certagent makes no {', '.join(sorted(odd))} records and will not roll these", hint
        )


def _all(survey: Survey) -> list[Service]:
    return [service for server in survey.found for service in server.services]


def _met(survey: Survey) -> list[Served]:
    return [served for met in survey.served.values() for served in met]
