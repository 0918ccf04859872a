"""Each driver of dns-lexicon that may be used: what it sends of a TLSA record, and what it leaves alone.

The services stand here as far as the drivers ask them, and keep whatever they are sent. So this says what a driver
does, and not what a service takes.
"""

from __future__ import annotations

import io
import json
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from certagent.dns.providers.lexicon import DRIVERS, Options, Worker
from certagent.dns.providers.protocol import RRset
from tests.dns.fakes.service import private

ZONE = "example.org"
LABEL = "_25._tcp.mx1"
NAME = f"{LABEL}.{ZONE}."
A, B, C = (f"3 1 1 {digit * 64}" for digit in "abc")
TTL_S = 900
Row = tuple[str, str, str, int]
"""Label, type, content, TTL."""
OTHERS: list[Row] = [(LABEL, "TXT", "x", 300), ("_25._tcp.mx2", "TLSA", A, 300), (f"x{LABEL}", "TLSA", A, 300)]


class Service:
    """One service, with its records."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.made = 100
        for row in OTHERS:
            self.add(*row)

    def add(self, label: str, rdtype: str, content: str, ttl_s: int) -> None:
        self.made += 1
        self.rows[str(self.made)] = (label, rdtype, content, ttl_s)

    def remove(self, *row: object) -> None:
        [number] = [number for number, known in self.rows.items() if known == row]
        del self.rows[number]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """None: there is nothing like this."""
        raise NotImplementedError


class DnSimple(Service):
    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        place = f"/v2/1/zones/{ZONE}/records"
        match method, path:
            case "GET", "/v2/accounts":
                return {"data": [{"id": 1, "email": "me", "plan_identifier": "x"}]}
            case "GET", "/v2/1/domains":
                return {"data": [{"id": 9, "name": ZONE}]}
            case "GET", _ if path == place:
                names = ("name", "type", "content", "ttl")
                found = [
                    {**dict(zip(names, r, strict=True)), "id": int(n), "priority": None} for n, r in self.rows.items()
                ]
                return {"data": [r for r in found if (r["name"], r["type"]) == (query["name"], query["type"])]}
            case "POST", _ if path == place:
                self.add(body["name"], body["type"], body["content"], body["ttl"])
                return {"data": {"id": 1}}
            case "DELETE", _ if path.startswith(f"{place}/"):
                del self.rows[path.rpartition("/")[2]]
                return ""
            case _:
                return None


class Google(Service):
    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        place = "/dns/v1/projects/p/managedZones"
        match method, path:
            case "POST", "/oauth2/v4/token":
                return {"access_token": "t"}
            case "GET", _ if path == place:
                return {"managedZones": [{"id": "7", "dnsName": f"{ZONE}."}]}
            case "GET", _ if path == f"{place}/7/rrsets":
                kept = {"name", "type"} & set(query)
                return {"rrsets": [s for s in self.sets() if all(s[key] == query[key] for key in kept)]}
            case "POST", _ if path == f"{place}/7/changes":
                for rrset in body.get("deletions", []):
                    assert rrset in self.sets()  # it is named exactly, or nothing is changed
                    for row in self.of(rrset):
                        self.remove(*row)
                for rrset in body.get("additions", []):
                    for row in self.of(rrset):
                        self.add(*row)
                return {"status": "pending"}
            case _:
                return None

    def sets(self) -> list[dict[str, Any]]:
        found: dict[Any, dict[str, Any]] = {}
        for label, rdtype, content, ttl_s in self.rows.values():
            one: dict[str, Any] = {"name": f"{label}.{ZONE}.", "type": rdtype, "ttl": ttl_s, "rrdatas": []}
            data = f'"{content}"' if rdtype == "TXT" else content
            found.setdefault((label, rdtype), one)["rrdatas"].append(data)
        return list(found.values())

    def of(self, rrset: Any) -> list[Row]:
        label = rrset["name"].removesuffix(f".{ZONE}.")
        return [(label, rrset["type"], data.strip('"'), rrset["ttl"]) for data in rrset["rrdatas"]]


class HostingDe(Service):
    """And http.net, which has the same API."""

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        match method, path.removeprefix("/api/dns/v1/json"):
            case "POST", "/zoneConfigsFind":
                return self.done([{"id": "z", "name": body["filter"]["value"]}])
            case "POST", "/recordsFind":
                wanted = {one["field"]: one["value"] for one in body["filter"]["subFilter"]}
                found = [
                    {"id": number, "name": f"{label}.{ZONE}", "type": rdtype, "ttl": ttl_s, "priority": 0}
                    | {"content": f'"{content}"' if rdtype == "TXT" else content}
                    for number, (label, rdtype, content, ttl_s) in self.rows.items()
                ]
                keys = {"RecordType": "type", "RecordName": "name"}
                return self.done([r for r in found if all(r[keys[f]] == wanted[f] for f in keys if f in wanted)])
            case "POST", "/zoneUpdate":
                for new in body.get("recordsToAdd", []):
                    self.add(new["name"].removesuffix(f".{ZONE}"), new["type"], new["content"], new["ttl"])
                for old in body.get("recordsToDelete", []):
                    del self.rows[old["id"]]
                return self.done([])
            case _:
                return None

    def done(self, data: list[Any]) -> Any:
        return {"status": "success", "response": {"data": data, "totalPages": 1}}


class Infomaniak(Service):
    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        place = "/1/domain/7/dns/record"
        match method, path:
            case "GET", "/1/product":
                return self.done([{"id": 7, "customer_name": ZONE}])
            case "GET", _ if path == place:
                names = ("source_idn", "type", "target_idn", "ttl")
                rows = ((number, (f"{row[0]}.{ZONE}", *row[1:])) for number, row in self.rows.items())
                return self.done([{"id": int(number), **dict(zip(names, row, strict=True))} for number, row in rows])
            case "POST", _ if path == place:
                self.add(body["source"], body["type"], body["target"], body["ttl"])
                return self.done(1)
            case "DELETE", _ if path.startswith(f"{place}/"):
                del self.rows[path.rpartition("/")[2]]
                return self.done(True)
            case _:
                return None

    def done(self, data: Any) -> Any:
        return {"result": "success", "data": data}


class LuaDns(Service):
    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        place = "/v1/zones/7/records"
        match method, path:
            case "GET", "/v1/zones":
                return [{"id": 7, "name": ZONE}]
            case "GET", _ if path == place:
                names = ("name", "type", "content", "ttl")
                rows = ((number, (f"{row[0]}.{ZONE}.", *row[1:])) for number, row in self.rows.items())
                return [{"id": int(number), **dict(zip(names, row, strict=True))} for number, row in rows]
            case "POST", _ if path == place:
                self.add(body["name"].removesuffix(f".{ZONE}."), body["type"], body["content"], body["ttl"])
                return {}
            case "DELETE", _ if path.startswith(f"{place}/"):
                del self.rows[path.rpartition("/")[2]]
                return {}
            case _:
                return None


class RcodeZero(Service):
    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        match method, path.removeprefix("/api/v1/zones"):
            case "GET", "/example.org":
                return {"domain": ZONE}
            case "GET", "/example.org/rrsets":
                return {"data": self.sets()}
            case "PATCH", "/example.org/rrsets":
                for rrset in body:
                    label = rrset["name"].removesuffix(f".{ZONE}.")
                    there = [row for row in self.rows.values() if row[:2] == (label, rrset["type"])]
                    assert bool(there) == (rrset["changetype"] != "ADD")
                    for row in there:
                        self.remove(*row)
                    for record in rrset["records"]:
                        self.add(label, rrset["type"], record["content"].strip('"'), rrset["ttl"])
                return {"status": "ok"}
            case _:
                return None

    def sets(self) -> list[dict[str, Any]]:
        found: dict[Any, dict[str, Any]] = {}
        for label, rdtype, content, ttl_s in self.rows.values():
            one: dict[str, Any] = {"name": f"{label}.{ZONE}.", "type": rdtype, "ttl": ttl_s, "records": []}
            record = {"content": f'"{content}"' if rdtype == "TXT" else content, "disabled": False}
            found.setdefault((label, rdtype), one)["records"].append(record)
        return list(found.values())


class TransIp(Service):
    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        match method, path.removeprefix("/v6"):
            case "POST", "/auth":
                return {"token": "t"}
            case "GET", "/domains/example.org":
                return {"domain": {"authCode": "x"}}
            case "GET", "/domains/example.org/dns":
                names = ("name", "type", "content", "expire")
                return {"dnsEntries": [dict(zip(names, row, strict=True)) for row in self.rows.values()]}
            case "POST", "/domains/example.org/dns":
                self.add(*self.of(body["dnsEntry"]))
                return ""
            case "DELETE", "/domains/example.org/dns":
                self.remove(*self.of(body["dnsEntry"]))
                return ""
            case _:
                return None

    def of(self, entry: Any) -> Row:
        return entry["name"], entry["type"], entry["content"], entry["expire"]


SERVICES: dict[str, type[Service]] = {
    "dnsimple": DnSimple,
    "googleclouddns": Google,
    "hostingde": HostingDe,
    "httpnet": HostingDe,
    "infomaniak": Infomaniak,
    "luadns": LuaDns,
    "rcodezero": RcodeZero,
    "transip": TransIp,
}


def key() -> str:
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return made.private_bytes(serialization.Encoding.PEM, form, none).decode()


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    pem = key()
    account = {"client_email": "me", "private_key": pem, "project_id": "p"}
    return {
        "auth_api_key": "base64::" + b64encode(pem.encode()).decode(),
        "auth_service_account_info": "base64::" + b64encode(json.dumps(account).encode()).decode(),
    }


def test_none_is_left_out() -> None:
    assert set(SERVICES) == set(DRIVERS)


@pytest.mark.parametrize("name", DRIVERS)
def test_it_writes_tlsa_and_takes_single_records_away(
    name: str, secrets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Type, value, name and TTL arrive as they are; nothing of others goes, changes or comes."""
    service = SERVICES[name]()

    def request(session: requests.Session, method: str, url: str, **how: Any) -> requests.Response:
        parts = urlsplit(url)
        assert parts.scheme == "https"
        query = {key: values[0] for key, values in parse_qs(parts.query).items()} | dict(how.get("params") or {})
        body = how.get("json")
        if how.get("data") and isinstance(how["data"], str):
            body = json.loads(how["data"])
        said = service.answer(method, parts.path, query, body)
        response = requests.Response()
        response.status_code = 418 if said is None else 200
        response.raw = io.BytesIO(said.encode() if isinstance(said, str) else json.dumps(said).encode())
        return response

    monkeypatch.setattr(requests.Session, "request", request)
    text = "".join(f"{one} = {secrets.get(one, 'x')}\n" for one in DRIVERS[name].secrets)
    token_file = private(tmp_path / "token", text)
    worker = Worker(Options(provider=name, zones=(ZONE,), token_file=str(token_file)))

    assert worker.get(NAME, "TLSA") is None
    worker.add(NAME, "TLSA", frozenset({A, B, C}), TTL_S, None)
    assert sorted(service.rows.values()) == sorted([*OTHERS, *((LABEL, "TLSA", value, TTL_S) for value in (A, B, C))])
    was = worker.get(NAME, "TLSA")
    assert was == RRset(frozenset({A, B, C}), TTL_S)
    worker.remove(NAME, "TLSA", frozenset({B}), was)
    assert sorted(service.rows.values()) == sorted([*OTHERS, (LABEL, "TLSA", A, TTL_S), (LABEL, "TLSA", C, TTL_S)])
    worker.remove(NAME, "TLSA", frozenset({A, C}), worker.get(NAME, "TLSA"))
    assert sorted(service.rows.values()) == sorted(OTHERS)

    digest = "Zm9v_-LoqXO1PBaGvG8Y0kV7sN2qWeRtYuIoPaSdFgH"
    worker.add(NAME, "TXT", frozenset({digest}), TTL_S, worker.get(NAME, "TXT"))
    assert worker.get(NAME, "TXT") == RRset(frozenset({"x", digest}), 300)
    worker.remove(NAME, "TXT", frozenset({digest}), worker.get(NAME, "TXT"))
    assert sorted(service.rows.values()) == sorted(OTHERS)
