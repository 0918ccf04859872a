"""Zones of their own, below the mail host's or elsewhere: certagent finds them, writes there, sees it everywhere.

The primary of those that are cut off is Knot, which signs; NSD is the secondary, by transfer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from certagent.dns.authority import Resolver
from tests.e2e.site import CHALLENGE, TLSA_NAME, Site, recursive_ca
from tests.lab.addresses import (
    ACME_ZONE,
    ALIAS_ZONE,
    KNOT,
    NSD,
    PRIMARY,
    RESOLVER,
    SECONDARY,
    STEALTH_ZONE,
    TCP_ZONE,
    ZONE,
)
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble
from tests.lab.wait import until


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
    with Site(place, lab_dns, pebble) as site:
        yield site


def provided(site: Site, zone: str, server: str, key: str = "dane-key") -> None:
    """One more provider, for that zone alone."""
    section = {"type": "rfc2136", "server": server, "zones": [zone], "key_file": str(site.dns.keyfile(key))}
    site.config["dns"]["providers"]["other"] = section
    site.write()


def tried(site: Site, zone: str) -> list[str]:
    """What `dns test` says of the zone."""
    [found] = site.run("dns", "test", zone, "--json").json["zones"]
    assert found["outcome"] == "ok", found
    return [finding["detail"] for finding in found["findings"]]


def test_tlsa_names_in_a_zone_with_its_own_servers(site: Site) -> None:
    """From the first records through a change of keys. The zone above has none of them."""
    site.dns.cut(TCP_ZONE)
    provided(site, TCP_ZONE, KNOT)
    site.run("renew", "--wait")
    old = site.served()
    site.run("renew", "--force", "--wait")
    desired = sorted(record["value"] for record in site.run("tlsa", "--json").json["records"])
    assert [site.dns.values(server, TLSA_NAME, "TLSA") for server in (KNOT, NSD)] == [desired, desired]
    assert site.published() == [[], []]
    assert not old & {*desired, *site.served()}
    observation = site.state()["tlsa_names"][f"{TLSA_NAME}."]["observation"]
    assert (observation["zone"], observation["security"]) == (f"{TCP_ZONE}.", "secure")
    assert set(observation["answers"]) == {f"ns3.{ZONE}./{KNOT}", f"ns4.{ZONE}./{NSD}"}


def test_challenges_in_a_zone_with_its_own_servers(site: Site) -> None:
    """The zone is the challenge name itself."""
    site.dns.cut(ACME_ZONE)
    provided(site, ACME_ZONE, KNOT)
    assert Resolver((RESOLVER,)).final(CHALLENGE) == (f"{ACME_ZONE}.", f"{CHALLENGE}.")
    assert f"wrote a TXT value at {CHALLENGE}." in tried(site, ACME_ZONE)[0]
    serial = site.dns.values(NSD, ACME_ZONE, "SOA")
    with recursive_ca(site):
        site.run("renew", "--wait")
    assert site.dns.values(NSD, ACME_ZONE, "SOA") != serial
    until(lambda: not any(site.dns.values(server, CHALLENGE, "TXT") for server in (KNOT, NSD)), 5, "it is removed")
    assert len(site.published()[0]) == 2


def test_a_challenge_whose_alias_leads_into_another_zone(site: Site) -> None:
    """By a key that may write there and nowhere else."""
    end = f"mx1.{ALIAS_ZONE}."
    site.dns.update(f"challenge.{end}", "TXT", ['"another"'])  # or the CA's cache would remember that there is none
    site.dns.update(CHALLENGE, "CNAME", [f"challenge.{end}"])
    site.dns.settle()
    provided(site, ALIAS_ZONE, PRIMARY, "acme-key")
    assert Resolver((RESOLVER,)).final(CHALLENGE) == (f"{ALIAS_ZONE}.", f"challenge.{end}")
    serial = site.dns.values(SECONDARY, ALIAS_ZONE, "SOA")
    with recursive_ca(site):
        site.run("renew", "--wait")
    assert site.dns.values(SECONDARY, ALIAS_ZONE, "SOA") != serial
    assert site.dns.values(PRIMARY, f"challenge.{end}", "TXT") == ['"another"']
    assert len(site.published()[0]) == 2


def test_a_hidden_primary_is_written_and_the_public_servers_are_waited_for(site: Site) -> None:
    """The server that takes the updates is none of the zone's: what it has is seen by nobody."""
    tlsa, challenge = f"_25._tcp.mx1.{STEALTH_ZONE}", f"_acme-challenge.mx1.{STEALTH_ZONE}"
    public = f"ns1.{STEALTH_ZONE}./{SECONDARY}"
    site.names += [tlsa, challenge]
    site.dns.update(challenge, "TXT", ['"another"'])  # or the CA's cache would remember that there is none
    for name, end in ((TLSA_NAME, tlsa), (CHALLENGE, challenge)):
        site.dns.update(name, "CNAME", [f"{end}."])
    site.dns.settle()
    provided(site, STEALTH_ZONE, PRIMARY)
    with recursive_ca(site):
        site.dns.lag()
        [error] = site.run("renew", code=1).errors
        assert f"{public} has not got it" in error
        assert len(site.dns.values(PRIMARY, challenge, "TXT")) == 2
        assert site.dns.values(SECONDARY, challenge, "TXT") == ['"another"']
        site.dns.catch_up()
        site.run("renew", "--wait")
    desired = sorted(record["value"] for record in site.run("tlsa", "--json").json["records"])
    assert site.dns.values(SECONDARY, tlsa, "TLSA") == desired
    observation = site.state()["tlsa_names"][f"{TLSA_NAME}."]["observation"]
    assert (observation["zone"], set(observation["answers"])) == (f"{STEALTH_ZONE}.", {public})


@pytest.mark.parametrize("zone", [TCP_ZONE, ACME_ZONE])
def test_a_zone_that_no_provider_writes_is_named(site: Site, zone: str) -> None:
    """What was written into the zone above would be seen by nobody."""
    site.dns.cut(zone)
    done = site.run("renew", code=None)
    assert any("dns.no_provider" in error and f"in the zone {zone}." in error for error in done.errors), done
    assert any(f"add {zone}." in hint for hint in done.hints)
