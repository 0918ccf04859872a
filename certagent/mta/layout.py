"""The files of a mail server, written: one or several for each key type, with the owner that the server insists on.

One combined file is the layout that a rename replaces in one step. If a server can only read two, both are written and
rehearsed before the first is placed, and placed one right after the other. Between the two renames a new process may
read a key that does not fit; `split` says whether there are such files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from operator import setitem
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from certagent.errors import Error, Misconfigured, Transient
from certagent.host import privileges, replace, trust
from certagent.host.files import read_file, read_private, remove_file
from certagent.mta import pemfile, pkcs12
from certagent.mta.access import Access
from certagent.mta.claims import Claim
from certagent.mta.files import CERTIFICATES, SETS, Files
from certagent.pki import keys
from certagent.pki.credential import Credential
from certagent.pki.keytypes import algorithm
from certagent.secret import Secret

_LIMIT_BYTES = 1 << 20
"""Of a file that is read: a key with its chain is some kB, a bundle twice that; more is the wrong file."""

_CERTIFICATE_MODE = 0o644


class New(NamedTuple):
    """Files that are ready to be placed."""

    files: Mapping[Path, Path]
    """By the path that each is to have: where it is now."""
    place: Callable[[], None]
    """Places all of them or none. After it, owners and modes are checked once more: `mta.files`, `mta.disk`."""


class Layout:
    """The files of one mail server. `who` names it in errors: `exim mx1`."""

    def __init__(self, who: str, files: Mapping[str, str | Files], access: Access | None = None) -> None:
        """`files` by key type, `ecdsa` and `rsa` (or in full, `ecdsa-p256`); a bare path is a combined file.

        Raises:
            Misconfigured: `mta.config`: A path is relative or used twice, the set of files is none of those above, the
                mode is wider than 0640 or not octal.
            Misconfigured: `pem.key_type`: An unknown key type.
        """
        self._who = who
        self._files = {kind: Files(combined=f) if isinstance(f, str) else f for kind, f in files.items()}
        self._access = access or Access()
        used: dict[str, str] = {}
        for kind, one in self._files.items():
            if kind not in {"ecdsa", "rsa"}:
                algorithm(kind)
            named = one.named
            if set(named) not in SETS:
                raise self._wrong(
                    f"files.{kind} has {' and '.join(named) or 'no file'}",
                    "it is one of: combined; fullchain and key; cert, chain and key; pkcs12 and password_file",
                )
            for role, path in named.items():
                twice = used.get(os.path.normpath(path), "")
                if not os.path.isabs(path) or (twice and not twice == role == "password_file"):
                    raise self._wrong(f"files.{kind}: {path} is relative or used twice", "give each its absolute path")
                used[os.path.normpath(path)] = role
        if not self._access.is_narrow:
            hint = 'in quotes, "0600", or "0640" to let the group read the key'
            raise self._wrong(f"mode is {self._access.mode[:20]}", hint)

    def of(self, key_type: str) -> Files:
        """The files of a key type.

        Raises:
            Misconfigured: `mta.config`: None are configured, with the line to add.
        """
        found = self._files.get(key_type) or self._files.get(algorithm(key_type))
        if found is None:
            raise self._wrong(f"no file for {key_type}", f"add to its files:  {algorithm(key_type)}: /…/chain.pem")
        return found

    def paths(self, key_types: Iterable[str] | None = None) -> tuple[Path, ...]:
        """Every file that is written for these key types (None: for all), in the order they are placed."""
        return tuple(path for one in self._chosen(key_types) for path in one.placed.values())

    @property
    def kinds(self) -> tuple[str, ...]:
        """The algorithms that there are files for."""
        return tuple(kind if kind in {"ecdsa", "rsa"} else algorithm(kind) for kind in self._files)

    @property
    def split(self) -> bool:
        """Whether some key type has its certificate and key in two files, which no rename replaces together."""
        return any(one.key for one in self._files.values())

    def claims(self) -> tuple[Claim, ...]:
        """See `Server.claims`."""
        follow = self._access.follow_links
        return tuple(Claim(str(path) if follow else os.path.normpath(path)) for path in self.paths())

    def check(self) -> None:
        """The directories are trusted, the users exist, and what is there may be replaced and has the right owner and
        mode.

        A key's file with another owner or mode than configured is refused, not put right in passing: who could read it
        until now may be the very server that must.

        Raises:
            Misconfigured: `mta.files`: Otherwise, with the command that puts it right.
        """
        if self._access.ids(self._who) != (os.geteuid(), os.getegid()):
            privileges.check(self._who, privileges.OWNERS, "its files are not root's")
        with pemfile.in_its_words():
            chosen = self._chosen(None)
            self._checked(chosen)
            for one in chosen:
                if one.pkcs12:
                    self._password(one)

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """Put the credential of each key type in its files; may be repeated after any error or crash.

        Raises:
            Error: As `prepared`, and what it yields.
        """
        with self.prepared(credentials) as new:
            new.place()

    @contextmanager
    def prepared(self, credentials: Mapping[str, Credential]) -> Generator[New]:
        """The credential of each key type in files beside their places, written and rehearsed.

        ACLs and the SELinux context of a file that is to be replaced are kept. A file is placed anew even when it has
        the content already (a crash may have left it not yet durable); a PKCS#12 file keeps its bytes then.

        Raises:
            Unsafe: `mta.pem`: A file does not load, or its rehearsal fails; nothing was changed.
            Misconfigured: `mta.files`: What `check` refuses; nothing was changed.
            Transient: `mta.disk`: Disk full, read-only or failing; nothing was changed.
        """
        chosen = {key_type: self.of(key_type) for key_type in credentials}
        with ExitStack() as stack:
            new: dict[Path, Path] = {}
            places: list[Callable[[], None]] = []
            with pemfile.in_its_words():
                targets = self._checked(chosen.values())
                for key_type, one in chosen.items():
                    contents = self._contents(one, credentials[key_type], targets)
                    temporaries, ready = self._prepared(stack, one, contents, targets)
                    self._rehearse(one, temporaries, credentials[key_type])
                    new |= {path: temporaries[role] for role, path in one.placed.items()}
                    places += ready

            def place() -> None:
                with self.together(), pemfile.in_its_words():
                    for one in places:
                        one()
                    self._checked(chosen.values())

            yield New(new, place)

    @contextmanager
    def together(self) -> Generator[None]:
        """Within, files are placed together: if one cannot be, the others get their old content back."""
        before = self.saved()
        try:
            yield
        except Transient:
            with suppress(Error):  # a disk that fails may refuse that, too; the next run begins anew
                self.restore(before)
            raise

    def installed(self) -> dict[str, bytes]:
        """The leaf (DER) of each algorithm as it is now, where its key is there too and fits; others are missing."""
        found: dict[str, bytes] = {}
        for kind, one in self._files.items():
            leaf = self._leaf(one)
            key_type = leaf and _key_type(leaf)
            if leaf and key_type and kind in {key_type, algorithm(key_type)}:
                found[key_type] = leaf
        return found

    def saved(self) -> dict[str, Secret[bytes]]:
        """See `Server.saved`.

        Raises:
            Transient: `mta.disk`.
            Misconfigured: `mta.files`.
        """
        with pemfile.in_its_words():
            contents = {str(p): read_file(t, _LIMIT_BYTES) for p, t in self._targets(self._chosen(None)).items()}
        return {path: Secret(content) for path, content in contents.items() if content is not None}

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """See `Server.restore`. All files are written before the first is placed.

        Raises:
            Transient: `mta.disk`.
            Misconfigured: `mta.files`.
        """
        if strange := sorted(saved.keys() - {str(path) for path in self.paths()}):
            hint = "the config was changed since: put the paths back as they were"
            raise Misconfigured("mta.files", f"{self._who}: {strange[0]} is none of its files", hint)
        with pemfile.in_its_words(), ExitStack() as stack:
            targets = self._targets(self._chosen(None))
            places: list[Callable[[], None]] = []
            for one in self._chosen(None):
                there = {role: str(path) for role, path in one.placed.items() if str(path) in saved}
                contents = {role: saved[path].reveal() for role, path in there.items()}
                places += self._prepared(stack, one, contents, targets)[1]
            for place in places:
                place()
            for path, target in targets.items():
                if str(path) not in saved:
                    remove_file(target)

    # -- what is there -------------------------------------------------------------------------------------------------

    def _chosen(self, key_types: Iterable[str] | None) -> list[Files]:
        return list(self._files.values()) if key_types is None else [self.of(key_type) for key_type in key_types]

    def _targets(self, chosen: Iterable[Files]) -> dict[Path, Path]:
        """The file that a rename is to replace, for each path; in directories that nobody else may write."""
        targets: dict[Path, Path] = {}
        for path in (path for one in chosen for path in one.placed.values()):
            if self._access.follow_links:
                target = trust.followed(path)
            else:
                target = Path(os.path.normpath(path))
                trust.trusted_dir(target.parent)
            if target in targets.values():
                hint = "give each its own file"
                raise Misconfigured("mta.files", f"{self._who}: {path} and another path lead to {target}", hint)
            targets[path] = target
        return targets

    def _checked(self, chosen: Iterable[Files]) -> dict[Path, Path]:
        """`_targets`; refuses one that cannot be replaced, or a key's that is not of the config's owner and mode."""
        chosen = list(chosen)
        owner, targets = self._access.ids(self._who), self._targets(chosen)
        for one in chosen:
            for role, path in one.placed.items():
                replace.replaceable(targets[path])
                if role not in CERTIFICATES:
                    self._access.refuse_other(self._who, path, targets[path], owner)
        return targets

    def _password(self, one: Files) -> Secret[bytes]:
        password = read_private(Path(one.password_file or "")).rstrip(b"\r\n")
        if not password or "\ufffd" in password.decode(errors="replace"):
            hint = "write one line of UTF-8 into it"
            raise Misconfigured("mta.files", f"{one.password_file} has no password that PKCS#12 could use", hint)
        return Secret(password)

    def _leaf(self, one: Files) -> bytes | None:
        """Its leaf, where the key fits."""
        content: dict[str, bytes] = {}
        try:
            for role, path in one.placed.items():
                real = Path(os.path.realpath(path)) if self._access.follow_links else path
                found = read_file(real, _LIMIT_BYTES)
                if found is None:
                    return None
                content[role] = found
            if one.pkcs12:
                return pkcs12.leaf_der(content["pkcs12"], self._password(one))
        except Error:
            return None
        leaf = pemfile.first_certificate(list(content.values())[-1])
        key = pemfile.first_key(content["key" if one.key else "combined"])
        return leaf if leaf and key and _fits(leaf, key) else None

    # -- what is to be there -------------------------------------------------------------------------------------------

    def _contents(self, one: Files, credential: Credential, targets: Mapping[Path, Path]) -> dict[str, bytes]:
        if one.combined:
            return {"combined": credential.combined.reveal()}
        if one.fullchain:
            return {"key": credential.key.reveal(), "fullchain": credential.fullchain}
        if one.cert:
            return {"chain": credential.issuers, "key": credential.key.reveal(), "cert": credential.leaf}
        old = read_file(targets[one.main], _LIMIT_BYTES)
        password = self._password(one)
        try:
            return {"pkcs12": pkcs12.make(credential, password, one.pkcs12_cipher, old).reveal()}
        except (ValueError, Misconfigured):  # their words may quote what was read
            raise pemfile.broken(one.main, "no PKCS#12 can be made of it") from None

    def _prepared(
        self, stack: ExitStack, one: Files, contents: Mapping[str, bytes], targets: Mapping[Path, Path]
    ) -> tuple[dict[str, Path], list[Callable[[], None]]]:
        """Writes the files beside their places: the new ones' paths, and what places them."""
        temporaries: dict[str, Path] = {}
        places = [
            stack.enter_context(
                replace.prepared(
                    targets[path],
                    contents[role],
                    mode=_CERTIFICATE_MODE if role in CERTIFICATES else self._access.bits,
                    owner=self._access.ids(self._who),
                    keep=True,
                    rehearse=partial(setitem, temporaries, role),
                )
            )
            for role, path in one.placed.items()
            if role in contents
        ]
        return temporaries, places

    def _rehearse(self, one: Files, new: Mapping[str, Path], credential: Credential) -> None:
        shown = one.main
        if one.combined:
            pemfile.rehearse(new["combined"], shown=shown)
        elif one.fullchain:
            pemfile.rehearse(new["fullchain"], key=new["key"], shown=shown)
        elif one.cert:
            pemfile.rehearse_parts(new["cert"], new["chain"], new["key"], shown=shown)
        elif not pkcs12.holds(read_file(new["pkcs12"], _LIMIT_BYTES) or b"", credential, self._password(one)):
            raise pemfile.broken(shown, "the PKCS#12 does not hold what was put into it")

    def _wrong(self, what: str, hint: str) -> Misconfigured:
        return Misconfigured("mta.config", f"{self._who}: {what}", hint)


def _fits(leaf: bytes, key: Secret[bytes]) -> bool:
    try:
        return x509.load_der_x509_certificate(leaf).public_key() == keys.load(key).public_key()
    except (ValueError, UnsupportedAlgorithm, Misconfigured):
        return False


def _key_type(leaf: bytes) -> str | None:
    try:
        return keys.key_type_of(x509.load_der_x509_certificate(leaf).public_key())
    except (ValueError, UnsupportedAlgorithm, Misconfigured):
        return None
