"""New TLS connections while a mail server's certificate is swapped, and what each of them met.

A connection that no process of the server ever took is not a failed handshake: the port was closed, and a sender comes
again. It was refused, or the kernel alone had accepted it into the queue of a socket that was then closed, which `Door`
tells by what the kernel says of both.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from pathlib import Path

from cryptography import x509

from tests.lab.certificates import tlsa_311
from tests.mta import chains

_LISTEN = "0A"
"""TCP_LISTEN in the column `st`."""

_BYTES_RECEIVED = slice(128, 136)
"""tcpi_bytes_received in struct tcp_info (linux/tcp.h); the end of the stream (FIN) counts as a byte, a reset does
not."""


class Door:
    """Which socket waits for clients at a port, and since when that is known."""

    def __init__(self, address: str, port: int) -> None:
        self._place = f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}:{port:04X}"
        self._since: dict[str, float] = {}

    def look(self) -> str:
        """The socket that waits now (its inode); "" where none does."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        waiting = next((row[9] for row in rows if row[1] == self._place and row[3] == _LISTEN), "")
        self._since.setdefault(waiting, time.monotonic())
        return waiting

    def untaken(self, connection: socket.socket, began: float) -> bool:
        """Whether a connection that was reset was never taken by a process.

        Nothing came from the server, not even an end, and none waits now, or another than when the connection began. A
        process that has a connection and resets it leaves the socket that waits as it is.
        """
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.stop)
        if int.from_bytes(told[_BYTES_RECEIVED], sys.byteorder) > 0:
            return False
        waiting = self.look()
        return not waiting or self._since[waiting] > began


class Load:
    """New connections to a port for TLS only, without a pause, each with a full handshake."""

    def __init__(self, address: str, name: str, port: int = 465, threads: int = 4) -> None:
        self._place = (address, port)
        self._door = Door(address, port)
        self._name = name
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._met: list[tuple[float, float, str]] = []
        """When it began and ended; the key's TLSA value, or the error."""
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> None:
        self._door.look()
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._ends.is_set():
            began = time.monotonic()
            met = self._connect(began)
            self._met.append((began, time.monotonic(), met))
            if not met.startswith("3"):
                self._door.look()
                self._ends.wait(0.005)  # refused at once: leave a processor to the restart

    def _connect(self, began: float) -> str:
        try:
            plain = socket.create_connection(self._place, 10)
        except OSError as error:
            return f"port closed: {type(error).__name__}"
        with self._context.wrap_socket(plain, server_hostname=self._name, do_handshake_on_connect=False) as tls:
            try:
                tls.do_handshake()
            except ConnectionError as error:
                return f"{'port closed' if self._door.untaken(tls, began) else 'failed'}: {type(error).__name__}"
            except OSError as error:
                return f"failed: {error!r}"
            der = tls.getpeercert(binary_form=True)
        return tlsa_311(x509.load_der_x509_certificate(der)) if der else "no certificate"

    @property
    def total(self) -> int:
        return len(self._met)

    def count(self, chain: chains.Chain) -> int:
        return sum(met.endswith(chain.spki) for _, _, met in self._met)

    def strange(self, *expected: chains.Chain) -> set[str]:
        """Certificates that should not have been met."""
        return {met for _, _, met in self._met if met.startswith("3")} - {f"3 1 1 {one.spki}" for one in expected}

    def went_from(self, old: chains.Chain, new: chains.Chain) -> bool:
        """Whether nobody who came after the first to meet the new key met the old one."""
        first = min(ended for _, ended, met in self._met if met.endswith(new.spki))
        return all(began < first for began, _, met in self._met if met.endswith(old.spki))

    @property
    def failed(self) -> list[str]:
        """Handshakes that the server began, and that failed."""
        return [met for _, _, met in self._met if not met.startswith(("3", "port closed"))]

    def report(self, old: chains.Chain, new: chains.Chain) -> str:
        failed = [(began, met) for began, _, met in self._met if not met.startswith("3")]
        gap = max(began for began, _ in failed) - min(began for began, _ in failed) if failed else 0.0
        kinds = ", ".join(f"{sum(met == kind for _, met in failed)} {kind}" for kind in sorted({m for _, m in failed}))
        rate = self.total / (self._met[-1][1] - self._met[0][0])
        return (
            f"{self.total} connections, {rate:.0f}/s: {self.count(old)} met the old key, {self.count(new)} the new; "
            f"{len(failed)} were not served within {gap * 1000:.0f} ms ({kinds or 'none'})"
        )
