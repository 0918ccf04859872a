"""The commands that show something and change nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from certagent.cli.errors import Exit, exit_status_for
from certagent.cli.options import wired, with_config, with_json, with_names
from certagent.report.terminal import columns, say, show


@click.command()
@with_config
@with_names
@with_json
def plan(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Show what would be done next, and when, with the reasons. Asks nobody and changes nothing."""
    from certagent.lifecycle.forecast import forecast
    from certagent.report import text, views, zones

    wiring, entries = wired(path, names)
    now, budgets = wiring.journal.now(), wiring.budgets()
    found: list[views.PlannedCertificate] = []
    for name in (entry.spec.name for entry in entries):
        spec, state = wiring.spec(name), wiring.journal.state(name)
        steps = views.planned(forecast(spec, state, now))
        found.append(views.PlannedCertificate(name, steps, zones.planned(spec, state, budgets, now)))
    if as_json:
        click.echo(text.to_json(views.Plan(views.VERSION, tuple(found))))
        return
    for one in found:
        say(f"{one.name}: what comes next if nothing more fails")
        for zone in one.zones:
            say(f"  {zone}")
        say(text.timeline(one.steps))


@click.command()
@with_config
@with_names
@click.option("--no-daemon", is_flag=True, help="A timer runs certagent here: that no daemon runs is not wrong.")
@with_json
def status(path: Path, names: tuple[str, ...], no_daemon: bool, as_json: bool) -> None:
    """Show what is served, what is in DNS as last seen, what rolls, and what fails. Asks nobody.

    A line for each certificate, then those that need a reader; the certificates that are named are shown in full.

    It exits with 1 or 3 if something fails, and with 1 if no daemon runs.
    """
    from certagent.report import overview, status, text

    wiring, _ = wired(path, names)
    wanted = names or tuple(wiring.config.certificates)
    wakes, now = wiring.journal.wakes(), wiring.journal.now()
    states = zip(wanted, wiring.journal.states(wanted), strict=True)
    daemon = wiring.present()
    certificates = tuple(
        status.certificate(wiring.config.certificates[name].spec, state, now, wakes.get(name), daemon)
        for name, state in states
    )
    others = () if names else tuple(status.other(*one) for one in wiring.others())
    view = status.status(certificates, now, daemon, others, daemon_wanted=not no_daemon)
    if as_json:
        click.echo(text.to_json(view))
    elif names:
        say(text.status(view))
    else:
        show(overview.overview(view, columns()))
    sys.exit(exit_status_for(view.verdict))


@click.command()
@with_config
@click.argument("name")
@click.option("--after", default=0, help="Only events after this sequence number.")
@with_json
def history(path: Path, name: str, after: int, as_json: bool) -> None:
    """Show everything that happened to a certificate, with the evidence; verify the journal on the way."""
    from certagent.report import history, text

    wiring, _ = wired(path, (name,))
    wiring.journal.verify(name)
    view = history.history(name, wiring.journal.history(name, after))
    if as_json:
        click.echo(text.to_json(view))
        return
    if not view.events and not after:
        say(f"{name}: nothing has happened yet")
    for event in view.events:
        say(text.event(event))


@click.command()
@with_config
@with_names
@with_json
def check(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Ask now what each server serves and what each DNS server answers, and whether both match. Changes nothing.

    It exits with 1 if something is wrong.
    """
    from certagent.checks import served
    from certagent.report import text, views

    wiring, entries = wired(path, names)
    wiring.check()
    wakes, daemon = wiring.journal.wakes(), wiring.present()
    found: list[views.CheckedCertificate] = []
    for entry in entries:
        name = entry.spec.name
        state, now = wiring.journal.state(name), wiring.journal.now()
        findings = served.run(wiring.spec(name), state, wiring.edges(name), now, wakes.get(name), daemon)
        found.append(views.checked(name, findings))
        if not as_json:
            say("\n".join([f"{name}: {text.outcome(found[-1])}", *map(text.finding, findings)]))
    if as_json:
        click.echo(text.to_json(views.Check(views.VERSION, tuple(found))))
    sys.exit(Exit.FAILED if any(one.outcome == "error" for one in found) else Exit.DONE)


@click.command()
@with_config
@with_names
@with_json
def tlsa(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Print the TLSA records that belong in DNS now, in the form of a zone file."""
    from certagent.report import text, views

    wiring, entries = wired(path, names)
    found = tuple(r for e in entries for r in views.tlsa_records(e.spec, wiring.journal.state(e.spec.name)))
    if as_json:
        click.echo(text.to_json(views.TlsaRecords(views.VERSION, found)))
        return
    for record in found:
        say(text.tlsa_record(record))
