"""The SQLite file of the journal: opened, made, brought to the present version; and its errors in words.

A file that cannot be written (a read-only file system, a full disk) is opened for reading alone.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from certagent.errors import Misconfigured, Transient
from certagent.store import schema
from certagent.store.unwritable import in_memory

_BUSY_S = 10.0
"""Another certagent writes for milliseconds at a time; ten seconds of waiting mean that something is wrong."""
_NO_WRITING = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT})
_NOT_WRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN})

Prepare = Callable[[sqlite3.Connection], None]


def opened(path: Path, *, first: Prepare, ready: Prepare) -> sqlite3.Connection:
    """An open file of the present version, made (mode 0600) if there is none.

    `first` completes a new file, in the transaction that makes it. `ready` runs on every file that can be written.
    """
    with translated(path):
        try:
            return _writable(path, first, ready)
        except (OSError, sqlite3.OperationalError) as error:
            db = _readable(path) if _only_writing(error) else None
            if db is None:
                raise
            return db


def _only_writing(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in _NO_WRITING
    return error.sqlite_errorcode & 0xFF in _NOT_WRITABLE  # the rest of it says which call failed


def _writable(path: Path, first: Prepare, ready: Prepare) -> sqlite3.Connection:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    size = os.fstat(fd).st_size
    os.close(fd)
    with _connected(path) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        if _version(path, db, size) != schema.VERSION:
            with transaction(db):
                _migrate(path, db, _version(path, db, size), first)  # another process may have been first
        ready(db)
        return db


def _readable(path: Path) -> sqlite3.Connection | None:
    """Open for reading alone; None if it cannot be.

    SQLite wants an index beside the log, and may not be able to make it. It can do without if nobody writes the file
    (`immutable`), and so it is if there is no log. With a log it is read into memory.
    """
    log = path.with_name(path.name + "-wal")
    with suppress(OSError):
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        unwritten = not log.exists() or log.stat().st_size == 0
        for options in ("mode=ro", "mode=ro&immutable=1") if unwritten else ("mode=ro",):
            uri = f"file:{quote(str(path))}?{options}"
            with suppress(sqlite3.OperationalError), _connected(uri, uri=True) as db:
                if _version(path, db, path.stat().st_size) == schema.VERSION:
                    return db
        db = None if unwritten else in_memory(path)
        if db and _version(path, db, path.stat().st_size) == schema.VERSION:
            return db
    return None


@contextmanager
def _connected(place: Path | str, *, uri: bool = False) -> Generator[sqlite3.Connection]:
    db = sqlite3.connect(place, uri=uri, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        yield db
    except BaseException:
        db.close()  # here, not when it is collected: closing the last connection deletes the log
        raise


def _version(path: Path, db: sqlite3.Connection, size: int) -> int:
    """0: a new file, not made yet."""
    pragmas = ("application_id", "user_version", "page_size")
    application, version, page_bytes = (db.execute(f"PRAGMA {one}").fetchone()[0] for one in pragmas)
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    ours = application == schema.APPLICATION_ID or (version == 1 and not application and "lived" in tables)
    if not ours and (tables or version):
        hint = "move it away, or choose another state_dir"
        raise Misconfigured("journal.other_program", f"{path}: this is an SQLite file of another program", hint)
    if version == 0 and size not in (0, page_bytes):  # a new one is empty, or killed before its tables were there
        raise damaged(path, "its beginning is lost, or all the rest")  # SQLite would take it for a new one
    if version < 0:
        raise damaged(path, f"no journal has version {version}")
    if version > schema.VERSION:
        detail = f"{path}: written by version {version} of the journal; this certagent knows {schema.VERSION}"
        raise Misconfigured("journal.version", detail, "use the certagent that wrote it, or a newer one")
    return version


def _migrate(path: Path, db: sqlite3.Connection, version: int, first: Prepare) -> None:
    """To the present version, all of it in the transaction that is open."""
    if version == 0:
        for statement in schema.statements(schema.SCHEMA):
            db.execute(statement)
        first(db)
    for before in range(version or schema.VERSION, schema.VERSION):
        try:
            schema.MIGRATIONS[before](db)
        except (ValueError, TypeError) as error:
            raise damaged(path, str(error)) from None
    db.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={schema.VERSION}")


@contextmanager
def transaction(db: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Generator[None]:
    """All of it or nothing."""
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:  # on a full or failing disk SQLite has ended it already
            db.execute("ROLLBACK")


def damaged(path: Path, detail: str) -> Misconfigured:
    """The error `journal.damaged`."""
    hint = f"stop certagent, keep a copy of {path}*, and bring the state directory back from a backup"
    return Misconfigured("journal.damaged", f"{path}: {detail}", hint)


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Errors of SQLite and of the system become certagent's."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "decode" in str(error) or "no such" in str(error):
            raise damaged(path, str(error)) from None
        hint = "make room on the disk, or see who else holds the file"
        raise Transient("store.disk", f"{path}: {error}", hint) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise damaged(path, str(error)) from None
    except OSError as error:
        if error.errno in _NO_WRITING:
            hint = f"look at the disk: df -h {path.parent}"
            raise Transient("store.disk", f"{path}: {error.strerror}", hint) from None
        hint = "check state_dir and its permissions"
        raise Misconfigured("journal.path", f"{path}: {error.strerror}", hint) from None
