"""One file that two mail servers read: somebody makes the files of one links to those of the other.

certagent must not write it for either of them, for a swap at one would go around the gates of the other. Here it asks
the rule of the real `wiring.refuse_shared_files`: `mta.claims.clashes`, with the files of every mail server it has.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from certagent.errors import Misconfigured
from certagent.mta.claims import Claim, clashes
from tests.simulation.mail import Host, Shown

if TYPE_CHECKING:
    from tests.simulation.world import World

NOWHERE = "/nowhere/of/the/simulation"
SPANS_S = (600.0, 3600.0, 86400.0)


def link(world: World) -> None:
    """For a while; done between two turns of the agent, which checks the files just before it writes them."""
    world.between.append(linked)
    world.clock.at(world.rng.choice(SPANS_S) * world.rng.uniform(0.5, 1.5), partial(world.ask, apart))


def linked(world: World) -> bool:
    """The files of the second mail server in the config are links to those of the first; whether that is new."""
    hosts = [world.hosts[server.name] for server in world.spec.mail_servers]
    if len(hosts) < 2 or any(len(host.readers) > 1 for host in hosts) or not hosts[0].files:
        return False
    first, second = hosts[:2]
    second.place({key_type: Shown(shown.chain, hand=True) for key_type, shown in first.files.items()})
    second.restart()
    first.readers = second.readers = [first, second]
    world.clock.note(f"   ! the files of {second.name} are links to those of {first.name}")
    return True


def apart(world: World) -> bool:
    """Each has files of its own again, whatever is in them; whether that is new."""
    found = False
    for host in world.hosts.values():
        if len(host.readers) > 1:
            found = True
            host.readers = [host]
            world.clock.stirred_at = world.clock.t
            world.clock.note(f"   ! {host.name} has files of its own again")
    return found


def alone(world: World, server: str) -> None:
    """As `wiring.refuse_shared_files`: what certagent asks before each installation."""
    claims = [(one.name, Claim(f"{NOWHERE}/{_writer(world.hosts[one.name])}")) for one in world.spec.mail_servers]
    for (one, _), (other, claim) in clashes(claims):
        if server in (one, other):
            raise Misconfigured("config.value", f"{claim.path} is written for {one} already")


def _writer(host: Host) -> str:
    return host.readers[0].name
