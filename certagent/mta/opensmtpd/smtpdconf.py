"""OpenSMTPD's smtpd.conf, as far as certificates go: its `pki` entries and its listeners.

The daemon has no command that prints it. Whether the file is sound is for `smtpd -n` to say; what is not understood
here is passed over. Source: smtpd.conf(5) of 6.8 and 7.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from certagent.host.files import read_text
from certagent.mta.ports import port_of

_WORD = re.compile(r'"((?:\\.|[^"\\])*+)\\?(?:"|$)|#.*|([=,{}<>!()]|[^\s"#=,{}<>!()]+)')
"""A quote that is not closed goes to the end of the line, so that nothing is read twice."""

Mode = Literal["smtp", "tls"]

_WITH_VALUE = frozenset({"port", "pki", "hostname", "tag", "filter", "ca"})
"""Options of `listen on` that take one word."""

_MODES: dict[str, Mode] = {"tls": "smtp", "tls-require": "smtp", "smtps": "tls"}


class Pki(Struct, frozen=True):
    """A `pki` entry; a file that is not set is ""."""

    name: str
    cert: str = ""
    key: str = ""


class Listener(Struct, frozen=True):
    """A `listen on`, but for the one on a Unix socket."""

    on: str
    """An address, a host name, or an interface."""
    port: int
    mode: Mode | None
    """How TLS begins; None: it is not offered."""
    pkis: tuple[str, ...]
    hostname: str
    proxy: bool = False
    """It waits for the PROXY protocol first."""


class Conf(Struct, frozen=True):
    """What the file says, included files with it."""

    pkis: tuple[Pki, ...]
    listeners: tuple[Listener, ...]


def read(path: Path) -> Conf:
    """Reads it, with the files it includes.

    Raises:
        Misconfigured: `store.path`: One cannot be read.
        Transient: `store.disk`: One cannot be read.
    """
    pkis: dict[str, Pki] = {}
    listeners: list[Listener] = []
    for words in _statements(path, {}, set()):
        match words:
            case ["pki", name, ("cert" | "key") as what, file, *_]:
                name = name.lower()  # as the daemon does
                old = pkis.get(name) or Pki(name)
                pkis[name] = Pki(name, file, old.key) if what == "cert" else Pki(name, old.cert, file)
            case ["listen", "on", on, *options] if on != "socket":
                listeners.append(_listener(on, options))
            case _:
                pass
    return Conf(tuple(pkis.values()), tuple(listeners))


def _statements(path: Path, macros: dict[str, str], seen: set[Path]) -> Iterator[list[str]]:
    """The words of each line, macros expanded; a backslash at its end goes on with the next."""
    if path in seen:
        return
    seen.add(path)
    for line in re.sub(r"\\\n", " ", read_text(path)).splitlines():
        words = [
            _value(match, macros) for match in _WORD.finditer(line) if match[1] is not None or match[2] is not None
        ]
        match words:
            case [name, "=", value]:
                macros[name] = value
            case ["include", other] if "\0" not in other:
                yield from _statements(Path(other), macros, seen)
            case _:
                yield words


def _value(match: re.Match[str], macros: dict[str, str]) -> str:
    """What a quoted or a bare word means."""
    if match[1] is not None:
        return re.sub(r"\\(.)", r"\1", match[1])
    return macros.get(match[2][1:], match[2]) if match[2].startswith("$") else match[2]


def _listener(on: str, options: list[str]) -> Listener:
    mode: Mode | None = None
    proxy = False
    values: list[tuple[str, str]] = []
    words = iter(options)
    for word in words:
        if word in _WITH_VALUE:
            values.append((word, next(words, "")))
        elif word in _MODES:
            mode = _MODES[word]
        proxy = proxy or word == "proxy-v2"
    given = dict(values)
    pkis = tuple(value.lower() for name, value in values if name == "pki")
    port = port_of(given["port"]) or 0 if "port" in given else 465 if mode == "tls" else 25
    return Listener(on, port, mode, pkis, given.get("hostname", ""), proxy)
