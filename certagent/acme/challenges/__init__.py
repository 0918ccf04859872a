"""How a host shows a CA that it controls a name: one file for each challenge type (RFC 8555 section 8).

- `protocol`: what a type does (respond, present, serving, ready, clean up), and what it may use of this host
- `dns01`: `dns-01`, a TXT record (RFC 8555 section 8.4)
- `http01`: `http-01`, a page on port 80 (RFC 8555 section 8.3), by `webroot` or by certagent itself; `looking` looks as
  the CA does

A new type is its file and its line in `TYPES` of `facts/challenge.py`. A type is loaded when it is needed: libraries
come with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from certagent.facts.challenge import TYPES

if TYPE_CHECKING:
    from certagent.acme.challenges.protocol import ChallengeType


def loaded(name: str) -> type[ChallengeType]:
    """The type of that name.

    Raises:
        KeyError: There is none.
    """
    module, _, attribute = TYPES[name].place.partition(":")
    return getattr(import_module(module), attribute)
