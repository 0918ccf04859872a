"""What a mail server's settings name, against the files that certagent writes for it.

Each kind of server reads its settings into pairs and words the remedy. What is wrong is found here: a file that is
installed and not named, one that is named and missing, a second certificate for one algorithm, and a file of certagent
that nothing renews any more. A file that was never installed need not be named yet: with most servers one missing file
ends TLS.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from msgspec import Struct

from certagent.errors import Error
from certagent.mta import pemfile
from certagent.mta.files import Files
from certagent.pki.keys import key_type_of
from certagent.pki.keytypes import Algorithm, algorithm


class Pair(NamedTuple):
    """A certificate and its key, by the paths that settings name: twice the same if one file holds both."""

    cert: str
    key: str

    @property
    def exists(self) -> bool:
        """Both files are there."""
        return all(map(os.path.exists, self))

    @property
    def algorithm(self) -> Algorithm | None:
        """Of the certificate's key, as the file is now; None if that cannot be found out."""
        return algorithm_of(self.cert)

    def __str__(self) -> str:
        return self.cert if self.cert == self.key else f"{self.cert or 'nothing'} with the key {self.key or 'nothing'}"


def pair_of(files: Files) -> Pair:
    """The pair that a server has to name for these files; "" for what it would not find in them."""
    cert = files.combined or files.fullchain or ""
    return Pair(cert, files.combined or (files.key if cert else "") or "")


def algorithm_of(file: str) -> Algorithm | None:
    """Of the key of the first certificate in a file; None if there is none, or none that certagent could have made."""
    leaf = pemfile.leaf_der(Path(file))
    try:
        return algorithm(key_type_of(x509.load_der_x509_certificate(leaf).public_key())) if leaf else None
    except (ValueError, Error):
        return None


class Words(NamedTuple):
    """How a server's settings refer to files, and what follows from a mistake."""

    name: str
    """As after `does not`: name, list, lead to."""
    names: str
    missing: str
    """What a file that is missing does; "" adds nothing."""
    twice: str
    """What two certificates for one algorithm do."""


class Comparison(Struct, frozen=True):
    """The pairs that are wrong, and those that the settings have to name."""

    lacks: tuple[Pair, ...]
    """Installed, and not named."""
    gone: tuple[Pair, ...]
    """Named by somebody else, and missing."""
    twice: tuple[Pair, ...]
    """Somebody else's, for an algorithm of ours; or one of our files with another."""
    unused: tuple[Pair, ...]
    """Ours, and not needed any more."""
    keep: tuple[Pair, ...]

    def problems(self, words: Words) -> list[str]:
        """What is wrong, for after the name of a setting."""
        found = (
            (f"does not {words.name}", self.lacks, "which is installed"),
            (words.names, self.gone, f"which is missing{words.missing}"),
            (words.names, self.twice, words.twice),
            (words.names, self.unused, "which nothing renews"),
        )
        return [f"{verb} {shown(pairs)}, {why}" for verb, pairs, why in found if pairs]

    def only(self, pair: Pair) -> Comparison:
        """What is wrong with this one, for settings that name one pair each."""
        parts = (self.lacks, self.gone, self.twice, self.unused, self.keep)
        return Comparison(*(tuple(p for p in part if p == pair) for part in parts))


def compare(named: Sequence[Pair], needed: Mapping[str, Pair], ours: Collection[Pair], *, stale: bool) -> Comparison:
    """What is wrong at a place that names these pairs.

    `needed`: by key type, what has to be named once it is there. `ours`: every pair of the configuration. `stale`: one
    of ours that is not needed is wrong, too.
    """
    there = {key_type: pair for key_type, pair in needed.items() if pair.exists}
    taken, files = set(map(algorithm, there)), {file for pair in there.values() for file in pair}
    lacks = [pair for pair in there.values() if pair not in named]
    others = [pair for pair in named if pair not in ours]
    gone = [pair for pair in others if not pair.exists]
    twice = [pair for pair in others if pair not in gone and (pair.algorithm in taken or not files.isdisjoint(pair))]
    unused = [pair for pair in named if stale and pair in ours and pair not in needed.values()]
    keep = [pair for pair in named if pair not in {*gone, *twice, *unused}] + lacks
    return Comparison(*map(tuple, (lacks, gone, twice, unused if keep else [], keep)))


def to_come(named: Sequence[Pair], needed: Mapping[str, Pair]) -> tuple[list[Pair], list[Pair]]:
    """The pairs that are neither there nor named yet, and all that is to be named once they are."""
    new = {key_type: pair for key_type, pair in needed.items() if pair not in named and not pair.exists}
    taken = set(map(algorithm, new))
    kept = [p for p in named if p.exists and (p in needed.values() or p.algorithm not in taken)]
    return [*new.values()], [*kept, *new.values()]


def shown(pairs: Iterable[Pair]) -> str:
    """For people."""
    return ", ".join(map(str, pairs))
