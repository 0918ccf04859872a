"""The files that a mail server uses now: whether certagent may go on with them, and where new ones are to be.

Files that somebody else reads too are never taken over: a swap for one reader would go around the gates of the other.
Nor are links of another program, or files that `Layout` would refuse at the first run.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from certagent.errors import Error
from certagent.host import trust
from certagent.host.files import read_file
from certagent.mta import pemfile
from certagent.mta.access import Access
from certagent.mta.claims import Identity, identity
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.mta.reference import Pair

_ELSEWHERE = "/etc/certagent/tls"
"""Where new files go if others may write into the server's own directory."""

_KEY_LIMIT_BYTES = 1 << 20
"""A key file has a few KiB, a long chain included."""


def kept(pairs: Sequence[Pair], access: Access, shared: Collection[Identity]) -> dict[str, Any] | None:
    """The files of these pairs by key type, as they stand in a configuration; None if certagent cannot go on with them.

    `shared`: the files that somebody else reads, too.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        kind = pair.algorithm
        if kind is None or kind in found or not shared_by_none(pair, shared) or not _has_key(pair.key):
            return None
        found[kind] = pair.cert if pair.cert == pair.key else {"fullchain": pair.cert, "key": pair.key}
    try:
        files = {kind: one if isinstance(one, str) else Files(**one) for kind, one in found.items()}
        Layout("files", files, access).check()
    except Error:
        return None
    return found or None


def shared_by_none(paths: Iterable[str], shared: Collection[Identity]) -> bool:
    """Whether none of these files is read by somebody else."""
    return not any(identity(path) in shared for path in paths)


def directory(preferred: str, server: str) -> str:
    """Where new files of a server go: where it is usual, unless others may write there or on the way to it."""
    there = Path(preferred)
    while not os.path.lexists(there):
        there = there.parent
    try:
        trust.trusted_dir(there)
    except Error:
        return f"{_ELSEWHERE}/{server}"
    return preferred


def _has_key(path: str) -> bool:
    try:
        return pemfile.first_key(read_file(Path(path), _KEY_LIMIT_BYTES) or b"") is not None
    except Error:
        return False
