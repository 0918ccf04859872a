"""Hetzner's Cloud API for zones: https://docs.hetzner.cloud/reference/cloud#tag/zone-rrsets

Actions are done a moment after they were accepted. A set that loses its last record is gone. `add_records` to a set
that exists refuses another TTL than that set's. Too many requests are answered without Retry-After.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from tests.dns.fakes.described import Described, Form, page, way
from tests.dns.fakes.service import TOKEN, Asked, Reply

ZONE = "example.org"
TXT = re.compile(r'"(?:[^"\\]|\\.)*"(?: "(?:[^"\\]|\\.)*")*')
SETS, ACTION = "/zones/{}/rrsets", "/zones/{}/rrsets/{}/{}/actions"
Ttl = Annotated[int, Meta(ge=60, le=2147483647)]


class Record(Form):
    value: str
    comment: str | None = None


class Added(Form):
    records: Annotated[list[Record], Meta(min_length=1)]
    ttl: Ttl | None = None


class Removed(Form):
    records: Annotated[list[Record], Meta(min_length=1)]


class Retimed(Form):
    ttl: Ttl | None


class Pages(Form):
    page: Annotated[int, Meta(ge=1)] = 1
    per_page: Annotated[int, Meta(ge=1, le=50)] = 25


def error(status: int, code: str, message: str) -> Reply:
    return status, {"error": {"code": code, "message": message, "details": None}}


NO_ZONE = error(404, "not_found", "zone not found")
NO_SET = error(404, "not_found", "rrset not found")


class Hetzner(Described):
    RETRY_AFTER_S = None

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.stores: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.host(ZONE)
        self.sets = self.stores[ZONE]
        self.actions: list[dict[str, Any]] = []
        self.statuses: list[str] = []
        """Of the zone, one for each time that it is asked for; then it is published."""

    def host(self, zone: str) -> None:
        super().host(zone)
        self.stores[zone] = {}

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        zone, label = self.located(name)
        self._set(zone, label or "@", rdtype, ttl_s)["records"] += [{"value": c, "comment": ""} for c in contents]

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        zone, label = self.located(name, zone)
        return [r["value"] for r in self.stores[zone].get((label or "@", rdtype), {"records": []})["records"]]

    def login(self, asked: Asked) -> Reply | None:
        right = asked.headers.get("Authorization") == f"Bearer {TOKEN}"
        return None if right else error(401, "unauthorized", "unable to authenticate")

    def forbidden(self) -> Reply:
        return error(403, "token_readonly", "the token is only allowed to perform GET requests")

    def too_many(self) -> Reply:
        status, body, *_ = error(429, "rate_limit_exceeded", "limit of 3600 requests per hour reached")
        return status, body, {"RateLimit-Limit": "3600", "RateLimit-Reset": str(int(time.time()) + 3600)}

    def odd(self, words: str) -> Reply:
        return error(422, "invalid_input", words)

    @way("GET", "/zones/{}")
    def zone(self, name: str) -> Reply:
        if not (zone := self._zone(name)):
            return NO_ZONE
        status = self.statuses.pop(0) if self.statuses else "ok"
        return 200, {"zone": {"id": self.zones.index(zone) + 1, "name": zone, "ttl": 3600, "status": status}}

    @way("GET", SETS, query=Pages)
    def listed(self, name: str, pages: Pages) -> Reply:
        if not (zone := self._zone(name)):
            return NO_ZONE
        part, last = page(list(self.stores[zone].values()), pages.page, pages.per_page)
        number = {"page": pages.page, "per_page": pages.per_page, "last_page": last}
        number |= {"previous_page": None, "next_page": pages.page + 1 if pages.page < last else None}
        return 200, {"rrsets": part, "meta": {"pagination": number | {"total_entries": len(self.stores[zone])}}}

    @way("GET", f"{SETS}/{{}}/{{}}")
    def one(self, zone: str, name: str, type_: str) -> Reply:
        if not (zone := self._zone(zone)):
            return NO_ZONE
        found = self.stores[zone].get((name, type_))
        return (200, {"rrset": found}) if found else NO_SET

    @way("GET", "/zones/actions/{}")
    def action(self, number: str) -> Reply:
        action = self.actions[int(number)]
        action["status"] = "success"
        return 200, {"action": action}

    @way("GET", "/actions/{}")
    def action_of_all(self, number: str) -> Reply:
        """Where Hetzner's own library asks."""
        return self.action(number)

    @way("POST", f"{ACTION}/add_records", body=Added)
    def added(self, zone: str, name: str, type_: str, body: Added) -> Reply:
        if not (zone := self._zone(zone)):
            return NO_ZONE
        found = self.stores[zone].get((name, type_))
        if found and body.ttl not in (None, found["ttl"]):
            return error(422, "invalid_input", "ttl differs from that of the rrset")
        values = [record.value for record in body.records]
        if type_ == "TXT" and not all(map(TXT.fullmatch, values)):
            return error(422, "invalid_input", "TXT records must be quoted")
        known = [r["value"] for r in found["records"]] if found else []
        if len({*known, *values}) < len(known) + len(values):
            return error(409, "uniqueness_error", "record exists")
        self._set(zone, name, type_, body.ttl)["records"] += [{"value": value, "comment": ""} for value in values]
        return self._accepted("add_records")

    @way("POST", f"{ACTION}/remove_records", body=Removed)
    def removed(self, zone: str, name: str, type_: str, body: Removed) -> Reply:
        zone, values = self._zone(zone), {record.value for record in body.records}
        found = self.stores.get(zone, {}).get((name, type_))
        if not found or not values <= {r["value"] for r in found["records"]}:
            return error(404, "not_found", "record not found")
        found["records"] = [r for r in found["records"] if r["value"] not in values]
        if not found["records"]:
            del self.stores[zone][name, type_]
        return self._accepted("remove_records")

    @way("POST", f"{ACTION}/change_ttl", body=Retimed)
    def retimed(self, zone: str, name: str, type_: str, body: Retimed) -> Reply:
        found = self.stores.get(self._zone(zone), {}).get((name, type_))
        if not found:
            return NO_SET
        found["ttl"] = body.ttl
        return self._accepted("change_ttl")

    def _zone(self, name: str) -> str:
        """By its name, or by its number."""
        return next((zone for number, zone in enumerate(self.zones, 1) if name in (zone, str(number))), "")

    def _set(self, zone: str, name: str, type_: str, ttl_s: int | None) -> dict[str, Any]:
        new = {"id": f"{name}/{type_}", "name": name, "type": type_, "zone": self.zones.index(zone) + 1}
        return self.stores[zone].setdefault((name, type_), {**new, "ttl": ttl_s, "records": []})

    def _accepted(self, command: str) -> Reply:
        running: dict[str, Any] = {"id": len(self.actions), "command": command, "status": "running", "error": None}
        self.actions.append(running)
        return 201, {"action": dict(running)}
