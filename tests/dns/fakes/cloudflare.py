"""Cloudflare's API: https://developers.cloudflare.com/api/resources/dns/subresources/records/

Every answer has `success`, `errors` and `result`; lists have pages. A record that is there already is refused. TLSA is
given and taken as fields, and its `content` has tabs; TXT comes back in quotes. Limits, and `retry-after`:
https://developers.cloudflare.com/fundamentals/api/reference/limits/
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, to_builtins

from tests.dns.fakes.described import Described, Form, page, way
from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply

ZONE, ID = "example.org", "023e105f4ecef8ad9ca31a8372d0c353"
RECORDS, RECORD = "/zones/{}/dns_records", "/zones/{}/dns_records/{}"
Byte = Annotated[int, Meta(ge=0, le=255)]
Number = Annotated[int, Meta(ge=1)]


class Zones(Form):
    name: str = ""
    page: Number = 1
    per_page: Annotated[int, Meta(ge=5, le=50)] = 20


class Wanted(Form):
    name: str = ""
    type: str = ""
    page: Number = 1
    per_page: Annotated[int, Meta(ge=1, le=5_000_000)] = 100


class Data(Form):
    usage: Byte
    selector: Byte
    matching_type: Byte
    certificate: Annotated[str, Meta(pattern="^([0-9a-fA-F]{2})+$")]


class New(Form):
    name: str
    type: str
    ttl: int
    content: str | None = None
    data: Data | None = None
    proxied: bool = False
    comment: str = ""


class Retimed(Form):
    ttl: int


def refused(status: int, code: int, message: str) -> Reply:
    return status, {"success": False, "errors": [{"code": code, "message": message}], "messages": [], "result": None}


def done(result: Any, **more: Any) -> Reply:
    return 200, {"success": True, "errors": [], "messages": [], "result": result, **more}


def paged(found: list[Any], number: int, size: int) -> Reply:
    part, pages = page(found, number, size)
    info = {"page": number, "per_page": size, "total_pages": pages, "count": len(part), "total_count": len(found)}
    return done(part, result_info=info)


NO_ZONE = refused(404, 7003, "Could not route to the zone, perhaps your object identifier is invalid?")
NO_RECORD = refused(404, 81044, "Record does not exist.")
NO_TTL = refused(400, 9021, "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic.")


class Cloudflare(Described):
    ttl_floor_s = 60

    def __init__(self, directory: Path, zone: str = ZONE) -> None:
        super().__init__(directory)
        self.stores: dict[str, dict[str, dict[str, Any]]] = {}
        self.names: dict[str, str] = {}
        self.host(zone)
        self.records = self.stores[ID]
        self.made = 0
        self.unfiltered = False
        """The list is of the whole zone."""

    def host(self, zone: str) -> None:
        super().host(zone)
        id_ = f"{len(self.stores):032x}" if self.stores else ID
        self.names[id_], self.stores[id_] = zone, {}

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        [id_] = [id_ for id_, zone in self.names.items() if zone == self.located(name)[0]]
        for content in contents:
            new = New(name.rstrip("."), rdtype, ttl_s, content)
            if rdtype == "TLSA":
                usage, selector, matching, certificate = content.split()
                data = Data(int(usage), int(selector), int(matching), certificate)
                new = New(name.rstrip("."), rdtype, ttl_s, data=data)
            self.make(id_, new)

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        [id_] = [id_ for id_, known in self.names.items() if known == self.located(name, zone)[0]]
        same = (name.rstrip("."), rdtype)
        return [r["content"] for r in self.stores[id_].values() if (r["name"], r["type"]) == same]

    def login(self, asked: Asked) -> Reply | None:
        right = asked.headers.get("Authorization") == f"Bearer {TOKEN}"
        return None if right else refused(403, 10000, "Authentication error")

    def forbidden(self) -> Reply:
        return refused(403, 10000, "Authentication error")

    def too_many(self) -> Reply:
        words = (
            "More than 1200 requests per 300 seconds reached. Please wait and consider throttling your request speed"
        )
        status, body, *_ = refused(429, 971, words)
        return status, body, {"retry-after": "17", "Ratelimit": '"default";r=0;t=17'}

    @way("GET", "/zones", query=Zones)
    def listed(self, wanted: Zones) -> Reply:
        known = ({"id": id_, "name": name, "status": "active"} for id_, name in self.names.items())
        return paged([z for z in known if wanted.name in ("", z["name"])], wanted.page, wanted.per_page)

    @way("GET", RECORDS, query=Wanted)
    def found(self, zone: str, wanted: Wanted) -> Reply:
        if zone not in self.stores:
            return NO_ZONE
        found = [
            record
            for record in self.stores[zone].values()
            if self.unfiltered or (wanted.name in ("", record["name"]) and wanted.type in ("", record["type"]))
        ]
        return paged(found, wanted.page, wanted.per_page)

    @way("PATCH", RECORD, body=Retimed)
    def retimed(self, zone: str, id_: str, body: Retimed) -> Reply:
        if id_ not in self.stores.get(zone, {}):
            return NO_RECORD
        if not self._ttl_is_good(body.ttl):
            return NO_TTL
        self.stores[zone][id_] |= {"ttl": body.ttl}
        return done(self.stores[zone][id_])

    @way("DELETE", RECORD)
    def deleted(self, zone: str, id_: str) -> Reply:
        return done({"id": id_}) if self.stores.get(zone, {}).pop(id_, None) else NO_RECORD

    @way("POST", RECORDS, body=New)
    def make(self, zone: str, new: New) -> Reply:
        if zone not in self.stores:
            return NO_ZONE
        if not self._ttl_is_good(new.ttl):
            return NO_TTL
        hosted = self.names[zone]
        name = new.name if f".{new.name}".endswith(f".{hosted}") else f"{new.name}.{hosted}"
        record: dict[str, Any] = {"name": name, "type": new.type, "ttl": new.ttl, "proxied": False}
        if new.type == "TLSA":
            if not new.data:
                return refused(400, 9101, "data is a required field for TLSA")
            *numbers, certificate = to_builtins(new.data).values()
            record |= {"data": to_builtins(new.data), "content": "\t".join([*map(str, numbers), certificate.upper()])}
        elif new.type == "TXT" and re.fullmatch(r'(?s)(?:"(?:[^"\\]|\\.)*"\s?)+|[^"]+', new.content or ""):
            if len(new.content or "") > 4096:
                return refused(400, 9207, "Content is too long.")
            record |= {"content": new.content, "data": {}}
        else:
            return TEAPOT, None
        same = ("name", "type", "content")
        if any(all(r[key] == record[key] for key in same) for r in self.stores[zone].values()):
            return refused(400, 81058, "An identical record already exists.")
        self.made += 1
        id_ = f"{self.made:032x}"
        self.stores[zone][id_] = {"id": id_, **record}
        return done(self.stores[zone][id_])

    def _ttl_is_good(self, ttl: int) -> bool:
        return ttl == 1 or self.ttl_floor_s <= ttl <= 86400
