"""The invariants, from the RFCs and not from the engine; asked at every moment at which they could begin to fail.

The rule (RFC 7671 section 8, RFC 7672 section 2.2): for each kind of TLSA parameters in a set that some sender
may hold, at least one record matches each chain that some process may serve. A pair of set and chain can begin to break
at two kinds of moment only: when a server begins to give the set, and when a file with the chain is placed. Both are
judged, so every event is.

Whose fault it is, exactly:
- A set is begun by the agent (its own write, whenever it comes through): it must match every chain that may be
  served, for all TLSA parameters that the version before did not fail already. Left out: a write within `NOTICE_S`
  after somebody else's change, and one that comes through late after the config was changed.
- It is begun at a name that is in the config, or was.
- And the first set at a name comes when every process offers TLS (RFC 7672 section 2.2: a sender that finds a set, and
  no STARTTLS, defers).
- A chain is placed by the agent: every cached set must match it, apart from TLSA parameters which matched nothing
  that was served before (those senders were cut off already; all of them, where TLS fails and files are put back),
  sets that are somebody else's doing and could not be noticed (begun within `NOTICE_S` before, or gone again within
  it), and, where the operator said `accept_deferrals`, that one generation.
- A put-back rests on what was journaled, since it has to work in any weather: sets of somebody else's that no journaled
  observation has met do not count for it.
- Left out is what nobody could know: a set, or a longer TTL of it, that was over at every server before certagent was
  first answered (docs/explanation/rollover.md names this limit).
- Of a name that is not in the config (a service without `tlsa: true`) certagent looks only before a key changes, and
  asks whoever answers: a set that no server gives then, or that only silent ones give, and that no journaled look has
  met, does not count. If nobody answers, it does, until what was served before certagent came is about to expire.
- The first swap at a mail server takes no name away that its certificate has, unless the config gives it up.
- What others do (regression, deletion, replaced file, alias) breaks mail without the agent; that it is put right is
  judged at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache, partial

from certagent.facts.dns import Answer, Observation
from certagent.facts.tls import Chain
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle.converged import converged
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from tests.simulation.ca import Ca, Vault
from tests.simulation.clock import Clock, Journal, Violation
from tests.simulation.dns import NOTICE_S, Content, Dns, Entry, Values, tell
from tests.simulation.edges import Provider
from tests.simulation.mail import Host, Shown
from tests.simulation.web import WebServer

FAULTS_EXCUSE = 3
"""A certificate may run out if the CA or DNS failed at least this often in the last half of its life."""


SKEW = timedelta(hours=7)
"""A wall clock that somebody set may be so far off."""

SLOWEST_RETRY_S = 27 * 3600
"""A CA that refused several times is asked again a day later."""


def _in_service(state: State) -> set[str]:
    generations = (state.generation(id_) for at in state.mail_servers.values() for id_ in at.serves)
    return {chain.spki for generation in generations if generation for chain in generation.chains.values()}


def unmatched(values: Values, chain: Chain) -> frozenset[str]:
    """The TLSA parameters of the set none of whose records matches the chain."""
    return _unmatched(values, chain.spki, chain.issuers)


@lru_cache(8192)
def _unmatched(values: Values, spki: str, issuers: tuple[str, ...]) -> frozenset[str]:
    good: dict[str, bool] = {}
    for value in values:
        parameters, digest = value[:5], value[6:]
        good[parameters] = good.get(parameters, False) or digest in ((spki,) if parameters[0] == "3" else issuers)
    return frozenset(t for t, ok in good.items() if not ok)


class Judge:
    """Watches one world."""

    def __init__(self, clock: Clock, dns: Dns, hosts: dict[str, Host], answers: dict[str, tuple[str, ...]]) -> None:
        self.clock = clock
        self.dns = dns
        self.hosts = hosts
        self.answers = answers
        """Which hosts answer at the service of a TLSA name: how it is, whatever the config says."""
        self.spec: Spec
        """The config as it is now."""
        self.provider: Provider
        self.heard_now: Callable[[str], dict[str, Answer]]
        self.web: WebServer
        """What the servers that the agent can ask give now."""
        self.known: set[str] = set()
        """The TLSA names that were ever in the config."""
        self.unmanaged_values: set[str] = set()
        """Values that somebody else put into DNS and that match nothing."""
        self.accepted: set[str] = set()
        """Serial numbers of chains that the operator wanted at once."""
        self.taken: set[tuple[str, str]] = set()
        """Hosts, and serial numbers of chains that they served alone since: the operator's choice is over there."""
        self.disturbed: list[float] = []
        """When something outside failed."""
        self._accepting = False
        self.checks = 0
        """A set against a chain."""
        self.seen_at: dict[str, float] = {}
        """When each TLSA name was last observed, and each mail server last verified."""
        self.by_hand: dict[str, set[str]] = {}
        """Values that somebody published who rolls by hand, and the keys they are for."""
        self.compromised: set[str] = set()
        """Keys that were served when the operator said so: they are certified no more."""
        self.lost: set[str] = set()
        """Values that the agent knew to be its own before it lost its state."""
        self.served_then: set[str] = set()
        """Keys that went into service after the old state that the agent has again."""
        self.heard: set[str] = set()
        """The TLSA names of which some server has answered."""
        self.left: set[str] = set()
        """Places that an alias has left: what was sent before may come through after it."""
        self._chains: dict[str, list[Chain]] = {}

    # -- sets and chains

    def set_begins(self, name: str, entry: Entry, before: Content, by_agent: bool) -> None:
        """A server begins to give a set."""
        if isinstance(before, str):
            self.left.add(before)
        if not by_agent or isinstance(entry.content, str) or not entry.content:
            return
        names = {o for o in (*self.known, *self.spec.undeclared) if name in self.dns.reaches(o)}
        if names and not names & self.known and name not in self.left:
            raise Violation(f"{name} was changed by certagent, and nobody asked for records there")
        for tlsa_name in self.known:
            if tlsa_name != name and name not in self.dns.reaches(tlsa_name):
                continue
            for host in self.answers[tlsa_name]:
                if self.clock.t - self.hosts[host].swapped_by_hand_at < NOTICE_S:
                    continue
                for shown in self.hosts[host].servable():
                    bad = self._bad(entry.content, shown)
                    if bad and not isinstance(before, str):
                        bad -= unmatched(before, shown.chain)
                    if bad:
                        what = f"{tlsa_name} gives {tell(entry.content)}: {', '.join(sorted(bad))} does not match"
                        raise Violation(f"{what} {shown.chain.spki[:6]} at {host}")
                if not before and self.hosts[host].plain():
                    raise Violation(f"{tlsa_name} is published, and {host} offers no TLS yet")

    def chain_begins(self, host: Host, shown: Shown) -> None:
        """A file is about to be placed."""
        if shown.hand or shown in list(host.servable()) or shown in host.displaced.values():
            return
        chain = shown.chain
        now = self.clock.t
        if not host.ours and any(chain in issued for issued in self._chains.values()):
            kept = {*chain.names, *self.spec.drop_names}
            lost = {n for s in host.files.values() if s.chain.not_after > self.clock.true_wall() for n in s.chain.names}
            if lost := lost - kept:
                raise Violation(f"{host.name}: the first swap takes away {', '.join(sorted(lost))}")
        if self.clock.true_wall() > chain.not_after:
            raise Violation(f"{host.name}: an expired chain is placed")
        left_s = (chain.not_after - self.clock.true_wall()).total_seconds()
        self.clock.at(left_s + 1, partial(self._expired, host, chain))
        same = [s.chain for s in host.servable()]
        if chain.serial in self.accepted and (host.name, chain.serial) not in self.taken:
            return
        if chain.serial in host.once and any(p.broken for p in host.pools):
            return  # put back since TLS fails there for everybody; all addresses have the same files
        for tlsa_name in [*self.known, *(o for o in self.spec.undeclared if o not in self.known)]:
            if host.name not in self.answers[tlsa_name]:
                continue
            # at a name that is not in the config, other servers are somebody else's: what they serve, nobody asks them
            asked = [h for h in self.answers[tlsa_name] if tlsa_name in self.known or h in self.mine]
            hosts = [self.hosts[h] for h in asked]
            displaced = [s for h in hosts for s in h.displaced.values() if s.chain.spki not in self.served_then]
            served = [*displaced, *(s for h in hosts for s in h.servable())]
            # what somebody put there by hand counts where there is nothing else, as before certagent came
            before = [s.chain for s in served if not s.hand] or [s.chain for s in served]
            for values, by in self.dns.cacheable(tlsa_name):
                bad = self._bad(values, shown)
                if not bad or any(e.unseen(now) for e in by):
                    continue
                if chain.serial in host.once and any(e.since is not None and not e.met for e in by):
                    continue  # what was there before may come back in any weather: it rests on what was journaled
                if tlsa_name not in self.known and self._hidden(tlsa_name, values, by):
                    continue
                # no sender can tell a renewal with the same key from the old chain, unless he pins the issuer
                pins = any(v[0] != "3" for v in values)
                if any(s.spki == chain.spki and (s.issuers == chain.issuers or not pins) for s in same):
                    continue
                if before:
                    bad = frozenset(t for t in bad if any(t not in unmatched(values, b) for b in before))
                if same:  # whoever comes to this server fails already
                    bad = frozenset(t for t in bad if any(t not in unmatched(values, b) for b in same))
                if bad:
                    what = (
                        f"{host.name} begins to serve {chain.spki[:6]}; caches may hold {tell(values)} of {tlsa_name}"
                    )
                    raise Violation(f"{what}, whose {', '.join(sorted(bad))} does not match")

    def _hidden(self, tlsa_name: str, values: Values, by: tuple[Entry, ...]) -> bool:
        """The agent has not seen the set, cannot see it when it looks before a swap, and may go on without."""
        hosts = [self.hosts[h] for h in self.answers[tlsa_name]]
        if any(self.dns.zone_of(end).inside for end in self.dns.reaches(tlsa_name)):
            return True  # this host has another view
        if all(e.met for e in by):
            return False
        if any(s.heard_since > self.clock.t - NOTICE_S for zone in self.dns.zones.values() for s in zone.servers):
            return True
        if given := self.heard_now(tlsa_name).values():
            return all(answer.values != values for answer in given)
        chains = [s.chain for h in hosts for s in h.servable()]
        now = self.clock.true_wall()
        late = not chains or any(now > c.not_after - (c.not_after - c.not_before) / 6 - SKEW for c in chains)
        renewable = {s.chain.spki for h in hosts if h.ours for s in h.servable()} - self.compromised
        return late and not renewable

    def _bad(self, values: Values, shown: Shown) -> frozenset[str]:
        self.checks += 1
        if shown.hand:
            return frozenset()
        bad = unmatched(values, shown.chain)
        # a TLSA parameters that only somebody else's records have is not the agent's to match
        return bad and frozenset(t for t in bad if any(v[:5] == t and v not in self.unmanaged_values for v in values))

    def _expired(self, host: Host, chain: Chain) -> None:
        if (
            host.name not in self.mine
            or not any(s.chain == chain for p in host.pools for s in p.running.values())
            or self._reissued(host, chain)
            or self._replaced(host, chain)
        ):
            return
        half_s = (chain.not_after - chain.not_before).total_seconds() / 2
        if sum(1 for d in self.disturbed if d > self.clock.t - half_s) < FAULTS_EXCUSE:
            raise Violation(f"{host.name} serves {chain.spki[:6]}, which has just expired, and nothing was in the way")

    def _reissued(self, host: Host, chain: Chain) -> bool:
        """It was renewed, by another issuer than the one that is pinned: that waits for caches, whatever the key."""
        tlsa_names = [o for o in self.known if host.name in self.answers[o]]
        pins = any(v[0] == "2" for o in tlsa_names for values, _ in self.dns.cacheable(o) for v in values)
        issued = [x for chains in self._chains.values() for x in chains if x.not_before > chain.not_before]
        return pins and any(x.issuers != chain.issuers for x in issued)

    def _replaced(self, host: Host, chain: Chain) -> bool:
        """Its key type is not in the config any more, and its successor waits for a silent server.

        The last chance is a renewal with the same key, and nobody asks for that any more (docs/explanation/limits.md).
        """
        types = {a for p in host.pools for a, s in p.running.items() if s.chain == chain}
        names = (o for o in {*self.known, *self.spec.undeclared} if host.name in self.answers[o])
        ends = [end for o in names for end in self.dns.reaches(o)]
        silent = any(self.dns.zone_of(e).away or any(s.deaf for s in self.dns.zone_of(e).servers) for e in ends)
        return silent and types.isdisjoint(self.spec.key_types)

    # -- what the journal, the CA and the vault are told

    def event(self, event: ev.AnyEvent) -> None:
        """Something was journaled."""
        match event:
            case ev.Requested():
                if event.what == "emergency":
                    self.compromised |= {s.chain.spki for host in self._mine() for s in host.servable()}
                if event.what != "retry":
                    self._accepting = event.what == "emergency" and event.accept_deferrals
            case ev.Observed():
                if event.tlsa_name not in self.heard:
                    self.dns.forget_past(event.tlsa_name)
                    if any(isinstance(a, Answer) for a in event.observation.answers.values()):
                        self.heard.add(event.tlsa_name)
                self.seen_at[event.tlsa_name] = self.clock.t
                self._met(event.tlsa_name, event.observation)
            case ev.Issued():
                chains = self._chains.setdefault(event.generation, [])
                chains.append(event.chain)
                if event.completes:
                    if self._accepting:
                        self.accepted |= {chain.serial for chain in chains}
                    self._accepting = False
            case ev.Verified():
                self.seen_at[event.server] = self.clock.t
                if event.drained:
                    chains = (one.chain for one in event.served)
                    self.taken |= {(event.server, chain.serial) for chain in chains if isinstance(chain, Chain)}
            case ev.Deleted():
                self.known -= set(event.tlsa_names)  # what a server brings back by now, nobody looks at any more
            case ev.Failed() if event.code.startswith("internal."):
                raise Violation(f"a defect: {event.code} {event.detail}")
            case ev.Failed() if event.code == "dns.not_yet":
                self._asked_early()  # else the CA judges: what this host cannot see is no reason to let one run out
            case ev.OrderReady() if event.passed_over:
                self._asked_early()
            case ev.Failed() if event.lane is None or event.lane.verb != "observe":
                self.disturbed.append(self.clock.t)
            case _:
                pass

    def _asked_early(self) -> None:
        """A response that its provider had accepted, and not published yet, was missed."""
        early = self.provider.coming("TXT")
        if early:
            raise Violation(f"the responses at {', '.join(sorted(early))} were missed before they were to be published")

    def forgotten(self, lost: State, found: State) -> None:
        """The agent has an old state again: what came after it, nobody can know."""
        self.heard.clear()
        self._accepting = bool(found.requested and found.requested.accept_deferrals)
        self.lost |= lost.ours
        self.provider.counted.clear()
        self.served_then |= _in_service(lost) - _in_service(found)

    def _met(self, tlsa_name: str, observation: Observation) -> None:
        aliases = self.dns.zone_of(tlsa_name)
        if any(self.dns.zone_of(end).inside for end in self.dns.reaches(tlsa_name)):
            return  # what it met is another view's
        heard = {s.label for s in aliases.servers if not isinstance(observation.answers.get(s.label), Unknown)}
        heard |= {label for label, said in observation.answers.items() if isinstance(said, Answer)}
        self.dns.met(tlsa_name, heard)

    @property
    def mine(self) -> set[str]:
        """The hosts that are in the config now: the others are somebody else's."""
        return {server.name for server in self.spec.mail_servers}

    def _mine(self) -> list[Host]:
        return [host for name, host in self.hosts.items() if name in self.mine]

    def revoked(self, chain: Chain) -> None:
        """The CA revokes."""
        for host in self._mine():
            if any(s.chain == chain and not s.hand for s in host.servable()):
                raise Violation(f"{chain.spki[:6]} is revoked while {host.name} may serve it")

    def dropping(self, what: str, spki: list[str]) -> None:
        """A key is about to be deleted. An agent that has an old state again cannot ask a server that is down."""
        for host in self._mine():
            known = set(spki) - (self.served_then if host.down else set())
            if any(s.chain.spki in known and not s.hand for s in host.servable()):
                raise Violation(f"a {what} is deleted while {host.name} may serve it")

    # -- the end

    def converged(self, spec: Spec, journal: Journal, since: float) -> bool:
        """The agent says that everything is over, and has observed everything since then."""
        mail_servers = {t.name for t in spec.mail_servers}
        kept = (name for name, known in journal.head.tlsa_names.items() if not known.undeclared)
        everything = {*spec.tlsa_names, *kept, *mail_servers}
        observed = all(self.seen_at.get(name, -1.0) > since for name in everything)
        return observed and journal.head.mail_servers.keys() <= mail_servers and converged(spec, journal.head)

    def last(self, spec: Spec, state: State, provider: Provider, ca: Ca, vault: Vault) -> None:
        """Everything is as it should be: served, published, and nothing left over."""
        newest = next(g for g in reversed(state.generations) if g.keys is not None)
        for server in spec.mail_servers:
            host = self.hosts[server.name]
            for pool in host.pools:
                for files in pool.alive(self.clock.t):
                    found = {a: s.chain for a, s in files.items()}
                    if found != newest.chains:
                        raise Violation(f"at the end {server.name} [{pool.address}] does not serve {newest.id}")
        if set(newest.chains) != set(spec.key_types):
            raise Violation("at the end the algorithms are not those of the config")
        lately = [d for d in self.disturbed if d > self.clock.t - SLOWEST_RETRY_S]
        for chain in newest.chains.values():
            if not lately and self.clock.true_wall() > chain.not_after - (chain.not_after - chain.not_before) / 6:
                raise Violation("at the end a renewal is overdue")
        if left := [str(failure.lane) for failure in state.failing if failure.lane.at_mail_server]:
            raise Violation(f"at the end {', '.join(left)} fails for good, though all is well")
        wanted = self._wanted(spec, state, newest.chains)
        for tlsa_name in self.known:
            ours = provider.published - self.unmanaged_values - (self.lost - state.ours)
            for values in self._live(tlsa_name):
                here = self._end(tlsa_name)
                should = wanted if any(here == self._end(o) for o in spec.tlsa_names) else frozenset[str]()
                if lacking := should - values:
                    raise Violation(f"at the end {tlsa_name} lacks {tell(lacking)}")
                if left := (values & ours) - should:
                    raise Violation(f"at the end {tlsa_name} still has {tell(left)}")
        for zone in self.dns.zones.values():
            if zone.txt - zone.stray_txt:
                raise Violation(f"at the end challenges are left over: {sorted(zone.txt - zone.stray_txt)}")
        if files := self.web.files - self.web.stray:
            raise Violation(f"at the end files are left over: {sorted(map(str, files))}")

    def _end(self, name: str) -> str:
        """Where its alias leads now."""
        content = self.dns.zone_of(name).current(name).content
        return self._end(content) if isinstance(content, str) else name

    def _wanted(self, spec: Spec, state: State, chains: dict[str, Chain]) -> Values:
        values = {f"3 1 1 {chain.spki}" for chain in chains.values()}
        if "2 1 1" in spec.tlsa_parameters:
            values |= {f"2 1 1 {chain.issuers[-1]}" for chain in chains.values()}
        keys = state.keys[-1]
        standby = set(keys.spki.values()) - {chain.spki for chain in chains.values()}
        if spec.standby and spec.tlsa_names and (not standby or set(keys.spki) != set(spec.key_types)):
            raise Violation("at the end there is no standby key")
        return frozenset(values | {f"3 1 1 {s}" for s in standby})

    def _live(self, tlsa_name: str) -> list[Values]:
        zone = self.dns.zone_of(tlsa_name)
        found: list[Values] = []
        for server in zone.servers:
            content = server.given[tlsa_name][0].content
            found += self._live(content) if isinstance(content, str) else [content]
        return found
