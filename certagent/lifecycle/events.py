"""Everything that can happen to a certificate, as the journal keeps it: one intent before each change, one outcome
after.

The journal is read for years. An event type never changes its meaning; new fields get defaults.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

from certagent.errors import Concern
from certagent.facts.challenge import Challenge
from certagent.facts.dns import Observation, Value
from certagent.facts.tls import Chain, KeyType, Served
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.steps import AnyStep, Delete


class Event(Struct, frozen=True, tag=True, kw_only=True):
    """What happened. `lane` is the lane of the step: its failures are over with this."""

    lane: Lane | None = None


class Intended(Event, frozen=True):
    """The step is about to be done. Without an outcome after it, it may have been done, wholly or in part, or not."""

    step: AnyStep
    """The step, with what it was planned from."""


class Failed(Event, frozen=True):
    """The step failed."""

    kind: str
    """`transient`, `rejected`, `misconfigured`, `unsafe` or `error`."""
    code: str
    """The error code."""
    detail: str
    """What failed, in words."""
    hint: str = ""
    """The remedy."""
    retry_after_s: float | None = None
    """How long the other side asked to wait, in seconds."""
    concerns: Concern = "host"
    """Whose limits count, and what is done about it (see `errors.Concern`)."""
    quick: bool = False
    """Of the CA: nothing was refused, so the first retry comes soon."""
    jitter: float = 0.0
    """Drawn once, 0 to 1: it spreads the retries of many hosts."""


class KeysMade(Event, frozen=True):
    """Private keys are stored."""

    keys: str
    spki: dict[KeyType, str]
    """The SHA-256 of the SubjectPublicKeyInfo of each, in hexadecimal."""


class OrderPlaced(Event, frozen=True):
    """The CA has an order for the key set."""

    key_type: KeyType
    keys: str
    url: str
    """The URL of the order."""
    challenges: tuple[Challenge, ...]
    """Those that are still to be met."""
    ca: str
    """The directory of the CA."""


class Presented(Event, frozen=True):
    """The responses to the challenges are in place."""

    key_type: KeyType
    publish_lag_s: float = 0.0
    """How long the provider usually takes to show them, in seconds."""


class ResponseNotSeen(Event, frozen=True):
    """A response that was put in place cannot be seen: it was lost, or removed by somebody. It is put there again."""

    key_type: KeyType
    """Such as `ecdsa-p256`."""


class OrderReady(Event, frozen=True):
    """The CA has seen the challenges."""

    key_type: KeyType
    passed_over: str = ""
    """Where this host itself did not see the responses, in words."""


class OrderAbandoned(Event, frozen=True):
    """The order cannot be used any more; a new one is needed."""

    key_type: KeyType


class Issued(Event, frozen=True):
    """A verified chain is stored."""

    key_type: KeyType
    keys: str
    generation: str
    chain: Chain
    """The facts of the certificate and its issuers."""
    completes: bool
    """The generation has a chain of each key type now."""
    ca: str
    """The directory of the CA that issued it."""


class CleanedUp(Event, frozen=True):
    """The responses to the challenges are gone."""

    challenges: tuple[Challenge, ...]
    """Those whose orders are over."""


class Observed(Event, frozen=True):
    """What the authoritative servers answered."""

    tlsa_name: str
    observation: Observation
    """What each address of each server answered, and whether a validating resolver says that it is secure."""
    mail_servers: tuple[str, ...] = ()
    """Those that serve at this name."""
    undeclared: bool = False
    """It is the name of a service without `tlsa: true`: certagent keeps no records there."""
    early: bool = False
    """What the DNS provider was given may still be published: that a set is not there says nothing yet."""


class Superseding(Event, frozen=True):
    """The set of a TLSA name, as the provider has it, is about to be superseded by another.

    It is journaled before the write. So neither a lost answer nor a crash loses what caches may have taken, even if no
    server that was asked has shown it.
    """

    tlsa_name: str
    before: frozenset[Value]
    """The records that are there."""
    before_ttl_s: int
    """Their TTL."""
    after: frozenset[Value]
    """The records that will be there."""
    after_ttl_s: int
    """Their TTL."""
    publish_lag_s: float = 0.0
    """How long the provider usually takes to show them, in seconds."""


class Writing(Event, frozen=True):
    """A zone is about to be written whose provider takes only so many writes a day.

    It is journaled before the write, so what a crash or a lost answer hides is counted, too.
    """

    zone: str
    per_day: int
    """How many it takes."""


class Published(Event, frozen=True):
    """The provider has added the values."""

    tlsa_name: str
    values: frozenset[Value]


class Unpublished(Event, frozen=True):
    """The provider has removed the values."""

    tlsa_name: str
    values: frozenset[Value]


class Inspected(Event, frozen=True):
    """What the mail server served before certagent came."""

    server: str
    served: tuple[Served, ...]


class Installed(Event, frozen=True):
    """The files are in place."""

    server: str
    generation: str
    kept: bool = False
    """Files from before certagent were there, and are kept in the vault."""


class Restored(Event, frozen=True):
    """The files from before certagent are back, and the mail server was reloaded."""

    server: str


class Reloaded(Event, frozen=True):
    """The mail server was asked to read its files again and said yes, which shows nothing."""

    server: str


class Verified(Event, frozen=True):
    """Every handshake met the generation."""

    server: str
    generation: str
    drained: bool
    """Processes from before the reload are gone by now."""
    served: tuple[Served, ...]


class VerifyFailed(Event, frozen=True):
    """A handshake met something else, or no TLS at all."""

    server: str
    generation: str
    served: tuple[Served, ...]
    drained: bool = False
    """Processes from before the reload are gone by now."""
    as_before: bool = False
    """Nothing but answers without a certificate, each as before the swap, or of a service that is new."""


class Met(Event, frozen=True):
    """What handshakes met just before a swap or a first publication, where it was not what the journal says."""

    server: str
    served: tuple[Served, ...]


class RenewalInfo(Event, frozen=True):
    """When the CA wants the certificate renewed (RFC 9773)."""

    generation: str
    key_type: KeyType
    ca: str
    """The directory of that CA."""
    start: datetime | None
    """The begin of the CA's window; null: it has no renewal information."""
    end: datetime | None
    """The end of the window."""
    at: datetime | None
    """The moment drawn in the window, once for each window."""
    ask_again_s: float
    """When to ask again, in seconds."""
    explanation_url: str | None = None
    """A page of the CA that says why."""


class Revoked(Event, frozen=True):
    """The CA has revoked the generation's certificates."""

    generation: str
    ca: str
    """The directory of that CA."""


class Deleted(Event, frozen=True):
    """Files and records of these are gone."""

    generations: tuple[str, ...] = ()
    """Such as `g1`."""
    keys: tuple[str, ...] = ()
    """Key sets, such as `k1`."""
    tlsa_names: tuple[str, ...] = ()
    """TLSA names that are not configured any more."""
    mail_servers: tuple[str, ...] = ()


def deleted(step: Delete) -> Deleted:
    """The outcome of a step that deleted all it was to delete."""
    return Deleted(
        generations=step.generations,
        keys=step.keys,
        tlsa_names=step.tlsa_names,
        mail_servers=step.mail_servers,
        lane=step.lane,
    )


class Requested(Event, frozen=True):
    """The operator asked for something."""

    what: Literal["retry", "renew", "rotate", "emergency", "abort"]
    """`retry`: only that what failed is tried again without waiting.

    With each of these DNS is observed and what is served is verified anew.
    """
    accept_deferrals: bool = False
    """Do not wait for caches: senders with an old set defer mail."""


AnyEvent = (
    Intended
    | Failed
    | KeysMade
    | OrderPlaced
    | Presented
    | ResponseNotSeen
    | OrderReady
    | OrderAbandoned
    | Issued
    | CleanedUp
    | Observed
    | Superseding
    | Writing
    | Published
    | Unpublished
    | Inspected
    | Installed
    | Restored
    | Reloaded
    | Verified
    | VerifyFailed
    | Met
    | RenewalInfo
    | Revoked
    | Deleted
    | Requested
)
