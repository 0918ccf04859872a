"""Gandi's LiveDNS API: https://api.gandi.net/docs/livedns/"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply, Service

DOMAIN = "example.org"
PLACE = re.compile(r"/domains/([^/]+)/records/([^/]+)/([A-Z]+)")


def missing(what: str) -> Reply:
    body = {"cause": "Not Found", "code": 404, "message": "The resource could not be found.", "object": what}
    return 404, body


class Gandi(Service):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.sets: dict[tuple[str, str], dict[str, Any]] = {}
        self.schemes = {"Bearer"}
        """How a token may be shown; `Apikey` is the deprecated one."""

    def answer(self, asked: Asked) -> Reply:
        if asked.headers.get("Authorization") not in {f"{scheme} {TOKEN}" for scheme in self.schemes}:
            return 401, {"code": 401, "message": "Unauthorized", "object": "HTTPUnauthorized", "cause": "Unauthorized"}
        if asked.method == "GET" and (domain := re.fullmatch(r"/domains/([^/]+)", asked.path)):
            return (200, {"fqdn": DOMAIN, "automatic_snapshots": True}) if domain[1] == DOMAIN else missing("dns-zone")
        if not (place := PLACE.fullmatch(asked.path)):
            return TEAPOT, None
        domain_name, name, type_ = place.groups()
        if domain_name != DOMAIN:
            return missing("dns-zone")
        found = self.sets.get((name, type_))
        match asked.method:
            case "GET":
                return (200, found) if found else missing("dns-record")
            case "POST" if found:
                return 409, {"cause": "Conflict", "code": 409, "message": "A DNS Record already exists", "object": ""}
            case "PUT" | "POST":
                return self._put(name, type_, asked.body)
            case "DELETE":
                self.sets.pop((name, type_), None)
                return 204, None
            case _:
                return TEAPOT, None

    def _put(self, name: str, type_: str, body: Any) -> Reply:
        body = {"rrset_ttl": 10800, **body}
        if set(body) != {"rrset_ttl", "rrset_values"} or not body["rrset_values"]:
            return 400, {"status": "error", "code": 400, "message": "The request is not complete", "errors": []}
        if not 300 <= body["rrset_ttl"] <= 2592000:
            return 400, {"status": "error", "code": 400, "message": "rrset_ttl: ensure this is between 300 and 2592000"}
        if type_ == "TXT" and any(not value.startswith('"') for value in body["rrset_values"]):
            return 400, {"status": "error", "code": 400, "message": "rrset_values: TXT needs quotes"}
        values = [v.upper() if type_ == "TLSA" else v for v in body["rrset_values"]]
        self.sets[name, type_] = {
            "rrset_name": name, "rrset_type": type_, "rrset_ttl": body["rrset_ttl"], "rrset_values": values,
            "rrset_href": f"https://api.gandi.net/v5/livedns/domains/{DOMAIN}/records/{name}/{type_}",
        }  # fmt: skip
        return 201, {"message": "DNS Record Created"}
