"""Configuration files of the lab's servers, with @NAME@ for what differs between runs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lab import addresses


def render(template: str, **values: object) -> str:
    """The template's text with its @NAME@s replaced, from `values` and from addresses.py."""
    known = {**vars(addresses), **values}
    text = Path(__file__).with_name(template).read_text()
    return re.sub(r"@([A-Z][A-Z0-9_]*)@", lambda match: str(known[match[1]]), text)
