"""A fact of a frozen view that is worked out when it is first asked for, and once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 -- used as a decorator, like property
    """`functools.cached_property` without its lock (Python 3.11), which costs more than most of these facts."""

    def __init__(self, work: Callable[[Any], T]) -> None:
        self._work = work
        self._name = work.__name__
        self.__doc__ = work.__doc__

    @overload
    def __get__(self, view: None, _: type[object]) -> once[T]: ...
    @overload
    def __get__(self, view: object, _: type[object]) -> T: ...
    def __get__(self, view: object | None, _: type[object]) -> once[T] | T:
        if view is None:
            return self
        # from now on the attribute is found in the instance, before this descriptor
        found = view.__dict__[self._name] = self._work(view)
        return found
