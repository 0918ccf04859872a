"""The simulated certificate authority and the vault; and cheap stand-ins for real keys and chains.

`cheap()` replaces, while a simulation runs, key making, CSRs and chain building in `certagent.pki` by functions over
small JSON values, and the clock, dice and threads of `agent/act` by the world's. The agent's rules and gates stay real.
"""

from __future__ import annotations

import gc
import hashlib
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar
from unittest.mock import patch

import cryptography.x509
import msgspec

import certagent.acme.ari
from certagent.acme.challenges import dns01
from certagent.acme.issuer import Order, Window
from certagent.agent.act import issuing, outcome
from certagent.errors import BadChain, CaLimit, CaRefusal, CaUnavailable, Missing, NotYetValid, Transient, Unsafe
from certagent.facts.challenge import DNS_01, Challenge, Method
from certagent.facts.tls import Chain
from certagent.pki import bundle, keys
from certagent.pki.credential import Credential
from certagent.secret import Secret
from tests.simulation.clock import Clock, nobody
from tests.simulation.memory import Memory, remembered

T = TypeVar("T")
R = TypeVar("R")


class Pem(msgspec.Struct, frozen=True):
    """What stands for a PEM chain."""

    chain: Chain
    complete: bool = True


def spki_of(key: bytes) -> str:
    """What stands for the digest of a public key."""
    return hashlib.sha256(key).hexdigest()


class Dice:
    """The world whose time and dice `agent/act` uses now."""

    def __init__(self) -> None:
        self.clock: Clock
        self.memory = Memory()

    def begin(self, clock: Clock) -> None:
        """Another history."""
        self.clock = clock
        self.memory.delete()

    def random(self) -> float:
        return self.clock.rng.random()


NOW = Dice()


class _Pool:
    """One thread is as good as eight where nothing waits."""

    def __init__(self, max_workers: int) -> None: ...

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        return [function(i) for i in items]


def _make(key_type: str) -> Secret[bytes]:
    return Secret(f"{key_type} {NOW.clock.rng.getrandbits(64):x}".encode())


def _spki_sha256(key: Secret[bytes]) -> str:
    return spki_of(key.reveal())


def _csr(key: Secret[bytes], names: Sequence[str]) -> bytes:
    return f"{spki_of(key.reveal())} {' '.join(names)}".encode()


def _build(
    key: Secret[bytes], certificates_pem: bytes, *, names: Sequence[str], now: datetime, keep_root: bool = False
) -> tuple[Credential, Chain]:
    found = msgspec.json.decode(certificates_pem, type=Pem)
    chain = found.chain
    if chain.spki != spki_of(key.reveal()):
        raise BadChain("pem.key_mismatch", "the certificate is for another key")
    if not found.complete:
        raise BadChain("pem.incomplete", "comes without the certificate of its issuer")
    if set(chain.names) != set(names):
        raise BadChain("pem.names", "is for other names")
    if now < chain.not_before:
        raise NotYetValid("pem.not_yet_valid", "is valid later only")
    if now > chain.not_after:
        raise BadChain("pem.expired", "has expired")
    return Credential(key, certificates_pem, b""), chain


def _facts(certificates: Sequence[bytes]) -> Chain:
    return msgspec.json.decode(certificates[0], type=Pem).chain


@contextmanager
def cheap(*, remember: bool = True) -> Generator[Dice]:
    """While this lasts, the agent's crypto costs nothing and its time is the world's; set `.clock` for each history."""
    NOW.memory = Memory()
    replaced: list[Any] = [
        patch.object(keys, "make", _make),
        patch.object(keys, "spki_sha256", _spki_sha256),
        patch.object(keys, "csr", _csr),
        patch.object(bundle, "build", _build),
        patch.object(bundle, "facts", _facts),
        patch.object(cryptography.x509, "load_pem_x509_certificate", bytes),
        patch.object(certagent.acme.ari, "certificate_id", spki_of),
        patch.object(issuing, "random", NOW),
        patch.object(outcome, "random", NOW),
        patch.object(dns01, "ThreadPoolExecutor", _Pool),
        *(remembered(NOW.memory) if remember else ()),
    ]
    before = gc.get_threshold()
    gc.set_threshold(5_000, 50, 50)  # a world is full of cycles, and is garbage as a whole soon after its history
    for p in replaced:
        p.start()
    try:
        yield NOW
    finally:
        gc.set_threshold(*before)
        for p in reversed(replaced):
            p.stop()


class Ca:
    """See `ca.issuer.Issuer`. It fails, limits, loses answers, changes its intermediate, and sometimes errs."""

    def __init__(self, clock: Clock, life: timedelta) -> None:
        self.clock = clock
        self.life = life
        self.intermediate = "a" * 64
        self.down = False
        self.retry_after_s: float | None = None
        self.urgent = False
        """ARI: everything issued so far is to be renewed at once (a revocation)."""
        self.urgent_before = -1.0
        self.hurries = False
        """ARI: whatever was issued is to be renewed at once."""
        self.antique = False
        """ARI: a window from before the certificate began."""
        self.limit_s: float | None = None
        """The next order is refused once, with this Retry-After."""
        self.ari = clock.rng.random() < 0.6
        self.orders: dict[str, dict[str, Any]] = {}
        self.revoked: Callable[[Chain], None] = nobody
        self.sees: Callable[[Challenge], bool] = bool
        """Whether a response is where the CA looks: it asks servers that do not answer the agent, too."""
        self.faults = 0
        self._count = 0

    def _enter(self, what: str) -> None:
        clock = self.clock
        clock.hazard(f"before the CA is asked: {what}")
        clock.go_on(0.5)
        if self.limit_s is not None and what == "order":
            limit_s, self.limit_s = self.limit_s, None
            raise CaLimit("ca.rate_limited", "429", retry_after_s=limit_s)
        if not clock.hostile:
            return
        if self.down:
            self.faults += 1
            raise CaUnavailable("ca.unreachable", "no route to the CA")
        fate = clock.rng.random()
        if fate >= 0.06:
            return
        self.faults += 1
        if fate < 0.02:
            raise CaUnavailable("ca.busy", "503", retry_after_s=clock.rng.choice((None, 30.0, 3600.0)))
        if fate < 0.03:
            raise CaLimit("ca.rate_limited", "429", retry_after_s=clock.rng.choice((60.0, 6 * 3600.0)))
        if fate < 0.04:
            raise CaUnavailable("ca.garbage", "no ACME")
        if fate < 0.05 and what != "renewal info":
            raise CaRefusal("ca.rejected", "malformed")
        raise CaUnavailable("ca.unreachable", "reset")

    def order(
        self, csr_pem: bytes, method: Method = DNS_01, *, profile: str | None = None, replaces: str | None = None
    ) -> Order:
        """See `Issuer`."""
        self._enter("order")
        self._count += 1
        url = f"https://ca.test/order/{self._count}"
        names = csr_pem.decode().split()[1:]
        reused = self.clock.rng.random() < 0.3
        challenges = (
            () if reused else tuple(Challenge("dns-01", n, f"_acme-challenge.{n}.", f"v{self._count}") for n in names)
        )
        self.orders[url] = {"ready": reused, "pem": None, "challenges": challenges}
        self.clock.hazard("after the CA has an order")
        return Order(url, challenges, None)

    def answer(self, url: str, type_: str = DNS_01.type) -> None:
        """See `Issuer`."""
        self._enter("answer")
        order = self._find(url)
        if self.clock.chance(0.03) or not all(map(self.sees, order["challenges"])):
            self.faults += 1
            del self.orders[url]
            raise CaRefusal("ca.challenge_failed", "the TXT was not there")
        if self.clock.chance(0.03):
            raise CaUnavailable("ca.slow", "not yet")
        order["ready"] = True

    def _find(self, url: str) -> dict[str, Any]:
        order = self.orders.get(url)
        if order is None or self.clock.chance(0.01):
            self.orders.pop(url, None)
            raise CaRefusal("ca.order_gone", "invalid")
        return order

    def finalize(self, url: str, csr_pem: bytes) -> bytes:
        """See `Issuer`."""
        self._enter("finalize")
        order = self._find(url)
        if not order["ready"]:
            raise CaRefusal("ca.rejected", "order is not ready")
        if order["pem"] is None:
            order["pem"] = self._issue(csr_pem)
        if self.clock.chance(0.02):
            raise CaUnavailable("ca.unreachable", "the answer was lost")
        self.clock.hazard("after the CA has issued")
        return order["pem"]

    def alternates(self, url: str) -> Iterator[bytes]:
        """See `Issuer`: it has no other chain."""
        return iter(())

    def _issue(self, csr_pem: bytes) -> bytes:
        spki, *names = csr_pem.decode().split()
        now = self.clock.true_wall()
        chain = Chain(
            spki=spki,
            issuers=(self.intermediate,),
            names=tuple(sorted(names)),
            not_before=now - timedelta(hours=1),
            not_after=now + self.life,
            serial=f"{self.clock.rng.getrandbits(48):x}",
        )
        complete = True
        if self.clock.chance(0.03):
            self.faults += 1
            match self.clock.rng.randrange(3):
                case 0:
                    complete = False
                case 1:
                    chain = msgspec.structs.replace(chain, spki="f" * 64)
                case _:
                    chain = msgspec.structs.replace(chain, names=("else.where",))
        return msgspec.json.encode(Pem(chain, complete))

    def renewal_info(self, leaf_pem: bytes) -> Window | None:
        """See `Issuer`."""
        self._enter("renewal info")
        chain = msgspec.json.decode(leaf_pem, type=Pem).chain
        now = self.clock.true_wall()
        if now > chain.not_after:
            return None
        issued = chain.not_before + timedelta(hours=1)
        if self.antique:
            return Window(chain.not_before - timedelta(days=2), chain.not_before - timedelta(days=1), None, 3600.0)
        if self.hurries or (issued - self.clock.true_wall()).total_seconds() + self.clock.t < self.urgent_before:
            return Window(now - timedelta(hours=1), now - timedelta(minutes=30), None, 3600.0)
        if not self.ari:
            return None
        third = chain.not_after - self.life / 3
        return Window(third - timedelta(hours=6), third, None, 43200.0)

    def revoke(self, leaf_pem: bytes, reason: int, key: Secret[bytes] | None = None) -> None:
        """See `Issuer`."""
        self._enter("revoke")
        self.revoked(msgspec.json.decode(leaf_pem, type=Pem).chain)


class Vault:
    """See `act.Vault`; durable once it returns."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.keys: dict[tuple[str, str], bytes] = {}
        self.chains: dict[tuple[str, str], bytes] = {}
        self.files: dict[str, dict[str, Secret[bytes]]] = {}
        self.disk_full = False
        self.dropping: Callable[[str, list[str]], None] = nobody
        """Told (what, digests of the public keys) before something is deleted."""

    def _write(self) -> None:
        self.clock.hazard("before the vault writes")
        if self.disk_full or self.clock.chance(0.01):
            raise Transient("store.disk", "no space left on device")

    def put_key(self, certificate: str, keys_id: str, key_type: str, key: Secret[bytes]) -> None:
        """See `Vault`."""
        self._write()
        if self.keys.setdefault((keys_id, key_type), key.reveal()) != key.reveal():
            raise Unsafe("vault.exists", "holds another key")
        self.clock.hazard("after the vault has written")

    def key(self, certificate: str, keys_id: str, key_type: str) -> Secret[bytes]:
        """See `Vault`."""
        found = self.keys.get((keys_id, key_type))
        if found is None:
            raise Missing("vault.missing", f"{keys_id} {key_type} is missing")
        return Secret(found)

    def put_chain(self, certificate: str, generation_id: str, key_type: str, pem: bytes) -> None:
        """See `Vault`."""
        self._write()
        self.chains[generation_id, key_type] = pem
        self.clock.hazard("after the vault has written")

    def chain(self, certificate: str, generation_id: str, key_type: str) -> bytes:
        """See `Vault`."""
        found = self.chains.get((generation_id, key_type))
        if found is None:
            raise Missing("vault.missing", f"{generation_id} {key_type} is missing")
        return found

    def keep(self, certificate: str, server: str, files: Mapping[str, Secret[bytes]]) -> None:
        """See `Vault`."""
        self._write()
        self.files[server] = dict(files)
        self.clock.hazard("after the vault has written")

    def kept(self, certificate: str, server: str) -> Mapping[str, Secret[bytes]]:
        """See `Vault`."""
        return self.files.get(server, {})

    def drop_keys(self, certificate: str, keys_id: str) -> None:
        """See `Vault`."""
        pending_delete = [k for k in self.keys if k[0] == keys_id]
        self.dropping("key", [spki_of(self.keys[k]) for k in pending_delete])
        for k in pending_delete:
            del self.keys[k]
        self.clock.hazard("after a key was dropped")

    def drop_chain(self, certificate: str, generation_id: str) -> None:
        """See `Vault`."""
        for k in [k for k in self.chains if k[0] == generation_id]:
            del self.chains[k]
        self.clock.hazard("after a chain was dropped")


def unmanaged(rng: random.Random, clock: Clock, names: tuple[str, ...], life: timedelta) -> Chain:
    """A chain that certagent did not order: what was served before it came, or what somebody puts there by hand."""
    now = clock.true_wall()
    spki = spki_of(f"unmanaged {rng.getrandbits(64)}".encode())
    # some have no issuer in the file: signed by their own key, as distributions install them
    issuers = ("b" * 64,) if rng.random() < 0.8 else ()
    return Chain(spki, issuers, names, now - life / 2, now + life, f"{rng.getrandbits(48):x}")
