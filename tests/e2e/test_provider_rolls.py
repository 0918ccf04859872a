"""One certificate from its first TLSA records through a change of keys, by each kind of DNS provider: `make providers`.

From the first records on a `dane-only` Postfix mails through a validating cache, and nobody may notice a thing. `make
test` leaves out dynamic update, which all other rolls in tests/e2e are made by.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.dns.fakes.cloudflare import Cloudflare
from tests.dns.fakes.known import ROUTE53_SECRET
from tests.dns.fakes.netcup import Netcup
from tests.dns.fakes.route53 import Route53
from tests.dns.fakes.service import TOKEN, Service
from tests.e2e.bridge import Bridge, of_cloudflare, of_netcup, of_route53
from tests.e2e.site import BOTH_SERVERS, CHALLENGE, TLSA_NAME, Cached, Site, Strict, recursive_ca
from tests.lab.addresses import RESOLVER, ZONE
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble
from tests.lab.postfix import Sender
from tests.lab.powerdns import ADDRESS, PDNS_ZONE, PowerDns
from tests.lab.sender import Mailer
from tests.lab.wait import until

ALL = os.environ.get("CERTAGENT_PROVIDERS") == "all"
ROUND_S = 3.0
"""In place of the ten minutes after which netcup publishes what was written."""


class Provided(Site):
    """A site with another provider than dynamic update, perhaps one that states other capabilities."""

    def __init__(self, place: Path, dns: Dns, pebble: Pebble) -> None:
        super().__init__(place, dns, pebble)
        self.dane |= {"ttl": "1s", "safety_margin": "3s"}  # Postfix and unbound round up to seconds, each
        self.capabilities: dict[str, dict[str, Any]] = {}
        self.tlsa_name: str = TLSA_NAME
        self.servers: tuple[str, ...] = BOTH_SERVERS
        """Where the records are."""
        self.between: Callable[[], None] = lambda: None
        """Called before the second certificate."""

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """See `Site`."""
        module, *rest = argv[1:]
        assert module == "certagent"
        return super().start("-m", "tests.e2e.bridge", json.dumps(self.capabilities), *rest)

    def secrets(self) -> list[bytes]:
        """See `Site`; what certagent shows the service, too."""
        files = [Path(self.provider["token_file"])] if "token_file" in self.provider else []
        return [*super().secrets(), *(file.read_bytes().split()[-1] for file in files)]

    def provide(self, type_: str, **options: Any) -> None:
        """Writes the section of the provider, and of nothing else."""
        self.provider.clear()
        self.provider |= {"type": type_, "zones": [ZONE], **options}
        self.write()

    def fake(self, type_: str, service: Service, secret: str = "{}") -> None:
        """The provider is a fake."""
        token = self.place / "token"
        token.touch(0o600)
        token.write_text(secret.format(TOKEN))
        self.provide(type_, url=service.url, token_file=str(token), ca_file=str(service.ca_file))


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Provided]:
    with Provided(place, lab_dns, pebble) as site:
        yield site


# -- the kinds ---------------------------------------------------------------------------------------------------------


@contextmanager
def rfc2136(site: Provided) -> Generator[None]:
    """Dynamic update at BIND."""
    yield


@contextmanager
def replaces(site: Provided) -> Generator[None]:
    """PowerDNS by its API, for a zone of its own in which aliases end."""
    server = PowerDns(site.place / "powerdns")
    server.start()
    try:
        site.dns.adopt(PDNS_ZONE, ADDRESS)
        site.provide("powerdns", url=server.url, token_file=str(server.token(site.place / "token")), zones=[PDNS_ZONE])
        site.tlsa_name, site.servers = f"_25._tcp.mx1.{PDNS_ZONE}", (ADDRESS,)
        site.dns.update(TLSA_NAME, "CNAME", [f"{site.tlsa_name}."])
        alias_challenge(site, server, "first")
        site.dns.settle()
        site.between = lambda: alias_challenge(site, server, "second")
        with recursive_ca(site):
            yield
    finally:
        server.stop()


def alias_challenge(site: Site, server: PowerDns, label: str) -> None:
    """The challenge is at another name: this CA has a cache, in which the values of the last time stay for a while."""
    name = f"_acme-challenge.{label}.{PDNS_ZONE}."
    server.put(name, "TXT", '"another"')  # or the cache would remember that there is no such name
    site.dns.update(CHALLENGE, "CNAME", [name], ttl=1)
    until(lambda: site.dns.values(RESOLVER, CHALLENGE, "CNAME") == [name], 5, "the CA follows the alias")


@contextmanager
def by_record(site: Provided) -> Generator[None]:
    """Cloudflare's fake; each record is in DNS before its request is answered."""
    fake = Cloudflare(site.place, ZONE)
    fake.ttl_floor_s = 2  # a TTL of 1 means another there
    site.capabilities = {"cloudflare": {"ttl_floor_s": 2, "publish_lag_s": 0}}
    site.fake("cloudflare", fake)
    try:
        with Bridge(fake, of_cloudflare, site.dns) as bridge:
            yield
        assert len(bridge.changes) >= 4, "two records come, then one more, and the oldest goes"
        assert [len(old ^ new) for old, new in bridge.changes] == [1] * len(bridge.changes)
    finally:
        fake.stop()


@contextmanager
def slow(site: Provided) -> Generator[None]:
    """netcup's fake; DNS has it after some seconds."""
    fake = Netcup(site.place, ZONE)
    fake.ttl_s = 1
    site.capabilities = {"netcup": {"publish_lag_s": 2 * ROUND_S}}  # as it does with rounds of ten minutes
    site.fake("netcup", fake, "customernumber = 12345\napikey = key\napipassword = {}\n")
    try:
        with Bridge(fake, of_netcup, site.dns, ROUND_S):
            yield
    finally:
        fake.stop()


@contextmanager
def in_sync(site: Provided) -> Generator[None]:
    """Route 53 by moto, which says PENDING until DNS has it; its library in a child process."""
    fake = Route53(site.place, f"{ZONE}.")
    fake.polls = 3  # asked after 0.2, 0.6 and 1.4 s
    site.capabilities = {"route53": {"publish_lag_s": 3}}
    site.fake("route53", fake, ROUTE53_SECRET)
    try:
        with Bridge(fake, of_route53, site.dns) as bridge:
            yield
        assert len(fake.changes) >= len(bridge.changes) >= 4
        assert any("/change/" in asked.path for asked in fake.asked)
    finally:
        fake.stop()


Kind = Callable[[Provided], Any]
EVERY: Mapping[str, Kind] = {
    "RFC 2136 (BIND)": rfc2136,
    "replaces whole sets (PowerDNS)": replaces,
    "record by record (Cloudflare)": by_record,
    "publishes late (netcup)": slow,
    "compares and swaps, says when it is published (Route 53)": in_sync,
}
KINDS = EVERY if ALL else {name: kind for name, kind in EVERY.items() if kind is not rfc2136}


class Spy:
    """Reads arguments and environment of all processes of the lab, again and again. Use as a context manager."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Spy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            for path in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # it has ended
                    self.seen |= {(path / name).read_bytes() for name in ("cmdline", "environ")}


class Witness(Cached):
    """Looks through a validating cache, and counts the sets that it was given."""

    def __init__(self) -> None:
        super().__init__(rate=10)
        self.sets = 0
        self.last: set[str] = set()

    def _records(self) -> set[str]:
        found = super()._records()
        self.sets += found not in (self.last, set())
        self.last = found
        return found

    def sure(self) -> bool:
        """No cache remembers any more that there was no record: the resolver and Postfix keep that for a second."""
        return bool(self.match) and time.time() - max((f.time for f in self.failures), default=0) > 3


@pytest.fixture(scope="module", autouse=True)
def head() -> None:
    """Of the table that is printed."""
    columns = ("provider", "seconds", "mails", "deferred", "handshakes compared", "mismatched", "sets in the cache")
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_roll(site: Provided, sender: Sender, kind: Kind, request: pytest.FixtureRequest) -> None:
    """First certificate, first records, another key: no mail is deferred, and no old record is left."""
    began = time.monotonic()
    with kind(site), Spy() as spy, Witness() as cached, Strict(server=site.servers[0], owner=site.tlsa_name) as strict:
        site.run("renew", "--wait")
        until(cached.sure, 10, "everybody sees the first records")
        everybody, old = time.time(), site.served()
        with Mailer(sender) as mailer:
            site.between()
            site.run("renew", "--force", "--wait")
            desired = sorted(record["value"] for record in site.run("tlsa", "--json").json["records"])
            until(lambda: cached.last == set(desired), 10, "caches have the new records alone")
            until(lambda: mailer.mailed > 10, 60, "mail came during the roll and after it")
            mailed = mailer.stop()
        cached.halt()
        strict.halt()
        new = site.served()
        published = [site.dns.values(server, site.tlsa_name, "TLSA") for server in site.servers]
    assert any(b"tests.e2e.bridge" in words for words in spy.seen)
    site.assert_nothing_secret_in(b"\n".join(spy.seen))
    mismatched = cached.mismatch + strict.mismatch
    print(
        f"\n| {request.node.callspec.id} | {time.monotonic() - began:.0f} | {mailed.sent} | {mailed.deferred} "
        f"| {cached.match + strict.match} | {mismatched} | {cached.sets} |"
    )
    assert (mailed.deferred, mailed.bounced) == (0, 0), mailed.troubles
    assert [f for f in cached.failures if f.kind == "mismatch" or f.time > everybody] == []
    assert strict.harm() == []
    assert mailed.sent > 10
    assert published == [desired] * len(site.servers)
    assert not old & {*new, *desired}
    assert new < set(desired)
