"""Private instances of Postfix: one that receives under the certificate in question, one that sends and judges it.

The certificate file may be missing when the receiver starts (seen with 3.7.11): it starts, takes mail without TLS, and
offers STARTTLS, which fails with a handshake_failure alert; so do ports 465 and 587. When the file appears, processes
that already run go on failing (each serves up to 100 connections); after a reload every port serves it.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import smtplib
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.lab.addresses import MX1, SENDER
from tests.lab.process import run
from tests.lab.templates import render
from tests.lab.wait import nobody_listens, until


class Postfix:
    """An instance of its own, called postfix-NAME in its log."""

    def __init__(self, directory: Path, name: str, addresses: Sequence[str]) -> None:
        self.name = name
        self.config_dir = directory / "etc"
        self.addresses = addresses
        self._directory = directory

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Starts it; `settings` are added to main.cf. On return it greets at port 25."""
        user = pwd.getpwnam("postfix")
        for name in ("etc", "spool", "data", "mail"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        for name in ("data", "mail"):
            os.chown(self._directory / name, user.pw_uid, -1)
        more = "".join(f"{name} = {value}\n" for name, value in (settings or {}).items())
        common = {
            "DIR": self._directory,
            "NAME": self.name,
            "ADDRESS": self.addresses[0],
            "ADDRESSES": ", ".join(self.addresses),
            "UID": user.pw_uid,
            "GID": user.pw_gid,
        }
        self.configure("main.cf", render("main.cf", **common) + self._own_settings(common) + more)
        self.configure("master.cf", render("master.cf", SMTPD="\n".join(self._services())))
        self.restart()

    def restart(self) -> None:
        """Starts it with the configuration that is there.

        A process of the master before may still hold its ports, and greet in this one's place.
        """
        until(lambda: all(map(nobody_listens, self.addresses)), 10, "no process of an earlier Postfix listens")
        self._postfix("start")
        until(self._greets, 10, f"postfix-{self.name} greets")

    def configure(self, name: str, text: str) -> None:
        """Writes a configuration file; Postfix waits until it is 2 s old, so it is dated back."""
        path = self.config_dir / name
        path.write_text(text)
        past = time.time() - 10
        os.utime(path, (past, past))

    def stop(self) -> None:
        """Ends it and waits; harmless when it does not run. (`postfix stop` does the same and sleeps for a second.)"""
        if self.running():
            os.kill(self._master(), signal.SIGTERM)
            until(lambda: not self.running(), 10, f"postfix-{self.name} ends")

    def reload(self) -> None:
        """Tells it to read its configuration again; it says yes also when TLS is broken then."""
        self._postfix("reload")

    def running(self) -> bool:
        try:
            os.kill(self._master(), 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True

    def _master(self) -> int:
        return int((self._directory / "spool" / "pid" / "master.pid").read_text())

    @property
    def log(self) -> str:
        """Everything it logged so far."""
        path = self._directory / "mail.log"
        return path.read_text() if path.exists() else ""

    def _own_settings(self, common: Mapping[str, object]) -> str:
        raise NotImplementedError

    def _services(self) -> list[str]:
        raise NotImplementedError

    def _postfix(self, command: str) -> None:
        run(self._directory / "commands.log", "postfix", "-c", self.config_dir, command)

    def _greets(self) -> bool:
        try:
            with socket.create_connection((self.addresses[0], 25), 1) as connection:
                return connection.recv(4) == b"220 "
        except OSError:
            return False


class Receiver(Postfix):
    """A mail exchanger: ports 25, 465 and 587; what it accepts is in one maildir."""

    def __init__(
        self, directory: Path, name: str = "mx1", *, chain_files: Sequence[Path], addresses: Sequence[str] = (MX1,)
    ) -> None:
        super().__init__(directory, name, addresses)
        self.chain_files = chain_files

    def delivered(self) -> int:
        """How many mails arrived."""
        inbox = self._directory / "mail" / "inbox" / "new"
        return len(list(inbox.iterdir())) if inbox.exists() else 0

    def _own_settings(self, common: Mapping[str, object]) -> str:
        return render("receiver.cf", **common, CHAIN_FILES=", ".join(map(str, self.chain_files)))

    def _services(self) -> list[str]:
        return [
            line
            for address in self.addresses
            for line in (
                f"{address}:25 inet n - n - - smtpd",
                f"{address}:465 inet n - n - - smtpd",
                f"  -o syslog_name=postfix-{self.name}/smtps -o smtpd_tls_wrappermode=yes",
                f"{address}:587 inet n - n - - smtpd",
                f"  -o syslog_name=postfix-{self.name}/submission -o smtpd_tls_security_level=encrypt",
            )
        ]


class Delivery(NamedTuple):
    """One attempt to deliver one mail."""

    recipient: str
    status: str
    """sent, deferred or bounced"""
    dsn: str
    tls: str
    """what the log says of the TLS connection, "" when there was none"""
    queue_id: str
    detail: str
    """what the log gives as the reason"""


class Sender(Postfix):
    """A sender that delivers only under DANE (smtp_tls_security_level = dane-only)."""

    def __init__(self, directory: Path, name: str = "sender", address: str = SENDER) -> None:
        # One own address: with "loopback-only" all of 127/8 would be "myself", and mail would loop.
        super().__init__(directory, name, [address])

    def send(self, recipient: str) -> str:
        """Puts a mail into the queue and returns its queue id."""
        with smtplib.SMTP(self.addresses[0], 25, local_hostname="client.example", timeout=10) as client:
            client.ehlo()
            client.mail("")
            client.rcpt(recipient)
            code, text = client.data(f"From: a@sender.example\r\nTo: {recipient}\r\nSubject: t\r\n\r\nx\r\n")
        queued = re.search(rb"queued as (\w+)", text)
        if code != 250 or not queued:
            raise RuntimeError(f"not queued: {code} {text!r}")
        return queued[1].decode()

    def deliveries(self) -> list[Delivery]:
        """All attempts so far, in order."""
        return parse_deliveries(self.log)

    def delivery(self, queue_id: str, status: str = "", seconds: float = 10) -> Delivery:
        """Waits for an attempt to deliver this mail, or for one that ended with `status`."""

        def found() -> Delivery | None:
            mine = (d for d in self.deliveries() if d.queue_id == queue_id and status in ("", d.status))
            return next(mine, None)

        delivery = until(found, seconds, f"mail {queue_id} {status or 'tried'}")
        assert delivery
        return delivery

    def _own_settings(self, common: Mapping[str, object]) -> str:
        return render("sender.cf", **common)

    def _services(self) -> list[str]:
        return [f"{self.addresses[0]}:25 inet n - n - - smtpd"]


_LINE = re.compile(r" postfix-\S+\[(?P<pid>\d+)\]: (?P<text>.*)")
_STATUS = re.compile(
    r"(?P<queue_id>\w+): to=<(?P<recipient>[^>]*)>,.* dsn=(?P<dsn>[\d.]+), status=(?P<status>\w+) \((?P<detail>.*)\)"
)


def parse_deliveries(log: str) -> list[Delivery]:
    """The attempts in a log. A process does one thing at a time: its last TLS line belongs to its next status."""
    found: list[Delivery] = []
    tls: dict[str, str] = {}
    for match in _LINE.finditer(log):
        pid, text = match["pid"], match["text"]
        if "TLS connection established" in text:
            tls[pid] = text
        elif status := _STATUS.match(text):
            found.append(Delivery(tls=tls.pop(pid, ""), **status.groupdict()))
    return found
