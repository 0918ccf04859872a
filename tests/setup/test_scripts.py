"""The parts of the set-up that decide something: with programs that stand in for apt."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# They list the versions of $LISTED, and have the files of those in $THERE.
APT_CACHE = """\
#!/bin/sh
[ "$*" = "-o Some::Option=1 showsrc --only-source exim4" ] || exit 3
for version in $LISTED; do printf 'Package: exim4\\nStandards-Version: 9.9.9\\nVersion: %s\\n\\n' "$version"; done
"""
APT_GET = """\
#!/bin/sh
echo "$*" >>"$LOG"
version=${*##*=}
case " $THERE " in
  *" $version "*) ;;
  *) echo "E: Failed to fetch exim4_$version.dsc  404  Not Found" >&2; exit 100;;
esac
case "$*" in *--download-only*) ;; *) mkdir "exim4-$version";; esac
"""


def put(place: Path, name: str, text: str) -> None:
    (place / name).write_text(text)
    (place / name).chmod(0o755)


class TestSource:
    """Which version source.sh takes."""

    @pytest.fixture(autouse=True)
    def _apt(self, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "into").mkdir()
        put(tmp_path / "bin", "apt-cache", APT_CACHE)
        put(tmp_path / "bin", "apt-get", APT_GET)

    def take(self, place: Path, listed: str, there: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [HERE / "source.sh", "exim4", "-o", "Some::Option=1"],
            cwd=place / "into",
            env={
                "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
                "LISTED": listed,
                "THERE": there,
                "LOG": str(place / "log"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    @pytest.mark.parametrize(
        ("listed", "there", "taken"),
        [
            ("4.96-15+deb12u7", "4.96-15+deb12u7", "4.96-15+deb12u7"),
            # the order in which they are listed does not matter, and one may be listed twice
            ("4.96-15+deb12u7 4.96-15+deb12u8 4.96-15+deb12u7", "4.96-15+deb12u7 4.96-15+deb12u8", "4.96-15+deb12u8"),
            ("4.96-15+deb12u9 4.96-15+deb12u10", "4.96-15+deb12u9 4.96-15+deb12u10", "4.96-15+deb12u10"),
            ("4.98~rc1-1 4.98-1", "4.98~rc1-1 4.98-1", "4.98-1"),
            # the newest is not to be had: the one before it, and not the oldest
            ("4.96-15 4.96-15+deb12u7 4.96-15+deb12u8", "4.96-15 4.96-15+deb12u7", "4.96-15+deb12u7"),
            ("4.96-15 4.96-15+deb12u7 4.96-15+deb12u8", "4.96-15", "4.96-15"),
        ],
    )
    def test_the_newest_that_is_to_be_had(self, tmp_path: Path, listed: str, there: str, taken: str) -> None:
        done = self.take(tmp_path, listed, there)
        assert done.returncode == 0, done.stderr
        assert [path.name for path in (tmp_path / "into").iterdir()] == [f"exim4-{taken}"]

    def test_it_says_which_one_was_taken_and_why(self, tmp_path: Path) -> None:
        done = self.take(tmp_path, "4.96-15+deb12u8 4.96-15+deb12u7", "4.96-15+deb12u7")
        assert done.stderr.splitlines() == [
            "E: Failed to fetch exim4_4.96-15+deb12u8.dsc  404  Not Found",
            "the source of exim4 4.96-15+deb12u8 is listed but cannot be downloaded",
            "taking the version before it: exim4 4.96-15+deb12u7",
        ]
        asked = (tmp_path / "log").read_text().splitlines()
        assert asked[-1] == "-o Some::Option=1 source exim4=4.96-15+deb12u7", "apt's options reach every call"

    def test_the_newest_is_taken_without_a_word(self, tmp_path: Path) -> None:
        done = self.take(tmp_path, "4.96-15+deb12u8 4.96-15+deb12u7", "4.96-15+deb12u8")
        assert (done.stdout, done.stderr) == ("", "")

    @pytest.mark.parametrize(
        ("listed", "shown"), [("", "none"), ("4.96-15 4.96-15+deb12u7", "4.96-15+deb12u7 4.96-15")]
    )
    def test_if_there_is_none_it_fails_and_unpacks_nothing(self, tmp_path: Path, listed: str, shown: str) -> None:
        done = self.take(tmp_path, listed, "")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            f"error: no source of exim4 can be downloaded from this machine's mirrors; listed: {shown}"
        )
        assert list((tmp_path / "into").iterdir()) == []


class TestOptional:
    """What optional.sh leaves for the end of a test run."""

    def set_up(self, place: Path, *command: str) -> tuple[subprocess.CompletedProcess[str], str | None]:
        """What it printed, and the note."""
        script = place / "tests" / "setup" / "optional.sh"
        script.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "optional.sh", script)
        done = subprocess.run(
            [script, "Exim 9", *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        note = place / ".lab" / "not-set-up" / "Exim 9"
        return done, note.read_text() if note.exists() else None

    @pytest.mark.parametrize(
        ("command", "note"),
        [
            ("echo 'error: no mirror has it' >&2; exit 1", "no mirror has it\n"),
            ("echo first >&2; echo 'E: 404' >&2; echo ' ' >&2; exit 100", "E: 404\n"),
            ("echo unpacking; false", "its set-up failed without a word: bash -c echo unpacking; false\n"),
        ],
    )
    def test_a_failure_leaves_its_reason_and_does_not_end_the_set_up(
        self, tmp_path: Path, command: str, note: str
    ) -> None:
        done, left = self.set_up(tmp_path, "bash", "-c", command)
        assert done.returncode == 0
        assert left == note
        assert done.stderr.endswith("Exim 9 is not set up here: tests that need it are skipped\n")

    def test_a_success_leaves_none_and_removes_that_of_an_earlier_failure(self, tmp_path: Path) -> None:
        assert self.set_up(tmp_path, "false")[1] is not None
        done, left = self.set_up(tmp_path, "bash", "-c", "echo well; echo warned >&2")
        assert (done.returncode, done.stdout, done.stderr, left) == (0, "well\n", "warned\n", None)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_demo_sets_up_what_it_needs_and_nothing_more() -> None:
    """No Exim is built, no server is unpacked, and nothing is installed that only tests use."""
    argv = ["make", "--dry-run", "--always-make", "demo"]
    done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    set_up = [line for line in done.stdout.splitlines() if "tests/setup/" in line or "--requirement" in line]
    assert set_up == [
        "tests/setup/debian.sh python demo",
        "tests/setup/debian.sh python",
        ".venv/bin/pip install -qq --require-hashes --only-binary :all: --requirement requirements.lock",
    ]


def test_an_unknown_group_of_packages_is_an_error() -> None:
    done = subprocess.run([HERE / "debian.sh", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no group nothing; the groups: ")
