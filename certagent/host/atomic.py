"""Files that hold the old content or the new one, whole, whatever happens in between.

The new content is complete and on the disk before it takes the name; nobody but its owner can read it at any moment,
unless a wider mode was asked for. Never follows a symlink, never leaves a half-written file under the name, and never
lets an OSError out: `store.disk` (Transient: full, read-only or failing) or `store.path` (Misconfigured: permission,
missing directory, symlink). Who wants the file behind a symlink to be replaced asks `followed` for it first.

What a killed run left beside the file is removed by the next `write`. Files in the making are locked (flock), so that
they are told from left ones without trusting process numbers, which repeat in containers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import struct
from array import array
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from certagent.errors import Misconfigured, Transient, Usage

_OPERATOR_ERRORS = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Nothing but a changed path or permission helps; every other error of the disk may pass by itself."""

_SECRET_LIMIT_BYTES = 1 << 20
"""Keys, tokens and chains are some kB: more is the wrong file."""

_ACL, _CONTEXT = "system.posix_acl_access", "security.selinux"
"""Extended attributes that say who may read a file. Source: acl(5), xattr(7)."""

_MAX_LINKS = 40
"""What Linux follows. Source: path_resolution(7)."""


def write(
    path: Path,
    data: bytes,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    keep: bool = False,
    rehearse: Callable[[Path], None] | None = None,
) -> None:
    """Gives `path` the content `data`, durably, in one step; may be repeated after any error or crash.

    After an error the old content is untouched, with one exception: when the very last sync of the directory fails,
    `path` holds the new content already, and a power failure may bring the old one back.

    `mode` is that of the new file, whatever the umask and the old file's mode are; `owner` its user and group id.
    `keep`: what the operator gave the old file beyond that goes over to the new one: its SELinux context, and the
    entries and mask of its ACL for named users and groups (its other entries are `mode`).
    `rehearse` is called with the complete file before it takes the name; whatever it raises is passed on.

    Raises:
        store.disk: Disk full, read-only or failing; the old content is untouched.
        store.path: The directory is missing or not permitted; `path` is a symlink, has a second name, is immutable or
            no file; its context or ACL cannot be kept.
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
    """The first half of `write`; what it yields is the second half.

    So several files can be prepared before any is placed. One that was not placed is removed at the end of the block.
    """
    with ExitStack() as cleanup:
        with _told(path):
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
                _keep(path, fd, mode)
            _write_all(fd, data)
            os.fsync(fd)
        if rehearse is not None:
            rehearse(path.with_name(temporary))

        def place() -> None:
            with _told(path):
                os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)

        yield place


def replaceable(path: Path) -> None:
    """Changes nothing; raises what `write` would, as far as it can be told from the directory and what is there.

    Raises:
        store.disk, store.path: As `write`.
    """
    with _told(path), ExitStack() as cleanup:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        cleanup.callback(os.close, directory)
        if os.fstatvfs(directory).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        _refuse_unusual(path, directory)


def followed(path: Path) -> Path:
    """The file that `path` leads to by any symlinks in it, which need not exist.

    Every directory in which a name is looked up must be trusted: who may write there could lead us to any file.

    Raises:
        store.disk, store.path: As `trusted_dir`; `store.path` also for too many links.
    """
    found = path
    for _ in range(_MAX_LINKS + 1):
        with _told(path):
            link = next((p for p in (*reversed(found.parents), found) if p.is_symlink()), None)
            onward = link.readlink() if link else None
        if link is None or onward is None:
            found = Path(os.path.normpath(found))  # `..` is what it seems, where no link is left
            trusted_dir(found.parent)
            return found
        trusted_dir(link.parent)
        found = link.parent / onward / found.relative_to(link)
    raise Misconfigured("store.path", f"{path}: too many symlinks", f"look at it: namei {path}")


def has_acl(path: Path) -> bool:
    """Whether it has an ACL with named users or groups: then the group bits of its mode are the ACL's mask, acl(5).

    Raises: `store.path`, `store.disk`.
    """
    with _told(path):
        return _attribute(path, _ACL) is not None


def private_dir(path: Path) -> None:
    """Makes `path` a directory of mode 0700, durably; one that exists is left as it is.

    The directory above must exist: a mistyped state directory is told, not created empty.

    Raises:
        store.disk, store.path: As `write`; `store.path` also when others may write into it.
    """
    with _told(path):
        with suppress(FileExistsError):
            path.mkdir(0o700)
        _sync_directory(path.parent)  # even if it existed: the run that made it may have been killed before this line
    trusted_dir(Path(os.path.realpath(path.parent), path.name))


def trusted_dir(path: Path) -> None:
    """Refuses a directory where somebody else could replace our files, or which somebody else could replace.

    Raises:
        store.path: It is missing; it or one above it is a symlink, belongs to somebody else, or may be written by group
            or others (one above it may be like /tmp, where nobody can rename what is another's).
    """
    for directory in (*reversed(path.parents), path):
        with _told(directory):
            status = directory.lstat()
        if stat.S_ISLNK(status.st_mode):
            hint = f"name the real one in the config: realpath {path}"
            raise Misconfigured("store.path", f"{directory} is a symlink", hint)
        if not stat.S_ISDIR(status.st_mode):
            raise Misconfigured("store.path", f"{directory} is not a directory", f"look at it: ls -ld {directory}")
        _refuse_stranger(directory, status, "store.path")
        sticky = status.st_mode & stat.S_ISVTX and directory != path
        if status.st_mode & 0o022 and not sticky:
            raise Misconfigured("store.path", f"others may write into {directory}", f"chmod go-w {directory}")


def read(path: Path, limit_bytes: int = _SECRET_LIMIT_BYTES) -> bytes | None:
    """The content of a regular file; None where there is none of that name.

    Raises:
        store.path: It is not readable, a symlink, not a regular file, or larger than `limit_bytes`.
        store.disk: It cannot be read.
    """
    if status(path) is None:
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


def status(path: Path) -> os.stat_result | None:
    """Of what has this name itself, also of a symlink; None where there is nothing.

    Raises: `store.path`, `store.disk`.
    """
    with _told(path):
        try:
            return path.lstat()
        except FileNotFoundError:
            return None


def remove(path: Path) -> None:
    """Removes the file, durably; one that is not there is removed already.

    Raises: `store.path`, `store.disk`.
    """
    with _told(path):
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)


def _read(path: Path, limit_bytes: int, judge: Callable[[os.stat_result], None]) -> bytes:
    with _told(path), ExitStack() as cleanup:
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


@contextmanager
def _told(path: Path) -> Generator[None]:
    """Turns an OSError into an error that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        what = f"{path}: {error.strerror}"
        if error.errno in _OPERATOR_ERRORS:
            raise Misconfigured("store.path", what, f"look at it: ls -ld {path.parent} {path}") from error
        if error.errno == errno.EROFS:  # far more often a sandbox than a disk
            unit = f"[Service] ReadWritePaths={path.parent} by `systemctl edit certagent`, then restart it"
            raise Transient(
                "store.disk", what, f"as a service it needs {unit}; else see the mount: findmnt -T {path.parent}"
            ) from error
        raise Transient("store.disk", what, f"look at the disk: df -h {path.parent}; df -i {path.parent}") from error


def _refuse_stranger(path: Path, status: os.stat_result, code: str) -> None:
    if status.st_uid not in {0, os.geteuid()}:
        raise Misconfigured(code, f"{path} belongs to user {status.st_uid}", f"chown {os.geteuid()} {path}")


def _refuse_unusual(path: Path, directory: int) -> None:
    """A rename would silently turn a symlink into a file, or part two names of one file."""
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
    if _immutable(path.name, directory):
        raise Misconfigured("store.path", f"{path} is immutable", f"chattr -ia {path}")


_FLAGS_IOCTL = 0x80086601
"""FS_IOC_GETFLAGS on 64-bit x86, ARM, RISC-V and s390; others refuse it, and only the rename tells. ioctl_iflags(2)."""

_IMMUTABLE = 0x10 | 0x20
"""FS_IMMUTABLE_FL, FS_APPEND_FL: no rename replaces such a file."""


def _immutable(name: str, directory: int) -> bool:
    """Told before anything is written: of several files none is to be placed where one cannot be."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        return False  # not ours to read, but a rename may replace it
    flags = array("l", [0])
    try:
        fcntl.ioctl(fd, _FLAGS_IOCTL, flags)
    except OSError:  # a file system without such flags
        return False
    finally:
        os.close(fd)
    return bool(flags[0] & _IMMUTABLE)


def _keep(old: Path, new: int, mode: int) -> None:
    """Gives the new file the context and the ACL of the old one; nothing where there is none."""
    if not os.path.lexists(old):
        return
    context = _attribute(old, _CONTEXT)
    if context is not None and context != _attribute(new, _CONTEXT):
        os.setxattr(new, _CONTEXT, context)
    if (acl := _attribute(old, _ACL)) is not None:
        os.setxattr(new, _ACL, _acl_with_mode(acl, mode))
    elif _attribute(new, _ACL) is not None:  # the directory's default, which the old file did not have
        os.removexattr(new, _ACL)
        os.fchmod(new, mode)


def _attribute(file: Path | int, name: str) -> bytes | None:
    try:
        return os.getxattr(file, name) if isinstance(file, int) else os.getxattr(file, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.ENOTSUP, errno.ENOENT}:
            return None
        raise


def _acl_with_mode(acl: bytes, mode: int) -> bytes:
    """The ACL, with the entries of owner, owning group and others as `mode` says.

    Source: linux/posix_acl_xattr.h: little endian, a version (32 bits), then the tag, permissions (16 bits each) and id
    (32) of each entry; linux/posix_acl.h: the tags.
    """
    shifts = {0x01: 6, 0x04: 3, 0x20: 0}  # ACL_USER_OBJ, ACL_GROUP_OBJ, ACL_OTHER
    entries = [
        struct.pack("<HHI", tag, mode >> shifts[tag] & 7 if tag in shifts else permissions, who)
        for tag, permissions, who in struct.iter_unpack("<HHI", acl[4:])
    ]
    return acl[:4] + b"".join(entries)


def _create(name: str, directory: int) -> tuple[int, str]:
    """A new, empty, locked file of mode 0600 and its name."""
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
        os.close(fd)  # another process took it for a left one, before it was locked


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


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
