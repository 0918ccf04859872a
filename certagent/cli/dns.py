"""The commands `dns providers` and `dns test`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from certagent.cli.errors import Exit, guard_signals
from certagent.cli.options import wired, with_config, with_json
from certagent.errors import Usage

if TYPE_CHECKING:
    from certagent.report.findings import Finding


@click.group()
def dns() -> None:
    """DNS providers: which there are, what they can do, and whether they do it here."""


@dns.command()
@with_config
@with_json
def providers(path: Path, as_json: bool) -> None:
    """Show the DNS providers, what each can do, and the zones that the configuration gives it. Asks nobody."""
    from certagent.checks import providers as checks
    from certagent.report.providers import table
    from certagent.report.text import to_json

    zones = checks.zones_by_type(wired(path, ())[0]) if path.exists() else {}
    view = checks.known(zones)
    click.echo(to_json(view) if as_json else table(view))


@dns.command()
@with_config
@click.argument("zone", required=False)
@with_json
def test(path: Path, zone: str | None, as_json: bool) -> None:
    """Write a harmless TXT value, read it back, see it at every authoritative server, and remove it.

    Without ZONE every zone of the configuration is tried. It exits with 1 if something does not work. Interrupted,
    it removes the value before it ends.
    """
    from certagent.checks import providers as checks
    from certagent.dns.message import absolute
    from certagent.report import providers as views
    from certagent.report import text
    from certagent.report.terminal import say

    wiring, _ = wired(path, ())
    known = checks.zones(wiring)
    guard_signals()
    if zone is not None and absolute(zone) not in known:
        listed = ", ".join(known) or "none"
        raise Usage(
            "config.no_such",
            f"{path}: no DNS provider writes the zone {zone!r}",
            f"choose one that is configured: {listed}",
        )
    found: list[views.TriedZone] = []
    for one in [absolute(zone)] if zone else known:
        findings: list[Finding] = []
        for finding in checks.trial(wiring, one):
            findings.append(finding)
            if not as_json:
                say(text.finding(finding))
        found.append(views.tried(one, findings))
    if as_json:
        click.echo(text.to_json(views.Trial(views.VERSION, tuple(found))))
    sys.exit(Exit.FAILED if any(one.outcome == "error" for one in found) else Exit.DONE)
