"""What is particular about INWX: the session, and the second factor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from certagent.dns.providers import inwx, totp
from certagent.dns.providers.inwx import Inwx, Options
from certagent.errors import Misconfigured, Transient, Usage
from tests.dns.fakes import inwx as fakes
from tests.dns.fakes.service import TOKEN, Reply, private

NAME = "_25._tcp.mx1.example.org."
A = f"3 1 1 {'a' * 64}"
START = 1_800_000_000.0
"""The beginning of a period."""


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = START + 10
        self.waited: list[float] = []

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(inwx, "time", SimpleNamespace(time=clock.time, sleep=clock.sleep))
    return clock


@pytest.fixture
def fake(tmp_path: Path, clock: Clock) -> Iterator[fakes.Inwx]:
    service = fakes.Inwx(tmp_path)
    service.clock = clock.time
    yield service
    service.stop()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    text = f"username = user\npassword = {TOKEN}\nsharedsecret = {fakes.SHARED_SECRET}\n"
    return private(tmp_path / "inwx.keys", text)


def made(fake: fakes.Inwx, token_file: Path, *zones: str) -> Inwx:
    zones = zones or ("example.org",)
    return Inwx(Options(url=fake.url, zones=zones, token_file=str(token_file), ca_file=str(fake.ca_file)))


@pytest.fixture
def provider(fake: fakes.Inwx, token_file: Path) -> Inwx:
    return made(fake, token_file)


def test_codes() -> None:
    """RFC 6238 appendix B, its last six digits; the key as services show it."""
    key = totp.key("gezd gnbv gy3t qojq gezd gnbv gy3t qojq")
    assert key == b"12345678901234567890"
    assert [totp.code(key, at // 30) for at in (59, 1111111109, 20000000000)] == ["287082", "081804", "353130"]


@pytest.mark.parametrize("text", ["", "käse", "189", "A"])
def test_what_is_no_shared_secret(fake: fakes.Inwx, token_file: Path, text: str) -> None:
    """It is found before anything is asked; nothing at all means that there is none."""
    token_file.write_text(token_file.read_text().replace(fakes.SHARED_SECRET, text))
    if text:
        with pytest.raises(Usage, match=r"base32.*secret\.file"):
            made(fake, token_file)
    else:
        fake.tfa = False
        assert made(fake, token_file).get(NAME, "TLSA") is None


def test_one_login_for_many_requests(fake: fakes.Inwx, provider: Inwx, clock: Clock) -> None:
    """By as many threads as there are zones."""
    names = [f"x{number}.example.org." for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(partial(provider.get, rdtype="TXT"), names))
    assert found == [None] * 8
    assert fake.logins == 1
    assert not clock.waited


def test_a_session_that_is_over_is_begun_anew(fake: fakes.Inwx, provider: Inwx, clock: Clock) -> None:
    """Within the same 30 s it waits for the next code, and what was asked for is done once."""
    was = provider.get(NAME, "TLSA")
    fake.sessions.clear()
    provider.add(NAME, "TLSA", frozenset({A}), 3600, was)
    assert fake.logins == 2
    assert clock.waited == [20]
    assert len(fake.records) == 1
    clock.now += 300
    fake.sessions.clear()
    provider.get(NAME, "TLSA")
    assert clock.waited == [20]


def test_a_code_that_another_process_has_used(fake: fakes.Inwx, token_file: Path, clock: Clock) -> None:
    """Nobody knows; it is refused, and the next one counts."""
    made(fake, token_file).get(NAME, "TLSA")
    assert made(fake, token_file).get(NAME, "TLSA") is None
    assert clock.waited == [20]


def test_a_shared_secret_of_another_account(fake: fakes.Inwx, token_file: Path, clock: Clock) -> None:
    """After two codes the operator has to look; the secret is not shown."""
    token_file.write_text(token_file.read_text().replace(fakes.SHARED_SECRET, "MFRGGZDFMZTWQ2LK"))
    with pytest.raises(Misconfigured, match=r"account\.unlock: 2200 .*invalid.*dns\.refused") as caught:
        made(fake, token_file).get(NAME, "TLSA")
    assert "MFRGG" not in repr(caught.value)
    assert clock.waited == [20]


def test_a_second_factor_without_its_secret(fake: fakes.Inwx, token_file: Path) -> None:
    token_file.write_text(f"username = user\npassword = {TOKEN}\n")
    with pytest.raises(Misconfigured, match=r"dns\.refused") as caught:
        made(fake, token_file).get(NAME, "TLSA")
    assert "sharedsecret" in caught.value.hint


def test_a_record_that_has_gone_meanwhile(fake: fakes.Inwx, provider: Inwx) -> None:
    """Deleting it is done."""
    provider.add(NAME, "TLSA", frozenset({A}), 3600, provider.get(NAME, "TLSA"))
    [record] = provider.records(NAME, "TLSA")
    fake.records.clear()
    provider.delete(record)
    provider.retime(record, 300)


@pytest.mark.parametrize(
    ("code", "expected"), [(2400, "dns.unreachable"), (2500, "dns.unreachable"), (2502, "dns.rate_limited")]
)
def test_failures_of_the_service(
    fake: fakes.Inwx, provider: Inwx, monkeypatch: pytest.MonkeyPatch, code: int, expected: str
) -> None:
    """Later it may work; the service's own words are shown."""

    def info(params: object) -> Reply:
        return fakes.reply(code, "Command failed")

    monkeypatch.setattr(fake, "_info", info)
    with pytest.raises(Transient, match="Command failed") as caught:
        provider.get(NAME, "TLSA")
    assert caught.value.code == expected
