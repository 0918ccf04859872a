"""Gandi's LiveDNS API: https://api.gandi.net/docs/livedns/, and for limits https://api.gandi.net/docs/reference/

1000 requests a minute from one address, then 429; how long to wait is not said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from tests.dns.fakes.described import Described, Form, way
from tests.dns.fakes.service import TOKEN, Asked, Reply

DOMAIN = "example.org"
RECORDS = "/domains/{}/records/{}/{}"


class Put(Form):
    rrset_values: Annotated[list[str], Meta(min_length=1)]
    rrset_ttl: Annotated[int, Meta(ge=300, le=2592000)] = 10800


def error(code: int, cause: str, message: str, what: str) -> Reply:
    return code, {"cause": cause, "code": code, "message": message, "object": what}


def missing(what: str) -> Reply:
    return error(404, "Not Found", "The resource could not be found.", what)


class Gandi(Described):
    RETRY_AFTER_S = None

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.stores: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.host(DOMAIN)
        self.sets = self.stores[DOMAIN]
        self.schemes = {"Bearer"}
        """How a token may be shown; `Apikey` is the deprecated one."""

    def host(self, zone: str) -> None:
        super().host(zone)
        self.stores[zone] = {}

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        domain, label = self.located(name)
        self._keep(domain, label or "@", rdtype, Put(list(contents), ttl_s))

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        domain, label = self.located(name, zone)
        return self.stores[domain].get((label or "@", rdtype), {"rrset_values": []})["rrset_values"]

    def login(self, asked: Asked) -> Reply | None:
        right = {f"{scheme} {TOKEN}" for scheme in self.schemes}
        return (
            None
            if asked.headers.get("Authorization") in right
            else error(401, "Unauthorized", "Unauthorized", "HTTPUnauthorized")
        )

    def forbidden(self) -> Reply:
        return error(403, "Forbidden", "Access was denied to this resource.", "HTTPForbidden")

    def too_many(self) -> Reply:
        return error(429, "Too Many Requests", "Too many requests", "HTTPTooManyRequests")

    def odd(self, words: str) -> Reply:
        wrong = {"location": "body", "name": "", "description": words}
        return 400, {"status": "error", "code": 400, "message": words, "errors": [wrong]}

    @way("GET", "/domains/{}")
    def domain(self, domain: str) -> Reply:
        known = domain in self.stores
        return (200, {"fqdn": domain, "automatic_snapshots": True}) if known else missing("dns-zone")

    @way("GET", RECORDS)
    def one(self, domain: str, name: str, type_: str) -> Reply:
        found = self.stores.get(domain, {}).get((name, type_))
        return (200, found) if found else missing("dns-record" if domain in self.stores else "dns-zone")

    @way("POST", RECORDS, body=Put)
    def made(self, domain: str, name: str, type_: str, body: Put) -> Reply:
        if (name, type_) in self.stores.get(domain, {}):
            return error(409, "Conflict", "A DNS Record already exists", "")
        return self.replaced(domain, name, type_, body)

    @way("PUT", RECORDS, body=Put)
    def replaced(self, domain: str, name: str, type_: str, body: Put) -> Reply:
        if domain not in self.stores:
            return missing("dns-zone")
        if type_ == "TXT" and any(not value.startswith('"') for value in body.rrset_values):
            return self.odd("rrset_values: TXT needs quotes")
        if len(set(body.rrset_values)) < len(body.rrset_values):
            return self.odd("rrset_values: a value is there twice")
        self._keep(domain, name, type_, body)
        return 201, {"message": "DNS Record Created"}

    @way("DELETE", RECORDS)
    def deleted(self, domain: str, name: str, type_: str) -> Reply:
        self.stores.get(domain, {}).pop((name, type_), None)
        return 204, None

    def _keep(self, domain: str, name: str, type_: str, body: Put) -> None:
        values = [v.upper() if type_ == "TLSA" else v for v in body.rrset_values]
        self.stores[domain][name, type_] = {
            "rrset_name": name, "rrset_type": type_, "rrset_ttl": body.rrset_ttl, "rrset_values": values,
            "rrset_href": f"https://api.gandi.net/v5/livedns/domains/{domain}/records/{name}/{type_}",
        }  # fmt: skip
