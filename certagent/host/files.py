"""Files are read, checked and removed; a FIFO, a symlink or a giant file is an error, never a wait."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from certagent.errors import Misconfigured, Usage
from certagent.host import proc, trust
from certagent.host.oserrors import translated

LIMIT_BYTES = 1 << 20
"""Keys, tokens and chains are some kB: more is the wrong file."""


def read_file(path: Path, limit_bytes: int = LIMIT_BYTES, *, links: bool = False) -> bytes | None:
    """The content of a regular file; None if nothing has that name. Anybody may have written it: see `read_trusted`.

    Raises:
        Misconfigured: `store.path`: It is not readable, not a regular file, larger than `limit_bytes`, or a symlink
            without `links`.
        Transient: `store.disk`: It cannot be read.
    """
    with translated(path), ExitStack() as cleanup:
        try:
            # O_PATH opens nothing: a FIFO would wait for a writer, and a device would act (a watchdog ends the host)
            found = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))
        except FileNotFoundError:
            return None
        cleanup.callback(os.close, found)
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise Misconfigured("store.path", f"{path} is not a regular file", f"look at it: ls -l {path}")
        fd = os.open(proc.of_descriptor(found), os.O_RDONLY | os.O_CLOEXEC)
        cleanup.callback(os.close, fd)
        return _read(path, fd, limit_bytes)


def read_text(path: Path | str, limit_bytes: int = LIMIT_BYTES, *, errors: str = "replace") -> str:
    """The text of a file of another program, such as the configuration of a mail server; symlinks are followed.

    Others may have written it, so nothing is run because of what it says. `errors`: what becomes of bytes that are no
    UTF-8, as in `bytes.decode`; with `surrogateescape` they can be written back.

    Raises:
        Misconfigured: `store.path`: As `read_file`, and if it is missing.
        Transient: `store.disk`: It cannot be read.
    """
    content = read_file(Path(path), limit_bytes, links=True)
    if content is None:
        with translated(Path(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return content.decode("utf-8", errors)


def read_trusted(path: Path, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """The content of a regular file that only root and this user may change, see `trust`.

    Raises:
        Untrusted: `store.path`: Somebody else may change it, or something on the way to it.
        Misconfigured: `store.path`: It is missing, not readable, not a regular file, or larger than `limit_bytes`.
        Transient: `store.disk`: It cannot be read.
    """
    with trust.opened(path) as fd, translated(path):
        return _read(path, fd, limit_bytes)


def read_private(path: Path, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """The content of a secret file: as `read_trusted`, and only its owner may read it.

    Raises:
        Usage: `secret.mode`: Group or others may read it, or somebody else may change it.
        Misconfigured: `store.path`: As `read_trusted`.
        Transient: `store.disk`: As `read_trusted`.
    """
    with _usage(), trust.opened(path, private=True) as fd, translated(path):
        return _read(path, fd, limit_bytes)


@contextmanager
def scratch(parent: Path | None = None) -> Generator[Path]:
    """A directory that nobody else can enter, in `parent` or where temporary files are. At the end it is removed with
    all that is in it.

    Raises:
        Misconfigured: `store.path`.
        Transient: `store.disk`.
    """
    with ExitStack() as stack:
        import tempfile  # not at the start: `status` does without it, and loads in a moment

        with translated(parent or Path(tempfile.gettempdir())):
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="certagent-", dir=parent))
        yield Path(place)


@contextmanager
def in_memory(data: bytes) -> Generator[Path]:
    """The path of a file with this content, for this process alone; it is on no disk."""
    fd = os.memfd_create("certagent", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        yield proc.of_descriptor(fd)


def copied(path: Path, directory: Path) -> None:
    """A copy of the same name and date.

    Raises:
        Error: As `read_text`.
    """
    content = read_text(path, errors="surrogateescape").encode("utf-8", "surrogateescape")
    with translated(path):
        date = path.stat().st_mtime_ns
        (directory / path.name).write_bytes(content)
        os.utime(directory / path.name, ns=(date, date))


@contextmanager
def private_file(path: Path) -> Generator[int]:
    """A descriptor of a file to lock, which nobody else can open. It is made if it is missing, and stays.

    Raises:
        Error: As `read_private`.
    """
    with translated(path), suppress(FileExistsError):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with ExitStack() as stack:
        with _usage():
            fd = stack.enter_context(trust.opened(path, private=True))
        yield fd


def file_status(path: Path) -> os.stat_result | None:
    """The status of what has this name, also of a symlink itself; None if there is nothing.

    Raises:
        Misconfigured: `store.path`.
        Transient: `store.disk`.
    """
    with translated(path):
        try:
            return path.lstat()
        except FileNotFoundError:
            return None


def remove_file(path: Path) -> None:
    """Removes the file, durably. Nothing happens if it is not there.

    Raises:
        Misconfigured: `store.path`.
        Transient: `store.disk`.
    """
    with translated(path):
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)


def private_dir(path: Path) -> None:
    """Makes `path` a directory of mode 0700, durably. A directory that exists is left as it is.

    The directory above must exist, so that a mistyped path is an error.

    Raises:
        Misconfigured: `store.path`: As `write`; `store.path` also when others may write into it.
        Transient: `store.disk`: As `write`; `store.path` also when others may write into it.
    """
    path = trust.followed(path.parent) / path.name
    with translated(path):
        with suppress(FileExistsError):
            path.mkdir(0o700)
        _sync_directory(path.parent)  # always: the run that made it may have been killed before this line
    trust.trusted_dir(path)


@contextmanager
def _usage() -> Generator[None]:
    try:
        yield
    except trust.Untrusted as error:
        raise Usage("secret.mode", error.detail, error.hint) from None


def _read(path: Path, fd: int, limit_bytes: int) -> bytes:
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
