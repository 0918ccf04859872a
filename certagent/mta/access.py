"""The owner of a mail server's files, and who may read a key."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from pathlib import Path
from shlex import quote

from msgspec import Struct

from certagent.errors import Misconfigured
from certagent.host import attributes
from certagent.host.files import file_status

_WIDEST = 0o640

_READING = 0o477
"""What the mode of a key's file is compared in: whether its owner may read it, and all that others may."""


class Access(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The owner of the files. A file with a key in it has `mode`; one with certificates alone has 0644."""

    owner: str | None = None
    """A user's name; None: root, or the user that certagent runs as."""
    group: str | None = None
    """A group's name; None: the owner's own."""
    mode: str = "0600"
    """Octal, at most 0640: others never read a key."""
    follow_links: bool = False
    """A path may be a symlink, or lead over some: the file it leads to is replaced, the links stay. Every directory on
    the way must be one into which nobody else may write."""

    @property
    def is_narrow(self) -> bool:
        """`mode` is octal, lets the owner read, and nobody beyond the group."""
        return bool(re.fullmatch(r"0?[0-7]{3}", self.mode)) and not self.bits & ~_WIDEST and bool(self.bits & 0o400)

    @property
    def bits(self) -> int:
        """`mode` as a number."""
        return int(self.mode, 8)

    def refuse_other(self, who: str, path: Path, target: Path, owner: tuple[int, int]) -> None:
        """Refuse a key's file, `target`, that has another owner or mode. `path` as configured; `owner`: the `ids`.

        Raises:
            Misconfigured: `mta.files`: It has, with the command that changes it.
            Misconfigured: `store.path`: It cannot be read.
            Transient: `store.disk`: It cannot be read.
        """
        status = file_status(target)
        if status is None:
            return
        # With an ACL, the group's bits are its mask, and it says itself who else may read.
        compared = _READING & ~0o070 if attributes.has_acl(target) else _READING
        other_group = self.bits & 0o070 and status.st_gid != owner[1]
        if status.st_uid == owner[0] and not other_group and not (status.st_mode ^ self.bits) & compared:
            return
        is_, be = (f"{_user(uid)}:{_group(gid)}" for uid, gid in ((status.st_uid, status.st_gid), owner))
        mode = f"0{stat.S_IMODE(status.st_mode):o}"
        raise Misconfigured(
            "mta.files",
            f"{who}: {path} is of {is_} with mode {mode}, not of {be} with 0{self.bits:o} as configured",
            f"run: chown {be} {quote(str(path))} && chmod 0{self.bits:o} {quote(str(path))} "
            f"# or set owner, group and mode of {who} in the config",
        )

    def ids(self, who: str) -> tuple[int, int]:
        """The ids of user and group.

        Raises:
            Misconfigured: `mta.files`: This host does not have them.
        """
        name, group = self.owner, self.group
        try:
            user = pwd.getpwnam(name) if name else None
        except KeyError:
            hint = f"set its owner to a user of this host: getent passwd {name}"
            raise Misconfigured("mta.files", f"{who}: there is no user {name}", hint) from None
        uid, gid = (user.pw_uid, user.pw_gid) if user else (os.geteuid(), os.getegid())
        try:
            return uid, grp.getgrnam(group).gr_gid if group else gid
        except KeyError:
            hint = f"set its group to a group of this host: getent group {group}"
            raise Misconfigured("mta.files", f"{who}: there is no group {group}", hint) from None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
