"""The SNI map of Postfix: the lines of a certificate's names in tls_server_sni_maps, and the table made of them.

Several certificates may share the source, and the operator may have lines in it. An indexed table holds the private
keys themselves (base64), so every installation makes it anew. It is made under another name, checked, and put in place
by a rename: a postmap that fails half-way leaves no table, and then no client that asks for a name gets TLS.

Source: postconf(5) tls_server_sni_maps; postmap(1) -F; DATABASE_README "Updating Berkeley DB files safely".
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import re
import ssl
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from certagent.errors import Misconfigured, Transient
from certagent.host import replace, trust
from certagent.host.files import private_file, read_file, remove_file
from certagent.host.programs import Result
from certagent.mta import pemfile
from certagent.mta.claims import Claim
from certagent.mta.postfix.postconf import TIMEOUT_S, Instance, last_line, words
from certagent.secret import Secret

TABLES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "texthash": None}
"""The types that can be used, and what is added to the name of the source; texthash is read as it is."""

_LIMIT_BYTES = 1 << 20
"""Of a source: ten thousand names."""

_PAUSE_S = 0.05
"""Another certificate's edit takes some milliseconds."""

_COMPLETE_S = 10.0
"""The age at which Postfix takes a file as complete, not as one that an editor still writes."""


class SniMap:
    """The lines for `names` in the source `path`. Every file has mode 0600 from its birth."""

    def __init__(self, instance: Instance, kind: str, path: Path, names: Sequence[str]) -> None:
        self._instance = instance
        self._kind = kind
        self.path = path
        self._names = names
        self._table = self._table_of(path)

    def __str__(self) -> str:
        """As it stands in tls_server_sni_maps."""
        return f"{self._kind}:{self.path}"

    @property
    def ready(self) -> bool:
        """Whether what Postfix opens is there; without it, no client that asks for a name gets TLS."""
        return self._table.exists()

    def claims(self) -> tuple[Claim, ...]:
        """The entries of `names`, in the source and in the table."""
        return tuple(
            Claim(str(path), name) for path in dict.fromkeys((self.path, self._table)) for name in set(self._names)
        )

    def files(self) -> dict[str, list[str]]:
        """The chain files that the source gives now, by name.

        Raises:
            Transient: `mta.disk`.
            Misconfigured: `mta.files`.
        """
        return {key: value for key, value in entries(self._read()).items() if key in self._names}

    def leaves(self) -> dict[str, set[bytes]]:
        """The certificates (DER) that Postfix finds, by name.

        Raises:
            Misconfigured: `mta.config`.
        """
        found: dict[str, set[bytes]] = {}
        for name in self._names:
            blocks = pemfile.certificates(self._query(name, self.path).out.encode())
            found[name] = set()
            for block in blocks:
                with suppress(ValueError):
                    found[name].add(ssl.PEM_cert_to_DER_cert(block))
        return found

    def check(self) -> None:
        """Source and table may be replaced, and nobody else may do it.

        Raises:
            Transient: `mta.disk`.
            Misconfigured: `mta.files`.
        """
        with pemfile.in_its_words():
            trust.trusted_dir(trust.followed(self.path.parent))
            for path in (self.path, self._table):
                replace.replaceable(path)

    @contextmanager
    def locked(self) -> Generator[None]:
        """One editor at a time, also between threads: a file beside the map is locked, which nobody else can open.

        Raises:
            Misconfigured: `mta.files`: As `check`.
            Transient: `mta.disk`: As `check`.
            Transient: `lock.busy`: Another process edits it for too long.
        """
        end = time.monotonic() + TIMEOUT_S
        self.check()
        lock = self.path.with_name(f".{self.path.name}.lock")
        with ExitStack() as stack:
            with pemfile.in_its_words():
                fd = stack.enter_context(private_file(lock))
            while not _flock(fd):
                if time.monotonic() > end:
                    what = f"{self._instance.who}: another process edits {self.path}"
                    raise Transient("lock.busy", what, f"see which: lsof {lock}")
                time.sleep(_PAUSE_S)
            yield

    @contextmanager
    def prepared(self, files: Sequence[Path], new: Mapping[Path, Path]) -> Generator[Callable[[], None]]:
        """Source and table, with which all names serve these files; yields what places them. It must be locked.

        `new`: where the content of a file is that is not in its place yet.

        Raises:
            Misconfigured: `mta.config`: Postmap fails, or would leave out a line, also one of another certificate.
            Misconfigured: `mta.files`: As `Layout.prepared`.
            Transient: `mta.disk`: As `Layout.prepared`.
        """
        lines = {name: f"{name} {' '.join(map(str, files))}\n" for name in self._names}
        text = _edited(self._read(), lines)
        with pemfile.in_its_words():
            content = b"".join(read_file(new.get(file, file), _LIMIT_BYTES) or b"" for file in files)
        with self._ready(text, _elsewhere(text, new), _digest(content.decode("ascii", "replace"))) as place:
            yield place

    def saved(self) -> dict[str, Secret[bytes]]:
        """The source, if there is one.

        Raises:
            Transient: `mta.disk`.
            Misconfigured: `mta.files`.
        """
        with pemfile.in_its_words():
            content = read_file(self.path, _LIMIT_BYTES)
        return {} if content is None else {str(self.path): Secret(content)}

    def restore(self, content: Secret[bytes] | None) -> None:
        """Put back the lines of `names`, and make the table anew of the files that are there now.

        Lines that others changed meanwhile stay. None: there was no source, and there is none afterwards unless it
        holds lines of others.

        Raises:
            Error: As `locked` and `prepared`.
        """
        before = _text(content.reveal() if content else b"")
        with self.locked():
            now = self._read()
            none = dict.fromkeys(self._names, "")
            alone = _edited(now, none).rstrip("\n") == _edited(before, none).rstrip("\n")
            text = before if alone else _edited(now, none | _lines(before, self._names))
            if content is None and not text:
                with pemfile.in_its_words():
                    for path in {self.path, self._table}:
                        remove_file(path)
            else:
                with self._ready(text, text, None) as place:
                    place()

    # -- the source and its table --------------------------------------------------------------------------------------

    def _read(self) -> str:
        with pemfile.in_its_words():
            return _text(read_file(self.path, _LIMIT_BYTES) or b"")

    @contextmanager
    def _ready(self, text: str, now: str, expect: str | None) -> Generator[Callable[[], None]]:
        """`now`: the text, with the files where they are until they are placed. `expect`: the digest of what each own
        name must give; None: what is put back is not judged.
        """
        self._remove_left()
        try:
            with ExitStack() as stack:
                _, place_source = self._written(stack, text)
                built, _ = self._written(stack, now)
                if self._indexed:
                    self._build(built, judged=expect is not None)
                if expect is not None:
                    self._compare(built, expect)

                def place() -> None:
                    with pemfile.in_its_words():
                        place_source()  # first: it may name the files of a table that is still the old one
                        if self._indexed:
                            replace.move(self._table_of(built), self._table)

                yield place
        finally:
            self._remove_left()

    def _written(self, stack: ExitStack, text: str) -> tuple[Path, Callable[[], None]]:
        """A new source beside the old one, and what places it."""
        new: list[Path] = []
        with pemfile.in_its_words():
            data = text.encode(errors="surrogateescape")
            place = stack.enter_context(replace.prepared(self.path, data, keep=True, rehearse=new.append))
        # it is complete: without this every new smtpd waits until a texthash source is older than a second
        past = time.time() - _COMPLETE_S
        os.utime(new[0], (past, past))
        return new[0], place

    def _build(self, source: Path, *, judged: bool) -> None:
        """The table beside the new source. Its exit status is 0 also when it leaves out lines."""
        result = self._instance.run("postmap", "-F", f"{self._kind}:{source}")
        left_out = [line for line in result.err.splitlines() if "skipping this entry" in line]
        if result.code == 0 and not (judged and left_out):
            return
        why = (left_out[0] if left_out and result.code == 0 else last_line(result)).replace(source.name, self.path.name)
        what = f"{self._instance.who}: no table can be made of {self.path}: {why}"
        if os.strerror(errno.ENOSPC) in why:
            raise Transient("mta.disk", what, f"look at the disk: df -h {self.path.parent}")
        again = self._instance.command("postmap", "-F", str(self))
        raise Misconfigured("mta.config", what, f"put that right, then try: {again}; the old table is untouched")

    def _compare(self, source: Path, expect: str) -> None:
        for name in self._names:
            if _digest(self._query(name, source).out) != expect:
                raise self._instance.wrong(
                    f"{self.path}: {name} does not lead to the files installed for it",
                    f"look for another line of the name: grep -in {name} {self.path}; the old table is untouched",
                )

    def _query(self, name: str, source: Path) -> Result:
        """What Postfix would load: with the key, so that nobody may print it."""
        return self._instance.run("postmap", "-F", "-q", name, f"{self._kind}:{source}")

    @property
    def _indexed(self) -> bool:
        return TABLES[self._kind] is not None

    def _table_of(self, source: Path) -> Path:
        return source.with_name(source.name + (TABLES[self._kind] or ""))

    def _remove_left(self) -> None:
        """Tables of this run, and those of killed ones: they are full of keys."""
        new = f".{glob.escape(self.path.name)}.new-*.*"
        for pattern in (new, f"__db.{new}") if self._indexed else ():  # __db.: Berkeley DB, on a full disk
            for left in self.path.parent.glob(pattern):
                left.unlink(missing_ok=True)


def entries(text: str) -> dict[str, list[str]]:
    """The values of each key in a source. Source: postmap(1) "TABLE FILE FORMAT"."""
    found: dict[str, list[str]] = {}
    for key, line in _keyed(text):
        if key:
            value = line if line[0].isspace() else line.partition(line.split()[0])[2]
            found.setdefault(key, []).extend(words(value))
    return found


def _keyed(text: str) -> Iterator[tuple[str, str]]:
    """Each line with the key it belongs to: one that begins with a space continues the last; a comment has none."""
    key = ""
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        if not line.strip() or line.lstrip().startswith("#"):
            yield "", line
        else:
            key = key if line[0].isspace() else line.split()[0].lower()
            yield key, line


def _edited(text: str, lines: Mapping[str, str]) -> str:
    """With these lines for their keys, in the place of the old ones or at the end; all else as it is."""
    left = dict(lines)
    done = "".join(left.pop(key, "") if key in lines else line for key, line in _keyed(text))
    rest = "".join(left.values())
    return done + ("\n" if rest and done and not done.endswith("\n") else "") + rest


def _elsewhere(text: str, new: Mapping[Path, Path]) -> str:
    """With other files in the place of these, also in lines of others."""
    for path, other in new.items():
        text = re.sub(rf"(?<![^\s,]){re.escape(str(path))}(?![^\s,])", str(other).replace("\\", r"\\"), text)
    return text


def _lines(text: str, names: Iterable[str]) -> dict[str, str]:
    """The lines of each of these keys, as they stand there."""
    found: dict[str, str] = {}
    for key, line in _keyed(text):
        if key in names:
            found[key] = found.get(key, "") + line
    return found


def _text(content: bytes) -> str:
    return content.decode(errors="surrogateescape")


def _digest(pem: str) -> str:
    """Without white space: postmap adds a line end to its answer."""
    return hashlib.sha256("".join(pem.split()).encode(errors="replace")).hexdigest()


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
