"""The smallest worlds, in which nothing happens by chance: `explore.py` tells what may happen in each (`occasions.py`).

Two name servers answer for each zone. A world rolls its keys; or its certificate is about to expire, since the agent
did not run for days.
"""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any, NamedTuple

from msgspec.structs import replace

from certagent.dns.providers.protocol import Capabilities
from certagent.facts.tls import Service
from tests.simulation import byhand
from tests.simulation.ca import NOW
from tests.simulation.canonical import Text
from tests.simulation.dns import RR
from tests.simulation.history import History
from tests.simulation.mail import Pool
from tests.simulation.mischief import rotate
from tests.simulation.world import TTLS, World

CHECK_INTERVAL = timedelta(hours=6)
LEFT = timedelta(hours=26)
"""What is left of a certificate of six days that runs out: two hours before a renewal keeps its key."""


class Still(random.Random):
    """Dice that always fall alike: `draw` says how; keys are new each time."""

    def __init__(self, draw: float, **wanted: Any) -> None:
        super().__init__(0)
        self.draw = draw
        self.wanted = wanted
        self._count = 0

    def random(self) -> float:
        return self.draw

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.draw

    def getrandbits(self, k: int, /) -> int:
        self._count += 1
        return 1 << (k - 1) | self._count

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return 0 if stop is None else start

    def randint(self, a: int, b: int) -> int:
        return a

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        return list(population)[:k]

    def choice(self, seq: Any) -> Any:
        if tuple(seq)[:2] == (0.0, 1.0):
            return seq[1]  # of how long an old process lives: as long as it may
        asked = next((name for name, these in _ASKED.items() if these == tuple(seq)), "")
        return self.wanted.get(asked, seq[0])

    def shuffle(self, x: Any) -> None:
        """As it is."""


_ASKED: dict[str, tuple[Any, ...]] = {
    "secondaries": (0, 1, 1, 2),
    "hosts": (1, 1, 1, 1, 1, 2, 2, 3),
    "ttl_s": TTLS,
}


class Small(NamedTuple):
    """A smallest world."""

    name: str
    draw: float
    hosts: int = 1
    standby: bool = False
    readers: int = 1
    """Of the first server's file; the second has no TLSA records."""
    names: int = 2
    """So many servers at most have TLSA records."""
    runs_out: bool = False
    """The certificate does, instead of a roll."""
    after: int = 100
    """At most so many steps and waits after the last event: a roll has about forty."""


WORLDS = (
    Small("one name, one server, a standby key", 0.6, standby=True),
    Small("one name, one server, no standby key", 0.6),
    Small("two names, two servers", 0.6, hosts=2),
    Small("two names behind one alias, two servers", 0.4, hosts=2),
    Small("one file, two readers, one of them without TLSA", 0.6, readers=2),
    Small("two servers, one of them without TLSA", 0.6, hosts=2, names=1),
    Small("a certificate that runs out", 0.6, standby=True, runs_out=True, after=250),
)


class Explored(History):
    """A history that goes on by one step or one wait, and may be cut."""

    backup: byhand.Backup
    """From before the roll."""
    old_zone: int
    """The version of the first zone from before the roll."""
    quiet = 0
    """How often nothing was due for a check interval, since the last event."""

    def go(self) -> None:
        """One step of the agent, or the time until something is due."""
        clock = self.clock
        self.halt = self.world.steps + 1
        delay = self.turn()
        self.quiet += delay > CHECK_INTERVAL.total_seconds() / 2
        if delay:
            due = clock.next_event()
            end = clock.t + delay
            clock.until(end if due is None else min(end, max(due, clock.t)))

    def digest_now(self) -> bytes:
        """Of the situation: what is equal goes on alike."""
        return Text(self.world, self.old_zone).digest()


def dice(small: Small) -> Still:
    """Those of a smallest world."""
    return Still(small.draw, secondaries=1, hosts=small.hosts, ttl_s=300)


def begun(small: Small, still: Still) -> Explored:
    """All is well, and then the operator asks for new keys, or the agent wakes up late."""
    world = World(still)
    NOW.begin(world.clock)
    if small.readers > 1:
        _second_reader(world)
    servers = [server.name for server in world.mail_servers[: small.names]]
    names = {name: hosts for name, hosts in world.spec.tlsa_names.items() if set(hosts) <= set(servers)}
    for name in world.answers.keys() - names:
        world.dns.zone_of(name).put(name, RR(frozenset(), 0), since=None)
    world.judge.known &= names.keys()
    spec = replace(
        world.spec,
        tlsa_names=names,
        mail_servers=world.mail_servers,
        standby=small.standby,
        rotate_key=timedelta(0) if small.runs_out else None,
        check_interval=CHECK_INTERVAL,
    )
    world.configure(spec, "as small as can be")
    history = Explored(world)
    world.provider.flaky, world.provider.capabilities = 1.0, Capabilities(precondition="set")
    world.clock.crashes_left = 0
    history.peace()
    history.until_converged("in a world without faults")
    world.clock.hostile = True
    history.backup, history.old_zone = byhand.backup(world), len(world.zones[0].versions) - 1
    if small.runs_out:
        assert world.journal.head.newest
        ends = min(chain.not_after for chain in world.journal.head.newest.chains.values())
        world.clock.until(world.clock.t + (ends - LEFT - world.clock.true_wall()).total_seconds())
    else:
        rotate(world)
    return history


def _second_reader(world: World) -> None:
    """Another daemon of the first mail server reads the same file at its reload; it offers TLS for IMAP."""
    (name, host), *_ = world.hosts.items()
    pool = Pool("192.0.2.9", host.files, "dovecot")
    host.pools.append(pool)
    first, *others = world.mail_servers
    imap = Service(name, 993, "tls", (pool.address,))
    world.mail_servers = (replace(first, services=(*first.services, imap)), *others)
    world.answers[f"_993._tcp.{name}.example.org."] = (name,)
    world.zones[0].know(f"_993._tcp.{name}.example.org.")
