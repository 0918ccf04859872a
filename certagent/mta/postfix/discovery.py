"""Postfix as it is found on a host, and what `certagent init` proposes for it. Reads, and changes nothing.

What must change is worked out by `postconf` on a private copy of main.cf and master.cf.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace as replaced

from certagent.errors import Error, Misconfigured
from certagent.facts.tls import Service
from certagent.host import replace, trust
from certagent.host.files import copied, read_text, scratch
from certagent.mta import present
from certagent.mta.access import Access
from certagent.mta.claims import Identity
from certagent.mta.ports import port_of
from certagent.mta.postfix import smtpdtls, snimap
from certagent.mta.postfix.postconf import (
    CHAIN_FILES_SINCE,
    PROXY,
    SNI_MAPS,
    SWITCHES,
    Instance,
    Place,
    Setting,
    Settings,
    edits,
    named,
    parse,
    words,
)
from certagent.mta.reference import Pair, algorithm_of
from certagent.mta.server import Advice, Change, Found
from certagent.pki.names import hostname

_LOCAL = frozenset({"127.0.0.1", "[::1]", "::1", "localhost", "loopback-only"})
"""What only this host reaches: no client there verifies a certificate."""

_SERVE = frozenset({"smtpd", "postscreen"})
"""The daemons that speak SMTP with clients."""


_LEVEL = ("main.cf", "smtpd_tls_security_level")

_SMTP = 25


class _Read(Struct, frozen=True):
    """What is there."""

    instance: Instance
    config_dir: Path
    settings: Settings
    facts: dict[str, str]
    listens: list[tuple[str, str]]
    """Each service that speaks SMTP on the network (`submission`), and its program."""


class _Others(NamedTuple):
    """Names of an SNI map that have another certificate."""

    map: str
    """As it stands in tls_server_sni_maps."""
    files: tuple[str, ...]
    names: tuple[str, ...]
    taken: bool
    """They get an entry."""


class _Plan(Struct):
    """What is proposed."""

    options: dict[str, Any]
    remedy: dict[Setting, str | None]
    notes: list[str]
    sni_map: str = ""
    """The one whose lines for the files of main.cf are taken over, as it stands in tls_server_sni_maps."""
    sni_names: tuple[str, ...] = ()
    """The full host names in these lines."""
    plain: dict[int, Advice] = {}
    """See `Found`."""


def discover(shared: Collection[Identity] = ()) -> list[Found]:
    """See `Found`.

    Raises:
        Misconfigured: `mta.config`: An instance is there and postconf cannot read it.
    """
    try:
        default = Instance("postfix", None)
        listed = default.run("postmulti", "-l")
        main = Path(default.postconf("-dh", "config_directory").strip())
    except Misconfigured:
        return []
    found: list[Found] = []
    for line in listed.out.splitlines() if listed.code == 0 else [f"- - y {main}"]:
        name, _, enabled, directory = line.split(None, 3)
        if Path(directory, "main.cf").exists():
            called = "postfix" if name == "-" else name
            found += _found(called, Path(directory), main, shared, enabled=enabled == "y")
    return found


def _found(name: str, directory: Path, main: Path, shared: Collection[Identity], *, enabled: bool) -> Iterator[Found]:
    """The instance, and an entry for each further certificate in its SNI maps."""
    instance = Instance(named(name), None if directory == main else str(directory))
    lines = parse(instance.postconf("-x", "myhostname", "inet_interfaces"))
    rows = [line.split(None, 8) for line in instance.postconf("-M").splitlines()]
    listens = [(row[0], row[7]) for row in rows if row[1] == "inet" and row[7] in _SERVE]
    read = _Read(instance, directory, instance.read(), {n: v for _, n, v in lines}, listens)
    plan = _plan(read, shared)
    if directory != main:
        plan.options["config_dir"] = str(directory)
    if not enabled:
        plan.notes.append("postmulti has this instance switched off")
    others = list(_sni(read, plan))
    services = _services(read, plan)
    with scratch() as copy:
        changes = _changes(read, plan, copy)
    names = _names([read.facts["myhostname"], *plan.sni_names])
    apart = [place for place in read.settings.places() if place.name in plan.options.get("other_services", ())]
    elsewhere = [
        file for place in apart for file in (*place.chain, *(one for pair in place.slots.values() for one in pair))
    ]
    elsewhere += [file for other in others if not other.taken for file in other.files]
    uses, notes = _uses(read.settings), tuple(plan.notes)
    yield Found(
        "postfix",
        name,
        plan.options,
        services,
        names,
        uses,
        notes,
        changes,
        others=tuple(dict.fromkeys(elsewhere)),
        plain=tuple(plan.plain.items()),
    )
    for number, other in enumerate((one for one in others if one.taken), 2):
        yield _entry(f"{name}-{number}", read, other, shared)


# -- what is there -----------------------------------------------------------------------------------------------------


def _services(read: _Read, plan: _Plan, sni_map: str = "") -> tuple[Service, ...]:
    """Every port that offers TLS to others than this host, and serves the files of main.cf, or asks this map."""
    found: list[Service] = []
    host = read.facts["myhostname"]
    interfaces = words(read.facts["inet_interfaces"])
    if not _names([host]):
        plan.notes.append(f"myhostname = {host} is not a full host name: senders cannot ask for it")
    sni = _names([host, *plan.sni_names])
    for name, program in read.listens:
        if f"{name}/inet" in plan.options.get("other_services", ()):
            continue
        where, _, port_name = name.rpartition(":")
        bound = [where] if where else interfaces
        port = port_of(port_name)
        if port is None or all(one in _LOCAL for one in bound):
            continue
        level = plan.remedy.get(_LEVEL)
        proposed = {_LEVEL[1]: level} if level else {}
        effective = {**read.settings.main, **proposed, **read.settings.services.get(f"{name}/inet", {})}
        if sni_map and sni_map not in words(effective.get(SNI_MAPS, "")):
            continue
        if protocol := effective.get(PROXY[program]):
            what = f"{name} is left out: it waits for the PROXY protocol ({PROXY[program]} = {protocol})"
            plan.notes.append(f"{what}; if this host may speak that, write it with proxy: v2")
            continue
        asked = sni if len(sni) > 1 and plan.sni_map in words(effective.get(SNI_MAPS, "")) else ()
        if effective.get("smtpd_tls_wrappermode") == "yes":
            found.append(Service(host, port, "tls", _addresses(bound), asked))
        elif _offers(effective):
            found.append(Service(host, port, "smtp", _addresses(bound), asked))
        elif port == _SMTP:
            plan.plain[port] = _start_tls(read, name)
            plan.notes.append(plan.plain[port].what)
    return tuple(dict.fromkeys(found))


def _offers(effective: Mapping[str, str]) -> bool:
    level = effective.get("smtpd_tls_security_level", "").lower()
    return level != "none" and (bool(level) or any(effective.get(name) == "yes" for name in SWITCHES))


def _start_tls(read: _Read, name: str) -> Advice:
    """How a service that offers none is made to. Its own line in master.cf counts before main.cf."""
    own = _LEVEL[1] in read.settings.services.get(f"{name}/inet", {})
    words = ("-P", f"{name}/inet/{_LEVEL[1]}=may") if own else ("-e", f"{_LEVEL[1]}=may")
    return Advice(f"{name} offers no STARTTLS", read.instance.command("postconf", *words))


def _addresses(bound: list[str]) -> tuple[str, ...]:
    """Those it listens on; () if that is all, or goes by a name."""
    try:
        return tuple(str(ip_address(one.strip("[]"))) for one in bound if one not in _LOCAL)
    except ValueError:
        return ()


def _uses(settings: Settings) -> dict[str, str]:
    found: dict[str, str] = {}
    for place in settings.places():
        where = "" if place.name == "main.cf" else f"{place.name}/"
        if place.chain and (place.is_main or "chain_files" in place.sets):
            found[where + place.setting("chain_files")] = ", ".join(place.chain)
        for slot, (certificate, key) in () if place.chain else place.slots.items():
            found[where + place.setting(f"{slot}_file")] = certificate
            found[where + place.setting(f"{slot.replace('cert', 'key')}_file")] = key
    if SNI_MAPS in settings.main:
        found[SNI_MAPS] = settings.main[SNI_MAPS]
    return found


def _names(names: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        with suppress(Error):
            found.append(hostname(name))
    return tuple(dict.fromkeys(found))


# -- what is proposed --------------------------------------------------------------------------------------------------


def _plan(read: _Read, shared: Collection[Identity]) -> _Plan:
    settings = read.settings
    main, *services = settings.places()
    pairs = [Pair(file, file) for file in main.chain] or list(main.slots.values())
    files = present.kept(pairs, Access(), shared)
    plan = _Plan({}, {}, [])
    apart = [place.name for place in services if (place.chain, place.slots) != (main.chain, main.slots)]
    if apart := list(dict.fromkeys(apart)):
        plan.options["other_services"] = apart
        plan.notes.append(f"{', '.join(apart)}: other certificates, which are left alone")
    if files:
        key = "chain_files" if main.chain else "cert_files"
        plan.options[key] = files
        if main.chain or not settings.at_least(CHAIN_FILES_SINCE):
            return _with_level(read, plan)
    kinds = sorted({kind for file in _certificates(main) if (kind := algorithm_of(file))}) or ["ecdsa"]
    new = {kind: f"{_directory(read)}/{kind}.pem" for kind in kinds}
    if not settings.at_least(CHAIN_FILES_SINCE):
        plan.options["cert_files"] = new
        for kind, file in new.items():
            slot = "" if kind == "rsa" else "ec"
            plan.remedy |= {("main.cf", f"smtpd_tls_{slot}{one}_file"): file for one in ("cert", "key")}
        return _with_level(read, plan)
    plan.options.pop("cert_files", None)
    plan.options["chain_files"] = new
    ours = [main, *(place for place in services if place.name not in apart)]
    plan.remedy |= smtpdtls.chain_instead(ours, list(new.values()))
    # a list in main.cf would disable the separate files of a service as well
    plan.remedy |= {
        (place.name, place.setting("chain_files")): "" for place in services if place.name in apart and not place.chain
    }
    if any(certificate != key for certificate, key in main.slots.values()):
        plan.notes.append(
            "certificate and key are two files now, which no rename replaces together: use one file per kind"
        )
    return _with_level(read, plan)


def _with_level(read: _Read, plan: _Plan) -> _Plan:
    """So that some service offers TLS; and port 25, unless somebody has decided that it does not."""
    offers = {name: _offers(read.settings.effective(f"{name}/inet")) for name, _ in read.listens}
    undecided = any(
        not offer
        and port_of(name.rpartition(":")[2]) == _SMTP
        and not read.settings.effective(f"{name}/inet").get(_LEVEL[1])
        for name, offer in offers.items()
    )
    if not any(offers.values()) or undecided:
        plan.remedy[_LEVEL] = "may"
    return plan


def _certificates(place: Place) -> list[str]:
    return list(place.chain) or [certificate for certificate, _ in place.slots.values()]


def _directory(read: _Read) -> str:
    return present.directory(str(read.config_dir / "tls"), "postfix")


def _sni(read: _Read, plan: _Plan) -> Iterator[_Others]:
    """The names in SNI maps. Those that lead to the files of main.cf are this entry's, in one map; the others are
    given.
    """
    main = read.settings.places()[0]
    for one in words(read.settings.main.get(SNI_MAPS, "")):
        kind, _, source = one.partition(":")
        try:
            lines = snimap.entries(read_text(source)) if kind in snimap.TABLES else None
        except Error:
            lines = None
        if lines is None:
            plan.notes.append(f"{SNI_MAPS}: {one} cannot be read here")
            continue
        ours = {*_certificates(main)} if "chain_files" in plan.options and not plan.sni_map else set[str]()
        if same := [name for name, files in lines.items() if ours & set(files)]:
            plan.options["sni"] = {"map": source, "type": kind, "names": same}
            plan.sni_map, plan.sni_names = one, _names(same)
        by_files: dict[tuple[str, ...], list[str]] = {}
        for name, files in lines.items():
            if name not in same:
                by_files.setdefault(tuple(files), []).append(name)
        for files, names in by_files.items():
            other = _Others(one, files, tuple(names), bool(_names(names)) and _may_write(source))
            if not other.taken:
                plan.notes.append(f"the lines of {', '.join(names)} in {one} are left alone: they are yours to renew")
            yield other


def _may_write(source: str) -> bool:
    """Whether certagent could change lines of the map."""
    try:
        trust.trusted_dir(trust.followed(Path(source).parent))
        replace.replaceable(Path(source))
    except Error:
        return False
    return True


def _entry(name: str, read: _Read, other: _Others, shared: Collection[Identity]) -> Found:
    """Of a certificate that clients get by the name they ask for, and by no other."""
    full = _names(other.names)
    kinds = sorted({kind for file in other.files if (kind := algorithm_of(file))}) or ["ecdsa"]
    kept = present.kept([Pair(file, file) for file in other.files], Access(), shared)
    kind, _, source = other.map.partition(":")
    options: dict[str, Any] = {
        "chain_files": kept or {one: f"{_directory(read)}/{full[0]}-{one}.pem" for one in kinds},
        "sni": {"map": source, "type": kind, "names": list(other.names), "only": True},
    }
    services = tuple(
        replaced(one, host=full[0], sni=full if len(full) > 1 else ())
        for one in _services(read, _Plan(options, {}, []), other.map)
    )
    note = f"served to clients that ask for {', '.join(other.names)}; the first run changes these lines of {source}"
    uses = {f"{SNI_MAPS}: {', '.join(other.names)}": " ".join(other.files)}
    return Found("postfix", name, options, services, full, uses, () if kept else (note,))


def _changes(read: _Read, plan: _Plan, copy: Path) -> tuple[Change, ...]:
    if not plan.remedy:
        return ()
    files = [read.config_dir / name for name in ("main.cf", "master.cf")]
    for file in files:
        copied(file, copy)  # with its date: Postfix waits until a new file is some seconds old
    editor = Instance(read.instance.who, str(copy))
    for arguments in edits(plan.remedy):
        editor.postconf(*arguments)
    named_files = [*plan.options.get("chain_files", {}).values()]
    missing = [file for file in named_files if not Path(file).exists()]
    why = {
        "main.cf": f"one file for each key type; only once {', '.join(missing)} is there: TLS stops without it"
        if missing
        else "so that what certagent installs is served",
        "master.cf": "each service goes on using the files of main.cf, or the files that it names itself",
    }
    texts = [(str(file), _text(file), _text(copy / file.name), why[file.name]) for file in files]
    return tuple(Change(*text) for text in texts if text[1] != text[2])


def _text(file: Path) -> str:
    return read_text(file, errors="surrogateescape")
