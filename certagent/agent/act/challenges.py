"""Challenges are presented, seen, answered and cleaned up, each by its type (`acme/challenges`)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta

from msgspec.structs import replace

from certagent.acme.challenges import loaded
from certagent.acme.challenges.dns01 import BUDGET
from certagent.acme.challenges.protocol import ChallengeType
from certagent.agent.act import hiding
from certagent.agent.act.outcome import failed
from certagent.agent.act.records import add_txt, remove_txt
from certagent.agent.act.spending import Spend, uncounted
from certagent.agent.edges import Edges
from certagent.errors import Misconfigured, NotYet, Rejected, Transient
from certagent.facts.challenge import TYPES, Challenge
from certagent.host.listener import Listeners
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

    def values(self, name: str) -> frozenset[str]:
        return self._edges.resolver().txt(name)

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

    def __init__(self, spec: Spec, edges: Edges, spend: Spend = uncounted) -> None:
        self.method = spec.challenge
        self.txt = _Txt(edges, spend, hiding.mail_hosts(spec))
        self._edges = edges

    @property
    def listeners(self) -> Listeners:
        return self._edges.listeners()

    def addresses(self, host: str) -> tuple[str, ...]:
        return self._edges.resolver().addresses(host)


def present(challenges: Sequence[Challenge], spec: Spec, edges: Edges, spend: Spend = uncounted) -> float:
    """Put the responses where the CA asks. How long it usually takes until they are shown, in seconds; zero if
    `ready` asks for as long in any case.

    Raises:
        Unsafe: `dns.wildcard_address`: A mail host would lose its address.
        Misconfigured: `challenge.port`: The port at which certagent would listen is in use.
    """
    means = _Means(spec, edges, spend)
    with hiding.explained([one.name for one in challenges], edges):
        for type_, of_type in _by_type(challenges, means):
            type_.present(of_type)
    return means.txt.lag_s if means.txt.lag_s > BUDGET.total_seconds() else 0.0


@contextmanager
def serving(challenges: Sequence[Challenge], spec: Spec, edges: Edges) -> Generator[None]:
    """Within, this process gives the responses that it has to give itself.

    Raises:
        Misconfigured: `challenge.port`.
        Transient: `challenge.busy`.
    """
    with ExitStack() as stack:
        for type_, of_type in _by_type(challenges, _Means(spec, edges)):
            stack.enter_context(type_.serving(of_type))
        yield


def ready(challenges: Sequence[Challenge], spec: Spec, edges: Edges) -> str:
    """Return as soon as the CA would find every response; in words, what this host does not see and the CA may."""
    said = [type_.ready(of_type) for type_, of_type in _by_type(challenges, _Means(spec, edges))]
    return "; ".join(filter(None, said))


def clean_up(challenges: Sequence[Challenge], spec: Spec, edges: Edges, spend: Spend = uncounted) -> None:
    """Take the responses away."""
    for type_, of_type in _by_type(challenges, _Means(spec, edges, spend)):
        type_.clean_up(of_type)


def respond(step: st.Respond, spec: Spec, state: State, edges: Edges) -> tuple[ev.AnyEvent, ...]:
    """See that the responses are there, then let the CA check them.

    A server that does not show them is passed over if the step says so: the CA asks from elsewhere, and judges.
    """
    order = state.orders[step.key_type]
    with serving(order.challenges, spec, edges):
        try:
            passed_over = ready(order.challenges, spec, edges)
        except Transient as error:
            seen = isinstance(error, NotYet) and error.seen
            if not (step.waits_for == "none" or (step.waits_for == "answering" and seen)):
                return ev.ResponseNotSeen(key_type=step.key_type), failed(error, step.lane)
            passed_over = error.detail
        types = [one.type for one in order.challenges] or [spec.challenge.type]
        try:
            edges.issuer(order.ca).answer(order.url, types[0])
        except Rejected as error:
            happened = failed(error, step.lane)
            if passed_over:  # the CA may well have met the same
                happened = replace(happened, detail=f"{happened.detail}; seen from this host: {passed_over}")
            return ev.OrderAbandoned(key_type=step.key_type), happened
    return (ev.OrderReady(key_type=step.key_type, passed_over=passed_over, lane=step.lane),)


def _by_type(challenges: Sequence[Challenge], means: _Means) -> Iterator[tuple[ChallengeType, list[Challenge]]]:
    """Each type that occurs, with its challenges.

    Raises:
        Misconfigured: `ca.challenge_type`: The journal has a type that this version does not know.
    """
    for name in dict.fromkeys(challenge.type for challenge in challenges):
        if name not in TYPES:
            raise Misconfigured("ca.challenge_type", f"unknown challenge type {name}", "install a newer certagent")
        yield loaded(name)(means), [challenge for challenge in challenges if challenge.type == name]
