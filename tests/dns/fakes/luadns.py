"""LuaDNS's API: https://www.luadns.com/api.html

Basic authentication with e-mail address and token. Lists are bare. Names have the final dot. TTLs begin at 300 s.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, to_builtins

from tests.dns.fakes.described import Described, Form, way
from tests.dns.fakes.service import TOKEN, Asked, Reply

USER = "operator@example.org"
ZONE = "example.org"
LOGIN = "Basic " + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()


class New(Form):
    name: str
    type: str
    content: str
    ttl: Annotated[int, Meta(ge=300)]


def refused(status: int, kind: str, message: str) -> Reply:
    return status, {"status": kind, "request_id": "x", "message": message}


class LuaDns(Described):
    RETRY_AFTER_S = None

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.records: dict[int, dict[str, Any]] = {}
        self.made = 100
        self.host(ZONE)

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        for content in contents:
            self.make(str(self._id(self.located(name)[0])), New(name, rdtype, content, ttl_s))

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        key = self._id(self.located(name, zone)[0]), name, rdtype
        return [r["content"] for r in self._all() if (r["zone_id"], r["name"], r["type"]) == key]

    def login(self, asked: Asked) -> Reply | None:
        if asked.headers.get("Accept") != "application/json":
            return refused(406, "Not acceptable", "Accept: application/json is needed")
        right = asked.headers.get("Authorization") == LOGIN
        return None if right else refused(401, "Unauthorized", "Invalid credentials")

    def forbidden(self) -> Reply:
        return refused(403, "Forbidden", "Your token may not do this")

    def too_many(self) -> Reply:
        return refused(429, "Too many requests", "Rate limit exceeded")

    def odd(self, words: str) -> Reply:
        return refused(400, "Bad request", words)

    @way("GET", "/v1/zones")
    def zones_listed(self) -> Reply:
        return 200, [{"id": self._id(zone), "name": zone} for zone in (*self.zones, "example.net")]

    @way("GET", "/v1/zones/{}/records")
    def listed(self, zone: str) -> Reply:
        return 200, [record for record in self._all() if str(record["zone_id"]) == zone]

    @way("POST", "/v1/zones/{}/records", body=New)
    def make(self, zone: str, new: New) -> Reply:
        hosted = next((known for known in self.zones if str(self._id(known)) == zone), "")
        if not hosted:
            return refused(404, "Not found", "Zone not found")
        if not f".{new.name}".endswith(f".{hosted}."):
            return self.odd("Invalid name")
        content = new.content
        if new.type == "TLSA":
            if not re.fullmatch(r"\d{1,3} \d{1,3} \d{1,3} ([0-9a-fA-F]{2})+", content):
                return self.odd("Invalid TLSA")
            content = content.upper()
        if content in self.kept(new.name, new.type, hosted):
            return self.odd("Record already exists")
        self.made += 1
        self.records[self.made] = {**to_builtins(new), "id": self.made, "zone_id": int(zone), "content": content}
        return 200, self.records[self.made]

    @way("DELETE", "/v1/zones/{}/records/{}")
    def deleted(self, zone: str, number: str) -> Reply:
        gone = self.records.pop(int(number), None)
        return (200, gone) if gone else refused(404, "Not found", "Record not found")

    def _id(self, zone: str) -> int:
        return 5 + (self.zones.index(zone) if zone in self.zones else 90)

    def _all(self) -> list[dict[str, Any]]:
        return list(self.records.values())
