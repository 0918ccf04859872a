"""Gandi LiveDNS.

Source: https://api.gandi.net/docs/livedns/

Whole sets are replaced by PUT; nothing compares what was there before.
"""

from __future__ import annotations

from msgspec import Struct

from certagent.dns.message import absolute, one_of_zones
from certagent.dns.presentation import label_of, text_of, value_of
from certagent.dns.providers.about import About
from certagent.dns.providers.compare import Change, ReadCompareWrite
from certagent.dns.providers.http import Api, HttpOptions, token
from certagent.dns.providers.protocol import Capabilities, RdType, RRset

_RIGHTS = "at Gandi: a personal access token that may manage the technical configuration of this domain"


class Options(HttpOptions, frozen=True, kw_only=True):
    """Gandi LiveDNS."""

    url: str = "https://api.gandi.net/v5/livedns"
    """Where the API is."""


class _Domain(Struct):
    fqdn: str


class _Set(Struct):
    rrset_ttl: int
    rrset_values: list[str]


class Gandi(ReadCompareWrite[None]):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise.

    Raises:
        Usage: At construction: `secret.mode`, `secret.file`.
        Misconfigured: At construction: `dns.options`; later: `dns.no_zone`.
    """

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
        self.zones = tuple(absolute(zone) for zone in options.zones)
        self._known: set[str] = set()
        token(options.token_file)
        self._api = Api(
            "Gandi",
            options.url,
            lambda: {"Authorization": f"Bearer {token(options.token_file)}"},
            words=lambda data: str(data["message"]),
            rights=_RIGHTS,
            timeout_s=options.timeout_s,
            ca_file=options.ca_file,
        )

    def read(self, name: str, rdtype: RdType) -> tuple[RRset | None, None]:
        """404 is also said of a domain that is not in the account, so that is asked first, once."""
        zone = one_of_zones(name, self.zones)
        if zone not in self._known:
            self._api.call("GET", f"/domains/{zone.rstrip('.')}").read(_Domain)
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
        zone = one_of_zones(name, self.zones)
        return f"/domains/{zone.rstrip('.')}/records/{label_of(name, zone)}/{rdtype}"
