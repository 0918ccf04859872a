"""What the configuration does not say: records at services without `tlsa: true`, and names of what is served today."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from certagent.agent.edges import Edges
from certagent.errors import Error
from certagent.facts.tls import Chain, Served
from certagent.lifecycle import caches
from certagent.lifecycle.dropped import dropped, in_words
from certagent.lifecycle.gates import remedy
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.pki import tlsa
from certagent.pki.names import tlsa_name
from certagent.report.findings import Finding, Outcome


def findings(
    spec: Spec, state: State, served: Iterable[Served], edges: Edges, now: datetime, *, ahead: bool = False
) -> Iterator[Finding]:
    """What a swap would be refused for. `ahead`: the swap is rehearsed, so what refuses it is an error."""
    met: dict[str, list[Chain]] = {}
    for one in served:
        if isinstance(one.chain, Chain):
            met.setdefault(tlsa_name(one.host, one.port), []).append(one.chain)
    first = _first(spec, state)
    refused: Outcome = "error" if ahead and first else "warning"
    for name in spec.undeclared:
        yield from _records(name, met.get(name, []), edges, refused)
    ours = {chain.spki for g in state.generations if not g.unmanaged for chain in g.chains.values()}
    theirs = [chain for chains in met.values() for chain in chains if chain.spki not in ours]
    if first and (lost := dropped(spec, theirs, spec.names, now)):
        yield Finding(refused, f"names of {spec.name}", *in_words(spec, lost))


def _first(spec: Spec, state: State) -> bool:
    """Some mail server serves nothing of certagent's yet."""
    found = (state.mail_servers.get(server.name) for server in spec.mail_servers)
    return any(at is None or at.generation is None for at in found)


def _records(name: str, met: list[Chain], edges: Edges, refused: Outcome) -> Iterator[Finding]:
    what = f"DNS {name}"
    try:
        seen = edges.resolver().observe(name, expect=None, gone=frozenset(), budget=timedelta(0), unproven=True)
    except Error as error:
        yield Finding("note", what, f"whether it has TLSA records cannot be said: {error}", error.hint)
        return
    sets = [answer.values for answer in caches.known(seen)]
    records = sorted(frozenset[str]().union(*sets))
    matched = [v for v in records if tlsa.usable(v) and any(tlsa.matches(v, chain) is not False for chain in met)]
    undeclared = f"{', '.join(records)}: the service has no `tlsa: true`"
    if not sets:
        detail = "whether it has TLSA records cannot be said: none of its servers was heard"
        yield Finding("note", what, detail, "without an answer no swap to another key is made")
    elif any(value.startswith("3") for value in matched):
        yield Finding(refused, what, f"{undeclared}, and a swap to a key that does not match is refused", remedy(name))
    elif records and not matched:
        yield Finding("note", what, f"{undeclared}, and nothing that is served matches", remedy(name))
    elif records:
        yield Finding(
            "note", what, f"{undeclared}, and a swap to an issuer that does not match is refused", remedy(name)
        )
