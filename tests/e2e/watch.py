"""Witnesses look on while certificates are rolled over under kills and faults, and nobody may notice a thing."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tests.e2e.site import Cached, Site, Strict
from tests.lab.postfix import Sender
from tests.lab.sender import Mailer
from tests.lab.wait import until

HOLD_S = 4.0
"""TTL and guard: what Postfix's smtp and unbound keep of a record is rounded up to whole seconds, by each."""


class Watch:
    """All at once: a `dane-only` Postfix mails, one prober looks without a cache, and one at each port with two.

    Use as a context manager, with a site whose certificate is in service. In the end no mail was deferred, every
    handshake matched, and a line of figures is printed under the name `what`.
    """

    def __init__(self, site: Site, sender: Sender, what: str) -> None:
        self._site, self._what = site, what
        self._mailer, self._strict = Mailer(sender, rate=3), Strict(rate=10)
        self._cached = {port: Cached(port=port, rate=5) for port in site.tlsa_ports}
        self._probers = (*self._cached.values(), self._strict)
        self._before = 0
        self.kills = 0
        """For the figures; whoever kills counts."""

    def __enter__(self) -> Self:
        self._site.dane["safety_margin"] = f"{HOLD_S - 1:.0f}s"
        self._site.write()
        self._site.await_caches()
        self._before = len(self._site.history())
        self._site.dns.flush_resolver()  # it may remember that there was no record yet
        self._mailer.start()
        for prober in self._probers:
            prober.start()
        until(lambda: all(prober.match for prober in self._probers), 10, "the first comparison at each port")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self._judge()
        finally:
            for witness in (*self._probers, self._mailer):
                witness.halt()

    def _judge(self) -> None:
        until(
            lambda: min(self._mailer.mailed, *(prober.compared for prober in self._probers)) > 10,
            60,
            "each has looked ten times, on a busy machine too",
        )
        for prober in self._probers:
            prober.halt()
        mailed = self._mailer.stop()
        failures = [failure for prober in self._probers for failure in prober.failures]
        mismatched = sum(prober.mismatch for prober in self._probers)
        cached = ", ".join(f"{prober.match} at port {port}" for port, prober in self._cached.items())
        print(
            f"\n{self._what}: {self.kills} kills, {self._rolls()} rolls; {mailed.sent} mails sent, {mailed.deferred} "
            f"deferred, {mailed.bounced} bounced; handshakes matched: {cached} with caches, {self._strict.match} at "
            f"port 25 without; {mismatched} mismatched, {len(failures) - mismatched} failed",
            flush=True,
        )
        assert [f"{f.kind}: {f.detail}" for f in failures] == []
        assert (mailed.deferred, mailed.bounced) == (0, 0), mailed.troubles

    def _rolls(self) -> int:
        """How many generations were put into service since the beginning."""
        events = [entry["event"] for entry in self._site.history()[self._before :]]
        return len({event["generation"] for event in events if event["type"] == "Installed"})
