"""acme-dns: https://github.com/joohoi/acme-dns, README ("API").

An account has two values, and a new one takes the place of the older: by whole seconds, the first of both if they are
of one second, as its database does it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from tests.dns.fakes.described import Described, Form, way
from tests.dns.fakes.service import TOKEN, Asked, Reply

ZONE = "auth.example.org"
USER = "c36f50e8-4632-44f0-83fe-e070fef28a10"
SUBDOMAIN = "8e5700ea-a4bf-41c7-8a77-e990661dcc6a"
OTHER = "d420c923-bbd7-4056-ab64-c3ca54c9b3cf"
NAME = f"{SUBDOMAIN}.{ZONE}."
ACCOUNT: dict[str, Any] = {
    "fulldomain": NAME.rstrip("."),
    "subdomain": SUBDOMAIN,
    "username": USER,
    "password": TOKEN,
    "allowfrom": [],
}


class Row(NamedTuple):
    """One value, and the second in which it came."""

    value: str = ""
    second: int = 0


class Update(Form):
    subdomain: str
    txt: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{43}$")]


class AcmeDns(Described):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.rows = {SUBDOMAIN: [Row(), Row()], OTHER: [Row("x" * 43, 1), Row("y" * 43, 1)]}

    def values(self, subdomain: str = SUBDOMAIN) -> list[str]:
        """What DNS gives."""
        return [row.value for row in self.rows[subdomain] if row.value]

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        return self.values(name.partition(".")[0])

    def login(self, asked: Asked) -> Reply | None:
        login = asked.headers.get("X-Api-User"), asked.headers.get("X-Api-Key"), asked.body["subdomain"]
        return None if login == (USER, TOKEN, SUBDOMAIN) else (401, {"error": "forbidden"})

    def odd(self, words: str) -> Reply:
        return 400, {"error": "bad_txt"}

    @way("POST", "/update", body=Update)
    def update(self, body: Update) -> Reply:
        self.take(body.txt)
        return 200, {"txt": body.txt}

    def take(self, value: str) -> None:
        """In place of the older one."""
        rows = self.rows[SUBDOMAIN]
        rows[rows.index(min(rows, key=lambda row: row.second))] = Row(value, int(time.time()))
