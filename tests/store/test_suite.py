"""Every store passes the conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from certagent.host.clock import Clock
from certagent.store.sqlite import Sqlite
from certagent.testing import Memory, Shared, StoreCheck, store_suite


@pytest.mark.parametrize("check", store_suite, ids=lambda check: check.__name__)
def test_sqlite(tmp_path: Path, check: StoreCheck) -> None:
    """One file."""

    def opened(clock: Clock) -> Sqlite:
        return Sqlite(tmp_path / "journal.db", clock)

    check(opened)


@pytest.mark.parametrize("check", store_suite, ids=lambda check: check.__name__)
def test_memory(check: StoreCheck) -> None:
    """One object that several stores share."""
    shared = Shared()

    def opened(clock: Clock) -> Memory:
        return Memory(shared, clock)

    check(opened)


@pytest.mark.parametrize("broken", ["expected", "token", "count", "hint"])
def test_the_suite_finds_a_store_that_is_wrong(broken: str) -> None:
    """Without one of its promises, at least one check fails."""

    class Wrong(Memory):
        pass

    def wrong(clock: Clock) -> Wrong:
        return Wrong(shared, clock)

    def ignore(*_: object, **__: object) -> None: ...

    original = Memory.append
    if broken == "expected":

        def append(self: Memory, subject: str, expected: int, rows: object, head: object) -> None:
            original(self, subject, len(shared.rows.get(subject, [])), rows, head)  # pyright: ignore[reportArgumentType]

        Wrong.append = append  # pyright: ignore[reportAttributeAccessIssue]
    elif broken == "token":

        def append_anyhow(self: Memory, subject: str, expected: int, rows: object, head: object) -> None:
            self._token = shared.token  # pyright: ignore[reportPrivateUsage]
            original(self, subject, expected, rows, head)  # pyright: ignore[reportArgumentType]

        Wrong.append = append_anyhow  # pyright: ignore[reportAttributeAccessIssue]
    elif broken == "count":
        Wrong.now = lambda self: Memory.now(self).__class__(self._source.wall(), self._source.reading().seconds)  # pyright: ignore
    else:
        Wrong.sleep = ignore  # pyright: ignore[reportAttributeAccessIssue]
    failed: list[str] = []
    for check in store_suite:
        shared = Shared()
        try:
            check(wrong)
        except Exception:
            failed.append(check.__name__)
    assert failed
    assert len(failed) < len(store_suite)
