"""Whether this host sees a response as a CA would: a warning, never a gate, for a CA looks from elsewhere.

Nothing that is met is trusted: certificates are not verified, as a CA does not (RFC 8555 section 8.3), and what is
read has a limit in time and size.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urljoin, urlsplit

from certagent.errors import Error, printable
from certagent.facts.challenge import Challenge
from certagent.host import deadline

LOOK_S = 10.0
"""For one response at one address: as long as Boulder gives a web server."""
_REDIRECTS = 10
"""As many as Let's Encrypt follows, to these ports only."""
_PORTS = {"http": 80, "https": 443}
_PAGE_BYTES = 4096
"""A key authorization has some ninety."""
_WORKERS = 8


def addresses(challenge: Challenge, of: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    """Where the CA may look; one that is empty if DNS gives none."""
    try:
        return of(challenge.identifier)
    except Error:
        return ("",)


def not_seen(places: Sequence[tuple[Challenge, str]], look: Callable[[Challenge, str], str]) -> str:
    """Looks at every place, side by side. In words what is not there; "": all is."""

    def one(place: tuple[Challenge, str]) -> str:
        challenge, address = place
        if not address:
            return f"{challenge.identifier} has no address that this host finds"
        try:
            why = look(challenge, address)
        except (OSError, ValueError, http.client.HTTPException, Error) as error:
            why = str(error) or type(error).__name__
        return printable(f"{challenge.identifier} at {address}: {why}"[:300]) if why else ""

    if not places:
        return ""
    with ThreadPoolExecutor(min(_WORKERS, len(places))) as pool:
        return "; ".join(dict.fromkeys(filter(None, pool.map(deadline.carried(one), places))))


def page(url: str, address: str, wanted: str) -> str:
    """Whether the page is there. Redirects are followed; to another host by this system's own resolver."""
    first = urlsplit(url).hostname
    with deadline.cutting(LOOK_S) as cut:
        for _ in range(_REDIRECTS + 1):
            parts = urlsplit(url)
            if parts.scheme not in _PORTS or parts.port not in {None, *_PORTS.values()} or not parts.hostname:
                return f"it leads to {url}, where no CA looks"
            at = address if parts.hostname == first else parts.hostname
            sock = deadline.connected(at, parts.port or _PORTS[parts.scheme], LOOK_S)
            cut.add(sock.fileno())
            with closing(http.client.HTTPConnection(parts.hostname, parts.port)) as client:
                client.sock = _wrapped(sock, parts.hostname) if parts.scheme == "https" else sock
                client.request("GET", parts.path, headers={"Connection": "close"})
                answer = client.getresponse()
                if answer.status not in {301, 302, 303, 307, 308}:
                    return _judged(answer, wanted)
                url = urljoin(url, answer.headers.get("Location", ""))
        return f"more than {_REDIRECTS} redirects"


def _judged(answer: http.client.HTTPResponse, wanted: str) -> str:
    if answer.status != 200:
        return f"it answers {answer.status}"
    # trailing whitespace is ignored (RFC 8555 section 8.3)
    body = answer.read(_PAGE_BYTES).decode("utf-8", "replace").rstrip()
    return "" if body == wanted else f"it gives another page: {body[:60]!r}"


def _wrapped(sock: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock, server_hostname=host)
