"""Every provider with an HTTP API: the conformance suite, its options, and what can go wrong with one request.

What the services and others do is in test_cases.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from certagent.dns.providers.protocol import Provider
from certagent.errors import Error, Misconfigured, Rejected, Transient, Usage
from certagent.testing import dns_provider_suite
from certagent.testing.dns_provider import DnsCheck
from tests.dns.fakes.known import KNOWN, Known
from tests.dns.fakes.service import TOKEN, Fault, Service, private
from tests.lab import certificates

ZONE = "example.org."
NAME = f"_25._tcp.mx1.{ZONE}"
A, B, C = (f"3 1 1 {digit * 64}" for digit in "abc")
LONG = "30s"

pytestmark = pytest.mark.parametrize("known", KNOWN, ids=lambda k: k.name)


@pytest.fixture
def fake(known: Known, tmp_path: Path) -> Iterator[Service]:
    service = known.fake(tmp_path)
    yield service
    service.stop()


@pytest.fixture
def token_file(known: Known, tmp_path: Path) -> Path:
    return private(tmp_path / "token", known.secret.format(TOKEN) + "\n")


@pytest.fixture
def provider(known: Known, fake: Service, token_file: Path) -> Provider:
    return known.provider(fake, token_file, LONG, ZONE)


@pytest.mark.parametrize("check", dns_provider_suite, ids=lambda check: check.__name__)
def test_it_keeps_the_rules(provider: Provider, check: DnsCheck) -> None:
    check(provider, ZONE)


def test_the_apex_of_a_zone(provider: Provider) -> None:
    """Where a challenge is answered whose name is a zone of its own."""
    provider.add(ZONE, "TXT", frozenset({"a response"}), 3600, provider.get(ZONE, "TXT"))
    found = provider.get(ZONE, "TXT")
    assert found
    assert found.values == {"a response"}
    provider.remove(ZONE, "TXT", frozenset({"a response"}), found)
    assert provider.get(ZONE, "TXT") is None


@pytest.mark.parametrize("text", ["", "two\nlines", "käse", "a\0b"])
def test_a_file_that_holds_no_token(known: Known, fake: Service, token_file: Path, text: str) -> None:
    """It is found before anything is asked."""
    token_file.write_text(text)
    with pytest.raises(Usage, match=r"secret\.file"):
        known.provider(fake, token_file, LONG, ZONE)
    assert not fake.asked


def test_a_token_that_others_may_read(known: Known, fake: Service, token_file: Path) -> None:
    token_file.chmod(0o640)
    with pytest.raises(Usage, match=r"secret\.mode"):
        known.provider(fake, token_file, LONG, ZONE)


@pytest.mark.parametrize("zone", ["", "*.example.org", "exa mple.org"])
def test_what_is_no_zone(known: Known, fake: Service, token_file: Path, zone: str) -> None:
    """It is found before anything is asked, as with every other provider."""
    with pytest.raises(Misconfigured, match=r"dns\.options"):
        known.provider(fake, token_file, LONG, zone)
    assert not fake.asked


def test_a_name_in_none_of_its_zones(fake: Service, provider: Provider) -> None:
    with pytest.raises(Misconfigured, match=r"dns\.no_zone"):
        provider.get("x.other.example.", "TXT")
    assert not fake.asked


READS = {
    "token without rights": (Fault(403), Misconfigured, "dns.refused"),
    "too many requests": (Fault(429, headers={"Retry-After": "17"}), Transient, "dns.rate_limited"),
    "nothing": (Fault(200), Transient, "dns.unreachable"),
    "another shape": (Fault(200, b'[[{"a": "\\u001b[2J"}], 1e400]'), Transient, "dns.unreachable"),
    "deep": (Fault(200, b"[" * 100_000), Transient, "dns.unreachable"),
    "redirect": (Fault(302, headers={"Location": "https://localhost:1/"}), Misconfigured, "dns.refused"),
}


@pytest.mark.parametrize(("fault", "kind", "code"), READS.values(), ids=READS)
def test_a_read_that_fails(fake: Service, provider: Provider, fault: Fault, kind: type[Error], code: str) -> None:
    """Sorted by what certagent or the operator can do."""
    fake.faults.append(Fault(fault.status, fault.body, fault.headers, writes=False))
    with pytest.raises(kind) as caught:
        provider.get(NAME, "TLSA")
    assert caught.value.code == code
    assert TOKEN not in repr(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.retry_after_s == (17 if fault.status == 429 else None)


WRITES = {
    "token without rights": (Fault(403), Misconfigured, "dns.refused"),
    "too many requests": (Fault(429, headers={"Retry-After": "nonsense"}), Transient, "dns.rate_limited"),
    "content": (Fault(422, b'{"error": 7}'), Rejected, "dns.rejected"),
}


@pytest.mark.parametrize(("fault", "kind", "code"), WRITES.values(), ids=WRITES)
def test_a_write_that_fails(fake: Service, provider: Provider, fault: Fault, kind: type[Error], code: str) -> None:
    """After `dns.unknown_outcome` the change may be there; reading again shows it, and adding again does no harm."""
    fake.faults.append(fault)
    with pytest.raises(kind) as caught:
        provider.add(NAME, "TLSA", frozenset({A}), 3600, provider.get(NAME, "TLSA"))
    assert caught.value.code == code
    assert TOKEN not in repr(caught.value)
    provider.add(NAME, "TLSA", frozenset({A}), 3600, provider.get(NAME, "TLSA"))
    found = provider.get(NAME, "TLSA")
    assert found
    assert found.values == {A}


SILENT = {"silent": Fault(writes=False), "drips": Fault(drips=True, writes=False)}


@pytest.mark.parametrize("fault", SILENT.values(), ids=SILENT)
def test_a_service_that_does_not_answer(known: Known, fake: Service, token_file: Path, fault: Fault) -> None:
    """A request ends as a whole, also from a server that sends a byte now and then."""
    fake.faults.append(fault)
    with pytest.raises(Transient, match=r"no answer.*dns\.unreachable"):
        known.provider(fake, token_file, "1s", ZONE, front=True).get(NAME, "TLSA")


def test_nobody_there(known: Known, fake: Service, token_file: Path, provider: Provider) -> None:
    """Nothing was sent, so nothing can have happened."""
    fake.stop()
    with pytest.raises(Transient, match=r"dns\.unreachable"):
        provider.add(NAME, "TLSA", frozenset({A}), 3600, None)


def test_a_certificate_that_is_not_trusted(known: Known, fake: Service, token_file: Path) -> None:
    """The token is not sent to it."""
    fake.ca_file.write_bytes(certificates.make(["localhost"]).chain_file)
    with pytest.raises(Misconfigured) as caught:
        known.provider(fake, token_file, LONG, ZONE).get(NAME, "TXT")
    assert "ca_file" in caught.value.hint
    assert not fake.asked
