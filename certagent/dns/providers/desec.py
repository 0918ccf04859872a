"""deSEC (desec.io).

Source: https://desec.readthedocs.io/en/latest/dns/rrsets.html

Whole sets are replaced, one or several in one request that is done as a whole. Nothing compares what was there before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from certagent.dns.presentation import text_of, value_of
from certagent.dns.providers.about import About
from certagent.dns.providers.compare import Change, ReadCompareWrite
from certagent.dns.providers.http import HttpOptions, HttpProvider
from certagent.dns.providers.protocol import Capabilities, RdType, RRset, Ttl


class Options(HttpOptions, frozen=True, kw_only=True):
    """deSEC (desec.io)."""

    url: str = "https://desec.io/api/v1"
    """Where the API is."""


class _Domain(Struct):
    minimum_ttl: Ttl


class _Set(Struct):
    ttl: Ttl
    records: list[str]


class Desec(HttpProvider, ReadCompareWrite[None]):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `HttpProvider`."""

    SERVICE = "deSEC"
    RIGHTS = "at desec.io: a token with a policy that allows writing for this domain, subname and type"
    Options = Options
    capabilities = Capabilities(ttl_floor_s=3600, publish_lag_s=60, writes_per_day=300)
    about = About(
        title="deSEC",
        rights=(
            "A token may be limited to single names and types. Give it a default policy that denies, and policies that"
            " allow writing for the subnames of certagent's own records: TLSA at `_25._tcp.mx1`, TXT at"
            " `_acme-challenge.mx1`, and so on."
        ),
        access="Make the token at https://desec.io/tokens, without the right to manage tokens; write it into the file.",
        limits=(
            "TTLs begin at 3600 s, so a roll waits for two hours. A domain takes 300 writes a day."
            " A user has 2000 requests a day: while it waits, certagent asks DNS and not the API."
        ),
        example="type: desec\ntoken_file: /etc/certagent/desec.token\nzones: [example.org]",
        name_servers=(".desec.io.", ".desec.org."),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._known: set[str] = set()

    def _headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Token {self._secrets()['token']}"}

    def _words(self, data: Any) -> str:
        """`detail`, or what is wrong with each field of a set."""
        if isinstance(data, dict):
            fields = cast("dict[str, Any]", data)
            detail = fields.get("detail")
            return str(detail or "; ".join(f"{field}: {self._words(what)}" for field, what in fields.items()))
        return "; ".join(map(self._words, cast("list[Any]", data))) if isinstance(data, list) else str(data)

    def read(self, name: str, rdtype: RdType) -> tuple[RRset | None, None]:
        """404 is also said of a domain that is not in the account, so that is asked first, once; its least TTL counts
        from then on.
        """
        zone, label = self._located(name)
        domain = f"/domains/{zone}"
        if zone not in self._known:
            minimum_ttl_s = self._api.call("GET", f"{domain}/").read(_Domain).minimum_ttl
            floor_s = max(minimum_ttl_s, self.capabilities.ttl_floor_s if self._known else 0)
            self.capabilities = replace(self.capabilities, ttl_floor_s=floor_s)
            self._known.add(zone)
        answer = self._api.call("GET", f"{domain}/rrsets/{label}/{rdtype}/", accept=(404,))
        if answer.status == 404:
            return None, None
        found = answer.read(_Set)
        values = frozenset(text_of(rdtype, record) for record in found.records)
        return RRset(values, found.ttl) if values else None, None

    def write(self, name: str, rdtype: RdType, change: Change, records: None) -> None:  # noqa: ARG002
        """A bulk request of one: it makes the set, replaces it, or deletes it if no record is left."""
        zone, label = self._located(name)
        rrset = {
            "subname": "" if label == "@" else label,  # "@" is for addresses only
            "type": rdtype,
            "ttl": change.ttl_s,
            "records": [value_of(rdtype, value) for value in sorted(change.after)],
        }
        self._api.call("PATCH", f"/domains/{zone}/rrsets/", [rrset])
