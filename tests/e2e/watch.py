"""Three witnesses look on while certificates are rolled over under kills and faults, and nobody may notice a thing."""

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
    """All three at once: a `dane-only` Postfix mails, one prober looks through the validating cache, one without.

    Use as a context manager, with a site whose certificate is in service. In the end no mail was deferred, every
    handshake matched, and a line of figures is printed under the name `what`.
    """

    def __init__(self, site: Site, sender: Sender, what: str) -> None:
        self._site, self._what = site, what
        self._mailer, self._prober, self._strict = Mailer(sender, rate=3), Cached(rate=5), Strict(rate=10)
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
        self._prober.start()
        self._strict.start()
        until(lambda: self._prober.match, 5, "the first comparison")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self._judge()
        finally:
            for witness in (self._prober, self._strict, self._mailer):
                witness.halt()

    def _judge(self) -> None:
        until(
            lambda: min(self._mailer.mailed, self._prober.compared, self._strict.compared) > 10,
            60,
            "each has looked ten times, on a busy machine too",
        )
        self._prober.halt()
        self._strict.halt()
        mailed = self._mailer.stop()
        matched = self._prober.match + self._strict.match
        mismatched = self._prober.mismatch + self._strict.mismatch
        failures = [*self._prober.failures, *self._strict.failures]
        print(
            f"\n{self._what}: {self.kills} kills, {self._rolls()} rolls; {mailed.sent} mails sent, {mailed.deferred} "
            f"deferred, {mailed.bounced} bounced; {matched} handshakes matched, {mismatched} mismatched, "
            f"{len(failures) - mismatched} failed",
            flush=True,
        )
        assert [f"{f.kind}: {f.detail}" for f in failures] == []
        assert (mailed.deferred, mailed.bounced) == (0, 0), mailed.troubles

    def _rolls(self) -> int:
        """How many generations were put into service since the beginning."""
        events = [entry["event"] for entry in self._site.history()[self._before :]]
        return len({event["generation"] for event in events if event["type"] == "Installed"})
