"""OpenSMTPD on this host, for `certagent init`: each certificate that smtpd.conf names, or the lines it lacks."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from cryptography import x509

from certagent.errors import Error
from certagent.facts.tls import Service
from certagent.host.files import read_text
from certagent.host.programs import Result, program, run
from certagent.mta import pemfile, present
from certagent.mta.access import Access
from certagent.mta.claims import Identity
from certagent.mta.opensmtpd import smtpdconf
from certagent.mta.opensmtpd.smtpdconf import Conf, Listener, Pki
from certagent.mta.reference import Pair
from certagent.mta.server import Advice, Change, Found
from certagent.pki.keys import key_type_of
from certagent.pki.keytypes import algorithm

CONFIG = Path("/etc/smtpd.conf")
"""Where it is on Debian; compiled in."""

DIRECTORY = "/etc/smtpd"
"""The directory that is proposed where the present files cannot be kept."""

_EVERYWHERE = frozenset({"*", "all", "any", "0.0.0.0", "::"})  # noqa: S104 -- read, not bound

_LOOPBACK = frozenset({"localhost", "lo", "lo0", "127.0.0.1", "::1"})

_WORD = r'(?:"[^"\n]*"|[^\s"#]+)'

_PKI = re.compile(rf"(?m)^(?P<before>[ \t]*pki[ \t]+(?P<name>{_WORD})[ \t]+(?P<what>cert|key)[ \t]+)(?P<file>{_WORD})")
"""A line that names a file."""

_RESTARTS = "OpenSMTPD cannot reload: at each swap it is restarted, its ports are closed for a moment"

_ONE_KIND = "it serves one key type for a name: do not ask for RSA and ECDSA"


def discover(shared: Collection[Identity] = ()) -> list[Found]:
    """See `Found`."""
    try:
        known = version(run([program("smtpd"), "-h"], 10.0))
        text = read_text(CONFIG)
        conf = smtpdconf.read(CONFIG)
    except Error:
        return []
    if known is None:
        return []
    behind = [
        f"listen on {one.on} port {one.port} is left out: it waits for the PROXY protocol (proxy-v2); if this host may "
        "speak that, write it with proxy: v2"
        for one in conf.listeners
        if one.proxy
    ]
    by_files: dict[tuple[str, str], list[Pki]] = {}
    for pki in conf.pkis:
        by_files.setdefault((pki.cert, pki.key), []).append(pki)
    notes = (_RESTARTS, _ONE_KIND, *behind) if known >= (7,) else (_RESTARTS, _ONE_KIND, *behind, _old(known))
    if not by_files:
        return [_without_tls(conf, text, notes)]
    names = ["opensmtpd", *(f"opensmtpd-{i}" for i in range(2, len(by_files) + 1))]
    return [
        _with_tls(name, pkis, conf, text, notes, shared) for name, pkis in zip(names, by_files.values(), strict=True)
    ]


def version(result: Result) -> tuple[int, ...] | None:
    """From `smtpd -h`; None if it is another smtpd."""
    found = re.search(r"OpenSMTPD ([0-9]{1,4})\.([0-9]{1,4})", result.err + result.out)
    return (int(found[1]), int(found[2])) if found else None


def _with_tls(
    name: str,
    pkis: list[Pki],
    conf: Conf,
    text: str,
    notes: tuple[str, ...],
    shared: Collection[Identity],
) -> Found:
    cert, key = pkis[0].cert, pkis[0].key
    kind = _kind(cert)
    uses = {f"pki {pki.name} {what}": file for pki in pkis for what, file in (("cert", pki.cert), ("key", pki.key))}
    services = _services(pkis, conf)
    changes: tuple[Change, ...] = ()
    options = present.kept([Pair(cert, key)], Access(), shared)
    by_hand: tuple[Advice, ...] = ()
    if options is None:
        own = f"{present.directory(DIRECTORY, 'opensmtpd')}/{'' if name == 'opensmtpd' else f'{name}-'}{kind}.pem"
        options = {kind: own}
        why = f"{cert} is not certagent's to replace: let it name {own} once that is there"
        after = _naming(text, pkis, own)
        if after == text:
            lines = "; ".join(f'pki {pki.name} {what} "{own}"' for pki in pkis for what in ("cert", "key"))
            by_hand = (Advice(f"{why}, in {CONFIG} or the file that it includes, in place of {cert}", lines),)
        changes = (Change(str(CONFIG), text, after, why),) if after != text else ()
        notes = (*notes, why)
    names = tuple(dict.fromkeys(service.host for service in services))
    return Found("opensmtpd", name, {"files": options}, services, names, uses, notes, changes, by_hand=by_hand)


def _naming(text: str, pkis: Iterable[Pki], own: str) -> str:
    """The configuration, with this file in the lines of these entries; as it is, unless all of them are found in it."""
    wanted = {(pki.name, what): file for pki in pkis for what, file in (("cert", pki.cert), ("key", pki.key))}
    found: set[tuple[str, str]] = set()

    def named(line: re.Match[str]) -> str:
        name, what, file = line["name"].strip('"').lower(), line["what"], line["file"].strip('"')
        for one, path in wanted.items():
            if one[1] == what and (one[0] == name or path == file):  # of two macros neither is known here
                found.add(one)
                return f'{line["before"]}"{own}"'
        return line[0]

    after = _PKI.sub(named, text)
    return after if found == wanted.keys() else text


_LISTEN = re.compile(r'(?m)^([ \t]*listen[ \t]+on[ \t]+(?!socket\b)"?([^\s"#]++)"?+)(.*)')
"""The line of a listener: up to what it listens on, that alone, and the rest."""


def _without_tls(conf: Conf, text: str, notes: tuple[str, ...]) -> Found:
    """TLS is not configured: what it would take. A listener on the loopback needs none."""
    own, host = f"{DIRECTORY}/ecdsa.pem", _host_name()
    public = [one for one in conf.listeners if one.on not in _LOOPBACK]

    def offer(match: re.Match[str]) -> str:
        offers = re.search(r"\b(?:tls|smtps|tls-require)\b", match[3])
        return match[0] if match[2] in _LOOPBACK or offers else f"{match[1]} tls pki {host}{match[3]}"

    why = f"it offers no TLS; once certagent's first run has made {own} (install -d -m 700 {DIRECTORY}), add it"
    after = f'pki {host} cert "{own}"\npki {host} key "{own}"\n\n{_LISTEN.sub(offer, text)}'
    changes = (Change(str(CONFIG), text, after, why),) if public else ()
    notes = (*notes, why if public else "it listens on the loopback only, without TLS: it needs no certificate")
    services = tuple(Service(host, one.port, "smtp", _addresses(one)) for one in public)
    return Found("opensmtpd", "opensmtpd", {"files": {"ecdsa": own}}, services, (host,), {}, notes, changes)


def _services(pkis: list[Pki], conf: Conf) -> tuple[Service, ...]:
    """Where these entries are served: by the listeners that name them; one that none names, by SNI, by all."""
    found: dict[Service, None] = {}
    for pki in pkis:
        tls = [one for one in conf.listeners if one.mode and not one.proxy]
        for one in [one for one in tls if pki.name in one.pkis] or tls:
            host = pki.name if "." in pki.name else one.hostname or _host_name()
            found[Service(host, one.port, one.mode or "smtp", _addresses(one))] = None
    return tuple(found)


def _addresses(listener: Listener) -> tuple[str, ...]:
    if listener.on in _EVERYWHERE:
        return ()
    with suppress(OSError):
        socket.inet_pton(socket.AF_INET6 if ":" in listener.on else socket.AF_INET, listener.on)
        return (listener.on,)
    return ("127.0.0.1",) if listener.on in _LOOPBACK else ()


def _host_name() -> str:
    """As it finds it: /etc/mailname, otherwise the host's own name."""
    with suppress(Error):
        lines = read_text("/etc/mailname").split()
        if lines:
            return lines[0].lower()
    return socket.gethostname().lower()


def _kind(cert: str) -> str:
    leaf = pemfile.leaf_der(Path(cert))
    try:
        return algorithm(key_type_of(x509.load_der_x509_certificate(leaf).public_key())) if leaf else "ecdsa"
    except (ValueError, Error):
        return "ecdsa"


def _old(known: tuple[int, ...]) -> str:
    shown = ".".join(map(str, known))
    return f"OpenSMTPD {shown} built with OpenSSL 3, as in Debian 12, fails every TLS handshake: install 7.4 or later"
