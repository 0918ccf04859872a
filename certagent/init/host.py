"""What this host runs: the mail servers that the plug-ins find, the ports on which something listens, the certificates
in use, and which addresses are its own. It reads, and changes nothing.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID
from msgspec import Struct

from certagent.agent.plugins import BUILT_IN, MAIL_SERVERS, loaded
from certagent.errors import Error
from certagent.host import mounts
from certagent.host.files import read_file
from certagent.init import others
from certagent.mta import pemfile
from certagent.mta.claims import Identity, identity
from certagent.mta.server import Found, Server
from certagent.pki.bundle import facts
from certagent.pki.keys import key_type_of, spki_sha256
from certagent.report.findings import Finding
from certagent.secret import Secret

PORTS = {
    25: "SMTP",
    465: "submission, TLS",
    587: "submission",
    2525: "SMTP, another port",
    143: "IMAP",
    993: "IMAP, TLS",
    110: "POP3",
    995: "POP3, TLS",
    4190: "ManageSieve",
}
"""Where mail clients and servers connect (RFC 5321, 8314, 9051, 1939, 5804); 2525 is a custom. A listener here that no
mail server accounts for is reported."""

_KEY_LIMIT_BYTES = 64 << 10
"""A key and its chain are some kB."""


ITSELF = "itself"
"""The issuer of a certificate that nobody else has signed."""


class InUse(Struct, frozen=True):
    """A certificate that a server uses now."""

    file: str
    key_type: str
    issuer: str
    not_after: datetime
    key: str = ""
    """The file with its key, maybe the same one; "": not among those that the server names, or not to be read."""
    names: tuple[str, ...] = ()
    """Its dNSName SANs."""
    spki: str = ""
    """The SHA-256 of its public key, as `Chain.spki`."""


# -- mail servers ------------------------------------------------------------------------------------------------------


def plugins() -> dict[str, Any]:
    """Every kind of mail server, built in or installed beside certagent, by its type; one that cannot be loaded is the
    error itself.
    """
    from importlib.metadata import entry_points

    loads: dict[str, Callable[[], Any]] = {entry.name: entry.load for entry in entry_points(group=MAIL_SERVERS)}
    loads |= {name: partial(loaded, place) for name, place in BUILT_IN[MAIL_SERVERS].items()}
    found: dict[str, Any] = {}
    for name, load in loads.items():
        try:
            found[name] = load()
        except Exception as error:  # noqa: BLE001 -- maybe the code of a plug-in: it is reported, and the others go on
            found[name] = error
    return found


def made(found: Found, kinds: Mapping[str, Any]) -> Server | None:
    """The mail server as proposed; None if its plug-in refuses the options that it has found itself."""
    kind = kinds[found.type]
    try:
        return kind(found.name, msgspec.convert(found.options, kind.Options))
    except (Error, msgspec.ValidationError):
        return None


class Discovered(NamedTuple):
    """The mail servers of this host, and what went wrong on the way."""

    servers: list[Found]
    failed: list[Finding]
    shared: dict[Identity, str]
    """Files that have more than one reader, and who that is besides."""


def discover(kinds: dict[str, Any]) -> Discovered:
    """The mail servers of this host. One plug-in that fails does not stop another.

    A file that somebody else reads too is taken over by no server: then all are asked again, for other files.
    """
    servers, failed = _ask(kinds, ())
    shared = _shared(servers, [getattr(kind, "directory", "") for kind in kinds.values()])
    proposed = {identity(path) for found in servers for path in paths(found.options)}
    if not proposed.isdisjoint(shared):
        servers, failed = _ask(kinds, shared.keys())
    return Discovered(servers, failed, shared)


def _ask(kinds: dict[str, Any], shared: Collection[Identity]) -> tuple[list[Found], list[Finding]]:
    def ask(kind: str) -> list[Found] | Finding:
        what = f"mail server {kind}"
        try:
            if isinstance(kinds[kind], Exception):
                raise kinds[kind]
            return list(kinds[kind].discover(shared)) if hasattr(kinds[kind], "discover") else []
        except Error as error:
            return Finding("error", what, f"cannot be read: {error}", error.hint)
        except Exception as error:  # noqa: BLE001 -- as above
            hint = "report it to the author of the plug-in; the other servers are below"
            return Finding("error", what, f"its plug-in fails: {type(error).__name__}", hint)

    with ThreadPoolExecutor(thread_name_prefix="discover") as pool:
        answers = list(pool.map(ask, kinds))
    servers = [found for answer in answers if not isinstance(answer, Finding) for found in answer]
    return servers, [answer for answer in answers if isinstance(answer, Finding)]


def _shared(servers: list[Found], directories: list[str]) -> dict[Identity, str]:
    """The files that several of them name, or one for several purposes, or another program's configuration."""
    readers: dict[Identity, dict[str, None]] = {}
    for found in servers:
        for path in used(found):
            readers.setdefault(identity(path), {})[found.name] = None
        for path in found.others:
            readers.setdefault(identity(path), {})[f"another part of {found.name}"] = None
    mentioned = others.mentions(dict.fromkeys(path for found in servers for path in used(found)), directories)
    for path, file in mentioned.items():
        readers.setdefault(identity(path), {})[file] = None
    for one in mounts.alone(Path(path) for found in servers for path in used(found)):
        readers.setdefault(identity(str(one.path)), {})[f"{one.process}, for which it is mounted alone"] = None
    return {file: ", ".join(names) for file, names in readers.items() if len(names) > 1}


def used(found: Found) -> list[str]:
    """The files that a server names."""
    words = (word for value in found.uses.values() for word in re.split(r"[,\s]+", value))
    return [word for word in dict.fromkeys(words) if word.startswith("/")]


def paths(value: object) -> Iterator[str]:
    """Every absolute path in the options of a server."""
    if isinstance(value, str) and value.startswith("/"):
        yield value
    elif isinstance(value, dict):
        for inner in cast("dict[Any, object]", value).values():
            yield from paths(inner)
    elif isinstance(value, list | tuple):
        for inner in cast("list[object]", value):
            yield from paths(inner)


def in_use(found: Found) -> list[InUse]:
    """The certificates in the files that a server names; those that cannot be read are missing."""
    files = used(found)
    keys = {spki: file for file in files if (spki := _key(file))}
    seen: list[InUse] = []
    for file in files:
        leaf = pemfile.leaf_der(Path(file))
        try:
            if leaf:
                certificate, chain = x509.load_der_x509_certificate(leaf), facts([leaf])
                key_type, issuer = key_type_of(certificate.public_key()), _issuer(certificate)
                key = keys.get(chain.spki, "")
                seen.append(InUse(file, key_type, issuer, chain.not_after, key, chain.names, chain.spki))
        except (ValueError, Error):  # a certificate that certagent would not have made
            continue
    return seen


def _key(file: str) -> str:
    """The SHA-256 of the public half of a private key in the file; "" if none can be read."""
    try:
        return spki_sha256(Secret(read_file(Path(file), _KEY_LIMIT_BYTES, links=True) or b""))
    except Error:
        return ""


def _issuer(certificate: x509.Certificate) -> str:
    """`Let's Encrypt (R11)`; in printable ASCII, since a stranger wrote it."""
    if certificate.issuer == certificate.subject:
        return ITSELF
    parts = [
        str(attribute.value)
        for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
        for attribute in certificate.issuer.get_attributes_for_oid(oid)[:1]
    ]
    shown = f"{parts[0]} ({parts[1]})" if len(parts) > 1 else "".join(parts)
    return re.sub(r"[^ -~]", "?", shown[:80]) or "somebody without a name"


def mail_name() -> str:
    """The domain of this host's own mail, as Debian's packages know it; "" if nobody has said. Its MX may be here."""
    try:
        return (read_file(Path("/etc/mailname"), _KEY_LIMIT_BYTES, links=True) or b"").decode("ascii").strip().lower()
    except (Error, ValueError):
        return ""


# -- addresses ---------------------------------------------------------------------------------------------------------


def is_own(address: str) -> bool:
    """Whether the address is one of this host: only such a one can be bound. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def inside(address: str) -> str | None:
    """The address this host would use towards `address`: behind NAT, the inside one. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 25))
            return str(probe.getsockname()[0])
    except OSError:
        return None
