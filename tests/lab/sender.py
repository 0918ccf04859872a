"""Two witnesses that watch while a certificate is rolled over: one mails all the time, one compares all the time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import NamedTuple, Self

import dns.exception
import dns.flags
import dns.message
import dns.query

from tests.lab.addresses import MX1, RESOLVER, ZONE
from tests.lab.dns import records
from tests.lab.handshake import served_tlsa
from tests.lab.postfix import Delivery, Sender
from tests.lab.wait import until


class _Ticker:
    """Does something at a fixed rate in a thread, from start() to halt()."""

    def __init__(self, rate: float) -> None:
        self._pause = 1 / rate
        self._halted = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None

    def tick(self) -> None:
        raise NotImplementedError

    def start(self) -> Self:
        self._thread.start()
        return self

    def halt(self) -> None:
        """Ends the thread; raises what ended it before."""
        self._halted.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._error:
            raise self._error

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._halted.is_set():
                self.tick()
                due = max(due + self._pause, time.monotonic())
                self._halted.wait(due - time.monotonic())
        except Exception as error:  # handed to whoever calls halt()
            self._error = error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._halted.set()
        self._thread.join()


class Mailed(NamedTuple):
    """What became of the mails; each is counted once."""

    sent: int
    """delivered at the first attempt"""
    deferred: int
    """deferred at least once, also when delivered later"""
    bounced: int
    troubles: list[Delivery]
    """every attempt that did not deliver"""


class Mailer(_Ticker):
    """Keeps a sender mailing."""

    def __init__(self, sender: Sender, recipient: str = f"user@{ZONE}", rate: float = 4) -> None:
        super().__init__(rate)
        self._sender = sender
        self._recipient = recipient
        self._ids: list[str] = []

    @property
    def mailed(self) -> int:
        """How many mails were handed to the sender so far."""
        return len(self._ids)

    def tick(self) -> None:
        self._ids.append(self._sender.send(self._recipient))

    def stop(self, seconds: float = 30) -> Mailed:
        """Stops mailing, waits until no mail is left in the queue, and counts; TimeoutError after `seconds`."""
        self.halt()
        ids = set(self._ids)

        def mine() -> list[Delivery]:
            return [delivery for delivery in self._sender.deliveries() if delivery.queue_id in ids]

        def converged() -> bool:
            return {d.queue_id for d in mine() if d.status in ("sent", "bounced")} == ids

        until(converged, seconds, "the sender's queue is empty")
        troubles = [delivery for delivery in mine() if delivery.status != "sent"]
        bounced = {delivery.queue_id for delivery in troubles if delivery.status == "bounced"}
        deferred = {delivery.queue_id for delivery in troubles} - bounced
        return Mailed(len(ids) - len(deferred) - len(bounced), len(deferred), len(bounced), troubles)


class Failure(NamedTuple):
    """One comparison that a DANE sender would have failed."""

    time: float
    kind: str
    detail: str


class Prober(_Ticker):
    """Keeps comparing the validated TLSA records with what the server shows, at one address and port."""

    def __init__(self, name: str = f"mx1.{ZONE}", address: str = MX1, port: int = 25, rate: float = 5) -> None:
        super().__init__(rate)
        self._name, self._address, self._port = name, address, port
        self._counts: Counter[str] = Counter()
        self.failures: list[Failure] = []

    @property
    def compared(self) -> int:
        """How often it looked, whatever came of it."""
        return self._counts.total()

    @property
    def match(self) -> int:
        return self._counts["match"]

    @property
    def mismatch(self) -> int:
        return self._counts["mismatch"]

    @property
    def no_record(self) -> int:
        """No TLSA, or no validated answer."""
        return self._counts["no record"]

    @property
    def no_handshake(self) -> int:
        return self._counts["no handshake"]

    def stop(self) -> list[Failure]:
        """Stops and returns the failures."""
        self.halt()
        return self.failures

    def tick(self) -> None:
        kind, detail = self._compare()
        self._counts[kind] += 1
        if kind != "match":
            self.failures.append(Failure(time.time(), kind, detail))

    def _compare(self) -> tuple[str, str]:
        try:
            records = self._records()
        except (dns.exception.DNSException, OSError) as error:
            return "no record", repr(error)
        if not records:
            return "no record", "no validated TLSA"
        try:
            served = served_tlsa(self._address, self._port, self._name)
        except OSError as error:
            return "no handshake", repr(error)
        if served in records:
            return "match", ""
        return "mismatch", f"served {served}, published {sorted(records)}"

    @property
    def owner(self) -> str:
        """The TLSA name."""
        return f"_{self._port}._tcp.{self._name}"

    def _records(self) -> set[str]:
        return self._asked()[0]

    def _asked(self) -> tuple[set[str], int]:
        """What the resolver gives, and for how many seconds."""
        query = dns.message.make_query(self.owner, "TLSA", use_edns=0, want_dnssec=True)
        answer = dns.query.udp_with_fallback(query, RESOLVER, timeout=10)[0]
        if not answer.flags & dns.flags.AD:
            return set(), 0
        ttl_s = min((rrset.ttl for rrset in answer.answer), default=0)  # that there is none is not kept
        return {record.to_text() for record in records(answer, "TLSA")}, ttl_s
