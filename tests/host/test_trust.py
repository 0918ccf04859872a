"""Who may change a file, on the whole way to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from certagent.errors import Misconfigured
from certagent.host import trust


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with content."""
    path = tmp_path / "chain.pem"
    path.write_bytes(b"old")
    path.chmod(0o600)
    return path


class TestFollowed:
    def test_the_file_at_the_end_of_all_links(self, path: Path) -> None:
        path.parent.chmod(0o755)
        path.with_name("one").symlink_to("two")
        path.with_name("two").symlink_to(path)
        assert trust.followed(path.with_name("one")) == trust.followed(path) == path.resolve()

    def test_it_need_not_exist(self, path: Path) -> None:
        path.parent.chmod(0o755)
        path.with_name("link").symlink_to("none")
        assert trust.followed(path.with_name("link")).name == "none"

    def test_a_link_in_a_directory_of_others_or_in_a_circle_is_refused(self, path: Path) -> None:
        path.parent.chmod(0o755)
        open_one = path.parent / "open"
        open_one.mkdir()
        open_one.chmod(0o777)
        (open_one / "link").symlink_to(path)
        path.with_name("link").symlink_to(open_one / "link")
        path.with_name("circle").symlink_to("circle")
        for name, why in (("link", "others may write into"), ("circle", "too many symlinks")):
            with pytest.raises(Misconfigured, match=why):
                trust.followed(path.with_name(name))
