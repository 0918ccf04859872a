"""A service by the description of its API: paths, methods, parameters, fields, their types and ranges.

What is not in the description is refused, even if the service itself would pass over it: a field with a wrong name
is lost in silence there, and a test is to find it. Services that have a form for such a refusal bring it as `odd`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

from msgspec import Struct, ValidationError, convert

from tests.dns.fakes.service import TEAPOT, Asked, Reply, Service

T = TypeVar("T")


class Form(Struct, forbid_unknown_fields=True):
    """Fields of a body, or parameters of a query."""


@dataclass(frozen=True)
class _Way:
    method: str
    path: re.Pattern[str]
    query: type[Form]
    body: Any

    def read(self, asked: Asked) -> list[Any]:
        """Query and body, as far as they are described.

        Raises:
            ValidationError: They are not as described.
        """
        query = convert(dict(asked.query), self.query, strict=False)
        if self.body is None and asked.body not in (None, {}):
            raise ValidationError("a body where none is described")
        body = [] if self.body is None else [convert(asked.body, self.body)]
        return [*body, *([] if self.query is Form else [query])]


Handler = TypeVar("Handler", bound=Callable[..., Reply])


def way(method: str, path: str, *, body: Any = None, query: type[Form] = Form) -> Callable[[Handler], Handler]:
    """One method of one path. The handler is given what stands for each `{}`, then body and query, if described."""
    pattern = re.compile("([^/]+)".join(map(re.escape, path.split("{}"))))

    def mark(handler: Handler) -> Handler:
        cast("Any", handler).way = _Way(method, pattern, query, body)
        return handler

    return mark


class Described(Service):
    """A fake whose methods are marked with `way`."""

    def odd(self, words: str) -> Reply:
        """What it says to parameters and fields that are not as described."""
        return TEAPOT, words.encode()

    def read(self, kind: type[T], data: Any) -> T:
        """Fields within the body of a service that has but one path."""
        return convert(data, kind)

    def answer(self, asked: Asked) -> Reply:
        for described, handler in self._ways:
            if described.method == asked.method and (seen := described.path.fullmatch(asked.path)):
                try:
                    return handler(*seen.groups(), *described.read(asked))
                except ValidationError as error:
                    return self.odd(str(error))
        return TEAPOT, b"no such method and path"

    @cached_property
    def _ways(self) -> list[tuple[_Way, Callable[..., Reply]]]:
        marked = (getattr(self, name) for name in dir(type(self)) if hasattr(getattr(type(self), name), "way"))
        return [(handler.way, handler) for handler in marked]


def page(found: list[T], number: int, size: int) -> tuple[list[T], int]:
    """One page of them, from number 1 on, and how many pages there are."""
    return found[(number - 1) * size : number * size], max(1, -(-len(found) // size))
