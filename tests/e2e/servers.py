"""Every kind of mail server with certificates of two names, which certagent rolls while new connections never stop.

Two entries of the configuration, one a name; where a server chooses certificates by SNI, each has its own. Before the
first run a certificate of somebody else's is served.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import dns.message
import dns.query
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from OpenSSL import SSL, crypto

from tests.lab import dovecot as lab_dovecot
from tests.lab import exim as lab_exim
from tests.lab import handshake, opensmtpd, sendmail
from tests.lab.addresses import IMAP, MX1, MX2, PRIMARY, RESOLVER, ZONE
from tests.lab.certificates import tlsa_311
from tests.lab.dns import Dns, records
from tests.lab.load import Door
from tests.lab.pebble import Pebble
from tests.lab.postfix import Receiver
from tests.lab.wait import until
from tests.mta import chains, toy

ROOT = Path(__file__).resolve().parents[2]
KEY_TYPES = {"ecdsa": "ecdsa-p256", "rsa": "rsa-2048"}
MANY_LOGINS = {"2.3": "service_count = 0", "2.4": "restart_request_count = unlimited"}
CIPHERS = {"ecdsa": b"aECDSA", "rsa": b"aRSA"}
"""How a client chooses the key type in TLS 1.2."""
SIGNATURES = {"ecdsa": b"ECDSA+SHA256", "rsa": b"RSA-PSS+SHA256"}
"""And in TLS 1.3."""
Version = Literal["1.2", "1.3"]
VERSIONS: dict[Version, int] = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
MAIL = {25: "smtp", 465: "tls"}
MAILBOXES = {143: "imap", 993: "tls"}
FIRST_WORDS = {"smtp": b"QUIT\r\n", "imap": b"a2 LOGOUT\r\n", "tls": b""}
"""What makes a server speak under TLS; where TLS comes first it greets."""
PATIENCE_S = 10
MANY_CLIENTS = {"smtp_accept_max": "100"}
"""For Exim, whose default is 20."""


class Wish(NamedTuple):
    """What a client asks for."""

    name: str
    kind: str
    port: int
    version: Version


class Host(NamedTuple):
    """One running mail server, and how certagent is told of it."""

    address: str
    names: tuple[str, ...]
    """The certificates."""
    modes: Mapping[int, str]
    """How TLS begins, by port; the TLSA records are for these."""
    sections: Mapping[str, dict[str, Any]]
    """By name, the entry under mail_servers, without services."""
    one_kind: Mapping[str, str] = {}
    """Of key, by name, where it has not both."""
    closes: bool = False
    """Whether it closes its ports for a moment to read a new key."""
    after_first: Callable[[], None] = lambda: None
    """What the operator has to do once the files are there."""

    def kinds(self, name: str) -> list[str]:
        """The key types that it serves for the name."""
        return [self.one_kind[name]] if name in self.one_kind else ["ecdsa", "rsa"]

    def keys(self) -> list[tuple[str, str]]:
        """Each name with each of its kinds."""
        return [(name, kind) for name in self.names for kind in self.kinds(name)]

    def wishes(self) -> list[Wish]:
        """All that a client may ask for."""
        return [Wish(*key, port, version) for version in VERSIONS for port in self.modes for key in self.keys()]


def files(directory: Path, name: str, kinds: Sequence[str], owner: str | None = None) -> dict[str, str]:
    """Combined files with a certificate of somebody else's for the name, by kind."""
    found: dict[str, str] = {}
    for kind in kinds:
        path = directory / f"{name.partition('.')[0]}-{kind}.pem"
        path.touch(mode=0o600)
        path.write_bytes(chains.make(KEY_TYPES[kind], name).pem)
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
        yield Host(MX1, (first, second), MAIL, sections, after_first=name_the_map)
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
    server = lab_exim.Exim(
        place / "mx2", {"tls_certificate": value, "tls_verify_certificates": "", **MANY_CLIENTS}, build=build
    )
    server.start()
    common = {"type": "exim", "config": str(server.config), "program": str(program), "hangup": False}
    sections = {
        first: {**common, "files": of[first], "list": str(lists[first]), "sni": [""]},
        second: {**common, "files": of[second], "list": str(lists[second]), "sni": [second]},
    }
    try:
        yield Host(MX2, (first, second), MAIL, sections)
    finally:
        server.stop()


@contextmanager
def exim_by_signal(place: Path) -> Generator[Host]:
    """The default: one name, whose files are named as they are, so that the daemon alone reads them, at SIGHUP."""
    name = f"mx2.{ZONE}"
    program = lab_exim.program()  # and Exim's user
    of = files(_tls(place), name, ("ecdsa", "rsa"), lab_exim.USER)
    server = lab_exim.Exim(place / "mx2", {"tls_certificate": " : ".join(of.values()), **MANY_CLIENTS})
    server.start()
    section = {"type": "exim", "config": str(server.config), "program": str(program), "files": of}
    try:
        yield Host(MX2, (name,), MAIL, {name: section}, closes=True)
    finally:
        server.stop()


@contextmanager
def dovecot(place: Path, version: str) -> Generator[Host]:
    """The other name in a block of local_name. A process for many logins: one of its own for each may be cut off by a
    reload while it is still new (docs/how-to/dovecot.md).
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
            yield Host(IMAP, (first, second), MAILBOXES, sections)
        finally:
            server.stop()


@contextmanager
def open_smtpd(place: Path) -> Generator[Host]:
    """A pki for each name, with one key type: ECDSA for the first, RSA for the other. It is restarted."""
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
    common |= {"pause": "5s"}
    sections = {name: {**common, "files": of[name]} for name in (first, second)}
    try:
        yield Host(opensmtpd.ADDRESS, (first, second), MAIL, sections, kinds, closes=True)
    finally:
        server.stop()


@contextmanager
def send_mail(_place: Path) -> Generator[Host]:
    """Both key types, one name: it has no SNI. At SIGHUP it executes itself anew."""
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
        yield Host(sendmail.ADDRESS, (name,), MAIL, {name: section}, closes=True)
    finally:
        server.stop()


@contextmanager
def a_toy(place: Path) -> Generator[Host]:
    """The one of a test, `tests/mta/toy.py`: certagent finds its plug-in by the entry point."""
    name = f"mx2.{ZONE}"
    of = files(_tls(place), name, ("ecdsa", "rsa"))
    settings, pid_file = place / "settings", place / "pid"
    settings.write_text("\n".join(of.values()))
    command = [sys.executable, "-m", "tests.mta.toy", settings, pid_file, MX2, "465"]
    section = {"type": "toy", "files": of, "settings": str(settings), "pid_file": str(pid_file)}
    path = f"{toy.registered(place / 'site-packages')}:{os.environ.get('PYTHONPATH', '')}"
    with patch.dict(os.environ, PYTHONPATH=path), subprocess.Popen(command, cwd=ROOT) as daemon:
        try:
            until(pid_file.exists, 10, "it listens")
            yield Host(MX2, (name,), {465: "tls"}, {name: section})
        finally:
            daemon.kill()


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
        services = [
            {"host": name, "port": port, "mode": mode, "tlsa": True, "addresses": [host.address]}
            for port, mode in host.modes.items()
        ]
        return {
            "ca": "pebble",
            "keys": [KEY_TYPES[kind] for kind in host.kinds(name)],
            "drain": "1s",
            "dane": {"ttl": "2s", "safety_margin": "0s"},
            "mail_servers": {"mail": {**host.sections[name], "services": services}},
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

    def swaps(self) -> list[tuple[float, float]]:
        """Of the last roll, by time.monotonic(): for each name when its files began to be placed, and when handshakes
        after the reload had proven the new ones.
        """
        found: list[tuple[float, float]] = []
        for name in self.host.names:
            entries = json.loads(self.run("history", name, "--json"))["events"]
            began = max(n for n, one in enumerate(entries) if one.get("step") == "Install")
            proven = next(one for one in entries[began:] if one["event"] == "Verified")
            found.append((_monotonic(entries[began]), _monotonic(proven)))
        return found

    def _argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "certagent", *arguments, "--config", str(self._path)]

    def close(self) -> None:
        """Takes its records out of DNS."""
        for name, port in itertools.product(self.host.names, self.host.modes):
            self.dns.update(tlsa_name(name, port), "TLSA", [])
        self.dns.settle()


def _monotonic(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["at"]).timestamp() - time.time() + time.monotonic()


def tlsa_name(name: str, port: int) -> str:
    """Where its TLSA records are."""
    return f"_{port}._tcp.{name}"


class Clients:
    """New connections without a pause, each with a whole handshake that verifies the chain, and compares with DNS.

    Each client wants one name, one key type and one version of TLS, at one port, with STARTTLS or with TLS at once.
    The TLSA sets it compares with were asked before it connected: one fresh from the primary, one from a validating
    cache. What met a closed port (see `tests.lab.load`) is counted apart from a handshake that failed.
    """

    def __init__(self, host: Host, root: bytes, threads: int = 4) -> None:
        self._host = host
        self._doors = {port: Door(host.address, port) for port in host.modes}
        self._contexts = {
            (kind, version): self._context(kind, version, root) for kind in KEY_TYPES for version in VERSIONS
        }
        self._wishes = itertools.cycle(host.wishes())
        self._sets: dict[tuple[str, int], list[set[str]]] = {}
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._look)]
        self._threads += [threading.Thread(target=self._connect) for _ in range(threads)]
        self.counts: Counter[str] = Counter()
        self._ended: list[tuple[float, str]] = []
        """When each connection was served or failed, and how it ended."""
        self.troubles: list[str] = []
        self.keys: dict[Wish, set[str]] = {wish: set() for wish in host.wishes()}
        """Every key that was met, by who met it."""
        self._began = 0.0

    @staticmethod
    def _context(kind: str, version: Version, root: bytes) -> SSL.Context:
        """With pyOpenSSL: the `ssl` of Python 3.11 cannot choose the key type in TLS 1.3."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(VERSIONS[version])
        context.set_max_proto_version(VERSIONS[version])
        context.set_cipher_list(CIPHERS[kind])
        if version == "1.3":
            binding: Any = SSL
            binding._lib.SSL_CTX_set1_sigalgs_list(context._context, SIGNATURES[kind])  # pyright: ignore[reportPrivateUsage]
        context.set_verify(SSL.VERIFY_PEER)
        store = context.get_cert_store()
        assert store
        store.add_cert(crypto.X509.from_cryptography(x509.load_pem_x509_certificate(root)))
        return context

    def __enter__(self) -> Clients:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        tlsa_names = len(self._host.names) * len(self._host.modes)
        until(lambda: len(self._sets) == tlsa_names, 10, "DNS was asked")
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.monotonic() - self._began

    def _look(self) -> None:
        while not self._ends.is_set():
            for door in self._doors.values():
                door.look()
            for of in itertools.product(self._host.names, self._host.modes):
                with suppress(Exception):
                    self._sets[of] = [self._asked(tlsa_name(*of), server) for server in (PRIMARY, RESOLVER)]
            self._ends.wait(0.1)

    @staticmethod
    def _asked(owner: str, server: str) -> set[str]:
        answer = dns.query.udp(dns.message.make_query(owner, "TLSA"), server, timeout=2)
        return {record.to_text() for record in records(answer, "TLSA")}

    def _connect(self) -> None:
        while not self._ends.is_set():
            wish = next(self._wishes)
            sets = self._sets.get((wish.name, wish.port))
            if sets is None:
                time.sleep(0.01)
                continue
            what, detail = self._meet(wish, sets)
            self.counts[what] += 1
            self._ended.append((time.monotonic(), what))
            if what != "good":
                self.troubles.append(f"{what}: {wish}: {detail}")
                self._ends.wait(0.005)

    def _meet(self, wish: Wish, sets: list[set[str]]) -> tuple[str, str]:
        began = time.monotonic()
        try:
            plain = socket.create_connection((self._host.address, wish.port), PATIENCE_S)
        except OSError as error:
            return "port closed", repr(error)
        with plain:
            try:
                leaf = self._shake_hands(plain, wish)
            except ConnectionError as error:
                closed = self._doors[wish.port].untaken(plain, began)
                return "port closed" if closed else "failed handshake", repr(error)
            except OSError as error:
                return "failed handshake", repr(error)
            except SSL.Error as error:
                wrong = "certificate verify failed" in str(error)
                return "wrong or incomplete chain" if wrong else "failed handshake", repr(error)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if wish.name not in names.get_values_for_type(x509.DNSName):
            return "wrong or incomplete chain", f"for {names}"
        if isinstance(leaf.public_key(), RSAPublicKey) != (wish.kind == "rsa"):
            return "wrong or incomplete chain", "another key type"
        key = tlsa_311(leaf)
        self.keys[wish].add(key)
        for published in sets:
            if published and key not in published:
                return "TLSA mismatch", f"{key} is not in {sorted(published)}"
        return "good", ""

    def _shake_hands(self, plain: socket.socket, wish: Wish) -> x509.Certificate:
        """The leaf, of a chain that OpenSSL has verified. Raises: OSError, SSL.Error."""
        mode = self._host.modes[wish.port]
        if mode != "tls":
            handshake.starttls(plain, mode)
        # OpenSSL itself is to wait, and not for ever
        plain.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            plain.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", PATIENCE_S, 0))
        tls = SSL.Connection(self._contexts[wish.kind, wish.version], plain)
        tls.set_tlsext_host_name(wish.name.encode())
        tls.set_connect_state()
        try:
            tls.do_handshake()
            if wish.version == "1.3":  # the client is done first: that the server is too, shows what it says then
                for option in (socket.TCP_NODELAY, socket.TCP_QUICKACK):  # or one side waits 40 ms for an ACK
                    plain.setsockopt(socket.IPPROTO_TCP, option, 1)
                tls.sendall(FIRST_WORDS[mode])
                tls.recv(1)
        except SSL.SysCallError as error:
            raise OSError(*error.args) from error  # by its number ConnectionResetError and the like
        except SSL.WantReadError as error:
            raise TimeoutError from error
        leaf = tls.get_peer_certificate(as_cryptography=True)
        assert leaf
        return leaf

    def unserved(self) -> float:
        """The longest time, in seconds, for which nobody was served and somebody met a closed port."""
        longest, since, met = 0.0, self._began, False
        for at, what in [*sorted(self._ended), (self._began + self.seconds, "good")]:
            met = met or what == "port closed"
            if what == "good":
                longest = max(longest, at - since) if met else longest
                since, met = at, False
        return longest

    def within(self, spans: Sequence[tuple[float, float]]) -> int:
        """How many connections ended in these times; who met a closed port is none."""
        return sum(
            what != "port closed" and any(began <= at <= ended for began, ended in spans) for at, what in self._ended
        )

    def report(self, who: str, swaps: Sequence[tuple[float, float]]) -> str:
        """The figures."""
        total = sum(self.counts.values()) - self.counts["port closed"]
        rate = self.within(swaps) / sum(ended - began for began, ended in swaps)
        troubles = ("failed handshake", "wrong or incomplete chain", "TLSA mismatch", "port closed")
        told = ", ".join(f"{self.counts[what]} {what}" for what in troubles)
        closed = f"; nobody was served for up to {self.unserved():.2f} s" if self.counts["port closed"] else ""
        return (
            f"{who}: {total} new TLS connections, {total / self.seconds:.0f}/s ({rate:.0f}/s from each swap to its "
            f"proof): {self.counts['good']} good, {told}{closed}"
        )
