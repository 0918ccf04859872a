"""Whether everything that was begun is over: what `renew --wait` waits for."""

from __future__ import annotations

from certagent.lifecycle import rollover
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State


def converged(spec: Spec, state: State) -> bool:
    """The newest certificate is all that is served and proven, the records are as they should be at every server,
    and no request is open. A TLSA name that stays unpublished for a reason outside (an unsigned zone) is not waited
    for.
    """
    if state.newest is None or not rollover.rolled(spec, state) or state.requested or state.challenges:
        return False
    if state.orders:
        return False
    chains = state.newest.chains
    if set(chains) != set(spec.key_types) or any(not set(spec.names) <= set(c.names) for c in chains.values()):
        return False
    if spec.standby and spec.tlsa_names and state.next_keys is None:
        return False
    for name in rollover.tlsa_names(spec, state):
        if name in spec.tlsa_names and rollover.publication_blocked(spec, state, name):
            continue
        if rollover.unfollowed(spec, state, name):
            return False
    return True
