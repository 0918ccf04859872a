"""Where a server listens: `192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1`, `[2001:db8::1]:5353`; and by name."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

DNS_PORT = 53
EXAMPLE = "for example 192.0.2.1, 192.0.2.1:5353, 2001:db8::1 or [2001:db8::1]:5353"

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def address(text: str, default: int = DNS_PORT) -> tuple[str, int]:
    """The address and the port, which is `default` if there is none.

    Raises:
        ValueError: It is none; a name is none either.
    """
    host, port = _split(text, default)
    ipaddress.ip_address(host)
    return host, port


def server(text: str) -> tuple[str, int]:
    """The address or the name, and the port.

    Raises:
        ValueError: It is none.
    """
    host, port = _split(text)
    with suppress(ValueError):
        return str(ipaddress.ip_address(host)), port
    labels = host.removesuffix(".").split(".")
    if not all(0 < len(label) <= 63 and _LETTERS.issuperset(label) for label in labels):
        raise ValueError("no name of a server")
    return host, port


def is_loopback(text: str) -> bool:
    """Whether this address is on this host."""
    return ipaddress.ip_address(address(text)[0]).is_loopback


def _split(text: str, default: int = DNS_PORT) -> tuple[str, int]:
    bracketed = text.startswith("[")
    if bracketed:
        host, closed, rest = text[1:].partition("]")
        if not closed or ":" not in host or (rest and not rest.startswith(":")):
            raise ValueError("no address in brackets")
        colon, port = rest[:1], rest[1:]
    elif text.count(":") > 1:
        host, colon, port = text, "", ""
    else:
        host, colon, port = text.partition(":")
    if not colon:
        return host, default
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError("no port")
    return host, int(port)
