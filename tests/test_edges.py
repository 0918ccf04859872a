"""The servers' own checks that run ahead, beside the CA's work: what is waited for, and what is asked anew."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from certagent.agent.edges import Edges
from certagent.errors import Misconfigured
from tests.lab.wait import until

ECDSA = frozenset({"ecdsa-p256"})


class Server:
    """Its check ends when it may; then it says what it is told to, in turn."""

    def __init__(self, *says: Misconfigured | None) -> None:
        self.says = list(says)
        self.begun = 0
        self.may_end = threading.Event()

    def check(self, _: frozenset[str]) -> None:
        self.begun += 1
        self.may_end.wait(10)  # a test that fails ends, too
        if (error := self.says.pop(0)) is not None:
            raise error


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def edges_of(pool: ThreadPoolExecutor, **servers: Server) -> Edges:
    unused = cast("Any", None)
    return Edges(
        issuer=unused, resolver=unused, zones=unused, vault=unused, servers=cast("Any", servers), ahead=lambda: pool
    )


def test_one_that_takes_longer_is_waited_for(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also longer than what it found would count, which is told from when it began."""
    monkeypatch.setattr("certagent.agent.edges.CHECK_S", 0.01)
    monkeypatch.setattr("certagent.agent.edges.time", SimpleNamespace(monotonic=lambda: 0.0))
    slow = Server(None)
    edges = edges_of(pool, slow=slow)
    edges.check_ahead(ECDSA)
    until(lambda: slow.begun, 5, "it has begun")
    end = threading.Timer(0.2, slow.may_end.set)
    end.start()
    edges.check("slow", ECDSA)
    assert (slow.begun, slow.says) == (1, [])


def test_one_that_waits_for_its_turn_is_not_waited_for(pool: ThreadPoolExecutor) -> None:
    slow, other = Server(None), Server(None)
    edges = edges_of(pool, slow=slow, other=other)
    edges.check_ahead(ECDSA)
    other.may_end.set()
    edges.check("other", ECDSA)
    assert (slow.says, other.says) == ([None], [])
    slow.may_end.set()
    edges.check("slow", ECDSA)
    assert (slow.begun, other.begun) == (1, 1)


def test_what_it_found_is_read_again(pool: ThreadPoolExecutor) -> None:
    broken = Misconfigured("mta.config", "broken", "fix it")
    fixed, still = Server(broken, None), Server(broken, broken)
    for server in (fixed, still):
        server.may_end.set()
    edges = edges_of(pool, fixed=fixed, still=still)
    edges.check_ahead(ECDSA)
    until(lambda: fixed.says == [None] and still.says == [broken], 5, "both have been checked")
    edges.check("fixed", ECDSA)
    with pytest.raises(Misconfigured, match="broken"):
        edges.check("still", ECDSA)


def test_what_it_found_too_long_ago_counts_no_more(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(None, Misconfigured("mta.config", "broken since", "fix it"))
    server.may_end.set()
    edges = edges_of(pool, server=server)
    edges.check_ahead(ECDSA)
    until(lambda: len(server.says) == 1, 5, "it has been checked")
    monkeypatch.setattr("certagent.agent.edges.CHECK_S", -1.0)
    with pytest.raises(Misconfigured, match="broken since"):
        edges.check("server", ECDSA)
