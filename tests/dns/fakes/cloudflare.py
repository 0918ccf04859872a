"""Cloudflare's API: https://developers.cloudflare.com/api/resources/dns/subresources/records/

Every answer has `success`, `errors` and `result`; lists have pages. A record that is there already is refused. TLSA is
given and taken as fields, and its `content` has tabs; TXT comes back in quotes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply, Service

ZONE, ID = "example.org", "023e105f4ecef8ad9ca31a8372d0c353"
PLACE = re.compile(r"/zones/([0-9a-f]{32})/dns_records(?:/([0-9a-f]{32}))?")
FIELDS = {"usage": 255, "selector": 255, "matching_type": 255}


def refused(status: int, code: int, message: str) -> Reply:
    return status, {"success": False, "errors": [{"code": code, "message": message}], "messages": [], "result": None}


def done(result: Any, **more: Any) -> Reply:
    return 200, {"success": True, "errors": [], "messages": [], "result": result, **more}


class Cloudflare(Service):
    zone = ZONE
    ttl_floor_s = 60

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.records: dict[str, dict[str, Any]] = {}
        self.made = 0
        self.unfiltered = False
        """The list is of the whole zone."""

    def answer(self, asked: Asked) -> Reply:
        if asked.headers.get("Authorization") != f"Bearer {TOKEN}":
            return refused(403, 10000, "Authentication error")
        if (asked.method, asked.path) == ("GET", "/zones"):
            found = [{"id": ID, "name": self.zone, "status": "active"}] if asked.query.get("name") == self.zone else []
            return done(found, result_info={"page": 1, "per_page": 20, "total_pages": 1, "count": len(found)})
        if not (place := PLACE.fullmatch(asked.path)):
            return TEAPOT, None
        if place[1] != ID:
            return refused(404, 7003, "Could not route to the zone, perhaps your object identifier is invalid?")
        match asked.method, place[2]:
            case "GET", None:
                return self._list(asked)
            case "POST", None:
                return self.make(asked.body)
            case "PATCH", str() as id_:
                if id_ not in self.records:
                    return refused(404, 81044, "Record does not exist.")
                if not self._ttl_is_good(asked.body["ttl"]):
                    return refused(400, 9021, "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic.")
                self.records[id_] |= {"ttl": asked.body["ttl"]}
                return done(self.records[id_])
            case "DELETE", str() as id_:
                if self.records.pop(id_, None) is None:
                    return refused(404, 81044, "Record does not exist.")
                return done({"id": id_})
            case _:
                return TEAPOT, None

    def _list(self, asked: Asked) -> Reply:
        page, size = int(asked.query.get("page", 1)), int(asked.query.get("per_page", 100))
        wanted = {key: asked.query[key] for key in ("name", "type") if key in asked.query and not self.unfiltered}
        found = [r for r in self.records.values() if all(r[key] == value for key, value in wanted.items())]
        pages = -(-len(found) // size)
        info = {"page": page, "per_page": size, "total_pages": pages, "count": len(found), "total_count": len(found)}
        return done(found[(page - 1) * size : page * size], result_info=info)

    def _ttl_is_good(self, ttl: Any) -> bool:
        return ttl == 1 or (isinstance(ttl, int) and self.ttl_floor_s <= ttl <= 86400)

    def make(self, body: dict[str, Any]) -> Reply:
        name, type_ = body["name"], body["type"]
        if name != self.zone and not name.endswith(f".{self.zone}"):
            name = f"{name}.{self.zone}"
        if not self._ttl_is_good(body["ttl"]):
            return refused(400, 9021, "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic.")
        record: dict[str, Any] = {"name": name, "type": type_, "ttl": body["ttl"], "proxied": False}
        if type_ == "TLSA":
            data: dict[str, Any] = body.get("data") or {}
            right = set(data) == {*FIELDS, "certificate"} and all(0 <= data[f] <= most for f, most in FIELDS.items())
            if not right or not re.fullmatch(r"([0-9a-fA-F]{2})+", data["certificate"]):
                return refused(400, 9101, "data is a required field for TLSA")
            numbers = "\t".join(str(data[field]) for field in FIELDS)
            record |= {"data": data, "content": f"{numbers}\t{data['certificate'].upper()}"}
        elif type_ == "TXT":
            if len(body["content"]) > 4096:
                return refused(400, 9207, "Content is too long.")
            record |= {"content": body["content"], "data": {}}
        else:
            return TEAPOT, None
        same = ("name", "type", "content")
        if any(all(r[key] == record[key] for key in same) for r in self.records.values()):
            return refused(400, 81058, "An identical record already exists.")
        self.made += 1
        id_ = f"{self.made:032x}"
        self.records[id_] = {"id": id_, **record}
        return done(self.records[id_])
