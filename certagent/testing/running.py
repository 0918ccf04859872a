"""A mail server that runs, as the suite for mail servers meets it: what it serves, and its files."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from certagent.errors import Error
from certagent.facts.tls import Service
from certagent.mta.server import Server, directories
from certagent.pki import bundle
from certagent.pki.credential import Credential
from certagent.probe.handshake import probe_all
from certagent.testing.credentials import issued

SERVED_S = 15.0
"""Until the new certificate is met everywhere after a reload: Exim loads files 5 s after the last change."""
PROBE_S = 10.0
"""Of one handshake with a server on this host, on a machine that has much else to do."""


class Running(Struct, frozen=True):
    """A mail server that runs, as its author's test has started it."""

    server: Server
    services: Sequence[Service]
    """Where it is met, with addresses."""
    key_types: tuple[str, ...] = ("ecdsa-p256",)
    """Those whose files are configured; an ECDSA and an RSA one if it serves both."""
    unnamed: Server | None = None
    """The same one, configured with files that its own settings do not name; None: it cannot tell, and says so."""
    by_name: Running | None = None
    """The same daemon with other files, for clients that ask for another name; None: no SNI is configured."""


class Kept(NamedTuple):
    """What a file is."""

    content: bytes
    mode: int
    owner: tuple[int, int]
    inode: int


def credentials(running: Running) -> dict[str, Credential]:
    """A new certificate for each key type, by a new CA."""
    return {key_type: issued(key_type, running.services[0].host) for key_type in running.key_types}


def _der(pem: bytes) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(pem)]


def leaves(new: Mapping[str, Credential]) -> dict[str, bytes]:
    """The leaf (DER) of each key type."""
    return {key_type: _der(credential.leaf)[0] for key_type, credential in new.items()}


def served(running: Running, new: Mapping[str, Credential]) -> str:
    """What is not met as it should be; "" if all is."""
    addresses = {service.host: service.addresses for service in running.services}
    met = probe_all(list(running.services), lambda host: addresses[host], running.key_types, PROBE_S)
    wrong = [f"{one.where}: {one.chain}" for one in met if one.chain != bundle.facts(_der(new[one.key_type].fullchain))]
    return "; ".join(wrong) if met else "no handshake was made"


def until_served(running: Running, new: Mapping[str, Credential]) -> None:
    """Return when all is met as it should be; an AssertionError after `SERVED_S`."""
    deadline = time.monotonic() + SERVED_S
    while wrong := served(running, new):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {SERVED_S:g} s: {wrong}")
        time.sleep(0.05)


def deploy(running: Running) -> dict[str, Credential]:
    """Installs new certificates, reloads, and waits until they are met."""
    new = credentials(running)
    running.server.install(new)
    running.server.reload()
    until_served(running, new)
    return new


def files(running: Running) -> dict[str, Kept]:
    """Everything in the directories that are written into, by real path."""
    found: dict[str, Kept] = {}
    for directory in directories([running.server]):
        for path in directory.iterdir() if directory.is_dir() else ():
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                owner = status.st_uid, status.st_gid
                found[str(path)] = Kept(path.read_bytes(), stat.S_IMODE(status.st_mode), owner, status.st_ino)
    return found


def changed(before: Mapping[str, Kept], after: Mapping[str, Kept]) -> set[str]:
    """The paths of files that are not what they were."""
    return {path for path in {*before, *after} if before.get(path) != after.get(path)}


def claimed(running: Running) -> set[str]:
    """The real paths of all files that the server claims."""
    return {os.path.realpath(claim.path) for claim in running.server.claims() if claim.written}


@contextmanager
def unchanged(running: Running) -> Generator[None]:
    """An AssertionError if a file is not the same afterwards."""
    before = files(running)
    yield
    if other := changed(before, files(running)):
        raise AssertionError(f"changed: {sorted(other)}")


def refuses(kinds: type[Error], codes: set[str], call: Callable[[], object]) -> None:
    """An AssertionError unless the call raises one of these errors, with one of these codes and a hint."""
    try:
        call()
    except kinds as error:
        if error.code not in codes or not error.hint:
            raise AssertionError(f"expected one of {sorted(codes)} with a hint, got {error!r}") from error
        return
    raise AssertionError(f"nothing was raised; expected one of {sorted(codes)}")
