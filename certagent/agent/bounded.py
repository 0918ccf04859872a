"""A plug-in of another package, of which no call takes longer than its time, whatever it does.

Nothing can end a thread of Python. So each call runs in its own, and is left to itself when its time is over: the step
fails, and other certificates go on. As long as it has not come back, no other call of that plug-in begins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

from certagent.host.deadline import Overdue, left

CALL_S = 300.0
"""Longer than any of certagent's own takes, and less than a step has."""


class Bounded:
    """Has all that the plug-in has. `what` names it in errors."""

    def __init__(self, plugin: object, what: str) -> None:
        self._plugin = plugin
        self._what = what
        self._mutex = threading.Lock()
        self._stuck: threading.Thread | None = None

    @property
    def kind(self) -> type[object]:
        """The plug-in's class."""
        return type(self._plugin)

    def __getattr__(self, name: str) -> Any:
        value = self._call(getattr, self._plugin, name)
        return partial(self._call, value) if callable(value) else value

    def _call(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        with self._mutex:
            if self._stuck and self._stuck.is_alive():
                raise self._overdue("has not come back from an earlier call")
        given: list[Any] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                given.append(function(*arguments, **options))
            except BaseException as error:  # noqa: BLE001 -- it is raised where the call was made
                failed.append(error)

        limit_s = left(CALL_S)
        thread = threading.Thread(target=partial(copy_context().run, run), name=self._what, daemon=True)
        thread.start()
        thread.join(limit_s)
        if thread.is_alive():
            with self._mutex:
                self._stuck = thread
            raise self._overdue(f"has not come back within {limit_s:.0f} s")
        if failed:
            raise failed[0]
        return given[0]

    def _overdue(self, what: str) -> Overdue:
        hint = "report it to the author of the plug-in; restart certagent to try it again"
        return Overdue("step.overdue", f"the plug-in {self._what} {what}", hint)
