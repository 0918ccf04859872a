"""Challenges are presented, seen, answered and cleaned up, each by its type (`acme/challenges`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from certagent.acme.challenges import TYPES
from certagent.acme.challenges.dns01 import BUDGET
from certagent.acme.challenges.protocol import ChallengeType
from certagent.agent.act import hiding
from certagent.agent.act.outcome import failed
from certagent.agent.act.records import add_txt, remove_txt
from certagent.agent.act.spending import Spend, uncounted
from certagent.agent.edges import Edges
from certagent.errors import Misconfigured, NotYet, Rejected, Transient
from certagent.facts.challenge import Challenge
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State

TXT_TTL_S = 60
"""No cache should keep a response longer than its challenge lives. Providers with a minimum raise it."""


class _Txt:
    """TXT records by the resolver and the providers of this certificate. `hosts` must not lose their addresses."""

    def __init__(self, edges: Edges, spend: Spend, hosts: frozenset[str]) -> None:
        self._edges = edges
        self._spend = spend
        self._hosts = hosts
        self.lag_s = 0.0
        """How long it takes until all that was added is usually shown."""

    def final(self, name: str) -> tuple[str, str]:
        return self._edges.resolver().final(name)

    def add(self, zone: str, name: str, values: frozenset[str]) -> None:
        hiding.refuse(zone, name, self._edges, only=self._hosts)
        lag_s = add_txt(self._edges.zones, zone, name, values, TXT_TTL_S, self._spend)
        self.lag_s = max(self.lag_s, lag_s)

    def remove(self, zone: str, name: str, values: frozenset[str]) -> None:
        remove_txt(self._edges.zones, zone, name, values, self._spend)

    def seen(self, name: str, values: frozenset[str], budget: timedelta) -> None:
        self._edges.resolver().wait_for_txt(name, values, budget)


class _Means:
    """What challenge types may use."""

    def __init__(self, edges: Edges, spend: Spend, hosts: frozenset[str] = frozenset()) -> None:
        self.txt = _Txt(edges, spend, hosts)


def present(challenges: Sequence[Challenge], spec: Spec, edges: Edges, spend: Spend = uncounted) -> float:
    """Put the responses where the CA looks. How long it usually takes until they are shown, in seconds; zero if
    `ready` asks for as long in any case.

    Raises:
        Unsafe: `dns.wildcard_address`: A mail host would lose its address.
    """
    means = _Means(edges, spend, hiding.mail_hosts(spec))
    with hiding.explained([one.name for one in challenges], edges):
        for type_, of_type in _by_type(challenges, means):
            type_.present(of_type)
    return means.txt.lag_s if means.txt.lag_s > BUDGET.total_seconds() else 0.0


def ready(challenges: Sequence[Challenge], edges: Edges) -> None:
    """Return as soon as the CA would find every response."""
    for type_, of_type in _by_type(challenges, _Means(edges, uncounted)):
        type_.ready(of_type)


def clean_up(challenges: Sequence[Challenge], edges: Edges, spend: Spend = uncounted) -> None:
    """Take the responses away."""
    for type_, of_type in _by_type(challenges, _Means(edges, spend)):
        type_.clean_up(of_type)


def respond(step: st.Respond, state: State, edges: Edges) -> tuple[ev.AnyEvent, ...]:
    """See that the responses are there, then let the CA look at them.

    A server that does not show them is passed over if the step says so: the CA asks from elsewhere, and judges.
    """
    order = state.orders[step.key_type]
    passed_over = ""
    try:
        ready(order.challenges, edges)
    except Transient as error:
        seen = isinstance(error, NotYet) and error.seen
        if not (step.waits_for == "none" or (step.waits_for == "answering" and seen)):
            return ev.ResponseNotSeen(key_type=step.key_type), failed(error, step.lane)
        passed_over = error.detail
    try:
        edges.issuer(order.ca).answer(order.url)
    except Rejected as error:
        return ev.OrderAbandoned(key_type=step.key_type), failed(error, step.lane)
    return (ev.OrderReady(key_type=step.key_type, passed_over=passed_over, lane=step.lane),)


def _by_type(challenges: Sequence[Challenge], means: _Means) -> Iterator[tuple[ChallengeType, list[Challenge]]]:
    """Each type that occurs, with its challenges.

    Raises:
        Misconfigured: `ca.challenge_type`: The journal has a type that this version does not know.
    """
    for name in dict.fromkeys(challenge.type for challenge in challenges):
        if name not in TYPES:
            raise Misconfigured("ca.challenge_type", f"unknown challenge type {name}", "install a newer certagent")
        yield TYPES[name](means), [challenge for challenge in challenges if challenge.type == name]
