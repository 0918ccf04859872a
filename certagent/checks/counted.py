"""What trials write (`dns test`, `renew --dry-run`), counted where a DNS provider takes only so many writes a day.

It is all that a trial journals. A trial uses nothing of what is kept for urgent writes, but to take away its own value.
"""

from __future__ import annotations

from certagent.agent.turn import LOCK_S
from certagent.agent.wiring import Wiring
from certagent.dns.providers.protocol import Capabilities
from certagent.errors import Transient
from certagent.lifecycle import budget, writes
from certagent.lifecycle import events as ev


class Counted:
    """See `agent.act.spending.Spend`; in the journal of that certificate, beside what all others wrote."""

    def __init__(self, wiring: Wiring, certificate: str, *, removes: bool = False) -> None:
        self._wiring, self._certificate, self._removes = wiring, certificate, removes

    def __call__(self, zone: str, capabilities: Capabilities) -> None:
        """See `Spend`.

        Raises:
            Transient: `lock.busy`: A daemon is at work for minutes.
        """
        per_day = capabilities.writes_per_day
        if per_day is None:
            return
        journal = self._wiring.journal
        with self._wiring.lock.held(LOCK_S, "counts a write of a trial"):
            every = self._wiring.budgets()
            wait, why = writes.next_one(budget.together(every, zone, per_day), journal.now(), urgent=self._removes)
            if wait:
                raise Transient("dns.budget", why, "try it then; certagent status has the count")
            journal.append(self._certificate, ev.Writing(zone=zone, per_day=per_day))
