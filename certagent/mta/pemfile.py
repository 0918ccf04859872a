"""The PEM that a mail server reads: key, leaf, issuers, in one file that a rename replaces, or in parts.

Nothing takes its place before the very files were loaded by the TLS library and have served a handshake: Postfix, Exim
and Dovecot reload with success whatever is in them, and then answer STARTTLS with 454. A rehearsal cannot tell whether
the certificate is the right one, or trusted by anyone; `pki/chain.py` does that.

Standards: RFC 7468 (PEM); RFC 5246 section 7.4.2 (leaf first, each issuer after the certificate it signed).
"""

from __future__ import annotations

import ssl
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from certagent.errors import Error, Misconfigured, Transient, Unsafe
from certagent.host.files import in_memory, read_file
from certagent.secret import Secret

_ROUNDS = 10
"""A TLS 1.2 handshake takes two round trips, TLS 1.3 one: more means that the two sides do not come together."""

_BEGIN, _DASHES = "-----BEGIN ", "-----"

_LABEL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ")
"""Source: RFC 7468 section 3, less the signs that no label in use has."""

_HINT = "nothing was changed and the old certificate is still served; please report this as a bug of certagent"


def rehearse(path: Path, name: str | None = None, *, key: Path | None = None, shown: Path | None = None) -> None:
    """Loads the file as a server would and completes one handshake with it, in memory.

    `name` is the SNI to ask for. `key`: the file of the key, where `path` holds only leaf and issuers. `shown` is the
    file's name for the reader of an error, while it still has another one.

    Raises:
        Unsafe: `mta.pem`: It is not key, leaf, issuers; the key is encrypted or not the leaf's; the library refuses it;
            or another certificate than its first one is served.
    """
    shown = shown or path
    try:
        pem = _content(path)
        certificates = blocks(pem)
        labels = [label for label, _ in (blocks(_content(key)) if key else []) + certificates]
        problem = _problem(labels)
        if not problem and pem.count(b"-----BEGIN ") != len(certificates):
            problem = "a PEM block has no end"
        if problem:
            raise broken(shown, problem)
        served = _handshake(path, key, name)
    except (Misconfigured, Transient) as error:
        raise broken(shown, error.detail) from error
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; neither quotes the file
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not valid PEM"
        raise broken(shown, why) from error
    if served != _first(certificates):
        raise broken(shown, "not its first certificate is served")


def rehearse_parts(leaf: Path, issuers: Path, key: Path, *, shown: Path) -> None:
    """`rehearse` for a server that reads three files.

    Raises:
        Error: As `rehearse`.
    """
    with in_memory(_content(leaf) + _content(issuers)) as together:  # the TLS library reads both from one file only
        rehearse(together, key=key, shown=shown)


def leaf_der(path: Path) -> bytes | None:
    """The first certificate of the file; None if there is no such file, or none can be read from it."""
    try:
        return first_certificate(_content(path))
    except Error:
        return None


def first_certificate(pem: bytes) -> bytes | None:
    """The first certificate as DER; None if none can be read."""
    try:
        return _first(blocks(pem))
    except ValueError:
        return None


def first_key(pem: bytes) -> Secret[bytes] | None:
    """The first unencrypted private key as PEM; None if there is none."""
    keys = [block for label, block in blocks(pem) if label.endswith("PRIVATE KEY")]
    return Secret(keys[0].encode()) if keys else None


def broken(shown: Path, why: str) -> Unsafe:
    """The error of a file that is not placed. `mta.pem`."""
    return Unsafe("mta.pem", f"new content for {shown}: {why}", _HINT)


def blocks(pem: bytes) -> list[tuple[str, str]]:
    """The label and the text of each complete PEM block; in a time that grows as the size does, whatever it holds."""
    return list(_blocks(pem.decode("ascii", "replace")))  # a UnicodeDecodeError would carry the key with it


def certificates(pem: bytes) -> list[str]:
    """The text of each certificate."""
    return [block for label, block in blocks(pem) if label == "CERTIFICATE"]


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    start = text.find(_BEGIN)
    while start >= 0:
        following = text.find(_BEGIN, start + len(_BEGIN))  # one that begins before this one ends: this one has no end
        limit = len(text) if following < 0 else following
        label = text[start + len(_BEGIN) : limit].partition(_DASHES)[0]
        end = f"{_DASHES}END {label}{_DASHES}"
        at = text.find(end, start + len(_BEGIN) + len(label), limit) if label and _LABEL.issuperset(label) else -1
        if at >= 0:
            yield label, text[start : at + len(end)]
        start = following


@contextmanager
def in_its_words() -> Generator[None]:
    """Tells the errors of the store in the words of `mta/server.py`: `mta.disk`, `mta.files`."""
    try:
        yield
    except Transient as error:
        raise Transient("mta.disk", error.detail, error.hint) from error
    except Misconfigured as error:
        raise Misconfigured("mta.files", error.detail, error.hint) from error


def _content(path: Path) -> bytes:
    """Nothing, if it is not there."""
    return read_file(path, links=True) or b""


def _first(blocks: list[tuple[str, str]]) -> bytes | None:
    """The first certificate among them; ValueError if it is damaged."""
    return next((ssl.PEM_cert_to_DER_cert(block) for label, block in blocks if label == "CERTIFICATE"), None)


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


def _handshake(path: Path, key: Path | None, name: str | None) -> bytes | None:
    """What a client is served from this file; ssl.SSLError when it does not come to that."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(path, key, password="")  # an encrypted key must not ask at the terminal
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
