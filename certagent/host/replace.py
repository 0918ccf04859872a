"""A file is replaced in one step: its name leads to the old content or to the new content, whole, after any crash.

The new content is complete and on the disk before it takes the name. Only its owner can read it at any moment, unless
a wider mode was asked for. A symlink is never followed and no half-written file is left under the name.
No OSError comes out, see `oserrors`. To replace the file behind a symlink, ask `trust.followed` for it first.

The next `write` removes what a killed run left beside the file. Files in the making are locked (flock), which tells
them from what was left. Process numbers would not: they repeat in containers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from certagent.errors import Error, Misconfigured
from certagent.host import attributes, proc
from certagent.host.oserrors import translated


def write(
    path: Path,
    data: bytes,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    keep: bool = False,
    rehearse: Callable[[Path], None] | None = None,
) -> None:
    """Gives `path` the content `data`, durably, in one step. It may be repeated after any error or crash.

    After an error the old content is untouched, with one exception: if the last sync of the directory fails, `path`
    holds the new content already, and a power failure may bring the old content back.

    `mode` is the mode of the new file, whatever the umask and the old mode are; `owner` is its user and group id.
    `keep`: the new file gets the SELinux context of the old one, and the entries and mask of its ACL for named users
    and groups. The other entries of the ACL are `mode`.
    `rehearse` is called with the complete file before it takes the name. What it raises is passed on.

    Raises:
        Transient: `store.disk`: The disk is full, read-only or failing.
        Misconfigured: `store.path`: The directory is missing or not permitted. Or `path` is a symlink, has a second
            name, is immutable or is no regular file. Or its context or ACL cannot be kept.
    """
    with prepared(path, data, mode=mode, owner=owner, keep=keep, rehearse=rehearse) as place:
        place()


@contextmanager
def prepared(
    path: Path,
    data: bytes,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    keep: bool = False,
    rehearse: Callable[[Path], None] | None = None,
) -> Generator[Callable[[], None]]:
    """The first half of `write`. It yields the second half, so that several files are ready before one is placed.

    A file that was not placed is removed at the end of the block.

    Raises:
        Error: As `write`.
    """
    with ExitStack() as cleanup:
        with translated(path):
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            cleanup.callback(os.close, directory)
            _refuse_unusual(path, directory)
            _remove_left(path.name, directory)
            fd, temporary = _create(path.name, directory)
            cleanup.callback(os.close, fd)
            cleanup.callback(_unlink, temporary, directory)
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            if keep:
                attributes.keep(path, fd, mode)
            _write_all(fd, data)
            os.fsync(fd)
        if rehearse is not None:
            rehearse(path.with_name(temporary))

        def place() -> None:
            with translated(path):
                os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)

        yield place


def create(path: Path, data: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """A new file, durably; nobody else may read it before it has its owner and its mode.

    Raises:
        FileExistsError: There is one already.
        Misconfigured: `store.path`: As `write`.
        Transient: `store.disk`: As `write`; nothing is left behind.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with ExitStack() as undo:
        try:
            with translated(path):
                fd = os.open(path, flags, 0o600)
        except Error as error:
            if isinstance(error.__cause__, FileExistsError):
                raise error.__cause__ from None
            raise
        undo.callback(path.unlink, missing_ok=True)
        with translated(path), os.fdopen(fd, "wb") as file:
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(fd)
        undo.pop_all()


def move(new: Path, path: Path, mode: int = 0o600) -> None:
    """Gives `path` a file that another program wrote beside it, durably, in one step.

    Raises:
        Error: As `write`.
    """
    with translated(path), ExitStack() as cleanup:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        cleanup.callback(os.close, directory)
        _refuse_unusual(path, directory)
        fd = os.open(new.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        cleanup.callback(os.close, fd)
        os.fchmod(fd, mode)
        os.fsync(fd)
        os.rename(new.name, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)


def replaceable(path: Path) -> None:
    """Raises what `write` would, as far as the directory and the old file show it. Changes nothing.

    Raises:
        Error: As `write`.
    """
    with translated(path), ExitStack() as cleanup:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        cleanup.callback(os.close, directory)
        if os.fstatvfs(directory).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        _refuse_unusual(path, directory)


def _refuse_unusual(path: Path, directory: int) -> None:
    """A rename would turn a symlink into a file, or part two names of one file, in silence."""
    try:
        status = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        hint = f"name the real file in the config, or remove the link: rm {path}"
        raise Misconfigured("store.path", f"{path} is a symlink", hint)
    if not stat.S_ISREG(status.st_mode):
        raise Misconfigured("store.path", f"{path} is not a regular file", f"look at it: ls -ld {path}")
    if status.st_nlink > 1:
        hint = f"remove the others: find {path.parent} -xdev -samefile {path}"
        raise Misconfigured("store.path", f"{path} has {status.st_nlink} names (hard links)", hint)
    if attributes.immutable(path.name, directory):
        raise Misconfigured("store.path", f"{path} is immutable", f"chattr -ia {path}")
    if _is_mount_point(path.name, directory):
        hint = f"mount its directory in place of the file: {path.parent}"
        raise Misconfigured("store.path", f"{path} is a mount point, which no rename replaces", hint)


def _is_mount_point(name: str, directory: int) -> bool:
    """The file is in another mount than its directory, as in a container to which one file was given."""
    file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        return _mount_of(file) != _mount_of(directory)
    finally:
        os.close(file)


_FDINFO_BYTES = 4096
"""The kernel writes less than a tenth of it for a file."""


def _mount_of(descriptor: int) -> str:
    """The number of its mount; proc_pid_fdinfo(5). "" if this host does not say."""
    with suppress(OSError):
        lines = proc.read(f"self/fdinfo/{descriptor}", _FDINFO_BYTES).decode().splitlines()
        return next((line for line in lines if line.startswith("mnt_id:")), "")
    return ""


def _create(name: str, directory: int) -> tuple[int, str]:
    """The descriptor and the name of a new, empty, locked file of mode 0600."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        temporary = f".{name}.new-{secrets.token_hex(8)}"
        fd = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink > 0:
                return fd, temporary
        except BaseException:
            _unlink(temporary, directory)
            os.close(fd)
            raise
        os.close(fd)  # another process removed it as left behind, before it was locked


def _remove_left(name: str, directory: int) -> None:
    """Removes what killed runs left, before anything is written: their bytes may be what fills the disk."""
    pattern = re.compile(rf"\.{re.escape(name)}\.new-[0-9a-f]{{16}}")
    for left in filter(pattern.fullmatch, os.listdir(directory)):
        with suppress(OSError):
            fd = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(left, dir_fd=directory)
            finally:
                os.close(fd)


def _unlink(name: str, directory: int) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=directory)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
