"""What TLSA names have in common whose aliases lead to one record set: who answers there, and with what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from certagent.facts.dns import Value
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain
from certagent.lifecycle import schedule
from certagent.lifecycle.once import once
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Generation, State, records
from certagent.pki import tlsa

if TYPE_CHECKING:
    from certagent.lifecycle.tlsaname import TlsaName


class Shared:
    """What is common to TLSA names whose aliases lead to one place, or led there while caches may know it."""

    def __init__(self, names: list[TlsaName], spec: Spec, state: State) -> None:
        self.names = names
        self._spec = spec
        self._state = state

    @once
    def mail_servers(self) -> tuple[str, ...]:
        """Those that answer, under whatever name; at a name that is not configured any more, those that did."""
        spec, state = self._spec, self._state
        every = (*(server.name for server in spec.mail_servers), *state.mail_servers)
        return tuple(dict.fromkeys(s for n in self.names for s in n.mail_servers or n.known.mail_servers or every))

    @once
    def unknown_servers(self) -> list[str]:
        """Mail servers that answer and of which nothing is known yet."""
        return [server for server in self.mail_servers if server not in self._state.mail_servers]

    @once
    def served(self) -> list[Chain]:
        """The chains that a client may meet now; none if any mail server is unknown yet."""
        if self.unknown_servers:
            return []
        known = (chain for g in self._state.serving(self.mail_servers) for chain in g.chains.values())
        return distinct((*known, *self.strange))

    @once
    def strange(self) -> list[Chain]:
        """Chains among these that were met where others were expected."""
        found = (self._state.mail_servers.get(server) for server in self.mail_servers)
        return [chain for at in found if at for chain in at.strange]

    @once
    def expected(self) -> list[Chain]:
        """Those that were met at each mail server's last inspection, or installed since."""
        found = [at for server in self.mail_servers if (at := self._state.mail_servers.get(server))]
        ids = {id_ for at in found for id_ in (at.inspected if at.phase == "inspected" else at.serves)}
        return [chain for g in self._state.generations if g.id in ids for chain in g.chains.values()]

    @once
    def converged(self) -> list[list[Chain]]:
        """For each mail server the chains that it surely served."""
        found = (self._state.mail_servers.get(server) for server in self.mail_servers)
        generations = ((self._state.generation(id_) for id_ in (at.converged if at else ())) for at in found)
        return [[chain for g in some if g for chain in g.chains.values()] for some in generations]

    @once
    def verified(self) -> Generation | None:
        """The one generation that every mail server serves, and surely nothing else; None otherwise."""
        configured = {server.name: server for server in self._spec.mail_servers}
        ids: set[str] = set()
        for name in self.mail_servers:
            server, at = configured.get(name), self._state.mail_servers.get(name)
            if server is None or at is None or at.phase != "drained" or at.strange or not at.met_everywhere(server):
                return None
            ids |= set(at.serves)
        return self._state.generation(ids.pop()) if len(ids) == 1 else None

    def runs_out(self, now: Instant) -> bool:
        """Nothing is served that certagent may renew with its key, and what is served is about to expire."""
        generations = self._state.serving(self.mail_servers)
        chains = [chain for generation in generations for chain in generation.chains.values()]
        late = not chains or any(now.wall >= schedule.last_chance(chain) for chain in chains)
        return late and all(generation.unmanaged or generation.revoke for generation in generations)

    @once
    def values(self) -> frozenset[Value]:
        """Records of everything that may be served, of the newest generation, and of the next keys."""
        spec, state = self._spec, self._state
        values: set[Value] = set()
        for generation in state.serving(self.mail_servers):
            values |= records(generation, spec.tlsa_parameters)
        if state.newest:
            values |= records(state.newest, spec.tlsa_parameters)
        if state.next_keys and tlsa.DANE_EE_SPKI_SHA256 in spec.tlsa_parameters:
            values |= {tlsa.of_key(spki) for spki in state.next_keys.spki.values()}
        return frozenset(values)


def distinct(chains: Iterable[Chain]) -> list[Chain]:
    """The chains without those that no record can tell from another."""
    return list({(chain.spki, chain.issuers): chain for chain in chains}.values())
