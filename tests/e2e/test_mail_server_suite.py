"""Every kind of mail server keeps the rules of `certagent.testing.mail_server_suite`, on its real daemon."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from certagent.errors import Misconfigured
from certagent.facts.tls import Mode, Service
from certagent.init import host
from certagent.mta.server import Server
from certagent.testing import MailServerCheck, Running, credentials, mail_server_suite
from tests.e2e import servers
from tests.e2e.test_command import BOTH, HOST, HaProxy
from tests.lab import dovecot, exim, namespace, opensmtpd
from tests.lab.addresses import MX2

Start = Callable[[Path], AbstractContextManager[Running]]


def server(section: Mapping[str, Any], name: str) -> Server:
    """As the wiring makes it."""
    kind = host.plugins()[section["type"]]
    options = {key: value for key, value in section.items() if key != "type"}
    return kind(name, msgspec.convert(options, kind.Options))


def elsewhere(section: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """The same with other files, which the server's settings do not name."""
    files = {"files", "chain_files"} & section.keys()
    moved: dict[str, Any] = {key: {kind: str(place / f"{kind}.pem") for kind in section[key]} for key in files}
    if "issuers" in section:
        moved["issuers"] = str(place / "issuers.pem")
    return {**section, **moved}


@contextmanager
def of(start: Callable[[Path], AbstractContextManager[servers.Host]], place: Path) -> Generator[Running]:
    """Each name of a host as a server; the first, with the second beside it."""
    with start(place) as found:
        beside: Running | None = None
        for name in reversed(found.names):
            modes: dict[int, Mode] = msgspec.convert(found.modes, dict[int, Mode])
            services = [Service(name, port, mode, (found.address,)) for port, mode in modes.items()]
            key_types = tuple(servers.KEY_TYPES[kind] for kind in found.kinds(name))
            section = found.sections[name]
            apart = place / "tls" if (place / "tls").is_dir() else Path(next(iter(section["files"].values()))).parent
            apart = apart / "unnamed"
            apart.mkdir(mode=0o755, exist_ok=True)
            unnamed = server(elsewhere(section, apart), "unnamed") if "list" not in section else None
            beside = Running(server(section, name), services, key_types, unnamed, beside)
        assert beside
        if beside.by_name:
            with suppress(Misconfigured):  # nothing names its files yet
                beside.by_name.server.install(credentials(beside.by_name))
            found.after_first()
        yield beside


@contextmanager
def haproxy(place: Path) -> Generator[Running]:
    daemon = HaProxy(place)
    daemon.run()
    try:
        yield Running(daemon.command, [Service(HOST, 465, "tls", (MX2,))], BOTH)
    finally:
        daemon.stop()


KINDS: dict[str, tuple[Start, Callable[[], str]]] = {
    "postfix": (partial(of, servers.postfix), str),
    "exim": (partial(of, servers.exim_by_signal), str),
    "exim by names": (partial(of, partial(servers.exim, build="GnuTLS")), lambda: exim.missing("GnuTLS")),
    "dovecot 2.3": (partial(of, partial(servers.dovecot, version="2.3")), lambda: dovecot.missing("2.3")),
    "dovecot 2.4": (partial(of, partial(servers.dovecot, version="2.4")), lambda: dovecot.missing("2.4")),
    "opensmtpd": (partial(of, servers.open_smtpd), opensmtpd.missing),
    "sendmail": (partial(of, servers.send_mail), str),
    "command": (haproxy, str),
}


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    start, missing = KINDS[request.param]
    if why := missing():
        pytest.skip(why)
    place = Path(tempfile.mkdtemp(dir=namespace.directory()))
    place.chmod(0o755)
    with start(place) as found:
        yield found


@pytest.mark.parametrize("check", mail_server_suite, ids=lambda check: check.__name__)
def test_it_keeps_the_rule(running: Running, check: MailServerCheck) -> None:
    check(running)
