"""Real servers for the tests in this directory. DNS and Pebble last as long as the run, Postfix as long as one test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import namespace
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble
from tests.lab.postfix import Receiver, Sender


@pytest.fixture(scope="session")
def session_dns() -> Iterator[Dns]:
    dns = Dns(namespace.directory() / "dns", knot=True)
    dns.start()
    yield dns
    dns.stop()


@pytest.fixture
def lab_dns(session_dns: Dns) -> Iterator[Dns]:
    """The run's DNS; whatever a test broke is healed after it. What it published stays."""
    yield session_dns
    session_dns.heal()


@pytest.fixture(scope="session")
def pebble(session_dns: Dns) -> Iterator[Pebble]:
    """The run's certificate authority."""
    pebble = Pebble(namespace.directory() / "pebble")
    pebble.start()
    yield pebble
    pebble.stop()


@pytest.fixture
def place() -> Path:
    """A new directory that every user may enter (pytest's own may be entered by root only)."""
    path = Path(tempfile.mkdtemp(dir=namespace.directory()))
    path.chmod(0o755)
    return path


@pytest.fixture
def chain_file(place: Path) -> Path:
    """The file that mx1 serves; it does not exist yet."""
    return place / "chain.pem"


@pytest.fixture
def mx1(place: Path, chain_file: Path) -> Iterator[Receiver]:
    """The receiving Postfix, started."""
    receiver = Receiver(place / "mx1", chain_files=[chain_file])
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture
def sender(place: Path, session_dns: Dns) -> Iterator[Sender]:
    """The sending Postfix, started."""
    sender = Sender(place / "sender")
    sender.start()
    yield sender
    sender.stop()
