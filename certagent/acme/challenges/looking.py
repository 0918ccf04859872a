"""Whether this host sees a response as a CA would: a warning, never a gate, for a CA looks from elsewhere.

Nothing that is met is trusted: certificates are not verified, as a CA does not (RFC 8555 section 8.3), and what is
read has a limit in time and size.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urljoin, urlsplit

from certagent.acme.challenges.protocol import Means
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
"""Side by side: more at once would be a burden for the web servers that are asked."""


def not_seen(challenges: Sequence[Challenge], means: Means, look: Callable[[Challenge, str], str]) -> str:
    """Looks for each at every address, side by side. In words what is not there; "": all is."""
    places = [(one, address) for one in challenges for address in _addresses(one, means)]

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


def _addresses(challenge: Challenge, means: Means) -> tuple[str, ...]:
    """Where the CA may look; one that is empty if DNS gives none."""
    try:
        return means.addresses(challenge.identifier)
    except Error:
        return ("",)


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
                is_tls = parts.scheme == "https"
                client.sock = _trusting().wrap_socket(sock, server_hostname=parts.hostname) if is_tls else sock
                client.request("GET", parts.path, headers={"Connection": "close"})
                answer = client.getresponse()
                if answer.status not in {301, 302, 303, 307, 308}:
                    return _judged(answer, wanted)
                url = urljoin(url, answer.headers.get("Location", ""))
        return f"more than {_REDIRECTS} redirects"


def certificate(host: str, address: str, port: int, protocol: str) -> bytes | None:
    """The certificate that is shown to who speaks this protocol (ALPN), in DER; None if another one is spoken."""
    context = _trusting()
    context.set_alpn_protocols([protocol])
    with deadline.cutting(LOOK_S) as cut:
        sock = deadline.connected(address, port, LOOK_S)
        cut.add(sock.fileno())
        with sock, context.wrap_socket(sock, server_hostname=host) as shown:
            return shown.getpeercert(binary_form=True) if shown.selected_alpn_protocol() == protocol else None


def _judged(answer: http.client.HTTPResponse, wanted: str) -> str:
    if answer.status != 200:
        return f"it answers {answer.status}"
    # trailing whitespace is ignored (RFC 8555 section 8.3)
    body = answer.read(_PAGE_BYTES).decode("utf-8", "replace").rstrip()
    return "" if body == wanted else f"it gives another page: {body[:60]!r}"


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
