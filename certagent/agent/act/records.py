"""TLSA sets are written."""

from __future__ import annotations

from certagent.agent.act.outcome import Note
from certagent.agent.edges import Edges
from certagent.errors import Transient
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.state import State


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
    """The zone and name to write at, if they are still those of the last observation."""
    zone, name = edges.resolver().final(tlsa_name)
    seen = state.tlsa_names[tlsa_name].observation
    if seen is None or (zone, name) != (seen.zone, seen.name):
        raise Transient(
            "dns.moved", f"{tlsa_name} leads to {name} now, and was seen to lead elsewhere", "it is looked at again"
        )
    return zone, name
