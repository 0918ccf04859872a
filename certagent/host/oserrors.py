"""An OSError becomes `store.disk` (Transient: full, read-only, failing) or `store.path` (Misconfigured)."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from certagent.errors import Misconfigured, Transient

_OPERATOR_ERRORS = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Only a changed path or permission helps. Every other error of the disk may pass by itself."""


@contextmanager
def translated(path: Path, component: Path | None = None) -> Generator[None]:
    """Within, an OSError is raised as an error that names `path` and the remedy; so is a path that none can have.

    `component` is what failed on the way to the path, if not the path itself.
    """
    try:
        if b"\0" in os.fsencode(path):
            raise ValueError
    except ValueError:
        what = f"{os.fspath(path)!r} holds a character that no path can hold"
        raise Misconfigured("store.path", what, "write the path with other characters") from None
    try:
        yield
    except OSError as error:
        what = f"{path}: {error.strerror}" if component in {None, path} else f"{path}: {component}: {error.strerror}"
        if error.errno == errno.ENOENT and (component or not path.parent.exists()):
            raise Misconfigured("store.path", what, to_make(path.parent)) from error
        path = component or path
        if error.errno in _OPERATOR_ERRORS:
            raise Misconfigured("store.path", what, f"look at it: ls -ld {path.parent} {path}") from error
        if error.errno == errno.EROFS:  # far more often a sandbox than a disk
            unit = f"[Service] ReadWritePaths={path.parent} by `systemctl edit certagent`, then restart it"
            raise Transient(
                "store.disk", what, f"as a service it needs {unit}; else see the mount: findmnt -T {path.parent}"
            ) from error
        raise Transient("store.disk", what, f"look at the disk: df -h {path.parent}; df -i {path.parent}") from error


def to_make(directory: Path) -> str:
    """The hint where a directory is missing. A mail server's own user must be able to enter it; files are 0600."""
    return f"make the directory: install -d -m 755 {shlex.quote(str(directory))}"
