"""What each error code means, and what the operator does; from `errors.toml` beside this file."""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from pathlib import Path

from msgspec import Struct, convert

from certagent.errors import Usage
from certagent.host.files import read_text


class Code(Struct, frozen=True, forbid_unknown_fields=True):
    """One error code, in words."""

    kind: str
    """`transient`, `rejected`, `misconfigured`, `unsafe`, `error`; `condition` if no step fails of it."""
    meaning: str
    remedy: str


@cache
def all_codes() -> dict[str, Code]:
    """Every code, in the order of the file."""
    text = read_text(Path(__file__).with_name("errors.toml"))
    return convert(tomllib.loads(text), dict[str, Code])


def explained(code: str) -> Code:
    """What a code means.

    Raises:
        Usage: `cli.usage`: There is no such code.
    """
    known = all_codes()
    if code not in known:
        near = difflib.get_close_matches(code, known, n=3)
        hint = f"near to it: {', '.join(near)}" if near else "certagent explain lists all of them"
        raise Usage("cli.usage", f"there is no error code {code}", hint)
    return known[code]


NEXT = {
    "transient": "Something is away or busy. It is tried again with back-off.",
    "rejected": "The other side understood and said no. Something new is tried, slowly.",
    "misconfigured": "You have to change something first. It is tried again with back-off all the same.",
    "unsafe": "certagent itself refuses: going on could make a sender meet a certificate that does not match.",
    "error": "A defect of certagent.",
    "condition": "No step fails. `certagent status` and `certagent check` see it in what they know.",
}
"""What each kind says of what happens next."""
