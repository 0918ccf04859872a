"""OVHcloud's API: https://eu.api.ovh.com/console/?section=%2Fdomain (its OpenAPI document, /1.0/domain.json), and
https://help.ovhcloud.com/csm/en-gb-api-getting-started-ovhcloud-api?id=kb_article_view&sysparm_article=KB0042784 for
keys, rights and signatures. Texts of errors: ovh/php-ovh#56, #62 and #97, and ovh/python-ovh#86.

Its clock is an hour ahead. What is changed is published only by `/refresh`. The filter of a list is SQL's LIKE.
"""

from __future__ import annotations

import hashlib
import re
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.dns.fakes.service import NULL, TEAPOT, TOKEN, Asked, Reply, Service

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
PLACE = re.compile(r"/domain/zone/([^/]+)/(record|refresh|soa)(?:/(\d+))?")
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"(?: "(?:[^"\\]|\\.)*")*')


def error(status: int, code: str, message: str) -> Reply:
    return status, {"errorCode": code, "httpCode": f"{status} …", "message": message}


def failed(status: int, kind: str, message: str) -> Reply:
    return status, {"class": f"Client::{kind}", "message": message}


def like(pattern: str, text: str) -> bool:
    parts = ("." if c == "_" else ".*" if c == "%" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), text, re.IGNORECASE) is not None


class Ovh(Service):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.records: dict[int, dict[str, Any]] = {}
        self.published: dict[int, dict[str, Any]] = {}
        self.refreshed = 0
        self.made = 1000
        self.rules = RULES

    def answer(self, asked: Asked) -> Reply:
        now = int(time.time()) + AHEAD_S
        if (asked.method, asked.path) == ("GET", "/auth/time"):
            return 200, now
        sent = {key.lower(): value for key, value in asked.headers.items()}
        if sent.get("x-ovh-application") != KEY:
            return error(403, "INVALID_KEY", "This application key is invalid")
        if sent.get("x-ovh-consumer") != CONSUMER:
            return error(403, "INVALID_CREDENTIAL", "This credential is not valid")
        stamp = sent.get("x-ovh-timestamp", "")
        if not stamp.isdecimal() or abs(int(stamp) - now) > MAY_DIFFER_S:
            return error(400, "QUERY_TIME_OUT", "Query out of time")
        signed = "+".join((TOKEN, CONSUMER, asked.method, self.url + asked.target, asked.text.decode(), stamp))
        if sent.get("x-ovh-signature") != "$1$" + hashlib.sha1(signed.encode(), usedforsecurity=False).hexdigest():
            return error(400, "INVALID_SIGNATURE", "Invalid signature")
        if not (place := PLACE.fullmatch(asked.path)):
            return TEAPOT, None
        zone, what, number = place.groups()
        if zone != DOMAIN:
            return failed(404, "NotFound", "This service does not exist")
        if not any(fnmatchcase(f"{asked.method} {asked.path}", rule) for rule in self.rules):
            return error(403, "NOT_GRANTED_CALL", "This call has not been granted")
        match asked.method, what:
            case "GET", "record":
                return self._found(asked.query) if number is None else self._one(int(number))
            case "GET", "soa":
                return 200, {"server": "dns1.example.", "email": "tech.example.", "serial": 1, "ttl": 3600}
            case "POST", "record" if number is None:
                return self._created(asked.body)
            case "PUT", "record" if number is not None:
                return self._updated(int(number), asked.body)
            case "DELETE", "record" if number is not None:
                return (200, NULL) if self.records.pop(int(number), None) else self._one(int(number))
            case "POST", "refresh" if asked.body is None:
                self.published = {key: dict(record) for key, record in self.records.items()}
                self.refreshed += 1
                return 200, NULL
            case _:
                return TEAPOT, None

    def _found(self, query: Any) -> Reply:
        if not set(query) <= {"fieldType", "subDomain"}:
            return TEAPOT, None
        return 200, [
            number
            for number, record in self.records.items()
            if record["fieldType"] == query.get("fieldType", record["fieldType"])
            and (not query.get("subDomain") or like(query["subDomain"], record["subDomain"]))
        ]

    def _one(self, number: int) -> Reply:
        if number not in self.records:
            return failed(404, "NotFound", "The requested object (id) does not exist")
        return 200, self.records[number]

    def _created(self, body: Any) -> Reply:
        if not {"fieldType", "target"} <= set(body) <= {"fieldType", "subDomain", "target", "ttl"}:
            return failed(400, "BadRequest", "Missing or unknown property")
        self.made += 1
        record = {"id": self.made, "zone": DOMAIN, "subDomain": "", "ttl": 0, **body}
        return self._kept(record)

    def _updated(self, number: int, body: Any) -> Reply:
        if number not in self.records:
            return self._one(number)
        if not set(body) <= {"subDomain", "target", "ttl"}:
            return failed(400, "BadRequest", "Try to alter read-only properties: fieldType")
        status, data, *_ = self._kept(self.records[number] | body)
        return (200, NULL) if status == 200 else (status, data)

    def _kept(self, record: dict[str, Any]) -> Reply:
        if record["ttl"] and not 60 <= record["ttl"] <= 2**31 - 1:
            return failed(400, "BadRequest", "Invalid ttl, the minimum is 60")
        if record["fieldType"] == "TLSA":
            numbers, _, digest = record["target"].rpartition(" ")
            record["target"] = f"{numbers} {digest.upper()}"
        elif not QUOTED.fullmatch(record["target"]):
            record["target"] = f'"{record["target"]}"'
        same = ("fieldType", "subDomain", "target")
        others = (known for number, known in self.records.items() if number != record["id"])
        if any(all(known[key] == record[key] for key in same) for known in others):
            return failed(409, "Conflict", "This record already exists")
        self.records[record["id"]] = record
        return 200, record
