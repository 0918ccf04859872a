"""The agent's edges to DNS in the simulation: the resolver that asks every server, and the provider that may err."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from certagent.dns.message import one_of_zones
from certagent.dns.providers.protocol import Capabilities, Changed, RdType, RRset
from certagent.dns.recursive import believed
from certagent.errors import Misconfigured, NotYet, Rejected, Transient
from certagent.facts.dns import Answer, Delegation, Observation
from certagent.facts.unknown import Unknown
from tests.simulation.clock import Clock, Violation
from tests.simulation.dns import NOTHING, NOTICE_S, RR, Dns, Values, Zone, tell


class Resolver:
    """The agent's view (`world.Resolver`): asks every server; the same rules as `dns/resolver.py`."""

    def __init__(self, clock: Clock, dns: Dns) -> None:
        self.clock = clock
        self.dns = dns
        self.failing: set[str] = set()
        """Names that it does not resolve."""
        self._last: dict[str, Observation] = {}

    def _trail(
        self, tlsa_name: str
    ) -> tuple[Zone, str, dict[str, Answer | Unknown], bool, tuple[tuple[str, int], ...]]:
        name = tlsa_name
        path: tuple[tuple[str, int], ...] = ()
        odd: dict[str, Answer | Unknown] = {}
        trouble = False
        while True:
            zone = self.dns.zone_of(name)
            said: dict[str, RR | Unknown] = {}
            covered: set[str] = set()
            for server in zone.servers:
                if server.deaf or zone.away:
                    said[server.label] = Unknown("gave no answer within 3 s")
                elif server.refuses:
                    said[server.label] = Unknown("says REFUSED")
                elif zone.inside:
                    said[server.label] = NOTHING
                else:
                    said[server.label] = zone.versions[server.serial].given(name)
                    if name not in zone.versions[server.serial].sets:
                        covered.add(server.label)
            votes = sorted(
                (r.content if isinstance(r.content, str) else "") for r in said.values() if isinstance(r, RR)
            )
            server = max(votes, key=votes.count, default="")
            answers: dict[str, Answer | Unknown] = {}
            ttl_s = 0
            for label, rr in said.items():
                if isinstance(rr, Unknown):
                    odd[label] = rr
                elif (rr.content if isinstance(rr.content, str) else "") != server:
                    odd[label] = Unknown(f"the servers of {zone.name} disagree about the alias at {name}")
                    trouble = True
                elif isinstance(rr.content, str):
                    ttl_s = max(ttl_s, rr.ttl_s)
                else:
                    wildcard = f"*.{zone.name}" if label in covered and rr.content else ""
                    answers[label] = Answer(rr.content, rr.ttl_s, path, wildcard)
            if not server:
                return zone, name, answers | odd, trouble, path
            path = (*path, (server, ttl_s))
            name = server

    def heard_now(self, tlsa_name: str) -> dict[str, Answer]:
        """What the servers that the agent can ask give now."""
        return {label: said for label, said in self._trail(tlsa_name)[2].items() if isinstance(said, Answer)}

    def observe(
        self, tlsa_name: str, *, expect: Values | None, gone: Values, budget: timedelta, unproven: bool = False
    ) -> Observation:
        """One round, again until it is as expected or the budget is over."""
        clock, wanted = self.clock, expect or frozenset[str]()
        if tlsa_name in self.failing or clock.chance(0.01):
            raise Transient("dns.unreachable", "the resolver of this host does not answer")
        end, pause = clock.t + budget.total_seconds(), 0.1
        while True:
            clock.go_on(0.03)
            zone, name, answers, _, path = self._trail(tlsa_name)
            clock.go_on(3.0 if zone.away or any(s.deaf for s in zone.servers) else 0.02)
            if all(isinstance(a, Answer) and wanted <= a.values and not gone & a.values for a in answers.values()):
                break
            if clock.t + pause >= end:
                break
            clock.go_on(pause)
            pause = min(2 * pause, 1.0)
        clock.hazard("after an observation")
        if clock.trace is not None:
            said = "; ".join(
                f"{tell(a.values)} ttl {a.ttl_s}" if isinstance(a, Answer) else a.why for a in answers.values()
            )
            clock.note(f"      seen at {tlsa_name}: {zone.security} {said}")
        security = "unknown" if zone.inside else zone.security
        answers = answers if unproven else believed(answers, security)
        seen = Observation(zone.name, name, answers, security, "as the simulation has it", path)
        last = self._last.get(tlsa_name)
        if last is not None and seen == last:
            return last  # the same object: what follows from it is remembered
        self._last[tlsa_name] = seen
        return seen

    def wait_for_txt(self, name: str, values: Values, budget: timedelta) -> None:
        """Whether the challenges are everywhere: at every server that answers the agent, and all of them do."""
        self.clock.go_on(0.3)
        zone = self.dns.zone_of(name)
        silent = [s for s in zone.servers if zone.away or s.deaf or s.refuses]
        lacking = not all((name, v) in zone.txt for v in values) or self.clock.chance(0.03)
        if lacking or silent:
            self.clock.go_on(budget.total_seconds())
            seen = not lacking and len(silent) < len(zone.servers)
            raise NotYet("dns.not_yet", f"the TXT record of {name} is not yet everywhere", seen=seen)

    def txt(self, name: str) -> frozenset[str]:
        """Not asked: no record for challenges is made by hand."""
        raise AssertionError(name)

    def final(self, name: str) -> tuple[str, str]:
        """Where to write."""
        self.clock.go_on(0.02)
        if name not in self.dns.zone_of(name).entries:
            return self.dns.zone_of(name).name, name
        zone, end, answers, trouble, _ = self._trail(name)
        if trouble:
            raise Transient("dns.alias_differs", "the servers disagree about the alias")
        if not any(isinstance(a, Answer) for a in answers.values()):
            raise Transient("dns.unreachable", f"nobody answers for {zone.name}")
        return zone.name, end

    def wildcards(self, zone: str, name: str) -> tuple[str, ...]:
        """Whether there is one, at any server."""
        self.clock.go_on(0.1)
        found = self.dns.zones[zone]
        if found.away or any(s.deaf or s.refuses for s in found.servers):
            raise Transient("dns.unreachable", "a server is not heard")
        return (f"*.{zone}",) if any("*" in found.versions[s.serial].sets for s in found.servers) else ()

    def hidden(self, zone: str, name: str) -> tuple[()]:
        """Nothing: the addresses are the specs' own."""
        return ()

    def wildcard_alias(self, name: str) -> str:
        """No wildcard is an alias."""
        return ""

    def delegation(self, name: str) -> Delegation:
        """Not asked: only `check` compares it with what the zone says."""
        raise AssertionError(name)

    def serials(self, zone: str, budget: timedelta) -> dict[str, int]:
        """Not asked: only `check` compares them."""
        raise AssertionError(zone, budget)

    def addresses(self, host: str) -> tuple[str, ...]:
        """Not asked: the specs of the simulation name their addresses."""
        raise AssertionError(host)


class Write(NamedTuple):
    """What a provider is asked to do, and under which precondition."""

    more: Values
    less: Values
    ttl_s: int | None
    was: RRset | None


class Provider:
    """The provider of every zone (`dns.providers.protocol.Provider`): it may refuse, lose or delay, and say so or not.

    One that is not atomic makes each change value by value, in any order and with pauses, if it gets several at once.
    One that publishes late says at once what it will give, and gives it within the time that it states. One that counts
    says no after so many writes a day; that the agent gets so far is a violation.
    """

    def __init__(self, clock: Clock, dns: Dns) -> None:
        self.clock = clock
        self.dns = dns
        self.zones = tuple(dns.zones)
        self.down = False
        self.capabilities = Capabilities(precondition="set")
        self.flaky = 1.0
        """How often it errs, as a multiple of one in eight."""
        self.writes: list[float] = []
        self.counted: dict[str, list[float]] = {}
        """Every write to a zone, of TXT too, as far back as the agent can know."""
        self._coming: list[tuple[str, RdType, Write]] = []
        """What it has accepted and not published yet, in its order."""
        self._published_at = 0.0
        self.epoch = 0
        """How often the config was changed."""
        self.published: set[str] = set()
        """Every TLSA value the agent ever wrote."""

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """See `Provider`: what the primary has."""
        if self.down and self.clock.hostile:
            raise Transient("dns.unreachable", "the provider does not answer")
        return self._current(name, rdtype)

    def _zone(self, name: str) -> Zone:
        """Of those that it writes: below a cut that it was not told of, this is the parent."""
        return self.dns.zones[one_of_zones(name, self.zones)]

    def _current(self, name: str, rdtype: RdType) -> RRset | None:
        zone = self._zone(name)
        if rdtype == "TXT":
            values, ttl_s = frozenset(v for n, v in zone.txt if n == name), 60
        else:
            rr = zone.versions[-1].sets.get(name, NOTHING)
            values, ttl_s = (frozenset[str](), 0) if isinstance(rr.content, str) else (rr.content, rr.ttl_s)
        for _, _, write in filter(lambda coming: coming[:2] == (name, rdtype), self._coming):
            values = (values | write.more) - write.less
            ttl_s = ttl_s if write.ttl_s is None else write.ttl_s
        return RRset(values, ttl_s) if values else None

    def add(self, name: str, rdtype: RdType, values: Values, ttl_s: int, was: RRset | None) -> None:
        """See `Provider`."""
        if rdtype == "TLSA":
            self.published |= values
        self._write(name, rdtype, Write(values, frozenset(), max(ttl_s, self.capabilities.ttl_floor_s), was))

    def remove(self, name: str, rdtype: RdType, values: Values, was: RRset | None) -> None:
        """See `Provider`."""
        self._write(name, rdtype, Write(frozenset(), values, None, was))

    def _write(self, name: str, rdtype: RdType, write: Write) -> None:
        clock, rng = self.clock, self.clock.rng
        clock.hazard("before the provider is asked")
        clock.go_on(0.2)
        if rdtype == "TLSA":
            self.writes.append(clock.t)
        changes = self._changes(name, rdtype, write)
        if changes:
            self._count(self._zone(name).name)
        if self.down and clock.hostile:
            raise Transient("dns.unreachable", "the provider does not answer")
        fate = rng.random() / self.flaky if clock.hostile and self.flaky else 1.0
        if self._current(name, rdtype) != write.was:
            clock.note(f"      {name} {rdtype} is not what it was")
            raise Changed(name, rdtype)

        asked = self.epoch, clock.t
        do = partial(self._apply, name, rdtype, write, asked)
        if fate < 0.02:
            raise Transient("dns.unknown_outcome", "the answer was lost, and so was the change")
        if fate < 0.04:
            self._later(rng.choice((1, 30, 300, 1800)) * rng.random(), do, (name, rdtype, write))
            raise Transient("dns.unknown_outcome", "the answer was lost; the change comes later")
        if fate < 0.05:
            raise Misconfigured("dns.refused", "the key has no right to do this")
        if fate < 0.06:
            clock.note("      the provider says yes and does nothing")
            if rdtype == "TXT":
                self._zone(name).stray_txt |= {(name, v) for v in write.less}
            return
        if fate < 0.10:
            self._later(rng.choice((1, 30, 600)) * rng.random(), do, (name, rdtype, write))
            return
        if not self.capabilities.publish_lag_s:
            do()
        elif changes:  # what it has accepted already comes in its turn, and not before
            self._publish((name, rdtype, write), do)
        if fate < 0.12:
            raise Transient("dns.unknown_outcome", "the answer was lost, the change was made")
        clock.hazard("after the provider has done it")

    def _changes(self, name: str, rdtype: RdType, write: Write) -> bool:
        """What is there already, or is not there, is no write."""
        values, ttl_s = (now.values, now.ttl_s) if (now := self._current(name, rdtype)) else (frozenset[str](), None)
        other_ttl = rdtype == "TLSA" and write.ttl_s is not None and write.ttl_s != ttl_s
        return bool(write.more - values or write.less & values or other_ttl)

    def coming(self, rdtype: RdType) -> set[str]:
        """The names to which something will be added that it has accepted, and not published yet."""
        return {name for name, kind, write in self._coming if kind == rdtype and write.more}

    def becomes(self, capabilities: Capabilities) -> None:
        """Another one, which counts from now on. While something is to be published, the time for it stays."""
        lag_s = self.capabilities.publish_lag_s if self._coming else capabilities.publish_lag_s
        self.capabilities = replace(capabilities, publish_lag_s=lag_s)
        self.counted.clear()

    def _count(self, zone: str) -> None:
        per_day, now = self.capabilities.writes_per_day, self.clock.t
        counted = self.counted.setdefault(zone, [])
        counted.append(now)
        while counted[0] <= now - 86400:
            counted.pop(0)
        if per_day is not None and len(counted) > per_day:
            raise Violation(f"{len(counted)} writes to {zone} in a day, and the provider takes {per_day}")

    def _publish(self, accepted: tuple[str, RdType, Write], do: Callable[..., None]) -> None:
        """It gets to the name servers in its turn, and by its time."""
        self._coming.append(accepted)
        lag_s = self.capabilities.publish_lag_s
        moment = max(self._published_at, self.clock.t + lag_s * self.clock.rng.choice((0.2, 0.5, 0.9)))
        self._published_at = moment
        self.clock.note(f"      the provider publishes that in {moment - self.clock.t:.0f} s")
        self.clock.busy(moment - self.clock.t)
        self.clock.at(moment - self.clock.t, partial(self._publish_now, accepted, do))

    def _publish_now(self, accepted: tuple[str, RdType, Write], do: Callable[..., None]) -> None:
        self._coming.remove(accepted)
        do(accepted=True)

    def _later(self, delay_s: float, do: Callable[..., None], accepted: tuple[str, RdType, Write]) -> None:
        if self.capabilities.publish_lag_s:
            self._publish(accepted, do)  # late in any case, and in its turn
            return
        self.clock.busy(delay_s)
        self.clock.at(delay_s, partial(do, late=True))

    def _apply(
        self,
        name: str,
        rdtype: RdType,
        write: Write,
        asked: tuple[int, float],
        *,
        late: bool = False,
        accepted: bool = False,
    ) -> None:
        """`late`: it comes through although nobody was told; `accepted`: as was promised."""
        zone, clock = self._zone(name), self.clock
        if rdtype == "TXT":
            zone.txt |= {(name, v) for v in write.more}
            zone.txt -= {(name, v) for v in write.less}
            if late or zone is not self.dns.zone_of(name):  # the zone was cut off just now
                zone.stray_txt |= {(name, v) for v in write.more}
            return
        if not self.capabilities.atomic and len(write.more | write.less) > 1:
            values = sorted(write.more | write.less)
            clock.rng.shuffle(values)
            for number, value in enumerate(values):
                only = frozenset({value})
                part = Write(write.more & only, write.less & only, write.ttl_s, write.was)
                put = partial(self._put, name, part, asked, late=late, accepted=accepted)
                clock.at(30 * number * clock.rng.random(), put)
            clock.busy(30 * len(values))
            return
        self._put(name, write, asked, late=late, accepted=accepted)

    def _put(self, name: str, write: Write, asked: tuple[int, float], *, late: bool, accepted: bool) -> None:
        zone, clock = self._zone(name), self.clock
        old = zone.versions[-1].sets.get(name, NOTHING)
        if isinstance(old.content, str):
            if not late and not accepted:
                raise Rejected("dns.rejected", f"{name} is an alias")
            return
        if late and self.capabilities.precondition != "none" and self._current(name, "TLSA") != write.was:
            clock.note("      the change comes too late: the set is another by now")
            return
        values = (old.content | write.more) - write.less
        # what comes late after the config was changed, or after somebody else changed the name, is as unforeseen as
        # somebody else's doing: what was right to add or to remove then need not be now, and nobody can take it back
        epoch, began = asked
        strange = (late or accepted) and zone.strange.get(name, -1e9) >= began - NOTICE_S
        unforeseen = strange or epoch != self.epoch  # a part of a change may come through after it, too
        since = clock.t if unforeseen else None
        ttl_s = old.ttl_s if write.ttl_s is None else write.ttl_s
        zone.put(name, RR(values, ttl_s if values else 0), since=since)
