"""Hetzner's DNS, by its Cloud API.

Source: https://docs.hetzner.cloud/reference/cloud#tag/zone-rrsets

Records are added and removed by value, several in one action; nothing compares what was there before. The TTL of a set
that exists is changed by an action that comes first. When the actions are done, the zone's status says whether it is
published at the authoritative name servers.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from msgspec import Struct

from certagent.dns.presentation import text_of, value_of
from certagent.dns.providers.about import About
from certagent.dns.providers.compare import Change, ReadCompareWrite
from certagent.dns.providers.http import HttpOptions, HttpProvider
from certagent.dns.providers.protocol import Capabilities, RdType, RRset, Ttl
from certagent.errors import Rejected, Transient
from certagent.host import deadline

_PAUSE_S = 0.2
"""Before an action is asked for again. It doubles."""
_LONGEST_PAUSE_S = 2.0
"""An action takes a second or so; the limit is 3600 requests an hour."""


class Options(HttpOptions, frozen=True, kw_only=True):
    """Hetzner's DNS, by its Cloud API."""

    url: str = "https://api.hetzner.cloud/v1"
    """Where the API is."""


class _Record(Struct):
    value: str


class _Set(Struct):
    records: list[_Record]
    ttl: Ttl | None = None


class _Found(Struct):
    rrset: _Set


class _Zone(Struct):
    ttl: Ttl
    status: Literal["ok", "updating", "error"]


class _ZoneFound(Struct):
    zone: _Zone


class _Error(Struct):
    code: str = ""
    message: str = ""


class _Action(Struct):
    id: int
    status: Literal["running", "success", "error"]
    error: _Error | None = None


class _Done(Struct):
    action: _Action


class Hetzner(HttpProvider, ReadCompareWrite[list[str]]):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `HttpProvider`."""

    SERVICE = "Hetzner"
    LATER = ("conflict:", "locked:", "uniqueness_error:")
    """The last: somebody added the same value after it was read."""
    RIGHTS = "in the Hetzner console: an API token of the zone's project, with the right to read and write"
    Options = Options
    capabilities = Capabilities(ttl_floor_s=60, publish_lag_s=30, propagation_status=True)
    about = About(
        title="Hetzner (Cloud API)",
        rights=(
            "A token counts for a whole project and cannot be limited to a zone: keep the zone in its own project,"
            " without servers."
        ),
        access="Make a token in the console, under Security of the project. Write it into the file.",
        limits=(
            "TTLs begin at 60 s. TLSA records are of use only in a signed zone, and certagent publishes in no other:"
            " see first whether Hetzner signs yours."
        ),
        example="type: hetzner\ntoken_file: /etc/certagent/hetzner.token\nzones: [example.org]",
        name_servers=(".ns.hetzner.com.", ".hetzner.de."),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._timeout_s = options.timeout_s
        self._zone_ttl_s: dict[str, int] = {}

    def _words(self, data: Any) -> str:
        return f"{data['error']['code']}: {data['error']['message']}"

    def read(self, name: str, rdtype: RdType) -> tuple[RRset | None, list[str]]:
        """404 is also said of a zone that is not in the project, so that is asked first, once; with its default TTL."""
        zone, _ = self._located(name)
        if zone not in self._zone_ttl_s:
            answer = self._api.call("GET", f"/zones/{zone}")
            self._zone_ttl_s[zone] = answer.read(_ZoneFound).zone.ttl
        answer = self._api.call("GET", self._place(name, rdtype), accept=(404,))
        if answer.status == 404:
            return None, []
        found = answer.read(_Found).rrset
        own = [record.value for record in found.records]
        ttl_s = self._zone_ttl_s[zone] if found.ttl is None else found.ttl
        return RRset(frozenset(text_of(rdtype, value) for value in own), ttl_s) if own else None, own

    def write(self, name: str, rdtype: RdType, change: Change, records: list[str]) -> None:
        """By value; what is removed is named as the service wrote it. It ends when the zone is published."""
        until, place = time.monotonic() + deadline.left(self._timeout_s), f"{self._place(name, rdtype)}/actions"
        if change.removed:
            if not self._remove(place, rdtype, change.removed, records, until):
                # somebody removed one of them just now, and so none was removed
                self._remove(place, rdtype, change.removed, self.read(name, rdtype)[1], until)
        elif change.before and change.before.ttl_s != change.ttl_s:
            self._act(f"{place}/change_ttl", {"ttl": change.ttl_s}, until)
        if change.added:
            new = [{"value": value_of(rdtype, value)} for value in sorted(change.added)]
            self._act(f"{place}/add_records", {"records": new, "ttl": change.ttl_s}, until)
        self._publish(name, until)

    def _remove(self, place: str, rdtype: RdType, values: frozenset[str], records: list[str], until: float) -> bool:
        """False: one of them is not there any more."""
        own = [{"value": value} for value in records if text_of(rdtype, value) in values]
        return not own or self._act(f"{place}/remove_records", {"records": own}, until, accept=(404,))

    def _place(self, name: str, rdtype: str) -> str:
        zone, label = self._located(name)
        return f"/zones/{zone}/rrsets/{label}/{rdtype}"

    def _act(self, path: str, body: dict[str, Any], until: float, accept: tuple[int, ...] = ()) -> bool:
        """Ends when the action is done; False: its answer was a status of `accept`."""
        answer = self._api.call("POST", path, body, accept=accept)
        if answer.status in accept:
            return False
        action, waits = answer.read(_Done).action, deadline.pauses(until, _PAUSE_S, _LONGEST_PAUSE_S)
        while action.status == "running" and next(waits, False):
            answer = self._api.call("GET", f"/zones/actions/{action.id}", lost="dns.unknown_outcome")
            action = answer.read(_Done).action
        if action.status == "running":
            raise Transient("dns.unknown_outcome", f"Hetzner: action {action.id} is not done after some time")
        if action.status == "error":
            said = action.error or _Error()
            raise Rejected("dns.rejected", self._api.said(f"{said.code}: {said.message}"))
        return True

    def _publish(self, name: str, until: float) -> None:
        """Ends when the authoritative name servers have the zone as it is now."""
        zone, waits = self._located(name)[0], deadline.pauses(until, _PAUSE_S, _LONGEST_PAUSE_S)
        while (status := self._status(zone)) == "updating" and next(waits, False):
            pass
        if status != "ok":
            raise Transient("dns.unknown_outcome", f"Hetzner: accepted, and not published: {zone} has status {status}")

    def _status(self, zone: str) -> str:
        return self._api.call("GET", f"/zones/{zone}", lost="dns.unknown_outcome").read(_ZoneFound).zone.status
