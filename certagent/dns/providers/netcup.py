"""netcup.

Source: https://ccp.netcup.net/run/webservice/servers/endpoint.php. One address takes every action as JSON, and answers
errors with HTTP status 200. A zone has one TTL. Its name servers take changes every ten minutes, at times every twenty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from certagent.dns.presentation import text_of
from certagent.dns.providers.about import About
from certagent.dns.providers.http import Answer, HttpOptions, HttpProvider
from certagent.dns.providers.protocol import Capabilities, RdType, TtlText
from certagent.dns.providers.single import Record, RecordByRecord
from certagent.errors import Rejected, Transient

_AS_JSON = "JSON"
"""Without it the address speaks SOAP."""
_NO_RECORDS = 5029
_OVER = 4001
"""The session is over, or never was one."""
_DENIALS = (4013, 4002, 4011, 4012, 5028)
"""What speaks of customer, key, password or zone."""


class Options(HttpOptions, frozen=True, kw_only=True):
    """netcup. The token file has three lines: `customernumber = …`, `apikey = …` and `apipassword = …`."""

    url: str = "https://ccp.netcup.net/run/webservice/servers/endpoint.php"
    """Where the API is."""


class _Reply(Struct):
    status: str
    statuscode: int
    longmessage: str = ""
    responsedata: Any = None


class _Session(Struct):
    apisessionid: str


class _Zone(Struct):
    ttl: TtlText


class _Record(Struct):
    id: str
    hostname: str
    type: str
    destination: str


class _Records(Struct):
    dnsrecords: list[_Record]


class Netcup(HttpProvider, RecordByRecord):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `HttpProvider`."""

    SERVICE = "netcup"
    RIGHTS = "at netcup: customer number, API key and API password, and the zone in that account"
    SECRETS = ("customernumber", "apikey", "apipassword")
    Options = Options
    capabilities = Capabilities(atomic=False, ttl_scope="zone", publish_lag_s=1200)
    about = About(
        title="netcup",
        rights="An API key can change all domains and products of the customer: netcup has no narrower right.",
        access=(
            "Make an API key and an API password in the customer panel, under Master data, and write three lines into"
            " the file: `customernumber = …`, `apikey = …`, `apipassword = …`."
        ),
        limits=(
            "A zone has one TTL for all its records, so `ttl` of the configuration does not count; set the zone's to an"
            " hour or less. Changes reach the name servers after ten to twenty minutes, so a roll takes an hour longer."
        ),
        example="type: netcup\ntoken_file: /etc/certagent/netcup.keys\nzones: [example.org]",
        name_servers=("-dns.netcup.net.",),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._session = ""

    def _headers(self) -> Mapping[str, str]:
        return {}

    def _words(self, data: Any) -> str:
        return str(data["longmessage"])

    def records(self, name: str, rdtype: RdType) -> list[Record]:
        """Of the zone's one list, with the zone's one TTL, which counts from then on: no record gets a smaller one."""
        zone, label = self._located(name)
        ttl_s = int(self._action("infoDnsZone", zone).read(_Zone).ttl or 0)
        if ttl_s > self.capabilities.ttl_floor_s:
            self.capabilities = replace(self.capabilities, ttl_floor_s=ttl_s)
        found = self._action("infoDnsRecords", zone, none=(_NO_RECORDS,))
        listed = found.read(_Records).dnsrecords if found.data else []
        same = [r for r in listed if (r.hostname.lower(), r.type) == (label, rdtype)]
        return [Record(r.id, name, rdtype, text_of(rdtype, r.destination), ttl_s, r.destination) for r in same]

    def create(self, name: str, rdtype: RdType, value: str, ttl_s: int) -> None:  # noqa: ARG002 -- the zone has one
        """See `RecordByRecord`."""
        zone, label = self._located(name)
        self._update(zone, {"hostname": label, "type": rdtype, "priority": "", "destination": value})

    def retime(self, record: Record, ttl_s: int) -> None:
        """Never asked for: the zone has one TTL."""

    def delete(self, record: Record) -> None:
        """See `RecordByRecord`."""
        zone, label = self._located(record.name)
        gone = {"id": record.id, "hostname": label, "type": record.rdtype, "priority": ""}
        self._update(zone, gone | {"destination": record.own, "deleterecord": True})

    def _update(self, zone: str, record: dict[str, Any]) -> None:
        more = {"dnsrecordset": {"dnsrecords": [record]}}
        self._action("updateDnsRecords", zone, more, lost="dns.unknown_outcome")

    def _action(
        self,
        action: str,
        zone: str,
        more: dict[str, Any] | None = None,
        *,
        none: tuple[int, ...] = (),
        lost: str = "dns.unreachable",
    ) -> Answer:
        """Within a session, which is begun anew if it is over."""
        login = self._secrets()
        for fresh in (False, True):
            if fresh or not self._session:
                asked = {"action": "login", "param": login}
                self._session = self._judged(asked, (), "dns.unreachable").read(_Session).apisessionid
            rights = {key: login[key] for key in ("customernumber", "apikey")} | {"apisessionid": self._session}
            asked = {"action": action, "param": {"domainname": zone, **rights, **(more or {})}}
            answer = self._judged(asked, (*none, *(() if fresh else (_OVER,))), lost)
            if answer.status != _OVER:
                break
        return answer

    def _judged(self, asked: dict[str, Any], none: tuple[int, ...], lost: str) -> Answer:
        """The data of the answer, with netcup's own status; no data for those in `none`."""
        answer = self._api.call("POST", "", asked, query=_AS_JSON, lost=lost)
        reply = answer.read(_Reply)
        if reply.status in ("success", "warning"):
            return Answer(reply.statuscode, reply.responsedata, answer.place, lost)
        if reply.statuscode in none:
            return Answer(reply.statuscode, None, answer.place, lost)
        if "requests per minute" in reply.longmessage.lower():  # with the status of a wrong key
            hint = "it is tried again by itself, later"
            raise Transient("dns.rate_limited", self._api.said(reply.longmessage), hint, retry_after_s=60.0)
        if reply.statuscode in _DENIALS or asked["action"] == "login":
            raise self._api.wrong(f"{reply.statuscode} {reply.longmessage}")
        said = self._api.said(f"{reply.statuscode} {reply.longmessage}")
        if 4000 <= reply.statuscode < 5000:
            raise Rejected("dns.rejected", said)
        raise Transient(lost, said)
