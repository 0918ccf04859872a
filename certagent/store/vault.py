"""Private keys and issued chains on the disk, there for good when a call returns.

A key is never overwritten: a record in DNS may depend on it. Only the owner can read anything here. The layout is
`<certificate>/<id>/<key type>.key` and `.pem`, where the id is that of the keys or of the generation; and
`<certificate>/before/<mail server>.files` for what somebody else had installed there.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from certagent.errors import Misconfigured, Missing, Transient, Unsafe
from certagent.host import replace
from certagent.host.files import private_dir, read_private
from certagent.secret import Secret

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,126}")
"""One component of a path, never hidden and never `..`; 128 leaves room for the temporary names of `replace`."""

_LIMIT_BYTES = 256 * 1024
"""What `pki.chain` accepts of a chain; keys are far smaller."""


_KEPT_LIMIT_BYTES = 32 << 20
"""A dozen files of what a layout may read (1 MiB each), and Postfix's table of SNI names beside them."""


class Vault:
    """The keys and chains under one directory, which is made when needed; the one above it must exist.

    Every method may be called again after an error or a crash. Errors beside those named: `store.path`, `secret.mode`
    (Misconfigured), `store.disk` (Transient), `vault.name` (Misconfigured: it could leave the directory).
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_key(self, certificate: str, keys_id: str, key_type: str, key: Secret[bytes]) -> None:
        """Keep a key.

        Raises:
            Unsafe: `vault.exists`: Another key is kept there.
        """
        path = self._path(certificate, keys_id, key_type, ".key")
        if os.path.lexists(path) and read_private(path, limit_bytes=_LIMIT_BYTES) != key.reveal():
            raise Unsafe("vault.exists", f"{path} holds another key", "keep it: DNS may have records of it")
        self._write(path, key.reveal())  # also if it is there already: a killed run may not have synced it

    def key(self, certificate: str, keys_id: str, key_type: str) -> Secret[bytes]:
        """The key as it was put.

        Raises:
            Misconfigured: `vault.missing`.
        """
        return Secret(_read(self._path(certificate, keys_id, key_type, ".key")))

    def put_chain(self, certificate: str, generation_id: str, key_type: str, pem: bytes) -> None:
        """Keep a chain: certificates alone, the key stays in its own file. Replaces one that is there."""
        self._write(self._path(certificate, generation_id, key_type, ".pem"), pem)

    def chain(self, certificate: str, generation_id: str, key_type: str) -> bytes:
        """The chain as it was put.

        Raises:
            Misconfigured: `vault.missing`.
        """
        return _read(self._path(certificate, generation_id, key_type, ".pem"))

    def keep(self, certificate: str, server: str, files: Mapping[str, Secret[bytes]]) -> None:
        """Keep the files that a mail server had from somebody else, by path. Replaces those kept before."""
        data = msgspec.msgpack.encode({path: content.reveal() for path, content in files.items()})
        self._write(self._path(certificate, "before", server, ".files"), data)

    def kept(self, certificate: str, server: str) -> dict[str, Secret[bytes]]:
        """The files as they were kept; none if none were.

        Raises:
            Misconfigured: `vault.kept`: They cannot be read.
        """
        path = self._path(certificate, "before", server, ".files")
        if not os.path.lexists(path):
            return {}
        data = read_private(path, limit_bytes=_KEPT_LIMIT_BYTES)
        try:
            found = msgspec.msgpack.decode(data, type=dict[str, bytes])
        except msgspec.DecodeError:
            hint = f"move it away, then put the mail server's files back by hand: mv {path} {path}.broken"
            raise Misconfigured("vault.kept", f"{path} is damaged", hint) from None
        return {name: Secret(content) for name, content in found.items()}

    def drop_keys(self, certificate: str, keys_id: str) -> None:
        """Delete the keys of this id; none there: no error."""
        _drop(self._directory(certificate, keys_id), ".key")

    def drop_chain(self, certificate: str, generation_id: str) -> None:
        """Delete the chains of this id; none there: no error."""
        _drop(self._directory(certificate, generation_id), ".pem")

    def _directory(self, certificate: str, name: str) -> Path:
        return self._root / _part(certificate) / _part(name)

    def _path(self, certificate: str, name: str, key_type: str, suffix: str) -> Path:
        return self._directory(certificate, name) / (_part(key_type) + suffix)

    def _write(self, path: Path, data: bytes) -> None:
        for directory in (self._root, path.parent.parent, path.parent):
            private_dir(directory)
        replace.write(path, data)


def _part(text: str) -> str:
    if not _PART.fullmatch(text):
        raise Misconfigured("vault.name", f"{text[:128]!r} cannot be the name of a file", "use letters, digits, . _ -")
    return text


def _read(path: Path) -> bytes:
    try:
        return read_private(path, limit_bytes=_LIMIT_BYTES)
    except Misconfigured as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        hint = "restore it from a backup; keys that serve nothing yet are made anew by `certagent abort`"
        raise Missing("vault.missing", f"{path} is missing", hint) from None


def _drop(directory: Path, suffix: str) -> None:
    """Remove the files, with what a killed `replace.write` left of them, and the directory when it is empty then."""
    try:
        for path in directory.glob(f"*{suffix}*"):
            path.unlink(missing_ok=True)
        _sync(directory)
        directory.rmdir()
        _sync(directory.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise Transient(
                "store.disk", f"{directory}: {error.strerror}", f"look at it: ls -la {directory}"
            ) from error


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
