"""netcup's API: https://ccp.netcup.net/run/webservice/servers/endpoint.php?WSDL, its JSON form (`?JSON`).

Sessions end; errors have HTTP status 200; a zone has one TTL, and a list of all its records.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from tests.dns.fakes.described import Described, Form, way
from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply

DOMAIN, NUMBER, KEY = "example.org", "12345", "key"


class AsJson(Form):
    JSON: Literal[""]
    """Without it the address speaks SOAP."""


class Call(Form):
    action: str
    param: dict[str, Any]


class Login(Form):
    customernumber: str
    apikey: str
    apipassword: str
    apisessionid: str = ""
    """Of an earlier session."""


class InSession(Form):
    customernumber: str
    apikey: str
    apisessionid: str


class InZone(InSession):
    domainname: str


class Change(Form):
    hostname: str
    type: str
    destination: str
    priority: str | None = None
    id: str | None = None
    deleterecord: bool = False
    state: str | bool | None = None


class Changes(Form):
    dnsrecords: list[Change]


class Update(InZone):
    dnsrecordset: Changes


def reply(status: str, code: int, message: str, data: Any = "") -> Reply:
    body = {"serverrequestid": "x", "clientrequestid": "", "action": "", "status": status, "statuscode": code}
    return 200, body | {"shortmessage": message, "longmessage": message, "responsedata": data}


class Netcup(Described):
    RETRY_AFTER_S = 60.0
    ttl_s = 3600

    def __init__(self, directory: Path, zone: str = DOMAIN) -> None:
        super().__init__(directory)
        self.stores: dict[str, list[dict[str, Any]]] = {}
        self.host(zone)
        self.records = self.stores[zone]
        self.made = 0
        self.session = ""
        self.left = 0
        """Requests until the session is over."""

    @property
    def url(self) -> str:
        return f"{super().url}/endpoint.php"

    def host(self, zone: str) -> None:
        super().host(zone)
        self.stores[zone] = []

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        zone, label = self.located(name)
        for content in contents:
            self._make(self.stores[zone], Change(label or "@", rdtype, content))

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        zone, label = self.located(name, zone)
        same = label or "@", rdtype
        return [r["destination"] for r in self.stores[zone] if (r["hostname"], r["type"]) == same]

    def body(self, kind: str | None, sent: bytes) -> Any:
        return msgspec.json.decode(sent)  # whatever it says of itself, as libraries send it

    def writes(self, asked: Asked) -> bool:
        return asked.body["action"] == "updateDnsRecords"

    def too_many(self) -> Reply:
        """With the status of a wrong key."""
        return reply("error", 4013, "More than 180 requests per minute. Please wait and retry later.")

    def login(self, asked: Asked) -> Reply | None:
        action, param = asked.body["action"], asked.body["param"]
        if (param.get("customernumber"), param.get("apikey")) != (NUMBER, KEY):
            return reply("error", 4013, "Validation Error. Api key is invalid.")
        if action == "login":
            wrong = param.get("apipassword") != TOKEN
            return reply("error", 4013, "The login to the API has failed.") if wrong else None
        self.left -= 1
        if param.get("apisessionid") != self.session or self.left < 0:
            return reply("error", 4001, "Api session id in invalid format")
        return None

    @way("POST", "/endpoint.php", body=Call, query=AsJson)
    def called(self, call: Call, _: AsJson) -> Reply:
        match call.action:
            case "login":
                self.read(Login, call.param)
                self.session, self.left = f"session-{len(self.asked)}", 40
                return reply("success", 2000, "Login successful", {"apisessionid": self.session})
            case "updateDnsRecords":
                update = self.read(Update, call.param)
                known = self.stores.get(update.domainname)
                return self._missing() if known is None else self._updated(known, update.dnsrecordset.dnsrecords)
            case "infoDnsZone" | "infoDnsRecords":
                zone = self.read(InZone, call.param).domainname
                if zone not in self.stores:
                    return self._missing()
                if call.action == "infoDnsRecords":
                    return self._listed(self.stores[zone])
                info = {"name": zone, "ttl": str(self.ttl_s), "serial": "1", "dnssecstatus": True}
                return reply("success", 2000, "DNS zone found", info)
            case _:
                return TEAPOT, None

    def _missing(self) -> Reply:
        return reply("error", 5028, "Can not get DNS Zone. Domain not found.")

    def _listed(self, records: list[dict[str, Any]]) -> Reply:
        if not records:
            return reply("error", 5029, "Can not get DNS records for zone. DNS zone not found")
        return reply("success", 2000, "DNS records found", {"dnsrecords": records})

    def _updated(self, records: list[dict[str, Any]], changes: list[Change]) -> Reply:
        for change in changes:
            if change.deleterecord:
                known = [r for r in records if r["id"] == change.id]
                same = ("hostname", "type", "destination")
                if not known or any(known[0][key] != getattr(change, key) for key in same):
                    return reply("error", 4013, "Validation Error. Record does not exist.")
                records.remove(known[0])
            elif not change.hostname or change.id:
                return reply("error", 4013, "Validation Error. hostname is empty.")
            else:
                self._make(records, change)
        return reply("success", 2000, "DNS records successful updated", {"dnsrecords": records})

    def _make(self, records: list[dict[str, Any]], change: Change) -> None:
        self.made += 1
        record = msgspec.to_builtins(change) | {"id": str(self.made), "deleterecord": False, "state": "yes"}
        if change.type == "TLSA":
            record["destination"] = change.destination.upper()
        records.append(record)
