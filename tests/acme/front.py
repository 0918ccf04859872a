"""An HTTPS server between a client and a CA that notes every request and breaks what it is told to break."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.lab import certificates

ADDRESS = "127.0.0.1"
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def problem(status: int, kind: str, detail: str = "no", **headers: str) -> Reply:
    """A problem document; retry_after="3" becomes the header Retry-After."""
    body = json.dumps({"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail}).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, body, {"Content-Type": "application/problem+json", **names})


Forward = Callable[[], Reply]
Rule = Callable[[Forward], Reply | None]
"""What happens to a request; None cuts the connection. `forward` has the CA do its work."""


def answer(reply: Reply) -> Rule:
    return lambda forward: reply


def drop(forward: Forward) -> Reply | None:
    """The CA never hears of it."""
    return None


def lost(forward: Forward) -> Reply | None:
    """The CA does the work, the answer never arrives."""
    forward()
    return None


def garbled(forward: Forward) -> Reply | None:
    forward()
    return Reply(200, b"<html>all is well</html>", {"Content-Type": "text/html"})


def changed(**values: Any) -> Rule:
    """The CA's answer with other values in its JSON."""

    def change(forward: Forward) -> Reply:
        reply = forward()
        return Reply(reply.status, json.dumps(json.loads(reply.body) | values).encode(), reply.headers)

    return change


class Front:
    """Use as a context manager. `upstream`: the CA's directory URL, and the CA of its certificate."""

    def __init__(self, place: Path, upstream: tuple[str, Path] | None = None) -> None:
        self.requests: list[str] = []
        self.connections = 0
        self.posted: list[bytes] = []
        """Bodies of the POST requests, as signed."""
        self._upstream = upstream
        self._rules: list[tuple[str, Rule, bool]] = []
        ca = certificates.make(["front CA"], ca=True)
        pair = certificates.make(["front"], [ADDRESS], ca)
        self.ca_bundle = place / "front-ca.pem"
        self.ca_bundle.write_bytes(ca.certificate_pem)
        (place / "front.pem").write_bytes(pair.chain_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place / "front.pem")
        self._server = _Server((ADDRESS, 0), _handler(self))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"{ADDRESS}:{self._server.server_address[1]}"
        self.url = f"https://{self.host}"

    @property
    def directory(self) -> str:
        return self.url + (urlsplit(self._upstream[0]).path if self._upstream else "/dir")

    def once(self, path: str, *rules: Rule) -> None:
        """The next requests whose path starts with `path` meet these rules, one each."""
        self._rules += [(path, rule, True) for rule in rules]

    def always(self, path: str, rule: Rule) -> None:
        """Requests whose path starts with `path` meet this rule, after those of once()."""
        self._rules.append((path, rule, False))

    def count(self, path: str) -> int:
        return sum(path in request for request in self.requests)

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        self.requests.append(f"{method} {path}")
        if method == "POST":
            self.posted.append(body)

        def forward() -> Reply:
            assert self._upstream, f"nothing is scripted for {path}"
            url = urlsplit(self._upstream[0])
            context = ssl.create_default_context(cafile=self._upstream[1])
            upstream = http.client.HTTPSConnection(url.netloc, context=context, timeout=10)
            try:
                upstream.request(method, path, body or None, dict(headers))
                response = upstream.getresponse()
                kept = {name: value for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP}
                return Reply(response.status, response.read(), kept)
            finally:
                upstream.close()

        matching = [entry for entry in self._rules if path.startswith(entry[0])]
        if not matching:
            return forward()
        entry = next((one for one in matching if one[2]), matching[0])
        if entry[2]:
            self._rules.remove(entry)
        return entry[1](forward)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust the certificate is part of the tests."""


def _handler(front: Front) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one segment for head and body

        def setup(self) -> None:
            front.connections += 1
            super().setup()

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            reply = front.reply(self.command, self.path, dict(self.headers.items()), body)
            if reply is None:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_HEAD = do_POST = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    return Handler
