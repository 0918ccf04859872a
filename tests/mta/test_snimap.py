"""The source of an SNI map as text: what belongs to a name, and what is left alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from certagent.errors import Misconfigured, Transient
from certagent.mta.postfix import snimap
from certagent.mta.postfix.postconf import Instance
from certagent.mta.postfix.snimap import SniMap, entries


class NoPostmap(SniMap):
    """A map whose table is never made: only its text is read."""

    def _build(self, source: Path, *, judged: bool) -> None:
        (source.with_name(source.name + ".db")).touch()


def restored(path: Path, before: bytes, now: bytes) -> bytes:
    """What the map of two names puts back."""
    path.write_bytes(before)
    mine = NoPostmap(Instance("postfix", None), "hash", path, ["a.example", ".b.example"])
    [saved] = mine.saved().values()
    path.write_bytes(now)
    mine.restore(saved)
    return path.read_bytes()


def test_a_key_has_the_values_of_its_line_and_of_those_that_continue_it() -> None:
    text = "# x /0\nA.example /1, /2\n\n  # not a value\n\t/3\n b.example\n.b.example /4"
    assert entries(text) == {"a.example": ["/1", "/2", "/3", "b.example"], ".b.example": ["/4"]}


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"# only a comment",
        b"a.example /1\n",
        b"x /2\na.example /1\n\t/3\n# y\n .b.example /1\n.b.example /9\nz /1",
    ],
)
def test_what_nobody_else_changed_is_put_back_byte_for_byte(tmp_path: Path, before: bytes) -> None:
    now = before + (b"" if before.endswith(b"\n") else b"\n") + b"a.example /new\n.b.example /new\n"
    if b"a.example" in before:
        now = before.replace(b"a.example /1", b"a.example /new").replace(b"/9", b"/new")
    assert restored(tmp_path / "sni", before, now) == before


def test_what_others_changed_meanwhile_stays(tmp_path: Path) -> None:
    before = b"a.example /old\nother /1\n\xff\n"
    now = b"# new\na.example /new\n.b.example /new\nother /2\n\xff\n"
    assert restored(tmp_path / "sni", before, now) == b"# new\na.example /old\nother /2\n\xff\n"


def test_a_directory_into_which_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    map_ = SniMap(Instance("postfix", None), "texthash", tmp_path / "open" / "sni", ["a.example"])
    for call in (map_.check, map_.locked().__enter__):
        with pytest.raises(Misconfigured, match=r"\[mta\.files\]"):
            call()


@pytest.mark.parametrize("name", ["sni", "sni.db"])
def test_a_source_or_a_table_that_no_rename_may_replace_is_refused(tmp_path: Path, name: str) -> None:
    map_ = SniMap(Instance("postfix", None), "hash", tmp_path / "sni", ["a.example"])
    map_.check()
    (tmp_path / name).symlink_to("elsewhere")
    with pytest.raises(Misconfigured, match=rf"{name} is a symlink \[mta\.files\]"):
        map_.check()


def test_every_indexed_type_has_one_file() -> None:
    assert {kind for kind, suffix in snimap.TABLES.items() if suffix is None} == {"texthash"}


def test_nobody_else_can_hold_up_its_editors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can open a file can lock it (flock(2)): so what is locked can be opened by root alone."""
    path, lock = tmp_path / "sni", tmp_path / ".sni.lock"
    monkeypatch.setattr(snimap, "TIMEOUT_S", 0.1)
    directory = os.open(tmp_path, os.O_RDONLY)  # as any user can
    fcntl.flock(directory, fcntl.LOCK_EX)
    assert restored(path, b"a.example /1\n", b"a.example /2\n") == b"a.example /1\n"
    os.close(directory)
    assert lock.stat().st_mode & 0o777 == 0o600
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Transient, match=r"another process edits .*\[lock\.busy\]") as caught:
            restored(path, b"a.example /1\n", b"a.example /2\n")
    assert caught.value.hint == f"see which: lsof {lock}"
    lock.chmod(0o644)
    with pytest.raises(Misconfigured, match=r"others may read .*\[mta\.files\]"):
        restored(path, b"a.example /1\n", b"a.example /2\n")
