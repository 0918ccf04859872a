"""Certificates without a DNS provider, from real Pebble: each challenge type, on a mail host with a real Postfix."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import NAME, TLSA_NAME, Done, Site
from tests.lab import nginx
from tests.lab.addresses import MX1
from tests.lab.dns import Dns
from tests.lab.nginx import Nginx
from tests.lab.pebble import Pebble

WELL_KNOWN = ".well-known/acme-challenge"
needs_nginx = pytest.mark.skipif(bool(nginx.missing()), reason=nginx.missing())


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
    """A host whose zone nobody lets certagent write: there is no `dns` in its configuration."""
    site = Site(place, lab_dns, pebble)
    del site.config["dns"]
    del site.service["tlsa"]
    with site:
        yield site


def use(site: Site, type_: str, **options: Any) -> None:
    site.certificate["challenge"] = {"type": type_, **options}
    site.write()


def is_open(port: int, address: str = MX1) -> bool:
    with closing(socket.socket()) as one:
        return one.connect_ex((address, port)) == 0


def assert_served(site: Site, done: Done) -> None:
    """What was issued is what clients meet, and nothing is left of the challenge."""
    assert len(site.served()) == 1
    state = site.state()
    assert (state["failing"], state["orders"], state["challenges"]) == ([], {}, [])
    assert {f"3 1 1 {one['spki']}" for one in site.newest()["chains"].values()} == site.served(), done


def passed_over(site: Site) -> list[str]:
    """What this host itself did not see."""
    return [entry["event"]["passed_over"] for entry in site.history() if entry["event"]["type"] == "OrderReady"]


class TestHttp:
    def test_certagent_takes_port_80_for_the_moment(self, site: Site) -> None:
        use(site, "http-01")
        assert_served(site, site.run("renew"))
        assert passed_over(site) == [""]
        assert not is_open(80)
        site.run("check")
        keys = site.served()
        assert_served(site, site.run("renew", "--force"))
        assert keys != site.served()

    def test_a_rehearsal_is_met_and_leaves_nothing(self, site: Site) -> None:
        use(site, "http-01")
        done = site.run("renew", "--dry-run")
        assert "its response is seen everywhere" in done.out
        assert f"http-01 http://{NAME}/{WELL_KNOWN}/" in done.out
        assert site.history() == []
        assert not is_open(80)

    def test_a_port_in_use_is_said_before_the_ca_is_asked(self, site: Site) -> None:
        use(site, "http-01")
        with closing(socket.create_server((MX1, 80))):
            for command in (("renew",), ("renew", "--dry-run")):
                done = site.run(*command, code=None)
                assert done.code in {3, 4}, done
                assert "port 80 of this host is in use by py" in done.out + done.err
            assert "`webroot`" in done.out + done.err
            assert "Respond!" not in site.kinds()
        assert_served(site, site.run("renew"))

    @needs_nginx
    def test_a_web_server_gives_the_file(self, site: Site, place: Path) -> None:
        root = place / "www"
        root.mkdir()
        use(site, "http-01", webroot=str(root))
        with Nginx(place / "nginx", f"root {root};") as web:
            assert_served(site, site.run("renew"))
            assert any(f"GET /{WELL_KNOWN}/" in line and '" 200 ' in line for line in web.requests)
        assert passed_over(site) == [""]
        assert list((root / WELL_KNOWN).iterdir()) == []

    @needs_nginx
    def test_a_web_server_passes_the_path_on(self, site: Site, place: Path) -> None:
        use(site, "http-01", listen=["127.0.0.1:8402"])
        passed = f"location /{WELL_KNOWN}/ {{ proxy_pass http://127.0.0.1:8402; }}"
        with Nginx(place / "nginx", passed):
            assert_served(site, site.run("renew"))
        assert not is_open(8402, "127.0.0.1")
        assert passed_over(site) == [""]

    @needs_nginx
    def test_a_web_server_that_gives_something_else_is_said_with_the_ca_s_words(self, site: Site, place: Path) -> None:
        """The directory is another than the web server's."""
        (place / "www").mkdir()
        use(site, "http-01", webroot=str(place / "www"))
        with Nginx(place / "nginx", f"root {place}/other;"):
            done = site.run("renew", code=None)
            assert "ca.challenge_failed" in done.err
            assert f"seen from this host: {NAME} at {MX1}: it answers 404" in done.err
            assert "look at port 80 of every address" in done.err
            assert list((place / "www" / WELL_KNOWN).iterdir()) == []
        rehearsed = site.run("renew", "--dry-run", code=None)
        assert "Connection refused" in rehearsed.out

    @needs_nginx
    @pytest.mark.parametrize("moment", ["Present!", "Presented", "Respond!", "OrderReady"])
    def test_a_file_goes_also_after_a_kill(self, site: Site, place: Path, moment: str) -> None:
        """And after the configuration has named another directory meanwhile."""
        old, new = place / "old", place / "new"
        for one in (old, new):
            one.mkdir()
        use(site, "http-01", webroot=str(old))
        with Nginx(
            place / "nginx", f"location / {{ root {old}; try_files $uri @new; }} location @new {{ root {new}; }}"
        ):
            site.run("renew", at={moment: "kill -9 $PPID"}, code=-9)
            if moment != "Present!":
                assert len(list((old / WELL_KNOWN).iterdir())) == 1
            use(site, "http-01", webroot=str(new))
            assert_served(site, site.run("renew"))
        assert [list(one.glob(f"{WELL_KNOWN}/*")) for one in (old, new)] == [[], []]

    def test_a_listener_that_was_killed_leaves_no_port(self, site: Site) -> None:
        use(site, "http-01")
        site.run("renew", at={"OrderReady": "kill -9 $PPID"}, code=-9)
        assert not is_open(80)
        assert_served(site, site.run("renew"))


def test_a_key_that_is_kept_with_a_record_made_by_hand(site: Site) -> None:
    """DANE without a provider: what is missing is said with the record, and a renewal changes nothing in DNS."""
    site.service["tlsa"] = True
    site.certificate |= {"rotate_key": "never", "standby": False}
    use(site, "http-01")
    rehearsed = site.run("renew", "--dry-run")
    assert "with the key kept, its record is made by hand once" in rehearsed.out
    first = site.run("renew", code=None)
    assert "no DNS provider is configured to write" in first.err
    assert "make the record by hand (certagent tlsa shows" in first.err
    [value] = [one["value"] for one in site.run("tlsa", "--json").json["records"]]
    assert site.served() == {value}
    site.dns.update(TLSA_NAME, "TLSA", [value])
    site.dns.settle()
    site.run("renew")
    assert site.state()["failing"] == []
    site.run("renew", "--force")
    assert site.served() == {value}
    assert "Publish!" not in site.kinds()[-20:]
    site.run("check")
