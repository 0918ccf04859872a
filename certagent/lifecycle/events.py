"""Everything that can happen to a certificate, as the journal tells it: one intent before each change, one outcome
after.

The journal is read for years. An event type never changes its meaning; new fields get defaults.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

from certagent.facts.challenge import Challenge
from certagent.facts.dns import Observation, Value
from certagent.facts.tls import Chain, KeyType, Served
from certagent.lifecycle.steps import AnyStep, Delete


class Event(Struct, frozen=True, tag=True, kw_only=True):
    """What happened. `work` is the step's line of work: its failures are over with this."""

    work: str = ""


class Intended(Event, frozen=True):
    """The step is about to be done. Without an outcome after it, it may have been done, wholly or in part, or not."""

    step: AnyStep


class Failed(Event, frozen=True):
    """The step failed."""

    kind: str
    code: str
    detail: str
    hint: str = ""
    retry_after_s: float | None = None
    jitter: float = 0.0
    """Drawn once, 0 to 1: spreads the retries of many hosts; here so that planning stays a function."""


class KeysMade(Event, frozen=True):
    """Private keys are stored; `spki` is the SHA-256 of each one's SubjectPublicKeyInfo."""

    keys: str
    spki: dict[KeyType, str]


class OrderPlaced(Event, frozen=True):
    """The CA has an order for the key set; `challenges` are still to be met."""

    key_type: KeyType
    keys: str
    url: str
    challenges: tuple[Challenge, ...]
    ca: str = ""


class Presented(Event, frozen=True):
    """The responses to the challenges are in place."""

    key_type: KeyType


class OrderReady(Event, frozen=True):
    """The CA has seen the challenges."""

    key_type: KeyType


class OrderAbandoned(Event, frozen=True):
    """The order cannot be used any more; a new one is needed."""

    key_type: KeyType


class Issued(Event, frozen=True):
    """A verified chain is stored."""

    key_type: KeyType
    keys: str
    generation: str
    chain: Chain
    completes: bool


class CleanedUp(Event, frozen=True):
    """The responses to the challenges are gone."""

    challenges: tuple[Challenge, ...]


class Observed(Event, frozen=True):
    """What the authoritative servers answered; `mail_servers`: as in the step."""

    tlsa_name: str
    observation: Observation
    mail_servers: tuple[str, ...] = ()


class Superseding(Event, frozen=True):
    """The set of a TLSA name, as the provider has it, is about to be superseded by another.

    Told before the write: neither a lost answer nor a crash forgets what caches may have taken, also where no server
    that was asked has shown it.
    """

    tlsa_name: str
    before: frozenset[Value]
    before_ttl_s: int
    after: frozenset[Value]
    after_ttl_s: int


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
    """The files are in place. `kept`: those of somebody else were there, and are kept in the vault."""

    server: str
    generation: str
    kept: bool = False


class Restored(Event, frozen=True):
    """The files of somebody else are back, and the mail server was told to read them."""

    server: str


class Reloaded(Event, frozen=True):
    """The mail server was told to read its files again, and said yes (which proves nothing)."""

    server: str


class Verified(Event, frozen=True):
    """Every handshake met the generation."""

    server: str
    generation: str
    drained: bool
    served: tuple[Served, ...]


class VerifyFailed(Event, frozen=True):
    """A handshake met something else, or no TLS at all."""

    server: str
    generation: str
    served: tuple[Served, ...]


class RenewalInfo(Event, frozen=True):
    """The CA's window; `at` is the moment drawn in it, once a window. None: the CA has no ARI."""

    generation: str
    key_type: KeyType
    start: datetime | None
    end: datetime | None
    at: datetime | None
    ask_again_s: float
    explanation_url: str | None = None


class Revoked(Event, frozen=True):
    """The CA has revoked the generation's certificates."""

    generation: str


class Deleted(Event, frozen=True):
    """Files and records of these are gone."""

    generations: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    tlsa_names: tuple[str, ...] = ()
    mail_servers: tuple[str, ...] = ()


def deleted(step: Delete) -> Deleted:
    """All that was to be forgotten is."""
    return Deleted(
        generations=step.generations,
        keys=step.keys,
        tlsa_names=step.tlsa_names,
        mail_servers=step.mail_servers,
        work=step.work,
    )


class Requested(Event, frozen=True):
    """The operator asked for something. `retry`: only that what failed is tried again without waiting."""

    what: Literal["retry", "renew", "rotate", "emergency", "abort"]
    accept_deferrals: bool = False


AnyEvent = (
    Intended
    | Failed
    | KeysMade
    | OrderPlaced
    | Presented
    | OrderReady
    | OrderAbandoned
    | Issued
    | CleanedUp
    | Observed
    | Superseding
    | Published
    | Unpublished
    | Inspected
    | Installed
    | Restored
    | Reloaded
    | Verified
    | VerifyFailed
    | RenewalInfo
    | Revoked
    | Deleted
    | Requested
)
