"""Records that nobody declared: DNS is asked for them before a key changes at a service without `tlsa: true`.

A sender uses such records like any others (RFC 7672 section 2.2), so the gate before the swap counts them. certagent
never adds or removes one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from certagent.lifecycle import gates, schedule
from certagent.lifecycle.rules.rule import Offer, View
from certagent.lifecycle.steps import Observe, Wait
from certagent.lifecycle.tlsaname import TlsaName


def observe_undeclared(view: View) -> Iterator[Offer]:
    """Asked while a swap to another key or issuer is due; what stands against it, at the pace of failures."""
    newest = view.state.newest
    if newest is None:
        return
    for server in view.spec.mail_servers:
        at = view.state.mail_servers.get(server.name)
        if at is not None and at.generation == newest.id and at.phase not in ("installing", "drifted"):
            continue  # in those it is installed again
        for name in gates.names_that_roll(view.names, server.name, newest):
            if name.undeclared:
                yield _observe(view, name, bool(gates.refused(name, newest, view.now)))


def _observe(view: View, name: TlsaName, refused: bool) -> Offer:
    because = "a swap is due, and the service has no `tlsa: true`"
    if name.known.observed_at and not refused:  # what is refused is a failure, and waits for its back-off
        left = schedule.OBSERVE_AT_MOST - view.now.since(name.known.observed_at)
        if left > timedelta(0):
            return Wait(left, f"{name} is observed again: {because}")
    return Observe(tlsa_name=name.name, mail_servers=name.mail_servers, undeclared=True, because=because)
