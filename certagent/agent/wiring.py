"""The wiring: from a configuration to the edges it names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from functools import cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

from msgspec.structs import replace

from certagent import __version__
from certagent.agent import plugins
from certagent.agent.certificate import CERTIFICATE, Certificate
from certagent.agent.edges import Edges, Resolver, new_listeners
from certagent.agent.subject import Subject
from certagent.agent.zones import Zones, dns_zones, refuse_tlsa_without_provider, refuse_what_needs_a_provider
from certagent.config.schema import Ca, Config
from certagent.errors import Misconfigured
from certagent.host.clock import SystemClock
from certagent.host.files import private_dir, read_private
from certagent.lifecycle.spec import Spec
from certagent.secret import Secret
from certagent.store.journal import Journal
from certagent.store.lock import Lock, daemon_pid
from certagent.store.sqlite import Sqlite

if TYPE_CHECKING:  # a command loads what it uses: how soon `status` answers depends on it
    from concurrent.futures import Executor

    from certagent.acme.issuer import Issuer
    from certagent.dns.providers.protocol import Provider
    from certagent.lifecycle.budget import ZoneBudget
    from certagent.lifecycle.events import AnyEvent
    from certagent.lifecycle.state import State
    from certagent.mta.claims import Claim
    from certagent.mta.server import Server
    from certagent.report.step import Problem
    from certagent.store.protocol import Store, Wake
    from certagent.store.subject import SubjectId, SubjectKind
    from certagent.store.vault import Vault


class Kind(NamedTuple):
    """One kind of subject, as the configuration has it."""

    kind: SubjectKind[Any, Any]
    names: Callable[[], Collection[str]]
    make: Callable[[str], Subject[Any, Any]]


LEASE_S = 900.0
"""The longest step ends within ten minutes by its own limits: a writer without one for a quarter of an hour is gone."""


class Wiring:
    """Everything a command needs, each part made when it is first asked for."""

    def __init__(self, config: Config, before: Wiring | None = None) -> None:
        """`before`: what a daemon was built from until it read its configuration again; journal and lock go on."""
        self.config = config
        self._store: Store | None = before.store if before else None
        self.kinds = {CERTIFICATE.name: Kind(CERTIFICATE, self.config.certificates.keys, self.certificate)}
        """The kinds of subject. One more is one line."""
        self._mutex = threading.Lock()
        # one of each, also for threads that ask at the same moment: two issuers would register two accounts
        self.issuer = _once(self._issuer)
        self.resolver = _once(self._resolver)
        self.providers = _once(self._make_providers)
        self._dns_zones = _once(partial(dns_zones, config))
        self.claims = _once(self._claims)
        self._ahead = _once(_pool)
        self._listeners = _once(new_listeners)
        self._journal = _once(self._make_journal)
        self.zones = Zones(self.providers)
        self._lock = before.lock if before else None

    def state_dir(self) -> Path:
        """The state directory, made if it is missing, 0700."""
        private_dir(self.config.state_dir)
        return self.config.state_dir

    def present(self) -> int | None:
        """The pid of the running daemon, if there is one."""
        return daemon_pid(self.state_dir() / "daemon.pid")

    @property
    def store(self) -> Store:
        """Where the journal is."""
        with self._mutex:
            if self._store is None:
                self._store = Sqlite(self.state_dir() / "journal.db", SystemClock())
            return self._store

    @property
    def journal(self) -> Journal[State, AnyEvent]:
        """The journal of the certificates."""
        return self._journal(CERTIFICATE.name)

    def _make_journal(self, kind: str) -> Journal[Any, Any]:
        return Journal(self.store, self.kinds[kind].kind)

    @property
    def lock(self) -> Lock:
        """The one writer's lock, and with it the lease of the store; all threads share it."""
        store = self.store
        with self._mutex:
            if self._lock is None:
                # a process that has the lock is alone on this host
                lease = partial(store.lease, seconds=LEASE_S, alone=True)
                self._lock = Lock(self.state_dir() / "lock", taken=lease, left=store.release)
            return self._lock

    # -- subjects ------------------------------------------------------------------------------------------------------

    def subjects(self) -> Iterator[SubjectId]:
        """All that is configured."""
        return (one.kind.subject(name) for one in self.kinds.values() for name in one.names())

    def knows(self, subject: SubjectId) -> bool:
        """Whether it is configured."""
        return subject.kind in self.kinds and subject.name in self.kinds[subject.kind].names()

    def subject(self, subject: SubjectId) -> tuple[Subject[Any, Any], Journal[Any, Any]]:
        """One that is configured, and its journal."""
        return self.kinds[subject.kind].make(subject.name), self._journal(subject.kind)

    def others(self) -> Iterator[tuple[SubjectId, tuple[Problem, ...], Wake | None]]:
        """What is configured beside certificates: the subject, what fails of it, and when it is looked after again."""
        wakes = self.store.wakes() if len(self.kinds) > 1 else {}
        for one in self.subjects():
            if one.kind != CERTIFICATE.name:
                subject, journal = self.subject(one)
                yield one, subject.failures(journal.state(one.name)), wakes.get(str(one))

    def certificate(self, name: str) -> Certificate:
        """The subject of a configured certificate."""
        return Certificate(self.spec(name), self.edges(name))

    def spec(self, name: str) -> Spec:
        """What the configuration wants of a certificate, with what the DNS providers say of themselves."""
        return replace(self.config.certificates[name].spec, zones=self._dns_zones())

    @property
    def vault(self) -> Vault:
        """Where keys and chains are kept."""
        from certagent.store.vault import Vault

        self.state_dir()
        return Vault(self.state_dir() / "vault")

    def check(self) -> None:
        """Load every plug-in with its options and read every secret, so that a mistake is found before anything is
        done.
        """
        refuse_what_needs_a_provider(self.config)
        refuse_tlsa_without_provider(self.config, self.providers())
        self.resolver()
        self.refuse_shared_files()
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
            proxy=ca.proxy,
            eab_kid=ca.eab_kid,
            eab_key=_eab(ca),
            user_agent=f"certagent/{__version__}",
        )

    def _resolver(self) -> Resolver:
        from certagent.dns.authority import Resolver as System  # loads dnspython
        from certagent.dns.validator import chosen

        dns = self.config.dns
        try:
            validator = chosen(dns.validator, dns.trust_anchor)
        except Misconfigured as error:
            raise self.config.wrong(("dns",), error.detail, error.hint) from None
        return System(
            dns.resolvers or None,
            trust_ad=dns.trust_ad,
            ipv6=dns.ipv6,
            public_view=dns.public_view,
            validator=validator,
            second=dns.validator is not None,
        )

    def _make_providers(self) -> list[Provider]:
        sections = self.config.providers.values()
        return [cast("Provider", plugins.made(self.config, plugins.DNS_PROVIDERS, s)) for s in sections]

    def servers(self, certificate: str) -> dict[str, Server]:
        """The mail servers of a certificate."""
        sections = self.config.certificates[certificate].mail_servers
        return {n: cast("Server", plugins.made(self.config, plugins.MAIL_SERVERS, s, n)) for n, s in sections.items()}

    def _claims(self) -> list[tuple[tuple[str, str], Claim]]:
        """Every file that a mail server writes, by certificate and name of the server."""
        return [
            ((certificate, name), claim)
            for certificate in self.config.certificates
            for name, server in self.servers(certificate).items()
            for claim in server.claims()
        ]

    def refuse_shared_files(self, only: tuple[str, str] | None = None) -> None:
        """Each file has one mail server that writes it: it must keep the gates of that server.

        `only`: certificate and name of a server; files that others share count for nothing.

        Raises:
            Misconfigured: `config.value`: Otherwise.
        """
        from certagent.mta.claims import clashes

        for (one, earlier), (other, claim) in clashes(self.claims()):
            if only not in {None, one, other}:
                continue
            place = ("certificates", other[0], "mail_servers", other[1])
            writer = f"certificates.{one[0]}.mail_servers.{one[1]}"
            entry = f" ({claim.entry})" if claim.entry else ""
            if not claim.written:
                what = f"{claim.path}: {claim.entry} is that of {writer} already"
                raise self.config.wrong(
                    place, what, "let clients get one of them by name only (SNI), or in other services only"
                )
            same = "" if earlier.path == claim.path else f", as {earlier.path}: they are one file"
            hint = "give each its own file, or list the services of both under one mail server"
            raise self.config.wrong(place, f"{claim.path}{entry} is written for {writer} already{same}", hint)

    def edges(self, certificate: str) -> Edges:
        """The edges of one certificate."""
        entry = self.config.certificates[certificate]
        # two names may stand for one CA: the one that this certificate uses has the right account options
        names = {self.config.cas[name].directory: name for name in (*self.config.cas, *reversed(entry.cas))}

        def issuer(directory: str) -> Issuer:
            if directory not in names:
                hint = "configure it until what it has is over, or end that there by hand: chains are in state_dir"
                raise Misconfigured("ca.other", f"no CA is configured with the directory {directory}", hint)
            return self.issuer(names[directory], directory)

        edges = Edges(
            issuer=issuer,
            resolver=self.resolver,
            zones=self.zones,
            vault=self.vault,
            servers=self.servers(certificate),
            alone=lambda server: self.refuse_shared_files((certificate, server)),
            ahead=self._ahead,
            listeners=self._listeners,
        )
        edges.budgets_elsewhere = partial(self.budgets, beside=certificate)
        return edges

    def budgets(self, *, beside: str = "") -> tuple[ZoneBudget, ...]:
        """What certificates wrote to zones whose providers take only so many writes a day; all of them but one."""
        names = [name for name in self.journal.names() if name != beside]
        return tuple(budget for state in self.journal.states(names) for budget in state.budgets)


P = ParamSpec("P")
R = TypeVar("R")


def _once(make: Callable[P, R]) -> Callable[P, R]:
    cached, mutex = cache(make), threading.Lock()

    @wraps(make)
    def get(*args: P.args, **kwargs: P.kwargs) -> R:
        with mutex:
            return cached(*args, **kwargs)

    return get


def _pool() -> Executor:
    from concurrent.futures import ThreadPoolExecutor  # with it comes `logging`

    return ThreadPoolExecutor(2, thread_name_prefix="ahead")


def _directory_name(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}".replace("/", "_").replace(":", "_")


def _eab(ca: Ca) -> Secret[str] | None:
    if ca.eab_key_file is None:
        return None
    # RFC 8555 section 7.3.4: a MAC key, base64url; far below 4 KiB
    return Secret(read_private(Path(ca.eab_key_file), limit_bytes=4096).decode("ascii", "replace").strip())
