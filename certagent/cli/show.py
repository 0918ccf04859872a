"""The commands that show something and change nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from certagent.cli.errors import Exit, exit_status
from certagent.cli.options import wired, with_config, with_json, with_names


@click.command()
@with_config
@with_names
@with_json
def plan(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Show what would be done next, and when, with the reasons. Asks nobody and changes nothing."""
    from certagent.lifecycle.forecast import forecast
    from certagent.report import text

    wiring, entries = wired(path, names)
    found = {e.spec.name: forecast(e.spec, wiring.journal.state(e.spec.name), wiring.journal.now()) for e in entries}
    if as_json:
        click.echo(text.to_json(found))
        return
    for name, timeline in found.items():
        click.echo(f"{name}: what comes next if nothing fails")
        click.echo(text.timeline(timeline))


@click.command()
@with_config
@with_names
@with_json
def status(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Show what is served, what is in DNS as last seen, what is waited for, and what fails. Asks nobody.

    Of more than 50 certificates, unless some are named, those that are well have a line each; the others come last.
    """
    from certagent.lifecycle.schedule import alarms
    from certagent.report import text

    wiring, _ = wired(path, names)
    wanted = names or tuple(wiring.config.certificates)
    wakes, now = wiring.journal.wakes(), wiring.journal.now()
    fleet = not names and len(wanted) > text.MANY
    worst = Exit.DONE
    all_: list[object] = []
    lines: list[str] = []
    last: list[str] = []
    for name, state in zip(wanted, wiring.journal.states(wanted), strict=True):
        wake = wakes.get(name)
        statuses = (
            Exit.NEEDS_HUMAN if alarms(work, f, now) else exit_status(f.kind) for work, f in state.failures.items()
        )
        worst = max(worst, *statuses, Exit.DONE)
        if as_json:
            all_.append(text.status_of(name, state, wake))
        elif fleet and text.fares_well(state, now):
            lines.append(text.status_line(state, now, wake))
        else:
            last.append(text.status(wiring.config.certificates[name].spec, state, now, wake))
    if as_json:
        click.echo(text.to_json({"daemon": wiring.present(), "certificates": all_}))
        sys.exit(worst)
    if wanted:
        click.echo("\n".join([*lines, *last]))
    if fleet:
        shown = f"{len(last)} of them not well and shown above in full" if last else "all of them well"
        click.echo(f"{len(wanted)} certificates, {shown}; `certagent status NAME` shows any in full")
    if wiring.present() is None:
        click.echo("the daemon is not running: start it with `certagent run`, as a service")
    sys.exit(worst)


@click.command()
@with_config
@click.argument("name")
@click.option("--after", default=0, help="Only events after this sequence number.")
@with_json
def history(path: Path, name: str, after: int, as_json: bool) -> None:
    """Show everything that happened to a certificate, with the evidence; verify the journal on the way."""
    from certagent.report import text

    wiring, _ = wired(path, (name,))
    wiring.journal.verify(name)
    entries = list(wiring.journal.history(name, after))
    if as_json:
        click.echo(text.to_json(entries))
    else:
        for entry in entries:
            click.echo(text.event(entry))


@click.command()
@with_config
@with_names
@with_json
def check(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Look now: what each server serves, what each DNS server answers, whether both match. Changes nothing."""
    from certagent.checks import served
    from certagent.report import text

    wiring, entries = wired(path, names)
    wiring.check()
    found = {
        e.spec.name: served.run(e.spec, wiring.journal.state(e.spec.name), wiring.edges(e.spec.name)) for e in entries
    }
    if as_json:
        click.echo(text.to_json(found))
    else:
        for name, findings in found.items():
            click.echo(name)
            for item in findings:
                click.echo(text.finding(item))
    sys.exit(Exit.FAILED if any(f.outcome == "error" for fs in found.values() for f in fs) else Exit.DONE)


@click.command()
@with_config
@with_names
@with_json
def tlsa(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Print the TLSA records that belong in DNS now, in the form of a zone file."""
    from certagent.report import text

    wiring, entries = wired(path, names)
    found = [r for e in entries for r in text.tlsa_records(e.spec, wiring.journal.state(e.spec.name))]
    if as_json:
        click.echo(text.to_json(found))
        return
    for record in found:
        click.echo(f"{record['tlsa_name']} {record['ttl_s']} IN TLSA {record['value']} ; {record['comment']}")
