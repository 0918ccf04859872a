"""The TCP sockets of this host that wait for clients: the kernel's tables tcp and tcp6.

Source: proc_net_tcp of the kernel's documentation.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress

from msgspec import Struct

from certagent.host import proc

_LISTEN = "0A"
"""TCP_LISTEN, in the column `st`."""

_LIMIT_BYTES = 64 << 20
"""400,000 sockets, of 150 bytes each."""


class Listener(Struct, frozen=True, order=True):
    """A socket that waits for clients. `inode` is its number, new for each socket."""

    port: int
    address: str
    inode: int


def listening() -> list[Listener]:
    """Those in the network of this process, by port and address.

    A line that is not understood is passed over. Without /proc there are none.
    """
    found: set[Listener] = set()
    for table in ("tcp", "tcp6"):
        try:
            text = proc.read(f"self/net/{table}", _LIMIT_BYTES).decode("ascii", "replace")
        except OSError:  # no IPv6 in this kernel, or no /proc
            continue
        for line in text.splitlines()[1:]:
            with suppress(ValueError, IndexError, OverflowError):
                columns = line.split()
                address, _, port = columns[1].partition(":")
                if columns[3] == _LISTEN:
                    found.add(Listener(int(port, 16), _address(address), int(columns[9])))
    return sorted(found)


Sockets = Mapping[tuple[str, int], int]
"""By address and port: their numbers."""


def at(ports: Iterable[int]) -> Sockets:
    """Those that listen at these ports."""
    wanted = set(ports)
    return {(one.address, one.port): one.inode for one in listening() if one.port in wanted}


def renewed(before: Sockets, now: Sockets) -> bool:
    """Whether at least one socket is new: others may belong to another server."""
    return any(before.get(place) != number for place, number in now.items())


def _address(hexadecimal: str) -> str:
    """The kernel prints words of four bytes in the byte order of the machine.

    Raises:
        ValueError: It is no address.
    """
    if len(hexadecimal) not in {8, 32}:
        raise ValueError(hexadecimal)
    words = (hexadecimal[i : i + 8] for i in range(0, len(hexadecimal), 8))
    return str(ipaddress.ip_address(b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)))
