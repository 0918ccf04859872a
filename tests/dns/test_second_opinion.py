"""The client libraries of the services, run against the fakes: a second opinion on what a fake takes and gives.

What the library of a service makes, certagent reads; what certagent makes, the library reads and takes away again. The
one of Route 53 is what certagent itself uses, and PowerDNS has the real server. Gandi has none that is kept: for it and
for Porkbun there is dns-lexicon's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from certagent.dns.providers.protocol import Provider
from tests.dns.fakes import desec as desec_fake
from tests.dns.fakes import gandi, inwx
from tests.dns.fakes import hetzner as hetzner_fake
from tests.dns.fakes.known import KNOWN
from tests.dns.fakes.service import TOKEN, Service, private

ZONE, LABEL, TTL_S = "example.org", "_25._tcp.mx1", 3600
NAME = f"{LABEL}.{ZONE}."
A, B = (f"3 1 1 {digit * 64}" for digit in "ab")


class Client(NamedTuple):
    """One library: add a TLSA record, the values that there are, remove one."""

    add: Callable[[str], Any]
    values: Callable[[], list[str]]
    remove: Callable[[str], Any]


def of_cloudflare(fake: Service) -> Client:
    import ssl

    import cloudflare
    import httpx

    http = httpx.Client(verify=ssl.create_default_context(cafile=str(fake.ca_file)))
    client: Any = cloudflare.Cloudflare(api_token=TOKEN, base_url=fake.url, http_client=http, max_retries=0)
    zone: str = next(iter(client.zones.list(name=ZONE))).id

    def records() -> list[Any]:
        return [r for r in client.dns.records.list(zone_id=zone, type="TLSA") if r.name == NAME.rstrip(".")]

    def add(value: str) -> None:
        usage, selector, matching, digest = value.split()
        data = {"usage": int(usage), "selector": int(selector), "matching_type": int(matching), "certificate": digest}
        client.dns.records.create(zone_id=zone, type="TLSA", name=NAME.rstrip("."), ttl=TTL_S, data=data)

    def remove(value: str) -> None:
        [found] = [r for r in records() if plain(r.content) == value]
        client.dns.records.delete(found.id, zone_id=zone)

    return Client(add, lambda: [r.content for r in records()], remove)


def of_desec(fake: Service) -> Client:
    import desec.api

    desec.api.API_BASE_URL = fake.url
    client = desec.api.APIClient(TOKEN)

    def put(*values: str) -> None:
        rrset: Any = {"subname": LABEL, "type": "TLSA", "ttl": TTL_S, "records": list(values)}
        client.update_bulk_record(ZONE, [rrset])

    def values() -> list[str]:
        found: Any = client.get_records(ZONE, "TLSA", LABEL)
        return [value for rrset in found for value in rrset["records"]]

    def add(value: str) -> None:
        put(*values(), value)

    def remove(value: str) -> None:
        put(*(one for one in values() if plain(one) != value))

    return Client(add, values, remove)


def of_hetzner(fake: Service) -> Client:
    import hcloud
    from hcloud.zones import ZoneRecord, ZoneRRSet

    client = hcloud.Client(TOKEN, api_endpoint=fake.url, poll_interval=0.01)

    def rrset() -> Any:
        return client.zones.get(ZONE).get_rrset(LABEL, "TLSA")

    def add(value: str) -> None:
        zone: Any = client.zones.get(ZONE)
        new = ZoneRRSet(name=LABEL, type="TLSA", zone=zone)
        zone.add_rrset_records(new, [ZoneRecord(value)], ttl=TTL_S).wait_until_finished()

    def remove(value: str) -> None:
        rrset().remove_rrset_records([ZoneRecord(value)]).wait_until_finished()

    return Client(add, lambda: [record.value for record in rrset().records], remove)


def of_ovh(fake: Service) -> Client:
    import ovh
    import ovh.client

    ovh.client.ENDPOINTS["fake"] = fake.url
    keys: dict[str, Any] = {"application_key": "application", "application_secret": TOKEN, "consumer_key": "consumer"}
    client: Any = ovh.Client(endpoint="fake", **keys)
    place = f"/domain/zone/{ZONE}/record"

    def records() -> list[Any]:
        return [client.get(f"{place}/{n}") for n in client.get(place, fieldType="TLSA", subDomain=LABEL)]

    def remove(value: str) -> None:
        [found] = [r for r in records() if plain(r["target"]) == value]
        client.delete(f"{place}/{found['id']}")

    def add(value: str) -> None:
        client.post(place, fieldType="TLSA", subDomain=LABEL, target=value, ttl=TTL_S)
        client.post(f"/domain/zone/{ZONE}/refresh")

    return Client(add, lambda: [r["target"] for r in records()], remove)


def of_netcup(fake: Service) -> Client:
    import nc_dnsapi

    class AtFake(nc_dnsapi.Client):
        _Client__endpoint = f"{fake.url}?JSON"

    client: Any = AtFake("12345", "key", TOKEN)

    def records() -> list[Any]:
        client.login()  # certagent's session took the place of an earlier one
        return [r for r in client.dns_records(ZONE) if (r.hostname, r.type) == (LABEL, "TLSA")]

    def remove(value: str) -> None:
        [found] = [r for r in records() if plain(r.destination) == value]
        client.delete_dns_record(ZONE, found)

    def add(value: str) -> None:
        client.login()
        client.add_dns_record(ZONE, nc_dnsapi.DNSRecord(LABEL, "TLSA", value))

    return Client(
        add,
        lambda: [r.destination for r in records()],
        remove,
    )


def of_inwx(fake: Service) -> Client:
    from INWX.Domrobot import ApiClient, ApiType

    cast("inwx.Inwx", fake).tfa = False
    client: Any = ApiClient(api_url=fake.url.removesuffix("/jsonrpc"), api_type=ApiType.JSON_RPC)

    def call(method: str, **params: Any) -> Any:
        assert client.login("user", TOKEN)["code"] == 1000  # as for netcup
        said = client.call_api(api_method=f"nameserver.{method}", method_params=params)
        assert said["code"] == 1000, said
        return said.get("resData", {})

    def records() -> list[Any]:
        return call("info", domain=ZONE, type="TLSA", name=NAME.rstrip(".")).get("record", [])

    def remove(value: str) -> None:
        [found] = [r for r in records() if plain(r["content"]) == value]
        call("deleteRecord", id=found["id"])

    def add(value: str) -> None:
        call("createRecord", domain=ZONE, type="TLSA", name=NAME.rstrip("."), content=value, ttl=TTL_S)

    return Client(add, lambda: [r["content"] for r in records()], remove)


def of_gandi(fake: Service) -> Client:
    """By dns-lexicon, which shows a short token in the older way."""
    from lexicon._private.providers.gandi import Provider as Gandi
    from lexicon.config import ConfigResolver

    cast("gandi.Gandi", fake).schemes.add("Apikey")
    options = {"provider_name": "gandi", "domain": ZONE, "ttl": TTL_S, "action": "create", "type": "TLSA"}
    client: Any = Gandi(
        ConfigResolver().with_dict({**options, "gandi": {"auth_token": TOKEN, "api_protocol": "rest"}})  # pyright: ignore
    )
    client.api_endpoint = fake.url
    client.authenticate()

    def values() -> list[str]:
        return [record["content"] for record in client.list_records("TLSA", NAME)]

    def remove(value: str) -> None:
        [own] = [one for one in values() if plain(one) == value]
        client.delete_record(rtype="TLSA", name=NAME, content=own)

    def add(value: str) -> None:
        client.create_record("TLSA", NAME, value)

    return Client(add, values, remove)


CLIENTS: dict[str, Callable[[Any], Client]] = {
    "cloudflare": of_cloudflare,
    "desec": of_desec,
    "hetzner": of_hetzner,
    "gandi": of_gandi,
    "ovh": of_ovh,
    "netcup": of_netcup,
    "inwx": of_inwx,
}


def plain(content: str) -> str:
    """In one spelling."""
    return " ".join(content.lower().split())


@pytest.fixture(params=CLIENTS)
def both(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Client, Provider]]:
    [known] = [known for known in KNOWN if known.name == request.param]
    fake = known.fake(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(fake.ca_file))
    path = private(tmp_path / "token", known.secret.format(TOKEN) + "\n")
    try:
        yield CLIENTS[known.name](fake), known.provider(fake, path, "30s", f"{ZONE}.")
    finally:
        fake.stop()


def test_each_sees_what_the_other_writes(both: tuple[Client, Provider]) -> None:
    client, provider = both
    client.add(A)
    found = provider.get(NAME, "TLSA")
    assert found
    assert (found.values, found.ttl_s) == ({A}, TTL_S)
    provider.add(NAME, "TLSA", frozenset({B}), TTL_S, found)
    assert sorted(map(plain, client.values())) == [A, B]
    provider.remove(NAME, "TLSA", frozenset({A}), provider.get(NAME, "TLSA"))
    assert list(map(plain, client.values())) == [B]
    client.add(A)
    client.remove(B)
    found = provider.get(NAME, "TLSA")
    assert found
    assert found.values == {A}


def test_lists_have_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """certagent asks deSEC and Hetzner for single sets; their libraries come by page to all that a zone has."""
    import desec.api
    import hcloud

    for kind, count in ((desec_fake.Desec, 501), (hetzner_fake.Hetzner, 120)):
        fake = kind(tmp_path)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(fake.ca_file))
        for number in range(count):
            fake.put(f"host{number}.{ZONE}.", "TXT", TTL_S, '"x"')
        try:
            if isinstance(fake, desec_fake.Desec):
                monkeypatch.setattr(desec.api, "API_BASE_URL", fake.url)
                found = len(desec.api.APIClient(TOKEN).get_records(ZONE))
            else:
                found = len(hcloud.Client(TOKEN, api_endpoint=fake.url).zones.get(ZONE).get_rrset_all())
        finally:
            fake.stop()
        assert found == count
        assert len([asked for asked in fake.asked if asked.path.rstrip("/").endswith("/rrsets")]) > 2
