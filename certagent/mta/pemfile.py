"""The combined PEM file of a mail server: key, leaf, issuers, in this order, in one file that a rename replaces.

Nothing takes its place before the very file was loaded by the TLS library and has served a handshake: Postfix, Exim and
Dovecot reload with success whatever is in it, and then answer STARTTLS with 454. A rehearsal cannot tell whether the
certificate is the right one, or trusted by anyone; `pki/chain.py` does that.

Standards: RFC 7468 (PEM); RFC 5246 section 7.4.2 (leaf first, each issuer after the certificate it signed).
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from certagent.errors import Misconfigured, Transient, Unsafe
from certagent.secret import Secret
from certagent.store import atomic

_ROUNDS = 10
"""A TLS 1.2 handshake takes two round trips, TLS 1.3 one: more means that the two sides do not come together."""

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


def install(path: Path, pem: Secret[bytes], owner: tuple[int, int] | None = None) -> None:
    """`install_all` for one file."""
    install_all({path: pem}, owner)


def install_all(pems: Mapping[Path, Secret[bytes]], owner: tuple[int, int] | None = None) -> None:
    """Puts every file in its place with mode 0600, durably; may be repeated after any error or crash.

    Every file is written and rehearsed before the first one is placed: after `mta.pem` and `mta.files` nothing has
    changed. Each placing is atomic; all of them together are not: after a crash or `mta.disk` some files may be new.

    Raises:
        mta.pem: (Unsafe) A file does not load, or its rehearsal fails.
        mta.files: (Misconfigured) A symlink, a missing directory, or one into which others may write.
        mta.disk: (Transient) Disk full, read-only or failing.
    """
    with _for_mail_server(), ExitStack() as stack:
        for path in pems:
            atomic.trusted_dir(Path(os.path.realpath(path.parent)))
        places = [
            stack.enter_context(
                atomic.prepared(path, pem.reveal(), owner=owner, rehearse=partial(rehearse, shown=path))
            )
            for path, pem in pems.items()
        ]
        for place in places:
            place()


def rehearse(path: Path, name: str | None = None, *, shown: Path | None = None) -> None:
    """Loads the file as a server would and completes one handshake with it, in memory.

    `name` is the SNI to ask for. `shown` is the file's name for the reader of an error, while it still has another one.

    Raises:
        mta.pem: (Unsafe) It is not key, leaf, issuers; the key is encrypted or not the leaf's; the library refuses it;
            or another certificate than its first one is served.
    """
    shown = shown or path
    try:
        labels, leaf = _read(path)
        if problem := _problem(labels):
            raise Unsafe("mta.pem", f"new content for {shown}: {problem}", _HINT)
        served = _handshake(path, name)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; neither quotes the file
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not valid PEM"
        raise Unsafe("mta.pem", f"new content for {shown}: {why}", _HINT) from error
    if served != leaf:
        raise Unsafe("mta.pem", f"new content for {shown}: not its first certificate is served", _HINT)


def leaf_der(path: Path) -> bytes | None:
    """The first certificate of the file; None where there is no such file, or none can be read from it."""
    try:
        return _read(path)[1]
    except (OSError, ValueError):
        return None


_HINT = "nothing was changed and the old certificate is still served; please report this as a bug of certagent"


def _read(path: Path) -> tuple[list[str], bytes | None]:
    """The labels of the file's PEM blocks, and its first certificate."""
    text = path.read_bytes().decode("ascii", "replace")  # a UnicodeDecodeError would carry the key with it
    blocks = [(block[1], block[0]) for block in _BLOCK.finditer(text)]
    leaf = next((ssl.PEM_cert_to_DER_cert(block) for label, block in blocks if label == "CERTIFICATE"), None)
    return [label for label, _ in blocks], leaf


def _problem(labels: list[str]) -> str:
    """What is wrong with the order of the blocks; Postfix: the key immediately before its certificate."""
    if not labels:
        return "it has no complete PEM block"
    if "ENCRYPTED PRIVATE KEY" in labels:
        return "its key is encrypted"
    if not labels[0].endswith("PRIVATE KEY"):
        return f"its first block is {labels[0]}, not the key"
    if labels[1:2] != ["CERTIFICATE"]:
        return "no certificate follows its key"
    if set(labels[1:]) != {"CERTIFICATE"}:
        return "it holds something else than one key and certificates"
    return ""


def _handshake(path: Path, name: str | None) -> bytes | None:
    """What a client is served from this file; ssl.SSLError when it does not come to that."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(path, password="")  # an encrypted key must not ask at the terminal
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE  # the caller compares the certificate itself
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(_ROUNDS):
        if all([_step(client), _step(server)]):
            return client.getpeercert(binary_form=True)
    raise ssl.SSLError("the handshake does not end")


def _step(side: ssl.SSLObject) -> bool:
    """Goes on as far as the other side's bytes allow; whether the handshake is complete."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@contextmanager
def _for_mail_server() -> Generator[None]:
    """Tells the errors of the store in the words of `mta/server.py`."""
    try:
        yield
    except Transient as error:
        raise Transient("mta.disk", error.detail, error.hint) from error
    except Misconfigured as error:
        raise Misconfigured("mta.files", error.detail, error.hint) from error
