"""Hosts as guides, panels and distributions publish them: after `certagent init` all is right, or it was refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.published import Published, check, hosts
from tests.e2e.site import ROOT
from tests.lab import opensmtpd
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble

CHOSEN = hosts(quick="CERTAGENT_HOSTS" not in os.environ)


@pytest.mark.parametrize("name", CHOSEN)
def test_host(name: str, place: Path, lab_dns: Dns, pebble: Pebble) -> None:
    """The steps that are printed are done to the letter; clients try before and after."""
    host = CHOSEN[name]
    if "smtpd" in host and (why := opensmtpd.missing()):
        pytest.skip(why)
    if "open" in host:
        pytest.xfail(host["open"])
    row = check(Published(place, lab_dns, pebble, host))
    print(f"\n{name:20} {row.verdict:40} {row.host}\n{'':20} before {row.before}\n{'':20} after  {row.after}")


def test_the_table_has_them_all() -> None:
    """At least twenty, and none that is not right yet."""
    table = (ROOT / "docs" / "results" / "hosts.md").read_text(encoding="utf-8")
    every = hosts()
    assert len(every) >= 20
    assert [name for name, host in every.items() if "open" in host or f"| {host['what']} |" not in table] == []
