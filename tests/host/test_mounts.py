"""A file that a container has alone: found while it is the same one, and after it was replaced."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from certagent.host import mounts, processes
from tests.lab.container import alone
from tests.lab.wait import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes mount namespaces")


@contextmanager
def container(*mounted: Path) -> Generator[int]:
    """A process that has these files, or directories, as mounts of their own."""
    with subprocess.Popen([*alone(*mounted), "sleep", "600"]) as inside:
        try:
            until(lambda: processes.name(inside.pid) == "sleep", 5, "it is set up")
            yield inside.pid
        finally:
            inside.kill()


def seen_by(pid: int, path: Path) -> str:
    return Path(f"/proc/{pid}/root", *path.parts[1:]).read_text()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a b\\c.pem"
    path.write_text("old")
    return path


def test_a_file_that_is_mounted_alone_is_found(file: Path) -> None:
    other = file.with_name("other.pem")
    other.write_text("another")
    with container(file) as pid:
        assert mounts.alone([other, file]) == [(file, f"process {pid} (sleep)")]
        new = file.with_name("new")
        new.write_text("new")
        new.rename(file)
        assert seen_by(pid, file) == "old"
        [one] = mounts.alone([file])
        assert str(one).endswith(
            f"is mounted alone for process {pid} (sleep), which keeps the old file when it is replaced"
        )
    assert mounts.alone([file]) == []


def test_a_link_to_such_a_file_is_found(file: Path) -> None:
    link = file.with_name("link.pem")
    link.symlink_to(file)
    with container(file):
        assert [one.path for one in mounts.alone([link])] == [link]


def test_a_directory_that_is_mounted_shows_what_is_replaced_in_it(file: Path) -> None:
    with container(file.parent) as pid:
        assert mounts.alone([file, file.with_name("to come.pem")]) == []
        new = file.with_name("new")
        new.write_text("new")
        new.rename(file)
        assert seen_by(pid, file) == "new"


def test_a_process_that_ends_meanwhile_is_passed_over(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "numbers", lambda: [1 << 22])
    assert mounts.alone([file]) == []
