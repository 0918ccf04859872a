"""Every kind of mail server with certificates of two names, which certagent rolls while new connections never stop.

Two entries of the configuration, one a name; where a server chooses certificates by SNI, each has its own. Before the
first run a certificate of somebody else's is served.
"""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import dns.message
import dns.query
import yaml
from cryptography import x509

from tests.lab import dovecot as lab_dovecot
from tests.lab import exim as lab_exim
from tests.lab import opensmtpd, sendmail
from tests.lab.addresses import IMAP, MX1, MX2, PRIMARY, RESOLVER, ZONE
from tests.lab.certificates import tlsa_311
from tests.lab.dns import Dns, records
from tests.lab.load import Door
from tests.lab.pebble import Pebble
from tests.lab.postfix import Receiver
from tests.lab.wait import until
from tests.mta import chains

ROOT = Path(__file__).resolve().parents[2]
ALGORITHMS = {"ecdsa": "ecdsa-p256", "rsa": "rsa-2048"}
MANY_LOGINS = {"2.3": "service_count = 0", "2.4": "restart_request_count = unlimited"}
CIPHERS = {"ecdsa": "aECDSA", "rsa": "aRSA"}


class Host(NamedTuple):
    """One running mail server, and how certagent is told of it."""

    address: str
    names: tuple[str, ...]
    """The certificates."""
    port: int
    """With TLS from the first byte; the TLSA records are for it."""
    sections: Mapping[str, dict[str, Any]]
    """By name, the entry under mail_servers, without services."""
    one_kind: Mapping[str, str] = {}
    """Of key, by name, where it has not both."""
    closes: bool = False
    """Whether it has to close its ports to read a new key."""
    after_first: Callable[[], None] = lambda: None
    """What the operator has to do once the files are there."""

    def kinds(self, name: str) -> list[str]:
        """The kinds of key that it serves for the name."""
        return [self.one_kind[name]] if name in self.one_kind else ["ecdsa", "rsa"]

    def keys(self) -> list[tuple[str, str]]:
        """Each name with each of its kinds."""
        return [(name, kind) for name in self.names for kind in self.kinds(name)]


def files(directory: Path, name: str, kinds: Sequence[str], owner: str | None = None) -> dict[str, str]:
    """Combined files with a certificate of somebody else's for the name, by kind."""
    found: dict[str, str] = {}
    for kind in kinds:
        path = directory / f"{name.partition('.')[0]}-{kind}.pem"
        path.touch(mode=0o600)
        path.write_bytes(chains.make(ALGORITHMS[kind], name).pem)
        if owner:
            subprocess.run(["chown", owner, path], check=True)
        found[kind] = str(path)
    return found


def _tls(place: Path) -> Path:
    tls = place / "tls"
    tls.mkdir(mode=0o755)
    return tls


@contextmanager
def postfix(place: Path) -> Generator[Host]:
    """The default by smtpd_tls_chain_files, the other name by tls_server_sni_maps."""
    first, second = f"mx1.{ZONE}", f"mail.{ZONE}"
    tls = _tls(place)
    of = {name: files(tls, name, ("ecdsa", "rsa")) for name in (first, second)}
    receiver = Receiver(place / "mx1", chain_files=[Path(path) for path in of[first].values()])
    receiver.start()
    source = place / "sni"

    def name_the_map() -> None:
        settings = (receiver.config_dir / "main.cf").read_text()
        receiver.configure("main.cf", f"{settings}\ntls_server_sni_maps = hash:{source}\n")
        receiver.reload()

    common = {"type": "postfix", "config_dir": str(receiver.config_dir)}
    sni = {"map": str(source), "type": "hash", "names": [second], "only": True}
    sections = {first: {**common, "chain_files": of[first]}, second: {**common, "chain_files": of[second], "sni": sni}}
    try:
        yield Host(MX1, (first, second), 465, sections, after_first=name_the_map)
    finally:
        receiver.stop()


@contextmanager
def exim(place: Path, build: str) -> Generator[Host]:
    """The files are chosen by $tls_in_sni, so that each connection reads them, by a list for each name; no SIGHUP."""
    first, second = f"mx2.{ZONE}", f"mail2.{ZONE}"
    program = lab_exim.program(build)
    tls = _tls(place)
    of = {name: files(tls, name, ("ecdsa", "rsa"), lab_exim.USER) for name in (first, second)}
    lists = {name: tls / f"{name.partition('.')[0]}.list" for name in of}
    for name, path in lists.items():
        path.write_text(" : ".join(of[name].values()))
    read = {name: f"${{readfile{{{path}}}{{}}}}" for name, path in lists.items()}
    value = f"${{if eq{{$tls_in_sni}}{{{second}}}{{{read[second]}}}{{{read[first]}}}}}"
    # with OpenSSL each connection that asks for a name would read every CA of the system first, which takes 40 ms
    server = lab_exim.Exim(place / "mx2", {"tls_certificate": value, "tls_verify_certificates": ""}, build=build)
    server.start()
    common = {"type": "exim", "config": str(server.config), "program": str(program), "hangup": False}
    sections = {
        first: {**common, "files": of[first], "list": str(lists[first]), "sni": [""]},
        second: {**common, "files": of[second], "list": str(lists[second]), "sni": [second]},
    }
    try:
        yield Host(MX2, (first, second), 465, sections)
    finally:
        server.stop()


@contextmanager
def dovecot(place: Path, version: str) -> Generator[Host]:
    """The other name in a block of local_name. A process for many logins: one of its own for each may be cut off by a
    reload while it is still new (docs/mail-servers.md).
    """
    first, second = f"imap.{ZONE}", f"mailbox.{ZONE}"
    tls = _tls(place)
    of = {name: files(tls, name, ("ecdsa", "rsa")) for name in (first, second)}
    with lab_dovecot.installed(version):
        server = lab_dovecot.Dovecot(place / "imap", version)
        block = server.pair(of[second]["ecdsa"]) + server.pair(of[second]["rsa"], "alt_")
        server.configure(
            server.pair(of[first]["ecdsa"])
            + server.pair(of[first]["rsa"], "alt_")
            + f"local_name {second} {{\n{block}}}\n"
            + f"service imap-login {{\n{MANY_LOGINS[version]}\nprocess_min_avail = 2\n}}\n"
        )
        server.start()
        common = {"type": "dovecot", "config": str(server.config)}
        sections = {
            first: {**common, "files": of[first]},
            second: {**common, "files": of[second], "top_level": False, "local_name": [second]},
        }
        try:
            yield Host(IMAP, (first, second), 993, sections)
        finally:
            server.stop()


@contextmanager
def open_smtpd(place: Path) -> Generator[Host]:
    """A pki for each name, with one kind of key: ECDSA for the first, RSA for the other. It is restarted."""
    first, second = opensmtpd.NAME, f"mail3.{ZONE}"
    tls = _tls(place)
    kinds = {first: "ecdsa", second: "rsa"}
    of = {name: files(tls, name, [kind]) for name, kind in kinds.items()}
    pairs = {name: (Path(of[name][kind]), Path(of[name][kind])) for name, kind in kinds.items()}
    server = opensmtpd.OpenSmtpd(place / "smtpd", pairs)
    server.start()
    server.configure(server.text().replace(f"pki {first}\n", f"pki {first} pki {second}\n"))
    server.kill()
    server.launch()
    common = {"type": "opensmtpd", "config": str(opensmtpd.CONFIG), "restart": [str(server.restart_script)]}
    common |= {"pause_s": 5.0}
    sections = {name: {**common, "files": of[name]} for name in (first, second)}
    try:
        yield Host(opensmtpd.ADDRESS, (first, second), 465, sections, kinds, closes=True)
    finally:
        server.stop()


@contextmanager
def send_mail(_place: Path) -> Generator[Host]:
    """Both kinds of keys, one name: it has no SNI. At SIGHUP it executes itself anew."""
    name = sendmail.NAME
    server = sendmail.Sendmail([])
    server.prepare()
    of = files(sendmail.TLS, name, ("ecdsa", "rsa"))
    issuers = sendmail.TLS / "issuers.pem"
    server.pairs = [(Path(path), Path(path)) for path in of.values()]
    server.configure(f"define(`confCACERT', `{issuers}')\n")
    section = {"type": "sendmail", "files": of, "issuers": str(issuers), "config": str(sendmail.CONFIG)}
    issuers.write_bytes(b"")
    issuers.write_bytes(
        b"".join(Path(path).read_bytes().split(b"-----END PRIVATE KEY-----")[-1] for path in of.values())
    )
    server.launch()
    try:
        yield Host(sendmail.ADDRESS, (name,), 465, {name: section}, closes=True)
    finally:
        server.stop()


class Site:
    """A mail host under certagent's care."""

    def __init__(self, place: Path, host: Host, dns: Dns, pebble: Pebble) -> None:
        self.host, self.dns, self.pebble = host, dns, pebble
        self._path = place / "certagent.yaml"
        config = {
            "state_dir": str(place / "state"),
            "ca": {
                "pebble": {
                    "directory": pebble.directory,
                    "test": True,
                    "agree_tos": True,
                    "ca_bundle": str(pebble.https_ca),
                }
            },
            "dns": {
                "resolvers": [RESOLVER],
                "providers": {
                    "corp": {
                        "type": "rfc2136",
                        "server": PRIMARY,
                        "zones": [f"{ZONE}."],
                        "key_file": str(dns.keyfile("dane-key")),
                    }
                },
            },
            "certificates": {name: self._certificate(name) for name in host.names},
        }
        self._path.touch(0o600)
        self._path.write_text(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))

    def _certificate(self, name: str) -> dict[str, Any]:
        host = self.host
        service = {"host": name, "port": host.port, "mode": "tls", "tlsa": True, "addresses": [host.address]}
        return {
            "ca": "pebble",
            "keys": [ALGORITHMS[kind] for kind in host.kinds(name)],
            "drain": "1s",
            "dane": {"ttl": "2s", "guard": "0s"},
            "mail_servers": {"mail": {**host.sections[name], "services": [service]}},
        }

    def run(self, *arguments: str, code: int | None = 0) -> str:
        """Runs certagent to its end; what it printed."""
        done = subprocess.run(
            self._argv(*arguments),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        said = done.stdout + done.stderr
        assert code is None or done.returncode == code, f"{done.returncode}: {said}"
        assert "Traceback" not in said
        return said

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Begins to run certagent."""
        return subprocess.Popen(self._argv(*arguments), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def _argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "certagent", *arguments, "--config", str(self._path)]

    def close(self) -> None:
        """Takes its records out of DNS."""
        for name in self.host.names:
            self.dns.update(f"_{self.host.port}._tcp.{name}", "TLSA", [])
        self.dns.settle()


class Clients:
    """New connections without a pause, each with a whole handshake that verifies the chain, and compares with DNS.

    Each client wants one name and one kind of key (in TLS 1.2, where a client can say so). The TLSA sets it compares
    with were asked before it connected: one fresh from the primary, one from a validating cache. What met a closed port
    (see `tests.lab.load`) is counted apart from a handshake that failed.
    """

    def __init__(self, host: Host, root: bytes, threads: int = 4) -> None:
        self._host = host
        self._door = Door(host.address, host.port)
        self._contexts = {kind: self._context(kind, root) for kind in ALGORITHMS}
        self._jobs = itertools.cycle(host.keys())
        self._sets: dict[str, list[set[str]]] = {}
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._look)]
        self._threads += [threading.Thread(target=self._connect) for _ in range(threads)]
        self.counts: Counter[str] = Counter()
        self._ended: list[tuple[float, str]] = []
        """When each connection was served or failed, and how it ended."""
        self.troubles: list[str] = []
        self.keys: set[str] = set()
        """Every key that was met."""
        self._began = 0.0

    @staticmethod
    def _context(kind: str, root: bytes) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=root.decode())
        context.set_ciphers(CIPHERS[kind])
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # the one in which a client can choose the kind
        return context

    def __enter__(self) -> Clients:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        until(lambda: len(self._sets) == len(self._host.names), 10, "DNS was asked")
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.monotonic() - self._began

    def _look(self) -> None:
        while not self._ends.is_set():
            self._door.look()
            for name in self._host.names:
                owner = f"_{self._host.port}._tcp.{name}"
                with suppress(Exception):
                    self._sets[name] = [self._asked(owner, server) for server in (PRIMARY, RESOLVER)]
            self._ends.wait(0.1)

    @staticmethod
    def _asked(owner: str, server: str) -> set[str]:
        answer = dns.query.udp(dns.message.make_query(owner, "TLSA"), server, timeout=2)
        return {record.to_text() for record in records(answer, "TLSA")}

    def _connect(self) -> None:
        while not self._ends.is_set():
            name, kind = next(self._jobs)
            sets = self._sets.get(name)
            if sets is None:
                time.sleep(0.01)
                continue
            what, detail = self._meet(name, kind, sets)
            self.counts[what] += 1
            self._ended.append((time.monotonic(), what))
            if what != "good":
                self.troubles.append(f"{what}: {name} {kind}: {detail}")
                self._ends.wait(0.005)

    def _meet(self, name: str, kind: str, sets: list[set[str]]) -> tuple[str, str]:
        began = time.monotonic()
        try:
            plain = socket.create_connection((self._host.address, self._host.port), 10)
        except OSError as error:
            return "port closed", repr(error)
        context = self._contexts[kind]
        with context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False) as tls:
            try:
                tls.do_handshake()
            except ssl.SSLCertVerificationError as error:
                return "wrong or incomplete chain", error.verify_message
            except ConnectionError as error:
                return "port closed" if self._door.untaken(tls, began) else "failed handshake", repr(error)
            except OSError as error:
                return "failed handshake", repr(error)
            der = tls.getpeercert(binary_form=True)
        assert der
        key = tlsa_311(x509.load_der_x509_certificate(der))
        self.keys.add(key)
        for published in sets:
            if published and key not in published:
                return "TLSA mismatch", f"{key} is not in {sorted(published)}"
        return "good", ""

    def unserved(self) -> float:
        """The longest time, in seconds, for which nobody was served and somebody met a closed port."""
        longest, since, met = 0.0, self._began, False
        for at, what in [*sorted(self._ended), (self._began + self.seconds, "good")]:
            met = met or what == "port closed"
            if what == "good":
                longest = max(longest, at - since) if met else longest
                since, met = at, False
        return longest

    def report(self, who: str) -> str:
        """The figure."""
        total = sum(self.counts.values())
        troubles = ("failed handshake", "wrong or incomplete chain", "TLSA mismatch", "port closed")
        told = ", ".join(f"{self.counts[what]} {what}" for what in troubles)
        closed = f"; nobody was served for up to {self.unserved():.2f} s" if self.counts["port closed"] else ""
        return (
            f"{who}: {total} new TLS connections, {total / self.seconds:.0f}/s: "
            f"{self.counts['good']} good, {told}{closed}"
        )
