"""Two places for each file, and a list that names those in use.

Where each connection reads the files (see server.py), even a combined one is read twice, and a rename in between makes
the handshake fail. The list is read once: `tls_certificate = ${readfile{/etc/exim4/tls/mail.list}{}}`. So the new
files are written to the places that the list does not name; then the list is replaced, for all key types in one
step, and who has read the old one still finds the old files. They stay until the next time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from certagent.errors import Error, Misconfigured
from certagent.host import replace, trust
from certagent.host.files import read_file, remove_file
from certagent.mta import pemfile
from certagent.mta.access import Access
from certagent.mta.claims import Claim
from certagent.mta.exim import eximconf
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.mta.reference import algorithm_of
from certagent.pki.credential import Credential
from certagent.pki.keytypes import algorithm
from certagent.secret import Secret

_MODE = 0o644
"""No secret: names of files."""

_PLACES = (".1", ".2")

_READS = re.compile(r"\$\{readfile\{([^{}$]+)\}")

_LIMIT_BYTES = 1 << 14
"""Two paths, each of 4096 bytes at most, and what may be doubled in them."""


class Listed:
    """As `Layout`, for combined files; `path` is that of the list."""

    split = False

    def __init__(self, who: str, files: Mapping[str, str | Files], access: Access, path: str) -> None:
        """The files that the list names, as configured.

        Raises:
            Error: As `Layout`; `mta.config` also if a file is not a combined one, or `path` is relative.
        """
        self._path = Path(path)
        combined = {kind: one.combined if isinstance(one, Files) else one for kind, one in files.items()}
        if apart := [kind for kind, file in combined.items() if not file]:
            raise Misconfigured("mta.config", f"{who}: files.{apart[0]}: a list names combined files", "give one path")
        if not os.path.isabs(path):
            raise Misconfigured("mta.config", f"{who}: list: {path} is relative", "give its absolute path")
        self._places = tuple(
            Layout(who, {kind: f"{file}{place}" for kind, file in combined.items()}, access) for place in _PLACES
        )

    @staticmethod
    def found(expression: str, files: Sequence[str]) -> tuple[str, list[str]] | None:
        """The list that the expression reads, and what `files`, which it names, are called without their place."""
        bare = [file[:-2] for file in files if file.endswith(_PLACES)]
        for path in _READS.findall(expression) if files and len(bare) == len(files) else []:
            with suppress(Error):  # what cannot be read is none of ours
                if eximconf.items(_content(Path(path))) == list(files):
                    return path, bare
        return None

    @property
    def expression(self) -> str:
        """What leads to the files in Exim's configuration."""
        return reading(str(self._path))

    def exists(self) -> bool:
        """Whether the list is there."""
        return self._path.exists()

    def named_in(self, text: str) -> bool:
        """Whether this text of Exim's configuration reads the list."""
        return str(self._path) in text

    def of(self, key_type: str) -> Files:
        """See `Layout.of`: the file in use, or the first that will be."""
        return (self._in_use() or self._places[0]).of(key_type)

    def paths(self) -> tuple[Path, ...]:
        """See `Layout.paths`: all places, and the list."""
        return (*(path for place in self._places for path in place.paths()), self._path)

    def claims(self) -> tuple[Claim, ...]:
        """See `Server.claims`."""
        return (*(claim for place in self._places for claim in place.claims()), Claim(str(self._path)))

    def check(self) -> None:
        """See `Layout.check`."""
        for place in self._places:
            place.check()
        with pemfile.in_its_words():
            replace.replaceable(self._target())

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """See `Layout.install`; on any error nothing that is in use has changed.

        Files of another key type that the list names, and that are not certagent's, stay in it.
        """
        _, unused = self._both()
        unused.install(credentials)
        new = [unused.of(key_type).combined or "" for key_type in sorted(credentials)]
        own, kinds = {str(path) for path in self.paths()}, {algorithm(key_type) for key_type in credentials}
        with pemfile.in_its_words():
            others = [file for file in eximconf.items(_content(self._target())) if file not in own]
            kept = [file for file in others if algorithm_of(file) not in {*kinds, None}]
            replace.write(self._target(), f"{eximconf.listing([*new, *kept])}\n".encode(), mode=_MODE, keep=True)

    def installed(self) -> dict[str, bytes]:
        """See `Layout.installed`."""
        place = self._in_use()
        return place.installed() if place else {}

    def saved(self) -> dict[str, Secret[bytes]]:
        """See `Server.saved`."""
        with pemfile.in_its_words():
            content = read_file(self._target(), _LIMIT_BYTES)
        files = {path: file for place in self._places for path, file in place.saved().items()}
        return files if content is None else {**files, str(self._path): Secret(content)}

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """See `Server.restore`."""
        used, unused = self._both()
        _restore(unused, saved)
        with pemfile.in_its_words():
            if content := saved.get(str(self._path)):
                replace.write(self._target(), content.reveal(), mode=_MODE, keep=True)
            else:
                remove_file(self._target())
        _restore(used, saved)

    def _both(self) -> tuple[Layout, Layout]:
        """The place in use, and the other."""
        first, second = self._places
        return (second, first) if self._in_use() is second else (first, second)

    def _in_use(self) -> Layout | None:
        """The place that the list names; None if there is no list, or it names other files."""
        with pemfile.in_its_words():
            named = set(eximconf.items(_content(self._target())))
        return next((place for place in self._places if named & {str(path) for path in place.paths()}), None)

    def _target(self) -> Path:
        target = trust.followed(self._path.parent) / self._path.name
        trust.trusted_dir(target.parent)
        return target


def reading(path: str) -> str:
    """The expression that reads a list."""
    return f"${{readfile{{{path}}}{{}}}}"


def _content(path: Path) -> str:
    return (read_file(path, _LIMIT_BYTES) or b"").decode(errors="replace")


def _restore(place: Layout, saved: Mapping[str, Secret[bytes]]) -> None:
    place.restore({str(path): saved[str(path)] for path in place.paths() if str(path) in saved})
