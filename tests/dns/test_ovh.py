"""What is particular about OVHcloud: signatures, rights, and publication on command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from certagent.dns.providers.ovh import Options, Ovh
from certagent.errors import Misconfigured, Transient
from tests.dns.fakes import ovh
from tests.dns.fakes.service import TOKEN, Fault, private

NAME = "_25._tcp.mx1.example.org."
A, B = (f"3 1 1 {digit * 64}" for digit in "ab")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[ovh.Ovh]:
    service = ovh.Ovh(tmp_path)
    yield service
    service.stop()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """In the form of OVHcloud's own client libraries."""
    keys = f"application_key = application\napplication_secret = {TOKEN}\nconsumer_key = consumer\n"
    text = f"[default]\nendpoint = ovh-eu\n\n[ovh-eu]\n; made for certagent\n{keys}"
    return private(tmp_path / "ovh.conf", text)


@pytest.fixture
def provider(fake: ovh.Ovh, token_file: Path) -> Ovh:
    options = Options(url=fake.url, zones=("example.org",), token_file=str(token_file), ca_file=str(fake.ca_file))
    return Ovh(options)


def add(provider: Ovh, *values: str) -> None:
    provider.add(NAME, "TLSA", frozenset(values), 3600, provider.get(NAME, "TLSA"))


def everything(provider: Ovh) -> None:
    """All kinds of change."""
    provider.add(NAME, "TLSA", frozenset({A}), 60, provider.get(NAME, "TLSA"))
    provider.remove(NAME, "TLSA", frozenset({A}), provider.get(NAME, "TLSA"))
    provider.add(NAME, "TLSA", frozenset({A}), 7200, provider.get(NAME, "TLSA"))


def paths(fake: ovh.Ovh) -> list[str]:
    return [f"{asked.method} {asked.path}" for asked in fake.asked]


def test_each_change_is_published_once(fake: ovh.Ovh, provider: Ovh) -> None:
    """At its end, whatever the number of records; reading publishes nothing."""
    add(provider, A, B)
    assert fake.refreshed == 1
    assert fake.published == fake.records
    assert len(fake.published) == 2
    found = provider.get(NAME, "TLSA")
    provider.remove(NAME, "TLSA", frozenset({A, B}), found)
    assert fake.refreshed == 2
    assert not fake.published


@pytest.mark.parametrize("times", [0, 1], ids=["once", "twice"])
def test_what_was_cut_off_is_published_by_the_next_try(fake: ovh.Ovh, provider: Ovh, times: int) -> None:
    """Also by a process that knows nothing of the first one, and finds every record in its place."""
    provider.get(NAME, "TLSA")
    fake.faults.append(Fault(done=True))
    with pytest.raises(Transient, match=r"dns\.unknown_outcome"):
        add(provider, A)
    assert fake.records
    assert not fake.published
    for _ in range(times):
        fake.faults.append(Fault(503))
        with pytest.raises(Transient, match=r"dns\.unknown_outcome"):
            add(provider, A)
    assert not fake.published
    add(provider, A)
    assert fake.published == fake.records


def test_the_time_is_asked_once(fake: ovh.Ovh, provider: Ovh) -> None:
    """The service's clock is an hour ahead, and it refuses what is a minute old."""
    add(provider, A)
    add(provider, B)
    assert paths(fake).count("GET /auth/time") == 1


def test_the_rights_on_the_page_are_those_that_are_used(fake: ovh.Ovh, provider: Ovh) -> None:
    """The fake grants no others, and each of them is needed."""
    for rule in ovh.RULES:
        assert f"`{rule}`" in provider.about.rights
    assert provider.about.rights.count("`") == 2 * len(ovh.RULES)
    fake.records[7] = {
        "id": 7, "zone": "example.org", "subDomain": "_25._tcp.mx1", "fieldType": "TLSA", "target": B, "ttl": 0,
    }  # fmt: skip
    for rule in ovh.RULES:
        fake.rules = [other for other in ovh.RULES if other != rule]
        with pytest.raises(Misconfigured, match=r"NOT_GRANTED_CALL.*dns\.refused"):
            everything(provider)


def test_a_record_without_a_ttl_has_that_of_the_zone(fake: ovh.Ovh, provider: Ovh) -> None:
    """As the customer panel makes them."""
    fake.records[7] = {
        "id": 7, "zone": "example.org", "subDomain": "_25._tcp.mx1", "fieldType": "TLSA", "target": A, "ttl": 0,
    }  # fmt: skip
    found = provider.get(NAME, "TLSA")
    assert found
    assert (found.values, found.ttl_s) == ({A}, 3600)


def test_names_that_the_filter_takes_for_the_same(fake: ovh.Ovh, provider: Ovh) -> None:
    """`_` stands for any character in it."""
    fake.records[7] = {
        "id": 7, "zone": "example.org", "subDomain": "x25.xtcp.mx1", "fieldType": "TLSA", "target": A, "ttl": 60,
    }  # fmt: skip
    assert provider.get(NAME, "TLSA") is None
    assert "GET /domain/zone/example.org/record/7" in paths(fake)


def test_a_secret_of_another_application(fake: ovh.Ovh, token_file: Path, provider: Ovh) -> None:
    """OVHcloud says 400, and it is not the content that is wrong."""
    token_file.write_text(token_file.read_text().replace(TOKEN, "another"))
    with pytest.raises(Misconfigured, match=r"INVALID_SIGNATURE.*dns\.refused") as caught:
        provider.get(NAME, "TLSA")
    assert "another" not in repr(caught.value)
    assert not fake.records
