"""A private OpenSMTPD that receives, from the tree that tests/setup/unpack.sh unpacked: its package would replace
Postfix. 7.4 is that of bookworm-backports; 6.8 is Debian 12's own, which fails every TLS handshake.

Its paths are compiled in (seen with both): /etc/smtpd.conf, /run/smtpd.sock, /run/smtpd.pid, /var/spool/smtpd and
/var/lib/opensmtpd/empty. So there is one in a lab, on overlays that vanish with it. It logs to syslog only, or in the
foreground.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab import namespace
from tests.lab.addresses import SMTPD, ZONE
from tests.lab.process import run
from tests.lab.templates import render
from tests.lab.wait import until

LAB = Path(__file__).resolve().parents[2] / ".lab"
TREES = {"6.8": LAB / "opensmtpd", "7.4": LAB / "opensmtpd7"}
ADDRESS = SMTPD
NAME = f"smtpd.{ZONE}"
CONFIG = Path("/etc/smtpd.conf")
PORTS = (25, 465, 587)

_OVERLAID = ("/run", "/var/lib", "/var/spool", "/usr/local/sbin")
_USERS = {"opensmtpd": 64990, "opensmtpq": 64991}


def missing(version: str = "7.4") -> str:
    """Why this version cannot be run here; "" where it can."""
    if (TREES[version] / ".complete").exists():
        return ""
    name = TREES[version].name
    return f"OpenSMTPD {version} is not unpacked: run tests/setup/unpack.sh {name} (7.4 is in Debian's backports)"


class OpenSmtpd:
    """At ports 25, 465 and 587. `pkis`: for each pki its certificate and key; the first is that of the listeners."""

    def __init__(self, directory: Path, pkis: dict[str, tuple[Path, Path]], version: str = "7.4") -> None:
        self._version = version
        self._tree = TREES[version]
        self._directory = directory
        self._pkis = pkis
        self._mounted: list[str] = []
        self.log = directory / "smtpd.log"
        self.restart_script = directory / "restart"

    def start(self) -> None:
        """On return it greets at every port."""
        if why := missing(self._version):
            raise RuntimeError(why)
        self._directory.mkdir(parents=True, exist_ok=True)
        add_users(_USERS)
        for path in _OVERLAID:
            overlay(path)
            self._mounted.append(path)
        Path("/usr/local/sbin/smtpd").symlink_to(self._tree / "usr/sbin/smtpd")
        # As the package's installation leaves it; for others it does nothing.
        control = shutil.copy(self._tree / "usr/sbin/smtpctl", "/usr/local/sbin")
        shutil.chown(control, group="opensmtpq")
        Path(control).chmod(0o2755)
        Path("/var/lib/opensmtpd/empty").mkdir(parents=True)
        self.configure(self.text())
        # What systemd does for the package: it ends it, waits for its last process, and starts it.
        self.restart_script.write_text(
            "#!/bin/sh\n"
            'old=$(cat /run/smtpd.pid 2>/dev/null) && kill "$old" && while kill -0 "$old"; do sleep 0.01; done 2>&-\n'
            f"exec smtpd -f {CONFIG} >>{self.log} 2>&1\n"
        )
        self.restart_script.chmod(0o755)
        self.launch()

    def run_by_systemd(self) -> None:
        """To who looks: what `systemctl restart opensmtpd` does is done."""
        Path("/run/systemd/system").mkdir(parents=True)
        Path("/usr/local/sbin/systemctl").symlink_to(self.restart_script)

    def launch(self) -> None:
        run(self.log, "smtpd", "-f", CONFIG)
        until(lambda: all(greets(ADDRESS, port) for port in PORTS), 10, "OpenSMTPD greets")

    def text(self) -> str:
        """smtpd.conf as it should be."""
        lines = [
            f'pki {name} {what} "{path}"'
            for name, pair in self._pkis.items()
            for what, path in zip(("cert", "key"), pair, strict=True)
        ]
        listener = next(iter(self._pkis))
        return render("smtpd.conf", ADDRESS=ADDRESS, NAME=NAME, PKI="\n".join(lines), LISTENER=listener)

    def configure(self, text: str) -> None:
        CONFIG.write_text(text)

    @property
    def pid(self) -> int | None:
        """Of its first process; None when it does not run."""
        with suppress(OSError, ValueError):
            pid = int(Path("/run/smtpd.pid").read_text())
            if os.path.realpath(f"/proc/{pid}/exe") == str(self._tree / "usr/sbin/smtpd"):
                return pid
        return None

    def kill(self) -> None:
        """Ends it and waits; harmless when it does not run."""
        if pid := self.pid:
            os.kill(pid, signal.SIGTERM)
            until(lambda: not Path(f"/proc/{pid}").exists(), 5, "OpenSMTPD ends")

    def stop(self) -> None:
        """Ends it and takes its overlays away."""
        self.kill()
        for path in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", path], check=True)
        self._mounted.clear()
        CONFIG.unlink(missing_ok=True)


def greets(address: str, port: int) -> bool:
    """Whether it answers: on a port for TLS only, that it takes the connection."""
    try:
        with socket.create_connection((address, port), 1) as connection:
            return port == 465 or connection.recv(4) == b"220 "
    except OSError:
        return False


@contextmanager
def session() -> Generator[socket.socket]:
    """One that has been greeted."""
    with socket.create_connection((ADDRESS, 25), 10) as client:
        assert client.recv(100).startswith(b"220 ")
        yield client


def asked(client: socket.socket, command: str) -> str:
    client.sendall(f"{command}\r\n".encode())
    return client.recv(100).decode()


def paused() -> bool:
    """Whether its process that accepts clients has paused; its control process knows before that one."""
    told = [subprocess.run(["smtpctl", "show", what], capture_output=True, check=True) for what in ("status", "relays")]
    return b"SMTP paused" in told[0].stdout


def overlay(path: str) -> None:
    """What is written below `path` from now on is written beside it, in the lab."""
    name = path.strip("/").replace("/", "-")
    beside = namespace.directory() / "overlays" / name
    beside.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "lab", beside], check=True)
    for part in ("upper", "work"):
        (beside / part).mkdir(mode=0o755)
    options = f"lowerdir={path},upperdir={beside}/upper,workdir={beside}/work"
    subprocess.run(["mount", "-t", "overlay", "lab", "-o", options, path], check=True)
    # Busy as long as the overlay is there; detached, it goes with it.
    subprocess.run(["umount", "--lazy", beside], check=True)


def add_users(numbers: Mapping[str, int]) -> None:
    """Into the lab's own /etc, each with a group of its own."""
    for name, number in numbers.items():
        try:
            pwd.getpwnam(name)
        except KeyError:
            with Path("/etc/group").open("a") as group, Path("/etc/passwd").open("a") as passwd:
                group.write(f"{name}:x:{number}:\n")
                passwd.write(f"{name}:x:{number}:{number}::/var/lib/opensmtpd/empty:/usr/sbin/nologin\n")
