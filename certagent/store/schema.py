"""The tables of the journal's SQLite file, and the way to them from the version before.

A migration is one transaction: killed at any line, the file is as before. Each one is frozen with the release that
brought it, so it uses nothing that may change.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable

APPLICATION_ID = 0x63657274
"""`cert` in SQLite's header: whose file it is."""
VERSION = 2
SCHEMA = """
CREATE TABLE clock (id INTEGER PRIMARY KEY, host TEXT NOT NULL, boot TEXT NOT NULL, UNIQUE (host, boot));
CREATE TABLE event (
  subject TEXT NOT NULL, seq INTEGER NOT NULL, wall TEXT NOT NULL, elapsed_s REAL NOT NULL, clock INTEGER NOT NULL,
  body BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (subject, seq)
) WITHOUT ROWID;
CREATE TABLE head (
  subject TEXT PRIMARY KEY, seq INTEGER NOT NULL, version INTEGER NOT NULL, state BLOB NOT NULL, again BLOB NOT NULL,
  digest BLOB NOT NULL, wake_at REAL, wake_s REAL, why TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX head_wake_at ON head (wake_at);
CREATE INDEX head_wake_s ON head (wake_s);
CREATE TABLE elapsed (
  clock INTEGER PRIMARY KEY, boot_s REAL NOT NULL, elapsed_s REAL NOT NULL, digest BLOB NOT NULL
);
CREATE TABLE lease (
  one INTEGER PRIMARY KEY CHECK (one = 1), token INTEGER NOT NULL, clock INTEGER NOT NULL, boot_s REAL NOT NULL,
  seconds REAL NOT NULL, purpose TEXT NOT NULL
);
"""


def statements(script: str) -> list[str]:
    """One by one: `executescript` would end the transaction."""
    return [one for one in script.split(";") if one.strip()]


def elapsed_digest(host: str, boot: str, boot_s: float, elapsed_s: float) -> bytes:
    """The digest that belongs to a row of `elapsed`: a larger number than is true would make every wait shorter."""
    return _digest(b"", repr((host, boot, boot_s, elapsed_s)).encode())


def _digest(previous: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, key=previous, digest_size=16).digest()


def _from_1(db: sqlite3.Connection) -> None:
    """Version 1 knew certificates only, and neither host nor boot of a row. Its digests are checked on the way.

    Raises:
        ValueError: It is damaged.
        TypeError: It is damaged.
    """
    row = db.execute("SELECT boot_id, boot_s, elapsed_s, digest FROM lived").fetchone()
    if row is None or row[3] != _digest(b"", repr(row[:3]).encode()):
        raise ValueError("the elapsed time was changed")
    events = db.execute("SELECT certificate, seq, at, elapsed_s, body, digest FROM event ORDER BY certificate, seq")
    old, heads = (
        list(events),
        list(db.execute("SELECT certificate, seq, state, digest, wake_at, wake_s, why FROM head")),
    )
    for table in ("event", "head", "lived"):
        db.execute(f"DROP TABLE {table}")
    for statement in statements(SCHEMA):
        db.execute(statement)
    db.execute("INSERT INTO clock VALUES (1, '', ?)", (row[0],))  # its rows do not say more
    digest = elapsed_digest("", *row[:3])
    db.execute("INSERT INTO elapsed VALUES (1,?,?,?)", (*row[1:3], digest))
    chains: dict[str, tuple[bytes, bytes]] = {}
    for name, seq, at, elapsed_s, body, found in old:
        before, new = chains.get(name, (b"", b""))
        if found != _digest(before, f"{name}\n{seq}\n{at}\n{elapsed_s!r}\n".encode() + body):
            raise ValueError(f"{name}: event {seq} was changed, or one before it is missing")
        subject = f"certificate/{name}"
        new = _digest(new, f"{subject}\n{seq}\n{at}\n{elapsed_s!r}\n\n{row[0]}\n".encode() + body)
        db.execute("INSERT INTO event VALUES (?,?,?,?,1,?,?)", (subject, seq, at, elapsed_s, body, new))
        chains[name] = found, new
    for name, seq, state, found, *hint in heads:
        before, new = chains.pop(name, (b"", b""))
        if found != _digest(before, state):
            raise ValueError(f"{name}: the state does not belong to the last event")
        digest = _digest(new, b"0\n" + state + b"\0{}")  # of version 0: it is folded anew
        db.execute(
            "INSERT INTO head VALUES (?,?,0,?,x'7B7D',?,?,?,?)", (f"certificate/{name}", seq, state, digest, *hint)
        )
    if chains:
        raise ValueError(f"{next(iter(chains))}: there are events without a state")


MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _from_1}
"""By the version they begin at. Each leads to the next one."""
