"""One history: a hostile part; then, in some, peace, in which all must come to its end in time.

Most are short: a roll or a piece of one, with a few faults, from a world in which all was well (`converged.py`). Some
begin with certagent's first observation of a world that it does not know, and some are long, with every kind of fault
one on the other. Safety is judged at every moment of each; liveness takes as long as all the
rest: it is judged in a share.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from hashlib import blake2b
from typing import NamedTuple, cast

from msgspec.structs import replace

from certagent.agent.certificate import Certificate
from certagent.agent.loop import advance
from certagent.dns.providers.protocol import Capabilities
from certagent.errors import Error
from certagent.facts.wait import Wait
from certagent.lifecycle.events import AnyEvent
from certagent.lifecycle.planner import RULES
from certagent.lifecycle.rules.rule import View
from certagent.lifecycle.state import State
from certagent.lifecycle.steps import AnyStep
from certagent.report.step import StepReport
from certagent.store.journal import Journal
from tests.simulation.byhand import at_once, old_state, roll_by_hand, take_away
from tests.simulation.clock import Crash, Violation, nobody
from tests.simulation.cut import configured, cut, cut_soon
from tests.simulation.demands import DEMANDS
from tests.simulation.dns import RR, tell
from tests.simulation.linked import apart, link
from tests.simulation.mischief import (
    ANYTIME,
    BETWEEN,
    Mischief,
    alias,
    away,
    cut_off,
    deaf_for_days,
    edit_challenge,
    gives_up,
    inside,
    meddle,
    raise_ttl,
    regress,
    rotate,
    there_and_back,
    unasked,
    unresolved,
    wildcard,
    withdraw,
)
from tests.simulation.world import World


class Shape(NamedTuple):
    """What a history is like."""

    share: int
    converged: bool
    """Whether it begins in a world in which all is well; else with the first observation."""
    steps: tuple[int, int]
    """Least and most steps of the hostile part."""
    mischief: tuple[int, ...]
    requests: tuple[int, ...]
    eager: float
    """How probable it is that something is drawn after a turn of the agent."""
    ends: float
    """How probable it is that peace comes, and everything must end well."""
    kinds: tuple[Mischief, ...] = ()
    """Of mischief; none: all, or a few by chance."""
    first: tuple[Mischief, ...] = ()
    """What strikes at once, one after the other."""
    days: int = 400
    """The hostile part ends after so long at the latest."""


SHAPES = (
    Shape(286, True, (3, 14), (0, 1, 2, 3, 4, 6), (1, 1, 1, 2), 0.9, 0.2),
    Shape(6, True, (30, 60), (0,), (0,), 0.9, 0.2, first=(there_and_back, rotate)),
    Shape(8, False, (8, 26), (0, 1), (0, 1), 0.7, 0.4, first=(unresolved,)),
    Shape(40, False, (8, 26), (0, 1, 2, 4, 6), (0, 0, 1, 2), 0.7, 0.4),
    Shape(6, False, (8, 26), (0, 1), (0, 1), 0.7, 0.4, first=(inside,)),
    Shape(6, False, (20, 60), (0, 1), (1, 2), 0.7, 0.4, first=(wildcard,)),
    Shape(6, True, (20, 60), (0, 1), (0, 1), 0.7, 0.4, first=(wildcard, rotate, withdraw)),
    Shape(4, True, (16, 40), (0, 1), (1, 2), 0.7, 0.4, first=(inside, rotate)),
    Shape(10, True, (16, 40), (1, 2, 3), (1,), 0.7, 0.4, kinds=(regress, regress, cut_off, raise_ttl)),
    Shape(8, True, (16, 40), (0, 1), (0, 1), 0.7, 0.4, first=(cut_off, rotate)),
    Shape(8, True, (16, 40), (0, 1), (0,), 0.9, 0.2, kinds=(alias, raise_ttl), first=(alias, rotate)),
    Shape(8, True, (16, 40), (1, 2, 3), (0, 1), 0.9, 0.2, kinds=(meddle, meddle, regress), first=(rotate,)),
    Shape(4, False, (8, 26), (0, 1), (0, 1), 0.7, 0.4, kinds=(unasked, away), first=(away,)),
    Shape(4, True, (8, 26), (0, 1), (0, 1), 0.7, 0.4, kinds=(unasked, meddle), first=(unasked, rotate)),
    Shape(4, True, (26, 160), (2, 4, 6, 8, 10, 14), (0, 1, 2, 3), 0.4, 1.0),
    Shape(3, False, (26, 160), (0, 0, 2, 4, 6, 8, 10, 14), (0, 1, 2, 3), 0.4, 1.0),
    Shape(1, True, (300, 600), (0, 1), (0, 1), 0.2, 1.0, first=(deaf_for_days,)),
    Shape(2, True, (1000, 1200), (0,), (0,), 0.2, 0.2, first=(deaf_for_days, rotate), days=8),
    Shape(4, False, (20, 40), (0,), (0,), 0.2, 0.2, first=(gives_up,)),
    Shape(6, True, (30, 60), (0, 0, 1), (0, 1), 0.4, 0.4, first=(roll_by_hand,)),
    Shape(2, False, (30, 60), (0, 0, 1), (0,), 0.4, 0.4, first=(roll_by_hand,)),
    Shape(2, True, (60, 90), (0,), (0,), 0.2, 0.2, first=(at_once, roll_by_hand)),
    Shape(4, True, (40, 80), (0, 0, 1), (0, 1), 0.4, 0.4, first=(old_state, rotate)),
    Shape(4, True, (8, 40), (0, 1, 2), (1, 2, 3), 0.7, 0.4, first=(edit_challenge, rotate)),
)
RARE = (
    Shape(4, True, (20, 60), (0, 0, 1), (0, 1), 0.7, 0.4, first=(link, rotate)),
    Shape(4, True, (20, 60), (0, 0, 1), (0, 1), 0.7, 0.4, first=(cut, rotate)),
    Shape(2, True, (20, 60), (0, 0, 1), (0, 1), 0.7, 0.4, first=(rotate, cut_soon)),
)
"""Drawn with dice of their own, so that the histories of all other seeds stay as they are."""
RARE_SHARE = 0.02
PEACE = Shape(0, False, (0, 0), (0,), (0,), 0.0, 1.0)
SWERVE = (1, 3)
"""Least and most steps of what is otherwise in a branch."""
TURNS = 40
"""Most turns of a branch: while a disk is full the agent tries each minute, and does nothing."""
TOO_MANY = 1500
"""Steps of one history, beside those of its days; more means that the agent runs in circles."""
TOO_MANY_A_DAY = 500
"""Three names are observed, and three servers verified, each half hour: 288 steps. Renewals come on top."""
BUDGET = 12
"""Writes a day that some providers take: enough for a roll, and not for a loop."""
WRITES_AN_HOUR = 90
"""TLSA writes within one hour; more means that it hammers the provider."""


class Done(NamedTuple):
    """What was done in a history, or in many."""

    steps: float = 0
    """Of the agent: planned, acted, journaled."""
    faults: float = 0
    """What was struck, crashed, or failed."""
    requests: float = 0
    """What people asked for, or edited in the config."""
    checks: float = 0
    """A set that a cache may hold against a chain that may be served."""
    days: float = 0.0

    def __add__(self, other: object) -> Done:  # pyright: ignore[reportIncompatibleMethodOverride] -- not a longer tuple
        assert isinstance(other, Done)
        return Done(*(a + b for a, b in zip(self, other, strict=True)))

    def told(self) -> Iterator[tuple[str, float]]:
        """With their names."""
        return zip(self._fields, self, strict=True)


class Outcome(NamedTuple):
    """How a history ended."""

    seed: int
    violation: str | None
    done: Done
    trace: list[str]
    digest: bytes = b""
    """Of every step that was taken and every wait, in their order."""


class History:
    """Drives one world."""

    def __init__(self, world: World, shape: Shape = PEACE) -> None:
        self.world = world
        self.clock = world.clock
        self.shape = shape
        rng = self.world.rng
        self.clock.stirred_at = self.clock.t
        self.left = rng.choice(shape.mischief)
        """Mischief still to come."""
        self.requests = rng.choice(shape.requests)
        world.provider.flaky = rng.choice((0.0, 1.0, 1.0, 1.0, 4.0))
        world.provider.becomes(_capabilities(rng))
        for host in world.hosts.values():
            host.flaky = rng.choice((0.1, 1.0, 1.0, 1.0, 5.0))
        self.clock.crashes_left = rng.choice((0, 0, 1, 2, 5))
        self.clock.crash_chance = rng.choice((0.003, 0.01, 0.03))
        # often only a few kinds: then they meet each other more often (swarm testing, Groce et al., 2012)
        self.kinds = shape.kinds or (tuple(rng.sample(ANYTIME, 3)) if rng.random() < 0.5 else ANYTIME)
        self.limit = rng.randint(*shape.steps)
        self.turns = 100 * TOO_MANY
        """Turns to come at most: those in which nothing can be done are no steps."""
        self.halt: float = math.inf
        """After so many steps the agent is stopped, in the middle of whatever it does."""
        self.passing: Callable[[], None] = nobody
        """Told before each turn of the hostile part."""
        self._begin()

    def _begin(self) -> None:
        world = self.world
        self.faults = self.heard = world.steps = 0
        self.digest = b""
        self.before = Done(0, len(world.judge.disturbed), 0, world.judge.checks, self.clock.t / 86400)

    def swerve(self) -> None:
        """From here on it goes otherwise, with the present dice, and only for a little while."""
        world, clock, rng = self.world, self.clock, self.world.rng
        self._begin()
        self.limit = self.halt = rng.randint(*SWERVE)
        self.turns = TURNS
        self.kinds, self.left, self.requests = ANYTIME, 1, rng.choice((0, 0, 1))
        clock.crashes_left, clock.crash_chance = rng.choice((0, 0, 1, 2)), 0.05
        draw = rng.random()
        if draw < 0.2:
            world.between.append(rng.choice(BETWEEN))
        elif draw < 0.6:
            self._strike(rng.choice(self.kinds))

    def run(self) -> None:
        """All of it; raises Violation."""
        world, clock = self.world, self.clock
        clock.note(f"spec {world.spec}")
        if self.shape.converged and self.requests and world.rng.random() < 0.7:
            self.requests -= 1  # not only looks before the first thing happens
            world.between.append(world.rng.choice(BETWEEN))
        world.between.extend(self.shape.first)
        self.hostile()
        if world.rng.random() < self.shape.ends:
            self.live()
        world.journal.reopened()
        if world.rng.random() < 0.1:
            world.journal.verify()

    def hostile(self) -> None:
        """The hostile part."""
        end = self.clock.t + self.shape.days * 86400
        while self.world.steps < self.limit and self.clock.t < end and self.turns:
            self.turns -= 1
            self.passing()
            self.turn_and_sleep()

    def live(self) -> None:
        """Once faults stop, all comes to its end in time; and what is due then happens in time."""
        self.peace()
        self.until_converged("after the faults")
        world, draw = self.world, self.world.rng.random()
        now = world.journal.now()
        if draw < 0.4 and not any(budget.used(now) for budget in world.journal.head.budgets):
            # what people want takes its time, too, where all writes of the day are used
            world.provider.capabilities = replace(world.provider.capabilities, writes_per_day=None)
            configured(world)
            DEMANDS[min(int(draw * 20), len(DEMANDS) - 1)](self)
            self.until_converged("after what was asked for")

    # -- the agent's turns

    def turn_and_sleep(self) -> None:
        """The agent's turn, mischief, and the time until the next."""
        world, clock, rng = self.world, self.clock, self.world.rng
        delay = self.turn()
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

    def turn(self) -> float:
        world, clock, rng = self.world, self.clock, self.world.rng
        try:
            while world.between:
                self.heard += 1
                world.between.pop(0)(world)
            self._known()
            journal = cast("Journal[State, AnyEvent]", world.journal)
            subject = Certificate(world.spec, world.edges)
            wait = advance(subject, journal, report=self._report, stopping=self._stopping)
        except Crash:
            down_s = rng.choice((1.0, 60.0, 3600.0, 86400.0)) * rng.random()
            world.asleep_since = clock.t
            self.faults += 1
            if down_s > 3600:
                world.judge.disturbed.append(clock.t)  # nobody starts it again for long
            if rng.random() < 0.3:
                clock.reboot()
                clock.stirred_at = clock.t
                clock.note("      reboot")
                for host in world.hosts.values():
                    host.restart()
            clock.until(clock.t + down_s)
            world.asleep_since, world.awake_since = None, clock.t
            world.journal.reopened()
            clock.note("agent starts")
            return 0.0
        except Error as error:
            clock.note(f"turn ended: {error}")
            world.judge.disturbed.append(clock.t)
            return 60.0
        self._check_pace()
        if wait is None:
            return 0.0
        self._digest(f"Wait {wait.delay // timedelta(milliseconds=1)}")
        self._show(wait)
        return wait.delay.total_seconds()

    def _known(self) -> None:
        # a name that is taken out again before the agent could ask anything about it, it never knew
        judge = self.world.judge
        judge.known = (judge.known & judge.seen_at.keys()) | set(self.world.spec.tlsa_names)

    def _stopping(self) -> bool:
        days = self.clock.t / 86400
        if self.world.steps > TOO_MANY + TOO_MANY_A_DAY * days:
            raise Violation(f"{self.world.steps} steps in {days:.1f} days")
        return bool(self.world.between) or self.world.steps >= self.halt

    def _report(self, report: StepReport) -> None:
        world = self.world
        world.report(report)
        kind = type(report.step).__name__
        self._digest(f"{kind} {subject(report.step)}")
        if self.left and self.clock.hostile and world.rng.random() < 0.03:
            self.left -= 1
            mischief = world.rng.choice(self.kinds)
            self.clock.at(world.rng.uniform(0, 3), partial(self._strike, mischief))

    def _digest(self, what: str) -> None:
        self.digest = blake2b(self.digest + what.encode(), digest_size=8).digest()

    def _draw(self, delay: float) -> None:
        world, rng = self.world, self.world.rng
        if rng.random() > self.shape.eager:
            return
        moment = rng.choice((0.01, rng.random(), 1 - rng.random() ** 4, 0.999)) * delay
        if self.requests and rng.random() < 0.4:
            self.requests -= 1
            self.clock.at(moment, partial(world.ask, rng.choice(BETWEEN)))
        elif self.left:
            self.left -= 1
            mischief = rng.choice(self.kinds)
            self.clock.at(moment, partial(self._strike, mischief))

    def _strike(self, mischief: Mischief) -> None:
        if self.clock.hostile:
            self.faults += 1
            mischief(self.world)

    def _check_pace(self) -> None:
        writes = self.world.provider.writes
        if len(writes) > WRITES_AN_HOUR and writes[-1] - writes[-WRITES_AN_HOUR] < 3600:
            raise Violation(f"{WRITES_AN_HOUR} writes to DNS within an hour")

    # -- peace

    def peace(self) -> None:
        """No faults from here on; people repair what they broke."""
        world, clock = self.world, self.clock
        clock.note("peace: no faults from here on")
        clock.hostile = False
        clock.wall_offset_s = 0.0
        world.journal.disk_full = world.vault.disk_full = False
        world.provider.down = world.ca.down = False
        world.resolver.failing.clear()
        apart(world)
        for host in world.hosts.values():
            host.misconfigured = host.disk_full = False
            if host.down or any(p.broken for p in host.pools):
                clock.stirred_at = clock.t
                host.restart()
        for zone in world.zones:
            if (
                zone.away
                or zone.inside
                or zone.security != "secure"
                or any(s.deaf or s.refuses or s.stuck for s in zone.servers)
            ):
                clock.stirred_at = clock.t
            zone.heal()
            for name, rr in list(zone.versions[-1].sets.items()):
                if isinstance(rr.content, str) or name == "*":
                    continue
                # people take away what they put there, and what they forgot when they took a name out of the config
                tlsa_names = {o for o in world.answers if name in world.dns.reaches(o)}
                strange = set(world.judge.unmanaged_values)
                if not tlsa_names & set(world.spec.tlsa_names):
                    strange |= rr.content - world.provider.published
                if not tlsa_names & world.judge.known:
                    strange |= rr.content
                if rr.content & strange:
                    clock.stirred_at = clock.t
                    values = rr.content - strange
                    zone.put(name, rr._replace(content=values, ttl_s=rr.ttl_s if values else 0), since=clock.t)

    def _bound(self) -> float:
        """By when everything must be over: the longest back-off (a CA's day, and its Retry-After), some holds of the
        longest TTL and alias there is, late transfers and updates, drains, and looks at their slowest.
        """
        world = self.world
        spec = world.spec
        retire_interval = 2 * 86400 + spec.safety_margin.total_seconds() + 86400
        return (
            27 * 3600
            + 3 * 3600
            + 3 * retire_interval
            + 6 * spec.drain.total_seconds()
            + 6 * spec.check_interval.total_seconds()
        )

    def until_converged(self, when: str) -> None:
        """Turn after turn, until all is as it should be and stays so; raises Violation."""
        world, clock = self.world, self.clock
        began = clock.t
        end = began + self._bound()
        people = began
        while True:
            self._take_aliases_away()
            self._take_wildcards_away()
            if clock.t >= people:  # they do not sit beside it: two who correct each other each second never end
                take_away(world)
                people = clock.t + 3600.0
            self.turn_and_sleep()
            self._change_provider()
            self._give_up_names()
            self._give_the_zone()
            # everything was observed once more after the last thing that anybody did, or that comes late
            last = max(clock.stirred_at, clock.busy_until)
            if world.judge.converged(world.spec, world.journal, last) and not take_away(world):
                break
            if clock.t > end:
                raise Violation(f"{when}: not converged in time: {self._open()}")
        world.judge.last(world.spec, world.journal.head, world.provider, world.ca, world.vault)

    def _change_provider(self) -> None:
        """What people do who were told that their provider cannot make a change that is needed."""
        world = self.world
        if world.provider.capabilities.atomic:
            return
        if any(f.concerns == "provider" for f in world.journal.head.failing):
            self.clock.note("   ? another provider, whose changes are atomic")
            self.clock.stirred_at = self.clock.t
            world.provider.capabilities = replace(world.provider.capabilities, atomic=True)

    def _give_up_names(self) -> None:
        """What people do who were told that the new certificate lacks a name."""
        if any(f.kind == "misconfigured" and f.lane.verb == "inspect" for f in self.world.journal.head.failing):
            self.clock.stirred_at = self.clock.t
            self.world.give_up_names()

    def _give_the_zone(self) -> None:
        """What people do who were told that no provider writes a zone."""
        if any(f.kind == "misconfigured" for f in self.world.journal.head.failing):
            configured(self.world)

    def _take_aliases_away(self) -> None:
        """What people forgot when they took a name out of the config: its alias, and those that lead to it."""
        world = self.world
        gone = world.answers.keys() - world.spec.tlsa_names.keys()
        for name in sorted(world.answers):
            zone = world.dns.zone_of(name)
            content = zone.current(name).content
            if isinstance(content, str) and not gone.isdisjoint((name, content)):
                self.clock.stirred_at = self.clock.t
                zone.put(name, RR(frozenset(), 0), since=self.clock.t)

    def _take_wildcards_away(self) -> None:
        """What people do who were told that a name keeps its records for as long as there is a wildcard."""
        gone = self.world.answers.keys() - self.world.spec.tlsa_names.keys()
        for zone in self.world.zones:
            if "*" in zone.versions[-1].sets and any(self.world.dns.zone_of(name) is zone for name in gone):
                self.clock.stirred_at = self.clock.t
                zone.put("*", RR(frozenset(), 0), since=self.clock.t)

    def _open(self) -> str:
        state = self.world.journal.head
        phases = [f"{n} {i.phase} {i.generation}" for n, i in state.mail_servers.items()]
        failing = [f"{f.lane} {f.code}" for f in state.failing]
        newest = state.newest.id if state.newest else None
        order = f"orders {list(state.orders)}, {state.requested}, {len(state.challenges)} TXT"
        return f"{order}, {failing}, {phases}, newest {newest}"

    def outcome(self, seed: int, violation: str | None) -> Outcome:
        """How it ended."""
        world, clock = self.world, self.clock
        faults = self.faults + len(world.judge.disturbed) - self.before.faults
        checks, days = world.judge.checks - self.before.checks, clock.t / 86400 - self.before.days
        return Outcome(
            seed, violation, Done(world.steps, faults, self.heard, checks, days), clock.trace or [], self.digest
        )

    def explain(self) -> None:
        """For the trace: everything the rules offer at the end."""
        world, journal = self.world, self.world.journal
        state = journal.head
        self.clock.note(f"   . open: {state.orders} {state.requested} {state.challenges} {state.mail_servers}")
        self.clock.note(f"   . keys {[k.id for k in state.keys]} generations {[g.id for g in state.generations]}")
        for rule in RULES:
            for offer in rule(View.of(world.spec, journal.head, journal.now())):
                cached = None if isinstance(offer, Wait) else journal.head.failure(offer.lane)
                self.clock.note(f"   . {rule.__name__}: {type(offer).__name__} {offer.because} {cached or ''}")

    def _show(self, wait: Wait) -> None:
        clock, world = self.clock, self.world
        if clock.trace is None:
            return
        clock.note(f"wait {wait.delay}: {wait.because}")
        for host in world.hosts.values():
            shown = {f"{a} {s.chain.spki[:6]}" for p in host.pools for f in p.alive(clock.t) for a, s in f.items()}
            clock.note(f"      served at {host.name}: {', '.join(sorted(shown)) or 'nothing'}")
        for tlsa_name in sorted(world.judge.known):
            sets = {tell(v) for v, _ in world.dns.cacheable(tlsa_name)}
            clock.note(f"      cached of {tlsa_name}: {' '.join(sorted(sets)) or 'nothing'}")


def _capabilities(rng: random.Random) -> Capabilities:
    """What the provider can do; drawn with dice of their own, so that all else in the history stays as it is."""
    own = random.Random(rng.getstate()[1][7])
    return Capabilities(
        atomic=own.random() < 0.7,
        precondition=own.choice(("none", "values", "set")),
        ttl_floor_s=own.choice((0, 0, 60, 3600)),
        publish_lag_s=own.choice((0.0,) * 6 + (60.0, 1200.0)),
        writes_per_day=own.choice((None,) * 7 + (BUDGET,)),
    )


def subject(step: AnyStep) -> str:
    """What a step is about: all its names, whatever its fields are called. The CA of a step is not among them."""
    fields = ((f, getattr(step, f)) for f in step.__struct_fields__ if f not in ("because", "ca"))
    return " ".join(sorted(value for _, value in fields if isinstance(value, str)))
