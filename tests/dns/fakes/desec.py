"""deSEC's API: https://desec.readthedocs.io/en/latest/dns/rrsets.html, .../dns/domains.html and .../rate-limits.html

Bulk requests are done as a whole; TTLs are between minimum_ttl and 86400; TXT is in quotes, in strings of at most 255
bytes, and is given back in its canonical form, as hex is in lower case. A list of more than 500 sets wants a cursor.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.dns.fakes.described import Described, Form, way
from tests.dns.fakes.service import TOKEN, Asked, Reply

DOMAIN = "example.org"
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
SUBNAME = re.compile(r"([*]|(([*][.])?([a-z0-9_-]{1,63}[.])*[a-z0-9_-]{1,63}))?")
""""@" stands for the apex in addresses only."""
NOT_FOUND: Reply = 404, {"detail": "Not found."}
PAGE = 500


class Wanted(Form):
    subname: str | None = None
    type: str | None = None
    cursor: str | None = None


class Part(Form):
    subname: str
    type: str
    ttl: int
    records: list[str]


class Desec(Described):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.stores: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.host(DOMAIN)
        self.sets = self.stores[DOMAIN]
        self.minimum_ttl = 3600

    def host(self, zone: str) -> None:
        super().host(zone)
        self.stores[zone] = {}

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        domain, subname = self.located(name)
        self._keep(domain, Part(subname, rdtype, ttl_s, list(contents)))

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        domain, subname = self.located(name, zone)
        return self.stores[domain].get((subname, rdtype), {"records": []})["records"]

    def login(self, asked: Asked) -> Reply | None:
        right = asked.headers.get("Authorization") == f"Token {TOKEN}"
        return None if right else (401, {"detail": "Invalid token."})

    def forbidden(self) -> Reply:
        return 403, {"detail": "Insufficient token permissions."}

    def too_many(self) -> Reply:
        detail = "Request was throttled. Expected available in 17 seconds."
        return 429, {"detail": detail}, {"Retry-After": "17"}

    @way("GET", "/domains/{}/")
    def domain(self, domain: str) -> Reply:
        found = {"name": domain, "minimum_ttl": self.minimum_ttl, "published": None, "touched": None}
        return (200, found) if domain in self.stores else NOT_FOUND

    @way("GET", "/domains/{}/rrsets/{}/{}/")
    def one(self, domain: str, subname: str, type_: str) -> Reply:
        found = self.stores.get(domain, {}).get(("" if subname == "@" else subname, type_))
        return (200, found) if found else NOT_FOUND

    @way("GET", "/domains/{}/rrsets/", query=Wanted)
    def listed(self, domain: str, wanted: Wanted) -> Reply:
        """In pages only if a cursor is given; each page names the next one."""
        if domain not in self.stores:
            return NOT_FOUND
        asked = {"subname": wanted.subname, "type": wanted.type}
        found = [s for s in self.stores[domain].values() if all(v in (None, s[k]) for k, v in asked.items())]
        place = f"{self.url}/domains/{domain}/rrsets/?cursor="
        first = f'<{place}>; rel="first"'
        if wanted.cursor is None:
            if len(found) <= PAGE:
                return 200, found
            detail = f"Pagination required. You can query up to {PAGE} items at a time ({len(found)} total). "
            return 400, {"detail": detail}, {"Link": first}
        start = int(wanted.cursor or 0)
        following = f', <{place}{start + PAGE}>; rel="next"' if len(found) > start + PAGE else ""
        return 200, found[start : start + PAGE], {"Link": first + following}

    @way("PATCH", "/domains/{}/rrsets/", body=list[Part])
    def patched(self, domain: str, parts: list[Part]) -> Reply:
        if domain not in self.stores:
            return NOT_FOUND
        wrong = [self._wrong(part) for part in parts]
        if any(wrong):
            return 400, wrong
        for part in parts:
            self._keep(domain, part)
        return 200, [self.stores[domain].get((p.subname, p.type)) for p in parts if p.records]

    def _keep(self, domain: str, part: Part) -> None:
        self.stores[domain].pop((part.subname, part.type), None)
        if part.records:
            self.stores[domain][part.subname, part.type] = {
                "domain": domain, "subname": part.subname, "name": f"{part.subname}.{domain}.".lstrip("."),
                "type": part.type, "records": sorted(canonical(part.type, r) for r in part.records), "ttl": part.ttl,
                "created": "2026-01-01T00:00:00Z", "touched": None,
            }  # fmt: skip

    def _wrong(self, part: Part) -> dict[str, list[str]]:
        wrong: dict[str, list[str]] = {}
        if not SUBNAME.fullmatch(part.subname):
            wrong["subname"] = ["Subname can only use (lowercase) a-z, 0-9, ., -, and _, may start with a '*.'."]
        if not self.minimum_ttl <= part.ttl <= 86400:
            wrong["ttl"] = [f"Ensure this value is greater than or equal to {self.minimum_ttl}."]
        for record in part.records:
            if part.type == "TXT":
                strings = STRING.findall(record)
                if " ".join(f'"{s}"' for s in strings) != record:
                    wrong["records"] = ["Data for TXT records must be given using quotation marks."]
                if any(len(re.sub(r"\\\d{3}|\\.", "x", s)) > 255 for s in strings):
                    wrong["records"] = ["Strings have at most 255 bytes."]
        if len(set(part.records)) != len(part.records):
            wrong["records"] = ["Duplicate records."]
        return wrong


def canonical(type_: str, record: str) -> str:
    return record.lower() if type_ == "TLSA" else record
