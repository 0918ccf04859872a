"""The edges of one certificate, as `agent/act` uses them; what stands behind each is decided in `wiring.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from certagent.acme.issuer import Issuer
    from certagent.dns.providers.protocol import Provider
    from certagent.facts.dns import Delegation, Hidden, Observation
    from certagent.facts.tls import Served, Service
    from certagent.host.listener import Listeners
    from certagent.lifecycle.budget import ZoneBudget
    from certagent.mta.server import Server
    from certagent.store.protocol import Vault

PROBE_S = 30.0
"""Longest answer of a service to one probe: postscreen's greeting (6 s by default) and a slow EHLO are within it."""
CHECK_S = 60.0
"""How long ago a server's own check may have begun: somebody may have changed its configuration since."""


class Resolver(Protocol):
    """What is asked of DNS (`dns/authority.py`)."""

    def observe(
        self,
        tlsa_name: str,
        *,
        expect: frozenset[str] | None,
        gone: frozenset[str],
        budget: timedelta,
        unproven: bool = False,
    ) -> Observation:
        """One round of questions about a TLSA name, again until `expect` and `gone` hold or the budget is over.

        `unproven`: an empty answer counts also if nobody validated it.
        """
        ...

    def wait_for_txt(self, name: str, values: frozenset[str], budget: timedelta) -> None:
        """Return when every authoritative server gives the TXT values."""
        ...

    def txt(self, name: str) -> frozenset[str]:
        """The TXT values that every authoritative server gives which answers."""
        ...

    def final(self, name: str) -> tuple[str, str]:
        """(zone, name) at the end of the CNAMEs."""
        ...

    def wildcards(self, zone: str, name: str) -> tuple[str, ...]:
        """The wildcards that could give TLSA records if the name had none."""
        ...

    def hidden(self, zone: str, name: str) -> tuple[Hidden, ...]:
        """The hosts that would lose a wildcard's addresses to a record at this name."""
        ...

    def wildcard_alias(self, name: str) -> str:
        """The wildcard whose CNAME the name has; empty: it has none, or its own one."""
        ...

    def delegation(self, name: str) -> Delegation:
        """Which servers the zone of a name lists, and to which its parent delegates it."""
        ...

    def serials(self, zone: str, budget: timedelta) -> dict[str, int]:
        """The serials of a zone at its servers; asked again until none is late or the budget is over."""
        ...

    def addresses(self, host: str) -> tuple[str, ...]:
        """Every A and AAAA."""
        ...


class Zones(Protocol):
    """Who may write which zone (`wiring.py`)."""

    def writing(self, zone: str, name: str) -> AbstractContextManager[Provider]:
        """The provider of a zone, alone with it: writes to one zone never overlap."""
        ...


class Probe(Protocol):
    """What meets the services (`probe/handshake.py`)."""

    def __call__(
        self,
        services: tuple[Service, ...],
        key_types: tuple[str, ...],
        *,
        wrong: Callable[[Served], bool] = lambda _: False,
        budget_s: float = 0.0,
    ) -> list[Served]:
        """One round at every service; what is `wrong` is asked again, for as long as the budget."""
        ...


class Edges:
    """The edges of one certificate.

    `issuer` gives the account at the CA with that directory, or raises `ca.other` (Misconfigured): no such CA is
    configured. It is a function, so that the ACME library is loaded only when it is needed.
    """

    def __init__(  # noqa: PLR0913 (by keyword)
        self,
        *,
        issuer: Callable[[str], Issuer],
        resolver: Callable[[], Resolver],
        zones: Zones,
        vault: Vault,
        servers: Mapping[str, Server],
        probe: Probe | None = None,
        alone: Callable[[str], None] | None = None,
        ahead: Callable[[], Executor] | None = None,
        listeners: Callable[[], Listeners] | None = None,
    ) -> None:
        """`alone` refuses a mail server that writes the files of another one. `ahead`: the threads of `check_ahead`.
        `listeners`: the ports of this process, which all certificates share.
        """
        self.issuer = issuer
        self.resolver = resolver
        self.zones = zones
        self.vault = vault
        self.servers = servers
        self.probe = probe or self._probe
        self.listeners = listeners or new_listeners
        self._alone = alone
        self._ahead = ahead
        self.budgets_elsewhere: Callable[[], Iterable[ZoneBudget]] = tuple
        """What other certificates wrote to zones whose providers take only so many writes a day."""
        self._checks: dict[str, Future[None]] = {}
        self._checked_at = 0.0

    def check_ahead(self, key_types: frozenset[str]) -> None:
        """Let the servers' own checks run beside the CA's work: they take as long, and mind nobody."""
        if self._ahead:
            self._checked_at = time.monotonic()
            pool = self._ahead()
            self._checks = {n: pool.submit(s.check, key_types) for n, s in self.servers.items()}

    def check(self, server: str, key_types: frozenset[str]) -> None:
        """No other server writes its files; and its own check: the one that began a moment ago, or a new one."""
        if self._alone:
            self._alone(server)
        early = self._checks.pop(server, None)
        old = time.monotonic() - self._checked_at > CHECK_S
        # `cancel`: one that has not begun stands behind those of other certificates, and is not waited for
        if early is None or early.cancel() or old or early.exception() is not None:
            self.servers[server].check(key_types)

    def _probe(
        self,
        services: tuple[Service, ...],
        key_types: tuple[str, ...],
        *,
        wrong: Callable[[Served], bool] = lambda _: False,
        budget_s: float = 0.0,
    ) -> list[Served]:
        from certagent.probe.handshake import probe_all  # loads the TLS library

        addresses = self.resolver().addresses
        return probe_all(services, addresses, key_types, PROBE_S, wrong=wrong, budget_s=budget_s)


def new_listeners() -> Listeners:
    """For one process."""
    from certagent.host.listener import Listeners  # one that never listens does without

    return Listeners()
