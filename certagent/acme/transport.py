"""The conversation with one CA: directory, nonces, signatures; what comes back is an `Answer` or an Error.

Signing is the `acme` library's. Its ClientNetwork is not used: it loses the Retry-After of problem documents, takes
every 409 for an existing account, gives a bad nonce one retry, and reads answers of any size. Nothing is logged here,
and no Error carries what was sent. Safe for threads: one request at a time, nothing else happens inside the lock.

Standards: RFC 8555 sections 6 and 7.1 to 7.2, RFC 9457 (problem documents), RFC 9110 section 10.2.3 (Retry-After).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urljoin

import msgspec
from acme import jws
from josepy.errors import DeserializationError
from josepy.json_util import decode_b64jose
from josepy.jwa import JWASignature
from josepy.jwk import JWK
from msgspec import Struct

from certagent.acme.https import Https
from certagent.errors import AccountRefused, CaLimit, CaRefusal, CaUnavailable, Error, Transient, printable
from certagent.facts.retryafter import retry_after_s
from certagent.host import deadline
from certagent.pki.weburl import is_https, place

T = TypeVar("T")

ANSWER_MAX_BYTES = 256 * 1024
"""A chain is below 20 KiB, everything else smaller: more is no ACME."""
DETAIL_MAX_CHARS = 500
"""A CA's words go to the journal and the terminal."""
NONCE_TRIES = 20
"""RFC 8555 section 6.5: try again with the nonce of the refusal; at 60 % refusals 1 in 27000 gives up."""
DIRECTORY_MAX_AGE_S = 86400.0
"""A daemon lives for months, and CAs gain endpoints and profiles: look once a day."""
REDIRECTS_MAX = 5
"""A directory that has moved leads to the new one in one or two."""
RETRY_AFTER_MAX_S = 7 * 86400.0
"""The longest window of Let's Encrypt's limits; a larger wish is a mistake."""
ERROR_TYPE = "urn:ietf:params:acme:error:"  # RFC 8555 section 6.7


class Meta(Struct, rename="camel"):
    """What the directory says of the CA (RFC 8555 section 7.1.1; profiles: draft-ietf-acme-profiles)."""

    terms_of_service: str | None = None
    external_account_required: bool = False
    profiles: dict[str, str] = {}


class Directory(Struct, rename="camel"):
    """Where the CA's endpoints are (RFC 8555 section 7.1.1); no `renewal_info`: the CA has no ARI."""

    new_nonce: str
    new_account: str
    new_order: str
    revoke_cert: str
    renewal_info: str | None = None
    given_meta: Meta | None = msgspec.field(name="meta", default=None)

    @property
    def meta(self) -> Meta:
        """What it says of the CA; nothing if it is left out or null."""
        return self.given_meta or Meta()


class Identifier(Struct):
    """A name, or an address (RFC 8555 section 9.7.7)."""

    type: str
    value: str


class Subproblem(Struct):
    """What the CA has against one identifier (RFC 8555 section 6.7.1)."""

    type: str = "about:blank"  # RFC 9457 section 4.2: no more than the HTTP status
    detail: str = ""
    identifier: Identifier | None = None

    def __str__(self) -> str:
        name = f"{self.identifier.value}: " if self.identifier else ""
        return f"{name}{short(self.type)}: {self.detail}"


class Problem(Subproblem):
    """Why the CA refuses (RFC 9457)."""

    subproblems: tuple[Subproblem, ...] = ()
    instance: str = ""
    """A page about it (RFC 8555 section 7.3.3)."""

    def __str__(self) -> str:
        return "; ".join([super().__str__(), *map(str, self.subproblems)])


class Refusal(CaRefusal):
    """`ca.rejected` with the type of the problem document, without its prefix."""

    def __init__(self, detail: str, problem_type: str) -> None:
        super().__init__("ca.rejected", detail, "the CA's words say what it wants changed")
        self.type = problem_type


@dataclass(frozen=True, repr=False)
class Signer:
    """A private key and the algorithm that goes with it."""

    key: JWK
    key_type: JWASignature


@dataclass(frozen=True)
class Answer:
    """An answer of the CA; a bad status has become an Error before."""

    place: str
    """Host and path of the request."""
    status: int
    headers: Mapping[str, str]
    body: bytes

    def read(self, kind: type[T]) -> T:
        """The body as JSON. Unknown fields are ignored (RFC 8555 section 7.1).

        Raises:
            Transient: `ca.garbage`.
        """
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self.garbage(clean(str(error))) from None

    @property
    def location(self) -> str:
        """The URL of what was made.

        Raises:
            Transient: `ca.garbage`.
        """
        url = self.headers.get("Location")
        if not url:
            raise self.garbage("no Location")
        if not is_https(url):  # it goes into the journal
            raise self.garbage(f"Location: {place(url)}: no https URL")
        return url

    @property
    def retry_after_s(self) -> float | None:
        """Seconds or a date (RFC 9110 section 10.2.3); None if absent or unreadable."""
        return retry_after_s(self.headers.get("Retry-After", ""), datetime.now(UTC), RETRY_AFTER_MAX_S)

    def garbage(self, why: str) -> Transient:
        """The Error for an answer that is no ACME."""
        return CaUnavailable("ca.garbage", f"{self.place}: not an ACME answer (HTTP {self.status}): {why}")

    def problem(self) -> Error:
        """The Error for a bad status."""
        try:
            found = self.read(Problem)
        except Transient:
            found = None
        kind = short(found.type) if found else ""
        text = clean(f"{self.place}: {found or f'HTTP {self.status}'}")
        if kind == "rateLimited" or self.status == 429:
            hint = "wait; where the CA names a page, the account is paused until you visit it"
            return CaLimit("ca.rate_limited", text, hint, retry_after_s=self.retry_after_s)
        if self.status >= 500:
            return CaUnavailable("ca.busy", text, retry_after_s=self.retry_after_s)
        if kind in ("", "about:blank") and self.status not in (
            404,
            410,
        ):  # Pebble says no more than this of an unknown order
            return self.garbage("no problem document")
        if kind in ("userActionRequired", "externalAccountRequired"):  # RFC 8555 sections 7.3.3 and 7.3.4
            pages = " and ".join(self._pages(found.instance if found else ""))
            hint = f"visit {pages}" if pages else "log in at the CA's website"
            return AccountRefused("ca.account", text, f"the CA wants something of the account's owner: {hint}")
        return Refusal(text, kind)

    def _pages(self, instance: str) -> list[str]:
        """Where the account's owner is to go, and the new terms of service (RFC 8555 section 7.3.3)."""
        return [url for url in dict.fromkeys((instance, *self.links("terms-of-service"))) if is_https(url)]

    def links(self, relation: str) -> list[str]:
        """The https URLs that it links to, by their relation (RFC 8288 section 3)."""
        found = _LINK.findall(self.headers.get("Link", "")[:_LINKS_MAX_CHARS])
        urls = [url.strip() for url, parameters in found if relation in _relations(parameters)]
        return [url for url in dict.fromkeys(urls) if is_https(url)]


_LINKS_MAX_CHARS = 8 * 1024
"""All headers of an answer are shorter in practice."""
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_RELATION = re.compile(r";\s*rel\s*=\s*\"?([^\";,]*)", re.IGNORECASE)


def _relations(parameters: str) -> list[str]:
    found = _RELATION.search(parameters)
    return found[1].lower().split() if found else []


class Transport:
    """Requests to one CA. What a request may take, and what of the environment counts: see `Https`."""

    def __init__(self, directory: str, https: Https) -> None:
        self._url = directory
        self._https = https
        self._lock = threading.RLock()
        self._nonce: str | None = None
        self._directory: Directory | None = None
        self._read_at = 0.0

    def directory(self) -> Directory:
        """The CA's endpoints, asked for once a day."""
        with self._alone():
            now = time.monotonic()
            if self._directory is None or now - self._read_at > DIRECTORY_MAX_AGE_S:
                self._directory = self.get(self._url).read(Directory)
                self._read_at = now
            return self._directory

    def get(self, url: str) -> Answer:
        """A request without a signature: the directory and ARI."""
        return self._request("GET", url)

    def post(self, url: str, payload: bytes, signer: Signer, account: str | None, accept: str = "*/*") -> Answer:
        """A signed request; no payload is POST-as-GET (RFC 8555 section 6.3), no account sends the public key."""
        for _ in range(NONCE_TRIES):
            try:
                return self._post_once(url, payload, signer, account, accept)
            except Refusal as refusal:
                if refusal.type != "badNonce":
                    raise
        raise CaUnavailable("ca.busy", f"{place(url)}: refuses every nonce, its own included")

    def _post_once(self, url: str, payload: bytes, signer: Signer, account: str | None, accept: str) -> Answer:
        with self._alone():
            signed = jws.JWS.sign(payload, signer.key, signer.key_type, self._take_nonce(), url, account)
            headers = {"Content-Type": "application/jose+json", "Accept": accept}
            return self._request("POST", url, signed.json_dumps().encode(), headers)

    def _take_nonce(self) -> bytes:
        """The nonce of the last answer, or a new one; each is used once (RFC 8555 section 6.5)."""
        if self._nonce is None:
            answer = self._request("HEAD", self.directory().new_nonce)
            if self._nonce is None:
                raise answer.garbage("no nonce")
        nonce, self._nonce = self._nonce, None
        return decode_b64jose(nonce)

    def _request(self, method: str, url: str, data: bytes | None = None, headers: Mapping[str, str] = {}) -> Answer:
        with self._alone():
            answer = self._send(method, url, data, headers)
            self._nonce = _nonce(answer) or self._nonce
        if not 200 <= answer.status < 300:
            raise answer.problem()
        return answer

    def _send(self, method: str, url: str, data: bytes | None, headers: Mapping[str, str]) -> Answer:
        """The answer of the CA. A redirected POST would arrive without its body: only a GET follows redirects."""
        answer = self._ask(method, url, data, headers)
        for _ in range(REDIRECTS_MAX if method == "GET" else 0):
            to = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or to is None:
                break
            try:
                url = urljoin(url, to)
            except ValueError:
                raise answer.garbage("its redirect names no URL") from None
            answer = self._ask(method, url, data, headers)
        return answer

    def _ask(self, method: str, url: str, data: bytes | None, headers: Mapping[str, str]) -> Answer:
        where = place(url)
        if not is_https(url):
            raise CaUnavailable("ca.garbage", f"{where}: the CA gave this as a URL, and it is no https URL")
        response = self._https.request(method, url, data, headers, place=where, limit_bytes=ANSWER_MAX_BYTES)
        answer = Answer(where, response.status, response.headers, response.body)
        if len(answer.body) > ANSWER_MAX_BYTES:
            raise answer.garbage(f"longer than {ANSWER_MAX_BYTES} bytes")
        return answer

    @contextmanager
    def _alone(self) -> Generator[None]:
        """One request at a time; the others wait for it, but not beyond the end of their step."""
        while not self._lock.acquire(timeout=deadline.left(threading.TIMEOUT_MAX)):
            pass
        try:
            yield
        finally:
            self._lock.release()


_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def short(problem_type: str) -> str:
    """The type of an ACME problem without its prefix (RFC 8555 section 6.7)."""
    return problem_type.removeprefix(ERROR_TYPE)


def clean(text: str) -> str:
    """Fit to be printed: one line without control characters, of bounded length."""
    line = " ".join(printable(text[: 4 * DETAIL_MAX_CHARS]).split())
    return line if len(line) <= DETAIL_MAX_CHARS else line[: DETAIL_MAX_CHARS - 1] + "…"


def _nonce(answer: Answer) -> str | None:
    """An unreadable nonce is ignored (RFC 8555 section 6.5.1)."""
    nonce = answer.headers.get("Replay-Nonce", "")
    try:
        return nonce if decode_b64jose(nonce) else None
    except DeserializationError:
        return None
