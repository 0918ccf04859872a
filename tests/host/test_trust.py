"""Who may change a file, on the whole way to it."""

from __future__ import annotations

import os
import subprocess
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from certagent.errors import Error, Misconfigured, Usage
from certagent.host import trust
from certagent.host.files import read_private, read_trusted

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away and becomes another user")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with content, in two directories that only this user may change."""
    (tmp_path / "etc").mkdir(mode=0o755)
    path = tmp_path / "etc" / "file"
    path.write_bytes(b"content")
    path.chmod(0o600)
    return path


def refused(path: Path, component: Path, why: str, hint: str) -> None:
    """By its code; the error says who could change what, the hint what repairs it, and repaired it is read."""
    for read in (read_trusted, trust.followed):
        with pytest.raises(trust.Untrusted) as caught:
            read(path)
        assert caught.value.code == "store.path"
        assert why in caught.value.detail
        assert str(component) in caught.value.detail
        assert caught.value.hint == hint
    subprocess.run(hint.split(), check=True)
    assert read_trusted(path) == b"content"


class TestFollowed:
    def test_the_file_at_the_end_of_all_links(self, path: Path) -> None:
        path.with_name("one").symlink_to("../etc/two")
        path.with_name("two").symlink_to(path)
        assert trust.followed(path.with_name("one")) == trust.followed(path) == path.resolve()
        assert read_trusted(path.with_name("one")) == b"content"

    def test_it_need_not_exist_but_its_directory_must(self, path: Path) -> None:
        path.with_name("link").symlink_to("none")
        assert trust.followed(path.with_name("link")) == path.with_name("none")
        for wrong in (path.with_name("no") / "file", path / "file", path / ".." / "file"):
            with pytest.raises(Misconfigured, match=r"store\.path"):
                trust.followed(wrong)

    def test_two_dots_lead_to_where_the_kernel_goes(self, path: Path) -> None:
        (path.parent.parent / "other").symlink_to(path.parent)
        assert trust.followed(path.parent.parent / "other" / ".." / "etc" / "file") == path
        assert trust.followed(Path("/../..") / path.relative_to("/")) == path
        assert trust.followed(Path("/")) == Path("/")

    def test_a_path_from_here(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        assert trust.followed(Path("file")) == path

    def test_a_circle_of_links_is_refused(self, path: Path) -> None:
        path.with_name("circle").symlink_to("circle")
        with pytest.raises(Misconfigured, match="too many symlinks"):
            trust.followed(path.with_name("circle"))

    def test_no_descriptor_is_left(self, path: Path) -> None:
        path.with_name("circle").symlink_to("circle")
        before = len(os.listdir("/proc/self/fd"))
        for one in (path, path.with_name("circle"), path.with_name("none"), path / "x"):
            with suppress(Error):
                read_trusted(one)
        assert len(os.listdir("/proc/self/fd")) == before


class TestWhoMayChangeIt:
    def test_others_by_the_mode_of_the_file_or_of_a_directory(self, path: Path) -> None:
        for component, mode in ((path, 0o620), (path, 0o602), (path.parent, 0o775), (path.parent.parent, 0o707)):
            component.chmod(mode)
            refused(path, component, "others may write into", f"chmod go-w {component}")

    def test_others_by_the_directory_of_a_link(self, path: Path) -> None:
        shared = path.parent / "open"
        shared.mkdir()
        (shared / "link").symlink_to(path)
        path.with_name("link").symlink_to(shared / "link")
        shared.chmod(0o777)
        refused(path.with_name("link"), shared, "others may write into", f"chmod go-w {shared}")

    @root_only
    def test_the_owner_of_the_file_of_a_directory_or_of_a_link(self, path: Path) -> None:
        path.with_name("link").symlink_to(path)
        for component in (path, path.parent, path.with_name("link")):
            os.chown(component, NOBODY, -1, follow_symlinks=False)
            refused(path.with_name("link"), component, f"belongs to user {NOBODY}", f"chown -h root {component}")

    def test_those_in_an_acl_by_name(self, path: Path) -> None:
        for component in (path, path.parent):
            done = subprocess.run(["setfacl", "-m", "u:12345:rwx,g:23456:rw", component], check=False)
            if done.returncode != 0:
                pytest.skip("this file system has no ACLs")
            refused(path, component, "user 12345, group 23456", f"chmod go-w {component}")

    def test_an_acl_that_lets_nobody_write_is_in_nobodys_way(self, path: Path) -> None:
        if subprocess.run(["setfacl", "-m", "u:12345:r", path], check=False).returncode != 0:
            pytest.skip("this file system has no ACLs")
        assert read_trusted(path) == b"content"
        with pytest.raises(Usage, match=r"others may read .*user 12345 \[secret\.mode\]"):
            read_private(path)

    def test_anybody_who_makes_a_hard_link_in_a_sticky_directory(self, path: Path) -> None:
        shared = path.parent / "tmp"
        (shared / "mine").mkdir(parents=True)
        (shared / "mine" / "file").write_bytes(b"content")
        os.link(path, shared / "hard")
        (shared / "soft").symlink_to(path)
        shared.chmod(0o1777)
        assert read_trusted(shared / "mine" / "file") == b"content"  # nobody can rename or replace a directory of ours
        for one in ("hard", "soft", "none"):
            with pytest.raises(trust.Untrusted, match=rf"others may write into {shared}") as caught:
                trust.followed(shared / one)
            assert caught.value.hint == f"move {one} into a directory that only its owner may write to"
        with pytest.raises(trust.Untrusted):
            trust.trusted_dir(shared)
        trust.trusted_dir(shared / "mine")

    def test_a_directory_for_our_files_is_named_without_links(self, path: Path) -> None:
        (path.parent.parent / "link").symlink_to(path.parent)
        for wrong in (path.parent.parent / "link", path, path.with_name("none")):
            with pytest.raises(Misconfigured, match=r"store\.path"):
                trust.trusted_dir(wrong)


class TestRead:
    def test_what_is_no_file_or_a_giant_one_is_an_error_and_never_a_wait(self, path: Path) -> None:
        os.mkfifo(path.with_name("fifo"), 0o600)
        path.with_name("zero").symlink_to("/dev/zero")
        with path.with_name("giant").open("wb") as file:
            file.truncate(1 << 40)
        for name in ("fifo", "zero", "giant", ".", "none"):
            for read in (read_trusted, read_private):
                with pytest.raises(Misconfigured):
                    read(path.with_name("etc") if name == "." else path.with_name(name))

    def test_a_path_that_cannot_be_is_an_error_of_ours(self, path: Path) -> None:
        for odd in ("nul\0byte", "\ud800", "x" * 300):
            with pytest.raises(Misconfigured, match=r"store\.path"):
                read_trusted(path.with_name(odd))


@root_only
def test_nobody_wins_a_race_against_the_walk(path: Path) -> None:
    """A directory and a link are exchanged in a loop: what is read is ours, or nothing is."""
    shared = path.parent / "shared"
    shared.mkdir()
    os.chown(shared, NOBODY, -1)
    path.parent.chmod(0o755)
    theirs = shared / "theirs"

    def attack() -> None:
        theirs.write_bytes(b"forged")
        while True:
            for target in (path, theirs):
                os.symlink(target, shared / "new")
                os.rename(shared / "new", shared / "link")

    with as_nobody(attack):
        for _ in range(300):
            with pytest.raises((trust.Untrusted, Misconfigured)):
                read_trusted(shared / "link")


@root_only
def test_a_file_that_root_exchanges_during_the_walk_is_whole(path: Path) -> None:
    """An editor that saves by rename: the old content or the new content."""
    stop = threading.Event()

    def edit() -> None:
        new = path.with_name("new")
        while not stop.is_set():
            for content in (b"a" * 9999, b"b" * 9999):
                new.write_bytes(content)
                new.chmod(0o600)
                new.rename(path)

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        for _ in range(300):
            assert len(set(read_private(path).removeprefix(b"content"))) <= 1
    finally:
        stop.set()
        editor.join()


@root_only
def test_a_user_that_is_not_root_trusts_root_and_itself() -> None:
    """The same rule for every user; nobody reads what root may not have it read."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        for owner, file in ((0, "root"), (NOBODY, "mine"), (12345, "others")):
            (place / file).write_bytes(b"content")
            (place / file).chmod(0o644)
            os.chown(place / file, owner, -1)

        def look() -> None:
            assert read_trusted(place / "root") == read_trusted(place / "mine") == b"content"
            with pytest.raises(trust.Untrusted, match="belongs to user 12345") as caught:
                read_trusted(place / "others")
            assert caught.value.hint == f"chown -h {NOBODY} {place / 'others'}"

        with as_nobody(look) as ended:
            assert ended() == 0


class as_nobody:  # noqa: N801 -- reads as a statement
    """A child that runs as another user, killed at the end of the block. `()` gives its exit status."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._ended: int | None = None

    def __enter__(self) -> Callable[[], int]:
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                self._act()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        return self._wait

    def _wait(self) -> int:
        self._ended = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._ended

    def __exit__(self, *_: object) -> None:
        if self._ended is None:
            os.kill(self._pid, 9)
            self._wait()
