"""Reads the configuration: one YAML file, strictly checked, into typed and frozen values. It holds no secret, only
paths of files that do.

A mistake is an error `config.…` (Usage) with file, line, key, what was expected, and a remedy. Nothing is guessed:
unknown keys, keys that stand twice, bare numbers as durations and names that are no host names are refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import msgspec

from certagent.config import cache
from certagent.config.schema import (
    STATE_DIR,
    Ca,
    Certificate,
    Certificates,
    ChallengeKeys,
    Config,
    Dane,
    Dns,
    Entry,
    File,
    ServiceKeys,
)
from certagent.config.yaml import MAX_BYTES, Reader, Section
from certagent.errors import Error, Usage
from certagent.facts.challenge import TYPES, Method
from certagent.facts.duration import duration
from certagent.facts.tls import Service
from certagent.host.files import read_trusted
from certagent.host.trust import Untrusted
from certagent.lifecycle.spec import MailServer, Spec
from certagent.pki import endpoint, names
from certagent.pki.keytypes import KEY_TYPES, algorithm
from certagent.pki.tlsa import DANE_EE_SPKI_SHA256, DANE_TA_SPKI_SHA256
from certagent.pki.weburl import is_https

Place = tuple[str, ...]


class _Checked(msgspec.Struct, frozen=True, array_like=True):
    """All of a file that was found right."""

    state_dir: str
    cas: dict[str, Ca]
    dns: Dns
    providers: dict[str, Section]
    certificates: dict[str, msgspec.Raw]


def load(path: Path) -> Config:
    """Read and check the file; one that was found right before is not checked again.

    Raises:
        Usage: `config.file`, `config.mode`, `config.yaml`, `config.key`, `config.value`: See docs/errors.md.
    """
    data = _read(path)
    found = cache.read(data, STATE_DIR, _Checked)
    if found is None:
        found = _check(path, data)
        cache.keep(data, STATE_DIR, found)
    return _config(path, found)


def parse(path: Path, data: bytes) -> Config:
    """Check this text as if it stood in that file.

    Raises:
        Usage: As `load`, but for those of the file.
    """
    return _config(path, _check(path, data))


def _config(path: Path, found: _Checked) -> Config:
    certificates = Certificates(found.certificates)
    return Config(path, Path(found.state_dir), found.cas, found.dns, found.providers, certificates)


def _read(path: Path) -> bytes:
    try:
        return read_trusted(path, MAX_BYTES)
    except Untrusted as error:
        raise Usage("config.mode", f"{error.detail}; certagent runs what {path} names", error.hint) from None
    except Error as error:
        hint = "name the file with --config, or start from config.example.yaml"
        raise Usage("config.file", error.detail, hint) from None


def _check(path: Path, data: bytes) -> _Checked:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Usage("config.file", f"{path}: not UTF-8 at byte {error.start}", "save it as UTF-8") from None
    reader = Reader(path)
    top = reader.convert(reader.parse(text), File, ())
    cas = {name: _ca(reader, name, value) for name, value in top.ca.items()}
    dns = reader.convert(top.dns, Dns, ("dns",))
    _addresses(reader, dns.resolvers, endpoint.address, endpoint.EXAMPLE, ("dns", "resolvers"))
    providers = {name: reader.section(value, ("dns", "providers", name)) for name, value in dns.providers.items()}
    certificates = {name: _entry(reader, name, value, cas) for name, value in top.certificates.items()}
    if not os.path.isabs(top.state_dir):
        raise reader.wrong("config.value", ("state_dir",), f"{top.state_dir!r} is not absolute", "begin it with /")
    encoded = {name: msgspec.Raw(msgspec.msgpack.encode(entry)) for name, entry in certificates.items()}
    return _Checked(top.state_dir, cas, dns, providers, encoded)


def _ca(reader: Reader, name: str, value: object) -> Ca:
    ca = reader.convert(value, Ca, ("ca", name))
    for key, url in (("directory", ca.directory), ("staging", ca.staging)):
        if url is not None and not is_https(url):
            hint = "ACME is HTTPS (RFC 8555 section 6.1)"
            raise reader.wrong("config.value", ("ca", name, key), f"{url!r} is no https URL", hint)
    if ca.proxy is not None and not _is_proxy(ca.proxy):
        hint = "write http://host:port; a proxy that wants a password is not supported: the configuration has no secret"
        raise reader.wrong("config.value", ("ca", name, "proxy"), "it is no address of a proxy", hint)
    return ca


def _entry(reader: Reader, name: str, value: object, cas: Mapping[str, Ca]) -> Entry:
    place = ("certificates", name)
    keys = reader.convert(value, Certificate, place)
    dane = reader.convert(keys.dane, Dane, (*place, "dane"))
    chosen = _chosen(reader, keys.ca, cas, (*place, "ca"))
    identifiers = [reader.name(n, (*place, "names"), names.identifier) for n in keys.names or (name,)]
    answering: dict[str, list[str]] = {}
    declared: set[str] = set()
    mail_servers: list[MailServer] = []
    sections: dict[str, Section] = {}
    for server, raw in keys.mail_servers.items():
        at = (*place, "mail_servers", server)
        sections[server] = reader.section(raw, at)
        services = list(_services(reader, sections[server].options.pop("services", ()), at))
        mail_servers.append(MailServer(server, tuple(service for service, _ in services)))
        for service, tlsa in services:
            tlsa_name = names.tlsa_name(service.host, service.port)
            answering.setdefault(tlsa_name, []).append(server)
            declared |= {tlsa_name} if tlsa else set()
    # every mail server that answers at a name with records must match them, whichever service asks for them
    tlsa_names = {n: tuple(dict.fromkeys(servers)) for n, servers in answering.items() if n in declared}
    if DANE_EE_SPKI_SHA256 not in dane.records:
        ee, ta = DANE_EE_SPKI_SHA256, DANE_TA_SPKI_SHA256
        hint = f"{ee} is what senders support best (RFC 7672 section 3.1); {ta} may stand beside it"
        raise reader.wrong("config.value", (*place, "dane", "records"), f"{ee} is missing", hint)
    rotate = keys.rotate_key
    day = timedelta(days=1)
    spec = Spec(
        name=name,
        names=tuple(sorted(set(identifiers))),
        key_types=_key_types(reader, keys.keys, (*place, "keys")),
        rotate_key=None if rotate == "never" else timedelta() if rotate == "every_renewal" else duration(rotate),
        standby=keys.standby,
        tlsa_names=tlsa_names,
        tlsa_parameters=dane.records,
        ttl_s=_ttl(reader, dane.ttl, (*place, "dane", "ttl")),
        safety_margin=_at_most(reader, dane.safety_margin, day, (*place, "dane", "safety_margin")),
        drain=_at_most(reader, keys.drain, day, (*place, "drain")),
        check_interval=_at_most(reader, keys.check_interval, 7 * day, (*place, "check_interval")),
        mail_servers=tuple(mail_servers),
        cas=tuple(cas[ca].directory for ca in chosen),
        profile=keys.profile,
        drop_names=tuple(sorted({reader.name(n, (*place, "drop_names"), names.identifier) for n in keys.drop_names})),
        undeclared={n: tuple(dict.fromkeys(servers)) for n, servers in answering.items() if n not in declared},
        challenge=_challenge(reader, keys.challenge, identifiers, (*place, "challenge")),
    )
    return Entry(spec, chosen, sections)


def _challenge(reader: Reader, value: object, identifiers: list[str], place: Place) -> Method:
    keys = reader.convert(value, ChallengeKeys, place)
    about = TYPES.get(keys.type)
    if about is None:
        raise reader.wrong(
            "config.value", (*place, "type"), f"unknown type {keys.type!r}", f"one of: {', '.join(TYPES)}"
        )
    for name in identifiers:
        if name.startswith("*.") and not about.wildcards:
            hint = f"only {' and '.join(n for n, one in TYPES.items() if one.wildcards)} can; or list the names"
            raise reader.wrong("config.value", (*place, "type"), f"{keys.type} cannot validate {name}", hint)
    for key, given, fits in (("webroot", keys.webroot, about.webroot), ("listen", keys.listen, about.port)):
        if given and not fits:
            raise reader.wrong("config.value", (*place, key), f"{keys.type} has no {key}", "take it out")
    if keys.webroot and keys.listen:
        hint = "name one: either a web server gives the file, or certagent answers itself"
        raise reader.wrong("config.value", (*place, "listen"), "there is a webroot", hint)
    if keys.webroot is not None and not os.path.isabs(keys.webroot):
        raise reader.wrong("config.value", (*place, "webroot"), f"{keys.webroot!r} is not absolute", "begin it with /")
    _addresses(reader, keys.listen, endpoint.address, "for example 127.0.0.1:8402 or [::1]:8402", (*place, "listen"))
    return Method(keys.type, about.label, keys.webroot or "", keys.listen)


def _chosen(reader: Reader, names: str | tuple[str, ...], cas: Mapping[str, Ca], place: Place) -> tuple[str, ...]:
    """The CAs of a certificate, by name."""
    chosen = (names,) if isinstance(names, str) else names
    for name in chosen:
        if name not in cas:
            raise reader.wrong("config.value", place, f"there is no CA {name!r}", f"one of: {', '.join(cas)}")
    if len(chosen) != 1:
        hint = "name one; certagent does not change from one CA to another by itself yet"
        raise reader.wrong("config.value", place, f"{len(chosen)} CAs, and not one", hint)
    return chosen


def _key_types(reader: Reader, key_types: tuple[str, ...], place: Place) -> tuple[str, ...]:
    for key_type in key_types:
        if key_type not in KEY_TYPES:
            hint = f"one of: {', '.join(KEY_TYPES)}"
            raise reader.wrong("config.value", place, f"unknown key type {key_type!r}", hint)
    algorithms = [algorithm(key_type) for key_type in key_types]
    if not algorithms or len(set(algorithms)) != len(algorithms):
        detail = "at least one key type, and at most one RSA and one ECDSA"
        raise reader.wrong("config.value", place, detail, "for example: [ecdsa-p256, rsa-2048]")
    return key_types


def _services(reader: Reader, value: object, place: Place) -> Iterator[tuple[Service, bool]]:
    """Each service, and whether it has TLSA records."""
    if not isinstance(value, list | tuple) or not value:
        hint = "list what clients connect to: host, port, mode"
        raise reader.wrong("config.value", place, "services are missing", hint)
    for number, item in enumerate(cast("list[object]", value)):
        here = (*place, "services", str(number))
        keys = reader.convert(item, ServiceKeys, here)
        host = reader.name(keys.host, (*here, "host"), names.hostname)
        for key, addresses in (("addresses", keys.addresses), ("source", keys.source)):
            _addresses(reader, addresses, ip_address, "for example 192.0.2.1 or 2001:db8::1", (*here, key))
        sni = tuple(reader.name(n, (*here, "sni"), names.hostname) if n != "none" else "" for n in keys.sni)
        ehlo = reader.name(keys.ehlo, (*here, "ehlo"), names.hostname) if keys.ehlo else ""
        if len({":" in address for address in keys.source}) < len(keys.source):
            raise reader.wrong("config.value", (*here, "source"), "two addresses of one family", "give one for each")
        timeout = _at_most(reader, keys.timeout or "0s", timedelta(minutes=10), (*here, "timeout")).total_seconds()
        proxy = "v2" if keys.proxy == "v2" else ""
        yield Service(host, keys.port, keys.mode, keys.addresses, sni, ehlo, keys.source, timeout, proxy), keys.tlsa


def _is_proxy(url: str) -> bool:
    host_and_port = url.removeprefix("http://").removesuffix("/")
    try:
        endpoint.server(host_and_port)
    except ValueError:
        return False
    return url.startswith("http://") and host_and_port.rpartition(":")[2].isdigit() and not host_and_port.endswith("]")


def _addresses(
    reader: Reader, texts: tuple[str, ...], parse: Callable[[str], object], example: str, place: Place
) -> None:
    for text in texts:
        try:
            parse(text)
        except ValueError:
            raise reader.wrong("config.value", place, f"{text!r} is no address", example) from None


def _ttl(reader: Reader, text: str, place: Place) -> int:
    value = _at_most(reader, text, timedelta(days=2), place)
    if value < timedelta(seconds=1):
        raise reader.wrong("config.value", place, "a TTL of zero is no TTL", "use 1h, or 30m as a good value for TLSA")
    return int(value.total_seconds())


def _at_most(reader: Reader, text: str, limit: timedelta, place: Place) -> timedelta:
    value = duration(text)
    if value > limit:
        most = f"{limit.days}d" if limit.days else f"{limit.seconds // 60}m"
        detail = f"{text} is more than {most}"
        raise reader.wrong("config.value", place, detail, "longer waits leave no time to renew")
    return value
