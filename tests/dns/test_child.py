"""Providers in a child process: what goes in, what comes back, and what can go wrong in between."""

from __future__ import annotations

import os
import sys

import pytest

from certagent.errors import Misconfigured, Transient, Usage
from certagent.host import deadline
from tests.dns.workers import Front, Lacking, Options

ZONE = "example.org."


def values(name: str) -> frozenset[str]:
    found = Front(Options()).get(f"{name}.{ZONE}", "TXT")
    assert found
    return found.values


def test_a_set_comes_back_whole() -> None:
    """With what only the provider reads."""
    found = Front(Options()).get(f"own.{ZONE}", "TXT")
    assert found
    assert (found.values, found.ttl_s, found.own) == ({"a"}, 1, ("A", "a"))
    assert Front(Options()).get(f"nothing.{ZONE}", "TXT") is None


def test_it_gets_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this process's environment, no home, and in the arguments only where to import from."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the secret")
    monkeypatch.setenv("PYTHONPATH", "/tmp")
    assert {text.partition("=")[0] for text in values("environ")} <= {"PATH", "LC_ALL", "HOME", "LC_CTYPE"}
    assert "HOME=/nonexistent" in values("environ")
    assert not any(ZONE in text or "timeout_s" in text for text in values("argv"))


def test_it_imports_from_the_same_places() -> None:
    assert values("path") == {place for place in sys.path if os.path.isabs(place)}


def test_an_error_is_the_one_that_was_raised() -> None:
    with pytest.raises(Usage) as caught:
        Front(Options()).get(f"usage.{ZONE}", "TXT")
    error = caught.value
    assert (error.code, error.detail, error.hint) == ("secret.file", "the detail", "the hint")
    assert error.retry_after_s == 17


def test_of_a_defect_the_words_are_not_told() -> None:
    """They are a library's own, and may hold anything."""
    with pytest.raises(Transient, match=r"ValueError \(.*workers\.py, line \d+\).*dns\.unreachable") as caught:
        Front(Options()).get(f"defect.{ZONE}", "TXT")
    assert "the secret" not in repr(caught.value)


@pytest.mark.parametrize("name", ["garbage", "much", "ends", "killed"])
def test_a_child_that_does_not_say_what_came_of_it(name: str) -> None:
    """Of a write nobody knows whether it was done."""
    front = Front(Options())
    with pytest.raises(Transient, match=r"^the service: its child process.*dns\.unreachable"):
        front.get(f"{name}.{ZONE}", "TXT")
    with pytest.raises(Transient, match=r"^the service: its child process.*dns\.unknown_outcome"):
        front.add(f"{name}.{ZONE}", "TXT", frozenset({"x"}), 60, None)


def test_it_ends_with_its_time() -> None:
    with pytest.raises(Transient, match=r"the service: no answer within 0\.5 s"):
        Front(Options(timeout_s=0.5)).get(f"hangs.{ZONE}", "TXT")


def test_it_knows_the_end_of_the_step() -> None:
    """What it waits for ends before it is killed."""
    with deadline.total(20):
        (left,) = values("left")
    assert 0 < float(left) < 20


def test_a_library_that_is_not_installed() -> None:
    """The hint is the command that installs it for this Python."""
    with pytest.raises(Misconfigured, match=r"no_such_library is not installed.*dns\.extra") as caught:
        Lacking(Options())
    assert caught.value.hint == f"run: {sys.executable} -m pip install 'certagent[some]'"


def test_a_name_in_none_of_its_zones() -> None:
    with pytest.raises(Misconfigured, match=r"dns\.no_zone"):
        Front(Options()).get("x.example.net.", "TXT")
