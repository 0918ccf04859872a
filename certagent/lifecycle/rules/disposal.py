"""What is not needed any more goes: a roll that is given up, compromised certificates, old keys, mail servers."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from certagent.facts.moment import Instant
from certagent.lifecycle import rollover, schedule
from certagent.lifecycle.rules.rule import Offer
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.steps import Delete, Revoke


def delete_mail_servers(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """What is known of a mail server that is not configured any more is soon out of date: should it come back, it is
    surveyed like a new one. It counts for as long as the TLSA names of it may.
    """
    gone = tuple(sorted(state.mail_servers.keys() - {server.name for server in spec.mail_servers}))
    if gone and not state.pending_delete and state.tlsa_names.keys() <= spec.tlsa_names.keys():
        yield Delete(mail_servers=gone, because="not configured any more")


def abort(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """A roll is given up before the swap: its keys were never served, so they may go at any time."""
    if state.requested is None or state.requested.what != "abort":
        return
    installed = {id_ for t in state.mail_servers.values() for id_ in t.serves}
    pending_delete = [g for g in state.generations if not g.unmanaged and g.id not in installed]
    served = {g.keys for g in state.generations if g.id in installed}
    keys = tuple(k.id for k in state.keys if k.id not in served)
    yield Delete(generations=tuple(g.id for g in pending_delete), keys=keys, because="the operator asked: abort")


def delete(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """Old keys are deleted once they are served nowhere, published nowhere, and no roll-back would want them."""
    if state.pending_delete:
        pending_delete = state.pending_delete
        yield replace(pending_delete, because="deleting was interrupted")
        return
    if state.newest is None or not rollover.rolled(spec, state) or state.orders:
        return
    kept = {id_ for at in state.mail_servers.values() for id_ in at.serves} | {state.newest.id}
    generations = tuple(g.id for g in state.generations if g.id not in kept and not g.revoke)
    wanted = {g.keys for g in state.generations if g.id not in generations} | {k.id for k in (state.next_keys,) if k}
    published = {v for o in state.tlsa_names.values() for v in rollover.seen_somewhere(o)}
    keys = tuple(
        k.id
        for k in state.keys
        if k.id not in wanted and not any(f"3 1 1 {spki}" in published for spki in k.spki.values())
    )
    tlsa_names = tuple(
        name
        for name, known in state.tlsa_names.items()
        if name not in spec.tlsa_names
        and all(h.values == frozenset() for h in rollover.cached(spec, known, now))
        and rollover.empty(known)
        and (not (known.changed_at and known.observed_at) or known.observed_at.since(known.changed_at) > schedule.LATE)
    )
    if generations or keys or tlsa_names:
        yield Delete(
            generations=generations,
            keys=keys,
            tlsa_names=tlsa_names,
            because="nothing serves or publishes them any more",
        )


def revoke(spec: Spec, state: State, now: Instant) -> Iterator[Offer]:
    """A compromised key's certificates are revoked as soon as no configured mail server serves them."""
    served = {
        id_ for t in spec.mail_servers if t.name in state.mail_servers for id_ in state.mail_servers[t.name].serves
    }
    for generation in state.generations:
        if generation.revoke and generation.id not in served:
            yield Revoke(generation=generation.id, because="its key is compromised, and nothing serves it any more")
