"""PowerDNS 4.7's API as far as certagent uses it: https://doc.powerdns.com/authoritative/http-api/zone.html

The real server is tested in tests/e2e/test_dns.py; this one goes wrong on request.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply, Service

ZONE = "example.org."


class PowerDns(Service):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.sets: dict[tuple[str, str], dict[str, Any]] = {}
        self.native = True
        self.old = False
        """Before 4.6: the whole zone is the answer."""

    def answer(self, asked: Asked) -> Reply:
        if asked.headers.get("X-API-Key") != TOKEN:
            return 401, None
        zone = re.fullmatch(r"/api/v1/servers/localhost/zones/([^/]+)(/notify)?", asked.path)
        if not zone:
            return TEAPOT, None
        if zone[1] != ZONE:
            return 404, {"error": "Not Found"}
        match asked.method, zone[2]:
            case "GET", None:
                wanted = asked.query.get("rrset_name"), asked.query.get("rrset_type")
                sets = [s for key, s in self.sets.items() if self.old or key == wanted]
                return 200, {"name": ZONE, "kind": "Native", "rrsets": sets}
            case "PATCH", None:
                return self._patched(asked.body)
            case "PUT", "/notify":
                return (422, {"error": "Domain is native"}) if self.native else (200, {"result": "queued"})
            case _:
                return TEAPOT, None

    def _patched(self, body: Any) -> Reply:
        for change in body["rrsets"]:
            key = change["name"], change["type"]
            if not f".{change['name']}".endswith(f".{ZONE}"):
                return 422, {"error": f"RRset {change['name']} IN {change['type']}: Name is out of zone"}
            if change["changetype"] == "DELETE":
                self.sets.pop(key, None)
                continue
            for record in change["records"]:
                if change["type"] == "TXT" and not re.fullmatch(r'("([^"\\]|\\.)*" ?)+', record["content"]):
                    return 422, {
                        "error": "Record TXT: Parsing record content: Data field in DNS should start with quote"
                    }
                if len(record["content"]) > 65535:
                    return 422, {"error": "too long"}
            records = [{"content": r["content"], "disabled": r["disabled"]} for r in change["records"]]
            self.sets[key] = {
                "name": key[0], "type": key[1], "ttl": change["ttl"], "records": records, "comments": [],
            }  # fmt: skip
        return 204, None
