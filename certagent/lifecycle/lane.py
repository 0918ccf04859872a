"""Lanes: what a failure holds back, and nothing else."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Verb = Literal[
    "vault",
    "order",
    "challenge",
    "validation",
    "issuance",
    "clean up",
    "renewal info",
    "revoke",
    "observe",
    "publish",
    "inspect",
    "install",
    "rollback",
    "reload",
    "verify",
]

DEPLOYMENT: tuple[Verb, ...] = ("inspect", "install", "rollback", "reload", "verify")
"""What is done at a mail server."""


class Lane(Struct, frozen=True, order=True):
    """One kind of work on one subject: a key type, a TLSA name, a mail server; "" if there is only one.

    Failures count and back off by lane.
    """

    verb: Verb
    subject: str = ""

    def __str__(self) -> str:
        """For people: `install postfix`."""
        return f"{self.verb} {self.subject}".rstrip()

    @property
    def advisory(self) -> bool:
        """What fails here is a note: the CA's advice when to renew, which certagent does without."""
        return self.verb == "renewal info"

    @property
    def at_mail_server(self) -> bool:
        """The subject is a mail server."""
        return self.verb in DEPLOYMENT
