"""The Exim of this host as `certagent init` proposes to care for it. It reads, and changes nothing."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from certagent.errors import Error, Misconfigured
from certagent.facts.tls import Mode, Service
from certagent.host import processes
from certagent.host.files import read_text
from certagent.mta import present
from certagent.mta.access import Access
from certagent.mta.claims import Identity
from certagent.mta.exim import eximconf
from certagent.mta.exim.eximconf import Instance
from certagent.mta.exim.listed import Listed
from certagent.mta.ports import port_of
from certagent.mta.reference import Pair, algorithm_of
from certagent.mta.server import Advice, Change, Found

_NAME = "exim"

_GENERATE = ("update-exim4.conf",)
"""Debian's; what it makes, it checks first, and leaves the old one if that fails."""


def discover(shared: Collection[Identity] = ()) -> list[Found]:
    """The default instance; [] where Exim is not installed or has no configuration.

    Raises:
        Misconfigured: `mta.config`: Its configuration is broken.
    """
    exim = Instance(_NAME)
    try:
        exim.command()
    except Misconfigured:
        return []
    try:
        exim.build()
        settings = exim.settings()
    except Misconfigured as error:
        if "non-existent configuration file" in error.detail:
            return []
        raise
    pairs, notes = _used(exim, settings)
    access, fits = _access(pairs, settings, shared)
    kinds = [algorithm_of(certificate) for certificate, _ in pairs]
    changes: tuple[Change, ...] = ()
    by_hand: tuple[Advice, ...] = ()
    if fits:
        listed = Listed.found(settings["tls_certificate"], [certificate for certificate, _ in pairs])
        if listed:
            access = {**access, "list": listed[0]}
        named = listed[1] if listed else map(_file, pairs)
        files: dict[str, str | dict[str, str]] = {kind: one for kind, one in zip(kinds, named, strict=True) if kind}
        if any(certificate != key for certificate, key in pairs):
            better = exim.remedy(settings, [Pair(file, file) for file in _new(settings, kinds).values()])
            notes.append(
                "Certificate and key are two files, which no rename replaces together: a crash between ends TLS. One "
                f"file for both is better: once it is there, {better}"
            )
    else:
        new = _new(settings, kinds)
        files = {**new}
        changes, by_hand = _changes(exim, settings, list(new.values()))
    services = _services({**settings, **_started(settings)})
    if behind := exim.proxied():
        notes.append(
            f"hosts_proxy = {behind}: clients from there must speak the PROXY protocol. If this host is one of them, "
            "write each service with proxy: v2."
        )
    return [
        Found(
            type="exim",
            name=_NAME,
            options={"files": files, **access},
            services=services,
            names=(settings["primary_hostname"],),
            uses=_uses(pairs, settings),
            notes=(*notes, *_about(services)),
            changes=changes,
            by_hand=by_hand,
        )
    ]


# -- files -------------------------------------------------------------------------------------------------------------


def _used(exim: Instance, settings: Mapping[str, str]) -> tuple[list[Pair], list[str]]:
    """The files for clients that ask for no name, and notes for the operator."""
    notes: list[str] = []
    if "tls_in_sni" in settings["tls_certificate"] or "tls_sni" in settings["tls_certificate"]:
        notes.append(
            "tls_certificate depends on the name that the client asks for. Only the files for clients that ask for "
            "none are listed here. Give each certificate its own entry, with the names under `sni` and a `list`, see "
            "docs/how-to/exim.md."
        )
    if unknown := eximconf.variables(settings):
        return [], [*notes, f"tls_certificate depends on ${', $'.join(unknown)}: which files it leads to is not known."]
    try:
        pairs = list(exim.views(settings, ("",))[0].pairs)
    except Error as error:
        return [], [*notes, f"{error.detail}."]
    if not pairs:
        notes.append("tls_certificate is not set: Exim serves a certificate signed by itself.")
    return pairs, notes


def _access(
    pairs: Sequence[Pair], settings: Mapping[str, str], shared: Collection[Identity]
) -> tuple[dict[str, str], bool]:
    """Options for owner and mode with which the files in use can be cared for as they are; and whether they can."""
    by_group = {"owner": "root", "group": settings["exim_group"], "mode": "0640"}  # Debian's rule for exim.key
    for options, access in (
        ({}, Access(owner=settings["exim_user"])),
        (by_group, Access(owner="root", group=settings["exim_group"], mode="0640")),
    ):
        if present.kept(pairs, access, shared):
            return options, True
    return {}, False


def _file(pair: Pair) -> str | dict[str, str]:
    """As it stands in the config."""
    certificate, key = pair
    return certificate if certificate == key else {"fullchain": certificate, "key": key}


def _new(settings: Mapping[str, str], kinds: Sequence[str | None]) -> dict[str, str]:
    """One file for each key type that is in use."""
    return {
        kind: f"{_directory(settings)}/{kind}.pem" for kind in sorted({*kinds} - {None} or {"ecdsa"}, key=str) if kind
    }


def _directory(settings: Mapping[str, str]) -> str:
    usual = (directory for directory in ("/etc/exim4", "/etc/exim") if os.path.isdir(directory))
    return present.directory(f"{next(usual, os.path.dirname(settings['config_file']))}/tls", _NAME)


def _changes(
    exim: Instance, settings: Mapping[str, str], files: list[str]
) -> tuple[tuple[Change, ...], tuple[Advice, ...]]:
    """What makes Exim serve the new files; or why that has to be done by hand, and how."""
    remedy = exim.remedy(settings, [Pair(file, file) for file in files])
    before = _text(remedy.file)
    main, macros = eximconf.main_section(before), exim.macros()
    set_elsewhere = not eximconf.is_generated(settings) and [
        name
        for name in ("tls_certificate", "tls_privatekey")
        if settings[name] and not eximconf.is_set(main, name, macros)
    ]
    if "$" in settings["tls_certificate"]:
        what = "write where tls_certificate is to lead to the new files; only you know. Without a name"
        return (), (Advice(what, str(remedy)),)
    if set_elsewhere:
        what = (
            f"{set_elsewhere[0]} is set where {remedy.file} does not say it: in a file that it includes, or by a macro"
        )
        return (), (Advice(what, str(remedy)),)
    after = eximconf.changed(before, remedy.settings, macros)
    generated = eximconf.is_generated(settings)
    if after == before and generated and settings["tls_certificate"] != eximconf.listing(files):
        return (), (Advice(f"{remedy.file} names the new files already; make use of it", remedy.command),)
    if after == before:
        return (), ()
    why = f"Exim reads the files of certagent; once they are there. Then run: {remedy.command}"
    return (Change(remedy.file, before, after, why, _GENERATE if generated else ()),), ()


def _uses(pairs: Sequence[Pair], settings: Mapping[str, str]) -> dict[str, str]:
    uses = {"tls_certificate": ", ".join(certificate for certificate, _ in pairs)} if pairs else {}
    if settings["tls_privatekey"] and pairs:
        uses["tls_privatekey"] = ", ".join(key for _, key in pairs)
    return uses


def _text(file: str) -> str:
    try:
        return read_text(file, errors="surrogateescape")
    except Error:
        return ""


# -- services ----------------------------------------------------------------------------------------------------------


def _started(settings: Mapping[str, str]) -> dict[str, str]:
    """Where the running daemon listens by its option -oX, over its settings.

    Source: the Exim specification, section 13.4: what has neither a dot nor a colon in it is a port.
    """
    given: list[str] = []
    with suppress(Error):
        for pid in processes.running(os.path.realpath(settings["exim_path"])):
            with suppress(OSError):
                words = iter(processes.command_line(pid))
                given += [next(words, "") for word in words if word == "-oX"]
    listed = eximconf.items(given[0]) if given else []
    ports = [item for item in listed if not re.search(r"[.:]", item)]
    addresses = [item for item in listed if item not in ports]
    return {
        **({"daemon_smtp_ports": " : ".join(ports)} if ports else {}),
        **({"local_interfaces": f"<; {' ; '.join(addresses)}"} if addresses else {}),
    }


def _services(settings: Mapping[str, str]) -> tuple[Service, ...]:
    """By daemon_smtp_ports, tls_on_connect_ports and local_interfaces, in which an address may name a port."""
    own = eximconf.ports(settings["daemon_smtp_ports"]) or [25]
    implicit = eximconf.ports(settings["tls_on_connect_ports"])
    addresses: dict[int, set[str]] = {port: set() for port in own}
    for item in eximconf.items(settings["local_interfaces"]):
        address, port = _interface(item)
        for at in [port] if port else own:
            addresses.setdefault(at, set()).add(address)
    found: list[Service] = []
    for port, at in sorted(addresses.items()):
        mode: Mode = "tls" if port in implicit else "smtp"
        everywhere = not at or any(ipaddress.ip_address(address).is_unspecified for address in at)
        found.append(Service(settings["primary_hostname"], port, mode, () if everywhere else tuple(sorted(at))))
    return tuple(found)


def _interface(item: str) -> tuple[str, int | None]:
    """`192.0.2.1`, `192.0.2.1.26`, `[2001:db8::1]:26`; what is none of these counts as every address.

    Source: the Exim specification, section 13.2.
    """
    address, port = item.strip("[]"), ""
    if item.startswith("[") and not item.endswith("]"):
        address, _, port = item[1:].partition("]:")
    elif item.count(".") == 4:
        address, _, port = item.rpartition(".")
    try:
        return str(ipaddress.ip_address(address)), port_of(port) if port else None
    except ValueError:
        return "::", None


def _about(services: Sequence[Service]) -> list[str]:
    addresses = [address for service in services for address in service.addresses]
    everywhere = any(not service.addresses for service in services)
    if addresses and not everywhere and all(ipaddress.ip_address(address).is_loopback for address in addresses):
        return ["It listens on this host's loopback addresses only (local_interfaces): no other host meets it."]
    return []
