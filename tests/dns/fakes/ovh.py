"""OVHcloud's API: https://eu.api.ovh.com/console/?section=%2Fdomain (its OpenAPI document, /1.0/domain.json), and
https://help.ovhcloud.com/csm/en-gb-api-getting-started-ovhcloud-api?id=kb_article_view&sysparm_article=KB0042784 for
keys, rights and signatures. Texts of errors: ovh/php-ovh#56, #62 and #97, and ovh/python-ovh#86.

Its clock is an hour ahead. What is changed is published only by `/refresh`. The filter of a list is SQL's LIKE; a list
has no pages. Of limits nothing is described, so it is a proxy's answer that says so here.
"""

from __future__ import annotations

import hashlib
import re
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from tests.dns.fakes.described import Described, Form, way
from tests.dns.fakes.service import NULL, TOKEN, Asked, Reply

DOMAIN = "example.org"
KEY, CONSUMER = "application", "consumer"
AHEAD_S, MAY_DIFFER_S = 3600, 60
RULES = [
    "GET /domain/zone/example.org/record",
    "GET /domain/zone/example.org/record/*",
    "GET /domain/zone/example.org/soa",
    "POST /domain/zone/example.org/record",
    "PUT /domain/zone/example.org/record/*",
    "DELETE /domain/zone/example.org/record/*",
    "POST /domain/zone/example.org/refresh",
]
RECORDS, RECORD = "/domain/zone/{}/record", "/domain/zone/{}/record/{}"
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"(?: "(?:[^"\\]|\\.)*")*')


class Wanted(Form):
    fieldType: str = ""  # noqa: N815 -- the service's name
    subDomain: str = ""  # noqa: N815


class New(Form):
    fieldType: str  # noqa: N815
    target: str
    subDomain: str = ""  # noqa: N815
    ttl: int = 0


class Updated(Form, omit_defaults=True):
    target: str | None = None
    subDomain: str | None = None  # noqa: N815
    ttl: int | None = None


def error(status: int, code: str, message: str) -> Reply:
    return status, {"errorCode": code, "httpCode": f"{status} …", "message": message}


def failed(status: int, kind: str, message: str) -> Reply:
    return status, {"class": f"Client::{kind}", "message": message}


def like(pattern: str, text: str) -> bool:
    parts = ("." if c == "_" else ".*" if c == "%" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), text, re.IGNORECASE) is not None


NO_ZONE = failed(404, "NotFound", "This service does not exist")
NO_RECORD = failed(404, "NotFound", "The requested object (id) does not exist")


class Ovh(Described):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.stores: dict[str, dict[int, dict[str, Any]]] = {}
        self.rules: list[str] = []
        self.host(DOMAIN)
        self.records = self.stores[DOMAIN]
        self.published: dict[int, dict[str, Any]] = {}
        self.refreshed = 0
        self.made = 1000

    def host(self, zone: str) -> None:
        super().host(zone)
        self.stores[zone] = {}
        self.rules = [*self.rules, *(rule.replace(DOMAIN, zone) for rule in RULES)]

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        zone, label = self.located(name)
        for content in contents:
            self.created(zone, New(rdtype, content, label, ttl_s))

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        zone, label = self.located(name, zone)
        found = self.stores[zone].values()
        return [r["target"] for r in found if (r["subDomain"], r["fieldType"]) == (label, rdtype)]

    def login(self, asked: Asked) -> Reply | None:
        """Key, clock and signature, and whether the key may do this."""
        if asked.path == "/auth/time":
            return None
        sent = {key.lower(): value for key, value in asked.headers.items()}
        if sent.get("x-ovh-application") != KEY:
            return error(403, "INVALID_KEY", "This application key is invalid")
        if sent.get("x-ovh-consumer") != CONSUMER:
            return error(403, "INVALID_CREDENTIAL", "This credential is not valid")
        stamp = sent.get("x-ovh-timestamp", "")
        if not stamp.isdecimal() or abs(int(stamp) - now()) > MAY_DIFFER_S:
            return error(400, "QUERY_TIME_OUT", "Query out of time")
        signed = "+".join((TOKEN, CONSUMER, asked.method, self.url + asked.target, asked.text.decode(), stamp))
        if sent.get("x-ovh-signature") != "$1$" + hashlib.sha1(signed.encode(), usedforsecurity=False).hexdigest():
            return error(400, "INVALID_SIGNATURE", "Invalid signature")
        zone = asked.path.split("/")[3:4]
        if zone and zone[0] not in self.stores:
            return NO_ZONE
        allowed = any(fnmatchcase(f"{asked.method} {asked.path}", rule) for rule in self.rules)
        return None if allowed else self.forbidden()

    def forbidden(self) -> Reply:
        return error(403, "NOT_GRANTED_CALL", "This call has not been granted")

    def odd(self, words: str) -> Reply:
        return failed(400, "BadRequest", f"Received not described parameters: {words}")

    @way("GET", "/auth/time")
    def time(self) -> Reply:
        return 200, now()

    @way("GET", "/domain/zone/{}/soa")
    def soa(self, zone: str) -> Reply:
        return 200, {"server": "dns1.example.", "email": "tech.example.", "serial": 1, "ttl": 3600}

    @way("GET", RECORDS, query=Wanted)
    def found(self, zone: str, wanted: Wanted) -> Reply:
        return 200, [
            number
            for number, record in self.stores[zone].items()
            if wanted.fieldType in ("", record["fieldType"])
            and (not wanted.subDomain or like(wanted.subDomain, record["subDomain"]))
        ]

    @way("GET", RECORD)
    def one(self, zone: str, number: str) -> Reply:
        found = self.stores[zone].get(int(number))
        return (200, found) if found else NO_RECORD

    @way("POST", RECORDS, body=New)
    def created(self, zone: str, new: New) -> Reply:
        self.made += 1
        return self._kept({"id": self.made, "zone": zone, **to_builtins(new)})

    @way("PUT", RECORD, body=Updated)
    def updated(self, zone: str, number: str, body: Updated) -> Reply:
        if int(number) not in self.stores[zone]:
            return NO_RECORD
        status, data, *_ = self._kept(self.stores[zone][int(number)] | to_builtins(body))
        return (200, NULL) if status == 200 else (status, data)

    @way("DELETE", RECORD)
    def deleted(self, zone: str, number: str) -> Reply:
        return (200, NULL) if self.stores[zone].pop(int(number), None) else NO_RECORD

    @way("POST", "/domain/zone/{}/refresh")
    def refresh(self, zone: str) -> Reply:
        self.published = {key: dict(record) for key, record in self.stores[zone].items()}
        self.refreshed += 1
        return 200, NULL

    def _kept(self, record: dict[str, Any]) -> Reply:
        if record["ttl"] and not 60 <= record["ttl"] <= 2**31 - 1:
            return failed(400, "BadRequest", "Invalid ttl, the minimum is 60")
        if record["fieldType"] == "TLSA":
            numbers, _, digest = record["target"].rpartition(" ")
            record["target"] = f"{numbers} {digest.upper()}"
        elif not QUOTED.fullmatch(record["target"]):
            record["target"] = f'"{record["target"]}"'
        same, zone = ("fieldType", "subDomain", "target"), self.stores[record["zone"]]
        others = (known for number, known in zone.items() if number != record["id"])
        if any(all(known[key] == record[key] for key in same) for known in others):
            return failed(409, "Conflict", "This record already exists")
        zone[record["id"]] = record
        return 200, record


def now() -> int:
    return int(time.time()) + AHEAD_S
