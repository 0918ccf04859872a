"""Where a mail server wants its certificate: one file or several for each kind of key, with the owner it insists on.

One combined file is the layout that a rename replaces in one step. Where a server can only read two, both are written
and rehearsed before the first is placed, and placed one right after the other; between the two renames a new process
may read a key that does not fit, which `split` tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from certagent.secret import Secret


class Files(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The files of one kind of key, by absolute path.

    One of: `combined` (key, leaf, issuers); `fullchain` (leaf, issuers) and `key`; `cert` (leaf), `chain` (issuers) and
    `key`; `pkcs12` (all of it, RFC 7292, under the password in `password_file`).
    """

    combined: str | None = None
    fullchain: str | None = None
    cert: str | None = None
    chain: str | None = None
    key: str | None = None
    pkcs12: str | None = None
    password_file: str | None = None


class Access(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """To whom the files belong. Everything that holds a key has `mode`; certificates alone get 0644."""

    owner: str | None = None
    """A user's name; None: root, or whoever certagent runs as."""
    group: str | None = None
    mode: str = "0600"
    """Octal, at most 0640: others never read a key."""
    follow_links: bool = False
    """A path may be a symlink: the file it leads to is replaced, the link stays."""


class Layout:
    """The files of one mail server. `who` names it in errors: `exim mx1`."""

    def __init__(self, who: str, files: Mapping[str, str | Files], access: Access | None = None) -> None:
        """`files` by kind of key, `ecdsa` and `rsa` (or in full, `ecdsa-p256`); a bare path is a combined file.

        Raises:
            mta.config: A path is relative or used twice, the set of files is none of those above, the mode is wider
                than 0640 or not octal.
            pem.algorithm: An unknown kind of key.
        """
        raise NotImplementedError

    def of(self, algorithm: str) -> Files:
        """The files of an algorithm. Raises: `mta.config` where none are configured, with the line to add."""
        raise NotImplementedError

    def paths(self, algorithms: Iterable[str] | None = None) -> tuple[Path, ...]:
        """Every file that is written for these algorithms (None: for all), in the order they are placed."""
        raise NotImplementedError

    @property
    def split(self) -> bool:
        """Whether some kind of key has its certificate and key in two files, which no rename replaces together."""
        raise NotImplementedError

    def check(self) -> None:
        """The directories are trusted, the users exist, and what is there may be replaced and has the right owner and
        mode.

        Raises:
            mta.files: (Misconfigured) otherwise, with the command that puts it right.
        """
        raise NotImplementedError

    def install(self, pems: Mapping[str, Secret[bytes]]) -> None:
        """Put each combined PEM in its place as the layout wants it; may be repeated after any error or crash.

        All files are written and rehearsed before the first is placed. ACLs and the SELinux context of a file that is
        replaced are kept. After it, owners and modes are looked at once more.

        Raises:
            mta.pem: (Unsafe) A file does not load, or its rehearsal fails; nothing was changed.
            mta.files: (Misconfigured) A symlink or second name, a missing directory, or one into which others may
                write, or an owner that does not exist; nothing was changed.
            mta.disk: (Transient) Disk full, read-only or failing.
        """
        raise NotImplementedError

    def installed(self) -> dict[str, bytes]:
        """The leaf (DER) of each algorithm as it is now, where its key is there too and fits; others are missing."""
        raise NotImplementedError

    def saved(self) -> dict[str, Secret[bytes]]:
        """See `Server.saved`. Raises: `mta.disk`, `mta.files`."""
        raise NotImplementedError

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """See `Server.restore`. Raises: `mta.disk`, `mta.files`."""
        raise NotImplementedError
