"""PowerDNS 4.7's API as far as certagent uses it: https://doc.powerdns.com/authoritative/http-api/zone.html

The real server is tested in tests/e2e/test_dns.py; this one goes wrong on request.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from msgspec import field, to_builtins

from tests.dns.fakes.described import Described, Form, way
from tests.dns.fakes.service import TOKEN, Asked, Reply

ZONE = "example.org."
PLACE = "/api/v1/servers/localhost/zones/{}"


class Wanted(Form):
    rrset_name: str = ""
    rrset_type: str = ""
    rrsets: bool = True


class Record(Form):
    content: str
    disabled: bool = False


class Change(Form):
    name: str
    type: str
    changetype: Literal["REPLACE", "DELETE"]
    ttl: int | None = None
    records: list[Record] = field(default_factory=list[Record])


class Changes(Form):
    rrsets: list[Change]


def unprocessable(message: str) -> Reply:
    return 422, {"error": message}


class PowerDns(Described):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.stores: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.host(ZONE.rstrip("."))
        self.sets = self.stores[ZONE]
        self.native = True
        self.old = False
        """Before 4.6: the whole zone is the answer."""

    def host(self, zone: str) -> None:
        super().host(zone)
        self.stores[f"{zone}."] = {}

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        rrset: dict[str, Any] = {"name": name, "type": rdtype, "ttl": ttl_s, "comments": []}
        rrset["records"] = [{"content": content, "disabled": False} for content in contents]
        self.stores[f"{self.located(name)[0]}."][name, rdtype] = rrset

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        found = self.stores[f"{self.located(name, zone)[0]}."].get((name, rdtype), {"records": []})
        return [record["content"] for record in found["records"]]

    def login(self, asked: Asked) -> Reply | None:
        return None if asked.headers.get("X-API-Key") == TOKEN else (401, None)

    @way("GET", PLACE, query=Wanted)
    def zone(self, zone: str, wanted: Wanted) -> Reply:
        if zone not in self.stores:
            return 404, {"error": "Not Found"}
        one = (wanted.rrset_name, wanted.rrset_type)
        sets = [s for key, s in self.stores[zone].items() if self.old or one in (("", ""), key)]
        return 200, {"name": zone, "kind": "Native", "rrsets": sets}

    @way("PUT", f"{PLACE}/notify")
    def notified(self, zone: str) -> Reply:
        return unprocessable("Domain is native") if self.native else (200, {"result": "queued"})

    @way("PATCH", PLACE, body=Changes)
    def patched(self, zone: str, changes: Changes) -> Reply:
        if zone not in self.stores:
            return 404, {"error": "Not Found"}
        for change in changes.rrsets:
            if wrong := self._wrong(zone, change):
                return unprocessable(f"RRset {change.name} IN {change.type}: {wrong}")
        for change in changes.rrsets:
            self.stores[zone].pop((change.name, change.type), None)
            if change.changetype == "REPLACE" and change.records:
                rrset: dict[str, Any] = {"name": change.name, "type": change.type, "ttl": change.ttl, "comments": []}
                self.stores[zone][change.name, change.type] = rrset | {"records": to_builtins(change.records)}
        return 204, None

    def _wrong(self, zone: str, change: Change) -> str:
        contents = [record.content for record in change.records]
        if not f".{change.name}".endswith(f".{zone}"):
            return "Name is out of zone"
        if change.changetype == "REPLACE" and change.ttl is None:
            return "Key 'ttl' not an Integer or not present"
        if len(set(contents)) < len(contents):
            return "duplicate record"
        if change.type == "TXT" and not all(re.fullmatch(r'("([^"\\]|\\.)*" ?)+', content) for content in contents):
            return "Parsing record content: Data field in DNS should start with quote"
        return "too long" if any(len(content) > 65535 for content in contents) else ""
