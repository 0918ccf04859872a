"""LuaDNS's API: https://www.luadns.com/api.html

Basic authentication with e-mail address and token. Lists are bare. Names have the final dot. TTLs begin at 300 s.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply, Service

USER = "operator@example.org"
ZONE, ID = "example.org", 5
LOGIN = "Basic " + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
PLACE = re.compile(r"/v1/zones/(\d+)/records(?:/(\d+))?")
FIELDS = {"name", "type", "content", "ttl"}


def refused(status: int, kind: str, message: str) -> Reply:
    return status, {"status": kind, "request_id": "x", "message": message}


class LuaDns(Service):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.records: dict[int, dict[str, Any]] = {}
        self.made = 100

    def answer(self, asked: Asked) -> Reply:
        if asked.headers.get("Accept") != "application/json":
            return refused(406, "Not acceptable", "Accept: application/json is needed")
        if asked.headers.get("Authorization") != LOGIN:
            return refused(401, "Unauthorized", "Invalid credentials")
        if (asked.method, asked.path) == ("GET", "/v1/zones"):
            return 200, [{"id": ID, "name": ZONE}, {"id": ID + 1, "name": "example.net"}]
        if not (place := PLACE.fullmatch(asked.path)):
            return TEAPOT, None
        if int(place[1]) != ID:
            return refused(404, "Not found", "Zone not found")
        number = int(place[2]) if place[2] else None
        match asked.method, number:
            case "GET", None:
                return 200, list(self.records.values())
            case "POST", None:
                return self.make(asked.body)
            case "DELETE", int():
                gone = self.records.pop(number, None)
                return (200, gone) if gone else refused(404, "Not found", "Record not found")
            case _:
                return TEAPOT, None

    def make(self, body: dict[str, Any]) -> Reply:
        if set(body) != FIELDS or not isinstance(body["ttl"], int) or body["ttl"] < 300:
            return refused(400, "Bad request", "Invalid TTL, or not all fields")
        if not f".{body['name']}".endswith(f".{ZONE}."):
            return refused(400, "Bad request", "Invalid name")
        content = body["content"]
        if body["type"] == "TLSA":
            if not re.fullmatch(r"\d{1,3} \d{1,3} \d{1,3} ([0-9a-fA-F]{2})+", content):
                return refused(400, "Bad request", "Invalid TLSA")
            content = content.upper()
        if any((r["name"], r["type"], r["content"]) == (body["name"], body["type"], content) for r in self._all()):
            return refused(400, "Bad request", "Record already exists")
        self.made += 1
        self.records[self.made] = {"id": self.made, "zone_id": ID, **body, "content": content}
        return 200, self.records[self.made]

    def _all(self) -> list[dict[str, Any]]:
        return list(self.records.values())
