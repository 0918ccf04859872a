"""The proposed config as text: every decision with the reason beside it, and `TODO:` where only the operator can know.

It is valid as it stands (`certagent.config.load` takes it) but agrees to nothing in the operator's name.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from datetime import timedelta

import yaml

from certagent.facts.tls import Chain, Service
from certagent.init import domain, host, others, providers
from certagent.init import survey as seen
from certagent.init.domain import MX_PORT, Name, is_host
from certagent.init.host import ITSELF
from certagent.init.survey import Proposed, Survey
from certagent.lifecycle import caches
from certagent.mta.claims import identity
from certagent.mta.server import Found
from certagent.pki.keytypes import algorithm
from certagent.pki.names import challenge_name, tlsa_name
from certagent.pki.tlsa import DANE_EE_SPKI_SHA256, DANE_TA_SPKI_SHA256
from certagent.report.words import brief

_WIDTH = 100
_TTL_S = 3600
"""A roll waits two TTLs: an hour keeps that short, and is nothing to a name server."""

_GUARD = timedelta(minutes=15)
"""The default of the config, see config.py."""

_SHOWN = {"ecdsa": "ECDSA", "rsa": "RSA"}


def text(survey: Survey, date: str) -> str:
    """The whole file. `date` stands in its first line."""
    proposed = seen.certificates(survey)
    lines = [
        *_comment(
            f"Proposed by `certagent init` on {date}, from what this host runs and what DNS says. Look for TODO."
        ),
        *_comment("config.example.yaml explains every key there is."),
        "",
        *_ca(),
        "",
        *_dns(survey, [one for one in proposed if not seen.by_http(one, survey)]),
        "",
        "certificates:",
    ]
    for certificate in proposed:
        lines += [*_certificate(certificate, survey), ""]
    lines += _left_out(proposed, survey)
    return "\n".join(lines).rstrip() + "\n"


def _ca() -> Iterator[str]:
    yield "ca:"
    yield "  letsencrypt:"
    yield "    directory: https://acme-v02.api.letsencrypt.org/directory"
    yield from _comment("Where `certagent renew --dry-run` goes.", 4)
    yield "    staging: https://acme-staging-v02.api.letsencrypt.org/directory"
    yield from _comment(
        "TODO: read the CA's terms (https://letsencrypt.org/repository/), then write true; nobody can agree for you.", 4
    )
    yield "    agree_tos: false"
    yield from _comment("TODO: where the CA may write to, such as [postmaster@example.org]; it may stay empty.", 4)
    yield "    contact: []"


def _dns(survey: Survey, proposed: list[Proposed]) -> Iterator[str]:
    use = survey.resolvers
    yield "dns:"
    if use.validates:
        yield from _comment(f"{use.why}.", 2)
        yield f"  resolvers: {_flow(list(use.addresses))}"
    else:
        yield from _comment(
            f"TODO: a validating resolver on this host ({domain.to_start_unbound()}), then take the # away. Without "
            f"one, and without delv (apt install bind9-dnsutils), no first TLSA record is published. Now: {use.why}.",
            2,
        )
        yield "  #resolvers: [127.0.0.1]"
    if not proposed:
        yield from _comment("No provider is needed: the CA looks at port 80, and nothing else has to be written.", 2)
        return
    yield "  providers:"
    sections = _providers(survey, proposed)
    primaries = [primary for kind, primary in sections if kind == "rfc2136"]
    written = list(dict.fromkeys(one for certificate in proposed for one in _written(certificate, survey)))
    for (kind, primary), zones in sections.items():
        mine = [one for one in written if len(sections) == 1 or any(f".{one[0]}".endswith(f".{z}") for z in zones)]
        if kind == "rfc2136":
            number = primaries.index(primary) + 1 if len(primaries) > 1 else ""
            yield f"    primary{number}:"
            yield from _by_update(primary, zones, mine, survey)
        else:
            yield f"    {kind}:"
            yield from _by_api(kind, zones, mine, survey)


def _by_update(primary: str, zones: list[str], written: list[tuple[str, str]], survey: Survey) -> Iterator[str]:
    yield from _comment(
        "Challenges and TLSA records are written here, by dynamic update (RFC 2136). If the zone is kept by a service "
        "with another API, see `certagent dns providers`, and docs/how-to/dns-providers.md for those not listed there.",
        6,
    )
    yield "      type: rfc2136"
    if primary:
        why = f"The primary by the SOA of {_listed(zones)}. TODO: is it the one to update?"
        yield from _comment(why, 6)
    else:
        yield from _comment("TODO: the zone's primary server; it could not be found out.", 6)
    yield from _answers_here(zones, survey)
    yield f"      server: {_flow(primary.rstrip('.') or '192.0.2.1')}"
    yield f"      zones: {_flow([zone.rstrip('.') for zone in zones])}"
    yield from _comment("TODO: the key, as `tsig-keygen certagent` prints it; chmod 600. It must be allowed:", 6)
    for name, rdtype in written:
        yield f"      #   grant certagent name {name} {rdtype};"
    yield "      key_file: /etc/certagent/tsig.key"


def _by_api(kind: str, zones: list[str], written: list[tuple[str, str]], survey: Survey) -> Iterator[str]:
    """The section of a provider, with what its page says of the access."""
    about = providers.abouts()[kind]
    if about.name_servers:
        yield from _comment(f"The name servers of {_listed(zones)} are those of {about.title}.", 6)
    if here := list(_answers_here(zones, survey)):
        yield from here
        yield from _comment("TODO: is it the primary? Then write there, else to the primary.", 6)
    yield from _comment(f"TODO: {about.access}", 6)
    yield from _comment(about.rights, 6)
    yield from _comment(about.limits, 6)
    yield from _comment("It writes:", 6)
    for name, rdtype in written:
        yield f"      #   {name} {rdtype}"
    options = yaml.safe_load(about.example) | {"zones": [zone.rstrip(".") for zone in zones]}
    for key, value in options.items():
        yield f"      {key}: {_flow(value)}"


def _answers_here(zones: list[str], survey: Survey) -> Iterator[str]:
    for program in dict.fromkeys(survey.kept_here[zone] for zone in zones if zone in survey.kept_here):
        mine = [zone for zone in zones if survey.kept_here.get(zone) == program]
        yield from _comment(f"{program} runs on this host, and answers for {_listed(mine)}.", 6)


def _listed(zones: list[str]) -> str:
    return ", ".join(zone.rstrip(".") for zone in zones)


def _written(certificate: Proposed, survey: Survey) -> list[tuple[str, str]]:
    """The names that certagent writes, with the type; aliases are not followed here."""
    names = {challenge_name(n) for n in certificate.names or (certificate.name,)}
    tlsa_names = {tlsa_name(s.host, s.port) for s in _services(certificate, survey) if seen.dane(s, survey) is not None}
    return [(name, "TXT") for name in sorted(names)] + [(name, "TLSA") for name in sorted(tlsa_names)]


def _services(certificate: Proposed, survey: Survey) -> list[Service]:
    return [service for server in certificate.servers for service in survey.services[server.name]]


def _providers(survey: Survey, proposed: list[Proposed]) -> dict[tuple[str, str], list[str]]:
    """The zones to write, by the type of provider, and with `rfc2136` by their primary; one of placeholders where
    nothing is known.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for certificate in proposed:
        for name in certificate.names:
            known = survey.names.known.get(name.removeprefix("*."))
            if known is not None and known.zone:
                found.setdefault(_provider(known, known.zone, survey), set()).add(known.zone)
        for service in _services(certificate, survey):
            known, observation = survey.names.known.get(service.host), seen.observed(service, survey)
            if known and observation and observation.zone and seen.has_tlsa(service, survey):
                found.setdefault(_provider(known, observation.zone, survey), set()).add(observation.zone)
    parent = proposed[0].name.partition(".")[2] if proposed else "example.org"
    return {key: sorted(zones) for key, zones in sorted(found.items())} or {("rfc2136", ""): [parent]}


def _provider(known: Name, zone: str, survey: Survey) -> tuple[str, str]:
    """The type of provider, and with `rfc2136` the primary. The name servers are those of the name's own zone."""
    program = survey.kept_here.get(zone)
    kind = providers.service(known.name_servers) or (program and providers.SERVERS[program]) or "rfc2136"
    return kind, known.primary if kind == "rfc2136" else ""


# -- one certificate ---------------------------------------------------------------------------------------------------


def _certificate(certificate: Proposed, survey: Survey) -> Iterator[str]:
    if certificate.name not in (*certificate.names, seen.EXAMPLE):
        yield from _comment("One more for this name: its servers have files for other key types.", 2)
    yield f"  {certificate.name}:"
    yield "    ca: letsencrypt"
    yield from _names(certificate, survey)
    yield from _challenge(certificate, survey)
    yield from _comment(_why_keys(certificate, survey), 4)
    yield f"    keys: {_flow(list(certificate.keys))}"
    yield from _dane(certificate, survey)
    yield "    mail_servers:"
    for server in certificate.servers:
        yield from _server(server, certificate, survey)


def _names(certificate: Proposed, survey: Survey) -> Iterator[str]:
    if certificate.names:
        yield from _comment(
            "Of the certificates in use, of MX and TLSA records that lead here, and of the settings.", 4
        )
        yield f"    names: {_flow(list(certificate.names))}"
    else:
        yield from _comment("TODO: no full name was found here; write this host's, also below.", 4)
        yield f"    names: [{certificate.name}]"
    if len(certificate.names) > 100:
        yield from _comment("TODO: Let's Encrypt takes at most 100 names in a certificate; make several.", 4)
    for name in certificate.names:
        known = survey.names.known.get(name.removeprefix("*."))
        if known and (why := seen.domain.forbidden(known.caa, seen.CA, seen.method(name, survey))):
            yield from _comment(f"TODO: CAA of {known.caa_at} {why}: change it, or use another CA.", 4)


def _challenge(certificate: Proposed, survey: Survey) -> Iterator[str]:
    if not seen.by_http(certificate, survey):
        return
    yield from _comment(
        "No DNS service that certagent knows keeps these zones, so the CA looks at port 80 of every name. TODO: let "
        "the firewall pass it. With a provider (certagent dns providers) it is a TXT record: then take this out.",
        4,
    )
    if survey.web is None:
        yield "    challenge: {type: http-01}"
        return
    yield from _comment(
        f"{survey.web or 'Another program'} has port 80. TODO: the directory of its files, or another way of "
        "docs/how-to/challenges.md.",
        4,
    )
    yield "    challenge: {type: http-01, webroot: /var/www/html}"


def _left_out(proposed: list[Proposed], survey: Survey) -> Iterator[str]:
    """Every name that is served or leads here, and has no certificate above."""
    for left in survey.names.left_out(name for certificate in proposed for name in certificate.names):
        yield from _comment(f"TODO: {left.name} is left out: {left.why}. {left.todo[:1].upper()}{left.todo[1:]}.", 2)


def _why_keys(certificate: Proposed, survey: Survey) -> str:
    mine = tuple(sorted({algorithm(key) for key in certificate.keys}))
    served = tuple(sorted({kind for f in certificate.servers for kind in seen.served_kinds(f, survey)}))
    shown, now = (" and ".join(_SHOWN[kind] for kind in which) for which in (mine, served))
    if not served:
        return f"{shown}: what there are files for. Nothing was seen served today."
    if mine == served:
        why = f"{shown}: both are served today." if len(mine) > 1 else f"{shown}: what is served today."
    else:
        why = f"{shown}: what there are files for; today {now} is served."
    if mine == ("rsa",):
        why += " ECDSA is smaller and enough for nearly everybody: add a file for it to have [ecdsa-p256, rsa-2048]."
    return why


def _dane(certificate: Proposed, survey: Survey) -> Iterator[str]:
    with_tlsa = [service for service in _services(certificate, survey) if seen.has_tlsa(service, survey)]
    observations = [found for service in with_tlsa if (found := seen.observed(service, survey))]
    if not observations:
        return
    yield "    dane:"
    today = max(map(seen.ttl_s, observations))
    if today > _TTL_S:
        first, later = (brief(caches.retire_interval_of(ttl_s, _GUARD)) for ttl_s in (today, _TTL_S))
        why = f"1h: today's TTL is {today} s; a roll waits two TTLs: the first one {first}, later ones {later}."
    elif today:
        why = "As it is today."
    else:
        why = "1h: a roll waits two TTLs."
    yield from _comment(why, 6)
    yield f"      ttl: {_duration(min(today, _TTL_S) or _TTL_S)}"
    if any(DANE_TA_SPKI_SHA256 in seen.tlsa_parameters(found) for found in observations):
        yield from _comment("Both kinds are there today.", 6)
        yield f'      records: ["{DANE_EE_SPKI_SHA256}", "{DANE_TA_SPKI_SHA256}"]'


def _server(server: Found, certificate: Proposed, survey: Survey) -> Iterator[str]:
    yield f"      {server.name}:"
    yield f"        type: {server.type}"
    for setting, value in server.uses.items():
        yield from _comment(f"Uses now: {setting} = {value}", 8)
    for note in (*server.notes, *_about_others(server, survey)):
        yield from _comment(f"{note[:1].upper()}{note[1:].rstrip('.')}.", 8)
    for change in server.changes:
        yield from _comment(f"{change.file} must change: `certagent init` shows how, and why.", 8)
    for key, value in server.options.items():
        yield f"        {key}: {_flow(value)}"
    yield "        services:"
    services = survey.services[server.name]
    dead = [service for service in services if _is_dead(service, server, survey)]
    for service in services:
        lines = list(_service(service, certificate, survey))
        if service in dead and len(dead) < len(services):
            yield from _comment("TODO: no certificate was met here; take the # away once one is.", 10)
            lines = [f"{line[:10]}#{line[10:]}" if line.lstrip().startswith("- ") else line for line in lines]
        yield from lines
    if not services:
        yield from _comment("TODO: nothing was found that it listens on; list what clients connect to.", 10)
        yield f"          - {{host: {certificate.name}, port: 25, mode: smtp}}"


def _is_dead(service: Service, server: Found, survey: Survey) -> bool:
    """Whether something answers there, and shows no certificate; so it could never be verified."""
    met = [s for s in survey.served[server.name] if (s.host, s.port) == (service.host, service.port)]
    return bool(met) and not any(isinstance(one.chain, Chain) for one in met)


def _about_others(server: Found, survey: Survey) -> Iterator[str]:
    """Who else has a hand in its files: after a swap nothing else may write them or name others."""
    files = host.used(server)
    known = others.renewers(files, [word for one in files for word in survey.shared.get(identity(one), "").split(", ")])
    for one in known:
        yield f"TODO: {one.name} has to do with what it uses now. Once certagent serves it: {one.remedy}"
    signed = [used.file for used in survey.names.in_use[server.name] if used.issuer != ITSELF]
    if signed and not known:
        yield f"TODO: whatever renews {signed[0]} today must leave it, and the settings that name it, alone from now on"


def _service(service: Service, certificate: Proposed, survey: Survey) -> Iterator[str]:
    keys: dict[str, object] = {"host": service.host, "port": service.port, "mode": service.mode}
    if not is_host(service.host):
        yield from _comment(f"TODO: it calls itself {service.host}, which is no full name; write the right one.", 10)
        keys["host"] = certificate.name
    if verdict := seen.dane(service, survey):
        yes, why = verdict
        yield from _comment(f"{'tlsa: true' if yes else 'tlsa is left out'}: {why}.", 10)
        name = survey.names.known.get(service.host)
        if name and not name.mail_for and service.port == MX_PORT:
            yield from _comment("No MX that was asked leads to this name; those of other zones were not asked.", 10)
        if yes:
            keys["tlsa"] = True
    known = survey.names.known.get(service.host)
    if service.addresses and not (known and set(known.addresses) == set(service.addresses)):
        keys["addresses"] = list(service.addresses)
    elif inside := seen.inside_addresses(service, survey):
        public = ", ".join(survey.names.known[service.host].addresses)
        yield from _comment(
            f"addresses: {public} is not an address of this host (NAT?) and cannot be reached from here, so it is "
            "verified at the inside one. TODO: is it the one to which the public one is forwarded?",
            10,
        )
        keys["addresses"] = list(inside)
    if service.proxy:
        keys["proxy"] = service.proxy
    if service.sni:
        keys["sni"] = [name or "none" for name in service.sni]
    yield f"          - {_flow(keys)}"


# -- writing -----------------------------------------------------------------------------------------------------------


def _comment(words: str, indent: int = 0) -> list[str]:
    """Wrapped; every line begins with `# `. No line break of others survives."""
    lead = " " * indent + "# "
    plain = " ".join(words.split())
    return textwrap.wrap(
        plain, _WIDTH, initial_indent=lead, subsequent_indent=lead, break_long_words=False, break_on_hyphens=False
    ) or [lead]


def _flow(value: object) -> str:
    """A value on one line of YAML."""
    plain = json.loads(json.dumps(value))  # tuples as lists, no aliases
    dumped = yaml.safe_dump(plain, default_flow_style=True, width=1 << 20, sort_keys=False, allow_unicode=True)
    return dumped.removesuffix("...\n").strip()


def _duration(seconds: int) -> str:
    """3600 -> 1h, as the config writes it."""
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size:
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
    return "".join(parts)
