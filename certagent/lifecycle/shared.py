"""What TLSA names have in common whose aliases lead to one record set: who answers there, and with what."""

from __future__ import annotations

from dataclasses import dataclass

from certagent.facts.dns import Value
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, distinct
from certagent.lifecycle import schedule
from certagent.lifecycle.once import once
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Generation, State, records
from certagent.lifecycle.whereabouts import Whereabouts
from certagent.pki import tlsa

Chains = tuple[Chain, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Shared:
    """What is common to TLSA names whose aliases lead to one name, or led there while caches may know it."""

    spec: Spec
    state: State
    names: tuple[Whereabouts, ...]

    @once
    def mail_servers(self) -> tuple[str, ...]:
        """Those that answer, under whatever name; at a name that is not configured any more, those that did."""
        spec, state = self.spec, self.state
        every = (*(server.name for server in spec.mail_servers), *state.mail_servers)
        return tuple(dict.fromkeys(s for n in self.names for s in n.mail_servers or n.known.mail_servers or every))

    @once
    def unknown_servers(self) -> tuple[str, ...]:
        """Mail servers that answer and of which nothing is known yet."""
        return tuple(server for server in self.mail_servers if server not in self.state.mail_servers)

    @once
    def served(self) -> Chains:
        """The chains that a client may meet now; none if any mail server is unknown yet."""
        if self.unknown_servers:
            return ()
        known = (chain for g in self.state.serving(self.mail_servers) for chain in g.chains.values())
        return distinct((*known, *self.strange))

    @once
    def strange(self) -> Chains:
        """Chains among these that were met where others were expected."""
        found = (self.state.mail_servers.get(server) for server in self.mail_servers)
        return tuple(chain for at in found if at for chain in at.strange)

    @once
    def expected(self) -> Chains:
        """Those that were met at each mail server's last inspection, or installed since."""
        found = [at for server in self.mail_servers if (at := self.state.mail_servers.get(server))]
        ids = {id_ for at in found for id_ in (at.inspected if at.phase == "inspected" else at.serves)}
        return tuple(chain for g in self.state.generations if g.id in ids for chain in g.chains.values())

    @once
    def converged(self) -> tuple[Chains, ...]:
        """For each mail server the chains that it surely served."""
        found = (self.state.mail_servers.get(server) for server in self.mail_servers)
        generations = ((self.state.generation(id_) for id_ in (at.converged if at else ())) for at in found)
        return tuple(tuple(chain for g in some if g for chain in g.chains.values()) for some in generations)

    @once
    def verified(self) -> Generation | None:
        """The one generation that every mail server serves, and surely nothing else; None otherwise."""
        configured = {server.name: server for server in self.spec.mail_servers}
        ids: set[str] = set()
        for name in self.mail_servers:
            server, at = configured.get(name), self.state.mail_servers.get(name)
            if server is None or at is None or at.phase != "drained" or at.strange or not at.met_everywhere(server):
                return None
            ids |= set(at.serves)
        return self.state.generation(ids.pop()) if len(ids) == 1 else None

    def runs_out(self, now: Instant) -> bool:
        """Nothing is served that certagent may renew with its key, and what is served is about to expire."""
        generations = self.state.serving(self.mail_servers)
        chains = [chain for generation in generations for chain in generation.chains.values()]
        late = not chains or any(now.wall >= schedule.last_chance(chain) for chain in chains)
        return late and all(generation.unmanaged or generation.revoke for generation in generations)

    @once
    def values(self) -> frozenset[Value]:
        """Records of everything that may be served, of the newest generation, and of the next keys."""
        spec, state = self.spec, self.state
        values: set[Value] = set()
        for generation in state.serving(self.mail_servers):
            values |= records(generation, spec.tlsa_parameters)
        if state.newest:
            values |= records(state.newest, spec.tlsa_parameters)
        if state.next_keys and tlsa.DANE_EE_SPKI_SHA256 in spec.tlsa_parameters:
            values |= {tlsa.of_key(spki) for spki in state.next_keys.spki.values()}
        return frozenset(values)
