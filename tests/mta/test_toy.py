"""One file is all that a kind of mail server needs: the toy passes the suite, found by its entry point."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from certagent.facts.tls import Service
from certagent.init import host
from certagent.testing import MailServerCheck, Running, issued, mail_server_suite
from tests.lab.wait import until
from tests.mta import toy

NAME = "toy.corp.example"
KEY_TYPES = ("ecdsa-p256", "rsa-2048")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("toy")
    place.chmod(0o755)
    tls, other, settings, pid_file = place / "tls", place / "other", place / "settings", place / "pid"
    for directory in (tls, other):
        directory.mkdir(mode=0o755)
    files = {kind: str(tls / f"{kind}.pem") for kind in ("ecdsa", "rsa")}
    settings.write_text("\n".join(files.values()))
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as free:
        patch.setattr(sys, "path", [str(toy.registered(place / "site-packages")), *sys.path])
        kind = host.plugins()["toy"]
        port = free.getsockname()[1]
    options = {"settings": str(settings), "pid_file": str(pid_file)}
    server = kind("toy", msgspec.convert({**options, "files": files}, kind.Options))
    elsewhere = {algorithm: str(other / f"{algorithm}.pem") for algorithm in files}
    unnamed = kind("toy", msgspec.convert({**options, "files": elsewhere}, kind.Options))
    server.install({key_type: issued(key_type, NAME) for key_type in KEY_TYPES})
    command = [sys.executable, "-m", "tests.mta.toy", settings, pid_file, "127.0.0.1", str(port)]
    with subprocess.Popen(command, cwd=ROOT) as daemon:
        try:
            until(pid_file.exists, 10, "it listens")
            yield Running(server, [Service(NAME, port, "tls", ("127.0.0.1",))], KEY_TYPES, unnamed)
        finally:
            daemon.kill()


@pytest.mark.parametrize("check", mail_server_suite, ids=lambda check: check.__name__)
def test_it_keeps_the_rule(running: Running, check: MailServerCheck) -> None:
    check(running)
