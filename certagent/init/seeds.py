"""What is served today, put into certagent's new files, so that a server can name them at once: then its certificate
stays the same, and the first swap is a rename like every other.

It is written as every swap is, by the mail server's own `install`: rehearsed, whole, and with the right owner. A file
is good only if it holds a key and a certificate that fit, and those are the ones that are served.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certagent.errors import Error, Misconfigured, Unsafe
from certagent.facts.tls import Chain
from certagent.host.files import read_file
from certagent.init import host, survey
from certagent.init.host import InUse
from certagent.init.survey import Survey
from certagent.mta import pemfile
from certagent.mta.server import Found, Server, directories
from certagent.pki import keys
from certagent.pki.bundle import facts
from certagent.pki.credential import Credential
from certagent.pki.keytypes import algorithm

_LIMIT_BYTES = 8 << 20
"""Of a file with certificates: a bundle of all the world's CAs is some hundred kB."""

_LONGEST_CHAIN = 10
"""As in OpenSSL's default for a chain's depth, and less: no CA has more than four."""


class Seeds(NamedTuple):
    """What has to be in a server's files before it may name them."""

    sources: tuple[InUse, ...]
    """What is copied, one for each key type whose files lack it."""
    lacking: tuple[str, ...]
    """The files for which nothing can be copied."""
    why: str = ""
    """Why not."""


NOTHING = Seeds((), ())


def of(found: Found, seen: Survey, server: Server | None) -> Seeds:
    """What its files lack; `server`: it, as it is proposed, if that can be made."""
    there: dict[str, str] = {}
    for key_type, leaf in server.installed().items() if server else ():
        there[algorithm(key_type)] = facts([leaf]).spki
    served = {one.chain.spki for one in seen.served.get(found.name, ()) if isinstance(one.chain, Chain)}
    used: dict[str, InUse] = {algorithm(one.key_type): one for one in seen.names.in_use[found.name]}
    sources: list[InUse] = []
    lacking: list[str] = []
    why = ""
    for kind, named in survey.files(found):
        files, source = list(named.values()), used.get(kind)
        if kind in there and (source is None or there[kind] == source.spki):
            continue
        if source is None or server is None:
            lacking += files
        elif not source.key:
            lacking += files
            why = f"the key of {source.file} cannot be read"
        elif served and source.spki not in served:
            lacking += files
            why = f"{source.file} is not what {found.name} serves now: let it read its files again, then come back"
        else:
            sources.append(source)
    return Seeds(() if lacking else tuple(sources), tuple(lacking), why)


def make(found: Found, server: Server, seeds: Seeds) -> None:
    """Puts them where they belong.

    Raises:
        Misconfigured: `mta.files`: The files cannot be written, or a source cannot be read.
        Unsafe: `mta.pem`: They do not load.
        Transient: `mta.disk`: Disk full or failing.
    """
    if not seeds.sources:
        return
    for directory in directories([server]):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    credentials = {one.key_type: _credential(found, one) for one in seeds.sources}
    refused: Misconfigured | None = None
    try:
        server.install(credentials)
    except Misconfigured as error:  # mostly its configuration does not name them yet: that comes next
        refused = error
    there = {facts([leaf]).spki for leaf in server.installed().values()}
    for source in seeds.sources:
        if source.spki not in there:
            what = f"{found.name}: its new files do not hold {source.file}"
            raise refused or Unsafe("mta.pem", what, "report it as a bug")


def _credential(found: Found, source: InUse) -> Credential:
    """Its key, and its chain out of whatever the server names.

    Raises:
        Misconfigured: `mta.files`: One cannot be read, or is not what it was.
    """
    key = pemfile.first_key(_read(source.key))
    certificates = [*_certificates(source.file)]
    pool = [one for path in (*host.used(found), *found.others) for one in _certificates(path)]
    if key is None or not certificates or keys.spki_sha256(key) != source.spki:
        raise Misconfigured("mta.files", f"{source.file} is not what it was a moment ago", "run certagent init again")
    chain = [certificates[0]]
    while chain[-1].issuer != chain[-1].subject and len(chain) < _LONGEST_CHAIN:
        above = next((one for one in [*certificates[1:], *pool] if _issued(one, chain[-1])), None)
        if above is None or above.issuer == above.subject:
            break
        chain.append(above)
    leaf, *issuers = (one.public_bytes(Encoding.PEM) for one in chain)
    return Credential(keys.normal(key), leaf, b"".join(issuers))


def _issued(issuer: x509.Certificate, one: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 -- of odd certificates of strangers: several kinds
        return False
    return True


def _certificates(path: str) -> Iterator[x509.Certificate]:
    try:
        yield from x509.load_pem_x509_certificates(_read(path))
    except (ValueError, Error):  # a key alone
        return


def _read(path: str) -> bytes:
    return read_file(Path(path), _LIMIT_BYTES, links=True) or b""
