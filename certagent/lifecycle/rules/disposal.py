"""What is not needed any more goes: a roll that is given up, compromised certificates, old keys, mail servers."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from certagent.facts.moment import Instant
from certagent.lifecycle import schedule
from certagent.lifecycle.converged import rolled
from certagent.lifecycle.rules.rule import Offer, View
from certagent.lifecycle.steps import Delete, Revoke, Verify
from certagent.lifecycle.tlsaname import TlsaName
from certagent.pki import tlsa


def delete_mail_servers(view: View) -> Iterator[Offer]:
    """What is known of a mail server that is not configured any more is soon out of date, also that it fails.

    Should it come back, it is inspected like a new one. Until its TLSA names have gone it counts.
    """
    spec, state = view.spec, view.state
    configured = {server.name for server in spec.mail_servers}
    failing = {failure.lane.subject for failure in state.failing if failure.lane.at_mail_server}
    never_met = failing - configured - state.mail_servers.keys()
    if never_met and not state.pending_delete:
        yield Delete(mail_servers=tuple(sorted(never_met)), because="not configured any more, and it only failed")
    gone = tuple(sorted(state.mail_servers.keys() - configured))
    kept = {name for name, known in state.tlsa_names.items() if not known.undeclared}
    if gone and not state.pending_delete and kept <= spec.tlsa_names.keys():
        yield Delete(mail_servers=gone, because="not configured any more")


def abort(view: View) -> Iterator[Offer]:
    """A roll is given up before the swap: its keys were never served, so they may go as soon as that is verified.

    Where a verification fails, what it met counts; a mail server that is not met serves nobody.
    """
    state = view.state
    if state.requested is None or state.requested.what != "abort":
        return
    for server in view.spec.mail_servers:
        at = state.mail_servers.get(server.name)
        if at is None or at.generation is None or at.phase != "drained" or schedule.fresh(at.verified_at, view.now):
            continue
        because = "verified afresh before keys are deleted"
        verify = Verify(server=server.name, generation=at.generation, drained=True, because=because)
        if not state.failure(verify.lane):
            yield verify
            return
    installed = {id_ for t in state.mail_servers.values() for id_ in t.serves}
    pending_delete = [g for g in state.generations if not g.unmanaged and g.id not in installed]
    # by the key itself: an old state that was brought back does not know which chain of it is served
    strange = {chain.spki for t in state.mail_servers.values() for chain in t.strange}
    served = strange | {chain.spki for g in state.generations if g.id in installed for chain in g.chains.values()}
    keys = tuple(k.id for k in state.keys if served.isdisjoint(k.spki.values()))
    yield Delete(generations=tuple(g.id for g in pending_delete), keys=keys, because="the operator asked: abort")


def delete(view: View) -> Iterator[Offer]:
    """Old keys are deleted once they are served nowhere, published nowhere, and no roll-back would want them."""
    spec, state, names, now = view
    if state.pending_delete:
        yield replace(state.pending_delete, because="deleting was begun, its end is not known")
        return
    if state.newest is None or not rolled(spec, state) or state.orders:
        return
    kept = {id_ for at in state.mail_servers.values() for id_ in at.serves} | {state.newest.id}
    generations = tuple(g.id for g in state.generations if g.id not in kept and not g.revoke)
    wanted = {g.keys for g in state.generations if g.id not in generations} | {k.id for k in (state.next_keys,) if k}
    published = {value for name in names for value in name.seen_somewhere}
    keys = tuple(
        k.id
        for k in state.keys
        if k.id not in wanted and not any(tlsa.of_key(spki) in published for spki in k.spki.values())
    )
    tlsa_names = tuple(name.name for name in names if not name.configured and _over(name, now))
    tlsa_names += tuple(name.name for name in names.forgotten)
    if generations or keys or tlsa_names:
        yield Delete(
            generations=generations,
            keys=keys,
            tlsa_names=tlsa_names,
            because="nothing serves or publishes them any more",
        )


def _over(name: TlsaName, now: Instant) -> bool:
    """No server gives records of a withdrawn name, no cache may have any, and no late change can bring some back."""
    changed_at, observed_at = name.known.changed_at, name.known.observed_at
    late = changed_at and observed_at and observed_at.since(changed_at) <= schedule.LATE
    return name.empty and not late and all(item.values == frozenset() for item in name.cached(now))


def revoke(view: View) -> Iterator[Offer]:
    """A compromised key's certificates are revoked as soon as no configured mail server serves them."""
    at = [view.state.mail_servers.get(server.name) for server in view.spec.mail_servers]
    served = {id_ for one in at if one for id_ in one.serves}
    strange = [chain for one in at if one for chain in one.strange]
    for generation in view.state.generations:
        met = any(chain in strange for chain in generation.chains.values())
        if generation.revoke and generation.id not in served and not met:
            yield Revoke(
                generation=generation.id,
                ca=generation.ca,
                because="its key is compromised, and nothing serves it any more",
            )
