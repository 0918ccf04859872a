"""Which DNS provider writes which zone, and what each says of itself."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, cast

from certagent.agent import plugins
from certagent.agent.bounded import Bounded
from certagent.config.schema import Config
from certagent.config.yaml import Section
from certagent.errors import Error, NoProvider
from certagent.facts.challenge import TYPES
from certagent.lifecycle.spec import DnsZone

if TYPE_CHECKING:
    from certagent.dns.providers.protocol import Capabilities, Provider


class Zones:
    """Finds who may write a zone, and lets one writer at a time into it."""

    def __init__(self, providers: Callable[[], list[Provider]]) -> None:
        self._providers = providers
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @contextmanager
    def writing(self, zone: str, name: str) -> Generator[Provider]:
        """See `edges.Zones`.

        Raises:
            NoProvider: `dns.no_provider`.
        """
        from certagent.dns.message import zone_of  # loads dnspython

        best, listed, above = None, "", ""
        for provider in self._providers():
            for candidate in provider.zones:
                if not zone_of(name, (candidate,)):
                    continue
                if not zone_of(candidate, (zone,)):
                    above = candidate  # what is written there is not seen: the zone below is another one
                elif len(candidate) > len(listed):
                    best, listed = provider, candidate
        if best is None:
            cut = f", which is cut off from {above}: it has its own start of authority (SOA)" if above else ""
            said = f"no DNS provider is configured to write {name}: it is in the zone {zone}{cut}"
            hint = f"add {zone} to a provider under dns.providers, or make {name} a CNAME into a zone that has one"
            if not self._providers():
                hint = f"make the record by hand (certagent tlsa shows those of TLSA), or add a provider for {zone}"
            raise NoProvider("dns.no_provider", said, hint)
        with self._locks[zone]:
            yield best


def dns_zones(config: Config) -> tuple[DnsZone, ...]:
    """The zones of all providers, with what these say of themselves."""
    from certagent.dns.message import absolute  # loads dnspython

    found: list[DnsZone] = []
    for section in config.providers.values():
        able = _capabilities(config, section)
        zones = cast("list[object]", section.options.get("zones") or [])
        found += [_zone(absolute(zone), able) for zone in zones if isinstance(zone, str)]
    return tuple(found)


def asked_zones(providers: list[Provider]) -> tuple[DnsZone, ...]:
    """The same of providers that were asked: what a service says of its zones alone, a TTL, is known by then."""
    found: list[DnsZone] = []
    for provider in providers:
        able = _asked(provider)
        found += [_zone(zone, able) for zone in provider.zones]
    return tuple(found)


def _zone(zone: str, able: Capabilities) -> DnsZone:
    return DnsZone(zone, timedelta(seconds=able.publish_lag_s), able.ttl_floor_s, able.ttl_scope, able.writes_per_day)


def _capabilities(config: Config, section: Section) -> Capabilities:
    """As its class states them; only one that does not has to be made, and is asked."""
    from certagent.dns.providers.protocol import Capabilities

    stated = getattr(plugins.found(config, plugins.DNS_PROVIDERS, section), "capabilities", None)
    if isinstance(stated, Capabilities):
        return stated
    try:
        return _asked(cast("Provider", plugins.made(config, plugins.DNS_PROVIDERS, section)))
    except Error:  # as in `_asked`
        return Capabilities()


def _asked(provider: Provider) -> Capabilities:
    from certagent.dns.providers.protocol import Capabilities

    try:
        return provider.capabilities
    except Error:  # nothing can be written there now; the error is reported when that is tried
        return Capabilities()


def refuse_tlsa_without_provider(config: Config, providers: list[Provider]) -> None:
    """TLSA records that only a provider for challenges could write. Others may be elsewhere, by a CNAME.

    Raises:
        Usage: `config.value`: There are some.
    """
    few = [one for one in providers if _challenges_only(one)]
    if not few:
        return
    from certagent.dns.message import absolute, zone_of  # loads dnspython

    those = [zone for one in few for zone in one.zones]
    others = [zone for one in providers if one not in few for zone in one.zones]
    for name, entry in config.certificates.items():
        for tlsa_name in map(absolute, entry.spec.tlsa_names):
            that, other = zone_of(tlsa_name, those) or "", zone_of(tlsa_name, others) or ""
            if not others or len(that) > len(other):
                what = f"{tlsa_name} needs TLSA records, and its DNS provider takes challenges only"
                hint = "add a provider that writes the zone of that name, or take `tlsa: true` out"
                raise config.wrong(("certificates", name), what, hint)


def refuse_what_needs_a_provider(config: Config) -> None:
    """Of a configuration that has no DNS provider at all.

    Raises:
        Usage: `config.value`: Challenges need one, or keys that are rolled while senders use DANE.
    """
    if config.providers:
        return
    for name, entry in config.certificates.items():
        spec, about = entry.spec, TYPES[entry.spec.challenge.type]
        if about.label and not about.lasting:
            others = " or ".join(other for other, one in TYPES.items() if one.lasting or not one.label)
            what = f"{spec.challenge.type} needs a DNS provider, and there is none under dns.providers"
            hint = f"add one (certagent dns providers lists them), or let this host answer the CA: type: {others}"
            raise config.wrong(("certificates", name, "challenge"), what, hint)
        if spec.tlsa_names and (spec.rotate_key is not None or spec.standby):
            what = "`tlsa: true` with new keys needs a DNS provider, and there is none under dns.providers"
            hint = "add one; or keep the key and its record: rotate_key: never, standby: false"
            raise config.wrong(("certificates", name), what, hint)


def _challenges_only(provider: Provider) -> bool:
    """As its class states it: what has to ask a program first is not asked."""
    kind = provider.kind if isinstance(provider, Bounded) else type(provider)
    return getattr(getattr(kind, "capabilities", None), "challenges_only", False) is True
