"""Files in directories of others: nothing is written where one of their links leads."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from certagent.errors import Misconfigured
from certagent.host import webfiles

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
NOBODY = 65534
BELOW = (".well-known", "acme-challenge")


@pytest.fixture
def top() -> Iterator[Path]:
    """The directory of a web server, which belongs to somebody else."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        theirs = place / "www"
        theirs.mkdir()
        os.chown(theirs, NOBODY, NOBODY)
        yield theirs


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everybody_may_read_it_whatever_the_umask_is(top: Path) -> None:
    before = os.umask(0o077)
    try:
        webfiles.place(top, BELOW, "token", b"said")
    finally:
        os.umask(before)
    file = top.joinpath(*BELOW, "token")
    assert file.read_bytes() == b"said"
    assert [mode(one) for one in (file, file.parent, file.parent.parent)] == [0o644, 0o755, 0o755]


def test_it_may_be_placed_and_removed_twice(top: Path) -> None:
    """The first run was killed in the middle."""
    file = top.joinpath(*BELOW, "token")
    webfiles.place(top, BELOW, "token", b"ha")
    webfiles.place(top, BELOW, "token", b"whole")
    assert file.read_bytes() == b"whole"
    webfiles.remove(top, BELOW, "token")
    webfiles.remove(top, BELOW, "token")
    assert not file.exists()
    file.parent.rmdir()
    webfiles.remove(top, BELOW, "token")
    webfiles.remove(top / "gone", BELOW, "token")


def test_a_directory_that_is_there_keeps_its_mode(top: Path) -> None:
    (top / ".well-known").mkdir(0o750)
    webfiles.place(top, BELOW, "token", b"x")
    assert mode(top / ".well-known") == 0o750


@pytest.mark.parametrize("part", range(3))
def test_a_link_of_theirs_is_not_followed(top: Path, part: int, tmp_path: Path) -> None:
    """Their directory, or one in it, is a link to one of root's: nothing is placed there, and nothing is removed."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "token").write_text("root's")
    way = [top / "site", top / "site" / ".well-known", top / "site" / ".well-known" / "acme-challenge"]
    for one in way[:part]:
        one.mkdir()
    way[part].symlink_to(secret)
    (secret / "acme-challenge").symlink_to(".")
    (secret / ".well-known").symlink_to(".")
    with pytest.raises(Misconfigured, match="is a symlink that others could have set"):
        webfiles.place(top / "site", BELOW, "token", b"x")
    with pytest.raises(Misconfigured, match="is a symlink that others could have set"):
        webfiles.remove(top / "site", BELOW, "token")
    assert (secret / "token").read_text() == "root's"


def test_the_file_itself_may_be_their_link_or_their_pipe(top: Path, tmp_path: Path) -> None:
    """It is replaced, and what it leads to stays."""
    (tmp_path / "shadow").write_text("root's")
    webfiles.place(top, BELOW, "token", b"x")
    file = top.joinpath(*BELOW, "token")
    for make in (lambda: file.symlink_to(tmp_path / "shadow"), lambda: os.mkfifo(file)):
        file.unlink()
        make()
        webfiles.place(top, BELOW, "token", b"mine")
        assert (file.read_bytes(), file.is_symlink()) == (b"mine", False)
    assert (tmp_path / "shadow").read_text() == "root's"


def test_a_link_of_root_leads_on(top: Path) -> None:
    """As /var/www, on many hosts; it is where nobody else may write."""
    link = top.parent / "link"
    link.symlink_to("www")
    webfiles.place(link, BELOW, "token", b"x")
    assert top.joinpath(*BELOW, "token").exists()
    webfiles.remove(link, BELOW, "token")
    assert not top.joinpath(*BELOW, "token").exists()


def test_not_even_a_link_of_root_in_a_directory_of_theirs(top: Path) -> None:
    """They can have moved it there."""
    (top / "site").symlink_to(top.parent)
    with pytest.raises(Misconfigured, match="others could have set"):
        webfiles.place(top / "site", BELOW, "token", b"x")


def test_a_loop_ends(top: Path) -> None:
    (top.parent / "loop").symlink_to("loop")
    with pytest.raises(Misconfigured, match="symlink"):
        webfiles.place(top.parent / "loop", BELOW, "token", b"x")


def test_what_is_in_the_way_is_named(top: Path) -> None:
    (top / ".well-known").write_text("a file")
    with pytest.raises(Misconfigured, match=r"Not a directory.*store\.path"):
        webfiles.place(top, BELOW, "token", b"x")
    with pytest.raises(Misconfigured, match=r"No such file or directory.*store\.path"):
        webfiles.place(top / "missing", BELOW, "token", b"x")


def test_not_even_a_link_of_root_where_everybody_may_write(top: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o1777)
        (Path(name) / "link").symlink_to(top)
        with pytest.raises(Misconfigured, match="others could have set"):
            webfiles.place(Path(name) / "link", BELOW, "token", b"x")
