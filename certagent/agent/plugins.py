"""The plug-ins that ship with certagent, and those of other packages; they are loaded here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from certagent.agent.bounded import Bounded
from certagent.config.schema import Config
from certagent.config.yaml import Section
from certagent.errors import Misconfigured, Usage

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

DNS_PROVIDERS = "certagent.dns_providers"
MAIL_SERVERS = "certagent.mail_servers"
"""The groups of entry points."""

BUILT_IN = {
    DNS_PROVIDERS: {
        "rfc2136": "certagent.dns.providers.rfc2136:Rfc2136",
        "knot": "certagent.dns.providers.knot:Knot",
        "powerdns": "certagent.dns.providers.powerdns:PowerDns",
        "cloudflare": "certagent.dns.providers.cloudflare:Cloudflare",
        "desec": "certagent.dns.providers.desec:Desec",
        "hetzner": "certagent.dns.providers.hetzner:Hetzner",
        "gandi": "certagent.dns.providers.gandi:Gandi",
        "ovh": "certagent.dns.providers.ovh:Ovh",
        "netcup": "certagent.dns.providers.netcup:Netcup",
        "inwx": "certagent.dns.providers.inwx:Inwx",
        "porkbun": "certagent.dns.providers.porkbun:Porkbun",
        "route53": "certagent.dns.providers.route53:Route53",
        "acme-dns": "certagent.dns.providers.acmedns:AcmeDns",
        "lexicon": "certagent.dns.providers.lexicon:Lexicon",
        "command": "certagent.dns.providers.command:Command",
    },
    MAIL_SERVERS: {
        "postfix": "certagent.mta.postfix.server:Postfix",
        "exim": "certagent.mta.exim.server:Exim",
        "dovecot": "certagent.mta.dovecot.server:Dovecot",
        "opensmtpd": "certagent.mta.opensmtpd.server:OpenSmtpd",
        "sendmail": "certagent.mta.sendmail.server:Sendmail",
        "command": "certagent.mta.command:Command",
    },
}
"""What ships with certagent, a line each. Those of other packages are entry points, which are only looked for if a
`type` is none of these: that reads the metadata of every installed package."""


def loaded(entry: str) -> Any:
    """The plug-in of an entry of `BUILT_IN`: module and class."""
    module, _, attribute = entry.partition(":")
    return getattr(import_module(module), attribute)


def built_in(group: str) -> Iterator[tuple[str, Any]]:
    """The plug-ins of a group that come with certagent, by the name that `type` takes."""
    return ((name, loaded(entry)) for name, entry in BUILT_IN[group].items())


def of_others(group: str) -> dict[str, EntryPoint]:
    """The entry points of other packages, by the name that `type` takes; certagent's own names are certagent's."""
    from importlib.metadata import entry_points  # reads the metadata of every installed package

    return {one.name: one for one in entry_points(group=group) if one.name not in BUILT_IN[group]}


def found(config: Config, group: str, section: Section) -> Any:
    """The plug-in that a section of the configuration names.

    Raises:
        Usage: `config.value`: There is none of that name.
    """
    ours = BUILT_IN[group].get(section.type)
    if ours:
        return loaded(ours)
    others = of_others(group)
    if section.type not in others:
        known = ", ".join(sorted({*BUILT_IN[group], *others}))
        raise config.wrong((*section.place, "type"), f"unknown type {section.type!r}", f"known: {known}")
    return others[section.type].load()


def made(config: Config, group: str, section: Section, name: str | None = None) -> object:
    """The plug-in with the options of its section. `name`: of the mail server.

    Raises:
        Usage: `config.value`: Its options are wrong; the error names the place.
    """
    plugin = found(config, group, section)
    options = config.options(section, plugin.Options)
    try:
        made = plugin(options) if name is None else plugin(name, options)
        return made if section.type in BUILT_IN[group] else Bounded(made, section.type)
    except Usage:  # it names its file
        raise
    except Misconfigured as error:
        raise config.wrong(section.place, error.detail, error.hint) from None
