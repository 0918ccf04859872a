"""Porkbun's API: https://porkbun.com/api/json/v3/documentation

Every request is a POST with both keys in its JSON. Numbers are text. What is refused has HTTP status 400. More than one
request a second is answered by a proxy, with a page of HTML (DNSControl/dnscontrol#3225, jungaretti/bacon#45).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.dns.fakes.described import Described, Form, way
from tests.dns.fakes.service import TOKEN, Asked, Reply

DOMAIN = "example.org"
DONE: dict[str, Any] = {"status": "SUCCESS"}
BUSY = b"<html><head><title>503 Service Temporarily Unavailable</title></head><hr><center>openresty</center></html>"


class Keys(Form):
    apikey: str
    secretapikey: str


class New(Keys):
    type: str
    content: str
    name: str = ""
    ttl: str | int = "600"
    prio: str | int = "0"
    notes: str = ""


def refused(message: str) -> Reply:
    return 400, {"status": "ERROR", "message": message}


class Porkbun(Described):
    RETRY_AFTER_S = None

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.stores: dict[str, dict[str, dict[str, str]]] = {}
        self.host(DOMAIN)
        self.records = self.stores[DOMAIN]
        self.made = 100

    def host(self, zone: str) -> None:
        super().host(zone)
        self.stores[zone] = {}

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        domain, label = self.located(name)
        for content in contents:
            self.create(domain, New("", "", rdtype, content, label, str(ttl_s)))

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        found = self.stores[self.located(name, zone)[0]].values()
        return [r["content"] for r in found if (r["name"], r["type"]) == (name.rstrip("."), rdtype)]

    def writes(self, asked: Asked) -> bool:
        return "/retrieve" not in asked.path and asked.path != "/ping"

    def too_many(self) -> Reply:
        return 503, BUSY

    def forbidden(self) -> Reply:
        return refused("Domain is not opted in to API access.")

    def login(self, asked: Asked) -> Reply | None:
        if (asked.body.get("apikey"), asked.body.get("secretapikey")) != ("pk1_test", TOKEN):
            return refused("Invalid API key. (001)")
        domain = asked.path.split("/")[3:4]
        return refused("Invalid domain.") if domain and domain[0] not in self.stores else None

    @way("POST", "/ping", body=Keys)
    def ping(self, _: Keys) -> Reply:
        return 200, DONE | {"yourIp": "192.0.2.1"}

    @way("POST", "/dns/retrieve/{}", body=Keys)
    def every(self, domain: str, _: Keys) -> Reply:
        return 200, DONE | {"records": list(self.stores[domain].values())}

    @way("POST", "/dns/retrieveByNameType/{}/{}/{}", body=Keys)
    def found(self, domain: str, type_: str, label: str, _: Keys) -> Reply:
        name = domain if label == "@" else f"{label}.{domain}"
        found = [r for r in self.stores[domain].values() if (r["name"], r["type"]) == (name, type_)]
        return 200, DONE | {"records": found}

    @way("POST", "/dns/create/{}", body=New)
    def create(self, domain: str, new: New) -> Reply:
        self.made += 1
        return self._keep(domain, str(self.made), new)

    @way("POST", "/dns/edit/{}/{}", body=New)
    def edit(self, domain: str, number: str, new: New) -> Reply:
        known = number in self.stores[domain]
        return self._keep(domain, number, new) if known else refused("Invalid record ID.")

    @way("POST", "/dns/delete/{}/{}", body=Keys)
    def delete(self, domain: str, number: str, _: Keys) -> Reply:
        return (200, DONE) if self.stores[domain].pop(number, None) else refused("Invalid record ID.")

    def _keep(self, domain: str, number: str, new: New) -> Reply:
        name = domain if new.name in ("", "@") else f"{new.name}.{domain}"
        ttl = str(new.ttl)  # a number is taken, too
        if not ttl.isdecimal() or int(ttl) < 600:
            return refused("Invalid TTL. The minimum is 600.")
        content = new.content.upper() if new.type == "TLSA" else new.content
        record = {"id": number, "name": name, "type": new.type, "content": content, "ttl": ttl, "prio": "0"}
        others = (r for r in self.stores[domain].values() if r["id"] != number)
        if any(all(r[key] == record[key] for key in ("name", "type", "content")) for r in others):
            return refused("We were unable to create the DNS record: it exists.")
        self.stores[domain][number] = record
        return 200, DONE | {"id": number}
