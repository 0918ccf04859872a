"""Who may change a file: its owner, those who may write to it, and those who may do so anywhere on the way to it.

What certagent runs or believes must be in the hands of root or of the user it runs as, alone. The way is walked by
descriptor, and each component is judged when it is open, so that nobody can exchange it between check and use:

- A directory or file belongs to root or that user, and neither group nor others may write to it. That covers an ACL:
  its mask, which bounds what named users and groups are granted, stands in the group bits of the mode (acl(5)).
- A symlink is a component like any other: the way to its target is walked from the directory that holds it.
- In a directory like /tmp (sticky, anybody may write) nobody can rename what belongs to another user. But anybody can
  make a hard link there, to a file or to a symlink of root. So only a directory may follow it on the way.

A path that was judged may be used again by name: only root and this user can change where it leads.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from certagent.errors import Misconfigured
from certagent.host import attributes
from certagent.host.oserrors import to_make, translated

_MAX_LINKS = 40
"""What Linux follows. Source: path_resolution(7)."""

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens nothing: a FIFO does not block, a device does nothing, a symlink stays a symlink. Source: open(2)."""

_WRITERS = 0o022
"""Group and others."""


class Untrusted(Misconfigured):
    """Somebody besides root and this user may change it."""


class End(NamedTuple):
    """What a way leads to."""

    directory: int
    """The descriptor of the directory that holds it; of itself, if it is a directory."""
    real: Path
    """Its path without symlinks."""
    status: os.stat_result | None
    """None if it does not exist."""


def followed(path: Path) -> Path:
    """The path without symlinks. Its last component need not exist.

    Raises:
        Error: As `walked`.
    """
    with walked(path) as end:
        return end.real


def trusted_dir(path: Path) -> None:
    """A directory in which nobody else can place a file, and on the way to which is no symlink.

    Raises:
        Error: As `walked`. Also `store.path` if it is missing, or is no directory.
    """
    try:
        os.lstat(path)
    except FileNotFoundError as error:
        raise Misconfigured("store.path", f"{path}: {error.strerror}", to_make(path)) from error
    except OSError:
        pass  # the walk says what is wrong
    with walked(path, links=False) as end:
        if end.status is None or not stat.S_ISDIR(end.status.st_mode):
            raise Misconfigured("store.path", f"{path} is not a directory", f"look at it: ls -ld {path}")
        _refuse_sticky(path, path, end.status)


@contextmanager
def opened(path: Path, *, private: bool = False) -> Generator[int]:
    """A regular file that nobody else may change, and if `private` nobody else may read: a descriptor to read it.

    Raises:
        Error: As `walked`. Also `store.path` if it is missing, not readable, or no regular file.
    """
    with walked(path, forbidden=0o077 if private else _WRITERS) as end:
        fd = _open(path, end)
    try:
        yield fd
    finally:
        os.close(fd)


def _open(path: Path, end: End) -> int:
    with translated(path):
        if end.status is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not stat.S_ISREG(end.status.st_mode):
            raise Misconfigured("store.path", f"{path} is not a regular file", f"look at it: ls -l {path}")
        # O_NONBLOCK: if we exchange it ourselves meanwhile, a FIFO must not wait for a writer
        return os.open(end.real.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=end.directory)


@contextmanager
def walked(path: Path, *, links: bool = True, forbidden: int = _WRITERS) -> Generator[End]:
    """Walks to `path` and judges everything on the way, and what is there. The last component need not exist.

    A file may have none of the bits `forbidden` in its mode.

    Raises:
        Untrusted: `store.path`: Somebody else may change a component. The hint is the command that repairs it.
        Misconfigured: `store.path`: A directory is missing or is none; there are too many symlinks; there is one and
            `links` is false.
        Transient: `store.disk`: It cannot be read.
    """
    with translated(path):
        end = _walk(path, links, forbidden)
    try:
        yield end
    finally:
        os.close(end.directory)


def _walk(path: Path, links: bool, forbidden: int) -> End:
    """The caller closes the descriptor."""
    left, links_left = list(reversed(path.absolute().parts)), _MAX_LINKS if links else 0
    here, real = os.open("/", _LOOK), Path("/")
    try:
        status = os.fstat(here)
        while left:
            name = left.pop()  # "/", also at the beginning of an absolute target, begins anew
            onward = real.parent if name == ".." else real / name
            try:
                one = os.open(name, _LOOK, dir_fd=here)
            except OSError as error:
                with translated(path, onward):
                    if left or not isinstance(error, FileNotFoundError):
                        raise
                _refuse_sticky(path, real, status)
                return End(here, onward, None)
            try:
                found = _judged(path, onward, one, forbidden)
                if stat.S_ISDIR(found.st_mode):
                    here, one, real, status = one, here, onward, found
                    continue
                _refuse_sticky(path, real, status)
                if not stat.S_ISLNK(found.st_mode):
                    _refuse_beyond(path, onward, left)
                    return End(here, onward, found)
                if not links_left:
                    _refuse_link(path, onward, links=links)
                links_left -= 1
                left += reversed(Path(os.readlink("", dir_fd=one)).parts)
            finally:
                os.close(one)
    except BaseException:
        os.close(here)
        raise
    return End(here, real, status)


def _judged(path: Path, component: Path, fd: int, forbidden: int) -> os.stat_result:
    """The status of an open component that nobody else may change."""
    status = os.fstat(fd)
    if status.st_uid not in {0, os.geteuid()}:
        owner = "root" if os.geteuid() == 0 else str(os.geteuid())
        _refuse(path, component, f"{component} belongs to user {_user(status.st_uid)}", f"chown -h {owner} {component}")
    if stat.S_ISLNK(status.st_mode):
        return status  # its mode means nothing, symlink(7)
    if stat.S_ISDIR(status.st_mode):
        forbidden = 0 if status.st_mode & stat.S_ISVTX else _WRITERS  # sticky: see _refuse_sticky
    if open_to := status.st_mode & forbidden:
        who = ["anybody"]
        if not open_to & stat.S_IRWXO:
            with translated(component):
                named = attributes.named(fd, open_to >> 3)
            who = [f"group {_group(status.st_gid)}", *(f"{kind} {number}" for kind, number in named)]
        what = "write into" if open_to & _WRITERS else "read"
        change = "go-w" if forbidden == _WRITERS else "600"
        _refuse(path, component, f"others may {what} {component}: {', '.join(who)}", f"chmod {change} {component}")
    return status


def _refuse_sticky(path: Path, directory: Path, status: os.stat_result) -> None:
    """Only a directory may follow one like /tmp: anybody could have made a link of that name, to something else."""
    if status.st_mode & _WRITERS:
        what = f"others may write into {directory}: anybody can place a hard link there"
        _refuse(path, directory, what, f"move {path.name} into a directory that only its owner may write to")


def _refuse_beyond(path: Path, file: Path, left: list[str]) -> None:
    if left:
        with translated(path, file):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _refuse(path: Path, component: Path, why: str, change: str) -> NoReturn:
    raise Untrusted("store.path", why if component == path else f"{path}: {why}", change)


def _refuse_link(path: Path, link: Path, *, links: bool) -> NoReturn:
    if links:
        raise Misconfigured("store.path", f"{path}: too many symlinks", f"look at it: namei {path}")
    raise Misconfigured("store.path", f"{link} is a symlink", f"name the real one in the config: realpath {path}")


def _user(number: int) -> str:
    try:
        return f"{number} ({pwd.getpwuid(number).pw_name})"
    except (KeyError, OSError):
        return str(number)


def _group(number: int) -> str:
    try:
        return f"{number} ({grp.getgrgid(number).gr_name})"
    except (KeyError, OSError):
        return str(number)
