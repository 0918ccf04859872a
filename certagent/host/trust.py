"""Who may change a file or a directory, on the whole way to it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from certagent.errors import Misconfigured
from certagent.host.oserrors import translated

_MAX_LINKS = 40
"""What Linux follows. Source: path_resolution(7)."""


def followed(path: Path) -> Path:
    """The file that `path` leads to by any symlinks in it, which need not exist.

    Every directory in which a name is looked up must be trusted: who may write there could lead us to any file.

    Raises:
        store.disk, store.path: As `trusted_dir`; `store.path` also for too many links.
    """
    found = path
    for _ in range(_MAX_LINKS + 1):
        with translated(path):
            link = next((p for p in (*reversed(found.parents), found) if p.is_symlink()), None)
            onward = link.readlink() if link else None
        if link is None or onward is None:
            found = Path(os.path.normpath(found))  # `..` is what it seems, where no link is left
            trusted_dir(found.parent)
            return found
        trusted_dir(link.parent)
        found = link.parent / onward / found.relative_to(link)
    raise Misconfigured("store.path", f"{path}: too many symlinks", f"look at it: namei {path}")


def trusted_dir(path: Path) -> None:
    """Refuses a directory where somebody else could replace our files, or which somebody else could replace.

    Raises:
        store.path: It is missing; it or one above it is a symlink, belongs to somebody else, or may be written by group
            or others (one above it may be like /tmp, where nobody can rename what is another's).
    """
    for directory in (*reversed(path.parents), path):
        with translated(directory):
            status = directory.lstat()
        if stat.S_ISLNK(status.st_mode):
            hint = f"name the real one in the config: realpath {path}"
            raise Misconfigured("store.path", f"{directory} is a symlink", hint)
        if not stat.S_ISDIR(status.st_mode):
            raise Misconfigured("store.path", f"{directory} is not a directory", f"look at it: ls -ld {directory}")
        _refuse_stranger(directory, status)
        sticky = status.st_mode & stat.S_ISVTX and directory != path
        if status.st_mode & 0o022 and not sticky:
            raise Misconfigured("store.path", f"others may write into {directory}", f"chmod go-w {directory}")


def _refuse_stranger(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in {0, os.geteuid()}:
        raise Misconfigured("store.path", f"{path} belongs to user {status.st_uid}", f"chown {os.geteuid()} {path}")
