"""Porkbun's API: https://porkbun.com/api/json/v3/documentation

Every request is a POST with both keys in its JSON. Numbers are text. What is refused has HTTP status 400.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply, Service

DOMAIN = "example.org"
DONE: dict[str, Any] = {"status": "SUCCESS"}


def refused(message: str) -> Reply:
    return 400, {"status": "ERROR", "message": message}


class Porkbun(Service):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.records: dict[str, dict[str, str]] = {}
        self.made = 100

    def writes(self, asked: Asked) -> bool:
        return "/retrieve" not in asked.path and asked.path != "/ping"

    def answer(self, asked: Asked) -> Reply:
        place = re.fullmatch(
            r"/dns/(retrieveByNameType|retrieve|create|edit|delete)/([^/]+)(?:/([^/]+))?(?:/([^/]+))?", asked.path
        )
        if asked.method != "POST" or not (place or asked.path == "/ping"):
            return TEAPOT, None
        if (asked.body.get("apikey"), asked.body.get("secretapikey")) != ("pk1_test", TOKEN):
            return refused("Invalid API key. (001)")
        if not place:
            return 200, DONE | {"yourIp": "192.0.2.1"}
        action, domain, third, fourth = place.groups()
        if domain != DOMAIN:
            return refused("Invalid domain.")
        match action:
            case "retrieveByNameType":
                name = DOMAIN if fourth in (None, "@") else f"{fourth}.{DOMAIN}"
                found = [r for r in self.records.values() if (r["name"], r["type"]) == (name, third)]
                return 200, DONE | {"records": found}
            case "retrieve" if third is None:
                return 200, DONE | {"records": list(self.records.values())}
            case "create":
                self.made += 1
                return self._kept(str(self.made), asked.body)
            case _ if third not in self.records:
                return refused("Invalid record ID.")
            case "edit":
                return self._kept(third, asked.body)
            case _:
                del self.records[third]
                return 200, DONE

    def _kept(self, number: str, body: dict[str, Any]) -> Reply:
        name = DOMAIN if body["name"] in ("", "@") else f"{body['name']}.{DOMAIN}"
        ttl = str(body["ttl"])  # a number is taken, too
        if not ttl.isdecimal() or int(ttl) < 600:
            return refused("Invalid TTL. The minimum is 600.")
        content = body["content"].upper() if body["type"] == "TLSA" else body["content"]
        record = {"id": number, "name": name, "type": body["type"], "content": content, "ttl": ttl, "prio": "0"}
        others = (r for r in self.records.values() if r["id"] != number)
        if any(all(r[key] == record[key] for key in ("name", "type", "content")) for r in others):
            return refused("We were unable to create the DNS record: it exists.")
        self.records[number] = record
        return 200, DONE | {"id": number}
