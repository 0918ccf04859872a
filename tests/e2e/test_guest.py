"""An answer to certagent is one to this client: what it says of the server, and what is done then."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.site import NAME, Site
from tests.lab.addresses import MX1, SPARE, ZONE
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble
from tests.lab.wait import until


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
    """A host with a certificate in service."""
    with Site(place, lab_dns, pebble) as site:
        site.run("renew", "--wait")
        site.await_caches()
        yield site


def add(site: Site, port: int, *options: str, **service: object) -> None:
    """One more port, in Postfix and in the configuration."""
    master = (site.receiver.config_dir / "master.cf").read_text()
    own = "".join(f"  -o {option}\n" for option in options)
    site.receiver.configure("master.cf", f"{master}{MX1}:{port} inet n - n - - smtpd\n{own}")
    site.receiver.reload()
    site.server["services"].append({"host": NAME, "port": port, "mode": "smtp", **service})
    site.write()


def test_a_port_that_never_offered_tls_holds_back_no_other(site: Site) -> None:
    """It is told, nothing is installed again for it, and a roll goes through at all other ports and stays."""
    old, swaps = site.served(), site.kinds().count("Install!")
    add(site, 2525, "smtpd_tls_security_level=none")
    done = site.run("renew", code=1)
    assert "[mta.not_offered]" in done.err, done
    assert (site.served(), site.kinds().count("Install!")) == (old, swaps)
    site.run("renew", "--rotate", code=1)
    until(lambda: site.run("renew", code=1) and not site.served() & old, 40, "the new key is served")
    new = site.served()
    for _ in range(3):
        assert "[mta.not_offered]" in site.run("renew", code=1).err
        assert site.served() == new
    assert len(new) == 1


def limited(site: Site, **settings: object) -> None:
    """Postfix makes no exception for its own host."""
    main = (site.receiver.config_dir / "main.cf").read_text()
    own = "".join(f"{name} = {value}\n" for name, value in settings.items())
    site.receiver.configure("main.cf", f"{main}\nsmtpd_client_event_limit_exceptions =\n{own}")
    site.receiver.reload()


def test_a_limit_on_one_client_makes_no_alarm(site: Site) -> None:
    """Its rate: a roll is verified and a check ends well all the same."""
    limited(site, smtpd_client_connection_rate_limit=5, anvil_rate_time_unit="2s")
    site.run("check", seconds=120)
    old = site.served([25])
    site.run("renew", "--rotate", "--wait", seconds=240)
    until(lambda: not site.served([25]) & old, 10, "the new key is served")


def test_a_server_that_lets_nobody_in_is_busy_and_the_hint_names_its_setting(site: Site) -> None:
    limited(site, smtpd_client_connection_rate_limit=1, anvil_rate_time_unit="1h")
    site.served([25])  # the one connection
    said = site.run("check", code=1, seconds=240)
    assert "421" in said.out, said
    assert "smtpd_client_event_limit_exceptions" in said.out, said


def test_the_rehearsal_ends_as_the_real_run_does(site: Site) -> None:
    """Whatever keeps a service from being met: no listener, no address, no TLS, EHLO refused, the PROXY protocol."""
    for port, options, service, code, status in (
        (2501, (), {"addresses": [SPARE]}, "mta.down", 1),
        (2502, (), {"host": f"nowhere.{ZONE}"}, "mta.down", 1),
        (2503, ("smtpd_tls_security_level=none",), {}, "mta.not_offered", 1),
        (2504, ("smtpd_delay_reject=no", "smtpd_helo_restrictions=reject"), {}, "mta.turned_away", 1),
        (2505, ("smtpd_upstream_proxy_protocol=haproxy", "smtpd_upstream_proxy_timeout=1s"), {"proxy": "v2"}, "", 0),
    ):
        add(site, port, *options, **service)
        rehearsed = site.run("renew", "--dry-run", code=status)
        assert (f"[{code}]" in rehearsed.out) == bool(code), rehearsed
        site.run("renew", code=status)
        site.server["services"].pop()
        site.write()


def test_a_file_that_is_a_mount_point_is_found_before_the_first_run(site: Site) -> None:
    """As in a container to which the one file was given."""
    file = site.files["ecdsa"]
    subprocess.run(["mount", "--bind", file, file], check=True)
    try:
        rehearsed = site.run("renew", "--dry-run", code=3)
        assert f"{file} is a mount point" in rehearsed.out
    finally:
        subprocess.run(["umount", file], check=True)
    site.run("renew", "--dry-run")


def test_the_rehearsal_stops_where_the_first_run_does(place: Path, lab_dns: Dns, pebble: Pebble) -> None:
    """Postfix does not name the file yet: 3, before and when it is so."""
    with Site(place, lab_dns, pebble) as site:
        main = (site.receiver.config_dir / "main.cf").read_text()
        site.receiver.configure("main.cf", re.sub(r"(?m)^smtpd_tls_chain_files.*\n", "", main))
        site.receiver.reload()
        rehearsed = site.run("renew", "--dry-run", code=3)
        assert "the first run installs it and stops there" in rehearsed.out
        assert "[mta.config]" in site.run("renew", code=3).err
