"""What the end of a test run says, and that a skip gives its reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.setup.ending import ending, not_set_up

ROOT = Path(__file__).resolve().parents[2]
RUN = """\
import sys, pytest
from tests.setup import ending
sys.exit(pytest.main(["-p", "no:cacheprovider", "-q", "test_it.py", *sys.argv[1:]], plugins=[ending]))
"""


def run(place: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A pytest run of its own, with this plugin and no other of this checkout."""
    (place / "pytest.ini").write_text("[pytest]\n")
    (place / "test_it.py").write_text(f"import pytest\n{text}")
    argv = [sys.executable, "-c", RUN, *arguments]
    env = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        argv, cwd=place, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_it_names_and_counts_what_is_not_set_up_and_what_was_skipped() -> None:
    absent = {"Dovecot 2.4": "no mirror has it"}
    skipped = {"t.py::b[2]": "needs Dovecot", "t.py::c": "needs root", "t.py::a": "needs Dovecot"}
    assert list(ending(absent, skipped)) == [
        "not set up: 1",
        "  Dovecot 2.4: no mirror has it",
        "skipped: 3 tests",
        "  2 tests: needs Dovecot",
        "    t.py::a",
        "    t.py::b[2]",
        "  1 test: needs root",
        "    t.py::c",
    ]


def test_that_nothing_is_missing_is_said_too() -> None:
    assert list(ending({}, {})) == ["not set up: nothing", "skipped: no test"]


def test_the_notes_of_the_set_up_are_read(tmp_path: Path) -> None:
    assert not_set_up(tmp_path / "none") == {}
    (tmp_path / "B 2").write_text("the mirror is silent\n")
    (tmp_path / "A").write_text("no compiler\n")
    assert list(not_set_up(tmp_path).items()) == [("A", "no compiler"), ("B 2", "the mirror is silent")]


SKIPPING = """
@pytest.mark.skipif(True, reason="by a mark")
def test_mark(): pass
def test_call(): pytest.skip("by a call")
@pytest.mark.xfail(reason="known", strict=True)
def test_known(): assert False
def test_well(): pass
"""


def test_a_run_ends_with_its_skipped_tests(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPING)
    assert done.returncode == 0, done.stdout
    told = done.stdout[done.stdout.index("skipped: ") :].splitlines()
    assert told[:7] == [
        "skipped: 3 tests",
        "  1 test: by a call",
        "    test_it.py::test_call",
        "  1 test: known",
        "    test_it.py::test_known",
        "  1 test: by a mark",
        "    test_it.py::test_mark",
    ]


def test_they_go_to_a_file_for_a_program_that_adds_up(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPING, "--skipped-to=skipped.json")
    assert "by a mark" not in done.stdout
    assert json.loads((tmp_path / "skipped.json").read_text()) == {
        "test_it.py::test_mark": "by a mark",
        "test_it.py::test_call": "by a call",
        "test_it.py::test_known": "known",
    }


@pytest.mark.parametrize(
    "text",
    [
        "def test_it(): pytest.skip()",
        "@pytest.mark.skip\ndef test_it(): pass",
        "@pytest.mark.skipif(True, reason='')\ndef test_it(): pass",
        "@pytest.fixture\ndef it(): pytest.skip(' ')\ndef test_it(it): pass",
        "@pytest.mark.xfail\ndef test_it(): assert False",
    ],
)
def test_a_skip_without_a_reason_is_an_error(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, text)
    assert done.returncode == 1
    assert "test_it.py::test_it: skipped without a reason" in done.stdout
    assert "skipped: no test" in done.stdout


@pytest.mark.parametrize(
    "text", ["pytest.skip('all', allow_module_level=True)", "pytest.importorskip('no_such_module', reason='all')"]
)
def test_a_file_may_not_skip_itself_as_a_whole(tmp_path: Path, text: str) -> None:
    """Also when tests are only collected: run.py would never know of them."""
    for arguments in ((), ("--collect-only",)):
        done = run(tmp_path, f"{text}\ndef test_it(): pass", *arguments)
        assert done.returncode == 2
        assert "test_it.py: skipped as a whole" in done.stdout
