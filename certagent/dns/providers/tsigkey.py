"""TSIG keys in a file as BIND reads it: `key "name" { algorithm hmac-sha256; secret "base64"; };`.

Words are in quotes or not, in any case; comments are of all three kinds; other statements are passed over, but for
`include`, which is refused: nobody would have checked who may change the other file. No error
quotes a word of the file besides the names of its keys, since any word may be the secret in a wrong place.

Source: the BIND 9 Administrator Reference Manual, "Configuration File Grammar" and "key"; RFC 8945 section 6.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.name
import dns.tsig
from msgspec import Struct

from certagent.dns.message import absolute
from certagent.errors import Error, Usage
from certagent.host.files import read_private
from certagent.secret import Secret

MAX_BYTES = 64 * 1024
"""A key is 100 bytes; this is no key file."""

ALGORITHMS = ("hmac-sha256", "hmac-sha512", "hmac-sha384", "hmac-sha224", "hmac-sha1")
"""Those that RFC 8945 section 6 lets anybody use."""

_MAKE = "make a key: tsig-keygen"


class Key(Struct, frozen=True):
    """A TSIG key."""

    name: str
    algorithm: str
    secret: Secret[str]


def read(path: Path, name: str) -> Key:
    """The key of that name in a file, which only its owner can read and nobody else can change; "": the only one.

    Raises:
        Usage: `secret.file`, `secret.mode`.
    """
    try:
        text = read_private(path, MAX_BYTES).decode("utf-8", "replace")
    except Usage:
        raise
    except Error as error:
        raise Usage("secret.file", error.detail, error.hint) from None
    return _chosen(parse(text, str(path)), name, str(path))


def parse(text: str, where: str) -> tuple[Key, ...]:
    """The keys of a file's text; `where` names it in errors.

    Raises:
        Usage: `secret.file`: It is not as BIND would read it, or a key is none that can be used.
    """
    words = _Words(text, where)
    keys: list[Key] = []
    while words.more():
        match words.take().lower():
            case "key":
                keys.append(_key(words))
            case "include":
                raise words.wrong("include is not followed", "copy the key itself into this file")
            case _:
                words.skip_statement()
    return tuple(keys)


def keyring(key: Key) -> dict[dns.name.Name, dns.tsig.Key]:
    """The key as dnspython wants it."""
    name = dns.name.from_text(key.name)
    return {name: dns.tsig.Key(name, key.secret.reveal(), dns.name.from_text(key.algorithm))}


def _chosen(keys: tuple[Key, ...], name: str, where: str) -> Key:
    chosen = [key for key in keys if not name or key.name == absolute(name)]
    if len(chosen) != 1:
        found = ", ".join(key.name for key in keys) or "none"
        which = f"a key {name!r}" if name else "exactly one key, or key_name to say which"
        raise Usage("secret.file", f"{where}: {which} is needed; found: {found}", f"set key_name, or {_MAKE}")
    return chosen[0]


def _key(words: _Words) -> Key:
    name = words.take()
    if not _is_name(name):
        raise words.wrong("the name of the key is no name in DNS", _MAKE)
    words.expect("{")
    fields: dict[str, str] = {}
    while not words.at("}"):
        field = words.take().lower()
        if field == "include":
            raise words.wrong("include is not followed", "copy the key itself into this file")
        if field not in {"algorithm", "secret"} or field in fields:
            raise words.wrong("a key has one algorithm and one secret, and nothing else", _MAKE)
        fields[field] = words.take()
        words.expect(";")
    words.expect("}")
    words.expect(";")
    for field in ("algorithm", "secret"):
        if field not in fields:
            raise words.wrong(f"the key {absolute(name)} has no {field}", _MAKE)
    algorithm = fields["algorithm"].lower().removesuffix(".")
    if algorithm not in ALGORITHMS:
        raise words.wrong(f"the algorithm of the key {absolute(name)} {_why_not(algorithm)}", _MAKE)
    if not _is_base64(fields["secret"]):
        raise words.wrong(f"the secret of the key {absolute(name)} is not base64", _MAKE)
    return Key(absolute(name), algorithm, Secret(fields["secret"]))


def _why_not(algorithm: str) -> str:
    base, _, bits = algorithm.rpartition("-")
    if base in ALGORITHMS and bits.isascii() and bits.isdigit():
        return f"cuts the MAC to some of its bits, which is not supported here: use {base}"
    if algorithm in {"hmac-md5", "hmac-md5.sig-alg.reg.int"}:
        return "is HMAC-MD5, which must not be used (RFC 8945 section 6)"
    return f"is none of {', '.join(ALGORITHMS)}"


def _is_name(text: str) -> bool:
    try:
        return text.isascii() and text.isprintable() and bool(dns.name.from_text(text).labels[:-1])
    except dns.exception.DNSException:
        return False


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode("".join(text.split()), validate=True))
    except (binascii.Error, ValueError):
        return False


class _Words:
    """The words and signs of a text, one after the other, and the line of the last one."""

    def __init__(self, text: str, where: str) -> None:
        self._rest = list(_tokens(text))
        self._rest.reverse()
        self._where = where
        self._line = 1

    def more(self) -> bool:
        """Whether there are any left."""
        return bool(self._rest)

    def at(self, sign: str) -> bool:
        """Whether this one is next."""
        return bool(self._rest) and self._rest[-1][0] == sign

    def take(self) -> str:
        """A word; one in quotes without them."""
        word = self._next()
        if word[0] != '"':
            if word in "{};":
                raise self.wrong("a word is missing", _MAKE)
            return word
        if len(word) < 2 or word[-1] != '"' or "\n" in word:
            raise self.wrong("a quote has no end on its line", "close it")
        return word[1:-1]

    def expect(self, sign: str) -> None:
        """Take this one."""
        if self._next() != sign:
            raise self.wrong(f"{sign!r} is missing", _MAKE)

    def skip_statement(self) -> None:
        """Up to the semicolon that ends it, over what is in its braces."""
        depth = 0
        while (word := self._next()) != ";" or depth:
            depth += (word == "{") - (word == "}")

    def wrong(self, what: str, hint: str) -> Usage:
        """`secret.file`, with the line."""
        return Usage("secret.file", f"{self._where}:{self._line}: {what}", hint)

    def _next(self) -> str:
        if not self._rest:
            raise self.wrong("the file ends within a statement", _MAKE)
        word, self._line = self._rest.pop()
        return word


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Each word or sign with its line. A word in quotes keeps them; a comment is none."""
    at, line = 0, 1
    while at < len(text):
        char = text[at]
        if char.isspace():
            end = at + 1
        elif char == "#" or text.startswith("//", at):
            end = _after(text, "\n", at)
        elif text.startswith("/*", at):
            end = _after(text, "*/", at + 2)
        elif char == '"':
            end = _after(text, '"', at + 1)
            yield text[at:end], line
        else:
            end = at + 1
            while char not in "{};" and end < len(text) and not _ends_word(text, end):
                end += 1
            yield text[at:end], line
        line += text.count("\n", at, end)
        at = end


def _after(text: str, sign: str, start: int) -> int:
    end = text.find(sign, start)
    return len(text) if end < 0 else end + len(sign)


def _ends_word(text: str, at: int) -> bool:
    """A comment may begin right after a word that stands in no quotes."""
    char = text[at]
    return char.isspace() or char in '{};"#' or text.startswith(("//", "/*"), at)
