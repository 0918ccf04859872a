"""A private Sendmail that receives, from the tree that tests/setup/unpack.sh unpacked: its package would replace
Postfix.

Everything of it is below /etc/mail in the lab's own /etc: it refuses certificates below a directory into which others
may write, and the lab's is below /var/tmp (seen with 8.17.1.9). One in a lab.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.lab.addresses import SENDMAIL, ZONE
from tests.lab.opensmtpd import add_users, greets, overlay
from tests.lab.process import run
from tests.lab.templates import render
from tests.lab.wait import until

UNPACKED = Path(__file__).resolve().parents[2] / ".lab" / "sendmail"
BINARY = UNPACKED / "usr/libexec/sendmail/sendmail"
ADDRESS = SENDMAIL
NAME = f"sendmail.{ZONE}"
HOME = Path("/etc/mail")
TLS = HOME / "tls"
CONFIG = HOME / "sendmail.cf"
SOURCE = HOME / "sendmail.mc"
PID_FILE = HOME / "sendmail.pid"
PROGRAM = Path("/usr/local/sbin/sendmail")
PROGRAMS = Path("/usr/share/sendmail")
"""Debian's own, that make of sendmail.mc what else there is."""
PORTS = (25, 465, 587)

_USERS = {"smmta": 64992, "smmsp": 64993}


class Sendmail:
    """At ports 25, 465 and 587. `pairs`: certificate and key, one or two."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        self.pairs = pairs
        self._hosts = ""
        self._mounted: list[Path] = []

    def prepare(self) -> None:
        """Makes its directories; then certificates may be put into TLS."""
        if not (UNPACKED / ".complete").exists():
            raise RuntimeError("Sendmail is not unpacked: run tests/setup/unpack.sh sendmail")
        overlay(str(PROGRAM.parent))
        self._mounted.append(PROGRAM.parent)
        PROGRAM.symlink_to(BINARY)
        for path in (HOME, TLS, HOME / "queue"):
            path.mkdir(mode=0o755)
        (HOME / "service.switch").write_text("hosts files\naliases files\n")
        # Without a full host name Sendmail sleeps for a minute, whenever it is started.
        hosts = Path("/etc/hosts")
        self._hosts = hosts.read_text()
        hosts.write_text(f"{self._hosts}\n{ADDRESS} {NAME} {socket.gethostname()}\n")

    def start(self) -> None:
        """On return it greets at every port."""
        self.configure()
        self.launch()

    def configure(self, more: str = "") -> None:
        """Writes sendmail.mc and makes sendmail.cf of it; `more`: lines for sendmail.mc."""
        certs, keys = (",".join(map(str, files)) for files in zip(*self.pairs, strict=True)) if self.pairs else ("", "")
        tls = f"define(`confSERVER_CERT', `{certs}')\ndefine(`confSERVER_KEY', `{keys}')\n" if certs else ""
        SOURCE.write_text(render("sendmail.mc", ADDRESS=ADDRESS, NAME=NAME, DIR=HOME, TLS=tls + more))
        self.make()

    def install_makefile(self) -> None:
        """Debian's Makefile, written by Debian's own programs for what sendmail.mc says; for `make -C /etc/mail`."""
        overlay(str(PROGRAMS.parent))
        self._mounted.append(PROGRAMS.parent)
        shutil.copytree(UNPACKED / PROGRAMS.relative_to("/"), PROGRAMS, symlinks=True)
        add_users(_USERS)
        SOURCE.write_text(f"include(`{PROGRAMS}/cf/m4/cf.m4')dnl\n{SOURCE.read_text()}")
        for name in ("parse_mc", "update_mk"):
            run(HOME / "makefile.log", PROGRAMS / name)
        for name in ("tls/starttls.m4", "sasl/sasl.m4"):  # made once, when the package is installed: keys and the like
            (HOME / name).parent.mkdir(exist_ok=True)
            (HOME / name).touch()

    def make(self) -> None:
        """What Debian's `make -C /etc/mail` does for sendmail.cf."""
        macros = UNPACKED / "usr/share/sendmail/cf"
        argv = ["m4", f"-D_CF_DIR_={macros}/", macros / "m4/cf.m4", SOURCE]
        CONFIG.write_text(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)

    def launch(self, program: str = str(PROGRAM)) -> None:
        run(HOME / "start.log", program, "-bd", "-q1h")
        until(lambda: all(greets(ADDRESS, port) for port in PORTS), 10, "Sendmail greets")

    @property
    def pid(self) -> int | None:
        """Of the daemon; None when it does not run."""
        with suppress(OSError, ValueError, IndexError):
            pid = int(PID_FILE.read_text().split()[0])
            if os.path.realpath(f"/proc/{pid}/exe") == str(BINARY):
                return pid
        return None

    def kill(self) -> None:
        """Ends it and waits; harmless when it does not run."""
        if pid := self.pid:
            os.kill(pid, signal.SIGTERM)
            until(lambda: not Path(f"/proc/{pid}").exists(), 5, "Sendmail ends")

    def stop(self) -> None:
        """Ends it and removes all of it."""
        self.kill()
        Path("/etc/hosts").write_text(self._hosts)
        shutil.rmtree(HOME)
        for path in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", path], check=True)
        self._mounted.clear()
