"""The command `run`: the daemon."""

from __future__ import annotations

from pathlib import Path

import click

from certagent.cli.options import with_config


@click.command()
@with_config
@click.option("--debug", is_flag=True, help="Log where in the code an unforeseen error came from.")
def run(path: Path, debug: bool) -> None:
    """Look after all certificates, for years. Logs to standard error.

    SIGHUP reads the configuration again, SIGTERM ends it.
    """
    import logging

    from certagent.agent.daemon import Daemon
    from certagent.report import log

    log.start(logging.DEBUG if debug else logging.INFO)
    Daemon(path).run()
