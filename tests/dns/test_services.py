"""What single services do in their own way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from certagent.dns.providers.protocol import Provider
from certagent.errors import Error, Misconfigured, Rejected, Transient
from tests.dns.fakes.known import KNOWN
from tests.dns.fakes.service import TOKEN, Fault, Service, private

ZONE = "example.org."
NAME = f"_25._tcp.mx1.{ZONE}"
A, B, C = (f"3 1 1 {digit * 64}" for digit in "abc")


@pytest.fixture
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Provider]]:
    """The fake of the service that a test names, and its provider."""
    [known] = [known for known in KNOWN if known.name == request.param]
    service: Service = known.fake(tmp_path)
    token_file = private(tmp_path / "token", known.secret.format(TOKEN) + "\n")
    yield service, known.provider(service, token_file, "30s", ZONE)
    service.stop()


@pytest.mark.parametrize("both", ["netcup"], indirect=True)
def test_too_many_requests_are_no_wrong_key(both: tuple[Any, Provider]) -> None:
    """netcup says it with the status of a wrong key; also when the session begins."""
    fake, provider = both
    fake.allowed = 0
    with pytest.raises(Transient, match="180 requests per minute") as caught:
        provider.get(NAME, "TLSA")
    assert (caught.value.code, caught.value.retry_after_s) == ("dns.rate_limited", 60.0)
    fake.allowed = None
    assert provider.get(NAME, "TLSA") is None


@pytest.mark.parametrize("both", ["netcup"], indirect=True)
@pytest.mark.parametrize(("rdtype", "own", "value"), [("TXT", '"two " "parts"', "two parts"), ("TLSA", A.upper(), A)])
def test_a_record_in_the_services_own_notation_is_removed(
    both: tuple[Any, Provider], rdtype: Any, own: str, value: str
) -> None:
    fake, provider = both
    fake.records.append({"id": "77", "hostname": "_25._tcp.mx1", "type": rdtype, "priority": "", "destination": own})
    found = provider.get(NAME, rdtype)
    assert found
    assert found.values == {value}
    provider.remove(NAME, rdtype, frozenset({value}), found)
    assert fake.records == []


@pytest.mark.parametrize("both", ["hetzner"], indirect=True)
@pytest.mark.parametrize(("status", "code"), [(409, "conflict"), (423, "locked")])
def test_what_is_changed_just_now_is_tried_again(both: tuple[Any, Provider], status: int, code: str) -> None:
    fake, provider = both
    before = provider.get(NAME, "TLSA")
    fake.faults.append(Fault(status, json.dumps({"error": {"code": code, "message": "please retry"}}).encode()))
    with pytest.raises(Transient, match="please retry"):
        provider.add(NAME, "TLSA", frozenset({A}), 3600, before)
    provider.add(NAME, "TLSA", frozenset({A}), 3600, before)


@pytest.mark.parametrize("both", ["hetzner"], indirect=True)
@pytest.mark.parametrize("gone", [{A}, {A, B}])
def test_what_somebody_else_removed_just_now_is_no_error(both: tuple[Any, Provider], gone: set[str]) -> None:
    """The service answers 404, and removes none of those that it was given."""
    fake, provider = both
    provider.add(NAME, "TLSA", frozenset({A, B, C}), 3600, provider.get(NAME, "TLSA"))

    def removed_by_another() -> None:
        fake.arrived = lambda: None
        rrset = fake.sets["_25._tcp.mx1", "TLSA"]
        rrset["records"] = [record for record in rrset["records"] if record["value"] not in gone]

    before = provider.get(NAME, "TLSA")
    fake.arrived = removed_by_another
    provider.remove(NAME, "TLSA", frozenset({A, B}), before)
    found = provider.get(NAME, "TLSA")
    assert found
    assert found.values == {C}


@pytest.mark.parametrize("both", ["hetzner"], indirect=True)
def test_what_somebody_else_added_just_now_is_tried_again(both: tuple[Any, Provider]) -> None:
    fake, provider = both
    provider.add(NAME, "TLSA", frozenset({B}), 3600, provider.get(NAME, "TLSA"))
    before = provider.get(NAME, "TLSA")

    def added_by_another() -> None:
        fake.sets["_25._tcp.mx1", "TLSA"]["records"].append({"value": A, "comment": ""})

    fake.arrived = added_by_another
    with pytest.raises(Transient, match="record exists"):
        provider.add(NAME, "TLSA", frozenset({A}), 3600, before)


@pytest.mark.parametrize("both", ["hetzner"], indirect=True)
def test_a_write_ends_when_the_zone_is_published(both: tuple[Any, Provider]) -> None:
    """Or says that it is accepted, and not more."""
    fake, provider = both
    before = provider.get(NAME, "TLSA")
    fake.statuses = ["updating", "updating"]
    provider.add(NAME, "TLSA", frozenset({A}), 3600, before)
    assert fake.statuses == []
    fake.statuses = ["error"]
    with pytest.raises(Transient, match="status error") as caught:
        provider.remove(NAME, "TLSA", frozenset({A}), provider.get(NAME, "TLSA"))
    assert caught.value.code == "dns.unknown_outcome"


@pytest.mark.parametrize("both", ["porkbun"], indirect=True)
def test_a_record_without_a_ttl_is_seen(both: tuple[Any, Provider]) -> None:
    fake, provider = both
    provider.add(NAME, "TLSA", frozenset({A}), 3600, provider.get(NAME, "TLSA"))
    for record in fake.records.values():
        record["ttl"] = ""
    found = provider.get(NAME, "TLSA")
    assert found
    assert (found.values, found.ttl_s) == ({A}, 600)


@pytest.mark.parametrize("both", ["porkbun"], indirect=True)
@pytest.mark.parametrize(
    ("message", "kind"), [("Domain is not opted in to API access.", Misconfigured), ("Invalid content.", Rejected)]
)
def test_a_refusal_with_the_status_of_success(both: tuple[Any, Provider], message: str, kind: type[Error]) -> None:
    """What is not written is not taken for written, and then missed."""
    fake, provider = both
    fake.faults.append(Fault(200, json.dumps({"status": "ERROR", "message": message}).encode()))
    with pytest.raises(kind, match=message):
        provider.add(NAME, "TLSA", frozenset({A}), 3600, provider.get(NAME, "TLSA"))


@pytest.mark.parametrize("both", ["porkbun"], indirect=True)
def test_a_challenge_of_a_firewall_is_no_answer(both: tuple[Any, Provider]) -> None:
    """After too many requests: HTTP 202, and nothing with it (DNSControl/dnscontrol#3019)."""
    fake, provider = both
    fake.faults.append(Fault(202))
    with pytest.raises(Transient, match=r"dns\.unknown_outcome"):
        provider.add(NAME, "TLSA", frozenset({A}), 3600, provider.get(NAME, "TLSA"))
    assert len(fake.asked) == 3
