"""The command line.

Rules of what is printed: results on standard output; progress and errors on standard error; errors in lower case, as
`certagent: error: …` and `hint: …`; `--json` for machines; no traceback, no secret, ever. Exit codes: 0 done, 1
failed (tried again later), 2 wrong usage or configuration (nothing was touched), 3 needs a human, 4 nothing to do (with
--exit-unchanged).
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from certagent import __version__
from certagent.errors import Error, Misconfigured, Unsafe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from certagent.agent.loop import StepReport
    from certagent.agent.wiring import Wiring
    from certagent.config.load import Config, Entry
    from certagent.agent.subject import Failed
    from certagent.facts.wait import Wait
    from certagent.report.findings import Rehearsal

_config = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path(os.environ.get("CERTAGENT_CONFIG", "/etc/certagent/config.yaml")),
    show_default=True,
    help="The configuration file; also CERTAGENT_CONFIG.",
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
_names = click.argument("names", nargs=-1, metavar="[NAME]...")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed and tried again later, 2 usage or configuration, 3 needs a human, "
    "4 nothing to do (only with --exit-unchanged), 130 interrupted.",
)
@click.version_option(__version__, "--version", prog_name="certagent", message="%(prog)s %(version)s")
def cli() -> None:
    """The certificate lifecycle agent for mail servers: renews by ACME, and cannot break DANE.

    Begin with `certagent renew --dry-run`: it goes the whole way against the CA's staging directory and changes
    nothing.
    `certagent run` then looks after all certificates for years.
    """


@cli.command()
@_config
@_names
@click.option(
    "--dry-run", is_flag=True, help="Go the whole way against the CA's staging directory; change nothing that matters."
)
@click.option("--force", is_flag=True, help="Renew now, although it is not due.")
@click.option("--rotate", is_flag=True, help="Renew now with the next keys, whatever rotate_key says.")
@click.option(
    "--compromised", is_flag=True, help="The keys in service are compromised: swap to the standby keys, then revoke."
)
@click.option(
    "--accept-deferrals",
    is_flag=True,
    help="With --compromised: swap before caches know the new key. DANE senders defer mail meanwhile.",
)
@click.option("--wait", is_flag=True, help="Stay until the roll is over, or needs you.")
@click.option("--exit-unchanged", is_flag=True, help="Exit with 4 if there was nothing to do.")
@_json
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

    Whatever was begun is brought as far as it can go; what has to wait for caches goes on in `certagent run`, in the
    next `certagent renew`, or here with --wait.
    """
    if accept_deferrals and not compromised:
        raise click.UsageError("--accept-deferrals goes with --compromised")
    wiring, entries = _open(path, names)
    wiring.check()
    if dry_run:
        _dry_run(wiring, entries, as_json)
    from certagent.agent.turn import turn
    from certagent.lifecycle import events as ev
    from certagent.report import text

    what = "emergency" if compromised else "rotate" if rotate else "renew" if force else "retry"
    request = ev.Requested(what=what, accept_deferrals=accept_deferrals)
    _guard_signals()
    code = 0
    results: list[dict[str, Any]] = []
    for entry in entries:
        told: list[StepReport] = []

        def tell(step: StepReport, told: list[StepReport] = told) -> None:
            told.append(step)
            if not as_json:
                _print_step(step)

        last = turn(wiring, entry, tell, request, wait=wait, quiet=as_json)
        failures = wiring.journal.state(entry.spec.name).failures
        code = max(code, *(_code_of(f.kind) for f in failures.values()), 0)
        if exit_unchanged and not told and code == 0:
            code = 4
        results.append(text.run_of(entry.spec.name, told, last, failures))
        if not as_json:
            _print_wait(entry.spec.name, last)
    _wake_daemon(wiring)
    if as_json:
        click.echo(text.to_json(results))
    sys.exit(code)


def _dry_run(wiring: Wiring, entries: Iterable[Entry], as_json: bool) -> NoReturn:
    from certagent.checks import rehearsal
    from certagent.report import text

    reports: list[Rehearsal] = []
    for entry in entries:
        if not as_json:
            click.echo(f"{entry.spec.name}: rehearsal")
        reports.append(
            rehearsal.rehearse(wiring, entry.spec.name, lambda f: None if as_json else click.echo(text.finding(f)))
        )
        if not as_json:
            click.echo(text.rehearsal(reports[-1]))
    if as_json:
        click.echo(text.to_json(reports))
    sys.exit(3 if any(r.refused for r in reports) else 0)


@cli.command()
@_config
@_names
@_json
def plan(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Show what would be done next, and when, with the reasons. Asks nobody and changes nothing."""
    from certagent.lifecycle.forecast import forecast
    from certagent.report import text

    wiring, entries = _open(path, names)
    found = {e.spec.name: forecast(e.spec, wiring.journal.state(e.spec.name), wiring.journal.now()) for e in entries}
    if as_json:
        click.echo(text.to_json(found))
        return
    for name, timeline in found.items():
        click.echo(f"{name}: what comes next if nothing fails")
        click.echo(text.timeline(timeline))


@cli.command()
@_config
@_names
@_json
def status(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Show what is served, what is in DNS as last seen, what is waited for, and what fails. Asks nobody.

    Of more than 50 certificates, where none is named, those that fare well have a line each; the others come last.
    """
    from certagent.lifecycle.schedule import alarms
    from certagent.report import text

    wiring, _ = _open(path, names)
    wanted = names or tuple(wiring.config.certificates)
    wakes, now = wiring.journal.wakes(), wiring.journal.now()
    fleet = not names and len(wanted) > text.MANY
    code = 0
    all_: list[object] = []
    lines: list[str] = []
    last: list[str] = []
    for name, state in zip(wanted, wiring.journal.states(wanted), strict=True):
        wake = wakes.get(name)
        codes = (3 if alarms(work, f, now) else _code_of(f.kind) for work, f in state.failures.items())
        code = max(code, *codes, 0)
        if as_json:
            all_.append(text.status_of(name, state, wake))
        elif fleet and text.fares_well(state, now):
            lines.append(text.status_line(state, now, wake))
        else:
            last.append(text.status(wiring.config.certificates[name].spec, state, now, wake))
    if as_json:
        click.echo(text.to_json({"daemon": wiring.present(), "certificates": all_}))
        sys.exit(code)
    if wanted:
        click.echo("\n".join([*lines, *last]))
    if fleet:
        shown = f"{len(last)} of them not well and shown above in full" if last else "all of them well"
        click.echo(f"{len(wanted)} certificates, {shown}; `certagent status NAME` shows any in full")
    if wiring.present() is None:
        click.echo("the daemon is not running: start it with `certagent run`, as a service")
    sys.exit(code)


@cli.command()
@_config
@click.argument("name")
@click.option("--after", default=0, help="Only events after this sequence number.")
@_json
def history(path: Path, name: str, after: int, as_json: bool) -> None:
    """Show everything that happened to a certificate, with the evidence; verify the journal on the way."""
    from certagent.report import text

    wiring, _ = _open(path, (name,))
    wiring.journal.verify(name)
    entries = list(wiring.journal.history(name, after))
    if as_json:
        click.echo(text.to_json(entries))
    else:
        for entry in entries:
            click.echo(text.event(entry))


@cli.command()
@_config
@_names
@_json
def check(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Look now: what each server serves, what each DNS server answers, whether both match. Changes nothing."""
    from certagent.checks import served
    from certagent.report import text

    wiring, entries = _open(path, names)
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
    sys.exit(1 if any(f.outcome == "refused" for fs in found.values() for f in fs) else 0)


@cli.command()
@_config
@_names
@_json
def tlsa(path: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Print the TLSA records that belong in DNS now, in the form of a zone file."""
    from certagent.report import text

    wiring, entries = _open(path, names)
    found = [r for e in entries for r in text.tlsa_records(e.spec, wiring.journal.state(e.spec.name))]
    if as_json:
        click.echo(text.to_json(found))
        return
    for record in found:
        click.echo(f"{record['tlsa_name']} {record['ttl_s']} IN TLSA {record['value']} ; {record['comment']}")


@cli.command()
@_config
@click.argument("name")
def abort(path: Path, name: str) -> None:
    """Give up the roll under way, before the swap: the next keys are dropped and their records removed."""
    from certagent.agent.loop import advance
    from certagent.agent.turn import LOCK_S
    from certagent.lifecycle import events as ev

    wiring, [entry] = _open(path, (name,))
    wiring.check()
    _guard_signals()
    with wiring.lock.held(LOCK_S, f"abort {name}"):
        state = wiring.journal.state(name)
        served = {id_ for t in state.mail_servers.values() for id_ in t.serves}
        if state.newest and state.newest.id in served and state.next_keys is None:
            raise Unsafe(
                "abort.too_late",
                f"{name}: there is no roll to give up",
                "what serves already is rolled forward, not back",
            )
        wiring.journal.append(name, ev.Requested(what="abort"))
        last = advance(wiring.certificate(entry.spec.name), wiring.journal, tell=_print_step)
    assert last is not None
    _print_wait(name, last)
    _wake_daemon(wiring)


@cli.command()
@click.option("--output", type=click.Path(path_type=Path), help="Write the config into this new file.")
@click.option("--apply", is_flag=True, help="Make the changes to the mail servers' own configuration, with backups.")
@_json
def init(output: Path | None, apply: bool, as_json: bool) -> None:
    """Propose a configuration, with the reasons, from what this host runs and what DNS says.

    It only reads; the mail servers' own configuration is changed with --apply alone.
    """
    from certagent.init.command import run

    sys.exit(run(output, apply=apply, as_json=as_json))


@cli.command()
@_config
@click.option("--debug", is_flag=True, help="Log more.")
def run(path: Path, debug: bool) -> None:
    """Look after all certificates, for years. Logs to standard error; SIGHUP reads the configuration again, SIGTERM
    ends it.
    """
    import logging

    from certagent.agent.daemon import Daemon
    from certagent.report import log

    log.start(logging.DEBUG if debug else logging.INFO)
    Daemon(path).run()


def _open(path: Path, names: tuple[str, ...]) -> tuple[Wiring, Iterator[Entry]]:
    from certagent.agent.wiring import Wiring
    from certagent.config.load import load

    config = load(path)
    return Wiring(config), _chosen(config, names)


def _chosen(config: Config, names: tuple[str, ...]) -> Iterator[Entry]:
    for name in names:
        if name not in config.certificates:
            known = ", ".join(config.certificates) or "none"
            raise Misconfigured(
                "config.no_such", f"{config.path}: there is no certificate {name!r}", f"configured: {known}"
            )
    return (config.certificates[n] for n in names or config.certificates)


def _wake_daemon(wiring: Wiring) -> None:
    """The journal has changed: a running daemon reads it again."""
    pid = wiring.present()
    if pid is not None:
        os.kill(pid, signal.SIGUSR1)


def _print_step(step: StepReport) -> None:
    from certagent.report import text

    click.echo(text.step(step))
    if step.failure:
        _complain(step.failure)


def _complain(failure: Failed | Error) -> None:
    click.echo(f"certagent: error: {failure.detail} [{failure.code}]", err=True)
    if failure.hint:
        click.echo(f"hint: {failure.hint}", err=True)


def _print_wait(name: str, wait: Wait) -> None:
    click.echo(f"{name}: next in {_brief(wait.delay)}: {wait.because}")


def _brief(delay: timedelta) -> str:
    from certagent.report.text import brief

    return brief(delay)


def _code_of(kind: str) -> int:
    return 3 if kind in ("misconfigured", "unsafe") else 1


class _Ended(BaseException):
    """A signal ended the command. No KeyboardInterrupt: where one passes through an exec(), as in many an import,
    `python -m` forgets the exit code later on and dies of SIGINT.
    """


def _guard_signals() -> None:
    """SIGTERM ends a command like Ctrl-C does: whatever it was at is in the journal."""

    def stop(_number: int, _frame: object) -> NoReturn:
        raise _Ended

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as in a shell's background job
        signal.signal(signal.SIGINT, stop)


def main() -> NoReturn:
    """The program. Turns every error into its two lines and its exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        message = error.format_message().rstrip(".")
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path if context else 'certagent'} --help"
        _complain(Misconfigured("cli.usage", message[:1].lower() + message[1:], hint))
        sys.exit(2)
    except Error as error:
        _complain(error)
        sys.exit(2 if error.code.startswith(("config.", "secret.", "lock.daemon")) else _code_of(error.kind))
    except (_Ended, KeyboardInterrupt, click.Abort):
        click.echo("certagent: interrupted; what was begun is in the journal and goes on with the next run", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader has gone; so may the rest of the output
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 -- no traceback ever reaches a user
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        place = where.tb_frame.f_code.co_qualname if where else "?"
        click.echo(f"certagent: error: unforeseen {type(error).__name__} in {place} [internal.defect]", err=True)
        click.echo("hint: please report this, with the command and the output of `certagent history NAME`", err=True)
        sys.exit(1)
    sys.exit(0)
