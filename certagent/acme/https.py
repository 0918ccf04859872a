"""One HTTPS request, bounded in time and size. What it does stands in the configuration alone.

Nothing of the environment counts: no `~/.netrc`, whose passwords would go to the CA; no variable for a proxy, for a CA
bundle, or for a file of TLS secrets (SSLKEYLOGFILE). An error says which side failed: the CA or the proxy.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, cast

import certifi
import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProxyError

from certagent.errors import CaUnavailable, Error, Misconfigured
from certagent.host import deadline
from certagent.host.files import read_trusted

SILENCES = 4
"""A whole request may take as long as so many of the longest silences within it."""


class Response(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """At most one byte more than was asked for."""


class Https:
    """Requests to the hosts of one CA, one at a time; a connection is kept from one to the next."""

    def __init__(self, *, ca_bundle: Path | None, proxy: str | None, timeout_s: float, user_agent: str) -> None:
        """`timeout_s`: the longest silence within a request. `proxy`: `http://host:port`."""
        self._ca_bundle = ca_bundle
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._headers = {"User-Agent": user_agent}  # RFC 8555 section 6.1
        self._connections: urllib3.PoolManager | None = None

    def request(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str], *, place: str, limit_bytes: int
    ) -> Response:
        """Sends it and reads the answer, whatever its status is. `place` names the URL in errors.

        Raises:
            CaUnavailable: `ca.unreachable`: No answer, or not all of it in time.
            CaUnavailable: `ca.garbage`: No host can have this name.
            CaUnavailable: `ca.proxy`: The proxy is away, or does not let it through.
            Misconfigured: `ca.account`: The CA bundle cannot be read, or somebody else may change it.
            Overdue: `step.overdue`: Nothing is left of the step.
        """
        total_s = deadline.left(SILENCES * self._timeout_s)
        hint = "check the network and the firewall; for a private CA its ca_bundle; if there must be a proxy, its proxy"
        response = None
        with _cutting(total_s) as cut:
            try:
                response = self._sent(method, url, data, headers, limit_bytes)
            except (HTTPError, OSError, ValueError) as error:  # ValueError: of a host name that cannot be
                self._connections = None  # the CA bundle may have been exchanged
                if not cut.over:
                    raise self._failed(place, error, hint) from None
        if response is None or cut.over:
            self._connections = None
            raise CaUnavailable("ca.unreachable", f"{place}: no end of its answer within {total_s:g} s", hint)
        return response

    def _sent(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str], limit_bytes: int
    ) -> Response:
        if self._connections is None:
            self._connections = self._pools()
        response = self._connections.request(
            method,
            url,
            body=data,
            headers={**self._headers, **headers},
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(self._timeout_s),
            preload_content=False,
            decode_content=False,  # none was asked for
        )
        body = response.read(limit_bytes + 1)
        if len(body) > limit_bytes:
            response.close()
        response.release_conn()
        return Response(response.status, response.headers, body)

    def _pools(self) -> urllib3.PoolManager:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the default context obeys SSLKEYLOGFILE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._ca_bundle is None:
            context.load_verify_locations(certifi.where())
        else:
            try:
                context.load_verify_locations(cadata=read_trusted(self._ca_bundle).decode("ascii", "replace"))
            except (ssl.SSLError, ValueError):  # ValueError: there is nothing in it
                what = f"the ca_bundle holds no certificates: {self._ca_bundle}"
                raise Misconfigured("ca.account", what, "name a PEM file") from None
            except Error as error:
                what = f"the ca_bundle cannot be read: {error.detail}"
                raise Misconfigured("ca.account", what, error.hint) from None
        pools = (
            urllib3.ProxyManager(self._proxy, ssl_context=context)
            if self._proxy
            else urllib3.PoolManager(ssl_context=context)
        )
        pools.pool_classes_by_scheme = {**pools.pool_classes_by_scheme, "https": _Pool}
        pools.key_fn_by_scheme.pop("http")  # RFC 8555 section 6.1: nothing but https
        return pools

    def _failed(self, place: str, error: Exception, hint: str) -> CaUnavailable:
        """In the system's own words: the library's may have too much in them."""
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            return CaUnavailable("ca.garbage", f"{place}: cannot be asked ({type(error).__name__})")
        chain: list[BaseException] = [error]
        while following := chain[-1].__cause__ or chain[-1].__context__:
            chain.append(following)
        inner = chain[-1]
        if isinstance(error, urllib3.exceptions.TimeoutError):
            why = "no answer in time"
        elif isinstance(inner, OSError) and inner is not error:  # gaierror, refused connections, TLS alerts
            why = inner.strerror or str(inner)
        else:  # named, not quoted
            why = type(error).__name__
        if self._proxy and (isinstance(error, ProxyError) or why.startswith("Tunnel connection failed")):
            what = f"{place}: the proxy {self._proxy}: {why}"
            return CaUnavailable("ca.proxy", what, "see that the proxy runs and lets this host through; ca.NAME.proxy")
        return CaUnavailable("ca.unreachable", f"{place}: {why}", hint)


_cut: ContextVar[deadline.Cut] = ContextVar("_cut")
"""Of the request that is under way in this thread."""


@contextmanager
def _cutting(limit_s: float) -> Generator[deadline.Cut]:
    with deadline.cutting(limit_s) as cut:
        token = _cut.set(cut)
        try:
            yield cut
        finally:
            _cut.reset(token)


class _Connection(HTTPSConnection):
    """One that can be cut from outside, from the first byte on: the proxy's, the handshake's, the answer's."""

    def _new_conn(self) -> socket.socket:
        connection = deadline.connected(self._dns_host, self.port, cast("float", self.timeout))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # head and body are two writes
        _cut.get().add(connection.fileno())
        return connection

    def request(self, *args: Any, **more: Any) -> None:
        if self.sock is not None:  # it may be kept from another request
            _cut.get().add(self.sock.fileno())
        super().request(*args, **more)


class _Pool(HTTPSConnectionPool):
    ConnectionCls = cast("Any", _Connection)
