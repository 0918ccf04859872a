"""What certagent asks of a challenge type, and what a type may use of this host.

A challenge is data (`facts.challenge`). The journal keeps it, so each verb can be called after a crash, and twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import ClassVar, Protocol

from msgspec import Struct

from certagent.facts.challenge import DNS_01, Challenge, Method
from certagent.host.listener import Listen, Listeners, everywhere
from certagent.pki import endpoint


class Offer(Struct, frozen=True):
    """A challenge as the CA offers it, the account that is to meet it, and how."""

    identifier: str
    """The host name, without `*.`."""
    token: str
    """The CA's (RFC 8555 section 8.1)."""
    thumbprint: str
    """Of the account's key, base64url (RFC 7638)."""
    method: Method = DNS_01
    wildcard: bool = False
    """It is for `*.` and the host name."""
    account: str = ""
    """The account's URL, or another that the CA names for it."""
    issuers: tuple[str, ...] = ()
    """How the CA calls itself in DNS; it offers one or several."""

    @property
    def key_authorization(self) -> str:
        """See RFC 8555 section 8.1."""
        return f"{self.token}.{self.thumbprint}"


class Txt(Protocol):
    """TXT records in DNS. Names are absolute. Errors: those of the DNS provider and of the resolver (`dns.…`)."""

    def final(self, name: str) -> tuple[str, str]:
        """(zone, name) at the end of the CNAMEs that begin at `name`."""
        ...

    def values(self, name: str) -> frozenset[str]:
        """Those that every authoritative server gives which answers."""
        ...

    def add(self, zone: str, name: str, values: frozenset[str]) -> None:
        """Make sure that the values are there, beside those of others."""
        ...

    def remove(self, zone: str, name: str, values: frozenset[str]) -> None:
        """Make sure that the values are not there. Those of others stay."""
        ...

    def seen(self, name: str, values: frozenset[str], budget: timedelta) -> None:
        """Return as soon as every authoritative server gives the values.

        Raises:
            NotYet: `dns.not_yet`: The budget is over. `seen`: only servers that do not answer are lacking.
        """
        ...


class Means(Protocol):
    """What of this host and its surroundings a challenge type may use."""

    @property
    def method(self) -> Method:
        """What the configuration says now."""
        ...

    @property
    def txt(self) -> Txt:
        """TXT records."""
        ...

    @property
    def listeners(self) -> Listeners:
        """Ports of this host that are open for the moment."""
        ...

    @property
    def addresses(self) -> Callable[[str], tuple[str, ...]]:
        """Every address of a host by DNS, with the errors of the resolver."""
        ...


def listens(method: Method, port: int) -> Listen:
    """Where certagent itself listens for a CA; `port` unless the configuration has another."""
    return tuple(endpoint.address(one, port) for one in method.listen) or everywhere(port)


class ChallengeType(Protocol):
    """One way to show a CA that this host controls a name. Made for one call; it keeps nothing."""

    remedy: ClassVar[str]
    """What to look at if the CA did not like what it saw."""

    def __init__(self, means: Means) -> None: ...

    @staticmethod
    def respond(offer: Offer) -> Challenge:
        """The challenge with its response. Pure.

        Raises:
            Rejected: `ca.rejected`: The CA offers what cannot be met.
        """
        ...

    def present(self, challenges: Sequence[Challenge]) -> None:
        """Put the responses where the CA asks. Those that are there stay."""
        ...

    def serving(self, challenges: Sequence[Challenge], /) -> AbstractContextManager[None]:
        """Within, this process itself gives the responses that it has to give."""
        ...

    def ready(self, challenges: Sequence[Challenge]) -> str:
        """Return as soon as the CA would find every response, wherever it asks. Called within `serving`.

        Returns what this host itself does not see, in words, if the CA is asked nevertheless: it looks from elsewhere.

        Raises:
            NotYet: `dns.not_yet`: A response cannot be seen. `seen`: it is wherever this host gets an answer.
        """
        ...

    def clean_up(self, challenges: Sequence[Challenge]) -> None:
        """Take the responses away. What is gone already is no error."""
        ...
