"""Porkbun.

Source: https://porkbun.com/api/json/v3/documentation. Every request is a POST with both keys in its body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from certagent.dns.presentation import text_of
from certagent.dns.providers.about import About
from certagent.dns.providers.http import Answer, HttpOptions, HttpProvider
from certagent.dns.providers.protocol import Capabilities, RdType, TtlText
from certagent.dns.providers.single import Record, RecordByRecord
from certagent.errors import Rejected

_LEAST_TTL_S = 600
"""Also of a record without one."""


class Options(HttpOptions, frozen=True, kw_only=True):
    """Porkbun. The token file has two lines, `apikey = …` and `secretapikey = …`."""

    url: str = "https://api.porkbun.com/api/json/v3"
    """Where the API is."""


class _Reply(Struct):
    status: str
    message: str = ""


class _Record(Struct):
    id: str
    name: str
    type: str
    content: str
    ttl: TtlText


class _Records(Struct):
    records: list[_Record]


class Porkbun(HttpProvider, RecordByRecord):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `HttpProvider`."""

    SERVICE = "Porkbun"
    RIGHTS = "at Porkbun: both keys, and API access switched on for the domain"
    DENIALS = ("api key", "api access", "invalid domain")
    SECRETS = ("apikey", "secretapikey")
    Options = Options
    capabilities = Capabilities(atomic=False, ttl_floor_s=_LEAST_TTL_S, publish_lag_s=60)
    about = About(
        title="Porkbun",
        rights="An API key can change all domains of the account for which API access is switched on: only those.",
        access=(
            "Make the key at https://porkbun.com/account/api, switch on API access for the domain, and write both keys"
            " into the file: `apikey = pk1_…` and `secretapikey = sk1_…`."
        ),
        limits="TTLs begin at 600 s. Records are changed one by one.",
        example="type: porkbun\ntoken_file: /etc/certagent/porkbun.keys\nzones: [example.org]",
        name_servers=(".porkbun.com.",),
    )

    def _headers(self) -> Mapping[str, str]:
        return {}

    def records(self, name: str, rdtype: RdType) -> list[Record]:
        """See `RecordByRecord`."""
        zone, label = self._located(name)
        path = f"/dns/retrieveByNameType/{zone}/{rdtype}/{label}"
        found = self._call(path, lost="dns.unreachable").read(_Records).records
        same = [r for r in found if (r.name.lower().rstrip("."), r.type) == (name.rstrip("."), rdtype)]
        return [Record(r.id, name, rdtype, text_of(rdtype, r.content), int(r.ttl or _LEAST_TTL_S)) for r in same]

    def create(self, name: str, rdtype: RdType, value: str, ttl_s: int) -> None:
        """See `RecordByRecord`."""
        zone, label = self._located(name)
        self._call(f"/dns/create/{zone}", {"name": label, "type": rdtype, "content": value, "ttl": str(ttl_s)})

    def retime(self, record: Record, ttl_s: int) -> None:
        """See `RecordByRecord`."""
        zone, label = self._located(record.name)
        body = {"name": label, "type": record.rdtype, "content": record.value, "ttl": str(ttl_s)}
        self._call(f"/dns/edit/{zone}/{record.id}", body)

    def delete(self, record: Record) -> None:
        """See `RecordByRecord`."""
        self._call(f"/dns/delete/{self._located(record.name)[0]}/{record.id}")

    def _call(self, path: str, body: dict[str, Any] | None = None, lost: str = "dns.unknown_outcome") -> Answer:
        """An error may have HTTP status 200, and an answer without a status is none of Porkbun's."""
        answer = self._api.call("POST", path, {**(body or {}), **self._secrets()}, lost=lost)
        reply = answer.read(_Reply)
        if reply.status == "SUCCESS":
            return answer
        if self._api.denied(reply.message):
            raise self._api.wrong(reply.message)
        raise Rejected("dns.rejected", self._api.said(reply.message))
