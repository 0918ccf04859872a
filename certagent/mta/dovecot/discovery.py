"""Dovecot on this host, for `certagent init`: an entry for the top level, and one for each set of files under SNI.

Reads, and changes nothing. doveconf says what holds, and the files it reads are searched for where that stands.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from cryptography import x509
from msgspec.structs import replace as replace_fields

from certagent.errors import Error, Misconfigured
from certagent.facts.tls import Mode, Service
from certagent.host.files import read_text
from certagent.host.programs import program
from certagent.mta import pemfile, present
from certagent.mta.access import Access
from certagent.mta.claims import Identity
from certagent.mta.dovecot.doveconf import SLOTS, Block, Doveconf, Pair, Settings, lines, parse
from certagent.mta.ports import port_of
from certagent.mta.server import Change, Found
from certagent.pki.names import hostname

_LOGINS: Mapping[str, tuple[str, Mode | None]] = {
    "imap-login": ("imap", "imap"),
    "pop3-login": ("pop3", "pop3"),
    "managesieve-login": ("sieve", "sieve"),
    "submission-login": ("submission", "smtp"),
    "lmtp": ("lmtp", None),
}
"""The services that speak TLS with clients: the word in `protocols`, and how TLS begins (LMTP: only at once)."""

_Listener = tuple[str, int, Mode, list[str]]
"""The protocol, a port, how TLS begins there, what it is bound to."""

_LOOPBACK = frozenset({"127.0.0.1", "::1", "[::1]", "localhost"})


def discover(shared: Collection[Identity] = ()) -> list[Found]:
    """See `Found`.

    Raises:
        Misconfigured: `mta.config`: There is a configuration that Dovecot refuses.
    """
    conf = Doveconf("dovecot", None)
    try:
        program("doveconf")
        file = conf.file()
    except Misconfigured:
        return []
    if not file.exists():
        return []
    settings = conf.read()
    listeners, behind_proxies = _listeners(conf) if settings.ssl != "no" else ([], [])
    top = settings.blocks[0]
    own_names = _own_names(conf, top)
    groups: dict[tuple[Pair, ...], list[Block]] = {top.pairs: [top]}
    for block in settings.blocks[1:]:
        if block.server_names:
            groups.setdefault(_own_pairs(block), []).append(block)
    found = [
        _found("dovecot" if number == 1 else f"dovecot-{number}", settings, blocks, own_names, listeners, shared)
        for number, blocks in enumerate(groups.values(), start=1)
    ]
    return [replace_fields(found[0], notes=(*found[0].notes, *behind_proxies)), *found[1:]]


def _found(
    name: str,
    settings: Settings,
    blocks: list[Block],
    own_names: list[str],
    listeners: list[_Listener],
    shared: Collection[Identity],
) -> Found:
    """`blocks` use the same files; the top level is among them, or all are for names of SNI."""
    first = blocks[0]
    top = None if first.where else first
    apart = [
        block
        for block in settings.blocks
        if block.own and not block.server_names and block.pairs != first.pairs
        if not set(block.where) <= set(first.where)
    ]
    asked = [n for block in blocks for n in sorted(block.server_names)]
    sni = _hosts(asked)
    names = _hosts([*(own_names if top else []), *sni])
    host = names[0] if names else socket.gethostname().lower()
    notes = [f"local_name {n}: list the names behind it" for n in asked if n not in sni]
    files, edits = _files(name, settings, blocks[0], shared)
    options: dict[str, Any] = {"files": files}
    if asked:
        options["local_name"] = asked
    if not top:
        options["top_level"] = False
    elif apart:
        options["other_blocks"] = [block.name for block in apart]
        notes.append(f"{', '.join(options['other_blocks'])}: other certificates, which are left alone")
    if not names:
        notes.append("no full name of this host is known: write its services with the name that clients use")
    if settings.ssl == "no":
        notes.append("ssl = no: it offers TLS at no port; set ssl = required, or leave this entry out")
    changes = _changes(settings, blocks, edits)
    asks = tuple(dict.fromkeys([host, *sni])) if set(sni) - {host} else ()
    services = tuple(
        Service(host, port, mode, _addresses(left), asks)
        for protocol, port, mode, bound in listeners
        if (left := _left(protocol, bound, apart))
    )
    local = [block.name for block in apart if any(where.startswith("local ") for where in block.where)]
    if local and not all(service.addresses for service in services):
        notes.append(f"{', '.join(local)}: if {host} leads there, give its services the other `addresses`")
    uses = {
        f"{f'{block.name}: ' if block.where else ''}{settings.setting(slot)}": path
        for block in blocks
        for slot, path in block.own.items()
        if path
    }
    others = tuple(path for block in apart for path in block.own.values() if path.startswith("/"))
    return Found("dovecot", name, options, services, tuple(names), uses, tuple(notes), changes, others=others)


# -- what is there -----------------------------------------------------------------------------------------------------


def _listeners(conf: Doveconf) -> tuple[list[_Listener], list[str]]:
    """Each port that offers TLS to others than this host: its number, how TLS begins, what it is bound to.

    And a note for each that waits for the PROXY protocol first: no client comes there by itself.
    """
    protocols, listen = (re.split(r"[,\s]+", conf.output("-h", name).strip()) for name in ("protocols", "listen"))
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for where, name, value in parse(conf.output("service")):
        if len(where) == 2 and where[1].startswith("inet_listener"):
            found.setdefault(where, {})[name] = value
    listeners: list[_Listener] = []
    notes: list[str] = []
    for where, values in found.items():
        protocol, mode = _LOGINS.get(where[0].removeprefix("service "), ("", None))
        mode = "tls" if values.get("ssl") == "yes" else mode
        own = re.split(r"[,\s]+", values.get("address") or values.get("listen") or "")
        bound = own if any(own) else listen
        port = port_of(values.get("port", "0"))
        if protocol not in protocols or not mode or not port or set(bound) <= _LOOPBACK:
            continue
        if values.get("haproxy") == "yes":
            what = f"{where[1]} (port {port}) is left out: it waits for the PROXY protocol (haproxy = yes)"
            notes.append(f"{what}; if this host is in haproxy_trusted_networks, write it with proxy: v2")
        else:
            listeners.append((protocol, port, mode, bound))
    return listeners, notes


def _left(protocol: str, bound: list[str], apart: Iterable[Block]) -> list[str]:
    """Where it is bound, but for the addresses at which every client meets one of these blocks."""
    left = [one for one in bound if not any(_meets(block, protocol, one) for block in apart)]
    return [] if set(left) <= _LOOPBACK else left


def _meets(block: Block, protocol: str, address: str) -> bool:
    filters = {kind: value for kind, _, value in (where.partition(" ") for where in block.where)}
    if filters.keys() - {"protocol", "local"} or filters.get("protocol", protocol) != protocol:
        return False  # `remote`: most clients are others
    if "local" not in filters:
        return True
    with suppress(ValueError):
        return ip_address(address.strip("[]")) in ip_network(filters["local"].strip("[]"), strict=False)
    return False


def _addresses(bound: list[str]) -> tuple[str, ...]:
    """Those it listens on; () if that is all, or goes by a name."""
    with suppress(ValueError):
        found = [ip_address(one.strip("[]")) for one in bound if one not in _LOOPBACK]
        return () if any(one.is_unspecified for one in found) else tuple(map(str, found))
    return ()


def _own_names(conf: Doveconf, top: Block) -> list[str]:
    """The host's own name where the certificate in use is good for it, and the others of that certificate."""
    own = [conf.output("-h", "hostname").strip(), socket.gethostname()]
    certified = [name for pair in top.pairs for name in _certified(pair.cert)]
    return [name for name in own if name in certified] + certified + own


def _certified(file: str) -> list[str]:
    leaf = pemfile.leaf_der(Path(file))
    try:
        names = leaf and x509.load_der_x509_certificate(leaf).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        return names.value.get_values_for_type(x509.DNSName) if names else []
    except (ValueError, x509.ExtensionNotFound):
        return []


def _hosts(names: Iterable[str]) -> list[str]:
    """Those that are full host names."""
    found: list[str] = []
    for name in names:
        with suppress(Error):
            if "." in name:
                found.append(hostname(name))
    return list(dict.fromkeys(found))


def _own_pairs(block: Block) -> tuple[Pair, ...]:
    """Without what a block takes over from the top level."""
    return tuple(pair for pair in block.pairs if not block.where or pair.cert in block.own.values())


# -- what is proposed --------------------------------------------------------------------------------------------------


def _files(
    name: str, settings: Settings, block: Block, shared: Collection[Identity]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The files to write by key type: those in use if they can be, otherwise new ones, and then what each slot
    has to name.
    """
    pairs = _own_pairs(block)
    if files := present.kept(pairs, Access(), shared):
        return files, {}
    directory = present.directory(str(Path(settings.file).parent / "tls"), "dovecot")
    prefix = "" if name == "dovecot" else f"{name}-"
    chosen = [*dict.fromkeys(pair.algorithm for pair in pairs if pair.algorithm)] or ["ecdsa"]
    new = {kind: f"{directory}/{prefix}{kind}.pem" for kind in chosen}
    paths = [path for path in new.values() for _ in ("cert", "key")]
    paths += [""] * (2 * len(pairs) - len(paths))
    return dict(new), dict(zip(SLOTS, paths, strict=False))


def _changes(settings: Settings, blocks: list[Block], edits: Mapping[str, str]) -> tuple[Change, ...]:
    """The lines where these settings stand, naming the new files; what stands nowhere is added at the end."""
    if not edits:
        return ()
    places = {block.where for block in blocks if block.own} or {blocks[0].where}
    texts: dict[Path, list[str]] = {}
    seen: set[str] = set()
    for line in lines(settings):
        if line.where in places and line.slot in edits:
            text = texts.setdefault(line.file, _text(line.file).split("\n"))
            name, equals, _ = text[line.number - 1].partition("=")
            value = settings.line(line.slot, edits[line.slot]).partition("=")[2]
            text[line.number - 1] = f"{name}{equals}{value}"
            seen.add(line.slot)
    rest = [settings.line(slot, path) for slot, path in edits.items() if slot not in seen and path]
    if rest and not blocks[0].where:
        main = Path(settings.file)
        text = texts.setdefault(main, _text(main).split("\n"))
        text[-1:] = [*filter(None, text[-1:]), *rest, ""]
    new = sorted({path for path in edits.values() if path})
    why = (
        f"the present files are not certagent's to replace; only once {' and '.join(new)} is there: "
        "with a missing file Dovecot does not start"
    )
    changes = [Change(str(file), _text(file), "\n".join(text), why) for file, text in texts.items()]
    return tuple(change for change in changes if change.before != change.after)


def _text(file: Path) -> str:
    return read_text(file, errors="surrogateescape")
