"""What may happen in a smallest world, wherever the agent stands between two of its steps or waits, and only there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from certagent.lifecycle import events as ev
from tests.simulation import byhand, linked
from tests.simulation.cut import configured, cut
from tests.simulation.dns import RR
from tests.simulation.mail import Shown
from tests.simulation.mischief import alias, unasked, wildcard
from tests.simulation.small import Explored
from tests.simulation.world import World

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


def _reload(fate: float, reader: int = 0) -> Event:
    def event(history: Explored) -> bool:
        host = next(iter(history.world.hosts.values()))
        if reader >= len(host.pools):
            return False
        pool = host.pools[reader]
        pool.flaky, before = history.world.rng.random() / fate, host.reloaded_at
        history.go()
        pool.flaky = 1.0
        return host.reloaded_at != before

    return event


def _secondary(**flags: bool) -> Event:
    def event(history: Explored) -> bool:
        zone = history.world.zones[0]
        server = zone.servers[1]
        if all(getattr(server, flag) == value for flag, value in flags.items()):
            return False
        if any(entry.regressed and not entry.met for entry, _ in server.given.values()):
            return False  # what comes and goes between two looks is nobody's to see
        for flag, value in flags.items():
            setattr(server, flag, value)
        if not server.deaf:
            server.heard_since = history.clock.t
        if flags.get("stuck") is False:
            zone.serve(server, len(zone.versions) - 1)
        return True

    return event


def _goes_back(to: Callable[[Explored, int], int]) -> Event:
    def event(history: Explored) -> bool:
        zone = history.world.zones[0]
        server = zone.servers[1]
        version = to(history, server.serial)
        if server.stuck or server.deaf or not 0 <= version < server.serial:
            return False
        server.stuck = True
        zone.serve(server, version, regressed=True)
        return True

    return event


def _inside(inside: bool) -> Event:
    def event(history: Explored) -> bool:
        zone = history.world.zones[0]
        was, zone.inside = zone.inside, inside
        return was != inside

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


def _unasked(history: Explored) -> bool:
    """Somebody publishes what is served where the config has no `tlsa: true`."""
    unasked(history.world)
    return bool(history.world.spec.undeclared)


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


def _alias(history: Explored) -> bool:
    """An alias leads elsewhere, to a copy of the records."""
    before = len(history.world.zones[0].versions)
    alias(history.world)
    return len(history.world.zones[0].versions) > before


def _cut(history: Explored) -> bool:
    """With its records; and the DNS provider does not write it."""
    zones = history.world.provider.zones
    new = cut(history.world)
    history.world.provider.zones = zones
    return new


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
    "the second reader is not reloaded": _reload(0.03, 1),
    "the second reader has no TLS after the reload": _reload(0.045, 1),
    "the secondary falls silent": _secondary(deaf=True),
    "the secondary is heard": _secondary(deaf=False),
    "the secondary stops": _secondary(stuck=True),
    "the secondary follows": _secondary(stuck=False),
    "the secondary goes back": _goes_back(lambda _, serial: serial - 1),
    "the secondary goes back to the zone of before the roll": _goes_back(lambda history, _: history.old_zone),
    "the agent sees the zone from inside": _inside(True),
    "the agent sees the zone as all do": _inside(False),
    "rotate": _asked("rotate"),
    "emergency": _asked("emergency", accept_deferrals=True),
    "abort": _asked("abort"),
    "a roll by hand": _person(byhand.roll_by_hand),
    "an old state comes back": _old_state,
    "files are replaced": _replaced,
    "the files of two servers become one": lambda history: linked.linked(history.world),
    "each server has files of its own": lambda history: linked.apart(history.world),
    "records are removed": _emptied,
    "records appear that nobody declared": _unasked,
    "a wildcard gives records": _person(wildcard),
    "a name becomes a zone of its own": _cut,
    "the DNS provider is given that zone": lambda history: configured(history.world),
    "a name is withdrawn": _withdrawn,
    "an alias leads elsewhere": _alias,
}


def possible(lines: int) -> Iterator[tuple[str, Event]]:
    """Every event. The agent may be killed at so many lines of its next step."""
    yield from EVENTS.items()
    for line in range(lines):
        yield f"killed at line {line + 1} of {lines}", _killed(line)


def _killed(line: int) -> Event:
    def event(history: Explored) -> bool:
        history.clock.killed_at = line
        history.clock.lines = 0
        history.go()
        history.clock.killed_at = None
        return True

    return event
