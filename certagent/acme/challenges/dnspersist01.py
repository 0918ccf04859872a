"""`dns-persist-01`: a TXT record that stays, and names the CA and the account (draft-ietf-acme-dns-persist).

Where a provider may write the zone it is written; else it is made by hand, once. It is never removed: each renewal
needs it. Records of other CAs and accounts may stand beside it, and one that a person made may say more.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

from msgspec import Struct

from certagent.acme.challenges.protocol import Means, Offer
from certagent.errors import CaRefusal, NoProvider
from certagent.facts.challenge import Challenge
from certagent.pki.names import below

LABEL = "_validation-persist"
BUDGET = timedelta(seconds=10)
"""As for dns-01."""
TEXT_BYTES = 255
"""Of one string of a TXT record (RFC 1035 section 3.3.14): providers join several, or do not."""
_ISSUERS = 10
"""More make the challenge malformed (section "Challenge Object")."""
_TAG = re.compile(r"[A-Za-z0-9]+")
"""RFC 8659 section 4.2, `label`: letters and digits."""


class Record(Struct, frozen=True):
    """An issue-value (RFC 8659 section 4.2) of this challenge."""

    issuer: str
    account: str
    wildcard: bool = False
    until: int | None = None
    """In seconds since 1970; None: for good."""

    def __str__(self) -> str:
        wildcard = "; policy=wildcard" if self.wildcard else ""
        until = "" if self.until is None else f"; persistUntil={self.until}"
        return f"{self.issuer}; accounturi={self.account}{wildcard}{until}"


def parsed(text: str) -> Record | None:
    """What a TXT record says; None if it is none of this kind. Tags that are not known are left out of account."""
    issuer, *rest = (part.strip(" \t") for part in text.split(";"))
    tags: dict[str, str] = {}
    for part in filter(None, rest):
        tag, equals, value = part.partition("=")
        tag = tag.strip(" \t").lower()
        if not equals or not _TAG.fullmatch(tag) or tag in tags:
            return None
        tags[tag] = value.strip(" \t")
    until = tags.get("persistuntil")
    if not issuer or "accounturi" not in tags or not (until is None or re.fullmatch(r"[0-9]{1,15}", until)):
        return None
    wildcard = tags.get("policy", "").lower() == "wildcard"
    return Record(issuer.lower().removesuffix("."), tags["accounturi"], wildcard, None if until is None else int(until))


def suffices(found: Iterable[str], wanted: str, now: float) -> bool:
    """Whether one of the records says all that is wanted, and is not over."""
    need = parsed(wanted)
    return need is not None and any(
        (one.issuer, one.account) == (need.issuer, need.account)
        and (one.wildcard or not need.wildcard)
        and (one.until is None or one.until > now)
        for one in map(parsed, found)
        if one
    )


class DnsPersist01:
    """A ChallengeType."""

    remedy = f"look at the TXT records under {LABEL} at every name server, and at CAA"

    def __init__(self, means: Means) -> None:
        self._txt = means.txt

    @staticmethod
    def respond(offer: Offer) -> Challenge:
        """The record. The CA says who it is, and may say how it calls the account."""
        issuers = [name for name in offer.issuers if name == name.lower() and 0 < len(name) <= 253]
        if not issuers or len(offer.issuers) > _ISSUERS:
            raise CaRefusal("ca.rejected", f"{offer.identifier}: the CA's challenge names {len(issuers)} issuers")
        wanted = Record(issuers[0], offer.account, offer.wildcard)
        value = str(wanted)
        if len(value) > TEXT_BYTES or not value.isascii() or not value.isprintable() or parsed(value) != wanted:
            raise CaRefusal("ca.rejected", f"{offer.identifier}: what the CA wants is no TXT record: {value[:300]}")
        return Challenge("dns-persist-01", offer.identifier, below(LABEL, offer.identifier), value)

    def present(self, challenges: Sequence[Challenge]) -> None:
        """Add the record, if there is none that suffices."""
        for one in sorted(challenges, key=lambda one: "; policy=" not in one.value):  # that of a wildcard is enough
            zone, name = self._txt.final(one.name)
            if self._suffices(name, one.value):
                continue
            try:
                self._txt.add(zone, name, frozenset({one.value}))
            except NoProvider as error:
                hint = f'make this record by hand, once: {one.name} TXT "{one.value}"'
                raise NoProvider(error.code, error.detail, hint) from None

    def serving(self, _: Sequence[Challenge], /) -> AbstractContextManager[None]:
        """DNS does it."""
        return nullcontext()

    def ready(self, challenges: Sequence[Challenge]) -> str:
        """The CA may ask any authoritative server, so every one of them should give such a record."""
        for one in challenges:
            _, name = self._txt.final(one.name)
            if not self._suffices(name, one.value):
                self._txt.seen(name, frozenset({one.value}), BUDGET)
        return ""

    def clean_up(self, challenges: Sequence[Challenge]) -> None:
        """It stays."""

    def _suffices(self, name: str, wanted: str) -> bool:
        return suffices(self._txt.values(name), wanted, time.time())
