"""Whether everything that was begun is over: what `renew --wait` waits for."""

from __future__ import annotations

from certagent.lifecycle import rollover
from certagent.lifecycle.model import Spec
from certagent.lifecycle.state import State


def settled(spec: Spec, state: State) -> bool:
    """The newest certificate is all that is served and proven, the records are as they should be at every server,
    and no request is open. A TLSA name that stays unpublished for a reason outside (an unsigned zone) is not waited
    for.
    """
    if state.newest is None or not rollover.rolled(spec, state) or state.requested or state.challenges:
        return False
    if state.orders:
        return False
    leaves = state.newest.leaves
    if set(leaves) != set(spec.algorithms) or any(not set(spec.names) <= set(c.names) for c in leaves.values()):
        return False
    if spec.standby and spec.owners and state.next_keys is None:
        return False
    for name in rollover.owners(spec, state):
        if name in spec.owners and rollover.withheld(spec, state, name):
            continue
        if rollover.unfollowed(spec, state, name):
            return False
    return True
