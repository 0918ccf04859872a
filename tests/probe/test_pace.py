"""A guest's manners: a limit is met once, kept from then on, and nothing is asked again that was right."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from certagent.agent.act import serving
from certagent.facts.tls import Chain, Mode, Served, Service
from certagent.facts.unknown import Unknown
from certagent.probe import handshake, pace
from tests.mta import chains, servers

HOST = "mx1.corp.example"
EC = chains.make("ecdsa-p256", HOST)
TLS = servers.context(EC)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes time."""
    made: list[float] = []
    monkeypatch.setattr(pace, "sleep", made.append)
    return made


class Limited:
    """A server that greets with 421 what `refuses` says; it counts who came."""

    def __init__(self, refuses: Callable[[Limited], bool]) -> None:
        self.refuses = refuses
        self.there = self.most = self.came = 0
        self._counting = threading.Lock()

    def __call__(self, connection: socket.socket) -> None:
        with self._counting:
            self.came += 1
            self.there += 1
            self.most = max(self.most, self.there)
            refused = self.refuses(self)
        try:
            servers.smtp(TLS, banner=b"421 4.7.0 Too many connections\r\n" if refused else b"220 mx1\r\n")(connection)
        finally:
            with self._counting:
                self.there -= 1


def meet(
    talk: servers.Talk, names: int, wrong: Callable[[Served], bool] = lambda _: False, budget_s: float = 0.0
) -> list[Served]:
    with servers.serving(talk) as port:
        sni = tuple(f"n{number}.{HOST}" for number in range(names))
        service = Service(HOST, port, "smtp", ("127.0.0.1",), sni)
        return handshake.probe_all([service], lambda _: (), ["ecdsa-p256"], 20, wrong=wrong, budget_s=budget_s)


def test_where_connections_are_counted_the_rest_is_asked_one_at_a_time(pauses: list[float]) -> None:
    server = Limited(lambda one: one.there > 2)
    served = meet(server, 6)
    assert [one for one in served if not isinstance(one.chain, Chain)] == []
    assert len(served) == 12
    assert pauses[0] == 1.0


def test_where_the_rate_is_limited_the_pauses_grow_until_it_allows_more(pauses: list[float]) -> None:
    """A limit of 12 connections in a window that ends with the fourth that is refused."""
    refused: list[int] = []

    def refuses(one: Limited) -> bool:
        over = one.came > 12 and len(refused) < 4
        refused.extend([one.came] * over)
        return over

    server = Limited(refuses)
    served = meet(server, 16)
    assert [one for one in served if not isinstance(one.chain, Chain)] == []
    assert len(served) == 32
    assert len(refused) == 4
    assert max(pauses) <= 8.0


def test_who_never_allows_more_is_left_alone_and_reported(pauses: list[float]) -> None:
    server = Limited(lambda one: one.came > 3)
    served = meet(server, 20)
    refused = [one.chain for one in served if isinstance(one.chain, Unknown)]
    assert len(served) - len(refused) == 3
    assert {chain.refusal for chain in refused} == {"busy"}
    assert server.came <= 3 + pace.WORKERS + len(pace.PAUSES_S)
    assert pauses == list(pace.PAUSES_S)


def test_only_what_is_wrong_is_asked_again() -> None:
    met: Counter[str | None] = Counter()

    def wrong(served: Served) -> bool:
        met[served.sni] += 1
        return served.sni == f"n1.{HOST}" and met[served.sni] < 5

    meet(servers.smtp(TLS), 3, wrong=wrong, budget_s=60)
    assert {sni: number for sni, number in met.items() if sni != f"n1.{HOST}"} == {f"n0.{HOST}": 2, f"n2.{HOST}": 2}


def test_a_version_that_is_not_spoken_is_not_asked_for_again() -> None:
    only_13 = servers.context(EC, version=ssl.TLSVersion.TLSv1_3)
    came: list[socket.socket] = []

    def talk(connection: socket.socket) -> None:
        came.append(connection)
        servers.smtp(only_13)(connection)

    served = meet(talk, 1, wrong=lambda one: isinstance(one.chain, Unknown), budget_s=60)
    assert ([one.version for one in served], len(came)) == (["1.3"], 2)


@pytest.mark.parametrize(
    ("mode", "talk", "refusal"),
    [
        ("smtp", servers.smtp(banner=b"421 4.7.0 too many\r\n"), "busy"),
        ("smtp", servers.smtp(ehlo=b"421 4.7.0 too many\r\n"), "busy"),
        ("smtp", servers.smtp(starttls=b"421 4.7.0 too many\r\n"), "busy"),
        ("smtp", servers.smtp(banner=b"450 4.3.2 not now\r\n"), "busy"),
        ("smtp", servers.smtp(banner=b"554 5.7.1 no\r\n"), "host"),
        ("smtp", servers.smtp(ehlo=b"550 5.7.1 no\r\n"), "host"),
        ("smtp", servers.smtp(starttls=b"454 4.7.0 TLS not available\r\n"), ""),
        ("imap", servers.imap(banner=b"* BYE too many\r\n"), "busy"),
        ("imap", servers.imap(banner=b"* PREAUTH hello\r\n"), "host"),
        ("pop3", servers.pop3(banner=b"-ERR too many\r\n"), "busy"),
        ("sieve", servers.sieve(banner=b'BYE "too many"\r\n'), "busy"),
    ],
)
def test_who_turns_us_away_is_told_from_who_has_no_tls(mode: Mode, talk: servers.Talk, refusal: str) -> None:
    with servers.serving(talk) as port:
        chain = handshake.probe(Service(HOST, port, mode), "127.0.0.1", "ecdsa-p256", 20).chain
    assert isinstance(chain, Unknown)
    assert (chain.refusal, chain.reached) == (refusal, refusal == "")


@pytest.mark.parametrize(
    ("refusals", "limits", "code", "hint"),
    [
        (("",), "raise it", "mta.down", "start the mail server"),
        (("", "host"), "raise it", "mta.turned_away", "ehlo, source"),
        (("", "host", "busy"), "raise it", "mta.busy", ": raise it"),
        (("busy",), "", "mta.busy", "connect more often"),
    ],
)
def test_the_error_is_the_one_that_an_operator_can_do_something_about(
    refusals: tuple[Literal["", "busy", "host"], ...], limits: str, code: str, hint: str
) -> None:
    met = [Served(HOST, "192.0.2.1", 25, "ecdsa-p256", Unknown(f"n{r}", refusal=r), 0.1) for r in refusals]
    server: Any = SimpleNamespace(connection_limits=limits)
    error = serving.unmet(met, server)
    assert (error.code, hint in error.hint) == (code, True)
    assert error.detail.count("mx1.corp.example [192.0.2.1]:25: n") == len(refusals)
