"""A private Exim that receives, with GnuTLS or with OpenSSL.

The GnuTLS build is Debian's, from the tree that tests/setup/unpack.sh unpacked: its package would replace Postfix. With
OpenSSL there is no package; tests/setup/exim-openssl.sh builds it from the same source.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import smtplib
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab import namespace
from tests.lab.addresses import MX2
from tests.lab.opensmtpd import greets
from tests.lab.process import run
from tests.lab.templates import render
from tests.lab.wait import nobody_listens, until

_LAB = Path(__file__).resolve().parents[2] / ".lab"
UNPACKED = _LAB / "exim"
_BUILT = _LAB / "exim-openssl"
BUILDS = ("GnuTLS", "OpenSSL")
USER = "Debian-exim"
TRUSTED = Path("/etc/exim4/trusted_configs")
"""Debian's list of files that may be named with -C without losing root: like that, SIGHUP works as in production."""


def missing(build: str) -> str:
    """Why this build cannot be run here; "" where it can."""
    if build == "OpenSSL" and not (_BUILT / ".complete").exists():
        return (
            "Exim with OpenSSL is not built: run tests/setup/exim-openssl.sh (it needs a mirror with Debian's sources)"
        )
    return ""


def program(build: str = "GnuTLS") -> Path:
    """Exim's program, where its user can execute it: the checkout may be in a directory that is closed to others."""
    path = namespace.directory() / {"GnuTLS": "exim4", "OpenSSL": "exim4-openssl"}[build]
    if not path.exists():
        source = {"GnuTLS": UNPACKED, "OpenSSL": _BUILT}[build] / "usr/sbin/exim4"
        if not source.exists():
            raise RuntimeError(missing(build) or "Exim is not unpacked: run tests/setup/unpack.sh exim")
        shutil.copy(source, path)
        path.chmod(0o4755)  # as the package has it; SIGHUP needs it
        _add_user()
    return path


def _add_user() -> None:
    """Into the lab's own /etc: without it the program does not even tell its version."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        with Path("/etc/group").open("a") as group, Path("/etc/passwd").open("a") as passwd:
            group.write(f"{USER}:x:64999:\n")
            passwd.write(f"{USER}:x:64999:64999::/nonexistent:/usr/sbin/nologin\n")


@contextmanager
def debian(place: Path, **debconf: str) -> Generator[None]:
    """As if Debian's packages were installed, with their own configuration; `debconf` as in update-exim4.conf(8).

    Private mounts, which the lab alone sees, over directories of this host; nothing is started.
    """
    program()
    upper = place / "debian"
    upper.mkdir()
    shutil.copytree(UNPACKED / "etc/exim4", "/etc/exim4", dirs_exist_ok=True)
    answers = {"eximconfig_configtype": "internet", "local_interfaces": "", "use_split_config": "true", **debconf}
    text = "".join(f"dc_{name}='{value}'\n" for name, value in answers.items())
    Path("/etc/exim4/update-exim4.conf.conf").write_text(text)
    Path("/etc/mailname").write_text("mx2.example\n")
    mounted: list[str] = []
    try:
        for over in ("/usr/sbin", "/var/lib", "/var/spool", "/var/log", "/run"):
            here = upper / over.replace("/", "-")
            subprocess.run(["mount", "--mkdir", "-t", "tmpfs", "-o", "mode=755", "lab", here], check=True)
            mounted.append(str(here))
            for name in ("new", "work"):
                (here / name).mkdir()
            options = f"lowerdir={over},upperdir={here}/new,workdir={here}/work"
            subprocess.run(["mount", "-t", "overlay", "lab", "-o", options, over], check=True)
            mounted.append(over)
        for name in ("exim4", "update-exim4.conf"):
            shutil.copy(UNPACKED / "usr/sbin" / name, "/usr/sbin")
        Path("/var/lib/exim4").mkdir()
        subprocess.run(["update-exim4.conf"], check=True)
        yield
    finally:
        for path in reversed(mounted):
            subprocess.run(["umount", "-l", path], check=True)
        shutil.rmtree("/etc/exim4")


@contextmanager
def daemon(place: Path) -> Generator[int]:
    """Within `debian`: the daemon as its service starts it; the number of its process. It greets at port 25 of MX2."""
    for path in map(Path, ("/var/spool/exim4", "/var/log/exim4", "/run/exim4")):
        path.mkdir(exist_ok=True)
        shutil.chown(path, USER, USER)
    run(place / "commands.log", "exim4", "-bd")
    until(lambda: greets(MX2, 25), 10, "exim greets")
    pid = int(Path("/run/exim4/exim.pid").read_text())
    try:
        yield pid
    finally:
        until(lambda: not _sent(pid, signal.SIGTERM), 10, "exim ends")


def _sent(pid: int, number: int) -> bool:
    """Whether there was somebody to send the signal to."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Exim:
    """An instance of its own at ports 25, 465 and 587; what it accepts is in one maildir."""

    def __init__(self, directory: Path, tls: Mapping[str, str], address: str = MX2, build: str = "GnuTLS") -> None:
        """`tls`: settings of the main section."""
        self.program = program(build)
        self.config = directory / "exim.conf"
        self.address = address
        self._directory = directory
        for name in ("spool", "log", "mail"):
            path = directory / name
            path.mkdir(parents=True)
            shutil.chown(path, USER, USER)
        TRUSTED.parent.mkdir(exist_ok=True)
        TRUSTED.write_text(f"{self.config}\n")
        self.configure(tls)

    def configure(self, tls: Mapping[str, str], more: str = "") -> None:
        """Writes its configuration; a running daemon reads it at SIGHUP, new processes of other kinds at once."""
        settings = "".join(f"{name} = {value}\n" for name, value in tls.items())
        text = render(
            "exim.conf", DIR=self._directory, ADDRESS=self.address, PROGRAM=self.program, TLS=f"{settings}{more}"
        )
        self.config.write_text(text)

    def start(self) -> None:
        """Starts the daemon; on return it greets at port 25.

        A process that the one before had just begun may still hold its ports, and Exim tries again after 30 s only.
        """
        until(lambda: nobody_listens(self.address), 10, "no process of an earlier Exim listens")
        run(self._directory / "commands.log", self.program, "-C", self.config, "-bd")
        try:
            until(self.greets, 10, "exim greets")
        except TimeoutError as error:
            error.add_note(self.log)
            raise

    def stop(self) -> None:
        """Ends it and waits; harmless when it does not run. Told again and again: see greets()."""
        until(lambda: not self._signal(signal.SIGTERM), 10, "exim ends")

    @property
    def pid_file(self) -> Path:
        return self._directory / "exim.pid"

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def running(self) -> bool:
        return self._signal(0)

    def _signal(self, number: int) -> bool:
        """As `_sent`; nobody where the daemon has never run."""
        with suppress(FileNotFoundError):
            return _sent(self.pid, number)
        return False

    @property
    def log(self) -> str:
        """What it logged so far, troubles included."""
        return "".join(path.read_text() for path in sorted((self._directory / "log").glob("*log")))

    def delivered(self) -> int:
        """How many mails arrived."""
        inbox = self._directory / "mail" / "new"
        return len(list(inbox.iterdir())) if inbox.exists() else 0

    def greets(self) -> bool:
        """Whether it takes mail. A signal in the milliseconds before that may be lost (seen with 4.96)."""
        try:
            smtplib.SMTP(self.address, 25, local_hostname="probe.example", timeout=1).quit()
        except OSError:
            return False
        return True
