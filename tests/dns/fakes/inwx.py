"""INWX's JSON-RPC API: https://www.inwx.de/en/help/apidoc (methods, parameters, types, result codes).

What the description leaves open: a code of the second factor counts once (go-acme/lego#1608, #2084); a method without a
session is answered with 2002 (inwx/nodejs-client#28); TTLs (inwx/ansible-collection#6); `name` is best given in full
(rmbolger/Posh-ACME#585); identifiers are strings by now (nrdcg/goinwx).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply, Service

DOMAIN, USER = "example.org", "user"
SHARED_SECRET = base64.b32encode(b"12345678901234567890").decode()
PARAMS: dict[str, tuple[set[str], set[str]]] = {
    "account.login": ({"user", "pass"}, {"lang", "case-insensitive"}),
    "account.unlock": ({"tan"}, set()),
    "account.logout": (set(), set()),
    "nameserver.info": ({"domain"}, {"recordId", "type", "name", "content", "ttl", "prio"}),
    "nameserver.createRecord": ({"domain", "type", "content"}, {"name", "ttl", "prio", "testing"}),
    "nameserver.updateRecord": ({"id"}, {"name", "type", "content", "ttl", "prio", "testing"}),
    "nameserver.deleteRecord": ({"id"}, {"testing"}),
}
"""Required and optional, as far as they are of use here."""


def reply(code: int, message: str, data: Any = None, reason: str = "") -> Reply:
    body = {"code": code, "msg": message, "runtime": 0.0123, "svTRID": "20261130-1"}
    if reason:
        body |= {"reasonCode": "INVALID", "reason": reason}
    return 200, body if data is None else body | {"resData": data}


def done(data: Any = None) -> Reply:
    return reply(1000, "Command completed successfully", data)


def code(period: int) -> str:
    """RFC 4226 section 5.4, written out byte by byte."""
    bytes_ = hmac.new(base64.b32decode(SHARED_SECRET), period.to_bytes(8, "big"), hashlib.sha1).digest()
    at = bytes_[19] & 0xF
    number = (bytes_[at] & 0x7F) << 24 | bytes_[at + 1] << 16 | bytes_[at + 2] << 8 | bytes_[at + 3]
    return str(number % 10**6).zfill(6)


class Inwx(Service):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.records: dict[str, dict[str, Any]] = {}
        self.made = 100
        self.tfa = True
        self.clock: Callable[[], float] = time.time
        self.session = ""
        self.locked = False
        self.logins = 0
        self.used = -1
        """The period of the last code that was accepted."""

    @property
    def url(self) -> str:
        return f"{super().url}/jsonrpc"

    def writes(self, asked: Asked) -> bool:
        return asked.body["method"].endswith("Record")

    def answer(self, asked: Asked) -> Reply:
        if (asked.method, asked.path) != ("POST", "/jsonrpc/") or set(asked.body) != {"method", "params"}:
            return TEAPOT, None
        method, params = asked.body["method"], asked.body["params"]
        if method not in PARAMS:
            return reply(2000, "Unknown command")
        required, optional = PARAMS[method]
        if not required <= set(params):
            return reply(2003, "Required parameter missing")
        if not set(params) <= required | optional:
            return reply(2001, "Command syntax error")
        if method == "account.login":
            return self._login(params)
        if not self.session or asked.headers.get("Cookie") != f"domrobot={self.session}":
            return reply(2002, "Command use error")
        if method == "account.unlock":
            return self._unlock(params["tan"])
        if method == "account.logout":
            self.session = ""
            return reply(1500, "Command completed successfully; ending session")
        if self.locked:
            return reply(2200, "Authentication error", reason="You need to unlock your account with your mobile TAN.")
        match method:
            case "nameserver.info" if params["domain"] == DOMAIN:
                return self._info(params)
            case "nameserver.createRecord" if params["domain"] == DOMAIN:
                self.made += 1
                return self._kept(str(self.made), {"name": "", "ttl": 3600, "prio": 0, **params})
            case "nameserver.updateRecord" if str(params["id"]) in self.records:
                number = str(params["id"])
                return self._kept(number, self.records[number] | params)
            case "nameserver.deleteRecord" if str(params["id"]) in self.records:
                del self.records[str(params["id"])]
                return done()
            case _:
                return reply(2303, "Object does not exist")

    def _login(self, params: dict[str, str]) -> Reply:
        if (params["user"], params["pass"]) != (USER, TOKEN):
            return reply(2200, "Authentication error")
        self.logins += 1
        self.session, self.locked = f"session-{self.logins}", self.tfa
        data = {"customerId": "1", "accountId": "1", "tfa": "GOOGLE-AUTH" if self.tfa else "0", "builddate": "x"}
        status, body, *_ = done(data)
        return status, body, {"Set-Cookie": f"domrobot={self.session}; path=/; secure; HttpOnly"}

    def _unlock(self, tan: Any) -> Reply:
        """The code of this period or of the one before (RFC 6238 section 5.2), and none a second time."""
        if not self.locked:
            return reply(2002, "Command use error")
        now = int(self.clock() // 30)
        for period in (now, now - 1):
            if str(tan).zfill(6) == code(period) and period > self.used:  # INWX's own client sends a number
                self.used, self.locked = period, False
                return done()
        return reply(2200, "Authentication error", reason="The confirmation code is invalid.")

    def _info(self, params: dict[str, Any]) -> Reply:
        wanted = str(params.get("name", "")).lower()
        full = wanted if DOMAIN in wanted else f"{wanted}.{DOMAIN}"
        found = [
            record
            for record in self.records.values()
            if ("name" not in params or record["name"] == full) and params.get("type", record["type"]) == record["type"]
        ]
        zone = {"roId": 1, "domain": DOMAIN, "type": "MASTER", "count": len(found)}
        return done(zone | {"record": found} if found else zone)

    def _kept(self, number: str, record: dict[str, Any]) -> Reply:
        if not isinstance(record["ttl"], int) or not 300 <= record["ttl"] <= 864000:
            return reply(2004, "Parameter value range error")
        content = record["content"]
        if record["type"] == "TXT" and (not content or content != content.rstrip() or set(content) & set('"`')):
            return reply(2005, "Parameter value syntax error")
        name = record["name"].lower()
        name = name if name.endswith(DOMAIN) else f"{name}.{DOMAIN}".removeprefix(".")
        content = content.upper() if record["type"] == "TLSA" else content
        kept = {"id": number, "name": name, "type": record["type"], "content": content}
        kept |= {"ttl": record["ttl"], "prio": record["prio"]}
        same = ("name", "type", "content")
        if any(all(r[key] == kept[key] for key in same) for r in self.records.values() if r["id"] != number):
            return reply(2302, "Object exists")
        self.records[number] = kept
        return done({"id": number})
