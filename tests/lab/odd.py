"""A name server that is odd: what it does with each question is a function of the test."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal

import dns.exception
import dns.flags
import dns.message
import dns.query
from dns.message import Message
from dns.rdatatype import NSEC, NSEC3, RRSIG

Over = Literal["udp", "tcp"]
Rule = Callable[[Message, Over], Message | bytes | None]
"""What is answered; None: nothing. More than fits the question over UDP is cut off, as RFC 1035 section 4.2.1 wants."""


class Odd:
    """Answers in threads of its own, within a `with` block."""

    def __init__(self, rule: Rule, address: str = "127.0.0.1", port: int = 0, *, tcp: bool = True) -> None:
        self.asked: list[tuple[Over, Message]] = []
        self._rule = rule
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._udp = socket.socket(family, socket.SOCK_DGRAM)
        self._udp.bind((address, port))
        self._port: int = self._udp.getsockname()[1]
        self.server = f"[{address}]:{self._port}" if ":" in address else f"{address}:{self._port}"
        self._tcp = socket.create_server((address, self._port), family=family) if tcp else None

    def __enter__(self) -> Odd:
        threads = [threading.Thread(target=self._datagrams, daemon=True)]
        if self._tcp:
            threads.append(threading.Thread(target=self._connections, args=(self._tcp,), daemon=True))
        for thread in threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one in filter(None, (self._udp, self._tcp)):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _answer(self, wire: bytes, over: Over) -> bytes | None:
        query = dns.message.from_wire(wire)
        self.asked.append((over, query))
        said = self._rule(query, over)
        if said is None or isinstance(said, bytes):
            return said
        limit = 65535 if over == "tcp" else max(query.payload, 512) if query.edns >= 0 else 512
        whole = said.to_wire(max_size=65535)
        if len(whole) <= limit:
            return whole
        said = dns.message.make_response(query)
        said.flags |= dns.flags.AA | dns.flags.TC
        return said.to_wire()

    def _datagrams(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                wire, client = self._udp.recvfrom(4096)
                if not client:
                    return
                if answer := self._answer(wire, "udp"):
                    self._udp.sendto(answer, client)

    def _connections(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=self._connection, args=(connection,), daemon=True).start()

    def _connection(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, struct.error), connection.makefile("rb") as stream:
            (length,) = struct.unpack("!H", stream.read(2))
            if answer := self._answer(stream.read(length), "tcp"):
                connection.sendall(struct.pack("!H", len(answer)) + answer)


def through(server: str) -> Rule:
    """What a real server answers, without its signatures: as a router does that does not know DNSSEC."""

    def rule(query: Message, _: Over) -> Message | None:
        try:
            answer = dns.query.udp_with_fallback(query, server, timeout=5)[0]
        except (OSError, EOFError, dns.exception.Timeout):
            return None
        answer.flags &= ~dns.flags.AD
        for section in (answer.answer, answer.authority, answer.additional):
            section[:] = [rrset for rrset in section if rrset.rdtype not in (RRSIG, NSEC, NSEC3)]
        return answer

    return rule
