"""Hetzner's Cloud API for zones: https://docs.hetzner.cloud/reference/cloud#tag/zone-rrsets

Actions are done a moment after they were accepted. A set that loses its last record is gone. `add_records` to a set
that exists refuses another TTL than that set's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply, Service

ZONE, ID = "example.org", 1
TXT = re.compile(r'"(?:[^"\\]|\\.)*"(?: "(?:[^"\\]|\\.)*")*')
PLACE = re.compile(r"/zones/([^/]+)/rrsets/([^/]+)/([A-Z]+)(?:/actions/([a-z_]+))?")


def error(status: int, code: str, message: str) -> Reply:
    return status, {"error": {"code": code, "message": message, "details": None}}


class Hetzner(Service):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.sets: dict[tuple[str, str], dict[str, Any]] = {}
        self.actions: list[dict[str, Any]] = []
        self.statuses: list[str] = []
        """Of the zone, one for each time that it is asked for; then it is published."""

    def answer(self, asked: Asked) -> Reply:
        if asked.headers.get("Authorization") != f"Bearer {TOKEN}":
            return error(401, "unauthorized", "unable to authenticate")
        if asked.method == "GET" and (seen := re.fullmatch(r"(?:/zones)?/actions/(\d+)", asked.path)):
            return self._status(int(seen[1]))
        if asked.method == "GET" and (zone := re.fullmatch(r"/zones/([^/]+)", asked.path)):
            if zone[1] not in (ZONE, str(ID)):
                return error(404, "not_found", "zone not found")
            status = self.statuses.pop(0) if self.statuses else "ok"
            return 200, {"zone": {"id": ID, "name": ZONE, "ttl": 3600, "mode": "primary", "status": status}}
        if not (place := PLACE.fullmatch(asked.path)):
            return TEAPOT, None
        zone_name, name, type_, action = place.groups()
        if zone_name not in (ZONE, str(ID)):
            return error(404, "not_found", "zone not found")
        if asked.method == "GET" and action is None:
            found = self.sets.get((name, type_))
            return (200, {"rrset": found}) if found else error(404, "not_found", "rrset not found")
        if asked.method == "POST" and action:
            return self._act(name, type_, action, asked.body)
        return TEAPOT, None

    def _status(self, number: int) -> Reply:
        action = self.actions[number]
        action["status"] = "success"
        return 200, {"action": action}

    def _act(self, name: str, type_: str, action: str, body: Any) -> Reply:
        found = self.sets.get((name, type_))
        match action:
            case "add_records":
                ttl = body.get("ttl")
                if found and ttl not in (None, found["ttl"]):
                    return error(422, "invalid_input", "ttl differs from that of the rrset")
                if ttl is not None and not 60 <= ttl <= 2147483647:
                    return error(422, "invalid_input", "ttl out of range")
                known = [r["value"] for r in found["records"]] if found else []
                for record in body["records"]:
                    if type_ == "TXT" and not TXT.fullmatch(record["value"]):
                        return error(422, "invalid_input", "TXT records must be quoted")
                    if record["value"] in known:
                        return error(409, "uniqueness_error", "record exists")
                found = found or {
                    "id": f"{name}/{type_}",
                    "name": name,
                    "type": type_,
                    "zone": ID,
                    "ttl": ttl,
                    "records": [],
                }
                self.sets[name, type_] = found
                found["records"] += [{"value": r["value"], "comment": ""} for r in body["records"]]
            case "remove_records":
                values = {r["value"] for r in body["records"]}
                if not found or not values <= {r["value"] for r in found["records"]}:
                    return error(404, "not_found", "record not found")
                found["records"] = [r for r in found["records"] if r["value"] not in values]
                if not found["records"]:
                    del self.sets[name, type_]
            case "change_ttl":
                if not found:
                    return error(404, "not_found", "rrset not found")
                if body["ttl"] is not None and body["ttl"] < 60:
                    return error(422, "invalid_input", "ttl out of range")
                found["ttl"] = body["ttl"]
            case _:
                return TEAPOT, None
        running: dict[str, Any] = {"id": len(self.actions), "command": action, "status": "running", "error": None}
        self.actions.append(running)
        return 201, {"action": dict(running)}
