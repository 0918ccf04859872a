"""Puts a test run that includes tests/e2e into a lab (see tests.lab), so that its sockets are there too."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.lab import namespace

pytest_plugins = ("tests.setup.ending",)

E2E = Path(__file__).resolve().parent / "e2e"

settings.register_profile("unhurried", deadline=None)  # all else is as it was: in CI, as Hypothesis has it there
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-servers", action="store_true", help="leave out tests/e2e: tests on real servers, as root")


def pytest_configure(config: pytest.Config) -> None:
    """Starts the same command again inside a lab, unless there is no need or it runs in one."""
    shows_only = config.option.help or config.option.collectonly
    if config.getoption("--no-servers") or shows_only or not _includes_e2e(config) or namespace.inside():
        return
    if os.geteuid() != 0:
        raise pytest.UsageError(
            "make test needs root for the tests on real servers (tests/e2e); all others: pytest --no-servers"
        )
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture:
        capture.suspend_global_capture(in_=True)  # or the new process would write into a deleted file
    namespace.enter([sys.executable, *sys.orig_argv[1:]])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-servers"):
        left_out = [item for item in items if item.path.is_relative_to(E2E)]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def _includes_e2e(config: pytest.Config) -> bool:
    named = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    return any(path.is_relative_to(E2E) or E2E.is_relative_to(path) for path in named)
