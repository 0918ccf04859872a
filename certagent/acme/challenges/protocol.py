"""What certagent asks of a challenge type, and what a type may use of this host.

A challenge is data (`facts.challenge`). The journal keeps it, so each verb can be called after a crash, and twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from certagent.facts.challenge import Challenge


class Txt(Protocol):
    """TXT records in DNS. Names are absolute. Errors: those of the DNS provider and of the resolver (`dns.…`)."""

    def final(self, name: str) -> tuple[str, str]:
        """(zone, name) at the end of the CNAMEs that begin at `name`."""
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
    def txt(self) -> Txt:
        """TXT records."""
        ...


class ChallengeType(Protocol):
    """One way to show a CA that this host controls a name. Made for one call; it keeps nothing."""

    def __init__(self, means: Means) -> None: ...

    @staticmethod
    def respond(identifier: str, token: str, thumbprint: str) -> Challenge:
        """The challenge with its response. Pure.

        Args:
            identifier: the host name, without `*.`.
            token: the CA's (RFC 8555 section 8.1).
            thumbprint: of the account's key, base64url (RFC 7638).
        """
        ...

    def present(self, challenges: Sequence[Challenge]) -> None:
        """Put the responses where the CA looks. Those that are there stay."""
        ...

    def ready(self, challenges: Sequence[Challenge]) -> None:
        """Return as soon as the CA would find every response, wherever it asks.

        Raises:
            NotYet: `dns.not_yet`: A response cannot be seen. `seen`: it is wherever this host gets an answer.
        """
        ...

    def clean_up(self, challenges: Sequence[Challenge]) -> None:
        """Take the responses away. What is gone already is no error."""
        ...
