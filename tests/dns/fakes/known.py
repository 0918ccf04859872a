"""Every provider with an HTTP API, beside its fake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from certagent.dns.providers import powerdns
from certagent.dns.providers.protocol import Provider
from tests.dns.fakes.powerdns import PowerDns
from tests.dns.fakes.service import Service

TOKEN = "the-token-of-the-test"


class Known(NamedTuple):
    """How to make one."""

    name: str
    fake: Callable[[Path], Service]
    provider: Callable[[Service, Path, float, str], Provider]
    """For a fake and a file with its token; with the time limit, for the zone."""
    foreign: Callable[[Service], None]
    """Puts 200 records of other people into the zone, on more than one page."""


def _powerdns(fake: Service, token_file: Path, timeout_s: float, zone: str) -> Provider:
    options = powerdns.Options(
        url=fake.url, zones=(zone,), token_file=str(token_file), timeout_s=timeout_s, ca_file=str(fake.ca_file)
    )
    return powerdns.PowerDns(options)


def _others(fake: Service) -> None:
    assert isinstance(fake, PowerDns)
    fake.old = True
    for number in range(200):
        key = f"host{number}.example.org.", "TXT"
        fake.sets[key] = {"name": key[0], "type": "TXT", "ttl": 60, "records": [{"content": '"x"', "disabled": False}]}


KNOWN: tuple[Known, ...] = (Known("powerdns", PowerDns, _powerdns, _others),)
"""In the order of the documentation."""
