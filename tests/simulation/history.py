"""One history: a hostile part of about a hundred steps, then peace, in which all must come to its end in time."""

from __future__ import annotations

from typing import NamedTuple, cast

from certagent.agent import Told, advance
from certagent.errors import Error
from certagent.lifecycle.planner import RULES
from certagent.lifecycle.steps import Wait
from certagent.store.journal import Journal
from tests.simulation.ca import Dice
from tests.simulation.clock import Crash, Violation
from tests.simulation.dns import tell
from tests.simulation.mischief import ANYTIME, BETWEEN, Mischief
from tests.world import World

STEPS = 80
"""Steps of the hostile part, about."""
TOO_MANY = 1500
"""Steps of one history; more means that the agent runs in circles."""
WRITES_AN_HOUR = 90
"""TLSA writes within one hour; more means that it hammers the provider."""


class Outcome(NamedTuple):
    """How a history ended."""

    seed: int
    violation: str | None
    steps: int
    virtual_s: float
    trace: list[str]


class History:
    """Drives one world."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.world = World(seed, tracing=tracing)
        self.clock = self.world.clock
        rng = self.world.rng
        self.left = rng.choice((0, 0, 2, 4, 6, 8, 10, 14))
        """Mischief still to come."""
        self.requests = rng.choice((0, 1, 2, 3))
        self.clock.crashes_left = rng.choice((0, 0, 1, 2, 5))
        self.clock.crash_chance = rng.choice((0.003, 0.01, 0.03))
        self.confirmed: set[str] = set()
        """TLSA names of which a whole turn of the agent has known."""
        self.limit = rng.randrange(STEPS // 3, STEPS * 2)

    def run(self) -> None:
        """All of it; raises Violation."""
        world, clock = self.world, self.clock
        clock.note(f"spec {world.spec}")
        while world.steps < self.limit and clock.t < 400 * 86400:
            self._turn_and_sleep()
        self._peace()
        self._until_settled("after the faults")
        if world.rng.random() < 0.4:
            world.ca.urgent_before = clock.t
            before = world.journal.head.generations_made
            clock.note("   ! everything is to be renewed (ARI)")
            end = clock.t + 86400 + 60
            while world.journal.head.generations_made == before:
                if clock.t > end:
                    raise Violation("an urgent renewal did not happen within a day")
                self._turn_and_sleep()
            self._until_settled("after an urgent renewal")
        world.journal.reopened()
        world.journal.verify()

    # -- the agent's turns

    def _turn_and_sleep(self) -> None:
        world, clock, rng = self.world, self.clock, self.world.rng
        delay = self._turn()
        if clock.hostile and (self.left or self.requests):
            self._draw(delay)
        end = clock.t + delay
        world.woken = False
        while not world.woken:
            due = clock.next_event()
            if due is None or due > end:
                clock.until(end)
                return
            clock.until(due)
        if rng.random() < 0.5:  # somebody edits, and it takes a while until the agent is told
            clock.go_on(rng.uniform(0, 5))

    def _turn(self) -> float:
        world, clock, rng = self.world, self.clock, self.world.rng
        try:
            while world.between:
                world.between.pop(0)(world)
            world.judge.known |= set(world.spec.owners)
            journal = cast("Journal", world.journal)
            wait = advance(world.spec, journal, world.edges, tell=self._told, stopping=self._stopping)
        except Crash:
            down_s = rng.choice((1.0, 60.0, 3600.0, 86400.0)) * rng.random()
            world.asleep_since = clock.t
            self._unknown()
            if rng.random() < 0.3:
                clock.reboot()
                clock.note("      reboot")
                for host in world.hosts.values():
                    host.restart()
            clock.until(clock.t + down_s)
            world.asleep_since, world.awake_since = None, clock.t
            world.journal.reopened()
            clock.note("agent starts")
            return 0.0
        except Error as error:
            self._unknown()
            clock.note(f"turn ended: {error}")
            return 60.0
        self.confirmed |= set(world.spec.owners)
        self._check_pace()
        if wait is None:
            return 0.0
        self._show(wait)
        return wait.delay.total_seconds()

    def _unknown(self) -> None:
        # a name that is taken out again before the agent could journal anything of it, it never knew
        self.world.judge.known &= self.confirmed | set(self.world.journal.head.owners)

    def _stopping(self) -> bool:
        if self.world.steps > TOO_MANY:
            raise Violation(f"{TOO_MANY} steps")
        return bool(self.world.between)

    def _told(self, told: Told) -> None:
        world = self.world
        world.tell(told)
        if self.left and self.clock.hostile and world.rng.random() < 0.03:
            self.left -= 1
            mischief = world.rng.choice(ANYTIME)
            self.clock.at(world.rng.uniform(0, 3), lambda: self._strike(mischief))

    def _draw(self, delay: float) -> None:
        world, rng = self.world, self.world.rng
        if rng.random() > 0.4:
            return
        moment = rng.choice((0.01, rng.random(), 1 - rng.random() ** 4, 0.999)) * delay
        if self.requests and rng.random() < 0.4:
            self.requests -= 1
            what = rng.choice(BETWEEN)

            def wake() -> None:
                if self.clock.hostile:
                    world.between.append(what)
                    world.woken = True

            self.clock.at(moment, wake)
        elif self.left:
            self.left -= 1
            mischief = rng.choice(ANYTIME)
            self.clock.at(moment, lambda: self._strike(mischief))

    def _strike(self, mischief: Mischief) -> None:
        if self.clock.hostile:
            mischief(self.world)

    def _check_pace(self) -> None:
        writes = self.world.provider.writes
        if len(writes) > WRITES_AN_HOUR and writes[-1] - writes[-WRITES_AN_HOUR] < 3600:
            raise Violation(f"{WRITES_AN_HOUR} writes to DNS within an hour")

    # -- peace

    def _peace(self) -> None:
        world, clock = self.world, self.clock
        clock.note("peace: no faults from here on")
        clock.hostile = False
        clock.wall_offset_s = 0.0
        world.journal.disk_full = world.vault.disk_full = False
        world.provider.down = world.ca.down = False
        for host in world.hosts.values():
            host.misconfigured = host.disk_full = False
            if host.down or any(p.broken for p in host.pools):
                host.restart()
        for zone in world.zones:
            zone.heal()
            for name, rr in list(zone.versions[-1].sets.items()):
                if isinstance(rr.content, str):
                    continue
                # people take away what they put there, and what they forgot when they took a name out of the config
                owners = {o for o in world.answers if name in world.dns.reaches(o)}
                strange = set(world.judge.foreign_values)
                if not owners & set(world.spec.owners):
                    strange |= rr.content - world.provider.published
                if rr.content & strange:
                    values = rr.content - strange
                    zone.put(name, rr._replace(content=values, ttl_s=rr.ttl_s if values else 0), since=clock.t)

    def _bound(self) -> float:
        """By when everything must be over: the longest back-off (a CA's day, and its Retry-After), some holds of the
        longest TTL and alias there is, late transfers and updates, drains, and looks at their slowest.
        """
        world = self.world
        spec = world.spec
        hold = 2 * 86400 + spec.guard.total_seconds() + 86400
        return 27 * 3600 + 3 * 3600 + 3 * hold + 6 * spec.drain.total_seconds() + 6 * spec.watch.total_seconds()

    def _until_settled(self, when: str) -> None:
        world, clock = self.world, self.clock
        began = clock.t
        end = began + self._bound()
        quiet = 0
        while True:
            self._turn_and_sleep()
            if world.judge.settled(world.spec, world.journal):
                quiet += 1
                if quiet > 2 and clock.t > began + 2 * 3600 + world.spec.watch.total_seconds():
                    break  # what came late, within two hours, was seen by now
            else:
                quiet = 0
            if clock.t > end:
                if not quiet:
                    raise Violation(f"{when}: not settled in time: {self._open()}")
                break
        world.judge.last(world.spec, world.journal.head, world.provider, world.ca, world.vault)

    def _open(self) -> str:
        state = self.world.journal.head
        phases = [f"{n} {i.phase} {i.generation}" for n, i in state.targets.items()]
        failing = [f"{w} {f.code}" for w, f in state.failures.items()]
        newest = state.newest.id if state.newest else None
        order = f"orders {list(state.orders)}, {state.requested}, {len(state.challenges)} TXT"
        return f"{order}, {failing}, {phases}, newest {newest}"

    def explain(self) -> None:
        """For the trace: everything the rules offer at the end."""
        world, journal = self.world, self.world.journal
        state = journal.head
        self.clock.note(f"   . open: {state.orders} {state.requested} {state.challenges} {state.targets}")
        self.clock.note(f"   . keys {[k.id for k in state.keys]} generations {[g.id for g in state.generations]}")
        for rule in RULES:
            for offer in rule(world.spec, journal.head, journal.now()):
                held = journal.head.failures.get(getattr(offer, "work", ""))
                self.clock.note(f"   . {rule.__name__}: {type(offer).__name__} {offer.because} {held or ''}")

    def _show(self, wait: Wait) -> None:
        clock, world = self.clock, self.world
        if clock.trace is None:
            return
        clock.note(f"wait {wait.delay}: {wait.because}")
        for host in world.hosts.values():
            shown = {f"{a} {s.leaf.spki[:6]}" for p in host.pools for f in p.alive(clock.t) for a, s in f.items()}
            clock.note(f"      served at {host.name}: {', '.join(sorted(shown)) or 'nothing'}")
        for owner in sorted(world.judge.known):
            sets = {tell(v) for v, _ in world.dns.holdable(owner)}
            clock.note(f"      cached of {owner}: {' '.join(sorted(sets)) or 'nothing'}")


def run(seed: int, dice: Dice, *, tracing: bool = False) -> Outcome:
    """One history from its seed, within `cheap() as dice`."""
    history = History(seed, tracing=tracing)
    dice.clock = history.clock
    violation = None
    try:
        history.run()
    except Violation as error:
        violation = str(error)
        if tracing:
            history.explain()
    return Outcome(seed, violation, history.world.steps, history.clock.t, history.clock.trace or [])
