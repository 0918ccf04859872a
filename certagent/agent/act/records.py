"""Records: TLSA sets are written, challenges are presented, seen and removed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from certagent.agent.act.outcome import Note, failed
from certagent.agent.edges import Edges
from certagent.errors import Rejected, Transient
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.state import State

TXT_TTL_S = 60
"""Nobody should keep a challenge longer than it lives; providers with a minimum raise it."""
SETTLE_TXT = timedelta(seconds=10)
"""How long one step asks for the challenge at every authoritative server; slower ones are asked again with back-off."""


def write_tlsa(step: st.Publish | st.Unpublish, state: State, edges: Edges, note: Note) -> None:
    """Add or remove TLSA values; the sets before and after are journaled before the write."""
    zone, name = _where(step.tlsa_name, state, edges)
    with edges.zones.writing(zone, name) as provider:
        found = provider.get(name, "TLSA")
        before, ttl_s = (found.values, found.ttl_s) if found else (frozenset[str](), 0)
        adds = isinstance(step, st.Publish)
        after = before | step.values if adds else before - step.values
        after_ttl_s = max(ttl_s, step.ttl_s) if adds else ttl_s
        note(
            ev.Superseding(
                tlsa_name=step.tlsa_name, before=before, before_ttl_s=ttl_s, after=after, after_ttl_s=after_ttl_s
            )
        )
        if adds:
            provider.add(name, "TLSA", step.values, step.ttl_s)
        else:
            provider.remove(name, "TLSA", step.values)


def _where(tlsa_name: str, state: State, edges: Edges) -> tuple[str, str]:
    """The zone and name to write at, if they are still those that the last look was about."""
    zone, name = edges.resolver().final(tlsa_name)
    seen = state.tlsa_names[tlsa_name].observation
    if seen is None or (zone, name) != (seen.zone, seen.name):
        raise Transient(
            "dns.moved", f"{tlsa_name} leads to {name} now, and was seen to lead elsewhere", "it is looked at again"
        )
    return zone, name


def _by_name(challenges: tuple[tuple[str, str], ...], edges: Edges) -> dict[tuple[str, str], frozenset[str]]:
    """The values at each final (zone, name)."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for name in dict.fromkeys(n for n, _ in challenges):
        final = edges.resolver().final(name)
        found[final] = found.get(final, frozenset()) | {v for n, v in challenges if n == name}
    return found


def write_txt(challenges: tuple[tuple[str, str], ...], edges: Edges, *, add: bool) -> None:
    """Add or remove challenges."""
    for (zone, name), values in _by_name(challenges, edges).items():
        with edges.zones.writing(zone, name) as provider:
            if add:
                provider.add(name, "TXT", values, TXT_TTL_S)
            else:
                provider.remove(name, "TXT", values)


def respond(step: st.Respond, state: State, edges: Edges) -> tuple[ev.AnyEvent, ...]:
    """Wait until every authoritative server gives the challenges, then tell the CA."""
    order = state.orders[step.key_type]
    resolver = edges.resolver()
    places = {name: values for (_, name), values in _by_name(order.challenges, edges).items()}

    def settle(name: str) -> None:
        resolver.settle_txt(name, places[name], SETTLE_TXT)

    with ThreadPoolExecutor(max_workers=8) as pool:  # eight names at once keep the servers' rate limits content
        list(pool.map(settle, places))
    try:
        edges.issuer().answer(order.url)
    except Rejected as error:
        return ev.OrderAbandoned(key_type=step.key_type), failed(error, step.work)
    return (ev.OrderReady(key_type=step.key_type, work=step.work),)
