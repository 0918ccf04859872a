"""netcup's API: https://ccp.netcup.net/run/webservice/servers/endpoint.php?WSDL, its JSON form.

Sessions end; errors have HTTP status 200; a zone has one TTL, and a list of all its records.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Reply, Service

DOMAIN, NUMBER, KEY = "example.org", "12345", "key"


def reply(status: str, code: int, message: str, data: Any = "") -> Reply:
    body = {"serverrequestid": "x", "clientrequestid": "", "action": "", "status": status, "statuscode": code}
    return 200, body | {"shortmessage": message, "longmessage": message, "responsedata": data}


class Netcup(Service):
    zone, ttl_s = DOMAIN, 3600

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.records: list[dict[str, Any]] = []
        self.made = 0
        self.session = ""
        self.busy = False
        self.left = 0
        """Requests until the session is over."""

    def body(self, kind: str | None, sent: bytes) -> Any:
        return json.loads(sent)

    def writes(self, asked: Asked) -> bool:
        return asked.body["action"] == "updateDnsRecords"

    def answer(self, asked: Asked) -> Reply:
        if asked.method != "POST" or asked.path not in ("", "/"):
            return TEAPOT, None
        action, param = asked.body["action"], asked.body["param"]
        if self.busy:
            return reply("error", 4013, "More than 180 requests per minute. Please wait and retry later.")
        if (param.get("customernumber"), param.get("apikey")) != (NUMBER, KEY):
            return reply("error", 4013, "Validation Error. Api key is invalid.")
        if action == "login":
            if param.get("apipassword") != TOKEN:
                return reply("error", 4013, "The login to the API has failed.")
            self.session, self.left = f"session-{len(self.asked)}", 40
            return reply("success", 2000, "Login successful", {"apisessionid": self.session})
        self.left -= 1
        if param.get("apisessionid") != self.session or self.left < 0:
            return reply("error", 4001, "Api session id in invalid format")
        if param["domainname"] != self.zone:
            return reply("error", 5028, "Can not get DNS Zone. Domain not found.")
        match action:
            case "infoDnsZone":
                zone = {"name": self.zone, "ttl": str(self.ttl_s), "serial": "1", "dnssecstatus": True}
                return reply("success", 2000, "DNS zone found", zone)
            case "infoDnsRecords":
                if not self.records:
                    return reply("error", 5029, "Can not get DNS records for zone. DNS zone not found")
                return reply("success", 2000, "DNS records found", {"dnsrecords": self.records})
            case "updateDnsRecords":
                return self._updated(param["dnsrecordset"]["dnsrecords"])
            case _:
                return TEAPOT, None

    def _updated(self, changes: list[dict[str, Any]]) -> Reply:
        for change in changes:
            known = [r for r in self.records if r["id"] == change.get("id")]
            if change.get("deleterecord"):
                same = ("hostname", "type", "destination")
                if not known or any(known[0][key] != change[key] for key in same):
                    return reply("error", 4013, "Validation Error. Record does not exist.")
                self.records.remove(known[0])
                continue
            if not change["hostname"] or "destination" not in change:
                return reply("error", 4013, "Validation Error. hostname is empty.")
            self.made += 1
            record = {key: change[key] for key in ("hostname", "type", "priority", "destination")}
            if record["type"] == "TLSA":
                record["destination"] = record["destination"].upper()
            self.records.append({"id": str(self.made), **record, "deleterecord": False, "state": "yes"})
        return reply("success", 2000, "DNS records successful updated", {"dnsrecords": self.records})
