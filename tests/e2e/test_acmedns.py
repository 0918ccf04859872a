"""acme-dns for the challenges, another provider for the TLSA records: real name servers, a real CA."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.dns.fakes import acmedns
from tests.dns.fakes.service import TOKEN, Asked, Reply
from tests.e2e.site import CHALLENGE, NAME, Site, recursive_ca
from tests.lab.addresses import ALIAS_ZONE
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble

ACCOUNT_NAME = f"{acmedns.SUBDOMAIN}.{ALIAS_ZONE}"
ACCOUNT = {
    "subdomain": acmedns.SUBDOMAIN,
    "username": acmedns.USER,
    "password": TOKEN,
    "fulldomain": ACCOUNT_NAME,
}


class Published(acmedns.AcmeDns):
    """The API is the fake's, and its values are served by the lab's name servers."""

    def __init__(self, directory: Path, publish: Callable[[list[str]], None]) -> None:
        self.publish = publish
        super().__init__(directory)

    def answer(self, asked: Asked) -> Reply:
        reply = super().answer(asked)
        self.publish(self.values())
        return reply


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
    with Site(place, lab_dns, pebble) as site:
        site.names.append(ACCOUNT_NAME)
        yield site


@pytest.fixture
def server(site: Site, tmp_path: Path) -> Iterator[Published]:
    """Configured beside the usual provider, which writes the TLSA records."""
    server = Published(tmp_path, lambda values: site.dns.update(ACCOUNT_NAME, "TXT", values))
    accounts = tmp_path / "accounts.json"
    accounts.touch(0o600)
    accounts.write_text(json.dumps({NAME: ACCOUNT}))
    options = {"url": server.url, "ca_file": str(server.ca_file), "token_file": str(accounts)}
    site.config["dns"]["providers"]["challenges"] = {"type": "acme-dns", "zones": [ALIAS_ZONE], **options}
    site.write()
    yield server
    server.stop()


def test_challenges_go_where_the_alias_leads(site: Site, server: Published) -> None:
    """A CNAME of the challenge name leads to the account; TLSA records are written as ever."""
    assert f"no challenge name of the configuration leads into {ALIAS_ZONE}." in site.run("dns", "test", code=1).out
    site.dns.update(CHALLENGE, "CNAME", [f"{ACCOUNT_NAME}."])
    site.dns.settle()
    tried = site.run("dns", "test", ALIAS_ZONE).out
    for words in (f"wrote a TXT value at {ACCOUNT_NAME}.", "every authoritative server gave it", "removes nothing"):
        assert words in tried
    site.dns.flush_resolver()  # this CA has a cache, with the value of the trial
    with recursive_ca(site):
        done = site.run("renew", "--wait")
    assert site.served() <= set(site.published()[0])
    assert len({asked.body["txt"] for asked in server.asked}) == 2  # of the trial, and of the challenge
    assert TOKEN not in tried + done.out + done.err
    assert not any(TOKEN.encode() in path.read_bytes() for path in site.state_dir.glob("journal*"))


def test_it_cannot_be_the_only_one_with_dane(site: Site, server: Published) -> None:
    """Said at the start of a command, with the place in the file; nothing is asked."""
    del site.config["dns"]["providers"]["corp"]
    site.write()
    done = site.run("renew", code=2)
    assert "needs TLSA records, and its DNS provider takes challenges only" in done.err
    assert not server.asked
