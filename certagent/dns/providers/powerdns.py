"""The HTTP API of the PowerDNS authoritative server, 4.3 and newer.

Source: https://doc.powerdns.com/authoritative/http-api/zone.html. The API replaces whole sets (EXTEND and PRUNE came
with 4.9.12 and 5.0.2); one PATCH is one transaction, and checks no precondition.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from msgspec import Struct

from certagent.dns.message import one_of_zones
from certagent.dns.presentation import text_of, value_of
from certagent.dns.providers.about import About
from certagent.dns.providers.compare import Change, ReadCompareWrite
from certagent.dns.providers.http import HttpOptions, HttpProvider
from certagent.dns.providers.protocol import Capabilities, RdType, RRset, Ttl
from certagent.errors import Error


class Options(HttpOptions, frozen=True, kw_only=True):
    """The HTTP API of the PowerDNS authoritative server."""

    url: str = "http://127.0.0.1:8081"
    """Where its webserver listens; plain http only on this host."""
    server_id: str = "localhost"
    """As in the API's own paths; `localhost` except behind a proxy for several servers."""


class _Record(Struct):
    content: str
    disabled: bool = False


class _Set(Struct):
    name: str
    type: str
    ttl: Ttl
    records: list[_Record]


class _Zone(Struct):
    rrsets: list[_Set]


class PowerDns(HttpProvider, ReadCompareWrite[list[_Record]]):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `HttpProvider`."""

    SERVICE = "PowerDNS"
    RIGHTS = "the token is the `api-key` of pdns.conf; see also webserver-allow-from there"
    Options = Options
    capabilities = Capabilities()
    about = About(
        title="PowerDNS",
        rights=(
            "The API key of a PowerDNS server can change all its zones. Let the webserver listen on 127.0.0.1 only, and"
            " give the file to root. Where that is too much, allow dynamic updates (`rfc2136`) for one zone instead."
        ),
        access="Set `api=yes`, `api-key=…` and `webserver=yes` in pdns.conf. Write the key alone into the token file.",
        limits="Disabled records of a set are kept. A PATCH is seen at once here; secondaries follow by NOTIFY.",
        example=(
            "type: powerdns\nurl: http://127.0.0.1:8081\n"
            "token_file: /etc/certagent/powerdns.token\nzones: [example.org]"
        ),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._server = f"/api/v1/servers/{options.server_id}/zones"

    def _headers(self) -> Mapping[str, str]:
        return {"X-API-Key": self._secrets()["token"]}

    def _words(self, data: Any) -> str:
        return str(data["error"])

    def read(self, name: str, rdtype: RdType) -> tuple[RRset | None, list[_Record]]:
        """A disabled record is not in DNS. Servers before 4.6 do not know the question, and give the whole zone."""
        answer = self._api.call("GET", self._zone(name), query={"rrset_name": name, "rrset_type": rdtype})
        for found in answer.read(_Zone).rrsets:
            if (found.name.lower(), found.type) == (name, rdtype):
                values = frozenset(text_of(rdtype, r.content) for r in found.records if not r.disabled)
                return RRset(values, found.ttl) if values else None, found.records
        return None, []

    def write(self, name: str, rdtype: RdType, change: Change, records: list[_Record]) -> None:
        """Replaces the set. Records that stay, and others that are disabled, are written back as they are."""
        after = [r for r in records if (text_of(rdtype, r.content) in change.after) != r.disabled]
        there = {text_of(rdtype, r.content) for r in after if not r.disabled}
        after += [_Record(value_of(rdtype, value)) for value in sorted(change.after - there)]
        rrset = {"name": name, "type": rdtype, "ttl": change.ttl_s, "records": after}
        self._api.call(
            "PATCH", self._zone(name), {"rrsets": [rrset | {"changetype": "REPLACE" if after else "DELETE"}]}
        )
        # At once: PowerDNS looks for changed serials every 60 s only. A native zone has no secondaries, and says no.
        with suppress(Error):
            self._api.call("PUT", f"{self._zone(name)}/notify")

    def _zone(self, name: str) -> str:
        return f"{self._server}/{one_of_zones(name, self.zones)}"
