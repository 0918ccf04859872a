"""Records: TLSA sets and TXT values are written, each write with what was read as its precondition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from certagent.agent.act import hiding
from certagent.agent.act.outcome import Note, failed
from certagent.agent.act.spending import Spend, uncounted
from certagent.agent.edges import Edges, Zones
from certagent.dns.providers.protocol import Capabilities, Changed, Provider, RRset
from certagent.errors import Error, Misconfigured, NotAtomic, Transient, Unsafe, Wildcard
from certagent.facts.dns import Value
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain
from certagent.lifecycle import events as ev
from certagent.lifecycle import gates
from certagent.lifecycle import steps as st
from certagent.lifecycle.fold import fold
from certagent.lifecycle.setchange import harmless, one_at_a_time
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaName, TlsaNames

ATTEMPTS = 3
"""How often one change is tried if somebody else writes the same set in between. One that goes on needs a person."""

T = TypeVar("T")


def observe(step: st.Observe, spec: Spec, state: State, edges: Edges, now: Instant) -> tuple[ev.AnyEvent, ...]:
    """Ask DNS. Of records that nobody declared, those that stand against the swap that is due are a failure as well."""
    observation = edges.resolver().observe(
        step.tlsa_name, expect=step.expect, gone=step.gone, budget=step.budget, unproven=step.undeclared
    )
    observed = ev.Observed(
        tlsa_name=step.tlsa_name,
        observation=observation,
        mail_servers=step.mail_servers,
        undeclared=step.undeclared,
        early=state.tlsa_name(step.tlsa_name).early(now),
        lane=step.lane,
    )
    if step.undeclared and state.newest:
        after = TlsaNames(spec, fold(state, observed, now))
        if against := gates.refused(after[step.tlsa_name], state.newest, now):
            # without its lane, as the failure goes on
            return replace(observed, lane=None), failed(_refusal(against), step.lane)
    return (observed,)


def _refusal(against: gates.Obstacle) -> Error:
    if not against.lasting:
        hint = "the key is kept until one of its servers answers, or what is served is about to expire"
        return Transient("dns.unreachable", f"nobody can say whether there are TLSA records: {against}", hint)
    values = ", ".join(sorted(against.tlsa_name.seen_somewhere))
    return Misconfigured("dane.undeclared", f"{against}: {values}", gates.remedy(against.tlsa_name.name))


def write_tlsa(step: st.Publish | st.Unpublish, tlsa_name: TlsaName, edges: Edges, note: Note, spend: Spend) -> None:
    """Add or remove TLSA values: in one change, or value by value at a provider whose changes are not atomic.

    Before each write the set is read, and the sets before and after are journaled: caches may take both. The write
    carries what was read as its precondition.

    Raises:
        Unsafe: `dane.gate`, `dns.not_atomic`: A set would come to be that breaks what is served. `dns.wildcard`:
            The set would be empty, and a wildcard would give its records in its place. `dns.wildcard_address`: A host
            would lose the address that it has from a wildcard.
        Transient: `dns.budget`: The provider takes no more writes for now.
    """
    zone, name = _where(tlsa_name, edges)
    if isinstance(step, st.Publish):
        hiding.refuse(zone, name, edges)
    with hiding.explained([tlsa_name.name], edges), edges.zones.writing(zone, name) as provider:

        def before_write(event: ev.Superseding) -> None:
            spend(zone, provider.capabilities)
            note(event)

        left = step.values
        if isinstance(step, st.Unpublish):
            _refuse_to_uncover(provider.get(name, "TLSA"), left, zone, name, edges)
        while left:
            left = _try_again(partial(_change_tlsa, step, name, left, tlsa_name.minded, provider, before_write))


def _refuse_to_uncover(found: RRset | None, values: frozenset[Value], zone: str, name: str, edges: Edges) -> None:
    """A wildcard answers for a name as soon as that has no records (RFC 4592 section 2.2.1), with other keys."""
    if found is None or not found.values <= values:
        return
    if wildcards := edges.resolver().wildcards(zone, name):
        detail = f"{name} keeps its records: without them {', '.join(wildcards)} would answer for it, with other keys"
        raise Wildcard("dns.wildcard", detail, "remove the TLSA records (or the CNAME) of the wildcard first")


def _change_tlsa(
    step: st.Publish | st.Unpublish,
    name: str,
    values: frozenset[Value],
    served: Sequence[Chain],
    provider: Provider,
    before_write: Callable[[ev.Superseding], None],
) -> frozenset[Value]:
    """One read and at most one write; what is left to do."""
    found = provider.get(name, "TLSA")
    capabilities = provider.capabilities  # which know more of a zone that was read
    before, ttl_s = (found.values, found.ttl_s) if found else (frozenset[str](), 0)
    adds = isinstance(step, st.Publish)
    wanted_s = max(step.ttl_s, capabilities.ttl_floor_s) if adds else ttl_s
    wanted = values
    if not adds or ttl_s == wanted_s or capabilities.ttl_scope != "set":
        values = values - before if adds else values & before
    if not values:
        if capabilities.on_command:
            _write(provider, step, name, wanted, found)
        return values
    change = _first(before, values, served, capabilities, step.tlsa_name, adds=adds)
    before_write(
        ev.Superseding(
            tlsa_name=step.tlsa_name,
            before=before,
            before_ttl_s=ttl_s,
            after=before | change if adds else before - change,
            after_ttl_s=max(ttl_s, wanted_s),
            publish_lag_s=capabilities.publish_lag_s,
        )
    )
    _write(provider, step, name, change, found)
    return values - change


def _write(
    provider: Provider, step: st.Publish | st.Unpublish, name: str, values: frozenset[Value], found: RRset | None
) -> None:
    if isinstance(step, st.Publish):
        provider.add(name, "TLSA", values, step.ttl_s, found)
    else:
        provider.remove(name, "TLSA", values, found)


def _first(
    before: frozenset[Value],
    values: frozenset[Value],
    served: Sequence[Chain],
    capabilities: Capabilities,
    tlsa_name: str,
    *,
    adds: bool,
) -> frozenset[Value]:
    """The first of the changes that lead there."""
    if not harmless(before, values, served, adds=adds):
        against = f"{tlsa_name}: with what the provider has now, a record type would match nothing that is served"
        raise Unsafe("dane.gate", against, "certagent status shows what the servers answer and what is served")
    if capabilities.atomic:
        return values
    order = one_at_a_time(before, values, served, adds=adds)
    if order is None:
        against = f"{tlsa_name}: several keys are served, and this provider makes no change of several records at once"
        hint = "use a provider whose changes are atomic, or list one type of key until the change is made"
        raise NotAtomic("dns.not_atomic", against, hint)
    return frozenset(order[:1])


def _try_again(change: Callable[[], T]) -> T:
    """The change, made again from its reading on if the set was changed in between."""
    for _ in range(ATTEMPTS - 1):
        try:
            return change()
        except Changed:
            continue
    return change()


def _where(tlsa_name: TlsaName, edges: Edges) -> tuple[str, str]:
    """The zone and name to write at, if they are still those of the last observation."""
    zone, name = edges.resolver().final(tlsa_name.name)
    seen = tlsa_name.known.observation
    if seen is None or (zone, name) != (seen.zone, seen.name):
        raise Transient(
            "dns.moved", f"{tlsa_name.name} leads to {name} now, and was seen to lead elsewhere", "it is observed again"
        )
    return zone, name


def add_txt(zones: Zones, zone: str, name: str, values: frozenset[str], ttl_s: int, spend: Spend = uncounted) -> float:
    """Add TXT values beside those of others.

    Returns how long the provider usually takes from now on to show them, in seconds.
    """
    with zones.writing(zone, name) as provider:

        def change() -> bool:
            found = provider.get(name, "TXT")
            new = not found or not values <= found.values
            if new:
                spend(zone, provider.capabilities)
            if new or provider.capabilities.on_command:
                provider.add(name, "TXT", values, ttl_s, found)
            return new

        new, able = _try_again(change), provider.capabilities
        # of what is there already nobody has said that it is published: the answer to an earlier write may be lost
        return 0.0 if new and able.propagation_status else able.publish_lag_s


def remove_txt(zones: Zones, zone: str, name: str, values: frozenset[str], spend: Spend = uncounted) -> None:
    """Remove TXT values."""
    with zones.writing(zone, name) as provider:

        def change() -> None:
            found = provider.get(name, "TXT")
            there = found is not None and not values.isdisjoint(found.values)
            if there:
                spend(zone, provider.capabilities)
            if there or provider.capabilities.on_command:
                provider.remove(name, "TXT", values, found)

        _try_again(change)
