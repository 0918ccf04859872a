"""What the configuration does not say and the world has: records at a service without `tlsa: true`, and names of the
certificate that is served today.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.site import CHALLENGE, NAME, TLSA_NAME, Site, Strict
from tests.lab import certificates
from tests.lab.addresses import ZONE
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble
from tests.lab.postfix import Sender
from tests.lab.sender import Mailer, Prober
from tests.lab.wait import until

OTHER = f"imap.{ZONE}"
SUBMISSION = f"_587._tcp.{NAME}"


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
    """mx1 without `tlsa: true`."""
    site = Site(place, lab_dns, pebble)
    del site.service["tlsa"]
    site.names = [TLSA_NAME, SUBMISSION, CHALLENGE]
    with site:
        yield site


def before(site: Site, *names: str) -> str:
    """What was served before certagent came, by a CA; its TLSA value."""
    ca = certificates.make(["Another CA"], ca=True)
    pair = certificates.make(names, issuer=ca)
    site.files["ecdsa"].touch(0o600)
    site.files["ecdsa"].write_bytes(pair.chain_file + ca.certificate_pem)
    site.receiver.reload()
    until(lambda: serves(site, pair.tlsa), 10, "it is served")
    return pair.tlsa


def serves(site: Site, value: str) -> bool:
    """Whether every port shows this key already: right after a reload some may fail."""
    try:
        return site.served() == {value}
    except OSError:
        return False


def test_records_of_what_is_served_refuse_the_swap_until_they_are_declared(site: Site, sender: Sender) -> None:
    """RFC 7672 section 2.2: senders use the records whoever keeps them, so no mail is deferred, before and after."""
    old = before(site, NAME)
    site.dns.update(TLSA_NAME, "TLSA", [old], ttl=1)
    site.dns.settle()
    site.dns.flush_resolver()
    with Mailer(sender) as mailer, Prober() as prober, Strict() as strict:
        until(lambda: prober.match, 10, "a cache has the record")
        done = site.run("renew", "--wait", code=3)
        assert done.errors == [
            f"_25._tcp.{NAME}. has records of what is served, and certagent does not keep them: the service has no "
            f"`tlsa: true`: {old} [dane.undeclared]"
        ]
        assert done.hints[0].startswith(f"set `tlsa: true` at the service {NAME}:25")
        assert site.served() == {old}
        assert site.published() == [[old], [old]]
        assert "dane.undeclared" in site.run("status", code=3).out
        site.run("renew", code=3)
        site.service["tlsa"] = True
        site.write()
        site.run("renew", "--wait")
        until(lambda: mailer.mailed > 10, 10, "some mails")
        mailed = mailer.stop()
        prober.stop()
        strict.stop()
    assert (mailed.deferred, mailed.bounced) == (0, 0), mailed.troubles
    assert prober.failures == []
    assert strict.failures == []
    assert old not in site.served()
    site.assert_converged()


def test_the_port_does_not_matter_and_records_that_are_taken_out_hold_nothing_back(site: Site) -> None:
    """Those of the submission port are as good; once they are gone and no cache can have them, the swap is made."""
    old = before(site, NAME)
    site.dns.update(SUBMISSION, "TLSA", [old], ttl=1)
    site.dns.settle()
    done = site.run("renew", "--wait", code=3)
    assert f"{NAME}:587" in done.hints[0]
    assert site.served() == {old}
    site.dns.update(SUBMISSION, "TLSA", [])
    site.dns.settle()
    site.run("renew", "--wait")
    assert old not in site.served()
    assert site.published() == [[], []]


def test_records_that_match_nothing_are_no_reason(site: Site) -> None:
    """Nobody relies on them: they are left as they are."""
    old, stale = before(site, NAME), f"3 1 1 {'ab' * 32}"
    site.dns.update(TLSA_NAME, "TLSA", [stale])
    site.dns.settle()
    site.run("renew", "--wait")
    assert old not in site.served()
    assert site.published() == [[stale], [stale]]


def test_records_that_were_made_by_hand_keep_the_key(site: Site) -> None:
    """Made after the first swap: the next keys are refused, a renewal with the same key is not."""
    site.run("renew", "--wait")
    [key] = site.served()
    site.dns.update(TLSA_NAME, "TLSA", [key], ttl=1)
    site.dns.settle()
    assert "dane.undeclared" in site.run("renew", "--rotate", "--wait", code=3).err
    assert site.served() == {key}
    site.certificate["rotate_key"] = "never"
    site.write()
    site.run("abort", NAME)
    site.run("renew", "--force", "--wait")
    assert site.served() == {key}


def test_a_first_swap_takes_no_name_away_that_nobody_gave_up(site: Site) -> None:
    """The server's certificate has a name more than the configuration: refused until one or the other says so."""
    old = before(site, NAME, OTHER)
    done = site.run("renew", "--wait", code=3)
    assert f"is also for {OTHER}" in done.errors[0]
    assert f"`names: [{OTHER}, {NAME}]`" in done.hints[0]
    assert f"`drop_names: [{OTHER}]`" in done.hints[0]
    assert site.served() == {old}
    site.run("renew", code=3)
    site.certificate["drop_names"] = [OTHER]
    site.write()
    site.run("renew", "--wait")
    assert old not in site.served()
    assert site.state()["failing"] == []
