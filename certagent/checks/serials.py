"""Whether all servers of a zone are at one serial: one that is late gives senders what was there before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from certagent.agent.edges import Edges
from certagent.errors import Error
from certagent.facts.dns import late
from certagent.report.findings import Finding
from certagent.report.words import count

BUDGET = timedelta(seconds=10)
"""A zone that changed just now: BIND sends NOTIFY within five seconds, and the transfer takes as long at most."""


def findings(names: Iterable[str], edges: Edges) -> Iterator[Finding]:
    """One or more of each zone in which the records of these names are."""
    zones: dict[str, dict[str, int]] = {}
    for name in names:
        try:
            zone, _ = edges.resolver().final(name)
            if zone not in zones:
                zones[zone] = edges.resolver().serials(zone, BUDGET)
        except Error as error:
            yield Finding("note", f"serials of the zone of {name}", f"they cannot be asked for: {error}", error.hint)
    for zone, serials in zones.items():
        what, behind = f"serials of {zone}", late(serials)
        for server, one in sorted(behind.items()):
            hint = "see that server's log: does it get NOTIFY, and may it transfer the zone?"
            yield Finding("warning", what, f"{server} lags: {one}", hint)
        if serials and not behind:
            servers = f"{count(len(serials), 'server')} {'is' if len(serials) == 1 else 'are'}"
            yield Finding("ok", what, f"{servers} at {max(serials.values())}")
