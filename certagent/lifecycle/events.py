"""Everything that can happen to a certificate, as the journal tells it: one intent before each change, one outcome
after.

The journal is read for years. An event type never changes its meaning; new fields get defaults.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

from certagent.lifecycle.model import Algorithm, Served, Sighting, Value
from certagent.lifecycle.steps import AnyStep, Forget
from certagent.pki.leaf import Leaf


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
    spki: dict[Algorithm, str]


class OrderPlaced(Event, frozen=True):
    """The CA has an order for the key set; `challenges` are (TXT name, value) still to be met."""

    algorithm: Algorithm
    keys: str
    url: str
    challenges: tuple[tuple[str, str], ...]
    ca: str = ""


class Presented(Event, frozen=True):
    """The challenge values are in DNS, at these final names."""

    algorithm: Algorithm


class OrderReady(Event, frozen=True):
    """The CA has seen the challenges."""

    algorithm: Algorithm


class OrderGone(Event, frozen=True):
    """The order cannot be used any more; a new one is needed."""

    algorithm: Algorithm


class Issued(Event, frozen=True):
    """A verified chain is stored."""

    algorithm: Algorithm
    keys: str
    generation: str
    leaf: Leaf
    completes: bool


class Tidied(Event, frozen=True):
    """The challenge values are out of DNS."""

    challenges: tuple[tuple[str, str], ...]


class Looked(Event, frozen=True):
    """What the authoritative servers answered; `targets`: as in the step."""

    owner: str
    sighting: Sighting
    targets: tuple[str, ...] = ()


class Superseding(Event, frozen=True):
    """The set of a TLSA name, as the provider has it, is about to be superseded by another.

    Told before the write: neither a lost answer nor a crash forgets what caches may have taken, also where no server
    that was asked has shown it.
    """

    owner: str
    before: frozenset[Value]
    before_ttl_s: int
    after: frozenset[Value]
    after_ttl_s: int


class Published(Event, frozen=True):
    """The provider has added the values."""

    owner: str
    values: frozenset[Value]


class Unpublished(Event, frozen=True):
    """The provider has removed the values."""

    owner: str
    values: frozenset[Value]


class Surveyed(Event, frozen=True):
    """What the mail server served before certagent came."""

    target: str
    served: tuple[Served, ...]


class Installed(Event, frozen=True):
    """The files are in place. `kept`: those of somebody else were there, and are kept in the vault."""

    target: str
    generation: str
    kept: bool = False


class Restored(Event, frozen=True):
    """The files of somebody else are back, and the mail server was told to read them."""

    target: str


class Reloaded(Event, frozen=True):
    """The mail server was told to read its files again, and said yes (which proves nothing)."""

    target: str


class Proven(Event, frozen=True):
    """Every handshake met the generation."""

    target: str
    generation: str
    drained: bool
    served: tuple[Served, ...]


class Disproven(Event, frozen=True):
    """A handshake met something else, or no TLS at all."""

    target: str
    generation: str
    served: tuple[Served, ...]


class RenewalInfo(Event, frozen=True):
    """The CA's window; `at` is the moment drawn in it, once a window. None: the CA has no ARI."""

    generation: str
    algorithm: Algorithm
    start: datetime | None
    end: datetime | None
    at: datetime | None
    ask_again_s: float
    explanation_url: str | None = None


class Revoked(Event, frozen=True):
    """The CA has revoked the generation's certificates."""

    generation: str


class Forgotten(Event, frozen=True):
    """Files and records of these are gone."""

    generations: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


def forgotten(step: Forget) -> Forgotten:
    """All that was to be forgotten is."""
    return Forgotten(
        generations=step.generations, keys=step.keys, owners=step.owners, targets=step.targets, work=step.work
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
    | OrderGone
    | Issued
    | Tidied
    | Looked
    | Superseding
    | Published
    | Unpublished
    | Surveyed
    | Installed
    | Restored
    | Reloaded
    | Proven
    | Disproven
    | RenewalInfo
    | Revoked
    | Forgotten
    | Requested
)
