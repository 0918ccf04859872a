"""The simulated DNS: zones with lagging, regressing and silent servers, and exactly what any cache may hold.

Rule of the caches (RFC 1035 section 3.2.1, RFC 2181 section 5.2): a set that a server gave with TTL T may be used until
T after the last moment it was given; and by some for almost as long again, see `SLACK`. An alias is a set of one;
through an old alias the old target's sets are still fetched for the alias's TTL, and kept for their own after that.
Serve-stale (RFC 8767): while no server of a zone answers anybody, caches use what they had when that began, however
old it gets; when a server answers again they ask it. Left out is what no waiting protects from: a cache that cannot
reach servers which answer the agent, and the half minute for which one may believe that they are still away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple

from certagent.facts.dns import Security
from tests.simulation.clock import Clock, nobody

Values = frozenset[str]
Content = Values | str
"""The values of a TLSA set, or the target of an alias."""

NOTICE_S = 100.0
"""What somebody else does cannot be noticed sooner: the last observation is up to `schedule.FRESH` old."""


SLACK = 0.95
"""A cache that counts anew what another cache gave it, the cache inside a sender, and a delivery that asked long before
its handshake use a set beyond its TTL: by this share of the TTL, or of the guard where that is more. For them RFC 7671
section 8.1 wants two TTLs.
"""


SOON_S = 3600.0
"""What is wrong with a server when the hostile part ends may last so long."""


class RR(NamedTuple):
    """One RRset: an alias has a text as its content."""

    content: Content
    ttl_s: int


class Author(NamedTuple):
    """How a name came to have its set."""

    since: float | None = None
    """When somebody else than the agent made it; None: the agent, or it was always there."""
    blind: bool = False
    """Made within moments of somebody else's change of the same name, which the agent cannot have known of."""
    before: Content = frozenset()
    """What the name had before."""


class Version(NamedTuple):
    """A zone's content, and who made what of it."""

    sets: dict[str, RR]
    """The set of `*` is given for every name that has none itself."""
    authors: dict[str, Author]

    def given(self, name: str) -> RR:
        """What is answered for a name."""
        return self.sets.get(name) or self.sets.get("*", NOTHING)


NOTHING = RR(frozenset[str](), 0)


class Entry:
    """A set that was served at a name, and until when caches may hold it."""

    __slots__ = (
        "content",
        "cut",
        "ended",
        "expiry",
        "first",
        "live",
        "met",
        "regressed",
        "retimed",
        "since",
        "superseded",
        "ttl_s",
    )

    def __init__(self, content: Content, since: float | None, *, regressed: bool = False, first: bool = False) -> None:
        self.content = content
        self.since = since
        self.first = first
        """It was there before certagent was."""
        self.retimed = False
        """Somebody has changed its TTL."""
        self.regressed = regressed
        """A server went back to it."""
        self.met = False
        """An observation that was journaled has met it."""
        self.superseded = False
        """The agent has put another in its place."""
        self.cut = False
        """The server came back sooner than the world promises (see `mischief.regress`), as all faults ended."""
        self.live = 0
        self.ttl_s = 0
        self.expiry = -1.0
        self.ended = 0.0

    def unseen(self, at: float) -> bool:
        """Whether it is somebody else's doing that the agent cannot have noticed at that moment.

        What somebody made and somebody put right again between two looks is nobody's to see; nor what was there before
        the agent, and was gone from a server before that server's first answer. But what the agent itself has put an
        end to, it must have observed first.
        """
        if self.first and not (self.met or self.live) and (self.retimed or not self.superseded):
            return True
        if self.since is None:
            return False
        if at < self.since + NOTICE_S or self.cut:
            return True
        if self.live:
            return False
        return self.ended - self.since < NOTICE_S or not (self.met or self.superseded or self.regressed)


class Server:
    """One authoritative address."""

    def __init__(self, clock: Clock, label: str, *, primary: bool) -> None:
        self.clock = clock
        self.label = label
        self.primary = primary
        self.serial = 0
        self.deaf = False
        """It does not answer the agent; it may go on answering others."""
        self.refuses = False
        self.stuck = False
        """It regressed, or its transfers fail: it stays at its version."""
        self.back = False
        """It regressed."""
        self.heard_since = -1e9
        """When it last began to answer the agent again."""
        self.ill_until = 0.0
        """By when all that is in its way is over."""
        self.given: dict[str, tuple[Entry, int]] = {}

    def lasts(self, for_s: float, over: Callable[[], None]) -> None:
        """Something is in its way for so long."""
        self.ill_until = max(self.ill_until, self.clock.t + for_s)
        self.clock.at(for_s, over)


class Zone:
    """One zone, its servers and all its versions."""

    def __init__(self, clock: Clock, name: str, secondaries: int) -> None:
        self.clock = clock
        self.name = name
        self.security: Security = "secure"
        self.servers = [
            Server(clock, f"ns{i}.{name}/192.0.2.{len(name)}{i}", primary=i == 0) for i in range(secondaries + 1)
        ]
        self.versions = [Version({}, {})]
        self.entries: dict[str, dict[tuple[Content, float | None], Entry]] = {}
        self.changed_at = -1e9
        self.safety_margin_s = 0.0
        self.strange: dict[str, float] = {}
        """When somebody else last changed a name."""
        self.txt: set[tuple[str, str]] = set()
        self.stray_txt: set[tuple[str, str]] = set()
        """Values whose adding came through late: nobody can be blamed for them."""
        self.inside = False
        """The agent is shown another view, without records and without signatures; the world sees the zone."""
        self.away_since: float | None = None
        """Since when no server answers anybody."""
        self.alias_over: Callable[[str, Entry], None] = nobody
        self.born: Callable[[str, Entry, Content, bool], None] = nobody
        """Told (name, entry, what the version before had, made by the agent) when a server begins to give a set."""

    def current(self, name: str) -> RR:
        """What the primary gives."""
        return self.versions[-1].given(name)

    @property
    def away(self) -> bool:
        """No server answers anybody."""
        return self.away_since is not None

    def is_back(self) -> None:
        """It is not away any more."""
        if self.away:
            self.away_since = None
            for server in self.servers:
                server.heard_since = self.clock.t

    def heard(self, for_s: float) -> bool:
        """Whether one of its servers could have been asked by the agent all that time, until now."""
        since = self.clock.t - for_s
        answering = (s for s in self.servers if not (s.deaf or s.refuses))
        return not self.away and any(s.heard_since <= since for s in answering)

    def horizon(self) -> float:
        """What expired since this moment some cache may still use."""
        return self.clock.t if self.away_since is None else self.away_since

    def put(self, name: str, rr: RR, *, since: float | None) -> None:
        """A new version at the primary; the others follow sooner or later."""
        if self.versions[-1].sets.get(name, NOTHING) == rr:
            return
        sets = dict(self.versions[-1].sets)
        if rr.content:
            sets[name] = rr
        else:
            sets.pop(name, None)
        if since is not None:
            for entry in self.entries.get(name, {}).values():
                entry.retimed |= entry.content == rr.content
        blind = self.clock.t - self.strange.get(name, -1e9) < NOTICE_S
        if since is not None:
            self.strange[name] = self.clock.t
        changed = [n for n in self.entries if n not in sets] if name == "*" else [name]
        authors = dict(self.versions[-1].authors)
        authors |= {n: Author(since, blind, self.current(n).content) for n in changed}
        self.versions.append(Version(sets, authors))
        self.changed_at = self.clock.t
        serial = len(self.versions) - 1
        self.serve(self.servers[0], serial)
        for server in self.servers[1:]:
            self.clock.at(self._lag(), partial(self._follow, server))

    def _lag(self) -> float:
        rng = self.clock.rng
        if not self.clock.hostile:
            return rng.uniform(0.05, 1.0)
        draw = rng.random()
        if draw < 0.8:
            return rng.uniform(0.01, 1.5)
        return rng.uniform(1.5, 90) if draw < 0.95 else rng.uniform(90, 3600)

    def _follow(self, server: Server) -> None:
        if not server.stuck:
            self.serve(server, len(self.versions) - 1)

    def serve(self, server: Server, serial: int, *, regressed: bool = False) -> None:
        """From now on the server gives this version."""
        recovers, server.back = server.back, regressed
        server.serial = serial
        version = self.versions[serial]
        now = self.clock.t
        for name in self.entries:
            rr = version.given(name)
            given = server.given.get(name)
            author = version.authors.get(name, Author())
            if given is not None:
                if given[0].content == rr.content and given[1] == rr.ttl_s:
                    continue
                given[0].superseded |= author.since is None and not regressed and not recovers
                self._close(name, *given)
            since = now if regressed else author.since
            entry = self.entries[name].get((rr.content, since))
            if entry is None:
                entry = self.entries[name][(rr.content, since)] = Entry(rr.content, since, regressed=regressed)
            entry.live += 1
            entry.ttl_s = max(entry.ttl_s, rr.ttl_s) if entry.live > 1 else rr.ttl_s
            server.given[name] = (entry, rr.ttl_s)
            if given is not None:
                self.clock.note(f"      {server.label} now gives {name} {tell(rr.content)} ttl {rr.ttl_s}")
            self.born(name, entry, author.before, since is None and not author.blind)

    def _close(self, name: str, entry: Entry, ttl_s: int) -> None:
        now = self.clock.t
        entry.live -= 1
        entry.ended = now
        entry.expiry = max(entry.expiry, now + (ttl_s if isinstance(entry.content, str) else self.kept(ttl_s)))
        if not entry.live and isinstance(entry.content, str):
            self.clock.at(ttl_s, partial(self.alias_over, name, entry))

    def kept(self, ttl_s: int) -> float:
        """How long some sender may use a set after it was last given, in seconds."""
        return ttl_s + SLACK * max(ttl_s, self.safety_margin_s)

    def know(self, name: str) -> None:
        """Begin to keep books about a name."""
        if name not in self.entries:
            self.entries[name] = {}
            for server in self.servers:
                rr = self.versions[server.serial].given(name)
                entry = self.entries[name].setdefault((rr.content, None), Entry(rr.content, None, first=True))
                entry.live += 1
                entry.ttl_s = max(entry.ttl_s, rr.ttl_s)
                server.given[name] = (entry, rr.ttl_s)

    def takes(self, name: str, parent: Zone) -> None:
        """A name of the parent is in this zone from now on, with the set that the parent's primary has.

        What caches may hold of it stays what it was.
        """
        entry, rr = parent.servers[0].given[name][0], parent.versions[-1].sets.get(name, NOTHING)
        self.entries[name] = parent.entries.pop(name)
        for server in parent.servers:
            parent._close(name, *server.given.pop(name))
        if rr.content:
            self.versions[0].sets[name] = rr
        if entry.content != rr.content:  # the parent gave what a wildcard has
            entry = self.entries[name].setdefault((rr.content, self.clock.t), Entry(rr.content, self.clock.t))
        for server in self.servers:
            entry.live += 1
            server.given[name] = entry, rr.ttl_s

    def heal(self) -> None:
        """Nothing new goes wrong, and what is going on is over soon: every server answers and follows."""
        self.security = "secure"
        self.inside = False
        self.is_back()
        for server in self.servers:
            if not server.back and server.ill_until - self.clock.t < SOON_S:
                self.clock.busy(server.ill_until - self.clock.t)
                continue
            server.deaf = server.refuses = server.stuck = False
            if server.back:
                for entry, _ in server.given.values():
                    entry.cut |= entry.regressed
            self._follow(server)


def tell(content: Content) -> str:
    """For the trace: short."""
    if isinstance(content, str):
        return f"alias to {content}"
    return "{" + ", ".join(f"{v[:5]} {v[6:12]}" for v in sorted(content)) + "}"


class Dns:
    """All zones, and what the world's caches may hold."""

    def __init__(self, clock: Clock, zones: list[Zone]) -> None:
        self.clock = clock
        self.zones = {z.name: z for z in zones}
        self._zones: dict[str, Zone] = {}
        for zone in zones:
            zone.alias_over = self._alias_over

    def adds(self, child: Zone) -> None:
        """A zone below another."""
        self.zones = {child.name: child, **self.zones}
        self._zones.clear()

    def zone_of(self, name: str) -> Zone:
        """The zone of a name."""
        zone = self._zones.get(name)
        if zone is None:
            zone = self._zones[name] = next(z for n, z in self.zones.items() if name.endswith(n))
        return zone

    def cacheable(self, name: str, *, depth: int = 0) -> Iterator[tuple[Values, tuple[Entry, ...]]]:
        """Every set of TLSA values that some sender may use for the name now, and the entries it came by."""
        zone = self.zone_of(name)
        for entry in zone.entries[name].values():
            if entry.live or entry.expiry > zone.horizon():
                if not isinstance(entry.content, str):
                    if entry.content:
                        yield entry.content, (entry,)
                elif depth < 4:
                    for values, by in self.cacheable(entry.content, depth=depth + 1):
                        yield values, (entry, *by)

    def met(self, name: str, labels: Collection[str], *, depth: int = 0) -> None:
        """Mark what these servers give at a name, and where it leads."""
        for server in self.zone_of(name).servers:
            if server.label in labels and name in server.given:
                entry = server.given[name][0]
                entry.met = True
                if isinstance(entry.content, str) and depth < 4:
                    self.met(entry.content, labels, depth=depth + 1)

    def forget_past(self, name: str) -> None:
        """Caches hold nothing any more of what was over at this name until now."""
        for reached in self.reaches(name):
            for entry in self.zone_of(reached).entries[reached].values():
                entry.expiry = -1.0

    def reaches(self, name: str) -> set[str]:
        """The names whose sets count for this one, itself included."""
        zone, found = self.zone_of(name), {name}
        for entry in zone.entries[name].values():
            if isinstance(entry.content, str) and (entry.live or entry.expiry > zone.horizon()):
                found |= self.reaches(entry.content)
        return found

    def _alias_over(self, name: str, alias: Entry) -> None:
        # nobody follows the old alias any more; what was fetched through it lives on under the name itself
        now = self.clock.t
        if alias.live or alias.expiry > now or not isinstance(alias.content, str) or alias.unseen(now):
            return
        zone = self.zone_of(name)
        for values, by in list(self.cacheable(alias.content)):
            last = by[-1]
            until = now + zone.kept(last.ttl_s) if last.live else last.expiry
            key = (values, last.since)
            entry = zone.entries[name].setdefault(key, Entry(values, last.since))
            entry.expiry = max(entry.expiry, until)
            entry.ended = max(entry.ended, now)
