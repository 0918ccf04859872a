"""Extended attributes and flags of a file: its ACL, its SELinux context, whether it is immutable."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from array import array
from pathlib import Path

from certagent.host import proc
from certagent.host.oserrors import translated

_ACL, _CONTEXT = "system.posix_acl_access", "security.selinux"
"""The extended attributes that say who may read a file. Source: acl(5), xattr(7)."""


_USER, _GROUP = 0x02, 0x08
"""ACL_USER and ACL_GROUP: the tags of entries with a name. Source: linux/posix_acl.h."""


def has_acl(path: Path) -> bool:
    """Whether it has an ACL with named users or groups. Then the group bits of its mode are the ACL's mask, acl(5).

    Raises:
        Misconfigured: `store.path`.
        Transient: `store.disk`.
    """
    with translated(path):
        return _attribute(path, _ACL) is not None


def named(fd: int, permissions: int) -> list[tuple[str, int]]:
    """The users and groups (`user`, 1000) that the ACL of an open file names, with any of these permissions (`rwx`).

    Raises:
        OSError: The kernel refuses.
    """
    acl = _attribute(proc.of_descriptor(fd), _ACL, follow=True)  # the descriptor may be one of O_PATH
    return [
        ("user" if tag == _USER else "group", number)
        for tag, granted, number in struct.iter_unpack("<HHI", (acl or b"")[4:])
        if tag in {_USER, _GROUP} and granted & permissions
    ]


def keep(old: Path, new: int, mode: int) -> None:
    """Gives the new file the context and the ACL of the old one, if it has any.

    Raises:
        OSError: The kernel refuses.
    """
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


_FLAGS_IOCTL = 0x80086601
"""FS_IOC_GETFLAGS on 64-bit x86, ARM, RISC-V and s390, ioctl_iflags(2). Elsewhere it is refused: the rename fails."""


_IMMUTABLE = 0x10 | 0x20
"""FS_IMMUTABLE_FL and FS_APPEND_FL."""


def immutable(name: str, directory: int) -> bool:
    """Whether no rename can replace it. Asked before anything is written: several files are placed together or not."""
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


def _attribute(file: Path | int, name: str, *, follow: bool = False) -> bytes | None:
    try:
        return os.getxattr(file, name) if isinstance(file, int) else os.getxattr(file, name, follow_symlinks=follow)
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.ENOTSUP, errno.ENOENT}:
            return None
        raise


def _acl_with_mode(acl: bytes, mode: int) -> bytes:
    """The ACL, with the entries of owner, owning group and others as `mode` says.

    Source: linux/posix_acl_xattr.h (little endian: a version of 32 bits, and per entry a tag and permissions of 16 bits
    and an id of 32 bits); linux/posix_acl.h (the tags).
    """
    shifts = {0x01: 6, 0x04: 3, 0x20: 0}  # ACL_USER_OBJ, ACL_GROUP_OBJ, ACL_OTHER
    entries = [
        struct.pack("<HHI", tag, mode >> shifts[tag] & 7 if tag in shifts else permissions, who)
        for tag, permissions, who in struct.iter_unpack("<HHI", acl[4:])
    ]
    return acl[:4] + b"".join(entries)
