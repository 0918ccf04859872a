"""Challenges are presented, seen, answered and cleaned up, each by its type (`acme/challenges`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from certagent.acme.challenges import TYPES
from certagent.acme.challenges.protocol import ChallengeType
from certagent.agent.act import hiding
from certagent.agent.act.outcome import failed
from certagent.agent.act.records import add_txt, remove_txt
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

    def __init__(self, edges: Edges, hosts: frozenset[str]) -> None:
        self._edges = edges
        self._hosts = hosts

    def final(self, name: str) -> tuple[str, str]:
        return self._edges.resolver().final(name)

    def add(self, zone: str, name: str, values: frozenset[str]) -> None:
        hiding.refuse(zone, name, self._edges, only=self._hosts)
        add_txt(self._edges.zones, zone, name, values, TXT_TTL_S)

    def remove(self, zone: str, name: str, values: frozenset[str]) -> None:
        remove_txt(self._edges.zones, zone, name, values)

    def seen(self, name: str, values: frozenset[str], budget: timedelta) -> None:
        self._edges.resolver().wait_for_txt(name, values, budget)


class _Means:
    """What challenge types may use."""

    def __init__(self, edges: Edges, hosts: frozenset[str]) -> None:
        self.txt = _Txt(edges, hosts)


def present(challenges: Sequence[Challenge], spec: Spec, edges: Edges) -> None:
    """Put the responses where the CA looks.

    Raises:
        Unsafe: `dns.wildcard_address`: A mail host would lose its address.
    """
    with hiding.explained([one.name for one in challenges], edges):
        for type_, of_type in _by_type(challenges, edges, hiding.mail_hosts(spec)):
            type_.present(of_type)


def ready(challenges: Sequence[Challenge], edges: Edges) -> None:
    """Return as soon as the CA would find every response."""
    for type_, of_type in _by_type(challenges, edges):
        type_.ready(of_type)


def clean_up(challenges: Sequence[Challenge], edges: Edges) -> None:
    """Take the responses away."""
    for type_, of_type in _by_type(challenges, edges):
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


def _by_type(
    challenges: Sequence[Challenge], edges: Edges, hosts: frozenset[str] = frozenset()
) -> Iterator[tuple[ChallengeType, list[Challenge]]]:
    """Each type that occurs, with its challenges.

    Raises:
        Misconfigured: `ca.challenge_type`: The journal has a type that this version does not know.
    """
    means = _Means(edges, hosts)
    for name in dict.fromkeys(challenge.type for challenge in challenges):
        if name not in TYPES:
            raise Misconfigured("ca.challenge_type", f"unknown challenge type {name}", "install a newer certagent")
        yield TYPES[name](means), [challenge for challenge in challenges if challenge.type == name]
