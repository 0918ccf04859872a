"""What a CA says of an order, and of what belongs to it, as far as it is read (RFC 8555 section 7.1)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from acme import messages
from josepy.json_util import field as json_field
from msgspec import Meta, Struct, field

from certagent.acme.transport import Identifier, Problem


class Order(Struct, rename="camel"):
    """RFC 8555 section 7.1.3."""

    status: str
    finalize: str
    authorizations: tuple[str, ...] = ()
    certificate: str | None = None
    expires: Annotated[datetime, Meta(tz=True)] | None = None
    error: Problem | None = None


class Challenge(Struct):
    """RFC 8555 section 8. CAs invent types: nothing else is certain."""

    type: str
    url: str = ""
    status: str = "pending"
    token: str = ""
    accounturi: str | None = None
    issuer_domain_names: tuple[str, ...] = field(default=(), name="issuer-domain-names")
    error: Problem | None = None


class Authorization(Struct):
    """RFC 8555 section 7.1.4."""

    identifier: Identifier
    status: str
    wildcard: bool = False
    challenges: tuple[Challenge, ...] = ()


class Account(Struct):
    """RFC 8555 section 7.1.2."""

    status: str = ""


class NewOrder(messages.NewOrder):
    """The library's newOrder does not know which certificate is to be replaced (RFC 9773 section 5)."""

    replaces: str | None = json_field("replaces", omitempty=True)
