"""The simulated mail servers: when a new file is read, how long old worker processes live on, and what a probe meets.

Three kinds, as the real ones do it: `postfix` (the rename is the cut-over for new processes, old ones go on until the
reload and some time after), `dovecot` (reads at the reload only), `exim` (switches by itself after 5 s). Old workers
are gone `drain` after a reload that worked; each address of a server has processes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from certagent.errors import Misconfigured, Transient
from certagent.facts.tls import Chain, Served, Service
from certagent.facts.unknown import Unknown
from certagent.mta.claims import Claim
from certagent.mta.server import Advice, Capabilities
from certagent.pki.credential import Credential
from certagent.secret import Secret
from tests.simulation.ca import Pem
from tests.simulation.clock import Clock, nobody

Style = Literal["postfix", "dovecot", "exim"]


class Shown(NamedTuple):
    """A chain in a file. `hand`: somebody else put it there."""

    chain: Chain
    hand: bool = False


Files = dict[str, Shown]


class Pool:
    """The processes behind one address: those that read the newest file, and older ones with the date of their end."""

    def __init__(self, address: str, files: Files, style: Style) -> None:
        self.address = address
        self.style: Style = style
        self.running = files
        self.old: list[tuple[Files, float | None]] = []
        self.broken = False
        """STARTTLS answers 454 since a reload."""
        self.flaky = 1.0
        """As of its host."""

    def alive(self, now: float) -> list[Files]:
        """What its processes serve."""
        if self.old:
            self.old = [(f, d) for f, d in self.old if d is None or d > now]
        return [self.running, *(f for f, _ in self.old)]

    def age(self, files: Files) -> None:
        """Those that run become old ones."""
        if self.running != files:
            self.old.append((self.running, None))
            self.running = files

    def drain(self, by: Callable[[], float]) -> None:
        """Old processes are told to end."""
        self.old = [(f, by() if d is None else d) for f, d in self.old]


class Host:
    """One mail server (`mta.server.Server`)."""

    def __init__(self, clock: Clock, name: str, style: Style, addresses: tuple[str, ...], drain_s: float) -> None:
        self.clock = clock
        self.name = name
        self.style: Style = style
        self.drain_s = drain_s
        self.files: Files = {}
        self.ours = False
        """Whether the agent has ever placed a file."""
        self.displaced: Files = {}
        """What somebody replaced by hand; the agent cannot know yet, and may put it back."""
        self.renamed_at = self.reloaded_at = 0.0
        self.pools = [Pool(a, self.files, style) for a in addresses]
        self.readers = [self]
        """The mail servers whose files are one and the same (`linked.py`)."""
        self.down = False
        self.misconfigured = False
        self.disk_full = False
        self.flaky = 1.0
        """How often its reloads go wrong, as a multiple of one in twenty."""
        self.swapped_by_hand_at = -1e9
        """When somebody last rolled it by hand, properly."""
        self.once: set[str] = set()
        """Serial numbers of the chains whose files were there once."""
        self.changing: Callable[[Host, Shown], None] = nobody
        """Told before a chain begins to be served."""
        self.restored: Callable[[], None] = nobody
        """Told after somebody else's own files are back."""

    def servable(self) -> Iterator[Shown]:
        """Every chain that a client may meet, now or as soon as any process starts."""
        now = self.clock.t
        yield from self.files.values()
        for pool in () if self.down else self.pools:
            for files in pool.alive(now):
                if files is not self.files:
                    yield from files.values()

    def plain(self) -> bool:
        """Some process has no certificate at all."""
        return any(not files for pool in self.pools for files in pool.alive(self.clock.t))

    def place(self, files: Files) -> None:
        """The rename; all who read the file read the new one."""
        for host in self.readers:
            host.placed(files)

    def placed(self, files: Files) -> None:
        """Its files are these."""
        self.once |= {s.chain.serial for s in self.files.values()}
        for shown in files.values():
            self.changing(self, shown)
        if any(s.hand for s in files.values()):
            if self.ours:
                self.displaced = self.displaced or {a: s for a, s in self.files.items() if not s.hand}
        else:
            self.displaced = {}
            self.ours = True
        self.files = files
        self.renamed_at = self.clock.t
        self.clock.note(f"      {self.name}: files are {tell(files)}")
        for pool in self.pools:
            if pool.style == "postfix":
                pool.age(files)
            elif pool.style == "exim":
                self.clock.at(5.0, partial(self._switch, pool))

    def _switch(self, pool: Pool) -> None:
        # exim finds the new file by itself; connections from before go on, but not longer than after a reload
        pool.age(self.files)
        if any(s.hand for s in self.files.values()):
            # nobody reloads after him, and no new connection meets them: they end by themselves
            ends = self.clock.t + self.drain_s
            pool.drain(lambda: ends)
            self.clock.busy(self.drain_s)
        elif self.reloaded_at > self.renamed_at:
            ends = max(self.clock.t, self.reloaded_at + 0.99 * self.drain_s)
            pool.drain(lambda: ends)

    def restart(self) -> None:
        """All processes are new."""
        for pool in self.pools:
            pool.running, pool.old, pool.broken = self.files, [], False
        self.down = False

    # -- mta.server.Server

    def check(self, key_types: frozenset[str]) -> None:
        """See `Server`."""
        self.clock.go_on(0.1)
        if self.misconfigured:
            raise Misconfigured("mta.config", f"{self.name}: its own check fails")

    @property
    def capabilities(self) -> Capabilities:
        """Not used by the agent's reconcile loop."""
        raise AssertionError

    @property
    def reload_command(self) -> str:
        """Not used by the agent's reconcile loop."""
        raise AssertionError

    connection_limits = ""

    def claims(self) -> tuple[Claim, ...]:
        """Nothing here is a file of the host."""
        return ()

    def advice(self, key_types: frozenset[str]) -> tuple[Advice, ...]:
        """Not used by the agent's reconcile loop."""
        raise AssertionError(key_types)

    def installed(self) -> Mapping[str, bytes]:
        """See `Server`."""
        return {key_type: msgspec.json.encode(Pem(shown.chain)) for key_type, shown in self.files.items()}

    def saved(self) -> Mapping[str, Secret[bytes]]:
        """See `Server`."""
        return {key_type: Secret(msgspec.json.encode(shown)) for key_type, shown in self.files.items()}

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """See `Server`."""
        self.clock.hazard(f"before {self.name} has its own files back")
        if self.disk_full or self.clock.chance(0.02):
            raise Transient("mta.disk", f"{self.name}: no space left on device")
        self.place({key_type: msgspec.json.decode(data.reveal(), type=Shown) for key_type, data in saved.items()})
        self.restored()
        self.clock.hazard(f"after {self.name} has its own files back")

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """See `Server`: one rename for each key type; the operator's list of files follows the algorithms."""
        clock = self.clock
        clock.hazard(f"before {self.name} has the files")
        clock.go_on(0.05)
        if self.disk_full or clock.chance(0.02):
            raise Transient("mta.disk", f"{self.name}: no space left on device")
        for key_type, credential in credentials.items():
            chain = msgspec.json.decode(credential.leaf, type=Pem).chain
            self.place({**self.files, key_type: Shown(chain)})
            clock.hazard(f"between two files of {self.name}")
            clock.go_on(0.01)
        if set(self.files) != set(credentials):
            self.place({a: s for a, s in self.files.items() if a in credentials})
        clock.hazard(f"after {self.name} has the files")

    def reload(self) -> None:
        """See `Server`; it may fail, fail silently at some address, or break TLS."""
        clock, rng = self.clock, self.clock.rng
        clock.hazard(f"before {self.name} reloads")
        clock.go_on(0.3)
        if self.down:
            raise Transient("mta.down", f"{self.name} is not running")
        if clock.chance(0.03):
            raise Transient("mta.reload", f"{self.name} cannot reload")
        self.reloaded_at = clock.t
        for pool in self.pools:
            fate = rng.random() / (self.flaky * pool.flaky) if clock.hostile else 1.0
            if fate < 0.04:
                clock.note(f"      {self.name} [{pool.address}] fails to reload and says nothing")
                # nobody told the old processes to end; they do so by themselves as long after the rename at the latest
                natural = max(self.renamed_at + self.drain_s * rng.random(), clock.t)
                pool.drain(lambda natural=natural: natural)
                continue
            pool.broken = fate < 0.05
            pool.age(self.files)
            pool.drain(lambda: clock.t + rng.choice((0.0, 1.0, rng.random())) * 0.999 * self.drain_s)
        clock.hazard(f"after {self.name} has reloaded")


def probe(
    clock: Clock, hosts: Mapping[str, Host], services: tuple[Service, ...], key_types: tuple[str, ...]
) -> list[Served]:
    """One handshake for each address and algorithm: it meets any process that lives, by chance."""
    clock.go_on(0.2)
    found: list[Served] = []
    for service in services:
        host = hosts[service.host]
        pools = {p.address: p for p in host.pools}
        for address in service.addresses:
            pool = pools[address]
            alive = pool.alive(clock.t)
            for key_type in key_types:
                chain: Chain | Unknown
                if host.down:
                    chain = Unknown("connection refused")
                elif pool.broken:
                    chain = Unknown("454 TLS not available", reached=True)
                else:
                    files = alive[0] if len(alive) == 1 else clock.rng.choice(alive)
                    shown = files.get(key_type)
                    chain = shown.chain if shown else Unknown("no certificate of this kind", reached=True)
                found.append(Served(service.host, address, service.port, key_type, chain, 0.01, service.host, "1.3"))
    clock.hazard("after a probe")
    return found


def tell(files: Files) -> str:
    """For the trace: short."""
    return ", ".join(f"{a} {s.chain.spki[:6]}{' (by hand)' if s.hand else ''}" for a, s in files.items()) or "none"
