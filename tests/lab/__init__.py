"""A laboratory of real servers: a signed DNS, Pebble as certificate authority, Postfix at both ends of a mail.

`namespace` puts a command (a test run, a demonstration) into a network, a process table and an /etc of its own; there
the servers have their real ports. `dns`, `pebble` and `postfix` start one thing each, `sender` watches them, `Lab`
bundles them. Needs root, util-linux, and Debian's packages bind9, unbound, pebble, postfix, iproute2, nftables
(and knot where it is asked for). The servers are imported only when a Lab is made: `namespace` needs none of them.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self


class Lab:
    """DNS, Pebble, a receiving and a sending Postfix; the receiver's certificate, `chain_file`, does not exist yet."""

    def __init__(self, directory: Path | None = None, *, ttl: int = 5, knot: bool = False) -> None:
        from tests.lab import dns, namespace, pebble, postfix

        directory = directory or namespace.directory()
        self.chain_file = directory / "tls" / "chain.pem"
        self.dns = dns.Dns(directory / "dns", ttl=ttl, knot=knot)
        self.pebble = pebble.Pebble(directory / "pebble")
        self.mx1 = postfix.Receiver(directory / "mx1", chain_files=[self.chain_file])
        self.sender = postfix.Sender(directory / "sender")

    def start(self) -> Self:
        """Starts everything; on return everything answers."""
        self.chain_file.parent.mkdir(parents=True, exist_ok=True)
        self.dns.start()
        self.pebble.start()
        self.mx1.start()
        self.sender.start()
        return self

    def stop(self) -> None:
        """Ends everything."""
        self.sender.stop()
        self.mx1.stop()
        self.pebble.stop()
        self.dns.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
