"""A file holds the old content or the new content, whole, and nobody else can read it at any moment."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certagent.errors import Misconfigured, Transient, Unsafe
from certagent.host import attributes, replace


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if ".new-" in path.name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with content."""
    path = tmp_path / "chain.pem"
    path.write_bytes(b"old")
    path.chmod(0o600)
    return path


class TestWrite:
    @given(data=st.binary(max_size=1 << 17), old=st.none() | st.binary(max_size=9))
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_gives_the_file_exactly_this_content(self, tmp_path: Path, data: bytes, old: bytes | None) -> None:
        path = tmp_path / "file"
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)
        replace.write(path, data)
        assert (path.read_bytes(), mode(path), left(tmp_path)) == (data, 0o600, [])

    @pytest.mark.parametrize("wanted", [0o400, 0o600, 0o640, 0o644])
    def test_the_mode_is_the_one_asked_for_whatever_the_umask_and_the_old_mode(self, path: Path, wanted: int) -> None:
        path.chmod(0o666)
        before = os.umask(0o077)
        try:
            replace.write(path, b"new", mode=wanted)
        finally:
            os.umask(before)
        assert mode(path) == wanted

    def test_nobody_else_can_read_it_from_its_first_byte_on(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[int] = []
        real = os.write

        def spy(fd: int, data: bytes) -> int:
            seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
            return real(fd, data)

        before = os.umask(0)
        try:
            monkeypatch.setattr(os, "write", spy)
            replace.write(path, b"new")
        finally:
            os.umask(before)
        assert seen == [0o600]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_the_owner_is_the_one_asked_for(self, path: Path) -> None:
        replace.write(path, b"new", owner=(12345, 54321))
        status = path.stat()
        assert (status.st_uid, status.st_gid, mode(path)) == (12345, 54321, 0o600)

    def test_the_rehearsal_sees_the_complete_file_while_the_old_one_is_in_place(self, path: Path) -> None:
        seen: list[tuple[bytes, int, bytes]] = []
        replace.write(path, b"new", rehearse=lambda new: seen.append((new.read_bytes(), mode(new), path.read_bytes())))
        assert seen == [(b"new", 0o600, b"old")]
        assert path.read_bytes() == b"new"

    def test_a_failed_rehearsal_changes_nothing(self, path: Path) -> None:
        def rehearse(_: Path) -> None:
            raise Unsafe("mta.pem", "no")

        with pytest.raises(Unsafe):
            replace.write(path, b"new", rehearse=rehearse)
        assert (path.read_bytes(), left(path.parent)) == (b"old", [])

    def test_a_symlink_is_refused(self, path: Path) -> None:
        link = path.with_name("link")
        link.symlink_to(path)
        with pytest.raises(Misconfigured, match=r"symlink .*store\.path"):
            replace.write(link, b"new")
        assert (path.read_bytes(), link.is_symlink()) == (b"old", True)

    def test_a_file_with_a_second_name_is_refused(self, path: Path) -> None:
        os.link(path, path.with_name("second"))
        with pytest.raises(Misconfigured, match=r"2 names .*store\.path"):
            replace.write(path, b"new")

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "directory").mkdir()
        for name in ("fifo", "directory"):
            with pytest.raises(Misconfigured, match="not a regular file"):
                replace.write(tmp_path / name, b"new")

    def test_a_missing_directory_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match=r"No such file.*store\.path") as caught:
            replace.write(tmp_path / "none" / "file", b"new")
        assert caught.value.hint == f"make the directory: install -d -m 755 {tmp_path / 'none'}"

    @pytest.mark.parametrize("step", ["open", "fchmod", "write", "fsync", "rename"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
    def test_a_failing_disk_leaves_the_old_file(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
    ) -> None:
        real = getattr(os, step)

        def fail(*args: object, **kwargs: object) -> object:
            if step == "open" and ".new-" not in str(args[0]):
                return real(*args, **kwargs)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, step, fail)
        with pytest.raises(Transient, match=r"store\.disk") as caught:
            replace.write(path, b"new")
        monkeypatch.undo()
        assert str(path) in caught.value.detail
        assert (path.read_bytes(), left(path.parent)) == (b"old", [])

    def test_short_writes_are_continued(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.write

        def short(fd: int, data: bytes) -> int:
            return real(fd, data[:3])

        monkeypatch.setattr(os, "write", short)
        replace.write(path, b"0123456789")
        assert path.read_bytes() == b"0123456789"


class TestKilledRuns:
    SCRIPT = """
import os, signal, sys
from pathlib import Path
from certagent.host import replace
replace.write(Path(sys.argv[1]), b"new", rehearse=lambda _: os.kill(os.getpid(), signal.SIGKILL))
"""

    def test_what_a_killed_run_left_is_removed_by_the_next_write(self, path: Path) -> None:
        root = Path(replace.__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", self.SCRIPT, path], cwd=root, check=False)
        assert done.returncode == -signal.SIGKILL
        assert path.read_bytes() == b"old"
        assert len(left(path.parent)) == 1
        replace.write(path, b"newer")
        assert (path.read_bytes(), left(path.parent)) == (b"newer", [])

    def test_a_file_that_another_process_is_writing_is_left_alone(self, path: Path) -> None:
        other = path.with_name(f".{path.name}.new-0123456789abcdef")
        with other.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            replace.write(path, b"new")
            assert other.exists()
        replace.write(path, b"new")
        assert not other.exists()

    def test_files_of_others_are_left_alone(self, path: Path) -> None:
        names = [
            ".other.pem.new-0123456789abcdef",
            "chain.pem.new-0123456789abcdef",
            ".chain.pem.new-01",
            ".chain.pem~",
        ]
        for name in names:
            path.with_name(name).write_bytes(b"")
        replace.write(path, b"new")
        assert all(path.with_name(name).exists() for name in names)


def test_several_files_can_be_prepared_before_one_is_placed(path: Path) -> None:
    with replace.prepared(path, b"new") as place:
        assert path.read_bytes() == b"old"
        place()
        assert path.read_bytes() == b"new"
    with replace.prepared(path, b"never"):
        pass
    assert (path.read_bytes(), left(path.parent)) == (b"new", [])


def set_acl(*arguments: str | Path) -> None:
    done = subprocess.run(["setfacl", *arguments], check=False, capture_output=True)
    if b"not supported" in done.stderr:
        pytest.skip("this file system has no ACLs")
    done.check_returncode()


def acl(path: Path) -> str:
    return subprocess.run(["getfacl", "-cpn", path], capture_output=True, check=True, text=True).stdout


class TestKept:
    """What the operator gave a file beyond owner and mode goes over to the one that replaces it, where asked for."""

    def test_named_users_and_the_mask_of_the_acl(self, path: Path) -> None:
        set_acl("-m", "u:12345:r,g:23456:rw,m::r", path)
        before = acl(path)
        replace.write(path, b"new", keep=True)
        assert (path.read_bytes(), acl(path), attributes.has_acl(path)) == (b"new", before, True)

    def test_the_entries_of_owner_group_and_others_are_those_of_the_mode(self, path: Path) -> None:
        set_acl("-m", "u:12345:r,g::rw,o::rw", path)
        replace.write(path, b"new", keep=True, mode=0o640)
        assert acl(path).split() == ["user::rw-", "user:12345:r--", "group::r--", "mask::rw-", "other::---"]

    def test_an_acl_is_lost_where_it_was_not_asked_for(self, path: Path) -> None:
        set_acl("-m", "u:12345:r", path)
        replace.write(path, b"new")
        assert (mode(path), attributes.has_acl(path)) == (0o600, False)

    def test_the_default_of_the_directory_does_not_replace_the_old_files_access(self, path: Path) -> None:
        set_acl("-d", "-m", "u:12345:rw", path.parent)
        replace.write(path, b"new", keep=True, mode=0o640)
        assert (mode(path), attributes.has_acl(path)) == (0o640, False)

    def test_a_new_file_has_nothing_to_keep(self, path: Path) -> None:
        path.unlink()
        replace.write(path, b"new", keep=True)
        assert mode(path) == 0o600

    def test_nobody_else_can_read_the_new_one_before_the_acl_is_there(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_acl("-m", "u:12345:r", path)
        seen: list[str] = []

        def spy(fd: int, data: bytes) -> int:
            seen.append(acl(Path(os.readlink(f"/proc/self/fd/{fd}"))))
            return real(fd, data)

        real, before = os.write, acl(path)
        monkeypatch.setattr(os, "write", spy)
        replace.write(path, b"new", keep=True)
        assert seen[-1] == before

    @pytest.mark.parametrize(("number", "kind"), [(errno.EPERM, Misconfigured), (errno.ENOSPC, Transient)])
    def test_an_acl_that_cannot_be_kept_leaves_the_old_file(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
    ) -> None:
        set_acl("-m", "u:12345:r", path)

        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "setxattr", fail)
        with pytest.raises(kind, match=os.strerror(number)):
            replace.write(path, b"new", keep=True)
        assert (path.read_bytes(), left(path.parent)) == (b"old", [])

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root sets contexts")
    def test_the_selinux_context(self, path: Path) -> None:
        context = b"system_u:object_r:cert_t:s0\0"
        try:
            os.setxattr(path, "security.selinux", context)
        except OSError as error:
            pytest.skip(f"no contexts here: {error}")
        replace.write(path, b"new", keep=True)
        assert os.getxattr(path, "security.selinux") == context


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files immutable")
@pytest.mark.parametrize("flag", ["i", "a"])
def test_an_immutable_file_is_refused_before_anything_is_written(path: Path, flag: str) -> None:
    if subprocess.run(["chattr", f"+{flag}", path], check=False, capture_output=True).returncode != 0:
        pytest.skip("this file system has no such flag")
    try:
        for change in (lambda: replace.write(path, b"new"), lambda: replace.replaceable(path)):
            with pytest.raises(Misconfigured, match=r"is immutable \[store\.path\]") as caught:
                change()
        assert path.read_bytes() == b"old"
    finally:
        subprocess.run(["chattr", f"-{flag}", path], check=True)
    assert caught.value.hint == f"chattr -ia {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_file_that_is_a_mount_point_is_refused_before_anything_is_written(path: Path) -> None:
    """As in a container to which the one file was given: the rename would fail for ever (EBUSY)."""
    if subprocess.run(["mount", "--bind", path, path], check=False, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        for change in (lambda: replace.write(path, b"new"), lambda: replace.replaceable(path)):
            with pytest.raises(Misconfigured, match=r"is a mount point, .* \[store\.path\]") as caught:
                change()
        assert path.read_bytes() == b"old"
    finally:
        subprocess.run(["umount", path], check=True)
    assert str(path.parent) in caught.value.hint
    replace.write(path, b"new")


def test_a_read_only_mount_is_reported_before_anything_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a service's sandbox: with the setting that its unit lacks."""

    def read_only(_: int) -> SimpleNamespace:
        return SimpleNamespace(f_flag=os.ST_RDONLY)

    monkeypatch.setattr(os, "fstatvfs", read_only)
    with pytest.raises(Transient, match=r"chain\.pem: Read-only file system \[store\.disk\]") as caught:
        replace.replaceable(path)
    assert f"[Service] ReadWritePaths={path.parent} " in caught.value.hint


def test_a_file_that_is_not_ours_to_read_is_replaced_all_the_same() -> None:
    """Who may write into the directory may replace what is in it."""
    with tempfile.TemporaryDirectory() as directory:  # one that others may enter, unlike pytest's
        path = Path(directory) / "chain.pem"
        path.write_bytes(b"old")
        path.chmod(0)
        path.parent.chmod(0o777)
        before = os.geteuid()
        os.seteuid(65534 if before == 0 else before)  # root may read whatever it likes
        try:
            with pytest.raises(PermissionError):
                path.read_bytes()
            replace.replaceable(path)
            replace.write(path, b"new")
            assert path.read_bytes() == b"new"
        finally:
            os.seteuid(before)


def test_a_file_system_without_flags_has_no_immutable_files() -> None:
    """/proc is one."""
    replace.replaceable(Path("/proc/self/status"))


def test_attributes_that_cannot_be_read_are_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To take them for none would lose somebody's access."""

    def fail(*_: object, **__: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "getxattr", fail)
    with pytest.raises(Transient, match=r"Input/output error.*store\.disk"):
        replace.write(path, b"new", keep=True)
    with pytest.raises(Transient, match=r"store\.disk"):
        attributes.has_acl(path)
    assert (path.read_bytes(), left(path.parent)) == (b"old", [])


class TestLocked:
    """Between its making and its lock another process may take a new file for one that a killed run left."""

    def test_a_file_that_was_removed_before_it_was_locked_is_made_anew(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, taken = fcntl.flock, [0]

        def slow(fd: int, operation: int) -> None:
            if operation == fcntl.LOCK_EX and taken[0] < 2:
                taken[0] += 1
                monkeypatch.setattr(fcntl, "flock", real)
                for name in left(path.parent):  # as the other process does
                    path.with_name(name).unlink()
                monkeypatch.setattr(fcntl, "flock", slow)
            real(fd, operation)

        monkeypatch.setattr(fcntl, "flock", slow)
        open_before = len(os.listdir("/proc/self/fd"))
        replace.write(path, b"new")
        assert (path.read_bytes(), left(path.parent), taken) == (b"new", [], [2])
        assert len(os.listdir("/proc/self/fd")) == open_before

    def test_nothing_is_left_where_it_cannot_be_locked(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", fail)
        open_before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(Transient, match=r"No locks available.*store\.disk"):
            replace.write(path, b"new")
        assert (path.read_bytes(), left(path.parent)) == (b"old", [])
        assert len(os.listdir("/proc/self/fd")) == open_before
