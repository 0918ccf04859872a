"""The daemon when a CA drips: the other certificates are looked after, and it ends when it is asked to."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from certagent.host import ending
from tests.acme.front import ADDRESS, Front, answer, problem
from tests.lab.wait import until
from tests.words import ROOT

CONFIG = """
state_dir: {place}/state
ca:
  drips: {{directory: "https://127.0.0.1:{port}/dir", ca_bundle: {bundle}, agree_tos: true}}
  says_no: {{directory: "{no}/dir", ca_bundle: {bundle}, agree_tos: true}}
certificates:
  a.example.org: {{ca: drips, challenge: {{type: http-01}}}}
  b.example.org: {{ca: says_no, challenge: {{type: http-01}}}}
"""


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Front]:
    """A CA that answers, and is busy."""
    with Front(tmp_path) as front:
        front.always("/", answer(problem(503, "serverInternal")))
        yield front


@pytest.fixture
def dripping(tmp_path: Path, refusing: Front) -> Iterator[tuple[int, list[float]]]:
    """The port of one that sends the beginning of an answer, and then a blank again and again; when each came."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "front.pem")
    came: list[float] = []
    over = threading.Event()

    def talk(client: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(client, server_side=True) as tls:
            came.append(time.monotonic())
            tls.recv(4096)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 250000\r\n\r\n")
            while not over.wait(0.1):
                tls.sendall(b" ")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server((ADDRESS, 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], came
        over.set()
        server.shutdown(socket.SHUT_RDWR)


def daemon(place: Path, total_s: float = 120.0) -> subprocess.Popen[str]:
    """`certagent run`; a request to a CA may take `total_s`."""
    code = (
        "import sys; from certagent.acme import https; "
        f"https.SILENCES = {total_s} / 30; sys.argv = ['certagent', 'run']; "
        "from certagent.cli.main import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CERTAGENT_CONFIG": str(place / "config.yaml")}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)


def configured(place: Path, dripping: tuple[int, list[float]], refusing: Front) -> None:
    path = place / "config.yaml"
    path.touch(0o600)
    path.write_text(CONFIG.format(place=place, port=dripping[0], no=refusing.url, bundle=refusing.ca_bundle))


def test_a_ca_that_drips_ends_its_own_step_and_no_other(
    tmp_path: Path, dripping: tuple[int, list[float]], refusing: Front
) -> None:
    configured(tmp_path, dripping, refusing)
    with daemon(tmp_path, total_s=2.0) as running:
        assert running.stderr is not None
        seen: list[str] = []
        for line in running.stderr:
            seen.append(line)
            if "certificate=a.example.org" in line and "code=ca.unreachable" in line:
                break
        assert "no end of its answer within 2 s" in seen[-1], seen
        until(lambda: refusing.count("/dir") > 0, 30, "the other certificate was looked after")
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0, seen


def test_sigterm_ends_it_in_time_while_a_ca_drips(
    tmp_path: Path, dripping: tuple[int, list[float]], refusing: Front
) -> None:
    configured(tmp_path, dripping, refusing)
    with daemon(tmp_path) as running:
        until(lambda: dripping[1], 30, "it asks the CA")
        running.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert running.wait(60) in {0, -signal.SIGALRM}  # on a slow machine the kernel may be first
        assert time.monotonic() - began < 4 * ending.LIMIT_S
