"""`http-01`: the response is a page on port 80 (RFC 8555 section 8.3).

A web server of this host gives it from a file, or passes its path to certagent; without one certagent takes port 80
itself, while the CA looks and no longer.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from certagent.acme.challenges import looking
from certagent.acme.challenges.protocol import Means, Offer, listens
from certagent.errors import CaRefusal
from certagent.facts.challenge import Challenge
from certagent.host import webfiles
from certagent.host.listener import Answers

PORT = 80
BELOW = (".well-known", "acme-challenge")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,128}")
"""At least 128 bits in base64url (RFC 8555 section 8.1). It becomes the name of a file."""
REQUEST_BYTES = 8192
"""Of its head. That of a CA has some hundred; this is what web servers take."""
_REMEDY = (
    "let that web server answer: `webroot` under `challenge` is its directory; or let it pass "
    "/.well-known/acme-challenge/ on, and `listen` there"
)


class Http01:
    """A ChallengeType."""

    remedy = "look at port 80 of every address of the name from outside: firewall, AAAA records, the web server's rules"

    def __init__(self, means: Means) -> None:
        self._means = means

    @staticmethod
    def respond(offer: Offer) -> Challenge:
        """The key authorization, at the path of the token."""
        if not _TOKEN.fullmatch(offer.token):
            raise CaRefusal("ca.rejected", f"{offer.identifier}: the CA's token is none: {offer.token[:200]!r}")
        url = f"http://{offer.identifier}{path(offer.token)}"
        return Challenge("http-01", offer.identifier, url, offer.key_authorization, offer.method.webroot)

    def present(self, challenges: Sequence[Challenge]) -> None:
        """Place the files. Where there are none, see that the port is free before the CA hears of it."""
        for one in challenges:
            if one.webroot:
                webfiles.place(Path(one.webroot), BELOW, _token(one), one.value.encode())
        with self.serving(challenges):
            pass

    def serving(self, challenges: Sequence[Challenge]) -> AbstractContextManager[None]:
        """Answer at the port, for those without a file."""
        answers = {path(_token(one)): one.value.encode() for one in challenges if not one.webroot}
        if not answers:
            return nullcontext()
        listen = listens(self._means.method, PORT)
        return self._means.listeners.answering(listen, talk, answers, _REMEDY)

    def ready(self, challenges: Sequence[Challenge]) -> str:
        """Look as the CA does. It looks from elsewhere, so what is not seen is only said."""
        return looking.not_seen(
            challenges, self._means, lambda one, address: looking.page(one.name, address, one.value)
        )

    def clean_up(self, challenges: Sequence[Challenge]) -> None:
        """Remove the files."""
        for one in challenges:
            if one.webroot:
                webfiles.remove(Path(one.webroot), BELOW, _token(one))


def path(token: str) -> str:
    """Where the CA looks."""
    return f"/{'/'.join(BELOW)}/{token}"


def _token(challenge: Challenge) -> str:
    """As `respond` found it right; the journal is no place for surprises either."""
    token = challenge.name.rpartition("/")[2]
    if not _TOKEN.fullmatch(token):
        raise CaRefusal("ca.rejected", f"{challenge.identifier}: this is no token: {token[:200]!r}")
    return token


def talk(client: socket.socket, answers: Answers) -> None:
    """One request; who asks for anything else hears nothing."""
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > REQUEST_BYTES or not (more := client.recv(REQUEST_BYTES)):
            return
        head += more
    method, found = asked(head)
    body = answers.get(found)
    if body is None:
        return
    said = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(body)}"
    client.sendall(f"{said}\r\nConnection: close\r\n\r\n".encode() + (b"" if method == "HEAD" else body))
    client.shutdown(socket.SHUT_WR)
    client.recv(REQUEST_BYTES)  # until it has read: a close with something unread would throw the answer away


def asked(head: bytes) -> tuple[str, str]:
    """Method and path of a request (RFC 9112 section 3), both empty if it is none of GET and HEAD. Of a URL in full,
    as a proxy may send it, the path.
    """
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(words) != 3 or words[0] not in {"GET", "HEAD"} or not words[2].startswith("HTTP/1."):
        return "", ""
    target = words[1]
    if target[:7].lower() == "http://":
        target = f"/{target[7:].partition('/')[2]}"
    return words[0], target.partition("?")[0]
