"""A world as text in which equal situations are equal: times count from now, and names are given in the order met.

Two worlds with the same text go on alike: keys, chains, serial numbers, orders and ids differ only by their names.
Times are rounded to `GRAIN_S`, and what lies further back than `PAST_S` is simply past: the longest wait of an
explored world is far shorter. What only the report reads (rows, traces, counts for excuses) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast

import msgspec

from certagent.facts.moment import Instant
from certagent.facts.tls import Chain
from tests.simulation.dns import Server, Zone
from tests.simulation.mail import Host, Pool

if TYPE_CHECKING:
    from tests.simulation.world import World

GRAIN_S = 10.0
"""Two orders of the same steps take times that differ by less."""
PAST_S = 2 * 86400.0
_NAMES = re.compile(r"[0-9a-f]{8,64}|\b[kg]\d+\b|\bv\d+\b|order/\d+")


class Text:
    """What is written of one world."""

    def __init__(self, world: World, old_zone: int) -> None:
        """`old_zone`: the version of the first zone to which a server may go back."""
        self._t = world.clock.t
        self._elapsed = world.journal.now().elapsed_s
        self._true = world.clock.true_wall()
        self._names: dict[str, str] = {}
        self._words: list[str] = []
        for part in _parts(world):
            self._write(part)
        self._write(world.zones[0].versions[old_zone].sets)

    def digest(self) -> bytes:
        """Short."""
        return blake2b("\n".join(self._words).encode(), digest_size=16).digest()

    def _say(self, word: str) -> None:
        self._words.append(word)

    def _named(self, text: str) -> str:
        return _NAMES.sub(lambda m: self._names.setdefault(m[0], f"#{len(self._names)}"), text)

    def _ago(self, seconds: float) -> str:
        return "past" if seconds < -PAST_S else str(round(seconds / GRAIN_S))

    def _write(self, thing: Any) -> None:
        match thing:
            case str():
                self._say(self._named(thing))
            case None | bool() | int() | float() | timedelta() | bytes():
                self._say(repr(thing))
            case Moment():
                self._say(self._ago(thing.t - self._t))
            case Instant():
                self._say(self._ago(thing.elapsed_s - self._elapsed))
            case datetime():
                self._say(self._ago((thing - self._true).total_seconds()))
            case Chain():
                self._say(self._named(f"{thing.spki} {thing.issuers} {thing.serial}"))
                self._write(thing.not_after)
            case msgspec.Struct():
                self._say(type(thing).__name__)
                for field in thing.__struct_fields__:
                    if field not in _UNREAD:
                        self._write(getattr(thing, field))
            case Zone() | Host():
                self._say(thing.name)
            case Server():
                self._say(thing.label)
            case Pool():
                self._say(thing.address)
            case partial():
                self._say(getattr(thing.func, "__qualname__", "?"))
                self._write([getattr(thing.func, "__self__", None), *thing.args, *sorted(thing.keywords.items())])
            case frozenset() | set():
                values = map(str, cast("Iterable[object]", thing))
                self._write([v for _, v in sorted((self._names.get(v[6:], "?"), v) for v in values)])
            case dict():
                self._write(sorted(cast("dict[object, object]", thing).items(), key=str))
            case list() | tuple():
                self._say("[")
                for item in cast("Iterable[object]", thing):
                    self._write(item)
                self._say("]")
            case _:
                self._say(getattr(thing, "__qualname__", type(thing).__name__))
                if isinstance(owner := getattr(thing, "__self__", None), Zone | Host | Server | Pool):
                    self._write(owner)


_UNREAD = frozenset(
    {"because", "detail", "hint", "why", "first_at", "made_at", "keys_made", "generations_made", "explanation_url"}
)


class Moment:
    """A time of the world's clock."""

    def __init__(self, t: float) -> None:
        self.t = t


def _parts(world: World) -> Iterator[Any]:
    yield world.journal.head
    yield world.spec
    for host in world.hosts.values():
        yield host.name, host.files, host.displaced, host.down, host.misconfigured, host.disk_full, host.flaky
        yield (
            Moment(host.swapped_by_hand_at),
            Moment(host.renamed_at),
            Moment(host.reloaded_at),
            host.ours,
            host.readers,
        )
        for pool in host.pools:
            old = [(files, None if date is None else Moment(date)) for files, date in pool.old]
            yield pool.address, pool.running, old, pool.broken
    yield world.web.files
    for zone in world.zones:
        yield zone.name, zone.security, zone.inside, zone.txt, zone.away, Moment(zone.changed_at)
        yield {name: Moment(t) for name, t in zone.strange.items()}
        yield zone.versions[-1].sets
        for server in zone.servers:
            flags = server.deaf, server.refuses, server.stuck, server.back
            last = [version.sets for version in zone.versions[: server.serial + 1][-2:]]
            yield server.label, len(zone.versions) - server.serial, last, flags
        for name, entries in sorted(zone.entries.items()):
            yield (
                name,
                sorted(
                    (_entry(entry) for entry in entries.values() if entry.live or entry.expiry > world.clock.t), key=str
                ),
            )
    yield world.judge.heard, world.judge.known, len(world.judge.accepted)
    yield world.provider.flaky, world.provider.down, world.provider.zones
    yield world.ca.down, sorted(world.vault.keys), sorted(world.vault.chains), sorted(world.vault.files)
    yield from _coming(world)


def _entry(entry: Any) -> Iterable[Any]:
    since = None if entry.since is None else Moment(entry.since)
    flags = entry.first, entry.retimed, entry.regressed, entry.met, entry.superseded, entry.cut
    return [entry.content, entry.ttl_s, entry.live, since, Moment(max(entry.expiry, -1.0)), Moment(entry.ended), flags]


def _coming(world: World) -> Iterator[Any]:
    for due, _, _, act in sorted(world.clock.coming()):
        yield Moment(due), act
