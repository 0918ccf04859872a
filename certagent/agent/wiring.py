"""The wiring: from a configuration to the edges it names. Plug-ins are loaded here and nowhere else."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

from certagent import __version__
from certagent.acme.issuer import Issuer
from certagent.agent.edges import Edges, Resolver
from certagent.config.schema import Ca, Config
from certagent.config.yaml import Section
from certagent.dns.providers.protocol import Provider
from certagent.errors import Misconfigured, Usage
from certagent.host.clock import SystemClock
from certagent.host.files import private_dir, read_private
from certagent.mta.server import Server
from certagent.secret import Secret
from certagent.store.journal import Journal
from certagent.store.lock import Lock, daemon_pid
from certagent.store.vault import Vault

BUILT_IN = {
    "certagent.dns_providers": {
        "rfc2136": "certagent.dns.providers.rfc2136:Rfc2136",
        "command": "certagent.dns.providers.command:Command",
    },
    "certagent.mail_servers": {
        "postfix": "certagent.mta.postfix.server:Postfix",
        "exim": "certagent.mta.exim.server:Exim",
        "dovecot": "certagent.mta.dovecot.server:Dovecot",
        "opensmtpd": "certagent.mta.opensmtpd.server:OpenSmtpd",
        "sendmail": "certagent.mta.sendmail.server:Sendmail",
        "command": "certagent.mta.command:Command",
    },
}
"""What ships with certagent, found without a search through every installed package; a test holds it to
pyproject.toml."""


class Zones:
    """Finds who may write a zone, and lets one writer at a time into it."""

    def __init__(self, providers: Callable[[], list[Provider]]) -> None:
        self._providers = providers
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @contextmanager
    def writing(self, zone: str, name: str) -> Generator[Provider]:
        """See `edges.Zones`. Raises: `dns.no_provider` (Misconfigured)."""
        matching = [p for p in self._providers() if any(name == z or name.endswith(f".{z}") for z in p.zones)]
        if not matching:
            hint = f"add {zone} to a provider under dns.providers, or make {name} a CNAME into a zone that has one"
            raise Misconfigured("dns.no_provider", f"no DNS provider is configured to write {name} (zone {zone})", hint)
        best = max(matching, key=lambda p: max(len(z) for z in p.zones if name == z or name.endswith(f".{z}")))
        with self._locks[zone]:
            yield best


class Wiring:
    """Everything a command needs, each part made when it is first asked for."""

    def __init__(self, config: Config, before: Wiring | None = None) -> None:
        """`before`: what a daemon was built from until it read its configuration again; journal and lock go on."""
        self.config = config
        self._journal = before.journal if before else None
        self._mutex = threading.Lock()
        # one of each, also for threads that ask at the same moment: two issuers would register two accounts
        self.issuer = _once(self._issuer)
        self.resolver = _once(self._resolver)
        self.providers = _once(self._make_providers)
        self.zones = Zones(self.providers)
        self._lock = before.lock if before else None
        self._ahead = ThreadPoolExecutor(2, thread_name_prefix="ahead")  # starts no thread before it is used

    def state_dir(self) -> Path:
        """The state directory, made where it is missing, 0700."""
        private_dir(self.config.state_dir)
        return self.config.state_dir

    def present(self) -> int | None:
        """The pid of the running daemon, if there is one."""
        return daemon_pid(self.state_dir() / "daemon.pid")

    @property
    def journal(self) -> Journal:
        """The journal."""
        with self._mutex:
            if self._journal is None:
                self._journal = Journal(self.state_dir() / "journal.db", SystemClock())
            return self._journal

    @property
    def lock(self) -> Lock:
        """The one writer's lock; all threads share it."""
        with self._mutex:
            if self._lock is None:
                self._lock = Lock(self.state_dir() / "lock")
            return self._lock

    @property
    def vault(self) -> Vault:
        """Where keys and chains are kept."""
        self.state_dir()
        return Vault(self.state_dir() / "vault")

    def check(self) -> None:
        """Load every plug-in with its options and read every secret, so that a mistake is told before anything is
        done.
        """
        self.providers()
        for name in self.config.certificates:
            self.servers(name)
        for ca in self.config.cas.values():
            _eab(ca)

    def _issuer(self, name: str, directory: str) -> Issuer:
        from certagent.acme.client import Acme  # loads the ACME library

        ca = self.config.cas[name]
        private_dir(self.state_dir() / "accounts")
        return Acme(
            directory,
            self.state_dir() / "accounts" / _directory_name(directory),
            contact=ca.contact,
            agree_tos=ca.agree_tos,
            ca_bundle=Path(ca.ca_bundle) if ca.ca_bundle else None,
            eab_kid=ca.eab_kid,
            eab_key=_eab(ca),
            user_agent=f"certagent/{__version__}",
        )

    def _resolver(self) -> Resolver:
        from certagent.dns.authority import Resolver as System  # loads dnspython

        return System(self.config.dns.resolvers or None, trust_ad=self.config.dns.trust_ad)

    def _make_providers(self) -> list[Provider]:
        sections = self.config.providers.values()
        return [cast("Provider", self._plugin("certagent.dns_providers", s, None)) for s in sections]

    def servers(self, certificate: str) -> dict[str, Server]:
        """The mail servers of a certificate."""
        sections = self.config.certificates[certificate].mail_servers
        return {n: cast("Server", self._plugin("certagent.mail_servers", s, n)) for n, s in sections.items()}

    def _plugin(self, group: str, section: Section, name: str | None) -> object:
        found = BUILT_IN[group].get(section.type)
        if found:
            module, _, attribute = found.partition(":")
            plugin: Any = getattr(import_module(module), attribute)
        else:
            from importlib.metadata import entry_points  # reads the metadata of every installed package

            others = {e.name: e for e in entry_points(group=group)}
            if section.type not in others:
                known = ", ".join(sorted({*BUILT_IN[group], *others}))
                raise self.config.wrong((*section.place, "type"), f"unknown type {section.type!r}", f"known: {known}")
            plugin = others[section.type].load()
        options = self.config.options(section, plugin.Options)
        try:
            return plugin(options) if name is None else plugin(name, options)
        except Usage:  # it names its file
            raise
        except Misconfigured as error:
            raise self.config.wrong(section.place, error.detail, error.hint) from None

    def edges(self, certificate: str) -> Edges:
        """The edges of one certificate."""
        entry = self.config.certificates[certificate]
        directory = self.config.cas[entry.ca].directory
        return Edges(
            issuer=lambda: self.issuer(entry.ca, directory),
            resolver=self.resolver,
            zones=self.zones,
            vault=self.vault,
            servers=self.servers(certificate),
            ahead=self._ahead,
        )


P = ParamSpec("P")
R = TypeVar("R")


def _once(make: Callable[P, R]) -> Callable[P, R]:
    cached, mutex = cache(make), threading.Lock()

    @wraps(make)
    def get(*args: P.args, **kwargs: P.kwargs) -> R:
        with mutex:
            return cached(*args, **kwargs)

    return get


def _directory_name(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}".replace("/", "_").replace(":", "_")


def _eab(ca: Ca) -> Secret[str] | None:
    if ca.eab_key_file is None:
        return None
    # RFC 8555 section 7.3.4: a MAC key, base64url; far below 4 KiB
    return Secret(read_private(Path(ca.eab_key_file), limit_bytes=4096).decode("ascii", "replace").strip())
