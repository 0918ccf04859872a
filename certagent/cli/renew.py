"""The commands that change something: `renew` (and its rehearsal) and `abort`."""

from __future__ import annotations

import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from certagent.cli.errors import Exit, complain, exit_status, guard_signals
from certagent.cli.options import wired, with_config, with_json, with_names
from certagent.errors import Unsafe
from certagent.report.terminal import say

if TYPE_CHECKING:
    from certagent.agent.wiring import Wiring
    from certagent.config.schema import Entry
    from certagent.facts.wait import Wait
    from certagent.report.step import StepReport
    from certagent.report.views import Taken


@click.command()
@with_config
@with_names
@click.option(
    "--dry-run", is_flag=True, help="Do everything against the CA's staging directory; change nothing that matters."
)
@click.option("--force", is_flag=True, help="Renew now, although it is not due; rotate_key decides about keys.")
@click.option("--rotate", is_flag=True, help="Renew now with the next keys, whatever rotate_key says.")
@click.option(
    "--compromised", is_flag=True, help="The keys in service are compromised: swap to the standby keys, then revoke."
)
@click.option(
    "--accept-deferrals",
    is_flag=True,
    help="With --compromised: swap before caches know the new key. Senders with an old TLSA set defer mail meanwhile.",
)
@click.option("--wait", is_flag=True, help="Stay until the roll is over, TTLs included, or needs you.")
@click.option("--exit-unchanged", is_flag=True, help="Exit with 4 if there was nothing to change.")
@with_json
def renew(
    path: Path,
    names: tuple[str, ...],
    dry_run: bool,
    force: bool,
    rotate: bool,
    compromised: bool,
    accept_deferrals: bool,
    wait: bool,
    exit_unchanged: bool,
    as_json: bool,
) -> None:
    """Do now what is due, for the certificates named or for all.

    Whatever was begun is brought as far as it can go. What has to wait for caches goes on in `certagent run`, in the
    next `certagent renew`, or here with --wait. What is in DNS and what is served is checked first.
    What failed before is tried again at once; where a CA said no, only with --force, --rotate or --compromised.

    With --dry-run responses to challenges are put in place and taken away again. No TLSA record and no file of a mail
    server is changed, and nothing is reloaded. Nothing is journaled but writes to DNS that a provider counts by day.
    Every service is met. The exit status is that of the real run.
    """
    if accept_deferrals and not compromised:
        raise click.UsageError("--accept-deferrals goes with --compromised")
    wiring, entries = wired(path, names)
    wiring.check()
    if dry_run:
        _rehearse(wiring, entries, as_json)
    from certagent.agent.turn import turns
    from certagent.lifecycle import events as ev
    from certagent.report import text, views
    from certagent.report.status import failures

    what = "emergency" if compromised else "rotate" if rotate else "renew" if force else "retry"
    request = ev.Requested(what=what, accept_deferrals=accept_deferrals)
    guard_signals()
    worst, changed = Exit.DONE, False
    taken: defaultdict[str, list[views.Taken]] = defaultdict(list)
    results: dict[str, views.RenewedCertificate] = {}

    def report(step: StepReport) -> None:
        nonlocal changed
        changed = changed or step.step.changes
        taken[step.name].append(views.taken(step))
        if not as_json:
            _print_step(step.name, taken[step.name][-1])

    chosen = tuple(entries)
    try:
        for entry, last in turns(wiring, chosen, report, request, wait=wait, quiet=as_json):
            name = entry.spec.name
            failing = tuple(failures(wiring.journal.state(name), wiring.journal.now()))
            worst = max(worst, *(exit_status(failure.kind) for failure in failing if not failure.note), Exit.DONE)
            delay_s = last.delay.total_seconds()
            results[name] = views.RenewedCertificate(name, tuple(taken[name]), delay_s, last.because, failing)
            if not as_json:
                _print_wait(name, last)
    finally:
        _wake_daemon(wiring)  # also if it is ended: the daemon goes on at once with what was begun
    if as_json:
        every = tuple(results[entry.spec.name] for entry in chosen)
        click.echo(text.to_json(views.Renewal(views.VERSION, every)))
    unchanged = exit_unchanged and not changed and worst == Exit.DONE
    sys.exit(Exit.UNCHANGED if unchanged else worst)


def _rehearse(wiring: Wiring, entries: Iterable[Entry], as_json: bool) -> NoReturn:
    guard_signals()  # what was put into DNS is taken away also then
    from certagent.checks import rehearsal
    from certagent.report import text, views

    def show(line: str) -> None:
        if not as_json:
            say(line)

    reports: list[views.RehearsedCertificate] = []
    for entry in entries:
        show(f"{entry.spec.name}: rehearsal")
        found = rehearsal.rehearse(wiring, entry.spec.name, lambda finding: show(text.finding(finding)))
        reports.append(views.rehearsed(found))
        show(text.rehearsal(reports[-1]))
    if as_json:
        click.echo(text.to_json(views.RehearsalReport(views.VERSION, tuple(reports))))
    sys.exit(max(exit_status(report.kind) if report.kind else Exit.DONE for report in reports))


@click.command()
@with_config
@click.argument("name")
def abort(path: Path, name: str) -> None:
    """Give up the roll under way, before the swap: the next keys are dropped and their records removed."""
    from certagent.agent.loop import advance
    from certagent.agent.turn import LOCK_S
    from certagent.lifecycle import events as ev

    wiring, [entry] = wired(path, (name,))
    wiring.check()
    guard_signals()
    with wiring.lock.held(LOCK_S, f"abort {name}"):
        state = wiring.journal.state(name)
        served = {id_ for t in state.mail_servers.values() for id_ in t.serves}
        if state.newest and state.newest.id in served and state.next_keys is None:
            hint = "what serves already is rolled forward, not back"
            raise Unsafe("abort.too_late", f"{name}: there is no roll to give up", hint)
        wiring.journal.append(name, ev.Requested(what="abort"))
        last = advance(wiring.certificate(entry.spec.name), wiring.journal, report=_report)
    assert last is not None, "nothing here asks it to stop"
    _print_wait(name, last)
    _wake_daemon(wiring)


def _wake_daemon(wiring: Wiring) -> None:
    """The journal has changed: a running daemon reads it again."""
    pid = wiring.present()
    if pid is not None:
        os.kill(pid, signal.SIGUSR1)


def _report(step: StepReport) -> None:
    from certagent.report import views

    _print_step(step.name, views.taken(step))


def _print_step(certificate: str, step: Taken) -> None:
    from certagent.report import text

    say(text.step(certificate, step))
    if step.failure:
        complain(step.failure)


def _print_wait(name: str, wait: Wait) -> None:
    from certagent.report.words import brief

    say(f"{name}: next in {brief(wait.delay)}: {wait.because}")
