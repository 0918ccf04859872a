"""The command `init`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from certagent.cli.options import with_json


@click.command()
@click.option("--output", type=click.Path(path_type=Path), help="Write the configuration into this new file.")
@click.option("--apply", is_flag=True, help="Make the changes to the mail servers' own configuration, with backups.")
@with_json
def init(output: Path | None, apply: bool, as_json: bool) -> None:
    """Propose a configuration, with reasons, from what this host runs and what DNS says.

    The configuration goes to standard output, all else to standard error. It only reads. With --apply it also
    changes the mail servers' own configuration.

    With --apply what is served today is first put into the new files, if it can be; then they are named. Each file
    that is changed is first copied to FILE.before-certagent-DATE. If the server's own check then complains, all is put
    back. Nothing is reloaded. It ends with 0 only if all is made: the rest is listed under "what to do next".
    """
    from certagent.init.command import run

    sys.exit(run(output, apply=apply, as_json=as_json))
