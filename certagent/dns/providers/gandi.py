"""Gandi LiveDNS.

Source: https://api.gandi.net/docs/livedns/

Whole sets are replaced by PUT; nothing compares what was there before.
"""

from __future__ import annotations

from msgspec import Struct

from certagent.dns.presentation import text_of, value_of
from certagent.dns.providers.about import About
from certagent.dns.providers.compare import Change, ReadCompareWrite
from certagent.dns.providers.http import HttpOptions, HttpProvider
from certagent.dns.providers.protocol import Capabilities, RdType, RRset, Ttl


class Options(HttpOptions, frozen=True, kw_only=True):
    """Gandi LiveDNS."""

    url: str = "https://api.gandi.net/v5/livedns"
    """Where the API is."""


class _Domain(Struct):
    fqdn: str


class _Set(Struct):
    rrset_ttl: Ttl
    rrset_values: list[str]


class Gandi(HttpProvider, ReadCompareWrite[None]):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `HttpProvider`."""

    SERVICE = "Gandi"
    RIGHTS = "at Gandi: a personal access token that may manage the technical configuration of this domain"
    Options = Options
    capabilities = Capabilities(ttl_floor_s=300, publish_lag_s=300)
    about = About(
        title="Gandi LiveDNS",
        rights=(
            "A personal access token, limited to the domains in question, with the right to manage their technical"
            " configuration. It ends after a year at most: certagent says so when it is refused."
        ),
        access="Make it at https://admin.gandi.net under Organization, and write it into the file.",
        limits="TTLs are between 300 s and 30 days. Publication takes minutes at times; certagent waits for it.",
        example="type: gandi\ntoken_file: /etc/certagent/gandi.token\nzones: [example.org]",
        name_servers=(".gandi.net.",),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._known: set[str] = set()

    def read(self, name: str, rdtype: RdType) -> tuple[RRset | None, None]:
        """404 is also said of a domain that is not in the account, so that is asked first, once."""
        zone, _ = self._located(name)
        if zone not in self._known:
            self._api.call("GET", f"/domains/{zone}").read(_Domain)
            self._known.add(zone)
        answer = self._api.call("GET", self._place(name, rdtype), accept=(404,))
        if answer.status == 404:
            return None, None
        found = answer.read(_Set)
        return RRset(frozenset(text_of(rdtype, value) for value in found.rrset_values), found.rrset_ttl), None

    def write(self, name: str, rdtype: RdType, change: Change, records: None) -> None:  # noqa: ARG002
        """Replaces the set, or deletes it if no record is left."""
        if not change.after:
            self._api.call("DELETE", self._place(name, rdtype), accept=(404,))
            return
        values = [value_of(rdtype, value) for value in sorted(change.after)]
        self._api.call("PUT", self._place(name, rdtype), {"rrset_ttl": change.ttl_s, "rrset_values": values})

    def _place(self, name: str, rdtype: str) -> str:
        zone, label = self._located(name)
        return f"/domains/{zone}/records/{label}/{rdtype}"
