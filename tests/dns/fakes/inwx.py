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

from msgspec import ValidationError, field, to_builtins

from tests.dns.fakes.described import Described, Form, way
from tests.dns.fakes.service import TOKEN, Asked, Reply

DOMAIN, USER = "example.org", "user"
SHARED_SECRET = base64.b32encode(b"12345678901234567890").decode()
Id = int | str


class Call(Form):
    method: str
    params: dict[str, Any]


class Login(Form):
    user: str
    password: str = field(name="pass")
    lang: str = "en"


class Unlock(Form):
    tan: Id


class Info(Form):
    domain: str
    name: str | None = None
    type: str | None = None
    content: str | None = None


class Create(Form):
    domain: str
    type: str
    content: str
    name: str = ""
    ttl: int = 3600
    prio: int = 0


class Update(Form, omit_defaults=True):
    id: Id
    name: str | None = None
    type: str | None = None
    content: str | None = None
    ttl: int | None = None
    prio: int | None = None


class Delete(Form):
    id: Id


PARAMS: dict[str, type[Form]] = {
    "account.login": Login,
    "account.unlock": Unlock,
    "account.logout": Form,
    "nameserver.info": Info,
    "nameserver.createRecord": Create,
    "nameserver.updateRecord": Update,
    "nameserver.deleteRecord": Delete,
}
"""As far as they are of use here."""


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


MISSING = reply(2303, "Object does not exist")


class Inwx(Described):
    RETRY_AFTER_S = None

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.records: dict[str, dict[str, Any]] = {}
        self.made = 100
        self.host(DOMAIN)
        self.tfa = True
        self.session = ""
        """That of the request."""
        self.clock: Callable[[], float] = time.time
        self.sessions: dict[str, bool] = {}
        """Whether they are locked until a code is given."""
        self.logins = 0
        self.used = -1
        """The period of the last code that was accepted."""

    @property
    def url(self) -> str:
        return f"{super().url}/jsonrpc"

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        for content in contents:
            self._create(Create(self.located(name)[0], rdtype, content, name.rstrip("."), ttl_s))

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        key = self.located(name, zone)[0], name.rstrip("."), rdtype
        return [r["content"] for r in self.records.values() if (r["domain"], r["name"], r["type"]) == key]

    def writes(self, asked: Asked) -> bool:
        return asked.body["method"].endswith("Record")

    def forbidden(self) -> Reply:
        return reply(2201, "Authorization error")

    def too_many(self) -> Reply:
        return reply(2502, "Session limit exceeded; server closing connection")

    def login(self, asked: Asked) -> Reply | None:
        method, self.session = asked.body["method"], asked.headers.get("Cookie", "").removeprefix("domrobot=")
        if method == "account.login":
            return None
        if self.session not in self.sessions:
            return reply(2002, "Command use error")
        if self.sessions[self.session] and not method.startswith("account."):
            return reply(2200, "Authentication error", reason="You need to unlock your account with your mobile TAN.")
        return None

    @way("POST", "/jsonrpc/", body=Call)
    def called(self, call: Call) -> Reply:
        if call.method not in PARAMS:
            return reply(2000, "Unknown command")
        try:
            params = self.read(PARAMS[call.method], call.params)
        except ValidationError as error:
            missing = "missing required" in str(error)
            return reply(2003 if missing else 2001, "Required parameter missing" if missing else "Command syntax error")
        match params:
            case Login():
                return self._login(params)
            case Unlock():
                return self._unlock(params.tan)
            case Info():
                return self._info(params) if params.domain in self.zones else MISSING
            case Create():
                return self._create(params) if params.domain in self.zones else MISSING
            case Update() if str(params.id) in self.records:
                number = str(params.id)
                return self._kept(number, self.records[number] | to_builtins(params))
            case Delete() if str(params.id) in self.records:
                del self.records[str(params.id)]
                return done()
            case Update() | Delete():
                return MISSING
            case _:
                del self.sessions[self.session]
                return reply(1500, "Command completed successfully; ending session")

    def _login(self, params: Login) -> Reply:
        if (params.user, params.password) != (USER, TOKEN):
            return reply(2200, "Authentication error")
        self.logins += 1
        session = f"session-{self.logins}"
        self.sessions[session] = self.tfa
        data = {"customerId": "1", "accountId": "1", "tfa": "GOOGLE-AUTH" if self.tfa else "0", "builddate": "x"}
        status, body, *_ = done(data)
        return status, body, {"Set-Cookie": f"domrobot={session}; path=/; secure; HttpOnly"}

    def _unlock(self, tan: Id) -> Reply:
        """The code of this period or of the one before (RFC 6238 section 5.2), and none a second time."""
        if not self.sessions[self.session]:
            return reply(2002, "Command use error")
        now = int(self.clock() // 30)
        for period in (now, now - 1):
            if str(tan).zfill(6) == code(period) and period > self.used:  # INWX's own client sends a number
                self.used, self.sessions[self.session] = period, False
                return done()
        return reply(2200, "Authentication error", reason="The confirmation code is invalid.")

    def _info(self, params: Info) -> Reply:
        wanted = (params.name or "").lower()
        full = wanted if wanted.endswith(params.domain) else f"{wanted}.{params.domain}"
        found = [
            record
            for record in self.records.values()
            if record["domain"] == params.domain
            and (params.name is None or record["name"] == full)
            and params.type in (None, record["type"])
            and params.content in (None, record["content"])
        ]
        zone = {"roId": 1, "domain": params.domain, "type": "MASTER", "count": len(found)}
        return done(zone | {"record": found} if found else zone)

    def _create(self, new: Create) -> Reply:
        self.made += 1
        return self._kept(str(self.made), to_builtins(new))

    def _kept(self, number: str, record: dict[str, Any]) -> Reply:
        if not 300 <= record["ttl"] <= 864000:
            return reply(2004, "Parameter value range error")
        content = record["content"]
        if record["type"] == "TXT" and (not content or content != content.rstrip() or set(content) & set('"`')):
            return reply(2005, "Parameter value syntax error")
        name, domain = record["name"].lower(), record["domain"]
        name = name if f".{name}".endswith(f".{domain}") else f"{name}.{domain}".removeprefix(".")
        content = content.upper() if record["type"] == "TLSA" else content
        kept = {"id": number, "domain": domain, "name": name, "type": record["type"], "content": content}
        kept |= {"ttl": record["ttl"], "prio": record["prio"]}
        same = ("domain", "name", "type", "content")
        if any(all(r[key] == kept[key] for key in same) for r in self.records.values() if r["id"] != number):
            return reply(2302, "Object exists")
        self.records[number] = kept
        return done({"id": number})
