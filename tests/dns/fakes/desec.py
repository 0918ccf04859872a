"""deSEC's API: https://desec.readthedocs.io/en/latest/dns/rrsets.html and .../dns/domains.html

Bulk requests are done as a whole; TTLs are between minimum_ttl and 86400; TXT is in quotes, in strings of at most 255
bytes, and is given back in its canonical form, as hex is in lower case.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply, Service

DOMAIN = "example.org"
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
SUBNAME = re.compile(r"([*]|(([*][.])?([a-z0-9_-]{1,63}[.])*[a-z0-9_-]{1,63}))?")
""""@" stands for the apex in addresses only."""
NOT_FOUND: Reply = 404, {"detail": "Not found."}


class Desec(Service):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.sets: dict[tuple[str, str], dict[str, Any]] = {}
        self.minimum_ttl = 3600

    def answer(self, asked: Asked) -> Reply:
        if asked.headers.get("Authorization") != f"Token {TOKEN}":
            return 401, {"detail": "Invalid token."}
        if not (place := re.fullmatch(r"/domains/([^/]+)/(rrsets/)?(?:([^/]+)/([A-Z]+)/)?", asked.path)):
            return TEAPOT, None
        domain, rrsets, subname, type_ = place.groups()
        if domain != DOMAIN:
            return NOT_FOUND
        match asked.method, rrsets, subname:
            case "GET", None, None:
                return 200, {"name": DOMAIN, "minimum_ttl": self.minimum_ttl, "published": None, "touched": None}
            case "GET", str(), str():
                found = self.sets.get(("" if subname == "@" else subname, type_))
                return (200, found) if found else NOT_FOUND
            case "GET", str(), None:
                wanted = {key: asked.query[key] for key in ("subname", "type") if key in asked.query}
                return 200, [s for s in self.sets.values() if all(s[key] == wanted[key] for key in wanted)]
            case "PATCH", str(), None:
                return self._patched(asked.body)
            case _:
                return TEAPOT, None

    def _patched(self, body: Any) -> Reply:
        if not isinstance(body, list):
            return TEAPOT, None
        parts = cast("list[dict[str, Any]]", body)
        wrong = [self._wrong(part) for part in parts]
        if any(wrong):
            return 400, wrong
        for part in parts:
            subname = part["subname"]
            key = subname, part["type"]
            self.sets.pop(key, None)
            if part["records"]:
                name = f"{subname}.{DOMAIN}.".lstrip(".")
                records = sorted(canonical(part["type"], r) for r in part["records"])
                self.sets[key] = {
                    "domain": DOMAIN, "subname": subname, "name": name, "type": part["type"],
                    "records": records, "ttl": part["ttl"], "created": "2026-01-01T00:00:00Z", "touched": None,
                }  # fmt: skip
        return 200, [self.sets.get((p["subname"], p["type"])) for p in parts if p["records"]]

    def _wrong(self, part: dict[str, Any]) -> dict[str, list[str]]:
        wrong: dict[str, list[str]] = {}
        if not SUBNAME.fullmatch(part["subname"]):
            wrong["subname"] = ["Subname can only use (lowercase) a-z, 0-9, ., -, and _, may start with a '*.'."]
        if not self.minimum_ttl <= part["ttl"] <= 86400:
            wrong["ttl"] = [f"Ensure this value is greater than or equal to {self.minimum_ttl}."]
        for record in part["records"]:
            if part["type"] == "TXT":
                strings = STRING.findall(record)
                if " ".join(f'"{s}"' for s in strings) != record:
                    wrong["records"] = ["Data for TXT records must be given using quotation marks."]
                if any(len(re.sub(r"\\\d{3}|\\.", "x", s)) > 255 for s in strings):
                    wrong["records"] = ["Strings have at most 255 bytes."]
        if len(set(part["records"])) != len(part["records"]):
            wrong["records"] = ["Duplicate records."]
        return wrong


def canonical(type_: str, record: str) -> str:
    return record.lower() if type_ == "TLSA" else record
