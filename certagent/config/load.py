"""The configuration: one YAML file, read strictly into typed, frozen values. It holds no secret, only paths to files
that do.

Whatever is wrong is an error `config.…` (Misconfigured) that names file, line and key, what was expected, and a remedy.
Nothing is guessed: unknown keys, duplicate keys, bare numbers as durations and names that are not host names are
refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec

from certagent.config import cache
from certagent.config.yaml import Reader, Section
from certagent.errors import Misconfigured
from certagent.facts.tls import Mode, Service
from certagent.lifecycle.spec import MailServer, Spec
from certagent.pki import names
from certagent.pki.keytypes import KEY_TYPES, algorithm

MAX_BYTES = 64 * 1024 * 1024
"""A hundred thousand certificates fit in half of it; more is not a configuration."""
STATE_DIR = "/var/lib/certagent"

T = TypeVar("T")
Duration = Annotated[str, msgspec.Meta(pattern=r"^(\d+(d|h|m|s))+$", description="such as 90d, 36h, 15m, 30s, 1h30m")]
Rotation = Annotated[str, msgspec.Meta(pattern=r"^(every_renewal|never|(\d+(d|h|m|s))+)$")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
"""Names chosen by the operator become names of files: letters, digits, dot, hyphen, underscore."""


class _Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: a key that is not known is refused."""


class Ca(_Keys, frozen=True):
    """A certificate authority with an ACME directory (RFC 8555)."""

    directory: str
    staging: str | None = None
    """Where `renew --dry-run` goes."""
    test: bool = False
    """`directory` is a test CA itself: dry runs may use it."""
    agree_tos: bool = False
    contact: tuple[str, ...] = ()
    ca_bundle: str | None = None
    """PEM file with the CA of the directory's own HTTPS, for private CAs."""
    eab_kid: str | None = None
    eab_key_file: str | None = None


class Dns(_Keys, frozen=True):
    """How DNS is read, and who may write it."""

    resolvers: tuple[str, ...] = ()
    trust_ad: bool | None = None
    providers: dict[Name, dict[str, Any]] = {}


class ServiceKeys(_Keys, frozen=True):
    """One place where clients meet the certificate."""

    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    mode: Mode
    addresses: tuple[str, ...] = ()
    sni: tuple[str, ...] = ()
    tlsa: bool = False


class Dane(_Keys, frozen=True):
    """How TLSA records are kept."""

    records: tuple[Literal["3 1 1", "2 1 1"], ...] = ("3 1 1",)
    ttl: Duration = "1h"
    safety_margin: Duration = "15m"


class Certificate(_Keys, frozen=True, kw_only=True):
    """One certificate, its keys, and the mail servers that hold it."""

    ca: Name
    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ("ecdsa-p256",)
    rotate_key: Rotation = "every_renewal"
    standby: bool = True
    profile: str | None = None
    dane: Any = {}
    drain: Duration = "5m"
    check_interval: Duration = "6h"
    mail_servers: dict[Name, dict[str, Any]] = {}


class _Top(_Keys, frozen=True, kw_only=True):
    state_dir: str = STATE_DIR
    ca: dict[Name, Any]
    dns: Any = {}
    certificates: dict[Name, Any]


class Entry(msgspec.Struct, frozen=True):
    """One certificate, ready for the planner, and what its wiring needs."""

    spec: Spec
    ca: str
    mail_servers: dict[str, Section]


class Certificates(Mapping[str, Entry]):
    """The entries by name. Each is kept as a few hundred bytes, and decoded when it is asked for: most are idle."""

    def __init__(self, encoded: Mapping[str, msgspec.Raw | bytes]) -> None:
        self.encoded = encoded

    def __getitem__(self, name: str) -> Entry:
        return _ENTRY.decode(self.encoded[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.encoded)

    def __len__(self) -> int:
        return len(self.encoded)


_ENTRY = msgspec.msgpack.Decoder(Entry)


class _Compiled(msgspec.Struct, frozen=True, array_like=True):
    """All of a file that was found right."""

    state_dir: str
    cas: dict[str, Ca]
    dns: Dns
    providers: dict[str, Section]
    certificates: dict[str, msgspec.Raw]


class Config(msgspec.Struct, frozen=True):
    """The whole file."""

    path: Path
    state_dir: Path
    cas: dict[str, Ca]
    dns: Dns
    providers: dict[str, Section]
    certificates: Certificates

    def options(self, section: Section, type_: type[T]) -> T:
        """The options of a plug-in, checked like everything else in the file."""
        return Reader(self.path).convert(section.options, type_, section.place)

    def wrong(self, place: tuple[str, ...], detail: str, hint: str) -> Misconfigured:
        """An error at a place in the file."""
        return Reader(self.path).wrong("config.value", place, detail, hint)


def duration(text: str) -> timedelta:
    """`1h30m` -> 90 minutes. The pattern was checked before."""
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    return sum((timedelta(**{units[u]: int(n)}) for n, u in re.findall(r"(\d+)([dhms])", text)), timedelta())


def load(path: Path) -> Config:
    """Read and check the file; one that was found right before is not checked again."""
    data = _read(path)
    found = cache.read(data, STATE_DIR, _Compiled)
    if found is None:
        found = _check(path, data)
        cache.keep(data, STATE_DIR, found)
    certificates = Certificates(found.certificates)
    return Config(path, Path(found.state_dir), found.cas, found.dns, found.providers, certificates)


def _check(path: Path, data: bytes) -> _Compiled:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Misconfigured("config.file", f"{path}: not UTF-8 at byte {error.start}", "save it as UTF-8") from None
    reader = Reader(path)
    value = reader.parse(text)
    top = reader.convert(value, _Top, ())
    cas = {n: reader.convert(v, Ca, ("ca", n)) for n, v in top.ca.items()}
    dns = reader.convert(top.dns, Dns, ("dns",))
    for name, ca in cas.items():
        for key in ("directory", "staging"):
            url = getattr(ca, key)
            if url is not None and not re.match(r"https://[^/\s]+/", url):
                raise reader.wrong(
                    "config.value",
                    ("ca", name, key),
                    f"{url!r} is no https URL",
                    "ACME is HTTPS (RFC 8555 section 6.1)",
                )
    providers = {n: reader.section(v, ("dns", "providers", n)) for n, v in dns.providers.items()}
    certificates = {n: _entry(reader, n, v, cas) for n, v in top.certificates.items()}
    if not os.path.isabs(top.state_dir):
        raise reader.wrong("config.value", ("state_dir",), f"{top.state_dir!r} is not absolute", "begin it with /")
    _no_file_twice(reader, certificates)
    encoded = {name: msgspec.Raw(msgspec.msgpack.encode(entry)) for name, entry in certificates.items()}
    return _Compiled(top.state_dir, cas, dns, providers, encoded)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if info.st_mode & 0o022:
                hint = f"run: chmod go-w {path}"
                raise Misconfigured(
                    "config.mode", f"{path}: others may write it, and certagent runs what it names", hint
                )
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        hint = "name the file with --config, or start from config.example.yaml"
        raise Misconfigured("config.file", f"{path}: {error.strerror}", hint) from None
    if len(data) > MAX_BYTES:
        raise Misconfigured(
            "config.file", f"{path}: larger than {MAX_BYTES} bytes", "this is not a certagent configuration"
        )
    return data


def _entry(reader: Reader, name: str, value: object, cas: Mapping[str, Ca]) -> Entry:
    place = ("certificates", name)
    keys = reader.convert(value, Certificate, place)
    dane = reader.convert(keys.dane, Dane, (*place, "dane"))
    if keys.ca not in cas:
        raise reader.wrong("config.value", (*place, "ca"), f"there is no CA {keys.ca!r}", f"one of: {', '.join(cas)}")
    identifiers = [reader.name(n, (*place, "names"), names.identifier) for n in keys.names or (name,)]
    for key_type in keys.keys:
        if key_type not in KEY_TYPES:
            raise reader.wrong(
                "config.value", (*place, "keys"), f"unknown key type {key_type!r}", f"one of: {', '.join(KEY_TYPES)}"
            )
    algorithms = [algorithm(a) for a in keys.keys]
    if not algorithms or len(set(algorithms)) != len(algorithms):
        detail = "at least one key type, and at most one RSA and one ECDSA"
        raise reader.wrong("config.value", (*place, "keys"), detail, "for example: [ecdsa-p256, rsa-2048]")
    tlsa_names: dict[str, tuple[str, ...]] = {}
    mail_servers: list[MailServer] = []
    sections: dict[str, Section] = {}
    for server, raw in keys.mail_servers.items():
        at = (*place, "mail_servers", server)
        section = reader.section(raw, at)
        services = section.options.pop("services", ())
        if not isinstance(services, list | tuple) or not services:
            raise reader.wrong(
                "config.value", at, "services are missing", "list what clients connect to: host, port, mode"
            )
        made: list[Service] = []
        for i, item in enumerate(cast("list[object]", services)):
            here = (*at, "services", str(i))
            service = reader.convert(item, ServiceKeys, here)
            host = reader.name(service.host, (*here, "host"), names.hostname)
            sni = tuple(reader.name(n, (*here, "sni"), names.hostname) if n != "none" else "" for n in service.sni)
            made.append(Service(host, service.port, service.mode, service.addresses, sni))
            if service.tlsa:
                tlsa_name = names.tlsa_name(host, service.port)
                tlsa_names[tlsa_name] = (*tlsa_names.get(tlsa_name, ()), server)
        mail_servers.append(MailServer(server, tuple(made)))
        sections[server] = section
    rotate = keys.rotate_key
    spec = Spec(
        name=name,
        names=tuple(sorted(set(identifiers))),
        key_types=tuple(keys.keys),
        rotate_key=None if rotate == "never" else timedelta() if rotate == "every_renewal" else duration(rotate),
        standby=keys.standby,
        tlsa_names={o: tuple(dict.fromkeys(t)) for o, t in tlsa_names.items()},
        tlsa_parameters=dane.records,
        ttl_s=_ttl(reader, dane.ttl, (*place, "dane", "ttl")),
        safety_margin=_at_most(reader, dane.safety_margin, timedelta(days=1), (*place, "dane", "guard")),
        drain=_at_most(reader, keys.drain, timedelta(days=1), (*place, "drain")),
        check_interval=_at_most(reader, keys.check_interval, timedelta(days=7), (*place, "watch")),
        mail_servers=tuple(mail_servers),
        ca=cas[keys.ca].directory,
        profile=keys.profile,
    )
    if "3 1 1" not in spec.tlsa_parameters:
        hint = "3 1 1 is what senders support best (RFC 7672 section 3.1); 2 1 1 may stand beside it"
        raise reader.wrong("config.value", (*place, "dane", "records"), "3 1 1 is missing", hint)
    return Entry(spec, keys.ca, sections)


def _ttl(reader: Reader, text: str, place: tuple[str, ...]) -> int:
    value = _at_most(reader, text, timedelta(days=2), place)
    if value < timedelta(seconds=1):
        raise reader.wrong("config.value", place, "a TTL of zero is no TTL", "use 1h, or 30m as a good value for TLSA")
    return int(value.total_seconds())


def _at_most(reader: Reader, text: str, limit: timedelta, place: tuple[str, ...]) -> timedelta:
    value = duration(text)
    if value > limit:
        raise reader.wrong(
            "config.value", place, f"{text} is more than {limit.days}d", "longer waits leave no time to renew"
        )
    return value


def _no_file_twice(reader: Reader, certificates: Mapping[str, Entry]) -> None:
    used: dict[str, tuple[str, ...]] = {}
    for entry in certificates.values():
        for section in entry.mail_servers.values():
            for file in _files(section.options):
                if file in used:
                    detail = f"{file} is written for {'.'.join(used[file])} already"
                    raise reader.wrong("config.value", section.place, detail, "give each its own file")
                used[file] = section.place


def _files(options: Mapping[str, Any]) -> Iterator[str]:
    """Everything that a mail server wants written: files, and lines of a map of SNI names."""
    for key in _FILES:
        yield from _paths(options.get(key))
    sni = options.get("sni")
    if isinstance(sni, dict):
        section = cast("dict[str, Any]", sni)
        names_ = section.get("names")
        for name in cast("list[object]", names_) if isinstance(names_, list) else ():
            yield f"{section.get('map')} {name}"


_FILES = ("chain_files", "cert_files", "files")
"""Where mail servers name what they want written."""


def _paths(value: object) -> Iterator[str]:
    """Every file of a kind of key, or of all kinds."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            if key != "password_file":
                yield from _paths(inner)
