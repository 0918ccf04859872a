"""Dovecot with both key types, in each version, and what its tests have in common."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from certagent.errors import Misconfigured
from certagent.facts.tls import Service
from certagent.facts.unknown import Unknown
from certagent.mta.dovecot.server import Dovecot, Options
from certagent.probe import handshake
from tests.lab import dovecot as lab
from tests.lab.addresses import IMAP, ZONE
from tests.mta import chains

HOST, A, B = f"imap.{ZONE}", f"a.{ZONE}", f"b.{ZONE}"
SERVICES = {
    143: Service(HOST, 143, "imap"),
    993: Service(HOST, 993, "tls"),
    110: Service(HOST, 110, "pop3"),
    995: Service(HOST, 995, "tls"),
    4190: Service(HOST, 4190, "sieve"),
}
ECDSA, BOTH = frozenset({"ecdsa-p256"}), frozenset({"ecdsa-p256", "rsa-2048"})

OLD, OLD_RSA = chains.make(name=HOST), chains.make("rsa-2048", HOST)
NEW, NEW_RSA = chains.make(name=HOST), chains.make("rsa-2048", HOST)
NEW_PEMS = {"ecdsa-p256": NEW.credential, "rsa-2048": NEW_RSA.credential}


@pytest.fixture(scope="module", params=lab.VERSIONS)
def version(request: pytest.FixtureRequest) -> Iterator[str]:
    if why := lab.missing(request.param):
        pytest.skip(why)
    with lab.installed(request.param):
        yield request.param


@pytest.fixture
def tls(place: Path) -> Path:
    """The directory of the files, with the old ones and one more of each kind."""
    directory = place / "tls"
    directory.mkdir(mode=0o755)
    chain_of = {"ecdsa": OLD, "rsa": OLD_RSA, "other": chains.make(name=HOST), "other-rsa": NEW_RSA}
    for name, chain in chain_of.items():
        write(directory / f"{name}.pem", chain.pem)
    return directory


@pytest.fixture
def imap(place: Path, tls: Path, version: str) -> Iterator[lab.Dovecot]:
    """Dovecot with both key types, started."""
    server = lab.Dovecot(place / "imap", version)
    server.configure(server.pair(tls / "ecdsa.pem") + server.pair(tls / "rsa.pem", "alt_"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def options(imap: lab.Dovecot, tls: Path) -> Options:
    return Options(files={kind: str(tls / f"{kind}.pem") for kind in ("ecdsa", "rsa")}, config=str(imap.config))


@pytest.fixture
def dovecot(options: Options) -> Dovecot:
    return Dovecot("imap", options)


def write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def served(key_type: str, port: int = 993, sni: str | None = None) -> str:
    """The key that is served, or why none was seen."""
    leaf = handshake.probe(SERVICES[port], IMAP, key_type, 5, sni=sni, newest="1.2").chain
    return leaf.why if isinstance(leaf, Unknown) else leaf.spki


def everywhere(sni: str | None = None) -> set[tuple[str, str]]:
    """What all ports serve."""
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        found = [(key_type, pool.submit(served, key_type, port, sni)) for key_type in BOTH for port in SERVICES]
    return {(key_type, key.result()) for key_type, key in found}


def keys_of(ecdsa: chains.Chain, rsa: chains.Chain) -> set[tuple[str, str]]:
    return {("ecdsa-p256", ecdsa.spki), ("rsa-2048", rsa.spki)}


def wrong(call: Callable[[], object]) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        call()
    assert caught.value.code == "mta.config"
    return caught.value


def do_as_told(hint: str) -> None:
    """Runs the command of a hint, as the operator would."""
    assert hint.startswith("run: ")
    subprocess.run(["sh", "-c", hint.removeprefix("run: ")], check=True, stdin=subprocess.DEVNULL)
