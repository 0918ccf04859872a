"""Cloudflare.

Source: https://developers.cloudflare.com/api/resources/dns/subresources/records/

Each record is made, changed and deleted on its own. There is a batch, but its documentation does not promise that its
records reach the name servers together; so nothing counts as atomic here, and certagent asks for one change at a time.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import astuple

from certagent.dns.message import canonical
from certagent.dns.presentation import text_of, value_of
from certagent.dns.providers.about import About
from certagent.dns.providers.http import HttpOptions, HttpProvider
from certagent.dns.providers.protocol import Capabilities, RdType, Ttl
from certagent.dns.providers.single import Record, RecordByRecord

_PAGE = 100
_PAGES_MAX = 50
"""Of one name and type; more is an answer that never ends."""
_AUTOMATIC_TTL = 1
_AUTOMATIC_S = 300
"""A TTL of 1 means `automatic`, and is served as this."""


class Options(HttpOptions, frozen=True, kw_only=True):
    """Cloudflare."""

    url: str = "https://api.cloudflare.com/client/v4"
    """Where the API is."""


class _Data(Struct):
    """Of a TLSA; other types have other fields, or none."""

    usage: int | None = None
    selector: int | None = None
    matching_type: int | None = None
    certificate: str | None = None


class _Record(Struct):
    id: str
    name: str
    type: str
    ttl: Ttl
    content: str = ""
    data: _Data | None = None


class _Pages(Struct, frozen=True):
    total_pages: int = 1


class _Records(Struct):
    result: list[_Record]
    result_info: _Pages = _Pages()


class _Zone(Struct):
    id: str
    name: str


class _Zones(Struct):
    result: list[_Zone]


class Cloudflare(HttpProvider, RecordByRecord):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `HttpProvider`."""

    SERVICE = "Cloudflare"
    RIGHTS = "at Cloudflare: a token with the permissions Zone:Read and DNS:Edit for this zone"
    DENIALS = ("invalid request headers", "could not route")
    """A token that is none; an unknown zone."""
    Options = Options
    capabilities = Capabilities(atomic=False, ttl_floor_s=60, publish_lag_s=10)
    about = About(
        title="Cloudflare",
        rights=(
            "An API token (not the global key) with the permissions Zone:Read and DNS:Edit, limited to the zones in"
            " question. It can change every record of them; Cloudflare has no narrower right."
        ),
        access="Make it at https://dash.cloudflare.com/profile/api-tokens, and write it into the file.",
        limits=(
            "Records are changed one by one. With two types of key in service no order is safe for a first swap of both"
            " at once, and certagent says so. TTLs begin at 60 s. A user has 1200 requests in five minutes."
        ),
        example="type: cloudflare\ntoken_file: /etc/certagent/cloudflare.token\nzones: [example.org]",
        name_servers=(".ns.cloudflare.com.",),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._zone_ids: dict[str, str] = {}

    def _words(self, data: Any) -> str:
        return "; ".join(f"{error['code']} {error['message']}" for error in data["errors"])

    def records(self, name: str, rdtype: RdType) -> list[Record]:
        """All pages. A filter that the service passes over does no harm."""
        found: list[_Record] = []
        plain, place = name.rstrip("."), self._place(name)
        for page in range(1, _PAGES_MAX + 1):
            query = {"type": rdtype, "name": plain, "per_page": _PAGE, "page": page}
            part = self._api.call("GET", place, query=query).read(_Records)
            found += [r for r in part.result if (r.name.lower().rstrip("."), r.type) == (plain, rdtype)]
            if page >= part.result_info.total_pages:
                break
        ttls = ((_AUTOMATIC_S if record.ttl == _AUTOMATIC_TTL else record.ttl) for record in found)
        return [Record(r.id, name, rdtype, self._text(rdtype, r), ttl_s) for r, ttl_s in zip(found, ttls, strict=True)]

    def create(self, name: str, rdtype: RdType, value: str, ttl_s: int) -> None:
        """TLSA has its fields apart."""
        body: dict[str, object] = {"type": rdtype, "name": name.rstrip("."), "ttl": ttl_s}
        if rdtype == "TLSA":
            usage, selector, matching_type, certificate = value.split(" ")
            body["data"] = _Data(int(usage), int(selector), int(matching_type), certificate)
        else:
            body["content"] = value_of(rdtype, value)
        self._api.call("POST", self._place(name), body)

    def retime(self, record: Record, ttl_s: int) -> None:
        """See `RecordByRecord`."""
        self._api.call("PATCH", f"{self._place(record.name)}/{record.id}", {"ttl": ttl_s})

    def delete(self, record: Record) -> None:
        """See `RecordByRecord`."""
        self._api.call("DELETE", f"{self._place(record.name)}/{record.id}", accept=(404,))

    def _text(self, rdtype: RdType, record: _Record) -> str:
        """Of a TLSA, `content` is for people."""
        if rdtype == "TLSA" and record.data:
            return canonical(rdtype, " ".join(map(str, astuple(record.data))))
        return text_of(rdtype, record.content)

    def _place(self, name: str) -> str:
        """Where the zone's records are; its identifier is asked for once."""
        zone, _ = self._located(name)
        if zone not in self._zone_ids:
            answer = self._api.call("GET", "/zones", query={"name": zone}).read(_Zones)
            if not answer.result:
                raise self._api.wrong(f"the token sees no zone {zone}")
            self._zone_ids[zone] = answer.result[0].id
        return f"/zones/{self._zone_ids[zone]}/dns_records"
