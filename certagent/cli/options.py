"""What the commands share: options, and the way from a configuration file to its certificates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from certagent.errors import Usage

if TYPE_CHECKING:
    from certagent.agent.wiring import Wiring
    from certagent.config.schema import Config, Entry

with_config = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path(os.environ.get("CERTAGENT_CONFIG", "/etc/certagent/config.yaml")),
    show_default=True,
    help="The configuration file; also CERTAGENT_CONFIG.",
)
with_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
with_names = click.argument("names", nargs=-1, metavar="[NAME]...")


def wired(path: Path, names: tuple[str, ...]) -> tuple[Wiring, Iterator[Entry]]:
    """Read the configuration; the certificates of these names, or all.

    Raises:
        Usage: `config.…`: See `config.load`.
        Usage: `config.no_such`: A name is not configured.
    """
    from certagent.agent.wiring import Wiring
    from certagent.config.load import load

    config = load(path)
    return Wiring(config), _chosen(config, names)


def _chosen(config: Config, names: tuple[str, ...]) -> Iterator[Entry]:
    for name in names:
        if name not in config.certificates:
            known = ", ".join(config.certificates) or "none"
            raise Usage(
                "config.no_such",
                f"{config.path}: there is no certificate {name!r}",
                f"choose one that is configured: {known}",
            )
    return (config.certificates[n] for n in names or config.certificates)
