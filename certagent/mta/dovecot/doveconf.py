"""What Dovecot's configuration says of TLS, in Dovecot's own reading: 2.3 and 2.4, which name the settings differently.

doveconf shows every setting as it stands in the end, and in which block (`local_name`, `local`, `remote`, `protocol`).
2.3 shows the path of a key only with -P, and passwords with it: of its output nothing is kept but the settings of
certificates, and of these nothing but paths.

Seen with 2.3.19 and 2.4.1: doveconf ends with 0, or with 89 where the configuration is refused. With -x it opens the
files too, as Dovecot does when it starts and reloads, and then one that is missing is refused; what is in them nobody
looks at before the first client comes.

Source: doveconf(1), doc.dovecot.org (SSL configuration; upgrading from 2.3 to 2.4).
"""

from __future__ import annotations

import errno
import glob
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from certagent.errors import Error, Misconfigured, Transient
from certagent.host.files import read_text
from certagent.host.programs import Result, program, run
from certagent.mta.reference import Pair

SLOTS = ("cert", "key", "alt_cert", "alt_key")
"""A certificate and its key, and those of another key type beside them."""

NO_FILE = "(a value that is no absolute path)"

_FILTERS = ("local_name", "local", "remote", "protocol")

_OLDEST = (2, 3)
_RENAMED = (2, 4)

_TIMEOUT_S = 30.0
"""For one of Dovecot's programs: 10 ms, but a busy disk is slow."""

_OUTPUT_LIMIT_BYTES = 4 << 20
"""Twenty thousand SNI blocks; what is longer comes without its end, and is not judged."""

_TELLABLE = tuple(map(os.strerror, (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)))

_DEPTH = 10
"""Of files that include files: a file that includes itself must come to an end."""


class Block(Struct, frozen=True):
    """A place in the configuration: the top level, or a block that sets certificates."""

    where: tuple[str, ...]
    """Blocks from the outermost to the innermost, as `local_name imap.example.org`; empty for the top level."""
    own: dict[str, str]
    """The paths that are set right here, by slot."""
    pairs: tuple[Pair, ...]
    """The certificates in effect here; the alternative one is the last."""

    @property
    def name(self) -> str:
        """For an error, and as `other_blocks` has it."""
        return " / ".join(self.where) or "the top level"

    @property
    def server_names(self) -> frozenset[str]:
        """The names of SNI it is for; none: for all."""
        return frozenset(n for w in self.where if w.startswith("local_name ") for n in w.split()[1:])


class Settings(Struct, frozen=True):
    """All that matters here."""

    file: str
    """The main configuration file."""
    newer: bool
    """Whether the settings have the names of 2.4."""
    ssl: str
    """`no`, `yes` or `required`."""
    blocks: tuple[Block, ...]
    """The top level first."""

    def setting(self, slot: str) -> str:
        """The name of the setting."""
        return f"ssl_server_{slot}_file" if self.newer else f"ssl_{slot}"

    def line(self, slot: str, path: str) -> str:
        """As it stands in the configuration; without a path, the setting is empty, as if it were not there."""
        return f"{self.setting(slot)} = {'<' if path and not self.newer else ''}{path}".rstrip()

    def block(self, where: tuple[str, ...]) -> Block:
        """That block; if there is none, what would hold in it."""
        found = next((block for block in self.blocks if block.where == where), None)
        return found or Block(where, {}, self.blocks[0].pairs)


class Doveconf:
    """Dovecot's programs, for one instance of it. `who` names it in errors: `dovecot imap`."""

    def __init__(self, who: str, config: str | None) -> None:
        self._who = who
        self._config = config

    def read(self) -> Settings:
        """The version, if this Dovecot is new enough.

        Raises:
            Misconfigured: `mta.config`.
        """
        version = self.run("dovecot", "--version").out
        numbers = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", version)
        if not numbers or (number := (int(numbers[1]), int(numbers[2]))) < _OLDEST:
            raise self.wrong(
                f"its version is {version.strip()[:40] or 'unknown'}; 2.3 is the oldest known", "upgrade it"
            )
        newer = number >= _RENAMED
        out = self.output("-n" if newer else "-nP")
        settings = {(where, name): value for where, name, value in parse(out)}
        return Settings(
            file=str(_file(out) or self._config),
            newer=newer,
            ssl=settings.get(((), "ssl"), "yes"),
            blocks=_blocks(settings, newer),
        )

    def file(self) -> Path:
        """The main configuration file, which may not be there.

        Raises:
            Misconfigured: `mta.config`.
        """
        out = self.run("doveconf", "-n").out
        file = _file(out)
        if file is None:
            raise self.wrong("doveconf does not say what it reads", f"run: {self.command('doveconf')} -n")
        return file

    def output(self, *arguments: str) -> str:
        """What doveconf shows.

        Raises:
            Misconfigured: `mta.config`: It refuses the configuration.
        """
        result = self.run("doveconf", *arguments)
        if result.code != 0:
            raise self.wrong(f"its configuration is refused: {said(result)}", f"run: {self.command('doveconf')} -n")
        if len(result.out) >= _OUTPUT_LIMIT_BYTES:
            hint = "divide it between two instances, each with its own config file"
            raise self.wrong("its configuration is too long to be read", hint)
        return result.out

    def refused(self) -> str | None:
        """Where the configuration has what Dovecot would not start or reload with; None: it would."""
        result = self.run("doveconf", "-x", "ssl")  # -x alone would print the keys
        return place(result) if result.code != 0 else None

    def run(self, name: str, *arguments: str) -> Result:
        """What the program printed.

        Raises:
            Misconfigured: `mta.config`: It is not installed.
            Transient: `mta.reload`: It takes too long.
        """
        argv = [program(name, "mta.config"), *self._instance(), *arguments]
        try:
            return run(argv, _TIMEOUT_S, code="mta.config", limit_bytes=_OUTPUT_LIMIT_BYTES)
        except Transient as error:  # in the words of `Server`
            raise Transient("mta.reload", error.detail, error.hint) from error

    def command(self, name: str) -> str:
        """For a hint: how to call a program for this instance."""
        return shlex.join([name, *self._instance()])

    def wrong(self, what: str, hint: str) -> Misconfigured:
        """What is wrong with this instance."""
        return Misconfigured("mta.config", f"{self._who}: {what}", hint)

    def _instance(self) -> list[str]:
        return ["-c", self._config] if self._config else []


def _file(out: str) -> Path | None:
    """The first line of doveconf: `# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf`."""
    found = re.search(r"(?m)^# \S+ \(\w+\): (/.*)$", out)
    return Path(found[1]) if found else None


def said(result: Result) -> str:
    """Why doveconf ended badly, if it opened no files: its first words of weight, which name settings."""
    lines = [line.strip() for line in (result.err or result.out).splitlines() if line.strip()]
    fatal = next((line for line in lines if "Fatal:" in line), lines[0] if lines else f"exit status {result.code}")
    return fatal.rpartition("Fatal: ")[2][:300]


def place(result: Result) -> str:
    """The same if it opened files: the line of the configuration, and an error of the system.

    Its words may hold what is in a file: 2.4 quotes the whole key where `<` was left from 2.3 (seen with 2.4.1).
    """
    words = said(result)
    found = re.match(r"Error in configuration file (/\S+ line \d+: \w+)\b", words)
    why = next((f": {error}" for error in _TELLABLE if words.endswith(error)), "")
    return f"{found[1] if found else f'exit status {result.code}'}{why}"


def parse(text: str) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Each setting of doveconf's output: the blocks it stands in, its name, its value."""
    where: list[str] = []
    for line in map(str.strip, text.splitlines()):
        name, equals, value = line.partition("=")
        if line == "}":
            where = where[:-1]
        elif line.endswith("{") and not equals:
            where.append(line[:-1].strip().replace('"', ""))
        elif equals and not line.startswith("#"):
            yield tuple(where), name.strip(), value.strip()


def conflicts(blocks: Iterable[Block]) -> list[tuple[Block, Block]]:
    """Blocks that one client can meet both, none inside the other: no order is defined.

    Seen with 2.3.19: `local_name a {` and `protocol pop3 {` with the same file, and every POP3 handshake for `a` fails
    ("Conflict in setting ssl_cert"). 2.4 takes the last one.
    """
    own = [block for block in blocks if block.where and block.own]
    return [
        (one, other)
        for index, one in enumerate(own)
        for other in own[index + 1 :]
        if one.own.keys() & other.own.keys()
        and _overlap(dict(map(_filter, one.where)), dict(map(_filter, other.where)))
    ]


def _overlap(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    inside = one.items() <= other.items() or one.items() >= other.items()
    return not inside and all(one[kind] == other[kind] for kind in one.keys() & other.keys())


def _filter(where: str) -> tuple[str, str]:
    kind, _, value = where.partition(" ")
    return kind, value


def _blocks(settings: Mapping[tuple[tuple[str, ...], str], str], newer: bool) -> tuple[Block, ...]:
    own: dict[tuple[str, ...], dict[str, str]] = {(): {}}
    for (where, name), value in settings.items():
        outer, slot = slot_of(where, name, newer)
        if slot and all(_filter(w)[0] in _FILTERS for w in outer):
            own.setdefault(outer, {})[slot] = _path(value, newer)
    return tuple(Block(where, own[where], _pairs(where, own)) for where in own)


def slot_of(where: tuple[str, ...], name: str, newer: bool) -> tuple[tuple[str, ...], str | None]:
    """The block and the slot that a setting is for. 2.4 shows `ssl_server { cert_file = … }`, and takes both forms."""
    if newer and where[-1:] == ("ssl_server",):
        where, name = where[:-1], f"ssl_server_{name}"
    match = re.fullmatch(r"ssl_server_(\w+)_file" if newer else r"ssl_(\w+)", name)
    return where, match[1] if match and match[1] in SLOTS else None


def _path(value: str, newer: bool) -> str:
    """A value of 2.3 is what a file holds, or with `<` in front the file that holds it."""
    if not newer:
        value = value[1:].strip() if value.startswith("<") else value and NO_FILE
    return os.path.normpath(value) if value.startswith("/") else value and NO_FILE  # it may be a key


def _pairs(where: tuple[str, ...], own: Mapping[tuple[str, ...], Mapping[str, str]]) -> tuple[Pair, ...]:
    """What is in effect: its own settings, over those of the blocks around it."""
    merged: dict[str, str] = {}
    for outer in sorted(own, key=len):
        if set(outer) <= set(where):
            merged |= own[outer]
    main, alternative = (Pair(merged.get(f"{a}cert", ""), merged.get(f"{a}key", "")) for a in ("", "alt_"))
    return tuple(pair for pair in (main, alternative) if any(pair))


class Line(NamedTuple):
    """A line of a configuration file that sets a certificate or a key."""

    file: Path
    number: int
    """From 1."""
    where: tuple[str, ...]
    slot: str
    path: str


def lines(settings: Settings) -> list[Line]:
    """Where the settings stand, in the order in which Dovecot reads them: doveconf does not say. What cannot be read
    is left out.
    """
    return list(_lines(Path(settings.file), settings.newer, [], 0))


def _lines(file: Path, newer: bool, where: list[str], depth: int) -> Iterator[Line]:
    try:
        texts = read_text(file).splitlines()
    except Error:
        return
    for number, text in enumerate(texts, start=1):
        line = text.strip()
        name, equals, value = line.partition("=")
        include = re.match(r"!include(?:_try)?\s+(\S.*)", line)
        if line.startswith("#"):
            continue
        if include and depth < _DEPTH:
            for found in sorted(glob.glob(os.path.join(file.parent, include[1].strip()))):
                yield from _lines(Path(found), newer, where, depth + 1)
        elif line.startswith("}"):
            del where[-1:]
        elif re.search(r"\{\s*(#.*)?$", line) and not equals:
            where.append(" ".join(line.partition("{")[0].replace('"', "").split()))
        elif equals:
            outer, slot = slot_of(tuple(where), name.strip(), newer)
            if slot:
                yield Line(file, number, outer, slot, _path(value.partition(" #")[0].strip(), newer))
