"""Whether the parent of a zone delegates to the servers that the zone lists: senders' resolvers come from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from certagent.agent.edges import Edges
from certagent.errors import Error
from certagent.facts.dns import Delegation
from certagent.facts.unknown import Unknown
from certagent.report.findings import Finding

_REGISTRAR = "where the domain is registered"


def findings(names: Iterable[str], edges: Edges) -> Iterator[Finding]:
    """One or more of each zone that holds one of the names."""
    zones: dict[str, Delegation] = {}
    for name in names:
        try:
            one = edges.resolver().delegation(name)
        except Error as error:
            yield Finding("note", f"delegation of {name}", f"it cannot be looked up: {error}", error.hint)
            continue
        zones.setdefault(one.zone, one)
    for one in zones.values():
        yield from _compared(one)


def _compared(one: Delegation) -> Iterator[Finding]:
    what, delegated = f"delegation of {one.zone}", one.delegated
    if isinstance(delegated, Unknown):
        at = f" at {one.parent}" if one.parent else ""
        hint = "senders' resolvers come from there; this host asked the servers that the zone lists"
        yield Finding("note", what, f"it cannot be asked for{at}: {delegated.why}", hint)
        return
    if not delegated:
        hint = f"if the world shall see it: delegate it in {one.parent}; this host may be shown another view"
        yield Finding("warning", what, f"the parent {one.parent} has none: for the world there is no such zone", hint)
        return
    if more := sorted(delegated.keys() - one.listed):
        said = (
            f"the parent {one.parent} names {', '.join(more)}, and the zone does not: senders' resolvers ask there, too"
        )
        hint = f"add it to the NS records of {one.zone}, or remove it {_REGISTRAR}"
        yield Finding("warning", what, said, hint)
    if less := sorted(one.listed - delegated.keys()):
        said = f"the zone lists {', '.join(less)}, and the parent {one.parent} does not"
        hint = f"add it {_REGISTRAR}, or remove it from the NS records of {one.zone}"
        yield Finding("note", what, said, hint)
    stale = {
        name: ", ".join(wrong)
        for name, glue in delegated.items()
        if (wrong := sorted(set(glue) - set(one.addresses.get(name, glue))))
    }
    for name, wrong in stale.items():
        has = ", ".join(one.addresses[name]) or "no address"
        said = f"the parent {one.parent} gives {wrong} as address of {name}, which has {has}: resolvers ask there, too"
        yield Finding("warning", what, said, f"correct the address of {name} {_REGISTRAR} (glue record)")
    if not (more or less or stale):
        yield Finding("ok", what, f"the parent {one.parent} names the servers that the zone lists")
