"""Up to the point where TLS begins: the plain text of SMTP, IMAP, POP3, ManageSieve, on a connection with a deadline.

A server that refuses is reported with the meaning of its answer, and its own words. Nobody logs in, no mail is sent.
What comes is bounded: a line, the lines of one answer, and the time of all of it together.

Standards: RFC 3207 (SMTP), RFC 9051 section 6.2.1 (IMAP), RFC 2595 section 4 (POP3), RFC 5804 section 2.2
(ManageSieve).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from certagent.facts.tls import Mode

_LINE_LIMIT_BYTES = 8192
"""RFC 2683 section 3.2.1.5 has 8000 for IMAP, the longest; RFC 5321 section 4.5.3.1.5 has 512."""

_LINES_LIMIT = 100
"""Of one answer; a long EHLO reply has twenty."""

_CHUNK_BYTES = 16 << 10
"""One TLS record."""


class Unseen(Exception):
    """Why no certificate was seen. `answer`: see `Unknown.answer`."""

    def __init__(self, why: str, answer: str = "") -> None:
        super().__init__(why)
        self.answer = answer


class TurnedAway(Unseen):
    """It never came to TLS, so nothing is known of it: the server does not talk to this host."""


class Busy(TurnedAway):
    """Not for now, and maybe later: too many connections, or another trouble that passes."""


class Stream:
    """A connection whose every wait ends at one deadline (TimeoutError), however slowly the other side drips."""

    def __init__(self, address: str, port: int, deadline: float, source: str = "") -> None:
        """`source`: the address of this host to connect from; "": as the system chooses."""
        self.deadline = deadline
        self._buffer = b""
        self._socket = socket.create_connection((address, port), self._left(), (source, 0) if source else None)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def receive(self) -> bytes:
        """What comes next; b"" when the other side has closed."""
        self._socket.settimeout(self._left())
        return self._socket.recv(_CHUNK_BYTES)

    def send(self, data: bytes) -> None:
        """All of it."""
        self._socket.settimeout(self._left())
        self._socket.sendall(data)

    def line(self) -> bytes:
        """The next line, without its end."""
        while b"\n" not in self._buffer[:_LINE_LIMIT_BYTES]:
            if len(self._buffer) >= _LINE_LIMIT_BYTES:
                raise Unseen(f"a line of more than {_LINE_LIMIT_BYTES} bytes")
            received = self.receive()
            if not received:
                raise Unseen("connection closed before TLS")
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.removesuffix(b"\r")

    def pending(self) -> bytes:
        """What has come and was not read."""
        return self._buffer

    def own_address(self) -> str:
        """This host's, as the other side sees it where nothing translates."""
        return str(self._socket.getsockname()[0])


PROXY_V2_LOCAL: Final = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
"""The PROXY protocol, version 2, section 2.2: LOCAL, so the connection is the sender's own, and no address follows."""


def begin(stream: Stream, mode: Mode, *, ehlo: str = "", proxy: bool = False) -> None:
    """On return the next byte belongs to TLS.

    The greeting may take as long as the whole probe: postscreen and others make clients wait for it on purpose.
    `ehlo`: the name to give; "": this host's, or its address. `proxy`: begin with the PROXY protocol.

    Raises:
        Unseen: The service does not come to it.
    """
    if proxy:
        stream.send(PROXY_V2_LOCAL)
    match mode:
        case "smtp":
            _smtp(stream, ehlo or _own_name(stream))
        case "imap":
            _imap(stream)
        case "pop3":
            _pop3(stream)
        case "sieve":
            _sieve(stream)
        case "tls":
            pass
    if early := stream.pending():
        # RFC 3207 section 4.2 and its likes: what came in the clear must not be taken for what comes under TLS.
        raise in_the_clear(early)


def in_the_clear(received: bytes) -> Unseen:
    """What came where TLS begins is text: Dovecot says so that its key does not load, a port may not be for TLS, and
    an SMTP server that is busy says 421 at any time (RFC 5321 section 3.8).
    """
    words = _printable(received.partition(b"\n")[0].rstrip())
    if re.match("421[ -]", words):
        return _refused("greeting", _SMTP_MEANING["421"], words, busy=True)
    return _refused("TLS", "the server goes on in the clear", words)


GOODBYE: Final[Mapping[Mode, bytes]] = {
    "smtp": b"QUIT\r\n",
    "imap": b"a3 LOGOUT\r\n",
    "pop3": b"QUIT\r\n",
    "sieve": b"LOGOUT\r\n",
}
"""How to leave, under TLS. Behind `tls` there may be any protocol, so nothing is said."""


def _not_offered(stream: Stream) -> Unseen:
    """An answer to this host: others may be offered it (Exim's tls_advertise_hosts)."""
    why = "TLS is off in the server's settings or kept from this host, or it has no certificate"
    return Unseen(f"STARTTLS is not offered to {stream.own_address()}: {why}")


_TLS_REFUSED = "TLS not available: the server cannot use its certificate or key, or TLS is off"
_TURNED_AWAY = "it turns this host away: busy, shutting down, too many connections, or not allowed"


def _refused(asked: str, meaning: str, words: str, *, busy: bool = False) -> Unseen:
    kind = Busy if busy else Unseen if asked in ("STARTTLS", "STLS", "TLS") else TurnedAway
    answer = f"{asked}: {meaning}"
    return kind(f"{answer} (its own words: {words[:200]})", answer)


def _printable(text: bytes) -> str:
    """What a stranger sent, safe to log."""
    return re.sub(r"[^ -~]", "?", text[:160].decode("latin-1"))


# -- SMTP --------------------------------------------------------------------------------------------------------------


def _smtp(stream: Stream, name: str) -> None:
    _expect(stream, "220", "greeting")
    stream.send(f"EHLO {name}\r\n".encode())
    offers = _expect(stream, "250", "EHLO")
    if not any(line.upper().split()[:1] == ["STARTTLS"] for line in offers[1:]):
        raise _not_offered(stream)
    stream.send(b"STARTTLS\r\n")
    _expect(stream, "220", "STARTTLS")


_SMTP_MEANING = {
    "greeting 521": "this server takes no mail at all",  # RFC 7504 section 3
    "greeting 554": "no SMTP service for this host here",  # RFC 5321 section 3.1
    "STARTTLS 454": "TLS not available: the server cannot use its certificate or key",  # RFC 3207 section 4
    "greeting 421 4.3.0": "an internal error; a port for the PROXY protocol says so to others: set proxy: v2",
    "421": "it closes the connection: busy, shutting down, or too many connections from this host; try again",
    "450": "not now (greylisting does that); try again",
    "451": "not now, it has an internal trouble; try again",
    "500": "it does not know this command",
    "501": "it refuses the syntax, or the name that this host gives in EHLO (see hostname -f, or set ehlo)",
    "502": "it does not know this command",
    "530": "STARTTLS or a login must come first; if this port is for TLS from the first byte, use mode: tls",
    "550": "it refuses this host",
    "554": "it refuses this host",
}
"""Source: RFC 5321 section 4.2.2, RFC 3207 section 4, RFC 4954 section 6, where nothing else is said."""


def _expect(stream: Stream, code: str, asked: str) -> list[str]:
    """The lines of the next reply, without its code, if that is `code`."""
    got, lines = reply(stream.line)
    if got != code:
        more = f"{asked} {got} {lines[0].partition(' ')[0]}"
        meaning = _SMTP_MEANING.get(more) or _SMTP_MEANING.get(f"{asked} {got}") or _SMTP_MEANING.get(got)
        meaning = meaning or ("not now; try again" if got.startswith("4") else f"not the {code} that belongs here")
        busy = got == "421" or (got.startswith("4") and asked != "STARTTLS")
        raise _refused(asked, meaning, f"{got} {' '.join(lines)}", busy=busy)
    return lines


def reply(next_line: Callable[[], bytes]) -> tuple[str, list[str]]:
    """One reply (RFC 5321 section 4.2.1): its code, and the text of its lines in printable ASCII."""
    lines: list[str] = []
    first = None
    while len(lines) < _LINES_LIMIT:
        line = next_line()
        match = re.fullmatch(rb"([2-5][0-9]{2})(?:([ -])(.*))?", line, re.DOTALL)
        if not match or first not in (None, match[1]):
            raise Unseen(f"not an SMTP reply: {_printable(line)}")
        first = match[1]
        lines.append(_printable(match[3] or b""))
        if match[2] != b"-":
            return first.decode(), lines
    raise _too_long()


def _own_name(stream: Stream) -> str:
    """This host's name if it has a full one, otherwise its address (RFC 5321 section 4.1.4)."""
    name = socket.gethostname()
    if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
        return name
    address = stream.own_address()
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _too_long() -> Unseen:
    return Unseen(f"a reply of more than {_LINES_LIMIT} lines")


# -- IMAP --------------------------------------------------------------------------------------------------------------


def _imap(stream: Stream) -> None:
    line = stream.line()
    match = re.match(rb"\* (OK|PREAUTH|BYE)(?: |$)", line, re.IGNORECASE)
    if not match:
        raise Unseen(f"not an IMAP greeting: {_printable(line)}")
    word = match[1].upper()
    if word == b"BYE":
        raise _refused("greeting", _TURNED_AWAY, _printable(line), busy=True)
    if word == b"PREAUTH":  # RFC 9051 section 7.1.4: STARTTLS is for those who are not logged in
        raise _refused("greeting", "logged in from the start (PREAUTH), where TLS cannot begin", _printable(line))
    listed = re.search(rb"\[CAPABILITY ([^\]]*)\]", line, re.IGNORECASE)
    offers = [listed[1]] if listed else _tagged(stream, "a1", "CAPABILITY")
    if b"STARTTLS" not in b" ".join(offers).upper().split():
        raise _not_offered(stream)
    _tagged(stream, "a2", "STARTTLS")


def _tagged(stream: Stream, tag: str, command: str) -> list[bytes]:
    """The untagged lines before the tagged OK (RFC 9051 section 7)."""
    stream.send(f"{tag} {command}\r\n".encode())
    lines: list[bytes] = []
    while len(lines) < _LINES_LIMIT:
        line = stream.line()
        match = re.match(rb"(?:\*|%s) (?:(OK|NO|BAD|BYE)(?: |$))?" % tag.encode(), line, re.IGNORECASE)
        own = not line.startswith(b"*")
        if not match or (own and not match[1]):
            raise Unseen(f"not an IMAP reply: {_printable(line)}")
        word = (match[1] or b"").upper()
        if own and word == b"OK":
            return lines
        if word == b"BYE":
            raise _refused(command, _TURNED_AWAY, _printable(line))
        if own:
            meaning = _TLS_REFUSED if command == "STARTTLS" else "refused"
            raise _refused(command, meaning, _printable(line))
        lines.append(line)
    raise _too_long()


# -- POP3 --------------------------------------------------------------------------------------------------------------


def _pop3(stream: Stream) -> None:
    words = _pop3_status(stream)
    if words is not None:
        raise _refused("greeting", _TURNED_AWAY, words, busy=True)
    stream.send(b"CAPA\r\n")
    if _pop3_status(stream) is None and b"STLS" not in _pop3_lines(stream):  # an old server may not know CAPA
        raise _not_offered(stream)
    stream.send(b"STLS\r\n")
    words = _pop3_status(stream)
    if words is not None:
        raise _refused("STLS", _TLS_REFUSED, words)


def _pop3_status(stream: Stream) -> str | None:
    """None for +OK, the server's words for -ERR (RFC 1939 section 3)."""
    line = stream.line()
    if not re.match(rb"(\+OK|-ERR)(?: |$)", line):
        raise Unseen(f"not a POP3 reply: {_printable(line)}")
    return None if line.startswith(b"+") else _printable(line)


def _pop3_lines(stream: Stream) -> list[bytes]:
    """The first word of each line of an answer that ends with a dot (RFC 2449 section 5)."""
    lines: list[bytes] = []
    while len(lines) < _LINES_LIMIT:
        line = stream.line()
        if line == b".":
            return lines
        lines.append(line.upper().partition(b" ")[0])
    raise _too_long()


# -- ManageSieve -------------------------------------------------------------------------------------------------------


def _sieve(stream: Stream) -> None:
    offers = _sieve_reply(stream, "greeting")
    if not any(re.match(rb'"STARTTLS"(?: |$)', line, re.IGNORECASE) for line in offers):
        raise _not_offered(stream)
    stream.send(b"STARTTLS\r\n")
    _sieve_reply(stream, "STARTTLS")


def _sieve_reply(stream: Stream, asked: str) -> list[bytes]:
    """The lines before OK (RFC 5804 section 1.2); those before TLS are capabilities, which begin with a quote."""
    lines: list[bytes] = []
    while len(lines) < _LINES_LIMIT:
        line = stream.line()
        match = re.match(rb"(OK|NO|BYE)(?: |$)", line, re.IGNORECASE)
        if match:
            break
        if not line.startswith(b'"'):
            raise Unseen(f"not a ManageSieve reply: {_printable(line)}")
        lines.append(line)
    else:
        raise _too_long()
    word, words = match[1].upper(), line
    literal = re.search(rb"\{(\d{1,4})\+?\}$", line)
    left = int(literal[1]) + 2 if literal else 0  # the text follows, of so many bytes, and an end of line (section 1.6)
    while left > 0:
        more = stream.line()
        left -= len(more) + 2
        words += b" " + more
    if word != b"OK":
        meaning = _TLS_REFUSED if (word, asked) == (b"NO", "STARTTLS") else _TURNED_AWAY
        raise _refused(asked, meaning, _printable(words), busy=asked == "greeting")
    return lines
