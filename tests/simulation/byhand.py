"""What an operator does by hand, and properly: a roll of his own, or an old state of this host brought back.

Afterwards the agent's journal is wrong about what is served: what it remembers may exempt nothing from a gate.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from certagent.lifecycle import events as ev
from tests.simulation.ca import unmanaged
from tests.simulation.dns import RR, Values
from tests.simulation.judge import unmatched
from tests.simulation.mail import Files, Host, Shown
from tests.simulation.mischief import abort

if TYPE_CHECKING:
    from tests.simulation.world import World

LOOKS_S = 600.0
"""How often the operator looks whether he may go on."""
PATIENCE = 1000
"""How often at most: a week."""


def roll_by_hand(world: World) -> None:
    """Somebody rolls by hand: publishes his record beside the others, waits for caches, swaps, removes the old ones."""
    host = world.rng.choice(list(world.hosts.values()))
    if not host.files:
        return
    chain = unmanaged(world.rng, world.clock, world.spec.names, timedelta(days=90))
    if not chain.issuers:
        return  # he has one from a CA
    files = {key_type: Shown(chain) for key_type in list(host.files)[:1]}
    for value in _records(files, frozenset({"2 1 1"})):
        world.judge.by_hand.setdefault(value, set()).add(chain.spki)
    world.clock.note(f"   ! somebody rolls {host.name} by hand, to {chain.spki[:6]}")
    _add(world, host, files)
    world.clock.at(LOOKS_S, partial(_swap, world, host, files, PATIENCE))


def _records(files: Files, like: Values) -> Values:
    chains = [shown.chain for shown in files.values()]
    values = {f"3 1 1 {c.spki}" for c in chains}
    if any(v[0] == "2" for v in like):
        values |= {f"2 1 1 {c.issuers[-1]}" for c in chains if c.issuers}
    return frozenset(values)


def _ends(world: World, host: Host) -> list[str]:
    """Where the records of his TLSA names are."""
    names = [name for name, hosts in world.answers.items() if host.name in hosts]
    ends: dict[str, None] = {}
    for name in names:
        content = world.dns.zone_of(name).current(name).content
        ends[content if isinstance(content, str) else name] = None
    return list(ends)


def _add(world: World, host: Host, files: Files) -> None:
    """His records, where DANE is in force."""
    for end in _ends(world, host):
        rr = world.dns.zone_of(end).current(end)
        if isinstance(rr.content, frozenset) and rr.content:
            world.dns.zone_of(end).put(end, RR(rr.content | _records(files, rr.content), rr.ttl_s), since=world.clock.t)


def take_away(world: World) -> bool:
    """What people do who see that their own chain is served no more, or that a record of it stands against every swap:
    one with TLSA parameters that certagent does not publish. It goes. Whether there were any.
    """
    found = False
    served = {shown.chain.spki for host in world.hosts.values() for shown in host.servable()}
    for zone in world.zones:
        for name, rr in list(zone.versions[-1].sets.items()):
            if not isinstance(rr.content, frozenset):
                continue
            mine = world.judge.by_hand
            against = {v for v in rr.content if not v.startswith(world.spec.tlsa_parameters)}
            over = frozenset(v for v in rr.content if v in mine and (v in against or served.isdisjoint(mine[v])))
            if over:
                found = True
                world.clock.stirred_at = world.clock.t
                values = rr.content - over
                zone.put(name, RR(values, rr.ttl_s if values else 0), since=world.clock.t)
    return found


def _swap(world: World, host: Host, files: Files, patience: int) -> None:
    """As soon as every set that a cache may hold matches; if somebody took his records away, he gives up."""
    if not world.clock.hostile or not patience:
        return
    chains = [shown.chain for shown in files.values()]
    names = [name for name, hosts in world.answers.items() if host.name in hosts]
    sets = [values for name in names for values, _ in world.dns.cacheable(name)]
    away = host.down or host.disk_full or any(world.dns.zone_of(n).away for n in names)
    if away or any(unmatched(values, chain) for values in sets for chain in chains):
        world.clock.at(LOOKS_S, partial(_swap, world, host, files, patience - 1))
        return
    host.swapped_by_hand_at = world.clock.t
    host.place(files)
    host.restart()
    world.provider.epoch += 1  # what comes through late was right when it was asked for
    world.clock.note(f"   ! somebody has swapped {host.name} by hand")
    world.clock.at(world.rng.choice((0.0, 0.0, 1.0, 3600.0)), partial(_remove, world, host, files))
    if world.rng.random() < 0.5:
        world.clock.at(world.rng.choice((200.0, 2000.0, 20000.0)), partial(world.ask, renew))


def _remove(world: World, host: Host, files: Files) -> None:
    """The old records: all that neither he nor another server of the name needs."""
    if not world.clock.hostile or set(host.files.values()) != set(files.values()):
        return
    for end in _ends(world, host):
        rr = world.dns.zone_of(end).current(end)
        if not isinstance(rr.content, frozenset):
            continue
        others = [
            shown
            for name, hosts in world.answers.items()
            if end in world.dns.reaches(name)
            for other in hosts
            for shown in world.hosts[other].servable()
        ]
        values = rr.content & frozenset(v for shown in others for v in _records({"": shown}, rr.content))
        if values:
            world.dns.zone_of(end).put(end, RR(values, rr.ttl_s), since=world.clock.t)
    world.clock.note("   ! and has removed the old records")


def at_once(world: World) -> None:
    """The operator wants new keys, and no caches waited for."""
    world.clock.note("   ? operator: emergency --accept-deferrals")
    world.journal.append("mail", ev.Requested(what="emergency", accept_deferrals=True))


def renew(world: World) -> None:
    """The operator wants another certificate."""
    world.clock.note("   ? operator: renew")
    world.journal.append("mail", ev.Requested(what="renew"))


# -- an old state ------------------------------------------------------------------------------------------------------


class Backup(NamedTuple):
    """The state directory at one moment."""

    journal: tuple[object, ...]
    vault: tuple[dict[Any, Any], ...]


def backup(world: World) -> Backup:
    """The state directory as it is now."""
    journal, vault = world.journal, world.vault
    return Backup(journal.saved(), (dict(vault.keys), dict(vault.chains), dict(vault.files)))


def old_state(world: World) -> None:
    """The state directory is saved, and brought back later: the journal is that of then, and so are keys and chains."""
    saved = backup(world)
    world.clock.at(world.rng.choice((1, 1, 10, 40)) * 86400 * world.rng.random(), partial(_ask, world, saved))


def _ask(world: World, saved: Backup) -> None:
    world.ask(partial(bring_back, saved))


def bring_back(saved: Backup, world: World) -> None:
    """The state directory is as it was then."""
    world.clock.note("   ! an old state directory is brought back")
    lost = world.journal.head
    world.journal.bring_back(saved.journal)
    world.vault.keys, world.vault.chains, world.vault.files = (dict(each) for each in saved.vault)
    world.judge.forgotten(lost, world.journal.head)
    for zone in world.zones:
        zone.stray_txt |= {(c.name, c.value) for c in lost.challenges}
    world.web.stray |= {*lost.challenges}
    if world.rng.random() < 0.3:
        abort(world)
