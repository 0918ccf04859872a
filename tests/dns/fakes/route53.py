"""Route 53: https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html

Zones, records and their lists are moto's. What moto lacks is here: the signature is verified (SigV4), a batch is
checked as a whole against what is there, values and TTLs are checked, the policy of the key is kept (types, no UPSERT),
and a change is PENDING until it was asked for a few times. Parameters and elements that are not described are refused.
Limits: https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.request import Request
from moto.route53.models import Route53Backend, route53_backends
from moto.route53.responses import Route53 as Moto

from tests.dns.fakes.service import TEAPOT, TOKEN, Asked, Fault, Reply, Service

ZONE = "example.org."
KEY_ID = "AKIATESTTESTTESTTEST"
NAMESPACE = "https://route53.amazonaws.com/doc/2013-04-01/"
TXT = re.compile(r'"(?:[^"\\]|\\.){0,255}"(?: "(?:[^"\\]|\\.){0,255}")*')
TLSA = re.compile(r"\d{1,3} \d{1,3} \d{1,3} (?:[0-9a-fA-F]{2})+")
VALUES = {"TXT": TXT, "TLSA": TLSA}
ELEMENTS = {
    *("ChangeResourceRecordSetsRequest", "ChangeBatch", "Changes", "Change", "Action", "ResourceRecordSet", "Name"),
    *("Type", "TTL", "ResourceRecords", "ResourceRecord", "Value"),
}
QUERIES = {
    "hostedzonesbyname": {"dnsname", "hostedzoneid", "maxitems"},
    "hostedzone": {"name", "type", "identifier", "maxitems"},
}
"""Of those that list; others have none."""
PLACE = re.compile(r"/2013-04-01/(hostedzonesbyname|hostedzone/([A-Z0-9]+)/rrset/?|change/([A-Z0-9]+))")


class Set(NamedTuple):
    """One record set of a batch."""

    action: str
    name: str
    rdtype: str
    ttl_s: int
    values: list[str]


def error(status: int, code: str, message: str) -> Reply:
    text = f'<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}'
    return status, f"{text}</Message></Error><RequestId>1</RequestId></ErrorResponse>".encode()


def hmac_of(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Route53(Service):
    RETRY_AFTER_S = None

    def __init__(self, directory: Path, zone: str = ZONE) -> None:
        super().__init__(directory)
        self.moto: Route53Backend = route53_backends[DEFAULT_ACCOUNT_ID]["aws"]
        self.moto.reset()
        self.zone = self.host(zone)
        """The one that is meant, if several have its name."""
        self.polls = 0
        """How often a change says PENDING before it is INSYNC."""
        self.in_sync: Callable[[], None] = lambda: None
        """Called when a change becomes INSYNC, before that is said."""
        self.changes: dict[str, int] = {}
        self.protected: set[str] = set()
        """Names that nobody may change."""
        self.at_change: list[Fault] = []
        """What goes wrong when the state of a change is asked for."""

    def host(self, zone: str, *, private: bool = False) -> Any:
        super().host(zone.rstrip("."))
        return self.moto.create_hosted_zone(f"{zone.rstrip('.')}.", private_zone=private, caller_reference="test")

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str, **policy: Any) -> None:
        rrset = {"Name": name, "Type": rdtype, "TTL": ttl_s, "ResourceRecords": list(contents), **policy}
        self._hosted(name).upsert_rrset(rrset)

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        found = self._hosted(name, zone).rrsets
        return [value for one in found if (one.name, one.type) == (name, rdtype) for value in one.records]

    def _hosted(self, name: str, zone: str = "") -> Any:
        wanted = f"{self.located(name, zone)[0]}."
        every = (self.zone, *self.moto.zones.values())
        return next(one for one in every if one.name == wanted)

    def body(self, kind: str | None, sent: bytes) -> bytes:
        return sent

    def login(self, asked: Asked) -> Reply | None:
        wrong = self._unsigned(asked)
        return error(403, *wrong) if wrong else None

    def forbidden(self) -> Reply:
        return error(403, "AccessDenied", "not authorized to perform: route53:ChangeResourceRecordSets")

    def too_many(self) -> Reply:
        return error(400, "Throttling", "Rate exceeded")

    def answer(self, asked: Asked) -> Reply:
        place = PLACE.fullmatch(asked.path)
        what = place[1].partition("/")[0] if place else ""
        asks = asked.method == "GET"
        if (asks and asked.body) or not set(asked.query) <= (QUERIES.get(what, set()) if asks else set()):
            return TEAPOT, None
        match asked.method, what:
            case "GET", "hostedzonesbyname" | "hostedzone":
                return self._listed(asked)
            case "GET", "change" if self.at_change:
                fault = self.at_change.pop()
                return fault.status, fault.body
            case "GET", "change" if place and place[3] in self.changes:
                self.changes[place[3]] -= 1
                return self._change("GetChangeResponse", place[3])
            case "POST", "hostedzone" if place:
                return self._batch(place[2], asked.body)
            case _:
                return TEAPOT, None

    def _listed(self, asked: Asked) -> Reply:
        query = "&".join(f"{key}={quote(value)}" for key, value in asked.query.items())
        request = Request.from_primitives(
            asked.method, f"https://route53.amazonaws.com{asked.path}?{query}", dict(asked.headers)
        )
        status, _, text = Moto.dispatch(request, request.url, request.headers)
        return status, text.encode()

    def _change(self, kind: str, number: str) -> Reply:
        status = "PENDING" if self.changes[number] > 0 else "INSYNC"
        if status == "INSYNC":
            self.in_sync()
        text = f"<Id>/change/{number}</Id><Status>{status}</Status><SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt>"
        return 200, f'<{kind} xmlns="{NAMESPACE}"><ChangeInfo>{text}</ChangeInfo></{kind}>'.encode()

    def _batch(self, zone_id: str, body: bytes) -> Reply:
        zone = self.moto.zones.get(zone_id)
        if zone is None:
            return error(404, "NoSuchHostedZone", f"No hosted zone found with ID: {zone_id}")
        if not body:
            return error(400, "MalformedXML", "no body")
        root = ElementTree.fromstring(body)
        if not {element.tag for element in root.iter()} <= {f"{{{NAMESPACE}}}{element}" for element in ELEMENTS}:
            return error(400, "MalformedInput", "an element that is not described")
        sets = list(map(self._read, root.iter(f"{{{NAMESPACE}}}Change")))
        if any(one.rdtype not in VALUES or one.action not in ("CREATE", "DELETE") for one in sets):
            return self.forbidden()
        there: dict[Any, Any] = {(one.name, one.type): one for one in zone.rrsets}
        for one in sets:
            if wrong := self._wrong(one, zone.name, there):
                return error(400, "InvalidChangeBatch", f"[{wrong}]")
            there.pop((one.name, one.rdtype), None)
        for one in sets:
            zone.delete_rrset({"Name": one.name, "Type": one.rdtype})
        for one in sets:
            if one.action == "CREATE":
                rrset = {"Name": one.name, "Type": one.rdtype, "TTL": one.ttl_s, "ResourceRecords": one.values}
                zone.upsert_rrset(rrset)
        number = f"C{len(self.changes)}"
        self.changes[number] = self.polls
        return self._change("ChangeResourceRecordSetsResponse", number)

    def _read(self, change: ElementTree.Element) -> Set:
        def text(tag: str) -> str:
            return change.findtext(f".//{{{NAMESPACE}}}{tag}") or ""

        values = [element.text or "" for element in change.iter(f"{{{NAMESPACE}}}Value")]
        return Set(text("Action"), text("Name").lower().rstrip(".") + ".", text("Type"), int(text("TTL")), values)

    def _wrong(self, one: Set, zone: str, there: dict[Any, Any]) -> str:
        found = there.get((one.name, one.rdtype))
        what = f"resource record set [name='{one.name}', type='{one.rdtype}']"
        if one.name in self.protected:
            return f"{what} is protected"
        if not f".{one.name}".endswith(f".{zone}"):
            return f"RRSet with DNS name {one.name} is not permitted in zone {zone}"
        if not 0 <= one.ttl_s <= 2147483647 or not one.values or len(set(one.values)) < len(one.values):
            return f"Invalid Resource Record: {what}"
        if not all(VALUES[one.rdtype].fullmatch(value) for value in one.values):
            return f"Invalid Resource Record: {what} has an invalid value"
        if one.action == "CREATE":
            return f"Tried to create {what} but it already exists" if found else ""
        if found is None:
            return f"Tried to delete {what} but it was not found"
        if (sorted(found.records), int(found.ttl)) != (sorted(one.values), one.ttl_s):
            return f"Tried to delete {what} but the values provided do not match the current values"
        return ""

    def _unsigned(self, asked: Asked) -> tuple[str, str] | None:
        """Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html"""
        headers = {name.lower(): value.strip() for name, value in asked.headers.items()}
        seen = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=(\w+)/((\d{8})/us-east-1/route53/aws4_request), "
            r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
            headers.get("authorization", ""),
        )
        if not seen or "host" not in seen[4].split(";"):
            return "MissingAuthenticationToken", "Missing Authentication Token"
        if seen[1] != KEY_ID:
            return "InvalidClientTokenId", "The security token included in the request is invalid."
        query = "&".join(sorted(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in asked.query.items()))
        signed = "".join(f"{name}:{headers[name]}\n" for name in seen[4].split(";"))
        digest = hashlib.sha256(asked.body or b"").hexdigest()
        canonical = "\n".join((asked.method, quote(asked.path), query, signed, seen[4], digest))
        text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{seen[2]}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{TOKEN}".encode()
        for part in seen[2].split("/"):
            key = hmac_of(key, part)
        if not hmac.compare_digest(hmac_of(key, text).hex(), seen[5]):
            return "SignatureDoesNotMatch", "The request signature we calculated does not match.\nThe String-to-Sign: …"
        return None
