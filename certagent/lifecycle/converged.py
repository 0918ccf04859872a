"""Whether everything that was begun is over: what `renew --wait` waits for."""

from __future__ import annotations

from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaNames


def converged(spec: Spec, state: State) -> bool:
    """The newest certificate is all that is served and verified, the records are as they should be at every server,
    and no request is open. A TLSA name that stays unpublished for a reason outside (an unsigned zone) is not waited
    for.
    """
    if state.newest is None or not rolled(spec, state) or state.requested or state.challenges:
        return False
    if state.orders:
        return False
    chains = state.newest.chains
    if set(chains) != set(spec.key_types) or any(not set(spec.names) <= set(c.names) for c in chains.values()):
        return False
    if spec.standby and spec.tlsa_names and state.next_keys is None:
        return False
    return not any(
        name.unfollowed for name in TlsaNames(spec, state) if not (name.configured and name.publication_blocked)
    )


def rolled(spec: Spec, state: State) -> bool:
    """The newest generation is all that any mail server serves, and verified."""
    newest = state.newest
    installed = [state.mail_servers.get(server.name) for server in spec.mail_servers]
    return newest is not None and all(
        at and at.phase == "drained" and at.serves == (newest.id,) and not at.strange for at in installed
    )
