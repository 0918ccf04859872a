"""The fakes are strict: what certagent asks for, with one thing more or less, is refused and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.dns.cases import EVERY, At
from tests.dns.fakes.known import ACME_DNS, Known
from tests.dns.fakes.service import Asked, Reply

ODD = "certagent-odd"


def test_what_is_not_described_is_refused(at: At) -> None:
    """A path, a method, a parameter, a field at any depth; of a service that passes over such things, too."""
    seen: set[str] = set()
    for asked in conversation(at):
        before = at.there()
        for what, altered in (*more(asked), *less(asked)):
            reply = at.fake.answer(altered)
            assert refused(reply), f"{what} of {asked.method} {asked.path}: {reply}"
            seen.add(what)
        assert at.there() == before
    assert seen >= {"path", "method", "parameter", "field"}


def test_every_kind_of_request_is_in_the_conversation(at: At) -> None:
    """Writing, reading, removing."""
    asked = conversation(at)
    assert any(at.fake.writes(one) for one in asked)
    assert at.known is ACME_DNS or not all(at.fake.writes(one) for one in asked)


def conversation(at: At) -> list[Asked]:
    """One request of each kind: method, path without what stands for a record, and which fields there are."""
    at.add(at.a, at.b)
    if at.known is not ACME_DNS:
        at.add(at.a, ttl_s=7200)
        at.remove(at.a)
    kinds = {(one.method, one.path.rstrip("0123456789"), shape(one.body)): one for one in at.fake.asked}
    return list(kinds.values())


def shape(body: Any) -> str:
    if isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        method = fields.get("method") or fields.get("action") or ""
        return f"{method}{[(key, shape(value)) for key, value in sorted(fields.items())]}"
    return str(list(map(shape, cast("list[Any]", body)))) if isinstance(body, list) else ""


def more(asked: Asked) -> Iterator[tuple[str, Asked]]:
    yield "path", replace(asked, path=f"{asked.path.rstrip('/')}/{ODD}/{ODD}")
    yield "method", replace(asked, method="HEAD")
    yield "parameter", replace(asked, query={**asked.query, ODD: "1"})
    if isinstance(asked.body, bytes) and asked.body:  # XML
        yield "field", replace(asked, body=asked.body.replace(b"<Changes>", f"<{ODD}/><Changes>".encode()))
    elif asked.body is None:
        yield "field", replace(asked, body={ODD: 1})
    elif not isinstance(asked.body, bytes):
        for altered in with_one_more(asked.body):
            yield "field", replace(asked, body=altered)


def with_one_more(body: Any) -> Iterator[Any]:
    """A field at every place where fields are."""
    if isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        yield {**fields, ODD: 1}
        for key, value in fields.items():
            yield from ({**fields, key: altered} for altered in with_one_more(value))
    elif isinstance(body, list):
        parts = cast("list[Any]", body)
        for number, part in enumerate(parts):
            yield from ([*parts[:number], altered, *parts[number + 1 :]] for altered in with_one_more(part))


def less(asked: Asked) -> Iterator[tuple[str, Asked]]:
    """Without its body."""
    if asked.body not in (None, b"", {}):
        yield "body", replace(asked, body=b"" if isinstance(asked.body, bytes) else None)


def refused(reply: Reply) -> bool:
    """By its status, or by that in the answer of a service that has no other."""
    status, data = reply[:2]
    if isinstance(data, dict):
        said = cast("dict[str, Any]", data)
        return status >= 400 or said.get("status") == "error" or said.get("code", 0) >= 2000
    return status >= 400


@pytest.fixture(params=EVERY, ids=lambda known: known.name)
def known(request: pytest.FixtureRequest) -> Known:
    return request.param


@pytest.fixture
def at(known: Known, tmp_path: Path) -> Iterator[At]:
    at = At(known, tmp_path)
    yield at
    at.fake.stop()
