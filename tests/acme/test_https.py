"""A request to a CA ends, whatever the other side does, and the environment has no say in it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from certagent.acme import https
from certagent.acme.https import Https, Response
from certagent.errors import CaUnavailable, Misconfigured
from certagent.host import deadline
from tests.acme.front import ADDRESS, Front, Reply, answer

ENDS_S = 60
"""That it ends at all is what counts; all limits here are a second."""


class Noting(Front):
    """Notes also the headers."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.headers: list[Mapping[str, str]] = []
        self.always("/", answer(Reply(200, b"{}")))

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        self.headers.append(headers)
        return super().reply(method, path, headers, body)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Noting]:
    with Noting(tmp_path) as front:
        yield front


def asked(url: str, ca_bundle: Path, proxy: str | None = None, timeout_s: float = 10.0) -> Response:
    client = Https(ca_bundle=ca_bundle, proxy=proxy, timeout_s=timeout_s, user_agent="test")
    return client.request("GET", url, None, {}, place="the CA", limit_bytes=1000)


# -- others that drip --------------------------------------------------------------------------------------------------

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def listening(talk: Talk) -> Generator[int]:
    """A port, and what is said there to each who comes."""
    with socket.create_server((ADDRESS, 0)) as server, contextlib.ExitStack() as stack:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = stack.enter_context(server.accept()[0])
                    threading.Thread(target=said, args=(client,), daemon=True).start()

        def said(client: socket.socket) -> None:
            with contextlib.suppress(OSError):
                talk(client)

        stack.callback(server.shutdown, socket.SHUT_RDWR)
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def dripping(beginning: bytes, drop: bytes) -> Talk:
    """Something, and then a little of something for ever: each silence is short."""

    def talk(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(beginning)
        gone = threading.Event()
        while not gone.wait(0.05):
            client.sendall(drop)

    return talk


def over_tls(place: Path, talk: Talk) -> Talk:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "front.pem")

    def begin(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as tls:
            talk(tls)

    return begin


OK = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "status line": dripping(b"", b"H"),
    "continue": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "header": dripping(OK + b"X: ", b"x"),
    "body": dripping(OK + b"Content-Length: 900\r\n\r\n", b" "),
    "body without an end": dripping(OK + b"\r\n", b" "),
    "chunks": dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "chunk size": dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailers": dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: x\r\n"),
}
HANDSHAKE = dripping(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b"\x00")
"""A handshake record, never whole."""


@pytest.mark.parametrize("where", [*DRIPS, "handshake", "proxy"])
def test_whoever_drips_is_cut_off(front: Noting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(https, "SILENCES", 0.1)
    talk = over_tls(tmp_path, DRIPS[where]) if where in DRIPS else HANDSHAKE
    with listening(dripping(b"", b"H") if where == "proxy" else talk) as port, ThreadPoolExecutor(1) as pool:
        proxy = f"http://{ADDRESS}:{port}" if where == "proxy" else None
        request = pool.submit(asked, f"https://{ADDRESS}:{port}/", front.ca_bundle, proxy)
        error = request.exception(ENDS_S)
    assert isinstance(error, CaUnavailable), error
    assert (error.code, error.detail) == ("ca.unreachable", "the CA: no end of its answer within 1 s")


def test_a_step_ends_it_sooner(front: Noting, tmp_path: Path) -> None:
    def step(port: int) -> Response:
        with deadline.total(1):
            return asked(f"https://{ADDRESS}:{port}/", front.ca_bundle)

    with listening(over_tls(tmp_path, DRIPS["body"])) as port, ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(step, port).exception(ENDS_S), CaUnavailable)


def test_after_it_was_cut_off_it_asks_again(front: Noting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another connection; and one that is kept is cut like a new one."""
    monkeypatch.setattr(https, "SILENCES", 0.1)
    client = Https(ca_bundle=front.ca_bundle, proxy=None, timeout_s=10, user_agent="test")
    twice = iter([b"Content-Length: 2\r\n\r\n{}", b"Content-Length: 900\r\n\r\n"])

    def talk(client: socket.socket) -> None:
        for rest in twice:
            client.recv(4096)
            client.sendall(OK + rest)
        dripping(b"", b" ")(client)

    def ask(url: str) -> Response:
        return client.request("GET", url, None, {}, place="the CA", limit_bytes=1000)

    with listening(over_tls(tmp_path, talk)) as port, ThreadPoolExecutor(1) as pool:
        assert ask(f"https://{ADDRESS}:{port}/").body == b"{}"
        assert isinstance(pool.submit(ask, f"https://{ADDRESS}:{port}/").exception(ENDS_S), CaUnavailable)
    assert ask(front.url).status == 200


# -- the environment ---------------------------------------------------------------------------------------------------


def test_nothing_of_the_environment_counts(front: Noting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No password goes to the CA, no proxy and no other CA is believed, and nobody writes the secrets of TLS down."""
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {ADDRESS} login root password hunter2\ndefault login root password hunter3\n")
    netrc.chmod(0o600)
    secrets = tmp_path / "secrets"
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "missing"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("SSLKEYLOGFILE", str(secrets))
    assert asked(front.url, front.ca_bundle).status == 200
    assert {name.lower() for headers in front.headers for name in headers} == {"host", "user-agent", "accept-encoding"}
    assert not secrets.exists()


def test_a_bundle_of_the_environment_is_not_believed(front: Noting, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(front.ca_bundle))
    client = Https(ca_bundle=None, proxy=None, timeout_s=10, user_agent="test")
    with pytest.raises(CaUnavailable, match="certificate verify failed"):
        client.request("GET", front.url, None, {}, place="the CA", limit_bytes=1000)


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_bundle_that_is_none(front: Noting, tmp_path: Path, content: bytes) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(content)
    with pytest.raises(Misconfigured, match=r"bundle\.pem"):
        asked(front.url, bundle)


def test_a_bundle_that_others_may_change(front: Noting) -> None:
    front.ca_bundle.chmod(0o666)
    with pytest.raises(Misconfigured, match="others may write") as info:
        asked(front.url, front.ca_bundle)
    assert info.value.code == "ca.account"


# -- a proxy -----------------------------------------------------------------------------------------------------------


def forwarding(asks: list[bytes]) -> Talk:
    """As RFC 9110 section 9.3.6."""

    def talk(client: socket.socket) -> None:
        asks.append(client.recv(4096))
        host, _, port = asks[-1].split()[1].decode().partition(":")
        with socket.create_connection((host, int(port))) as server:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pumped, args=(server, client))
            back.start()
            pumped(client, server)
            back.join()

    return talk


def pumped(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(4096):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)


def test_the_proxy_that_is_configured_is_used(front: Noting) -> None:
    asks: list[bytes] = []
    with listening(forwarding(asks)) as port:
        assert asked(front.url, front.ca_bundle, f"http://{ADDRESS}:{port}").status == 200
    assert [ask.splitlines()[0] for ask in asks] == [f"CONNECT {front.host} HTTP/1.0".encode()]


def refusing(client: socket.socket) -> None:
    client.recv(4096)
    client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


def test_what_a_proxy_does_is_not_said_of_the_ca(front: Noting) -> None:
    with socket.create_server((ADDRESS, 0)) as closed:
        nobody = closed.getsockname()[1]
    for port, why in ((nobody, "Connection refused"), (None, "403 Forbidden")):
        with listening(refusing) as refuses, pytest.raises(CaUnavailable) as info:
            asked(front.url, front.ca_bundle, f"http://{ADDRESS}:{port or refuses}")
        assert info.value.code == "ca.proxy"
        assert f"the proxy http://{ADDRESS}:{port or refuses}: " in info.value.detail
        assert info.value.detail.endswith(why)
