"""A seventh mail server: a tiny daemon, and its plug-in for certagent, in one file.

The daemon serves TLS at one port, with the files that its settings name, one in a line. It reads them when it starts
and at SIGHUP. The plug-in is all that certagent needs; an entry point registers it (`registered`).
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from certagent.errors import Misconfigured, Transient
from certagent.mta.access import Access
from certagent.mta.claims import Identity
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.mta.reference import Pair, Words, compare, pair_of
from certagent.mta.server import Advice, Capabilities, Found
from certagent.pki.credential import Credential

_WORDS = Words("name", "names", ": it does not start", "a second certificate of the same algorithm")


class Options(Access, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the configuration says of one, beside owner and mode."""

    files: dict[str, str | Files]
    settings: str
    pid_file: str


class Toy:
    """A `certagent.mta.server.Server`."""

    Options = Options
    directory = ""
    programs = ()
    connection_limits = ""
    capabilities = Capabilities(both_key_types=True, sni=False, keeps_ports=True, one_step=True)

    def __init__(self, name: str, options: Options) -> None:
        self._who = f"toy {name}"
        self._options = options
        self._layout = Layout(self._who, options.files, options)
        self.claims = self._layout.claims
        self.installed = self._layout.installed
        self.saved = self._layout.saved
        self.restore = self._layout.restore

    @staticmethod
    def discover(shared: Collection[Identity] = ()) -> list[Found]:
        return []

    @property
    def reload_command(self) -> str:
        return f"kill -HUP $(cat {shlex.quote(self._options.pid_file)})"

    def check(self, key_types: frozenset[str]) -> None:
        self._layout.check()
        self._check_named(key_types)

    def advice(self, key_types: frozenset[str]) -> tuple[Advice, ...]:
        return ()

    def install(self, credentials: Mapping[str, Credential]) -> None:
        self._layout.install(credentials)
        self._check_named(credentials)

    def reload(self) -> None:
        try:
            os.kill(int(Path(self._options.pid_file).read_text()), signal.SIGHUP)
        except (OSError, ValueError) as error:
            raise Transient("mta.down", f"{self._who} is not running", "start it") from error

    def _check_named(self, key_types: Iterable[str]) -> None:
        named = [Pair(path, path) for path in Path(self._options.settings).read_text().splitlines()]
        needed = {key_type: pair_of(self._layout.of(key_type)) for key_type in key_types}
        compared = compare(named, needed, needed.values(), stale=False)
        if problems := compared.problems(_WORDS):
            lines = shlex.join(pair.cert for pair in compared.keep)
            hint = f"run: printf '%s\\n' {lines} > {self._options.settings}"
            raise Misconfigured("mta.config", f"{self._who}: {'; it '.join(problems)}", hint)


def registered(place: Path) -> Path:
    """A directory for Python's path in which the plug-in is installed, as pip would do it."""
    info = place / "toy-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[certagent.mail_servers]\ntoy = tests.mta.toy:Toy\n")
    return place


def serve(settings: Path, pid_file: Path, address: str, port: int) -> None:
    """The daemon."""

    def context() -> ssl.SSLContext:
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for path in settings.read_text().splitlines():
            found.load_cert_chain(path)
        return found

    served = [context()]

    def read_again(*_: object) -> None:
        served[0] = context()

    def one(connection: socket.socket) -> None:
        connection.settimeout(5)
        with suppress(OSError), served[0].wrap_socket(connection, server_side=True) as secure:
            secure.sendall(b"220 toy\r\n")
            secure.recv(100)
            secure.unwrap()

    signal.signal(signal.SIGHUP, read_again)
    with socket.create_server((address, port), backlog=128) as listening:
        pid_file.write_text(str(os.getpid()))
        while True:
            threading.Thread(target=one, args=[listening.accept()[0]], daemon=True).start()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
