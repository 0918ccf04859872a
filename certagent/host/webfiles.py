"""Files in directories that belong to others, such as a web server's: placed and removed without following a link that
somebody else could have set.

Every directory on the way is opened from the one above it, so what others rename meanwhile changes nothing. A symlink
is followed only if nobody but root and this user could have set it: it is theirs, and so is every directory above it.
Below a directory into which others may write, there must be none.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from certagent.errors import Misconfigured
from certagent.host.oserrors import translated

_LINKS = 40
"""In one path, as the kernel has it (path_resolution(7))."""
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS = 0o022
"""Group and others may write."""


def place(top: Path, below: Sequence[str], name: str, data: bytes) -> None:
    """A file for everybody to read, durably. The directories `below` the first one are made if they are missing.

    Raises:
        Misconfigured: `store.path`: `top` is missing, or there is something on the way that is no directory, or a link
            that others could have set.
        Transient: `store.disk`: The disk is full, read-only or failing.
    """
    path = top.joinpath(*below, name)
    with translated(path), _entered(top, below, make=True) as directory:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)  # of a run that was killed: it may be half of one
        with os.fdopen(os.open(name, _NEW, 0o600, dir_fd=directory), "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.fsync(directory)


def remove(top: Path, below: Sequence[str], name: str) -> None:
    """What `place` placed, durably. Nothing happens if it is gone already, or its directory is.

    Raises:
        Error: As `place`.
    """
    path = top.joinpath(*below, name)
    with translated(path), suppress(FileNotFoundError), _entered(top, below, make=False) as directory:
        os.unlink(name, dir_fd=directory)
        os.fsync(directory)


@contextmanager
def _entered(top: Path, below: Sequence[str], *, make: bool) -> Generator[int]:
    """The last directory. `make`: those below `top`."""
    left, links = [*reversed(below), *reversed(top.parts)], 0
    with ExitStack() as close:
        here, ours, shared = -1, True, False
        while left:
            part = left.pop()
            if make and len(left) < len(below):
                _make(part, here)
            one = os.open(part, _LOOK) if here < 0 or part == "/" else os.open(part, _LOOK, dir_fd=here)
            close.callback(os.close, one)
            status = os.fstat(one)
            theirs = status.st_uid not in {0, os.geteuid()}
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if theirs or shared or not ours or links > _LINKS:
                    what = f"{part} on the way is a symlink that others could have set"
                    hint = f"name the directory that it leads to: realpath {top}"
                    raise Misconfigured("store.path", f"{top.joinpath(*below)}: {what}", hint)
                left += reversed(Path(os.readlink("", dir_fd=one)).parts)
                continue
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            here, shared = one, bool(status.st_mode & _OTHERS)
            # in a directory like /tmp nobody replaces a directory of root
            ours = ours and not theirs and (not shared or bool(status.st_mode & stat.S_ISVTX))
        directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
        close.callback(os.close, directory)
        yield directory


def _make(name: str, directory: int) -> None:
    """A directory for everybody to enter, whatever the umask is."""
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        return
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fchmod(fd, 0o755)
    finally:
        os.close(fd)
