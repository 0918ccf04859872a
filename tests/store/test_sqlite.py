"""The SQLite store beside the suite: one writer of two processes; files that are wrong, or cannot be written."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from certagent.errors import Error, Misconfigured, Transient
from certagent.host.clock import MACHINE_ID, SystemClock, host_id
from certagent.lifecycle import events as ev
from certagent.store.lock import Lock
from certagent.store.protocol import LONGEST
from certagent.store.sqlite import Sqlite
from certagent.testing.store import HandClock
from tests.store.opened import Certificates, opened

NAME = "mx1.example.org"
SUBJECT = f"certificate/{NAME}"
ROOT = Path(__file__).resolve().parents[2]
HOUR = timedelta(hours=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def journal(path: Path, clock: HandClock) -> Iterator[Certificates]:
    journal = opened(path, clock)
    yield journal
    journal.close()


def harmed(path: Path, harm: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(harm)


# ---- one writer -----------------------------------------------------------------------------------------------------

HOLDER = """
import os
import signal
import sys
from pathlib import Path
from certagent.errors import Error
from certagent.lifecycle import events as ev
from tests.store.opened import opened
journal = opened(Path(sys.argv[1]))
journal.store.lease("daemon", 0.2)
for n in range(4):
    if n == 3:
        os.kill(os.getpid(), signal.SIGSTOP)  # between two appends: inside one it would keep the file locked
    try:
        journal.append("mx1.example.org", ev.KeysMade(keys=f"k{n}", spki={}))
    except Error as error:
        sys.exit(error.code)
"""


def test_a_writer_that_was_stopped_appends_nothing_once_another_took_over(path: Path) -> None:
    """SIGSTOP, another takes the lease when its time is over, SIGCONT: the statement that appends finds it out."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], cwd=ROOT, stderr=subprocess.PIPE, text=True) as writer:
        try:
            os.waitpid(writer.pid, os.WUNTRACED)
            journal = opened(path)
            for _ in range(200):
                try:
                    journal.store.lease("renew", 60)
                    break
                except Error as error:
                    assert (error.code, "at work: daemon" in error.detail) == ("lock.busy", True)  # noqa: PT017
                    signal.sigtimedwait([], 0.02)
            before = journal.append(NAME, ev.Requested(what="renew"))
            writer.send_signal(signal.SIGCONT)
            _, complaint = writer.communicate(timeout=600)  # a slow machine; it ends by itself
        finally:
            writer.kill()
    assert (writer.returncode, complaint.strip()) == (1, "lease.lost")
    assert journal.read(NAME) == before
    assert journal.verify(NAME) == before.seq
    journal.close()


def test_who_gets_the_lock_takes_over_from_a_killed_one_at_once(path: Path) -> None:
    """The kernel has freed the lock, so nobody on this host has the lease any more; and it is given back after use."""
    killed = opened(path)
    killed.store.lease("daemon", 900)
    journal = opened(path)
    with pytest.raises(Transient, match=r"lock\.busy"):
        journal.append(NAME, ev.Requested(what="renew"))

    def taken(purpose: str) -> None:
        journal.store.lease(purpose, 900, alone=True)

    lock = Lock(path.with_name("lock"), taken=taken, left=journal.store.release)
    with lock.held(1, "renew"), lock.held(1, "renew"):
        journal.append(NAME, ev.Requested(what="renew"))
    killed.store.lease("daemon", 900)
    with pytest.raises(Transient, match=r"lock\.busy"):
        journal.append(NAME, ev.Requested(what="renew"))
    killed.close()
    journal.append(NAME, ev.Requested(what="renew"))
    journal.close()


def test_a_lock_whose_lease_is_refused_is_free_again(path: Path) -> None:
    """Another host writes: the lock of this one is not kept meanwhile."""
    left: list[str] = []

    def refused(_purpose: str) -> None:
        raise Transient("lock.busy", "another host", "wait")

    lock = path.with_name("lock")
    kept = Lock(lock, taken=refused, left=lambda: left.append("kept"))
    with pytest.raises(Transient, match="another host"), kept.held(0, "renew"):
        pass
    with Lock(lock, left=lambda: left.append("left")).held(0, "renew"):
        assert left == []
    assert left == ["left"]


def test_a_lease_that_is_damaged_keeps_nobody_away_for_long(path: Path, clock: HandClock) -> None:
    """An hour at most."""
    one = opened(path, clock)
    one.store.lease("daemon", 900)
    harmed(path, "UPDATE lease SET seconds=1e300, purpose=x'ff'")
    two = opened(path, clock)
    with pytest.raises(Transient, match=r"lock\.busy"):
        two.store.lease("renew", 60)
    clock.passes(3600)
    two.store.lease("renew", 60)
    one.close()
    two.close()


# ---- files that are wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_file_of_another_program_is_refused_untouched(path: Path, clock: HandClock, version: int) -> None:
    """Whatever version it says that it has."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE mail (id INTEGER)")
        db.execute(f"PRAGMA user_version={version}")
    before = path.read_bytes()
    with pytest.raises(Misconfigured, match=r"another program.*journal\.other_program"):
        opened(path, clock)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    assert path.read_bytes()[100:] == before[100:], "apart from the header: it has a log beside it now"


@pytest.mark.parametrize("table", ["event", "head", "clock", "lease"])
def test_a_table_that_is_missing_is_damage(path: Path, clock: HandClock, journal: Certificates, table: str) -> None:
    journal.append(NAME, ev.Requested(what="renew"))
    harmed(path, f"DROP TABLE {table}")
    with pytest.raises(Misconfigured, match=r"journal\.damaged"):
        journal.append(NAME, ev.Requested(what="renew"))


def test_a_count_that_is_missing_is_damage(path: Path, clock: HandClock, journal: Certificates) -> None:
    """Waits could begin anew, or be over."""
    harmed(path, "DELETE FROM elapsed")
    with pytest.raises(Misconfigured, match=r"elapsed time is missing.*journal\.damaged"):
        journal.now()


@pytest.mark.parametrize(
    "harm",
    [
        "wake_s='soon'",
        "wake_s=NULL",
        "wake_s=1e300",
        "wake_at=NULL",
        "wake_s=-1e300",
        "wake_at=-1e300",
        "wake_at='now', wake_s='soon'",
    ],
)
def test_a_damaged_hint_is_none(path: Path, clock: HandClock, journal: Certificates, harm: str) -> None:
    """The certificate is due, and the next turn notes another one; no certificate is forgotten for it."""
    journal.append(NAME, ev.Requested(what="renew"))
    journal.sleep(NAME, HOUR, "caches")
    assert journal.store.due() == ([], HOUR)
    harmed(path, f"UPDATE head SET {harm}")
    assert journal.store.due()[0] == [SUBJECT]
    journal.wakes()
    journal.sleep(NAME, HOUR, "caches")
    assert journal.store.due() == ([], HOUR)


@pytest.mark.parametrize("harm", ["wake_at='soon'", "wake_at=1e300", "why=x'ff'", "why=CAST(x'ff' AS TEXT)"])
def test_half_a_hint_is_enough(path: Path, clock: HandClock, journal: Certificates, harm: str) -> None:
    """The count alone says when."""
    journal.append(NAME, ev.Requested(what="renew"))
    journal.sleep(NAME, HOUR, "caches")
    harmed(path, f"UPDATE head SET {harm}")
    assert journal.store.due() == ([], HOUR)
    journal.wakes()
    clock.passes(3600)
    assert journal.store.due() == ([SUBJECT], None)


# ---- files that cannot be written -----------------------------------------------------------------------------------

UNWRITABLE = """
import sys
from pathlib import Path
from certagent.errors import Error
from certagent.lifecycle import events as ev
from tests.store.opened import opened
journal = opened(Path(sys.argv[1]))
state = journal.state("mx1.example.org")
print(len(state.keys), journal.verify("mx1.example.org"), len(journal.wakes()), journal.names())
assert journal.now().elapsed_s <= journal.now().elapsed_s
renew = ev.Requested(what="renew")
for change in (lambda: journal.append("mx1.example.org", renew), lambda: journal.store.lease("", 1)):
    try:
        change()
    except Error as error:
        print(error.code)
journal.close()
"""


def mounts(options: str, state: Path, then: str) -> subprocess.CompletedProcess[str]:
    """Runs the reader where the directory is mounted so; skips the test where nobody may mount anything."""
    script = f'set -e; {options}; exec {sys.executable} -c "$0" {state}/journal.db'
    argv = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, then]
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace here")
    return subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True)


def filled(path: Path) -> None:
    """One certificate, closed."""
    journal = opened(path)
    journal.append(NAME, ev.KeysMade(keys="k1", spki={}))
    journal.sleep(NAME, HOUR, "caches")
    journal.close()


READ = f"1 1 1 ['{NAME}']\nstore.disk\nstore.disk\n"


def test_on_a_read_only_file_system_everything_is_read(tmp_path: Path) -> None:
    """And nothing else: `store.disk`."""
    filled(tmp_path / "journal.db")
    done = mounts(f"mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}", tmp_path, UNWRITABLE)
    assert (done.stdout, done.stderr, done.returncode) == (READ, "", 0)


@pytest.mark.parametrize("ends", [("", "-wal"), ("", "-wal", "-shm")])
@pytest.mark.parametrize("torn", [False, True])
def test_what_a_killed_process_left_is_read_there_as_it_was_committed(
    tmp_path: Path, ends: tuple[str, ...], torn: bool
) -> None:
    """An older state is not told for the present one; what was begun and not committed counts for nothing."""
    journal = opened(tmp_path / "journal.db")
    journal.append(NAME, ev.KeysMade(keys="k1", spki={}))
    journal.sleep(NAME, HOUR, "caches")
    whole = (tmp_path / "journal.db-wal").stat().st_size
    journal.append(NAME, ev.KeysMade(keys="k2", spki={}))
    copy = tmp_path / "copy"
    copy.mkdir()
    for end in ends:
        content = (tmp_path / f"journal.db{end}").read_bytes()
        (copy / f"journal.db{end}").write_bytes(content[: whole + 5000] if torn and end == "-wal" else content)
    journal.close()
    read = f"1 1 1 ['{NAME}']" if torn else f"2 2 0 ['{NAME}']"
    for options in (
        f"mount --bind {copy} {copy}; mount -o remount,bind,ro {copy}",
        f"d=$(mktemp -d); cp {copy}/* $d; mount -t tmpfs -o size=1M none {copy}; cp $d/* {copy}; rm -r $d; "
        f"cat /dev/zero >{copy}/rest 2>/dev/null || true",
    ):
        done = mounts(options, copy, UNWRITABLE)
        state, *changes = done.stdout.splitlines()
        assert (state, done.stderr, done.returncode) == (read, "", 0)
        assert len(changes) == 2  # refused: the one that left it may have the lease still
        assert {*changes} <= {"store.disk", "lock.busy"}


def test_on_a_full_disk_everything_is_read(tmp_path: Path) -> None:
    """There is no room even for the index beside the log."""
    filled(tmp_path / "journal.db")
    full = tmp_path / "full"
    full.mkdir()
    fill = f"mount -t tmpfs -o size=1M none {full}; cp {tmp_path}/journal.db {full}"
    done = mounts(f"{fill}; cat /dev/zero >{full}/rest 2>/dev/null || true", full, UNWRITABLE)
    assert (done.stdout, done.stderr, done.returncode) == (READ, "", 0)


def test_a_file_system_without_a_journal_says_so(tmp_path: Path) -> None:
    """There is nothing to read, and none can be made."""
    done = mounts(f"mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}", tmp_path, UNWRITABLE)
    assert "store.disk" in done.stderr
    assert "Read-only file system" in done.stderr


def test_without_room_for_the_index_it_is_read(path: Path) -> None:
    """As on a full disk, in this process: the kernel refuses any file of that size (setrlimit(2))."""
    filled(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        journal = opened(path)
        assert journal.verify(NAME) == 1
        with pytest.raises(Transient, match=r"readonly.*store\.disk"):
            journal.append(NAME, ev.Requested(what="renew"))
        journal.close()
        path.write_bytes(b"")
        with pytest.raises(Transient, match=r"store\.disk"):
            opened(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_system_that_refuses_writing_is_asked_for_reading(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only file system, in this process."""
    filled(path)
    real = os.open

    def refused(name: Path, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(name, flags, *mode)

    monkeypatch.setattr("certagent.store.dbfile.os.open", refused)
    journal = opened(path)
    assert journal.verify(NAME) == 1
    journal.close()
    path.unlink()
    with pytest.raises(Transient, match=r"Read-only.*store\.disk"):
        opened(path)


def test_one_that_is_held_by_another_is_not_read_past_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy is not unwritable."""
    filled(path)
    monkeypatch.setattr("certagent.store.dbfile._BUSY_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Transient, match=r"locked.*store\.disk"):
            opened(path)
        other.execute("ROLLBACK")


# ---- the clock ------------------------------------------------------------------------------------------------------


def test_a_host_goes_by_its_machine_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It outlives names, and is not shown itself; a host without one goes by its name."""
    places: dict[str, Callable[[], object]] = {
        "a": lambda: (tmp_path / "a").write_text("0123456789abcdef\n"),
        "b": lambda: (tmp_path / "b").write_text(""),
        "c": lambda: None,
    }
    found: list[str] = []
    for name, make in places.items():
        make()
        monkeypatch.setattr("certagent.host.clock.MACHINE_ID", tmp_path / name)
        found.append(host_id())
    assert found[0] not in ("0123456789ab", found[1])
    assert found[1] == found[2]
    assert all(len(one) == 12 for one in found)
    monkeypatch.setattr("certagent.host.clock.MACHINE_ID", MACHINE_ID)
    assert SystemClock().reading().clock.host == host_id()


def test_a_hint_is_never_longer_than_the_longest_wait(journal: Certificates) -> None:
    journal.append(NAME, ev.Requested(what="renew"))
    journal.sleep(NAME, 10 * LONGEST, "for long")
    assert journal.store.due() == ([], LONGEST)
    assert isinstance(journal.store, Sqlite)
