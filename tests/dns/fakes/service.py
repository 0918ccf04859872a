"""The HTTPS server below every fake: it keeps what was asked, and goes wrong on request.

Limit, login and rights of a request come before what it asks for, as at every service.
"""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.lab import certificates

TOKEN = "the-token-of-the-test"


def private(path: Path, text: str) -> Path:
    """A file with secrets, as certagent wants it."""
    path.touch(0o600)
    path.write_text(text)
    return path


NULL = object()
"""The JSON value; a reply with None has no body."""
TEAPOT = 418
"""The request is not in the description of the API."""


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    target: str = ""
    """Path and query as they were sent."""
    text: bytes = b""
    """The body as it was sent."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request."""

    status: int = 0
    """Answered in place of what the service would say; 0: nothing is answered."""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    done: bool = False
    """What was asked for is done all the same. If nothing is answered, the connection is closed."""
    writes: bool = True
    """Meets the next request that may change something; otherwise the very next one."""
    drips: bool = False
    """A byte now and then, for ever."""
    hangs: bool = False
    """With `done`: it was done, and no answer comes; the connection stays open."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


Reply = tuple[int, Any] | tuple[int, Any, Mapping[str, str]]
"""Status, what becomes JSON (bytes are sent as they are; None: nothing), perhaps headers."""


def _text(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    return b"" if data is None else json.dumps(None if data is NULL else data).encode()


class Service:
    """One service with its state. A fake brings `answer`, `login`, and its own form of the refusals."""

    RETRY_AFTER_S: float | None = 17.0
    """How long `too_many` asks to wait, if it says so."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.written: Callable[[], None] = lambda: None
        """Called when a request that may change something was carried out, before it is answered."""
        self.arrived: Callable[[], None] = lambda: None
        """Called when such a request has come, before it is carried out."""
        self.allowed: int | None = None
        """How many requests it still takes before they are too many; None: it does not count."""
        self.may_write = True
        """What the token may."""
        self.zones: list[str] = []
        """Those of the account, without the final dot."""
        self.turn = threading.Lock()
        pair = certificates.make(["localhost"])
        self.ca_file = directory / "service.pem"
        self.ca_file.write_bytes(pair.chain_file)
        self.ca_file.chmod(0o600)
        self._over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://localhost:{self._server.server_address[1]}"

    def stop(self) -> None:
        """Ends it."""
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, asked: Asked) -> Reply:
        """What the service says."""
        raise NotImplementedError

    def login(self, asked: Asked) -> Reply | None:
        """What it says to a wrong login; None: it is right."""

    def forbidden(self) -> Reply:
        """What it says to a token that may not write."""
        return 403, None

    def too_many(self) -> Reply:
        """What it says to more requests than it takes. Without limits of its own, a proxy before it may say this."""
        return 429, None, {"Retry-After": "17"}

    def host(self, zone: str) -> Any:
        """One more zone in the account."""
        self.zones.append(zone)

    def put(self, name: str, rdtype: str, ttl_s: int, *contents: str) -> None:
        """Records of somebody else, in zone file syntax."""
        raise NotImplementedError

    def kept(self, name: str, rdtype: str, zone: str = "") -> list[str]:
        """What the service has there, as it writes it: each record once. `zone`: there, and not in the longest one."""
        raise NotImplementedError

    def located(self, name: str, zone: str = "") -> tuple[str, str]:
        """The zone of an absolute name, and the name in it; empty: the zone itself."""
        plain = name.rstrip(".")
        zone = zone or max((z for z in self.zones if f".{plain}".endswith(f".{z}")), key=len)
        return zone, plain.removesuffix(zone).rstrip(".")

    def body(self, kind: str | None, sent: bytes) -> Any:
        """What was sent, read. `kind` is its Content-Type.

        Raises:
            ValueError: It is not what the service takes.
        """
        if (kind or "").partition(";")[0] != "application/json":
            raise ValueError("not JSON")
        return json.loads(sent)

    def writes(self, asked: Asked) -> bool:
        """The request may change something."""
        return asked.method != "GET"

    def _fault(self, asked: Asked) -> Fault | None:
        for fault in self.faults:
            if not fault.writes or self.writes(asked):
                self.faults.remove(fault)
                return fault
        return None

    def _reply(self, asked: Asked) -> tuple[Fault | None, Reply]:
        writes = self.writes(asked)
        if writes:
            self.arrived()
        with self.turn:
            self.asked.append(asked)
            fault = self._fault(asked)
            if fault and not fault.done:
                return fault, (fault.status, None)
            reply = self._refusal(asked, writes=writes) or self.answer(asked)
        if writes:
            self.written()
        return fault, reply

    def _refusal(self, asked: Asked, *, writes: bool) -> Reply | None:
        if self.allowed is not None:
            self.allowed -= 1
            if self.allowed < 0:
                return self.too_many()
        return self.login(asked) or (self.forbidden() if writes and not self.may_write else None)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                sent = self.rfile.read(length)
                body: Any = None
                if sent:
                    try:
                        body = service.body(self.headers.get("Content-Type"), sent)
                    except ValueError:
                        self.send_error(415)
                        return
                query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
                asked = Asked(
                    self.command, unquote(parts.path), query, dict(self.headers.items()), body, self.path, sent
                )
                fault, reply = service._reply(asked)
                if fault:
                    self.fail(fault)
                    return
                status, data, *more = reply
                text = _text(data)
                self.say(status, text, more[0] if more else {})

            def say(self, status: int, text: bytes, headers: Mapping[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def fail(self, fault: Fault) -> None:
                if fault.drips:
                    while not service._over.wait(0.02):
                        try:
                            self.wfile.write(b"x")
                        except OSError:
                            return
                elif fault.status:
                    self.say(fault.status, fault.body, fault.headers)
                elif fault.hangs or not fault.done:
                    service._over.wait()  # silent, until the test is over

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        return Handler
