"""Everything certagent can do to the world, as values. A step names its lane: what a failure holds back, and
nothing else.

Every step is idempotent: done twice, also after a crash in the middle, it leaves the world as done once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Literal

from msgspec import Struct

from certagent.facts.challenge import Challenge
from certagent.facts.dns import Value
from certagent.facts.tls import KeyType
from certagent.facts.wait import Wait as AnyWait
from certagent.lifecycle.lane import Lane, Verb


class Step(Struct, frozen=True, tag=True, kw_only=True):
    """One thing to do now. `because` is for people: the reason, with its facts."""

    VERB: ClassVar[Verb]
    SUBJECT: ClassVar[str] = ""
    """The field that the lane is about."""
    CHANGES: ClassVar[bool] = True

    because: str

    @property
    def lane(self) -> Lane:
        """Its lane: failures count and back off by it."""
        return Lane(self.VERB, getattr(self, self.SUBJECT) if self.SUBJECT else "")

    @property
    def changes(self) -> bool:
        """Whether it changes anything outside the journal; the intent is journaled before such a step."""
        return self.CHANGES


class MakeKeys(Step, frozen=True):
    """Make a private key of each key type and store it durably."""

    VERB: ClassVar[Verb] = "vault"

    keys: str
    key_types: tuple[KeyType, ...]


class PlaceOrder(Step, frozen=True):
    """Place an ACME order (RFC 8555 section 7.4) for the names and the key of one key type."""

    VERB: ClassVar[Verb] = "order"
    SUBJECT: ClassVar[str] = "key_type"

    keys: str
    key_type: KeyType
    replaces: str | None
    """The generation it replaces (RFC 9773 section 5)."""
    ca: str
    """The directory of the CA. With the intent this CA is chosen: later orders go there as long as it is configured."""


class AbandonOrder(Step, frozen=True):
    """Abandon an order that nothing wants any more; the CA lets it expire."""

    VERB: ClassVar[Verb] = "order"
    SUBJECT: ClassVar[str] = "key_type"
    CHANGES: ClassVar[bool] = False

    key_type: KeyType


class Present(Step, frozen=True):
    """Put the responses to an order's challenges where the CA asks."""

    VERB: ClassVar[Verb] = "challenge"
    SUBJECT: ClassVar[str] = "key_type"

    key_type: KeyType


WaitsFor = Literal["all", "answering", "none"]
"""Which authoritative servers must show a response before the CA looks: all, those that answer, or none."""


class Respond(Step, frozen=True):
    """See that the responses are in place, then let the CA check them."""

    VERB: ClassVar[Verb] = "validation"
    SUBJECT: ClassVar[str] = "key_type"

    key_type: KeyType
    waits_for: WaitsFor = "all"
    """Whose sight of the responses it needs; in the end the CA judges, which asks from elsewhere."""


class Finalize(Step, frozen=True):
    """Finalize the order, fetch the chain, verify it and store it durably."""

    VERB: ClassVar[Verb] = "issuance"
    SUBJECT: ClassVar[str] = "key_type"

    keys: str
    key_type: KeyType
    generation: str
    completes: bool
    """Whether the generation has a chain of every key type with this one."""


class CleanUp(Step, frozen=True):
    """Take the responses of finished orders away."""

    VERB: ClassVar[Verb] = "clean up"

    challenges: tuple[Challenge, ...]


class Observe(Step, frozen=True):
    """Ask every authoritative address of a TLSA name for its answer, and a validating resolver if it is secure."""

    VERB: ClassVar[Verb] = "observe"
    SUBJECT: ClassVar[str] = "tlsa_name"
    CHANGES: ClassVar[bool] = False

    tlsa_name: str
    mail_servers: tuple[str, ...] = ()
    """Those that answer there by the configuration; none for a name that is not in it."""
    undeclared: bool = False
    """No service asks for records there (see `Spec.undeclared`)."""
    expect: frozenset[Value] = frozenset()
    gone: frozenset[Value] = frozenset()
    budget: timedelta = timedelta(0)
    """How long to ask again until `expect` is there and `gone` is gone, at every address."""


class Publish(Step, frozen=True):
    """Add TLSA values at a TLSA name (or where its CNAME leads)."""

    VERB: ClassVar[Verb] = "publish"
    SUBJECT: ClassVar[str] = "tlsa_name"

    tlsa_name: str
    values: frozenset[Value]
    ttl_s: int


class Unpublish(Step, frozen=True):
    """Remove TLSA values at a TLSA name (or where its CNAME leads)."""

    VERB: ClassVar[Verb] = "publish"
    SUBJECT: ClassVar[str] = "tlsa_name"

    tlsa_name: str
    values: frozenset[Value]


class Inspect(Step, frozen=True):
    """Find out what a mail server serves before the first swap, or after files of somebody else were put back."""

    VERB: ClassVar[Verb] = "inspect"
    SUBJECT: ClassVar[str] = "server"
    CHANGES: ClassVar[bool] = False

    server: str


class Install(Step, frozen=True):
    """Put a generation's files in place: from here on new processes of the mail server serve it."""

    VERB: ClassVar[Verb] = "install"
    SUBJECT: ClassVar[str] = "server"

    server: str
    generation: str
    rollback: bool = False
    accept_deferrals: bool = False
    """The operator chose not to wait for caches (a compromised key without a standby)."""

    @property
    def lane(self) -> Lane:
        """Putting back has another lane: it must not wait for the back-off of what it puts right."""
        return Lane("rollback" if self.rollback else "install", self.server)


class Restore(Step, frozen=True):
    """Put back the files that were there before certagent's own, and make the mail server read them."""

    VERB: ClassVar[Verb] = "rollback"
    SUBJECT: ClassVar[str] = "server"

    server: str


class Reload(Step, frozen=True):
    """Make the mail server read its files again."""

    VERB: ClassVar[Verb] = "reload"
    SUBJECT: ClassVar[str] = "server"

    server: str


class Verify(Step, frozen=True):
    """Meet the generation at every address, port and key type of a mail server by a fresh handshake."""

    VERB: ClassVar[Verb] = "verify"
    SUBJECT: ClassVar[str] = "server"
    CHANGES: ClassVar[bool] = False

    server: str
    generation: str
    drained: bool
    """Whether old worker processes are gone by now, so that nothing else can be served any more."""
    budget: timedelta = timedelta(0)
    """How long to try again until everything is met."""


class FetchRenewalInfo(Step, frozen=True):
    """Ask the CA when it wants the certificate renewed (RFC 9773)."""

    VERB: ClassVar[Verb] = "renewal info"
    CHANGES: ClassVar[bool] = False

    generation: str
    key_type: KeyType
    ca: str
    """The directory of the CA that issued it."""


class Revoke(Step, frozen=True):
    """Revoke the chains of a generation whose key is compromised (RFC 5280 section 5.3.1, reason 1)."""

    VERB: ClassVar[Verb] = "revoke"

    generation: str
    ca: str
    """The directory of the CA that issued it."""


class Delete(Step, frozen=True):
    """Delete private keys and chains that nothing serves, publishes or would roll back to, and what is known of TLSA
    names and mail servers that are not configured any more.
    """

    VERB: ClassVar[Verb] = "vault"

    generations: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    tlsa_names: tuple[str, ...] = ()
    mail_servers: tuple[str, ...] = ()


class Wait(AnyWait, frozen=True, tag=True):
    """Nothing to do for a certificate."""

    swap: bool = False
    """A swap waits for it: that is said first."""


AnyStep = (
    MakeKeys
    | PlaceOrder
    | AbandonOrder
    | Present
    | Respond
    | Finalize
    | CleanUp
    | Observe
    | Publish
    | Unpublish
    | Inspect
    | Install
    | Restore
    | Reload
    | Verify
    | FetchRenewalInfo
    | Revoke
    | Delete
)
