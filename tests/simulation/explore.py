"""Every place of a few events in the smallest worlds: `make explore`, beside the random histories.

A world rolls its keys. Wherever the agent stands between two of its steps or waits, each event may happen that its
world has: a crash at any line of the next step, a lost or refused change, a name server that falls silent, stops, or
goes back, and what people do. All histories with one event are told first, then all with two, and so on. Worlds that
are equal (`canonical.py`) are told once. What caches fetch is no event: the world counts every set that any cache may
hold.

The engine, the world and its judge are those of the simulation; only the dice are still: nothing happens by chance.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple, cast

from msgspec.structs import replace

from certagent.dns.providers.protocol import Capabilities
from certagent.lifecycle import events as ev
from tests.simulation import byhand
from tests.simulation.ca import NOW, cheap
from tests.simulation.canonical import Text
from tests.simulation.clock import Crash, Violation
from tests.simulation.copies import Kept, keep
from tests.simulation.dns import RR
from tests.simulation.history import History
from tests.simulation.mail import Shown
from tests.simulation.mischief import alias, rotate
from tests.simulation.world import TTLS, World

AFTER = 100
"""At most so many steps and waits after the last event: a roll has about forty."""
CHECKS = 2
"""Then all was verified and observed so often while nothing was due: what follows is the same again."""
GOLDEN = (5**0.5 - 1) / 2
CHECK_INTERVAL = timedelta(hours=6)
CLEAR = 2000
"""Worlds after which what is remembered of the engine's answers is dropped."""


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
    hosts: int
    standby: bool
    events: tuple[str, ...]


class Explored(History):
    """A history that goes on by one step or one wait, and may be cut."""

    backup: byhand.Backup
    """From before the roll."""
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


# -- events ----------------------------------------------------------------------------------------------------------

Event = Callable[[Explored], bool]
"""Whether it can happen."""


def _provider(fate: float) -> Event:
    def event(history: Explored) -> bool:
        history.world.provider.flaky = history.world.rng.random() / fate
        writes = len(history.world.provider.writes)
        history.go()
        history.world.provider.flaky = 1.0
        return len(history.world.provider.writes) > writes

    return event


def _reload(fate: float) -> Event:
    def event(history: Explored) -> bool:
        host = next(iter(history.world.hosts.values()))
        host.flaky, before = history.world.rng.random() / fate, host.reloaded_at
        history.go()
        host.flaky = 1.0
        return host.reloaded_at != before

    return event


def _secondary(**flags: bool) -> Event:
    def event(history: Explored) -> bool:
        zone = history.world.zones[0]
        server = zone.servers[1]
        if all(getattr(server, flag) == value for flag, value in flags.items()):
            return False
        for flag, value in flags.items():
            setattr(server, flag, value)
        if not server.deaf:
            server.heard_since = history.clock.t
        if flags.get("stuck") is False:
            zone.serve(server, len(zone.versions) - 1)
        return True

    return event


def _asked(what: Any, *, accept_deferrals: bool = False) -> Event:
    def event(history: Explored) -> bool:
        history.world.journal.append("mail", ev.Requested(what=what, accept_deferrals=accept_deferrals))
        return True

    return event


def _person(does: Callable[[World], None]) -> Event:
    def event(history: Explored) -> bool:
        does(history.world)
        return True

    return event


def _replaced(history: Explored) -> bool:
    """Somebody exchanges the files for those of a backup, without a word to DNS."""
    world = history.world
    host = next(iter(world.hosts.values()))
    if any(shown.hand for shown in host.files.values()):
        return False
    chain = world.journal.head.generations[0].chains
    host.place({key_type: Shown(one, hand=True) for key_type, one in chain.items()})
    host.restart()
    return True


def _old_state(history: Explored) -> bool:
    """The state directory is that of before the roll."""
    byhand.bring_back(history.backup, history.world)
    return True


def _emptied(history: Explored) -> bool:
    """Somebody removes all records."""
    zone = history.world.zones[0]
    (name, rr), *_ = [*zone.versions[-1].sets.items()] or [("", None)]
    if rr is None or isinstance(rr.content, str):
        return False
    zone.put(name, RR(frozenset(), 0), since=history.clock.t)
    return True


def _withdrawn(history: Explored) -> bool:
    """A TLSA name is taken out of the configuration, or put in again."""
    world = history.world
    name, hosts = next(iter(world.answers.items()))
    names = dict(world.spec.tlsa_names)
    if names.pop(name, None) is None:
        names[name] = hosts
    world.configure(replace(world.spec, tlsa_names=names), f"TLSA names {sorted(names)}")
    return True


EVENTS: dict[str, Event] = {
    "the provider says yes and does nothing": _provider(0.055),
    "the change comes later": _provider(0.07),
    "the answer is lost": _provider(0.11),
    "the change is refused": _provider(0.045),
    "a reload is swallowed": _reload(0.03),
    "TLS fails after the reload": _reload(0.045),
    "the secondary falls silent": _secondary(deaf=True),
    "the secondary is heard": _secondary(deaf=False),
    "the secondary stops": _secondary(stuck=True),
    "the secondary follows": _secondary(stuck=False),
    "rotate": _asked("rotate"),
    "emergency": _asked("emergency", accept_deferrals=True),
    "abort": _asked("abort"),
    "a roll by hand": _person(byhand.roll_by_hand),
    "an old state comes back": _old_state,
    "files are replaced": _replaced,
    "records are removed": _emptied,
    "a name is withdrawn": _withdrawn,
    "an alias leads elsewhere": _person(alias),
}
ALL = tuple(name for name in EVENTS if name != "an alias leads elsewhere")
WORLDS = (
    Small("one name, one server, a standby key", 0.6, 1, standby=True, events=ALL),
    Small("one name, one server, no standby key", 0.6, 1, standby=False, events=ALL),
    Small("two names, two servers", 0.6, 2, standby=False, events=ALL),
    Small("two names behind one alias, two servers", 0.4, 2, standby=False, events=tuple(EVENTS)),
)


# -- the exploration -------------------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A world, what led there, and how far it goes on from there until it is quiet, or as another did."""

    kept: Kept
    path: tuple[str, ...]
    length: int = 0


class Found(NamedTuple):
    """What came of a world."""

    name: str
    states: int
    depth: int
    """All histories with so many events were told."""
    violations: list[tuple[tuple[str, ...], str]]
    took_s: float

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.states} states, every history of {self.depth} events, "
            f"{len(self.violations)} violations, in {self.took_s:.0f} s"
        )


class Exploration:
    """Of one smallest world."""

    def __init__(self, small: Small, *, states: int, until: float) -> None:
        self.small = small
        self.most = states
        self.until = until
        self.states = 0
        self.violations: list[tuple[tuple[str, ...], str]] = []
        self._seen: set[bytes] = set()
        self._dice = Still(small.draw, secondaries=1, hosts=small.hosts, ttl_s=300)

    def run(self) -> Found:
        """As far as it may go."""
        began, depth = time.monotonic(), 0
        try:
            level = [self._on(self._first())]
        except Violation as error:
            self.violations.append((("no event",), str(error)))
            level = []
        while level:
            following: list[Node] = []
            for node in level:
                following += self._along(node)
                if self._over():
                    return self._found(depth, began)
            level = following
            depth += 1
        return self._found(depth, began)

    def _over(self) -> bool:
        return self.states >= self.most or time.monotonic() > self.until or len(self.violations) > 20

    def _found(self, depth: int, began: float) -> Found:
        return Found(self.small.name, self.states, depth, self.violations, time.monotonic() - began)

    def _first(self) -> Node:
        """All is well, and the operator asks for new keys."""
        world = World(self._dice)
        NOW.begin(world.clock)
        spec = replace(world.spec, standby=self.small.standby, check_interval=CHECK_INTERVAL)
        world.configure(spec, "as small as can be")
        history = Explored(world)
        world.provider.flaky, world.provider.capabilities = 1.0, Capabilities(precondition="set")
        world.clock.crashes_left = 0
        history.peace()
        history.until_converged("in a world without faults")
        world.clock.hostile = True
        history.backup = byhand.backup(world)
        rotate(world)
        world.journal.first, world.journal.rows = world.journal.head, []
        return Node(keep(history, self._dice), ())

    def _on(self, node: Node) -> Node:
        """It goes on without an event."""
        kept, last, length = node.kept, b"", 0
        while length < AFTER and not self._over():
            history = self._copy(kept)
            try:
                history.go()
            except Violation as error:
                self.violations.append((node.path, str(error)))
                break
            digest = Text(history.world).digest()
            if (digest != last and not self._new(digest)) or history.quiet > CHECKS:
                break
            kept, last, length = self._kept(history), digest, length + 1
        return node._replace(length=length)

    def _along(self, node: Node) -> Iterator[Node]:
        """What may happen at each moment from there on, each as a node of its own, and told to its end."""
        moments = [node.kept]
        while len(moments) <= node.length:
            history = self._copy(moments[-1])
            history.go()
            moments.append(self._kept(history))
        # not in their order, but evenly: what is cut short has something of everything
        for step in sorted(range(len(moments)), key=lambda step: step * GOLDEN % 1):
            kept = moments[step]
            for name, event in self._possible(kept):
                if self._over():
                    return
                history = self._copy(kept)
                history.quiet = 0
                path = (*node.path, f"at {step}: {name}")
                try:
                    if not event(history):
                        continue
                except Violation as error:
                    self.violations.append((path, str(error)))
                    continue
                if self._new(Text(history.world).digest()):
                    yield self._on(Node(self._kept(history), path))

    def _new(self, digest: bytes) -> bool:
        if digest in self._seen:
            return False
        self._seen.add(digest)
        self.states += 1
        if self.states % CLEAR == 0:
            NOW.memory.delete()
        return True

    def _kept(self, history: Explored) -> Kept:
        history.world.journal.first, history.world.journal.rows = history.world.journal.head, []
        return keep(history, self._dice)

    def _possible(self, kept: Kept) -> Iterator[tuple[str, Event]]:
        for name in self.small.events:
            yield name, EVENTS[name]
        lines = self._lines(kept)
        for line in range(lines):
            yield f"killed at line {line + 1} of {lines}", _killed(line)

    def _lines(self, kept: Kept) -> int:
        """At how many lines of its next step the agent may be killed."""
        history = self._copy(kept)
        history.clock.lines = 0
        try:
            history.go()
        except (Violation, Crash):
            return 0
        return history.clock.lines

    def _copy(self, kept: Kept) -> Explored:
        history = cast("Explored", kept.copy(self._dice))
        NOW.clock = history.clock
        return history


def _killed(line: int) -> Event:
    def event(history: Explored) -> bool:
        history.clock.killed_at = line
        history.clock.lines = 0
        history.go()
        history.clock.killed_at = None
        return True

    return event


def explore(*, states: int, seconds: float) -> Iterator[Found]:
    """Every smallest world in turn; each has its share of the time."""
    with cheap():
        for small in WORLDS:
            yield Exploration(small, states=states, until=time.monotonic() + seconds / len(WORLDS)).run()


def main(arguments: list[str]) -> int:
    """`STATES=` of each world, and `TIME=` in seconds, of all."""
    given = dict(a.split("=", 1) for a in arguments)
    bad = 0
    for found in explore(states=int(given.get("STATES") or 10**9), seconds=float(given.get("TIME") or 600)):
        print(found, flush=True)
        for path, what in found.violations:
            print(f"  {' > '.join(path) or 'nothing happened'}: {what}")
        bad += len(found.violations)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
