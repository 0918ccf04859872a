"""The command `schema`."""

from __future__ import annotations

from typing import Any

import click

TITLES = {
    "status": "What `certagent status --json` prints",
    "plan": "What `certagent plan --json` prints",
    "history": "What `certagent history --json` prints",
    "check": "What `certagent check --json` prints",
    "tlsa": "What `certagent tlsa --json` prints",
    "renew": "What `certagent renew --json` prints",
    "rehearsal": "What `certagent renew --dry-run --json` prints",
    "init": "What `certagent init --json` prints",
    "dns-providers": "What `certagent dns providers --json` prints",
    "dns-test": "What `certagent dns test --json` prints",
    "config": "The configuration file",
}


@click.command()
@click.argument("document", type=click.Choice(list(TITLES)), metavar="DOCUMENT")
def schema(document: str) -> None:
    """Print the JSON schema of a document: of what a command prints with --json, or of the configuration.

    DOCUMENT is config, status, plan, history, check, tlsa, renew, rehearsal, init, dns-test or dns-providers. Editors
    check the configuration against its schema while you write.
    """
    from certagent.report.text import to_json

    click.echo(to_json(made(document)))


def made(document: str) -> dict[str, Any]:
    """The schema of a document."""
    from certagent.init.report import InitReport
    from certagent.report import history, providers, schemas, status, views

    if document == "config":
        from certagent.agent.plugins import DNS_PROVIDERS, MAIL_SERVERS

        return schemas.configuration(_options(DNS_PROVIDERS), _options(MAIL_SERVERS))
    types = {
        "status": status.Status,
        "plan": views.Plan,
        "history": history.History,
        "check": views.Check,
        "tlsa": views.TlsaRecords,
        "renew": views.Renewal,
        "rehearsal": views.RehearsalReport,
        "init": InitReport,
        "dns-providers": providers.Providers,
        "dns-test": providers.Trial,
    }
    return schemas.document(types[document], TITLES[document])


def _options(group: str) -> dict[str, Any]:
    """The type of the options of each plug-in that comes with certagent."""
    from certagent.agent.plugins import built_in

    return {name: plugin.Options for name, plugin in built_in(group)}
