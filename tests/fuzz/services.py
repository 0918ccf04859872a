"""The answers of DNS services: each provider with an HTTP API reads a set, and every answer that it gets is the input.

A status that is no success is the first word of an input, such as `404 {…}`. The parsers begin with answers as the
services' own descriptions have them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from email.message import Message
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import msgspec

from certagent.dns.providers import knot
from certagent.errors import Transient
from certagent.host.programs import Result

NAME = "_25._tcp.mx1.example.org."
VALUE = "3 1 1 " + "ab" * 32
MOST = 40
"""Requests for one set: pages, records one by one."""
SECRETS = (
    *("username", "customernumber", "apikey", "password", "apipassword", "secretapikey"),
    *("application_key", "application_secret", "consumer_key"),
)

_RECORD = {"id": "7", "name": NAME[:-1], "type": "TLSA", "content": VALUE, "ttl": 300}
_INWX = {**_RECORD, "id": 7}
_OVH = {"id": 7, "target": VALUE, "fieldType": "TLSA", "subDomain": "_25._tcp.mx1", "ttl": 300}
_NETCUP = {"id": "7", "hostname": "_25._tcp.mx1", "type": "TLSA", "destination": VALUE}
_CLOUDFLARE = {"usage": 3, "selector": 1, "matching_type": 1, "certificate": "ab" * 32}
_PAGE = {"result": [{**_RECORD, "data": _CLOUDFLARE}], "result_info": {"total_pages": 2}}
_DONE = {"status": "success", "statuscode": 2000, "responsedata": {"apisessionid": "x", "ttl": "300"}}
ANSWERS: dict[str, tuple[object, ...]] = {
    "cloudflare:Cloudflare": (_PAGE, {"errors": [{"code": 1, "message": "no"}]}),
    "desec:Desec": ({"minimum_ttl": 3600, "ttl": 3600, "records": [VALUE]}, {"detail": "no"}),
    "gandi:Gandi": ({"fqdn": "example.org", "rrset_ttl": 300, "rrset_values": [VALUE]}, {"message": "no"}),
    "hetzner:Hetzner": ({"zone": {"ttl": 300}, "rrset": {"records": [{"value": VALUE}], "ttl": 300}},),
    "inwx:Inwx": ({"code": 1000, "resData": {"tfa": "0", "record": [_INWX]}}, {"code": 2200, "msg": "no"}),
    "netcup:Netcup": (
        {**_DONE, "responsedata": {"apisessionid": "x", "ttl": "300", "dnsrecords": [_NETCUP]}},
        {"status": "error", "statuscode": 4001, "longmessage": "over"},
    ),
    "ovh:Ovh": (1764000000, [7], _OVH, {"class": "Client::Forbidden", "message": "no"}),
    "porkbun:Porkbun": ({"records": [{**_RECORD, "ttl": "600"}]},),
    "powerdns:PowerDns": (
        {"rrsets": [{"name": NAME, "type": "TLSA", "ttl": 300, "records": [{"content": VALUE}]}]},
        {"error": "no"},
    ),
}


def parser(place: str) -> Callable[[bytes], object]:
    """Of one provider."""
    module, _, name = place.partition(":")
    kind = getattr(import_module(f"certagent.dns.providers.{module}"), name)
    file = Path(tempfile.mkdtemp()) / "token"
    file.touch(0o600)
    file.write_text("".join(f"{secret} = x\n" for secret in SECRETS) if kind.SECRETS else "x")
    options = msgspec.convert({"zones": ["example.org"], "token_file": str(file)}, kind.Options)
    return partial(_read, kind, options)


def _read(kind: Any, options: Any, data: bytes) -> object:
    provider = kind(options)
    status, _, rest = data.partition(b" ")
    if status.isdigit() and len(status) == 3:
        return _asked(provider, int(status), rest)
    return _asked(provider, 200, data)


def _asked(provider: Any, status: int, body: bytes) -> object:
    left = iter(range(MOST))
    headers = Message()
    headers["Set-Cookie"] = headers["Retry-After"] = " ".join(body[:200].decode("latin-1").split())
    lines = body.split(b"\n")  # one answer after the other; the last is said again

    def exchange(method: str, target: str, *_: object) -> tuple[int, Message, bytes]:
        provider._api._headers(method, f"https://service.example{target}", b"")  # OVHcloud asks for the time first
        number = next(left, None)
        if number is None:
            raise Transient("dns.unreachable", "no more answers")
        return status, headers, lines[min(number, len(lines) - 1)]

    provider._api._exchange = exchange
    found = provider.get(NAME, "TLSA")
    assert found is None or 0 <= found.ttl_s < 1 << 32
    return found


def knotc(data: bytes) -> object:
    """What Knot's own program prints."""
    out = data.decode("utf-8", "replace")

    class Fed(knot.Knot):
        def __init__(self) -> None:
            self.zones = ("example.org.",)

        def _call(self, *words: str, lost: str = "") -> Result:
            return Result(0, out, out)

    found = cast("Any", Fed()).get(NAME, "TLSA")
    assert found is None or 0 <= found.ttl_s < 1 << 32
    return found


def starts(place: str) -> tuple[bytes, ...]:
    """Each answer alone, all in their order, and one as that of a service that refuses."""
    each = tuple(map(msgspec.json.encode, ANSWERS[place]))
    return (*each, b"\n".join(each), b"404 " + each[-1], b"429 " + each[-1])
