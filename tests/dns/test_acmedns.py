"""acme-dns: an account for each name, two values, and nothing that is read or removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from certagent.dns.providers.acmedns import AcmeDns, Options
from certagent.errors import Error, Misconfigured, Rejected, Transient, Usage
from tests.dns.fakes import acmedns as fakes
from tests.dns.fakes.service import TOKEN, Fault, private
from tests.dns.test_http_providers import WRITES

NAME, ACCOUNT = fakes.NAME, fakes.ACCOUNT
OTHER = f"{fakes.OTHER}.{fakes.ZONE}."
A, B, C = (letter * 43 for letter in "abc")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[fakes.AcmeDns]:
    fake = fakes.AcmeDns(tmp_path)
    yield fake
    fake.stop()


@pytest.fixture
def options(fake: fakes.AcmeDns, tmp_path: Path) -> Options:
    path = private(tmp_path / "accounts.json", json.dumps({"mx1.example.org": ACCOUNT}))
    return Options(url=fake.url, zones=(fakes.ZONE,), token_file=str(path), timeout="30s", ca_file=str(fake.ca_file))


@pytest.fixture
def provider(options: Options) -> AcmeDns:
    return AcmeDns(options)


def write(options: Options, accounts: Any) -> None:
    Path(options.token_file).write_text(accounts if isinstance(accounts, str) else json.dumps(accounts))


def add(provider: AcmeDns, *values: str, name: str = NAME) -> None:
    provider.add(name, "TXT", frozenset(values), 60, provider.get(name, "TXT"))


def test_a_name_and_its_wildcard(fake: fakes.AcmeDns, provider: AcmeDns) -> None:
    """Both values are there, also when they are added again. In the same second one would displace the other."""
    for _ in range(2):
        add(provider, A, B)
        assert sorted(fake.values()) == [A, B]
    add(provider, C)
    assert C in fake.values()


def test_it_removes_nothing(fake: fakes.AcmeDns, provider: AcmeDns) -> None:
    """Values stay until newer ones come, and other accounts are left alone."""
    add(provider, A)
    provider.remove(NAME, "TXT", frozenset({A}), provider.get(NAME, "TXT"))
    assert fake.values() == [A]
    assert fake.values(fakes.OTHER) == ["x" * 43, "y" * 43]
    assert len(fake.asked) == 1


def test_tlsa_records(fake: fakes.AcmeDns, provider: AcmeDns) -> None:
    tlsa = frozenset({f"3 1 1 {'a' * 64}"})
    with pytest.raises(Misconfigured, match=r"takes challenges only.*dns\.refused") as caught:
        provider.get(NAME, "TLSA")
    assert "another provider" in caught.value.hint
    with pytest.raises(Misconfigured, match=r"dns\.refused"):
        provider.add(NAME, "TLSA", tlsa, 60, None)
    with pytest.raises(Misconfigured, match=r"dns\.refused"):
        provider.remove(NAME, "TLSA", tlsa, None)
    assert not fake.asked
    assert provider.capabilities.challenges_only


def test_more_values_than_it_keeps(fake: fakes.AcmeDns, provider: AcmeDns) -> None:
    """The first would be gone before the CA asks for it."""
    with pytest.raises(Misconfigured, match="3 challenges lead to") as caught:
        add(provider, A, B, C)
    assert "its own account" in caught.value.hint
    assert not fake.asked


def test_a_name_without_an_account(fake: fakes.AcmeDns, provider: AcmeDns) -> None:
    with pytest.raises(Misconfigured, match=r"no account in .* has the fulldomain.*dns\.refused") as caught:
        add(provider, A, name=OTHER)
    assert "CNAME" in caught.value.hint
    with pytest.raises(Misconfigured, match=r"dns\.no_zone"):
        add(provider, A, name="x.example.net.")
    assert not fake.asked


WRONG = {
    "password": {"password": "wrong-secret"},
    "user": {"username": "8e5700ea-a4bf-41c7-8a77-e990661dcc6a"},
    "subdomain": {"subdomain": fakes.OTHER},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG)
def test_a_wrong_account(fake: fakes.AcmeDns, options: Options, provider: AcmeDns, changed: dict[str, str]) -> None:
    """A right one is taken up without a restart."""
    write(options, {"mx1.example.org": ACCOUNT | changed})
    with pytest.raises(Misconfigured, match=r"HTTP 401 forbidden \[dns\.refused\]") as caught:
        add(provider, A)
    assert "allowfrom" in caught.value.hint
    assert "wrong-secret" not in repr(caught.value)
    write(options, {"mx1.example.org": ACCOUNT})
    add(provider, A)
    assert fake.values() == [A]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": {}}', json.dumps(ACCOUNT), "käse", "[" * 100_000])
def test_a_file_without_accounts(fake: fakes.AcmeDns, options: Options, text: str) -> None:
    """The account alone, as /register gave it, is none either: the hint shows the form."""
    write(options, text)
    with pytest.raises(Usage, match=r"no accounts of acme-dns in JSON \[secret\.file\]") as caught:
        AcmeDns(options)
    assert "fulldomain" in caught.value.hint
    assert TOKEN not in repr(caught.value)


def test_accounts_that_others_may_read(options: Options) -> None:
    Path(options.token_file).chmod(0o644)
    with pytest.raises(Usage, match=r"secret\.mode"):
        AcmeDns(options)


def test_plain_http_beyond_this_host(options: Options) -> None:
    with pytest.raises(Misconfigured, match=r"dns\.options"):
        AcmeDns(replace(options, url="http://auth.example.org"))


def test_a_value_that_it_does_not_take(provider: AcmeDns) -> None:
    with pytest.raises(Rejected, match=r"bad_txt \[dns\.rejected\]"):
        add(provider, "short")


@pytest.mark.parametrize(("fault", "kind", "code"), WRITES.values(), ids=WRITES)
def test_a_write_that_fails(fake: fakes.AcmeDns, provider: AcmeDns, fault: Fault, kind: type[Error], code: str) -> None:
    """As with every other provider; adding again makes it right."""
    fake.faults.append(fault)
    with pytest.raises(kind) as caught:
        add(provider, A, B)
    assert caught.value.code == code
    assert TOKEN not in repr(caught.value)
    add(provider, A, B)
    assert sorted(fake.values()) == [A, B]


def test_an_answer_that_is_lost(fake: fakes.AcmeDns, options: Options) -> None:
    fake.faults += [Fault(done=True), Fault(drips=True)]
    provider = AcmeDns(replace(options, timeout="1s"))
    for _ in range(2):
        with pytest.raises(Transient, match=r"dns\.unknown_outcome"):
            add(provider, A)
    assert fake.values() == [A]


def test_an_answer_about_another_value(fake: fakes.AcmeDns, provider: AcmeDns) -> None:
    fake.faults.append(Fault(200, json.dumps({"txt": B}).encode()))
    with pytest.raises(Transient, match=r"dns\.unknown_outcome"):
        add(provider, A)
