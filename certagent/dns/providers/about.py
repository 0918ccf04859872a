"""What people read about a provider: its page, `certagent dns providers` and `certagent init` are made of this."""

from __future__ import annotations

from msgspec import Struct


class About(Struct, frozen=True):
    """The words are sentences, ready to be printed."""

    title: str
    rights: str
    """The least that the token must allow."""
    access: str
    """How to make the key or token, and where it is written to."""
    limits: str
    """What the service limits, and what follows for a roll."""
    example: str
    """The section of the configuration, in YAML without indentation."""
    name_servers: tuple[str, ...] = ()
    """What the names of its name servers end with."""
