"""One request to the HTTP API of a DNS service: its answer, or one of the four kinds of error.

The token is for this one server. So no redirect is followed, no proxy is used, and nothing of the environment counts
(`http.client` knows none of these). Plain HTTP is refused beyond this host. Nothing that was sent, and no answer, is
ever logged; an error shows only the field in which the service says what is wrong.

A request ends within its `timeout` as a whole, also from a server that sends a byte a minute: see `host/deadline.py`.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from certagent import __version__
from certagent.dns.message import one_of_zones
from certagent.dns.presentation import label_of
from certagent.dns.providers.program import printable
from certagent.dns.providers.protocol import Timed, zones_of
from certagent.errors import Error, Misconfigured, Rejected, Transient, Usage
from certagent.facts.duration import Duration
from certagent.facts.retryafter import retry_after_s
from certagent.host.deadline import connected, cutting
from certagent.host.files import read_private, read_trusted
from certagent.pki import endpoint

T = TypeVar("T")

ANSWER_MAX_BYTES = 16 * 1024 * 1024
"""A page of records is some 100 kB. PowerDNS before 4.6 answers with the whole zone, and knows no smaller question."""
RETRY_AFTER_MAX_S = 86400.0
"""The longest window of the known services is a day; a larger wish is a mistake."""
SECRET_MIN_CHARACTERS = 8
"""What is shorter, such as a customer's number, is no token, and may be in any word."""
TOKEN_MAX_BYTES = 64 * 1024
"""Tokens have up to some kB (JSON Web Tokens); this is none."""


class HttpOptions(Timed, frozen=True, kw_only=True):
    """What every provider with an HTTP API has."""

    url: str
    """Where the API is."""
    zones: tuple[str, ...]
    """The zones that this provider writes. A name is in the longest zone that ends it."""
    token_file: str
    """File with the token alone; nobody but its owner (root or certagent's user) may read it."""
    timeout: Duration = "30s"
    """How long one request may take as a whole."""
    ca_file: str | None = None
    """PEM file with the CA of the API's own certificate; none: the system's."""


class Answer(Struct, frozen=True):
    """A status, and the JSON with it (None if there is none)."""

    status: int
    data: Any
    place: str
    """The service, and its host."""
    lost: str
    """The code if the JSON is not what the service's own description promises."""
    cookies: str = ""
    """What it sets as cookies, as they are sent back (RFC 6265 section 4.2); without their attributes."""

    def read(self, kind: type[T]) -> T:
        """The JSON as that type. Unknown fields are passed over.

        Raises:
            Transient: `lost`.
        """
        try:
            return msgspec.convert(self.data, kind)
        except msgspec.ValidationError as error:
            raise Transient(self.lost, printable(f"{self.place}: an answer that is not understood: {error}")) from None


def token(path: str) -> str:
    """The one line of a private file.

    Raises:
        Usage: `secret.mode`, `secret.file`.
        Misconfigured: `store.path`.
    """
    text = read_private(Path(path), TOKEN_MAX_BYTES).decode("utf-8", "replace").strip()
    if not text or not text.isascii() or not text.isprintable():
        detail = f"{path} holds no token: expected one line of printable ASCII"
        raise Usage("secret.file", detail, "write the token alone into it, without quotes")
    return text


def credentials(path: str, *names: str, perhaps: tuple[str, ...] = ()) -> dict[str, str]:
    """What a private file says in lines such as `name = value`, for services that want more than a token.

    `perhaps` are those that may be left out.

    Raises:
        Usage: `secret.mode`, `secret.file`.
        Misconfigured: `store.path`.
    """
    text = read_private(Path(path), TOKEN_MAX_BYTES).decode("utf-8", "replace")
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = (part.strip() for part in line.partition("="))
        if equals and not name.startswith("#"):
            found[name] = value
    wanted = ", ".join(f"{name} = …" for name in names)
    found = {name: found[name] for name in (*names, *perhaps) if found.get(name)}
    if not set(names) <= set(found) or not all(map(str.isprintable, found.values())):
        raise Usage("secret.file", f"{path} has not all that is needed", f"a line for each: {wanted}")
    return found


def checked(service: str, url: str) -> SplitResult:
    """The parts of a URL to which a token may be sent.

    Raises:
        Misconfigured: `dns.options`.
    """
    parts = urlsplit(url)
    try:
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.username or parts.query or parts.fragment:
        raise Misconfigured("dns.options", f"{service}: {printable(url)} is no URL of an API", "https://host/path")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        detail = f"{service}: {printable(url)} is not https, and not on this host: anybody could read the token"
        raise Misconfigured("dns.options", detail, "use https, or an address of the loopback")
    return parts


class Api:
    """The API of one service, for one account."""

    def __init__(  # noqa: PLR0913 -- all but three by keyword
        self,
        service: str,
        url: str,
        headers: Callable[[str, str, bytes], Mapping[str, str]],
        *,
        words: Callable[[Any], str],
        rights: str,
        timeout_s: float,
        ca_file: str | None = None,
        denials: tuple[str, ...] = (),
        later: tuple[str, ...] = (),
        secrets: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`headers` gives those of each request (method, URL, body), the token among them. `words` finds what the
        service says in the JSON of an error. `rights` is the hint where the service refuses the token. `denials` are
        words in what it says, in lower case, that speak of token, rights or zone whatever the status is; `later` of
        what passes. `secrets` are shown in no error, also if the service says them.

        Raises:
            Misconfigured: `dns.options`.
        """
        parts = checked(service, url)
        self._service = service
        self._host, self._port = parts.hostname or "", parts.port
        self._tls = parts.scheme == "https"
        self._place = f"{parts.scheme}://{parts.netloc}"
        self._path = parts.path.rstrip("/")
        self._headers = headers
        self._words = words
        self._rights = rights
        self._denials = denials
        self._later = later
        self._secrets = secrets
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        self._tls_context: ssl.SSLContext | None = None

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str | int] | str = {},
        accept: tuple[int, ...] = (),
        lost: str = "",
        cookies: str = "",
    ) -> Answer:
        """The answer, if its status is 2xx or in `accept`. A `query` that is text is sent as it is.

        `lost` is the code if no answer comes. Unless it is given, it is `dns.unreachable` for GET; for the others it is
        `dns.unknown_outcome`, because the service may have done what was asked.

        Raises:
            Error: As in `Provider`; `dns.rate_limited` (Transient) if the service wants fewer requests.
        """
        lost = lost or ("dns.unreachable" if method == "GET" else "dns.unknown_outcome")
        target = self._path + quote(path, safe="/:@!$&'()*+,;=~")
        if query:
            target += f"?{query if isinstance(query, str) else urlencode(query)}"
        status, headers, text = self._exchange(method, target, body, lost, cookies)
        try:
            data = msgspec.json.decode(text) if text.strip() else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if 200 <= status < 300:
                raise self._lost(lost, f"HTTP {status} with something else than JSON") from None
            data = None
        if 200 <= status < 300 or status in accept:
            cookies = "; ".join(line.partition(";")[0] for line in headers.get_all("Set-Cookie", []))
            return Answer(status, data, f"{self._service} ({self._host})", lost, cookies)
        raise self._refused(status, data, headers.get("Retry-After", ""), lost)

    def wrong(self, detail: str, hint: str = "") -> Misconfigured:
        """Key, rights or zone are not right."""
        return Misconfigured("dns.refused", self.said(detail), hint or self._rights)

    def denied(self, words: str) -> bool:
        """The service's words speak of key, rights or zone."""
        return any(one in words.lower() for one in self._denials)

    def said(self, words: str) -> str:
        """The service's own words, fit to be printed: some repeat what they were sent."""
        with suppress(Error):  # a file that cannot be read now was not sent
            for secret in self._secrets():
                words = words.replace(secret, "…") if len(secret) >= SECRET_MIN_CHARACTERS else words
        return printable(f"{self._service}: {words}")

    def _lost(self, code: str, detail: str) -> Transient:
        return Transient(code, printable(f"{self._service} ({self._host}): {detail}"))

    def _exchange(self, method: str, target: str, body: object, lost: str, cookies: str) -> tuple[int, Message, bytes]:
        """Status, headers, body."""
        headers = {"User-Agent": f"certagent/{__version__}", "Accept": "application/json", "Connection": "close"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = msgspec.json.encode(body), "application/json"
        if cookies:
            headers["Cookie"] = cookies
        headers |= self._headers(method, self._place + target, data or b"")
        connection = http.client.HTTPConnection(self._host, self._port or (443 if self._tls else 80))
        sent, over = False, f"no answer within {self._timeout_s:g} s"
        stack = ExitStack()
        cut = stack.enter_context(cutting(self._timeout_s))
        try:
            with stack:
                connection.sock = connected(self._host, connection.port, self._timeout_s)
                cut.add(connection.sock.fileno())
                if self._tls:
                    connection.sock = self._context().wrap_socket(connection.sock, server_hostname=self._host)
                sent = True
                connection.request(method, target, data, headers)
                response = connection.getresponse()
                text = response.read(ANSWER_MAX_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            detail = f"{self._host} shows a certificate that is not trusted: {error.verify_message}"
            raise self.wrong(detail, "if the API has a private CA, name it as ca_file") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else "") or "no answer that is HTTP"
            late = isinstance(error, TimeoutError) or cut.over
            raise self._lost(lost if sent else "dns.unreachable", over if late else why) from None
        finally:
            connection.close()
        if cut.over:
            raise self._lost(lost, over)
        if len(text) > ANSWER_MAX_BYTES:
            raise self._lost(lost, f"an answer of more than {ANSWER_MAX_BYTES} bytes")
        return response.status, response.headers, text

    def _context(self) -> ssl.SSLContext:
        if self._tls_context is None:
            self._tls_context = _context(self._ca_file)
        return self._tls_context

    def _refused(self, status: int, data: Any, retry_after: str, lost: str) -> Error:
        said = ""
        with suppress(LookupError, TypeError, ValueError, AttributeError):  # whatever its shape, it is an error's
            said = self._words(data)
        detail = self.said(f"HTTP {status} {said}".rstrip())
        if self.denied(said):
            return Misconfigured("dns.refused", detail, self._rights)
        if any(words in said.lower() for words in self._later):
            return Transient(lost, detail)
        return error_of(detail, status, retry_after, lost, self._rights)


def error_of(detail: str, status: int, retry_after: str, lost: str, rights: str) -> Error:
    """What an HTTP status that is no success means. `lost` and `rights` are those of `Api`."""
    if status in (401, 403):
        return Misconfigured("dns.refused", detail, rights)
    wait_s = retry_after_s(retry_after, datetime.now(UTC), RETRY_AFTER_MAX_S)
    if status == 429:
        return Transient("dns.rate_limited", detail, "it is tried again by itself, later", retry_after_s=wait_s)
    if status in (400, 405, 406, 409, 410, 413, 415, 422):
        return Rejected("dns.rejected", detail)
    if 300 <= status < 500 and status != 408:
        return Misconfigured("dns.refused", detail, "see that the zone is in this account, and that `url` is right")
    return Transient(lost, detail, retry_after_s=wait_s)


def _context(ca_file: str | None) -> ssl.SSLContext:
    """TLS that verifies chain and name. Python's default context would write its keys to SSLKEYLOGFILE."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not ca_file:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cadata=read_trusted(Path(ca_file)).decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise Misconfigured("dns.options", f"{ca_file} holds no certificate in PEM", "name another ca_file") from None
    return context


def _is_loopback(host: str) -> bool:
    try:
        return endpoint.is_loopback(host)
    except ValueError:
        return host == "localhost"


class HttpProvider:
    """What providers with an HTTP API have in common: their zones, the API, and the login of each request.

    Raises:
        Usage: At construction: `secret.mode`, `secret.file`.
        Misconfigured: At construction: `dns.options`; later: `dns.no_zone`.
    """

    SERVICE: ClassVar[str]
    RIGHTS: ClassVar[str]
    """The hint if the service refuses the login."""
    DENIALS: ClassVar[tuple[str, ...]] = ()
    LATER: ClassVar[tuple[str, ...]] = ()
    """See `Api`."""
    SECRETS: ClassVar[tuple[str, ...]] = ()
    """What the token file has, by name, if it is more than a token."""
    PERHAPS: ClassVar[tuple[str, ...]] = ()
    """What else it may have."""

    def __init__(self, options: HttpOptions) -> None:
        self.zones = zones_of(options.zones)
        self._token_file = options.token_file
        self._secrets()  # a file that cannot be used is found at once
        self._api = Api(
            self.SERVICE,
            options.url,
            self._signed,
            words=self._words,
            rights=self.RIGHTS,
            timeout_s=options.timeout_s,
            ca_file=options.ca_file,
            denials=self.DENIALS,
            later=self.LATER,
            secrets=lambda: self._secrets().values(),
        )

    def _secrets(self) -> dict[str, str]:
        """Read anew for each request, so that a new token needs no restart."""
        if self.SECRETS:
            return credentials(self._token_file, *self.SECRETS, perhaps=self.PERHAPS)
        return {"token": token(self._token_file)}

    def _headers(self) -> Mapping[str, str]:
        """Those of the login (RFC 6750 section 2.1)."""
        return {"Authorization": f"Bearer {self._secrets()['token']}"}

    def _signed(self, method: str, url: str, body: bytes) -> Mapping[str, str]:  # noqa: ARG002
        """Those of the login, for services that want each request signed."""
        return self._headers()

    def _words(self, data: Any) -> str:
        """What the service says in the JSON of an error; any exception means that it says nothing."""
        return str(data["message"])

    def _located(self, name: str) -> tuple[str, str]:
        """The zone without the final dot, and the name without the zone; `@` for the zone itself."""
        zone = one_of_zones(name, self.zones)
        return zone.rstrip("."), label_of(name, zone)
