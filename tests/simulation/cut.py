"""A child zone: the names of one mail server become a zone of their own, with servers of their own.

The parent still has what it had below the cut, and takes updates of it; nobody asks for that any more (RFC 1034 section
4.2.1). The DNS provider writes the zones that it is configured for, so an update that is meant for the child and given
to the parent is accepted, and never shows.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from certagent.agent.zones import Zones
from tests.simulation.dns import Zone

if TYPE_CHECKING:
    from tests.simulation.edges import Provider
    from tests.simulation.world import World


class OneWriter(Zones):
    """The real one, without its locks: there is one thread. Its rule says who may write which zone."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(partial(_all, provider))
        self._locks = cast("Any", defaultdict(nullcontext))


def _all(provider: Provider) -> list[Any]:
    return [provider]


def cut(world: World) -> bool:
    """The operator cuts a zone off, with all records that are below the cut; whether there was none yet.

    He may give it to the DNS provider at once, or when he is told so.
    """
    parent = world.zones[0]
    host = world.rng.choice(sorted(world.hosts))
    name = f"{host}.{parent.name}"
    if any(zone.name.endswith(f".{parent.name}") for zone in world.zones) or parent.away or parent.inside:
        return False
    child = Zone(world.clock, name, len(parent.servers) - 1)
    child.safety_margin_s, child.born, child.alias_over = parent.safety_margin_s, parent.born, parent.alias_over
    for below in [known for known in parent.entries if known.endswith(f".{name}")]:
        child.takes(below, parent)
    moved = {(owner, value) for owner, value in parent.txt if owner.endswith(f".{name}")}
    child.txt, child.stray_txt = moved, parent.stray_txt & moved
    parent.txt -= moved
    world.zones.append(child)
    world.dns.adds(child)
    world.clock.note(f"   ! {name} is a zone of its own from now on")
    if world.rng.random() < 0.5:
        configured(world)
    return True


def cut_soon(world: World) -> None:
    """Somewhere in a roll."""
    world.clock.at(world.rng.choice((1.0, 10.0, 600.0)) * world.rng.random(), partial(_in_hostile_times, world))


def _in_hostile_times(world: World) -> None:
    if world.clock.hostile:
        cut(world)


def configured(world: World) -> bool:
    """The provider may write every zone; whether that is new."""
    zones = tuple(world.dns.zones)
    new = zones != world.provider.zones
    if new:
        world.clock.stirred_at = world.clock.t
        world.clock.note(f"   ? the DNS provider writes {', '.join(zones)}")
        world.provider.zones = zones
    return new
