"""http-01: the response, how a request is read, files and the port, and what this host sees of it."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as hst

from certagent.acme.challenges import http01, looking
from certagent.acme.challenges.http01 import Http01, asked
from certagent.acme.challenges.protocol import Offer
from certagent.errors import CaRefusal, Misconfigured
from certagent.facts.challenge import Challenge, Method
from tests.acme.here import Here

HOST = "mx1.example.org"
TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
PATH = f"/.well-known/acme-challenge/{TOKEN}"


def made(**method: Any) -> tuple[Http01, list[Challenge]]:
    how = Method("http-01", "", **method)
    return Http01(Here(how)), [Http01.respond(Offer(HOST, TOKEN, THUMBPRINT, how))]


@pytest.fixture
def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def at(port: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Where a CA looks, in place of port 80."""
    monkeypatch.setattr(looking, "_PORTS", {"http": port, "https": port})
    return port


def test_the_response_is_the_key_authorization_at_the_path_of_the_token() -> None:
    """RFC 8555 section 8.3, with its own example of a token."""
    _, [challenge] = made(webroot="/srv/www")
    assert challenge.name == f"http://{HOST}{PATH}"
    assert challenge.value == f"{TOKEN}.{THUMBPRINT}"
    assert challenge.webroot == "/srv/www"


@pytest.mark.parametrize("token", ["", "a" * 21, "a" * 129, f"../../{TOKEN}", f"{TOKEN}/", f"{TOKEN}\n", "ä" * 30])
def test_what_is_no_token_never_becomes_the_name_of_a_file(token: str) -> None:
    with pytest.raises(CaRefusal, match=r"ca\.rejected"):
        Http01.respond(Offer(HOST, token, THUMBPRINT))
    odd = Challenge("http-01", HOST, f"http://{HOST}/x/{token.replace('/', '%')}", "v", "/srv/www")
    type_, _ = made()
    for act in (type_.present, type_.clean_up):
        with pytest.raises(CaRefusal, match=r"ca\.rejected"):
            act([odd])


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"GET /a HTTP/1.1", ("GET", "/a")),
        (b"HEAD /a?b HTTP/1.0", ("HEAD", "/a")),
        (b"GET http://mx1.example.org/a/b HTTP/1.1", ("GET", "/a/b")),
        (b"POST /a HTTP/1.1", ("", "")),
        (b"GET /a", ("", "")),
        (b"GET /a b HTTP/1.1", ("", "")),
        (b"GET /a HTTP/2", ("", "")),
        (b"\x16\x03\x01\x02\x00\x01", ("", "")),
    ],
)
def test_only_get_and_head_are_requests(line: bytes, found: tuple[str, str]) -> None:
    assert asked(line + b"\r\nHost: x\r\n\r\n") == found


@given(hst.binary())
def test_whatever_is_sent_is_a_request_or_none(head: bytes) -> None:
    method, target = asked(head)
    assert bool(method) == (method in {"GET", "HEAD"})
    assert method or not target
    assert "?" not in target


@given(hst.text(alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=22, max_size=128))
def test_each_token_is_asked_for_by_its_own_path(token: str) -> None:
    """What a CA sends for the URL of a challenge is what the response is under."""
    challenge = Http01.respond(Offer(HOST, token, THUMBPRINT))
    target = challenge.name.removeprefix(f"http://{HOST}")
    assert asked(f"GET {target} HTTP/1.1\r\n\r\n".encode())[1] == http01.path(token)


def fetch(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    client.request(method, path)
    answer = client.getresponse()
    return answer.status, answer.read()


class TestListening:
    def test_it_answers_the_path_of_the_token_while_it_serves_and_nothing_else(self, port: int) -> None:
        type_, challenges = made(listen=(f"127.0.0.1:{port}",))
        type_.present(challenges)
        with type_.serving(challenges):
            assert fetch(port, PATH) == (200, challenges[0].value.encode())
            assert fetch(port, PATH, "HEAD") == (200, b"")
            for other in ("/", PATH[:-1], f"{PATH}/", "/.well-known/acme-challenge/"):
                with pytest.raises(http.client.RemoteDisconnected):
                    fetch(port, other)
        with pytest.raises(ConnectionRefusedError):
            fetch(port, PATH)

    def test_a_request_without_an_end_is_cut(self, port: int) -> None:
        type_, challenges = made(listen=(f"127.0.0.1:{port}",))
        with type_.serving(challenges), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"x" * 3 * http01.REQUEST_BYTES)
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""

    def test_a_port_in_use_is_said_before_the_ca_is_asked(self, port: int) -> None:
        type_, challenges = made(listen=(f"127.0.0.1:{port}",))
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            with pytest.raises(Misconfigured, match=rf"port {port} of 127.0.0.1 is in use") as info:
                type_.present(challenges)
        assert "`webroot`" in info.value.hint

    def test_nothing_is_listened_at_for_files(self, tmp_path: Path) -> None:
        type_, challenges = made(webroot=str(tmp_path), listen=("192.0.2.1:80",))
        with type_.serving(challenges):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="files of others")
def test_files_are_placed_and_removed(tmp_path: Path) -> None:
    type_, challenges = made(webroot=str(tmp_path))
    type_.present(challenges)
    assert (tmp_path / PATH[1:]).read_text() == challenges[0].value
    other, _ = made(webroot="/srv/another")  # the configuration has changed since
    other.clean_up(challenges)
    assert not (tmp_path / PATH[1:]).exists()


@contextmanager
def web(port: int, say: Callable[[BaseHTTPRequestHandler], object]) -> Generator[None]:
    """A web server that says that."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            say(self)

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    with ExitStack() as stop:
        stop.callback(server.server_close)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        stop.callback(server.shutdown)
        yield


def says(status: int, body: str = "", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def say(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body.encode())

    return say


class TestLooking:
    def test_a_response_that_is_there_is_seen(self, at: int) -> None:
        type_, challenges = made(listen=(f"127.0.0.1:{at}",))
        with type_.serving(challenges):
            assert type_.ready(challenges) == ""

    def test_what_is_not_there_is_said_and_stops_nothing(self, at: int) -> None:
        type_, challenges = made()
        assert type_.ready(challenges) == f"{HOST} at 127.0.0.1: [Errno 111] Connection refused"
        with web(at, says(404)):
            assert type_.ready(challenges) == f"{HOST} at 127.0.0.1: it answers 404"
        with web(at, says(200, "<p>Welcome\x1b[2J")):
            assert "it gives another page: '<p>Welcome" in type_.ready(challenges)
            assert "\x1b" not in type_.ready(challenges)

    def test_whitespace_at_the_end_is_no_difference(self, at: int) -> None:
        type_, challenges = made()
        with web(at, says(200, f"{challenges[0].value}\n")):
            assert type_.ready(challenges) == ""

    def test_redirects_are_followed_and_end(self, at: int) -> None:
        type_, challenges = made()
        to = f"http://{HOST}:{at}/elsewhere"

        def moved(handler: BaseHTTPRequestHandler) -> None:
            found = handler.path == "/elsewhere"
            says(200, challenges[0].value)(handler) if found else says(301, Location=to)(handler)

        with web(at, moved):
            assert type_.ready(challenges) == ""
        with web(at, says(301, Location=to)):
            assert "more than 10 redirects" in type_.ready(challenges)
        for odd in ("http://mx1.example.org:25/", "ftp://mx1.example.org/"):
            with web(at, says(302, Location=odd)):
                assert f"it leads to {odd}, where no CA looks" in type_.ready(challenges)

    def test_a_server_that_says_nothing_costs_a_moment(self, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(looking, "LOOK_S", 0.2)
        type_, challenges = made()
        with web(at, lambda _: threading.Event().wait(0.6)):
            assert type_.ready(challenges)

    def test_a_name_without_an_address_is_said(self) -> None:
        class Nowhere(Here):
            def addresses(self, host: str) -> tuple[str, ...]:
                raise Misconfigured("dns.no_address", "none")

        type_ = Http01(Nowhere(Method("http-01", "")))
        assert type_.ready(made()[1]) == f"{HOST} has no address that this host finds"
