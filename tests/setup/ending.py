"""The end of every test run: what could not be set up and which tests were skipped, by name and reason, counted.

A pytest plugin (tests/conftest.py loads it), and what run.py prints when it adds up. `--skipped-to=FILE` writes the
skipped tests to FILE as JSON and prints nothing: run.py adds up several such files. A skip without a reason is an
error.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import pytest

NOTES = Path(__file__).resolve().parents[2] / ".lab" / "not-set-up"
"""What optional.sh could not set up: a file per thing, with the reason in it."""
NO_REASON = ("", "unconditional skip")
"""What pytest says of a skip that has none."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skipped-to", type=Path, metavar="FILE", help="write skipped tests to FILE instead of printing")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Skips(config.getoption("--skipped-to")))


def not_set_up(notes: Path = NOTES) -> dict[str, str]:
    """The reasons, by name."""
    if not notes.is_dir():
        return {}
    return {note.name: note.read_text().strip() for note in sorted(notes.iterdir())}


def ending(absent: Mapping[str, str], skipped: Mapping[str, str]) -> Iterator[str]:
    """The lines; `absent` is what could not be set up, `skipped` are tests. Both are reasons by name."""
    yield f"not set up: {len(absent) or 'nothing'}"
    yield from (f"  {name}: {reason}" for name, reason in absent.items())
    yield f"skipped: {_tests(len(skipped)) if skipped else 'no test'}"
    names: dict[str, list[str]] = {}
    for name, reason in sorted(skipped.items()):
        names.setdefault(reason, []).append(name)
    for reason, tests in names.items():
        yield f"  {_tests(len(tests))}: {reason}"
        yield from (f"    {name}" for name in tests)


def _tests(number: int) -> str:
    return f"{number} test{'s' * (number != 1)}"


class Skips:
    """Collects the skipped tests of a run."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._skipped: dict[str, str] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.skipped:
            reason = _reason(report)
            if reason in NO_REASON:
                report.outcome, report.longrepr = "failed", f"{report.nodeid}: skipped without a reason"
                vars(report).pop("wasxfail", None)  # pytest would not count it as failed
            else:
                self._skipped[report.nodeid] = reason
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """A file that skips itself would hide how many tests it has."""
        report = yield
        if report.skipped:
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: skipped as a whole, so its tests cannot be counted: use pytestmark"
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._file:
            self._file.write_text(json.dumps(self._skipped))
            return
        for line in ending(not_set_up(), self._skipped):
            terminalreporter.write_line(line)


def _reason(report: pytest.TestReport) -> str:
    """Also of a test that was expected to fail, and did: pytest counts it as skipped."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped").lstrip(":").strip()
    return str(getattr(report, "wasxfail", "")).strip()
