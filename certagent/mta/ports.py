"""A TCP port in the configuration of a mail server: a number, or the name of a service."""

from __future__ import annotations

import socket

_TODAY = {"smtp": 25, "smtps": 465, "submissions": 465, "submission": 587}
"""Names that /etc/services may lack, or have another number for."""


def port_of(text: str) -> int | None:
    """The port; None if it is none, or its name is known to nobody."""
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) <= 5 else 0
    elif text in _TODAY:
        number = _TODAY[text]
    else:
        try:
            number = socket.getservbyname(text, "tcp")
        except (OSError, ValueError):  # ValueError: of what no name can hold
            return None
    return number if 0 < number < 65536 else None
