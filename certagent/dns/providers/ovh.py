"""OVHcloud.

Source: https://eu.api.ovh.com/console/?section=%2Fdomain, and for the signature
https://help.ovhcloud.com/csm/en-gb-api-getting-started-ovhcloud-api?id=kb_article_view&sysparm_article=KB0042784

Records are changed one by one, and OVHcloud publishes none of it without a command. Every call of `add` and `remove`
ends with it, also one that finds nothing to change: what was cut off between change and publication is published by
the next try.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from certagent.dns.presentation import text_of, value_of
from certagent.dns.providers.about import About
from certagent.dns.providers.http import HttpOptions, HttpProvider
from certagent.dns.providers.protocol import Capabilities, RdType, RRset
from certagent.dns.providers.single import Record, RecordByRecord

_TIME = "/auth/time"
_RULES = (
    "GET /domain/zone/example.org/record",
    "GET /domain/zone/example.org/record/*",
    "GET /domain/zone/example.org/soa",
    "POST /domain/zone/example.org/record",
    "PUT /domain/zone/example.org/record/*",
    "DELETE /domain/zone/example.org/record/*",
    "POST /domain/zone/example.org/refresh",
)


class Options(HttpOptions, frozen=True, kw_only=True):
    """OVHcloud. The token file has three lines: `application_key = …`, `application_secret = …`, `consumer_key = …`."""

    url: str = "https://eu.api.ovh.com/1.0"
    """Where the API is; in other regions https://ca.api.ovh.com/1.0 and https://api.us.ovhcloud.com/1.0."""


class _Record(Struct):
    id: int
    target: str
    fieldType: str  # noqa: N815 -- the service's name
    subDomain: str | None = None  # noqa: N815
    ttl: int | None = None


class _Soa(Struct):
    ttl: int


class Ovh(HttpProvider, RecordByRecord):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `HttpProvider`."""

    SERVICE = "OVHcloud"
    RIGHTS = (
        "at OVHcloud: three keys of one application, made at the region of `url`, with the rights for this zone that"
        " the documentation lists"
    )
    DENIALS = ("invalid_signature", "invalid signature")
    SECRETS = ("application_key", "application_secret", "consumer_key")
    Options = Options
    capabilities = Capabilities(atomic=False, ttl_floor_s=60, publish_lag_s=60, on_command=True)
    about = About(
        title="OVHcloud",
        rights=f"For each zone, and nothing else: {', '.join(f'`{rule}`' for rule in _RULES)}.",
        access=(
            "Make the keys at https://eu.api.ovh.com/createToken/ (https://ca.api.ovh.com/createToken/,"
            " https://api.us.ovhcloud.com/createToken/), with these rights and unlimited validity, and write three"
            " lines into the file: `application_key = …`, `application_secret = …`, `consumer_key = …`. Set `url` for"
            " another region than Europe."
        ),
        limits=(
            "TTLs begin at 60 s. Records are changed one by one, and published together at the end of a change. What"
            " somebody else has changed, and not yet published, is published with it."
        ),
        example="type: ovh\ntoken_file: /etc/certagent/ovh.keys\nzones: [example.org]",
        name_servers=(".ovh.net.", ".ovh.ca.", ".anycast.me."),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._ahead_s: float | None = None
        """What its clock shows more than this host's since boot, which nobody sets."""

    def _signed(self, method: str, url: str, body: bytes) -> Mapping[str, str]:
        secrets = self._secrets()
        if url.endswith(_TIME):
            return {}
        if self._ahead_s is None:
            shown = self._api.call("GET", _TIME).read(int)
            self._ahead_s = shown - time.clock_gettime(time.CLOCK_BOOTTIME)
        now = str(round(self._ahead_s + time.clock_gettime(time.CLOCK_BOOTTIME)))
        consumer = secrets["consumer_key"]
        parts = (secrets["application_secret"], consumer, method, url, body.decode(), now)
        digest = hashlib.sha1("+".join(parts).encode(), usedforsecurity=False).hexdigest()
        return {
            "X-Ovh-Application": secrets["application_key"],
            "X-Ovh-Consumer": consumer,
            "X-Ovh-Timestamp": now,
            "X-Ovh-Signature": f"$1${digest}",
        }

    def _words(self, data: Any) -> str:
        return f"{data.get('errorCode') or data['class']}: {data['message']}"

    def records(self, name: str, rdtype: RdType) -> list[Record]:
        """Its filter takes `_` for any character, so what it finds is compared."""
        zone, label = self._located(name)
        label = label.removeprefix("@")
        query = {"fieldType": rdtype, "subDomain": label}
        found: list[Record] = []
        for number in self._api.call("GET", f"/domain/zone/{zone}/record", query=query).read(list[int]):
            answer = self._api.call("GET", f"/domain/zone/{zone}/record/{number}", accept=(404,))
            if answer.status == 404:  # it has gone since
                continue
            record = answer.read(_Record)
            if ((record.subDomain or "").lower(), record.fieldType) == (label, rdtype):
                ttl_s = record.ttl or self._default_ttl_s(zone)
                found.append(Record(str(record.id), name, rdtype, text_of(rdtype, record.target), ttl_s))
        return found

    def _default_ttl_s(self, zone: str) -> int:
        return self._api.call("GET", f"/domain/zone/{zone}/soa").read(_Soa).ttl

    def create(self, name: str, rdtype: RdType, value: str, ttl_s: int) -> None:
        """See `RecordByRecord`."""
        zone, label = self._located(name)
        record = {"fieldType": rdtype, "subDomain": label.removeprefix("@"), "target": value_of(rdtype, value)}
        self._api.call("POST", f"/domain/zone/{zone}/record", {**record, "ttl": ttl_s})

    def retime(self, record: Record, ttl_s: int) -> None:
        """See `RecordByRecord`."""
        self._api.call("PUT", f"/domain/zone/{self._located(record.name)[0]}/record/{record.id}", {"ttl": ttl_s})

    def delete(self, record: Record) -> None:
        """See `RecordByRecord`."""
        zone, _ = self._located(record.name)
        self._api.call("DELETE", f"/domain/zone/{zone}/record/{record.id}", accept=(404,))

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        """See `Provider`."""
        super().add(name, rdtype, values, ttl_s, was)
        self._publish(name)

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        """See `Provider`."""
        super().remove(name, rdtype, values, was)
        self._publish(name)

    def _publish(self, name: str) -> None:
        self._api.call("POST", f"/domain/zone/{self._located(name)[0]}/refresh")
