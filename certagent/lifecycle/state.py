"""What is known of one certificate. A value: what it says follows from its fields, and only the fold changes it."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from msgspec import Struct

from certagent.errors import Concern
from certagent.facts.challenge import Challenge
from certagent.facts.dns import Observation, Value
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, KeyType, Served, distinct
from certagent.lifecycle import caches
from certagent.lifecycle import events as ev
from certagent.lifecycle.budget import ZoneBudget
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.spec import MailServer
from certagent.lifecycle.steps import Delete
from certagent.pki import tlsa

EVERY_PARAMETERS = (tlsa.DANE_EE_SPKI_SHA256, tlsa.DANE_TA_SPKI_SHA256)


class KeySet(Struct, frozen=True):
    """One private key of each key type, rolled together. `spki`: SHA-256 of each SubjectPublicKeyInfo."""

    id: str
    made_at: Instant
    spki: dict[KeyType, str]
    in_service_at: Instant | None = None
    """When the first chain was issued for it."""

    def as_if_issued(self, like: Generation | None) -> dict[KeyType, Chain]:
        """The chains that the keys would get, with the issuers of that generation: to plan before they are issued."""
        chains: dict[KeyType, Chain] = {}
        for key_type, spki in self.spki.items():
            old = like.chains.get(key_type) if like else None
            made_at = self.made_at.wall
            chains[key_type] = Chain(
                spki=spki,
                issuers=old.issuers if old else (),
                names=(),
                not_before=made_at,
                not_after=made_at,
                serial="",
            )
        return chains


class Generation(Struct, frozen=True):
    """One chain of each key type. `keys` is None for what was served before certagent came: it is unmanaged."""

    id: str
    keys: str | None
    chains: dict[KeyType, Chain]
    issued_at: Instant
    ca: str = ""
    """The directory of the CA that issued it; "" for an unmanaged one."""
    revoke: bool = False
    """Its key is compromised: revoke it as soon as nothing serves it."""
    accept_deferrals: bool = False
    """The operator chose to install it without waiting for caches."""

    @property
    def unmanaged(self) -> bool:
        """Whether certagent only saw it served and has neither key nor chain."""
        return self.keys is None


class Order(Struct, frozen=True):
    """An ACME order under way; `ca`: the directory of the CA that has it."""

    keys: str
    url: str
    challenges: tuple[Challenge, ...]
    ca: str
    presented: bool = False
    ready: bool = False
    shown_at: Instant | None = None
    """When the responses are usually to be seen; None: at once."""
    not_seen: int = 0
    """How often the responses could not be seen at every authoritative server."""
    not_seen_since: Instant | None = None


class Change(Struct, frozen=True):
    """Values added to a TLSA name, or removed from it."""

    values: frozenset[Value]
    removes: bool
    tries: int
    at: Instant | None = None
    """The last try."""
    first_at: Instant | None = None
    """The first one: since then the world does not show what the provider accepted."""


class TlsaState(Struct, frozen=True):
    """A TLSA name: what caches may have of it, and the last round of answers."""

    mail_servers: tuple[str, ...] = ()
    """The mail servers that answer there, as of when the name was last configured."""
    undeclared: bool = False
    """No service asks for records there: all that is known is what others keep there."""
    cached: tuple[caches.CachedSet, ...] = ()
    observation: Observation | None = None
    observed_at: Instant | None = None
    complete_again_at: Instant | None = None
    """The first complete round after one that was not: until then a server may have led elsewhere."""
    changed_at: Instant | None = None
    """The last attempt to add or remove values; an observation before it is out of date."""
    change: Change | None = None
    """That attempt, and how often it was made without being seen to work."""
    publish_lag_s: float = 0.0
    """How long the provider usually takes to show what it was given last."""
    other: Change | None = None
    """The same of the last one in the other direction: if only a server is heard that does not follow, adding and
    removing take turns."""

    def early(self, now: Instant) -> bool:
        """What the provider was given may still come."""
        return any(item.gone_at is None and item.to_come(now) > timedelta(0) for item in self.cached)

    def tried(self, values: frozenset[Value], *, removes: bool) -> Change | None:
        """The same change, if it was made and not seen to work."""
        wanted = values, removes
        return next((c for c in (self.change, self.other) if c and (c.values, c.removes) == wanted), None)


_UNSEEN = TlsaState()


Phase = Literal[
    "inspected",
    "installing",
    "installed",
    "reloaded",
    "verify_failed",
    "verified",
    "drained",
    "drifted",
    "restoring",
    "restored",
]


class Installation(Struct, frozen=True):
    """A mail server: which generations its processes may serve, and how far the newest is verified."""

    serves: tuple[str, ...] = ()
    met: tuple[str, ...] = ()
    """Those that handshakes have met here."""
    generation: str | None = None
    previous: str | None = None
    phase: Phase = "inspected"
    reloaded_at: Instant | None = None
    verified_at: Instant | None = None
    services: tuple[str, ...] = ()
    """As `host:port`, where the last verification that nothing else is served met the generation."""
    rejected: str | None = None
    """The generation that was taken back, since its verification failed or caches forbade it by then."""
    strange: tuple[Chain, ...] = ()
    """What handshakes met where something else was expected: somebody else's doing. Until it is verified that nothing
    but certagent's is served, what was served before exempts from no gate. These are no generations, and their records
    are not ours: none is added or removed."""
    kept: bool = False
    """Files of somebody else were replaced and are in the vault, to be put back if the verification fails."""
    unseen: tuple[str, ...] = ()
    """Answers without a certificate (`Served.unseen`), as they were last met with nothing half done."""
    before: tuple[str, ...] = ()
    """The same as of the last swap: a new generation is not put back for them."""
    inspected: tuple[str, ...] = ()
    """The generations that were met when it was last inspected."""
    inspected_at: Instant | None = None

    @property
    def converged(self) -> tuple[str, ...]:
        """Generations that may be served, and surely were: no sender can tell that one of them is put in place again.

        What was only intended is none of them, however far it came.
        """
        return tuple(g for g in self.serves if g in self.met)

    def met_everywhere(self, server: MailServer) -> bool:
        """The last verification met what is served at every service that the mail server has by now."""
        return {f"{service.host}:{service.port}" for service in server.services} <= set(self.services)


class Failure(Struct, frozen=True):
    """The last failure in a lane, and how many there were in a row."""

    lane: Lane
    kind: str
    code: str
    detail: str
    hint: str
    count: int
    first_at: Instant
    at: Instant
    retry_after_s: float | None
    jitter: float
    concerns: Concern
    quick: bool
    refusals: int
    """How many of them concerned the CA."""


class Renewal(Struct, frozen=True):
    """What the CA suggested for a chain (RFC 9773): its window and the moment drawn in it."""

    generation: str
    drawn: ev.RenewalInfo
    asked_at: Instant


class State(Struct, frozen=True):
    """Everything known of one certificate. `keys` and `generations` are in the order they were made."""

    name: str
    keys_made: int = 0
    generations_made: int = 0
    """How many there ever were: the next id. A step done again after a crash has the same."""
    keys: tuple[KeySet, ...] = ()
    generations: tuple[Generation, ...] = ()
    orders: dict[KeyType, Order] = {}
    issued: dict[KeyType, Chain] = {}
    """Chains of the generation in the making."""
    issued_keys: str | None = None
    issued_ca: str | None = None
    ca: str | None = None
    """The directory of the CA that was chosen last: the last order was meant for it."""
    challenges: tuple[Challenge, ...] = ()
    """Those whose responses are, or may be, in place."""
    tlsa_names: dict[str, TlsaState] = {}
    mail_servers: dict[str, Installation] = {}
    renewals: dict[KeyType, Renewal] = {}
    budgets: tuple[ZoneBudget, ...] = ()
    """What was written to zones whose providers take only so many writes a day."""
    failing: tuple[Failure, ...] = ()
    """At most one for each lane."""
    requested: ev.Requested | None = None
    asked_at: Instant | None = None
    """When the operator was there last: DNS is observed and what is served verified anew."""
    hurried: int = 0
    """Renewals in a row that the CA wanted long before their time."""
    pending_delete: Delete | None = None
    """What is being deleted: unknown from the intent on, deleted for sure with the outcome."""
    past_values: tuple[Value, ...] = ()
    """TLSA values of keys and chains that are gone: still ours to remove where they turn up."""

    # -- what follows from the fields ----------------------------------------------------------------------------------

    def failure(self, lane: Lane) -> Failure | None:
        """What holds the lane back."""
        for failure in self.failing:
            if failure.lane == lane:
                return failure
        return None

    def tlsa_name(self, name: str) -> TlsaState:
        """What is known of a TLSA name."""
        return self.tlsa_names.get(name, _UNSEEN)

    def generation(self, id_: str) -> Generation | None:
        """The generation of that id."""
        for generation in self.generations:
            if generation.id == id_:
                return generation
        return None

    def keyset(self, id_: str | None) -> KeySet | None:
        """The key set of that id."""
        for keyset in self.keys:
            if keyset.id == id_:
                return keyset
        return None

    @property
    def newest(self) -> Generation | None:
        """The newest generation that certagent has issued."""
        for generation in reversed(self.generations):
            if generation.keys is not None:
                return generation
        return None

    @property
    def current_keys(self) -> KeySet | None:
        """The keys of the newest generation."""
        return self.keyset(self.newest.keys) if self.newest else None

    @property
    def next_keys(self) -> KeySet | None:
        """The newest keys, where the newest chain is not theirs: the standby, or those of the roll under way."""
        newest = self.keys[-1] if self.keys else None
        return newest if newest and newest != self.current_keys else None

    def serving(self, mail_servers: tuple[str, ...]) -> list[Generation]:
        """The generations that may be served by these mail servers now."""
        ids = {id_ for t in mail_servers if t in self.mail_servers for id_ in self.mail_servers[t].serves}
        return [g for g in self.generations if g.id in ids]

    @property
    def in_service(self) -> list[Chain]:
        """The chains of what may be served anywhere, also of what others put there, and of the newest generation."""
        ids = {id_ for at in self.mail_servers.values() for id_ in at.serves}
        newest = self.newest
        return [c for g in self.generations if g.id in ids or g is newest for c in g.chains.values()]

    def asked_since(self, then: Instant | None) -> bool:
        """The operator was there after this was seen last."""
        return then is not None and self.asked_at is not None and then.elapsed_s < self.asked_at.elapsed_s

    def surprises(self, server: str, served: tuple[Served, ...]) -> list[Chain]:
        """Chains that were met at a mail server, and that records tell from all that may be served there.

        What a swap is about to install, it alone has put there. Its key with another certificate is from a swap that an
        old state does not know.
        """
        at = self.mail_servers.get(server)
        if at is None:
            return []
        begun = at.generation if at.phase == "installing" else None
        serving = self.serving((server,))
        known = (*at.strange, *(chain for g in serving if g.id != begun for chain in g.chains.values()))
        expected = {chain.in_records for chain in known}
        exactly = [chain for g in serving if g.id == begun for chain in g.chains.values()]
        met = (one.chain for one in served if isinstance(one.chain, Chain) and one.chain not in exactly)
        return [chain for chain in distinct(met) if chain.in_records not in expected]

    @property
    def made(self) -> frozenset[Value]:
        """The `3 1 1` value of every key that certagent made, as far back as it remembers."""
        return frozenset(self.past_values) | {tlsa.of_key(spki) for k in self.keys for spki in k.spki.values()}

    @property
    def ours(self) -> frozenset[Value]:
        """Every TLSA value that certagent published or would publish, or adopted because it saw it served."""
        values = set(self.past_values)
        for keyset in self.keys:
            values |= {tlsa.of_key(spki) for spki in keyset.spki.values()}
        for generation in self.generations:
            values |= records(generation, EVERY_PARAMETERS)
        return frozenset(values)


def records(generation: Generation, tlsa_parameters: tuple[str, ...]) -> frozenset[Value]:
    """The TLSA values of every chain of a generation."""
    return frozenset(v for chain in generation.chains.values() for v in tlsa.records(chain, tlsa_parameters))
