"""Sendmail's sendmail.cf, as far as certificates go; and Sendmail on this host, for `certagent init`.

Source: Sendmail Installation and Operation Guide, section 5.6 (options); cf/README for the macros of sendmail.mc.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from cryptography import x509
from msgspec import Struct

from certagent.errors import Error
from certagent.facts.tls import Service
from certagent.host.files import read_file, read_text
from certagent.host.programs import Result, program, run
from certagent.mta import pemfile, present
from certagent.mta.access import Access
from certagent.mta.claims import Identity
from certagent.mta.ports import port_of
from certagent.mta.reference import Pair
from certagent.mta.server import Advice, Change, Found

CONFIG = Path("/etc/mail/sendmail.cf")
"""Compiled in."""

_PID_FILE = "/var/run/sendmail/mta/sendmail.pid"
"""Debian's; compiled in."""

_TIMEOUT_S = 90.0
"""For its own check: milliseconds, but where the host has no full name, it sleeps for 60 s first."""

DIRECTORY = "/etc/mail/certagent"
"""The directory that is proposed where the present files cannot be kept."""


class Port(Struct, frozen=True):
    """One of DaemonPortOptions."""

    port: int
    mode: Literal["smtp", "tls"] | None
    """How TLS begins; None: it is switched off (M=S)."""
    address: str
    """"" if it listens on all."""


class Settings(Struct, frozen=True):
    """What sendmail.cf says."""

    pairs: list[Pair]
    """Certificate and key."""
    odd: bool
    """Whether there are not as many keys as certificates."""
    ca_path: str
    ca_file: str
    pid_file: str
    dont_blame: str
    """DontBlameSendmail in lower case."""
    client_key: str
    ports: tuple[Port, ...]


def read(path: Path) -> Settings:
    """Reads it. As in Sendmail, names are of any case and the last one counts.

    Raises:
        Misconfigured: `store.path`: It cannot be read.
        Transient: `store.disk`: It cannot be read.
    """
    single: dict[str, str] = {}
    ports: list[Port] = []
    for line in read_text(path).splitlines():
        name, equals, value = line[1:].partition("=")
        if equals and line[0] == "O" and name[:1].isspace():
            name, value = name.strip().lower(), value.strip()
            if name == "daemonportoptions":
                ports.append(_port(value))
            single[name] = value
    certs, keys = (_files(single.get(name, "")) for name in ("servercertfile", "serverkeyfile"))
    return Settings(
        list(map(Pair, certs, keys)),
        len(certs) != len(keys),
        single.get("cacertpath", ""),
        single.get("cacertfile", ""),
        single.get("pidfile") or _PID_FILE,
        single.get("dontblamesendmail", "").lower(),
        single.get("clientkeyfile", ""),
        tuple(ports) or (Port(25, "smtp", ""),),
    )


def tested(config: str, code: str) -> Result:
    """Sendmail's own check, which reads the file and tells its version and the host's name, and does nothing."""
    return run([program("sendmail", code), "-C", config, "-d0.1", "-bt"], _TIMEOUT_S, code=code)


def version(result: Result) -> str | None:
    """From `tested`; None if it is another sendmail."""
    found = re.search(r"(?m)^Version (8\.\S+)", result.out)
    return found[1] if found else None


def defines(pairs: Sequence[tuple[str, str]], issuers: str) -> str:
    """The lines of sendmail.mc that name exactly these. CACertPath must be set: the directory of the issuers, where no
    certificate has the name by which it would be found.
    """
    values = {
        "SERVER_CERT": ",".join(cert for cert, _ in pairs),
        "SERVER_KEY": ",".join(key for _, key in pairs),
        "CACERT": issuers,
        "CACERT_PATH": os.path.dirname(issuers),
    }
    return "\n".join(f"define(`conf{name}', `{value}')dnl" for name, value in values.items())


def has_certificates(directory: str) -> bool:
    """Whether OpenSSL would find any there, by the hash of its subject. Source: openssl-rehash(1)."""
    try:
        return any(re.fullmatch(r"[0-9a-f]{8}\.\d+", name) for name in os.listdir(directory))
    except OSError:  # Sendmail does not mind
        return False


def issuers(chain: bytes) -> bytes:
    """What follows the first certificate, in PEM."""
    return "".join(f"{block}\n" for block in pemfile.certificates(chain)[1:]).encode()


def discover(shared: Collection[Identity] = ()) -> list[Found]:
    """See `Found`."""
    try:
        settings = read(CONFIG)
        answer = tested(str(CONFIG), "run.failed")
    except Error:
        return []
    if not version(answer):
        return []
    named = re.search(r"\$j = (\S+)", answer.out)
    host = (named[1] if named else socket.gethostname()).lower()
    services = tuple(
        Service(host, port.port, port.mode, (port.address,) if port.address else ())
        for port in settings.ports
        if port.mode
    )
    uses = {
        name: ",".join(files)
        for name, files in (
            ("ServerCertFile", [cert for cert, _ in settings.pairs]),
            ("ServerKeyFile", [key for _, key in settings.pairs]),
        )
        if files
    }
    notes = ("a reload closes its ports for a moment; sessions in progress go on",)
    alone = all(pair.cert == pair.key or pair.key != settings.client_key for pair in settings.pairs)
    files = present.kept(settings.pairs, Access(), shared) if alone else None  # or the client's would no longer fit
    directory = present.directory(DIRECTORY, "sendmail")
    kinds = [kind for pair in settings.pairs if (kind := pair.algorithm)] or ["ecdsa"]
    own = {kind: f"{directory}/{kind}.pem" for kind in kinds}
    keeps = _only_intermediates(settings) and present.shared_by_none([settings.ca_file], shared)
    intermediates = settings.ca_file if keeps else f"{directory}/issuers.pem"
    options: dict[str, object] = {"files": files or own, "issuers": intermediates}
    changes: tuple[Change, ...] = ()
    by_hand: tuple[Advice, ...] = ()
    if not files or intermediates != settings.ca_file:
        why = "once certagent's files are there, let Sendmail name them"
        pairs = settings.pairs if files else [Pair(path, path) for path in own.values()]
        lines = defines(pairs, intermediates)
        changes = _changes(lines, why)
        source = CONFIG.with_suffix(".mc")
        by_hand = () if changes else (Advice(f"{why}: in {source}, or where {CONFIG} is made of", lines),)
        notes = (*notes, why, f"it sends as issuers what is in CACertFile: that must be {intermediates}")
    certs = {cert for cert, _ in settings.pairs}
    others = () if intermediates == settings.ca_file or settings.ca_file in certs else (settings.ca_file,)
    return [Found("sendmail", "sendmail", options, services, (host,), uses, notes, changes, others, by_hand)]


def _changes(lines: str, why: str) -> tuple[Change, ...]:
    source = CONFIG.with_suffix(".mc")
    try:
        before = read_text(source, errors="strict")
    except (Error, UnicodeDecodeError):
        return ()
    first = re.search(r"(?m)^[ \t]*MAILER(_DEFINITIONS|\()", before)
    if first is None:
        return ()
    after = f"{before[: first.start()]}{lines}\n{before[first.start() :]}"
    make = ("make", "-C", str(source.parent))  # Debian's says yes even where m4 does not: what it made is to be checked
    why = f"{why}; then: {shlex.join(make)} && systemctl reload sendmail"
    return (Change(str(source), before, after, why, make),)


def _only_intermediates(settings: Settings) -> bool:
    """Whether CACertFile is an ordinary file without a root, and CACertPath adds none."""
    try:
        blocks = pemfile.certificates(read_file(Path(settings.ca_file), links=True) or b"")
        certificates = [x509.load_pem_x509_certificate(block.encode()) for block in blocks]
        alone = not has_certificates(settings.ca_path)
    except (Error, ValueError):
        return False
    ordinary = os.path.realpath(settings.ca_file) == os.path.normpath(settings.ca_file)
    return ordinary and alone and bool(blocks) and all(one.issuer != one.subject for one in certificates)


def _files(value: str) -> list[str]:
    return [file.strip() for file in value.split(",") if file.strip()]


def _port(value: str) -> Port:
    """Keys may be shortened to their first letter, which is all that Sendmail looks at."""
    given: dict[str, str] = {}
    for part in value.split(","):
        name, _, setting = part.partition("=")
        given[name.strip()[:1].upper()] = setting.strip()
    port = port_of(given.get("P", "25").lower()) or 25
    modifiers = given.get("M", "")
    address = given.get("A", "")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except (OSError, ValueError):  # a name, or none
        address = ""
    everywhere = address in {"0.0.0.0", "::"}  # noqa: S104 -- read, not bound
    mode = "tls" if "s" in modifiers else None if "S" in modifiers else "smtp"
    return Port(port, mode, "" if everywhere else address)
