"""The library `requests`, for code of others that runs in a child process: what that code may do with it.

Only HTTPS, with a certificate that is trusted. No redirect is followed, and nothing is asked twice. Neither ~/.netrc
nor the environment counts, so there is no proxy and no other login. Each answer has a time limit and a greatest size.

An answer after which nothing can go on, or none at all, is an error at once, also if that code passes over it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from certagent.dns.providers.http import ANSWER_MAX_BYTES, error_of
from certagent.errors import Error, Misconfigured, Transient
from certagent.host import deadline
from certagent.host.files import read_trusted

_CHUNK_BYTES = 64 * 1024
"""How much is read before the size is checked again."""


class Seen:
    """What the service answered."""

    status: int = 0
    """Of the last answer."""
    refusal: Error | None = None
    """The last answer, if it was no success."""
    final: Error | None = None
    """The first trouble after which nothing can go on."""


@contextmanager
def confined(service: str, lost: str, rights: str, timeout_s: float, ca_file: str | None) -> Generator[Seen]:
    """Everything that is asked inside keeps the rules above. `lost` and `rights` are those of `http.Api`.

    Raises:
        Misconfigured: `store.path`: Of `ca_file`.
    """
    if ca_file:
        read_trusted(Path(ca_file))
    requests: Any = import_module("requests")
    original = requests.Session.request
    seen = Seen()

    def request(session: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        session.trust_env = False
        session.adapters.clear()  # drivers mount some that repeat what failed
        session.mount("https://", requests.adapters.HTTPAdapter())
        kwargs |= {"timeout": deadline.left(timeout_s), "allow_redirects": False, "stream": True}
        seen.status, seen.refusal = 0, None
        try:
            response = original(session, method, url, *args, **kwargs, verify=ca_file or True)
            _read(response, service, lost)
        except requests.RequestException as error:
            seen.final = seen.final or _unanswered(requests, error, service, lost)
            raise seen.final from None
        seen.status = response.status_code
        if not 200 <= seen.status < 300:
            retry_after = response.headers.get("Retry-After", "")
            seen.refusal = error_of(f"{service}: HTTP {seen.status}", seen.status, retry_after, lost, rights)
        if seen.refusal and (seen.status in (401, 403, 429) or not 400 <= seen.status < 500):
            seen.final = seen.final or seen.refusal
            raise seen.refusal
        return response

    requests.Session.request = request
    try:
        yield seen
    finally:
        requests.Session.request = original


def _read(response: Any, service: str, lost: str) -> None:
    """The body, kept in the answer as the library does it."""
    text = b""
    for part in response.iter_content(_CHUNK_BYTES):
        text += part
        if len(text) > ANSWER_MAX_BYTES:
            raise Transient(lost, f"{service}: an answer of more than {ANSWER_MAX_BYTES} bytes")
    response._content = text


def _unanswered(requests: Any, error: Exception, service: str, lost: str) -> Error:
    """No answer came, or not all of it."""
    match error:
        case requests.exceptions.SSLError():
            detail = f"{service}: the service shows a certificate that is not trusted, or speaks no TLS"
            return Misconfigured("dns.refused", detail, "if the API has a private CA, name it as ca_file")
        case requests.ConnectTimeout():  # nothing was sent
            return Transient("dns.unreachable", f"{service}: no connection in time")
        case requests.Timeout():
            return Transient(lost, f"{service}: no answer in time")
        case requests.ConnectionError():
            return Transient(lost, f"{service}: no connection, or it was closed")
        case _:
            return Transient(lost, f"{service}: no request that could be sent ({type(error).__name__})")
