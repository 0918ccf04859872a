"""Files are read, checked and removed; what is no ordinary file is an error, never a wait."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from certagent.errors import Misconfigured
from certagent.host.files import file_status, private_dir, read_file, read_private, remove_file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with content."""
    path = tmp_path / "chain.pem"
    path.write_bytes(b"old")
    path.chmod(0o600)
    return path


class TestReadAndRemove:
    def test_what_is_there_is_read_and_what_is_not_is_none(self, path: Path) -> None:
        path.chmod(0o644)
        assert read_file(path) == b"old"
        remove_file(path)
        remove_file(path)
        assert (read_file(path), file_status(path)) == (None, None)

    def test_what_is_no_file_a_symlink_or_too_large_is_refused(self, path: Path) -> None:
        os.mkfifo(path.with_name("fifo"))
        path.with_name("link").symlink_to(path)
        for one, limit in ((path.with_name("fifo"), 9), (path.with_name("link"), 9), (path, 2)):
            with pytest.raises(Misconfigured, match=r"store\.path"):
                read_file(one, limit)

    def test_a_directory_is_not_removed(self, path: Path) -> None:
        with pytest.raises(Misconfigured, match=r"store\.path"):
            remove_file(path.parent)


class TestPrivateDir:
    def test_is_made_for_its_owner_only_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            private_dir(tmp_path / "state")
        finally:
            os.umask(before)
        assert mode(tmp_path / "state") == 0o700

    def test_one_that_exists_is_left_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "state").mkdir(mode=0o755)
        (tmp_path / "state").chmod(0o755)
        private_dir(tmp_path / "state")
        assert mode(tmp_path / "state") == 0o755

    def test_one_that_others_may_write_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "state").mkdir()
        (tmp_path / "state").chmod(0o770)
        with pytest.raises(Misconfigured, match="others may write") as caught:
            private_dir(tmp_path / "state")
        assert caught.value.hint == f"chmod go-w {tmp_path / 'state'}"

    def test_a_symlink_a_file_and_a_missing_parent_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir(mode=0o700)
        (tmp_path / "link").symlink_to(tmp_path / "real")
        (tmp_path / "file").touch()
        for name in ("link", "file", "none/state"):
            with pytest.raises(Misconfigured, match=r"store\.path"):
                private_dir(tmp_path / name)


class TestReadPrivate:
    def test_gives_the_content(self, path: Path) -> None:
        assert read_private(path) == b"old"

    @pytest.mark.parametrize("wide", [0o640, 0o604, 0o620, 0o601])
    def test_a_file_that_others_may_access_is_refused_with_the_remedy(self, path: Path, wide: int) -> None:
        path.chmod(wide)
        with pytest.raises(Misconfigured, match=r"secret\.mode") as caught:
            read_private(path)
        assert caught.value.hint == f"chmod 600 {path}"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_a_file_of_somebody_else_is_refused(self, path: Path) -> None:
        os.chown(path, 12345, -1)
        with pytest.raises(Misconfigured, match=r"secret\.mode"):
            read_private(path)

    def test_a_symlink_of_ours_is_followed(self, path: Path) -> None:
        path.with_name("link").symlink_to(path)
        assert read_private(path.with_name("link")) == b"old"

    def test_a_fifo_and_a_missing_file_are_refused(self, path: Path) -> None:
        os.mkfifo(path.with_name("fifo"), 0o600)
        for name in ("fifo", "none"):
            with pytest.raises(Misconfigured, match=r"store\.path"):
                read_private(path.with_name(name))

    def test_the_size_is_limited(self, path: Path) -> None:
        assert read_private(path, limit_bytes=3) == b"old"
        with pytest.raises(Misconfigured, match="larger than 2 bytes"):
            read_private(path, limit_bytes=2)
