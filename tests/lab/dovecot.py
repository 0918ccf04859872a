"""A private Dovecot: IMAP, POP3 and ManageSieve, each with STARTTLS, and the first two with TLS at once.

2.3 is Debian's package. 2.4 is run from the tree that tests/setup/newer.sh unpacked, with its own libraries.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from certagent.host.programs import program
from tests.lab.addresses import IMAP
from tests.lab.process import run
from tests.lab.templates import render
from tests.lab.wait import until

UNPACKED = Path(__file__).resolve().parents[2] / ".lab" / "dovecot-2.4"
VERSIONS = ("2.3", "2.4")
_PROGRAMS = {"dovecot": "/usr/sbin", "doveconf": "/usr/bin", "doveadm": "/usr/bin"}
_FIRST_IN_PATH = Path("/usr/local/sbin")


def missing(version: str) -> str:
    """Why this version cannot be run here; "" where it can."""
    if version == "2.4" and not (UNPACKED / ".complete").exists():
        return "Dovecot 2.4 is not unpacked: run tests/setup/newer.sh (it needs a mirror with Debian 13)"
    return ""


@contextmanager
def installed(version: str) -> Generator[None]:
    """Within it, Dovecot's programs in this lab are of that version, for whoever calls them by their names."""
    if version == "2.3":
        yield
        return
    mounted = [UNPACKED / name for name in ("dev", "proc", "etc", "var/tmp")]
    for path in mounted:
        subprocess.run(["mount", "--rbind", Path("/") / path.relative_to(UNPACKED), path], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "lab", _FIRST_IN_PATH], check=True)
    for name, directory in _PROGRAMS.items():
        script = _FIRST_IN_PATH / name
        script.write_text(f'#!/bin/sh\nexec chroot {UNPACKED} {directory}/{name} "$@"\n')
        script.chmod(0o755)
    try:
        yield
    finally:
        for path in (_FIRST_IN_PATH, *mounted):
            subprocess.run(["umount", "--recursive", "--lazy", path], check=True)


class Dovecot:
    """An instance of its own; `tls` is what its configuration says of certificates."""

    def __init__(self, directory: Path, version: str, address: str = IMAP, config: Path | None = None) -> None:
        self.version = version
        self.config = config or directory / "dovecot.conf"
        self.address = address
        self._directory = directory

    def setting(self, slot: str, path: Path | str) -> str:
        """The line for `cert`, `key`, `alt_cert` or `alt_key`."""
        return f"ssl_{slot} = <{path}\n" if self.version == "2.3" else f"ssl_server_{slot}_file = {path}\n"

    def pair(self, path: Path | str, alternative: str = "") -> str:
        """The lines for a combined file; `alternative` is "alt_" or nothing."""
        return self.setting(f"{alternative}cert", path) + self.setting(f"{alternative}key", path)

    def configure(self, tls: str) -> None:
        """Writes the configuration file."""
        for name in ("run", "state", "mail"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        common = {"DIR": self._directory, "NAME": self._directory.name, "ADDRESS": self.address}
        self.config.write_text(render(f"dovecot-{self.version}.conf", **common) + tls)

    def add(self, text: str) -> None:
        """Adds to the end of the configuration file."""
        with self.config.open("a") as config:
            config.write(text)

    def start(self) -> None:
        """Starts it; on return it greets. RuntimeError with its words where it does not start."""
        run(self._directory / "commands.log", program("dovecot"), "-c", self.config)
        until(self._greets, 10, "Dovecot greets")

    def stop(self) -> None:
        """Kills it, and waits; harmless when it does not run. (To end by itself takes it a second.)"""
        if self.running():
            master = self.master()
            children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
            for process in (master, *map(int, children)):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            until(lambda: not any(Path(f"/proc/{process}").exists() for process in (master, *children)), 10, "it ends")

    def running(self) -> bool:
        try:
            os.kill(self.master(), 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True

    def master(self) -> int:
        """The number of its first process."""
        return int(self.pid_file.read_text())

    @property
    def pid_file(self) -> Path:
        return self._directory / "run" / "master.pid"

    @property
    def log(self) -> str:
        """Everything it logged so far."""
        path = self._directory / "dovecot.log"
        return path.read_text() if path.exists() else ""

    def _greets(self) -> bool:
        with suppress(OSError), socket.create_connection((self.address, 143), 1) as connection:
            return connection.recv(4) == b"* OK"
        return False
