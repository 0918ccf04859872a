"""The resolvers of this host. Source: resolv.conf(5)."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from pathlib import Path

from certagent.errors import Error, Misconfigured
from certagent.host.files import read_text

_RESOLV_CONF = Path("/etc/resolv.conf")
_MAX_RESOLVERS = 3
"""MAXNS of resolv.conf(5)."""


def resolvers() -> tuple[str, ...]:
    """The addresses in /etc/resolv.conf, read anew: it changes under a process that runs for months.

    A line that names no address is passed over, as the C library does.

    Raises:
        Misconfigured: `dns.no_resolver`: There is none.
    """
    try:
        lines = read_text(_RESOLV_CONF).splitlines()
    except Error:
        lines = []
    found: list[str] = []
    for words in map(str.split, lines):
        if words[:1] == ["nameserver"] and len(words) > 1:
            with suppress(ValueError):
                found.append(str(ipaddress.ip_address(words[1])))
    if not found:
        raise Misconfigured("dns.no_resolver", f"{_RESOLV_CONF} names no name server")
    return tuple(found[:_MAX_RESOLVERS])
