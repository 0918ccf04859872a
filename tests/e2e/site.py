"""A mail host under certagent's care, in the lab: writes its configuration and runs the real program on it.

Whatever is run is also judged by the rules for every command: no traceback, no secret in what it prints, and
each error in two lines, the second a hint.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdata
import yaml

from tests.e2e import remembered
from tests.lab.addresses import MX1, PRIMARY, RESOLVER, SECONDARY, ZONE
from tests.lab.dns import Dns, records
from tests.lab.handshake import served_tlsa
from tests.lab.pebble import Pebble
from tests.lab.postfix import Receiver
from tests.lab.sender import Prober
from tests.lab.wait import until

ROOT = Path(__file__).resolve().parents[2]
NAME = f"mx1.{ZONE}"
TLSA_NAME = f"_25._tcp.{NAME}"
CHALLENGE = f"_acme-challenge.{NAME}"
BOTH_SERVERS = (PRIMARY, SECONDARY)
PORTS = (25, 465, 587)
ERROR = "certagent: error: "


class Done(NamedTuple):
    """How one run of the program ended."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """What it complained of, without the prefix."""
        return [line.removeprefix(ERROR) for line in self.err.splitlines() if line.startswith(ERROR)]

    @property
    def hints(self) -> list[str]:
        return [line.removeprefix("hint: ") for line in self.err.splitlines() if line.startswith("hint: ")]

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"certagent {' '.join(self.args)} -> {self.code}\n{self.out}{self.err}"


class Site:
    """mx1 with a Postfix of its own, served by certagent from `place`/state. Other things of `place`: tls/KIND.pem."""

    def __init__(self, place: Path, dns: Dns, pebble: Pebble, *, kinds: Sequence[str] = ("ecdsa",)) -> None:
        self.place, self.dns, self.pebble = place, dns, pebble
        self.tls = place / "tls"
        self.tls.mkdir(mode=0o755)
        self.state_dir = place / "state"
        self.path = place / "certagent.yaml"
        self.files = {kind: self.tls / f"{kind}.pem" for kind in kinds}
        self.receiver = Receiver(place / "mx1", chain_files=list(self.files.values()))
        self.service: dict[str, Any] = {"host": NAME, "port": 25, "mode": "smtp", "tlsa": True}
        others = [{"host": NAME, "port": 465, "mode": "tls"}, {"host": NAME, "port": 587, "mode": "smtp"}]
        self.server: dict[str, Any] = {
            "type": "postfix",
            "config_dir": str(self.receiver.config_dir),
            "chain_files": {kind: str(path) for kind, path in self.files.items()},
            "services": [self.service, *others],
        }
        self.dane: dict[str, Any] = {"ttl": "1s", "safety_margin": "0s"}
        self.certificate: dict[str, Any] = {
            "ca": "pebble",
            "keys": [{"ecdsa": "ecdsa-p256", "rsa": "rsa-2048"}[kind] for kind in kinds],
            "drain": "0s",
            "dane": self.dane,
            "mail_servers": {"postfix": self.server},
        }
        self.ca: dict[str, Any] = {
            "directory": pebble.directory,
            "test": True,
            "agree_tos": True,
            "ca_bundle": str(pebble.https_ca),
        }
        self.provider: dict[str, Any] = {
            "type": "rfc2136",
            "server": PRIMARY,
            "zones": [f"{ZONE}."],
            "key_file": str(dns.keyfile("dane-key")),
            "timeout": "3s",
        }
        self.config: dict[str, Any] = {
            "state_dir": str(self.state_dir),
            "ca": {"pebble": self.ca},
            "dns": {"resolvers": ["127.0.0.1"], "providers": {"corp": self.provider}},
            "certificates": {NAME: self.certificate},
        }
        self.names = [TLSA_NAME, CHALLENGE]
        """Names whose records are removed at the end (and were, before the beginning)."""
        self.tlsa_ports = [25]
        """Where there are TLSA records."""

    def __enter__(self) -> Self:
        self._clear()
        self.receiver.start()
        self.write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.receiver.stop()
        self.dns.heal()
        self.dns.settle()
        self._clear()
        if error is None:
            self.assert_nothing_secret_is_journaled()

    def publish_all(self) -> None:
        """TLSA records at every port that it serves."""
        for service in self.server["services"]:
            service["tlsa"] = True
        self.tlsa_ports = list(PORTS)
        self.names += self.tlsa_names[1:]

    @property
    def tlsa_names(self) -> list[str]:
        return [f"_{port}._tcp.{NAME}" for port in self.tlsa_ports]

    def _clear(self) -> None:
        for name in self.names:
            for rdtype in ("CNAME", "TLSA", "TXT"):
                if self.dns.values(PRIMARY, name, rdtype):
                    self.dns.update(name, rdtype, [])
        self.dns.settle()

    def write(self) -> None:
        """Writes the configuration as it is in `config` now."""
        new = self.path.with_suffix(".new")
        new.touch(0o600)
        plain = json.loads(json.dumps(self.config))  # values that are used twice would become aliases
        new.write_text(yaml.safe_dump(plain, sort_keys=False))
        new.replace(self.path)

    # ---- running ---------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "CERTAGENT_CONFIG": str(self.path), "COLUMNS": "100"}

    def run(self, *args: str, code: int | None = 0, at: Mapping[str, str] | None = None, seconds: float = 180) -> Done:
        """Runs `certagent ARGS` to its end and expects the exit code.

        `at`: shell commands to be run the moment an event of that kind is journaled: {"Installed": "…"} breaks what is
        needed next; {"update TLSA": "…"} just before such an update is sent. The program is the real one, watched.
        """
        if args[0] == "status":  # no daemon runs, unless a test starts one; in full is what tests read
            named = any(not arg.startswith("-") for arg in args[1:]) or "--json" in args
            args = (*args, *(() if named else self.config["certificates"]), "--no-daemon")
        process = self.start(*program(at), *args)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"it does not end: {Done(args, -1, *process.communicate())}") from None
        return self.judge(Done(args, process.returncode, out, err), code)

    def await_caches(self) -> None:
        """Goes on until no swap would wait for caches: the standby key is in all of them."""
        until(lambda: "caches are waited for" not in self.run("renew").out, 20, "the standby is in every cache")

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Starts `python ARGV` beside the test, with the environment of every command."""
        return subprocess.Popen(
            [sys.executable, *argv],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def judge(self, done: Done, code: int | None) -> Done:
        """The rules for every command."""
        assert code is None or done.code == code, done
        assert "Traceback" not in done.err + done.out, done
        assert "internal." not in done.err, done
        for line, following in pairwise([*done.err.splitlines(), ""]):
            assert not line.startswith(ERROR) or following.startswith("hint: "), f"an error without a hint: {done}"
        self.assert_nothing_secret_in((done.out + done.err).encode())
        return done

    @contextlib.contextmanager
    def daemon(self, at: Mapping[str, str] | None = None) -> Generator[Daemon]:
        """`certagent run`, from its start; ended by SIGTERM where the test has not ended it. `at`: as in run()."""
        log = self.place / "daemon.log"
        log.unlink(missing_ok=True)
        daemon = Daemon(log, [sys.executable, *program(at), "run"], self.environment)
        try:
            yield daemon
            daemon.stop()
        finally:
            daemon.kill()
        assert "Traceback" not in daemon.log
        assert "internal." not in daemon.log
        self.assert_nothing_secret_in(daemon.log.encode())

    # ---- what is there ---------------------------------------------------------------------------------------------

    def state(self, name: str = NAME) -> dict[str, Any]:
        """The state of the certificate, as certagent remembers it."""
        return remembered.state(self.state_dir, name)

    def history(self) -> list[Any]:
        """Every event, after the journal was verified."""
        return remembered.events(self.state_dir, NAME)

    def kinds(self) -> list[str]:
        """The kinds of all events, in order; of an intent the step: `Install!`."""
        events = [entry["event"] for entry in self.history()]
        return [f"{e['step']['type']}!" if e["type"] == "Intended" else e["type"] for e in events]

    def published(self, name: str = TLSA_NAME) -> list[list[str]]:
        """The TLSA values at both servers."""
        return [self.dns.values(server, name, "TLSA") for server in BOTH_SERVERS]

    def challenges(self) -> list[list[str]]:
        """The challenge values at both servers."""
        return [self.dns.values(server, CHALLENGE, "TXT") for server in BOTH_SERVERS]

    def served(self, ports: Iterable[int] = PORTS) -> set[str]:
        """The keys that are served, as TLSA values."""
        return {served_tlsa(MX1, port, NAME) for port in ports}

    def newest(self) -> dict[str, Any]:
        """The newest generation that certagent issued."""
        return [g for g in self.state()["generations"] if g["keys"]][-1]

    def assert_converged(self) -> None:
        """Nothing is left of what was begun: what is served, published, kept and challenged fits together."""
        state = self.state()
        assert state["failing"] == []
        newest = [g for g in state["generations"] if g["keys"]][-1]
        keys = {f"3 1 1 {leaf['spki']}" for leaf in newest["chains"].values()}
        assert self.served() <= keys
        self.assert_published(keys, self.run("tlsa", "--json").json["records"])
        assert self.challenges() == [[], []]
        kept = {path.name for path in (self.state_dir / "vault" / NAME).iterdir()} - {"before"}
        known = {k["id"] for k in state["keys"]} | {g["id"] for g in state["generations"] if g["keys"]}
        assert kept == known
        assert self.leftovers() == []
        assert not state["orders"]
        assert not state["challenges"]

    def assert_published(self, keys: set[str], records: list[dict[str, str]]) -> None:
        """Both servers have what `certagent tlsa` says, at each name: these keys are among it."""
        for name in self.tlsa_names:
            desired = sorted(record["value"] for record in records if record["tlsa_name"] == f"{name}.")
            assert keys <= set(desired)
            assert self.published(name) == [desired, desired]

    def leftovers(self) -> list[Path]:
        """Files in the making that nobody finished."""
        return [*self.tls.rglob(".*"), *self.state_dir.rglob(".*"), *self.state_dir.rglob("*.new*")]

    # ---- secrets ---------------------------------------------------------------------------------------------------

    def secrets(self) -> list[bytes]:
        """What must never be printed, logged or journaled: the TSIG secret, and the private parts of every key."""
        found = [self.dns.tsig_secret.encode(), b"PRIVATE KEY"]
        for path in (self.state_dir / "vault").rglob("*.key"):
            with contextlib.suppress(FileNotFoundError):  # forgotten meanwhile
                found += [line for line in path.read_bytes().splitlines() if len(line) == 64 and b"-" not in line]
        for path in (self.state_dir / "accounts").rglob("*"):
            if path.is_file():
                text = path.read_bytes()
                found += [m.encode() for m in re.findall(r'"(?:d|p|q)" ?: ?"([\w-]+)"', text.decode())]
                found += [line for line in text.splitlines() if len(line) == 64 and b"-" not in line]
        return found

    def assert_nothing_secret_in(self, text: bytes) -> None:
        for secret in self.secrets():
            assert secret not in text, "a secret was printed or journaled"

    def assert_nothing_secret_is_journaled(self) -> None:
        """In the journal, its write-ahead log, and the notes of the locks."""
        for path in [*self.state_dir.glob("journal*"), *self.state_dir.glob("*lock*"), *self.state_dir.glob("*.pid")]:
            self.assert_nothing_secret_in(path.read_bytes())


def program(at: Mapping[str, str] | None) -> list[str]:
    """What Python is to run: certagent as it is, or watched."""
    return ["-m", "certagent"] if at is None else ["-m", "tests.e2e.site", json.dumps(dict(at))]


class Daemon:
    """A running `certagent run`."""

    def __init__(self, log: Path, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self.path = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                argv, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    @property
    def log(self) -> str:
        return self.path.read_text()

    @property
    def lines(self) -> list[dict[str, str]]:
        """Every line of the log as its words; ValueError for one that is not logfmt."""
        whole = self.log.rpartition("\n")[0].splitlines()  # the last line may still be in the writing
        return [parse_logfmt(line) for line in whole]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def until(self, seen: Callable[[dict[str, str]], object], seconds: float, what: str) -> dict[str, str]:
        """Waits for a line of the log."""

        def found() -> dict[str, str] | None:
            code = self.process.poll()
            line = next((words for words in self.lines if seen(words)), None)
            assert line or code is None, f"the daemon ended with {code}: {self.log}"
            return line

        try:
            line = until(found, seconds, what)
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {what}\n{self.log}") from None
        assert line
        return line

    def stop(self, seconds: float = 10) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


_WORD = re.compile(r'([a-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"=\\]+))(?: |$)')


def parse_logfmt(line: str) -> dict[str, str]:
    """The words of a line, after systemd's priority."""
    found = re.fullmatch(r"<[0-7]>(.+)", line)
    if not found:
        raise ValueError(f"no priority: {line!r}")
    words: dict[str, str] = {}
    at = 0
    while at < len(found[1]):
        word = _WORD.match(found[1], at)
        if not word or word[1] in words:
            raise ValueError(f"not logfmt: {line!r} at {at}")
        words[word[1]] = re.sub(r"\\(.)", r"\1", word[2]) if word[2] is not None else word[3]
        at = word.end()
    return words


class Strict(Prober):
    """A prober without a cache: asks one authoritative server, then meets the host, many times a second.

    What it has seen published before a handshake must match in that handshake; `no record` is no failure of anybody.
    """

    def __init__(self, *, server: str = PRIMARY, owner: str = TLSA_NAME, rate: float = 20) -> None:
        super().__init__(NAME, MX1, 25, rate)
        self._server, self._owner = server, owner

    def _records(self) -> set[str]:
        answer = dns.query.udp(dns.message.make_query(self._owner, "TLSA"), self._server, timeout=10)
        return {record.to_text() for record in records(answer, "TLSA")}

    def harm(self) -> list[str]:
        """Every moment at which a sender who had just looked would have been turned away."""
        return [f"{f.kind}: {f.detail}" for f in self.failures if f.kind != "no record"]


class Cached(Prober):
    """A prober that asks the validating resolver, and tells what it said where there was no validated record.

    It has a cache itself, behind that of the resolver: what it was given it uses for its TTL.
    """

    _kept: tuple[set[str], float] = set(), 0.0
    """Until when."""

    def _records(self) -> set[str]:
        now = time.monotonic()
        if now >= self._kept[1]:
            values, ttl_s = self._asked()
            self._kept = values, now + ttl_s
        return self._kept[0]

    def _compare(self) -> tuple[str, str]:
        kind, detail = super()._compare()
        if kind == "no record":
            said = dns.query.udp(dns.message.make_query(self.owner, "TLSA", want_dnssec=True), RESOLVER, timeout=10)
            flags, values = dns.flags.to_text(said.flags), [r.to_text() for r in records(said, "TLSA")]
            detail += f"; now {dns.rcode.to_text(said.rcode())} {flags} {values}"
            detail += f"; servers {[[r.to_text() for r in self._at(server)] for server in BOTH_SERVERS]}"
        return kind, detail

    def _at(self, server: str) -> list[dns.rdata.Rdata]:
        return records(dns.query.udp(dns.message.make_query(self.owner, "TLSA"), server, timeout=10), "TLSA")


@contextlib.contextmanager
def recursive_ca(site: Site) -> Generator[Pebble]:
    """In place of the run's Pebble, one that asks the resolver: only that follows an alias into another zone."""
    site.pebble.stop()
    pebble = Pebble(site.place / "pebble", RESOLVER)
    pebble.start()
    site.ca["ca_bundle"] = str(pebble.https_ca)
    site.write()
    try:
        yield pebble
    finally:
        pebble.stop()
        site.pebble.restart()


@contextlib.contextmanager
def tmpfs(path: Path, size: str, *, mode: str = "755") -> Generator[Path]:
    """A small disk at `path`; the file `ballast` in it can fill it."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode={mode}", "small", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(path: Path, leave: int = 0) -> Path:
    """Fills the disk at `path` but for `leave` bytes; the ballast to remove."""
    ballast = path / "ballast"
    free = os.statvfs(path)
    ballast.write_bytes(b"x" * max(0, free.f_bavail * free.f_frsize - leave))
    return ballast


# ---- the program, watched --------------------------------------------------------------------------------------------


def watched(rules: Mapping[str, str]) -> None:
    """Each rule runs its shell command once: when an event of that kind is durable, or before an update is sent."""
    from dns.message import Message

    from certagent.dns.providers.protocol import RdType
    from certagent.dns.providers.rfc2136 import Rfc2136
    from certagent.lifecycle.events import AnyEvent, Intended
    from certagent.lifecycle.state import State
    from certagent.store.journal import Journal, Known

    append = cast("Callable[..., Known[State]]", Journal.append)  # pyright: ignore[reportUnknownMemberType]
    send = Rfc2136._update  # pyright: ignore[reportPrivateUsage]
    left = dict(rules)

    def happens(what: str) -> None:
        if command := left.pop(what, None):
            subprocess.run(["sh", "-ec", command], check=True, stdin=subprocess.DEVNULL)

    def watched_append(
        self: Journal[State, AnyEvent], name: str, *events: AnyEvent, expected: int | None = None
    ) -> Known[State]:
        known = append(self, name, *events, expected=expected)
        for event in events:
            happens(f"{type(event.step).__name__}!" if isinstance(event, Intended) else type(event).__name__)
        return known

    def watched_update(self: Rfc2136, update: Message, name: str, rdtype: RdType) -> None:
        happens(f"update {rdtype}")
        send(self, update, name, rdtype)

    Journal.append = watched_append
    Rfc2136._update = watched_update  # pyright: ignore[reportPrivateUsage]


if __name__ == "__main__":
    watched(json.loads(sys.argv.pop(1)))
    from certagent.cli import main

    sys.argv[0] = "certagent"
    main.main()
