"""The survey: mail servers, ports, names in DNS and what is served, put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, cast

from msgspec import Struct
from msgspec.structs import replace

from certagent.facts.dns import Observation
from certagent.facts.tls import Chain, KeyType, Served, Service
from certagent.host import processes, sockets
from certagent.init import domain, host, providers
from certagent.init.domain import MX_PORT, Name, Resolvers, is_host
from certagent.init.names import Met, Names
from certagent.lifecycle import caches
from certagent.mta.claims import Identity
from certagent.mta.server import Found
from certagent.pki import tlsa
from certagent.pki.keytypes import KEY_TYPES, algorithm
from certagent.pki.names import covers
from certagent.probe.handshake import probe_all
from certagent.report.findings import Finding

CA = "letsencrypt.org"
"""The CA that is proposed, by its name in CAA (RFC 8659 section 4.2)."""

WEB_PORT = 80
"""At which a CA looks for the response of http-01 (RFC 8555 section 8.3)."""

EXAMPLE = "mx1.example.org"
"""Stands where no name was found."""

USUAL = {"ecdsa": "ecdsa-p256", "rsa": "rsa-2048"}

_ANYBODY = ("", "systemd", "inetd", "xinetd")
"""What listens on behalf of others, or is not shown."""

_PROBE_S = 10.0
"""For one handshake: postscreen and others let clients wait for the greeting, some seconds at most."""


class Stranger(NamedTuple):
    """Something that listens at a port of mail, and is no service of a server that is proposed."""

    port: int
    program: str
    """"" if it is not known."""
    server: str = ""
    """The mail server found whose program it is: it offers no TLS there, or a note says why the port is left out."""


class Survey(Struct, frozen=True):
    """All that was found out."""

    found: tuple[Found, ...]
    idle: tuple[Found, ...]
    """Installed beside them, but nothing listens at their ports: they could never be verified, and are left out."""
    failed: tuple[Finding, ...]
    """Plug-ins that could not say what is there."""
    resolvers: Resolvers
    names: Names
    services: dict[str, tuple[Service, ...]]
    """By the name of the mail server, as they are proposed."""
    served: dict[str, tuple[Served, ...]]
    """By the name of the mail server."""
    strangers: tuple[Stranger, ...]
    """Ports where something listens that no mail server accounts for."""
    silent: tuple[tuple[str, int], ...]
    """Mail servers and their ports at which nothing listens."""
    shared: dict[Identity, str] = {}
    """Files that have more than one reader, and who that is."""
    kept_here: dict[str, str] = {}
    """Zones for which a DNS server on this host answers, and its program."""
    web: str | None = None
    """The program that has port 80, "" if that is not shown; None: it is free."""


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
        everyone, failed, shared = host.discover(kinds)
        ports = {listener.port for listener in listeners.result()}
        running = [server for server in everyone if _runs(server, kinds, listeners.result())]
        found = running or everyone
        use = resolving.result()
        in_use = {server.name: tuple(host.in_use(server)) for server in found}
        names = Names(tuple(found), in_use, {})
        hosts = {name.removeprefix("*.") for server in found for name in names.of(server)}
        hosts.add(host.mail_name())
        listening = {service.port for server in found for service in server.services}
        known = domain.look_up(filter(is_host, sorted(hosts)), listening, use) if use.addresses else {}
        names = names._replace(known=known)
        services = names.services(_met(known))
        kept_here = pool.submit(providers.here, {one.zone for one in known.values()}, listeners.result())

        def probe(server: Found) -> tuple[Served, ...]:
            return _probe(services[server.name], known)

        served = pool.map(probe, found)
        return Survey(
            found=tuple(found),
            idle=tuple(server for server in everyone if server not in found),
            failed=tuple(failed),
            resolvers=use,
            names=names,
            services=services,
            served={server.name: met for server, met in zip(found, served, strict=True)},
            strangers=tuple(_strangers(found, kinds, listeners.result())),
            silent=tuple((f.name, port) for f in found for port in sorted({s.port for s in f.services} - ports)),
            shared=shared,
            kept_here=kept_here.result(),
            web=next((processes.holder(one.inode) for one in listeners.result() if one.port == WEB_PORT), None),
        )


def _runs(server: Found, kinds: dict[str, Any], listeners: Iterable[sockets.Listener]) -> bool:
    """Whether something listens at its ports, and is not known to be another program."""
    ports, programs = {service.port for service in server.services}, getattr(kinds[server.type], "programs", ())
    theirs = (listener for listener in listeners if listener.port in ports)
    return any(not programs or processes.holder(one.inode) in {*programs, *_ANYBODY} for one in theirs)


def _met(known: Mapping[str, Name]) -> Met:
    """Each handshake is made once."""

    @cache
    def met(name: str, service: Service) -> frozenset[str]:
        seen = _probe((replace(service, host=name, sni=()),), known)
        return frozenset(one.chain.spki for one in seen if isinstance(one.chain, Chain))

    return met


def _probe(wanted: tuple[Service, ...], known: Mapping[str, Name]) -> tuple[Served, ...]:
    def addresses_of(name: str) -> tuple[str, ...]:
        return known[name].addresses if name in known else ()

    return tuple(probe_all(wanted, addresses_of, tuple(USUAL.values()), _PROBE_S))


def _strangers(
    found: Iterable[Found], kinds: dict[str, Any], listeners: Iterable[sockets.Listener]
) -> Iterator[Stranger]:
    accounted = {service.port for server in found for service in server.services}
    reported: set[int] = set()
    for listener in listeners:
        if listener.port in host.PORTS and listener.port not in accounted | reported:
            reported.add(listener.port)
            program = processes.holder(listener.inode)
            theirs = (one.name for one in found if program in getattr(kinds[one.type], "programs", ()))
            yield Stranger(listener.port, program, next(theirs, ""))


# -- what follows from it ----------------------------------------------------------------------------------------------


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
        mine = set(survey.names.wanted([server], survey.services))
        related = [
            group
            for group in groups
            if kinds(group[0]) == kinds(server)
            and (not mine or any(mine & others or not others for others in _wanted(group, survey)))
        ]
        joined = [other for group in related for other in group]
        groups = [group for group in groups if group not in related] + [[*joined, server]]
    taken: set[str] = set()
    return [_proposed(tuple(group), survey, taken) for group in groups]


def _wanted(group: Iterable[Found], survey: Survey) -> Iterator[set[str]]:
    return (set(survey.names.wanted([server], survey.services)) for server in group)


def _proposed(servers: tuple[Found, ...], survey: Survey, taken: set[str]) -> Proposed:
    names = survey.names.wanted(servers, survey.services)
    met = sorted((s for f in servers for s in survey.services[f.name]), key=lambda one: one.port != MX_PORT)
    candidates = [*(s.host for s in met if any(covers(name, s.host) for name in names)), *names]
    name = next((n for n in candidates if not n.startswith("*.")), EXAMPLE)
    if name in taken:
        name = f"{name}-{servers[0].name}"
    taken.add(name)
    present = {algorithm(c.key_type): c.key_type for server in servers for c in survey.names.in_use[server.name]}
    return Proposed(name, names, tuple(present.get(k, USUAL[k]) for k in kinds(servers[0])), servers)


def by_http(certificate: Proposed, survey: Survey) -> bool:
    """Whether port 80 is the easier way: nothing that is known keeps its zones, and nothing else has to be written
    there.
    """
    known = [survey.names.known[name] for name in certificate.names if name in survey.names.known]
    return bool(
        known
        and not any(name.startswith("*.") for name in certificate.names)
        and not any(has_tlsa(one, survey) for server in certificate.servers for one in survey.services[server.name])
        and not any(one.zone in survey.kept_here or providers.service(one.name_servers) for one in known)
    )


def method(name: str, survey: Survey) -> str:
    """The type of challenge that is proposed for a name."""
    http = any(name in one.names and by_http(one, survey) for one in certificates(survey))
    return "http-01" if http else "dns-01"


def inside_addresses(service: Service, survey: Survey) -> tuple[str, ...]:
    """Where to verify a service whose public addresses are elsewhere and cannot be reached from here (NAT)."""
    name = survey.names.known.get(service.host)
    if name is None or service.addresses or not name.addresses or any(map(host.is_own, name.addresses)):
        return ()
    met = [s for all_ in survey.served.values() for s in all_ if (s.host, s.port) == (service.host, service.port)]
    if not met or any(isinstance(s.chain, Chain) or s.chain.reached for s in met):
        return ()
    return tuple(sorted({own for address in name.addresses if (own := host.inside(address))}))


def dane(service: Service, survey: Survey) -> tuple[bool, str] | None:
    """Whether the service shall have TLSA records, and why; None if the question does not arise.

    Where nobody could be asked there may be some: then certagent shall look for them before it changes a key.
    """
    use, name = survey.resolvers, survey.names.known.get(service.host)
    there = survey.names.records(service.host, service.port)
    is_mail = service.port == MX_PORT and service.mode == "smtp"
    if not is_host(service.host) or not (is_mail or there or (name and service.port in name.tlsa)):
        return None
    if name is None or service.port not in name.tlsa or not caches.known(name.tlsa[service.port]):
        return True, "whether TLSA records are there could not be found out, so certagent looks before each change"
    security = name.tlsa[service.port].security
    if there:
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
    yes = security == "secure" and is_mail
    return yes, why.get(security, f"whether the zone is signed is not known: {use.why}")


def has_tlsa(service: Service, survey: Survey) -> bool:
    """Whether it shall have TLSA records."""
    found = dane(service, survey)
    return bool(found and found[0])


def observed(service: Service, survey: Survey) -> Observation | None:
    """What DNS says of its TLSA records; None: there are none, or nobody was asked."""
    name = survey.names.known.get(service.host)
    return name.tlsa.get(service.port) if name else None


def ttl_s(observation: Observation) -> int:
    """The largest TTL of its TLSA records at any server; 0 if there are none."""
    return max((answer.ttl_s for answer in caches.known(observation) if answer.values), default=0)


def tlsa_parameters(observation: Observation) -> frozenset[str]:
    """The kinds of TLSA records that are there: `3 1 1`."""
    return frozenset(tlsa.parameters(value) for answer in caches.known(observation) for value in answer.values)
