"""Files are read, looked at and removed; a FIFO, a symlink or a giant file is an error, never a wait."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from certagent.errors import Misconfigured, Usage
from certagent.host.oserrors import translated
from certagent.host.trust import trusted_dir

_SECRET_LIMIT_BYTES = 1 << 20
"""Keys, tokens and chains are some kB: more is the wrong file."""


def read_file(path: Path, limit_bytes: int = _SECRET_LIMIT_BYTES) -> bytes | None:
    """The content of a regular file; None if nothing has that name.

    Raises:
        store.path: It is not readable, a symlink, not a regular file, or larger than `limit_bytes`.
        store.disk: It cannot be read.
    """
    if file_status(path) is None:
        return None
    return _read(path, limit_bytes, lambda _: None)


def read_private(path: Path, limit_bytes: int = _SECRET_LIMIT_BYTES) -> bytes:
    """The content of a file that only its owner, root or this user, may touch.

    Raises:
        secret.mode: Group or others may access it, or it belongs to somebody else.
        store.path: It is missing, not readable, a symlink, not a regular file, or larger than `limit_bytes`.
        store.disk: It cannot be read.
    """

    def judge(status: os.stat_result) -> None:
        if status.st_uid not in {0, os.geteuid()}:
            raise Usage("secret.mode", f"{path} belongs to user {status.st_uid}", f"chown {os.geteuid()} {path}")
        if status.st_mode & 0o077:
            raise Usage("secret.mode", f"group or others may access {path}", f"chmod 600 {path}")

    return _read(path, limit_bytes, judge)


def file_status(path: Path) -> os.stat_result | None:
    """The status of what has this name, also of a symlink itself; None if there is nothing.

    Raises: `store.path`, `store.disk`.
    """
    with translated(path):
        try:
            return path.lstat()
        except FileNotFoundError:
            return None


def remove_file(path: Path) -> None:
    """Removes the file, durably. Nothing happens if it is not there.

    Raises: `store.path`, `store.disk`.
    """
    with translated(path):
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)


def private_dir(path: Path) -> None:
    """Makes `path` a directory of mode 0700, durably. A directory that exists is left as it is.

    The directory above must exist, so that a mistyped path is an error.

    Raises:
        store.disk, store.path: As `write`; `store.path` also when others may write into it.
    """
    with translated(path):
        with suppress(FileExistsError):
            path.mkdir(0o700)
        _sync_directory(path.parent)  # always: the run that made it may have been killed before this line
    trusted_dir(Path(os.path.realpath(path.parent), path.name))


def _read(path: Path, limit_bytes: int, judge: Callable[[os.stat_result], None]) -> bytes:
    with translated(path), ExitStack() as cleanup:
        # O_NONBLOCK: to open a FIFO must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        cleanup.callback(os.close, fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Misconfigured("store.path", f"{path} is not a regular file", f"look at it: ls -l {path}")
        judge(status)
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise Misconfigured("store.path", f"{path} is larger than {limit_bytes} bytes", "is it the right file?")
    return data


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
