"""What is wrong although no step fails, or what no failure says: found in what certagent remembers, with a code each.

`status` and `check` say these first, and end with their exit status.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from msgspec import Struct

from certagent.facts.dns import Observation
from certagent.facts.moment import Instant
from certagent.lifecycle import caches, schedule, tlsaname
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Change, Generation, State
from certagent.report.words import brief, count, date
from certagent.store.protocol import Wake

OVERDUE = timedelta(minutes=30)
"""How late the daemon may be: a heartbeat, and the longest step of another certagent."""
OVERDUE_ALONE = timedelta(hours=25)
"""How late it may be without a daemon: a timer that runs `certagent renew` once a day is enough."""


class Condition(Struct, frozen=True):
    """One thing that is wrong."""

    code: str
    detail: str
    hint: str
    needs_human: bool
    """Nothing gets better until somebody does something."""
    about: str = ""
    """What it is about, where there may be several of that code at one time."""


def conditions(
    spec: Spec, state: State, now: Instant, wake: Wake | None = None, daemon: int | None = None
) -> tuple[Condition, ...]:
    """All of them, the worst first. `wake`: when it was to be looked after next; `daemon`: the process that does so."""
    found = (*_running_out(spec, state, now.wall), *beside_expiry(spec, state, now, wake, daemon))
    return _worst_first(found)


def beside_expiry(
    spec: Spec, state: State, now: Instant, wake: Wake | None = None, daemon: int | None = None
) -> tuple[Condition, ...]:
    """Those that handshakes do not see."""
    found = (
        *_waiting_too_long(state),
        *_hurries(state),
        *_overdue(wake, daemon, now.wall),
        *_not_shown(spec, state, now),
        *_budgets(state, now),
    )
    return _worst_first(found)


def _worst_first(found: Iterable[Condition]) -> tuple[Condition, ...]:
    return tuple(sorted(found, key=lambda one: not one.needs_human))


def in_service(spec: Spec, state: State) -> list[Generation]:
    """What clients may get now; of a certificate that no mail server has, the newest."""
    if not spec.mail_servers:
        return [state.newest] if state.newest else []
    return state.serving(tuple(server.name for server in spec.mail_servers))


def running_out(what: str, until: datetime, late: datetime, now: datetime) -> Condition | None:
    """A certificate in service has expired, or it is in the time that was kept for retries."""
    if until <= now:
        hint = "certagent renew --force asks the CA now; what is in the way stands in certagent status"
        return Condition("served.expired", f"{what} expired {date(until)}", hint, needs_human=True, about=what)
    if late <= now:
        detail = f"{what} runs out in {brief(until - now)}, {date(until)}: its renewal is late"
        return Condition("served.runs_out", detail, "certagent plan says what is waited for", False, what)
    return None


def _running_out(spec: Spec, state: State, now: datetime) -> Iterator[Condition]:
    for generation in in_service(spec, state):
        chain = min(generation.chains.values(), key=lambda chain: chain.not_after)
        what = f"{generation.id}, not certagent's," if generation.unmanaged else generation.id
        if found := running_out(what, chain.not_after, schedule.last_chance(chain), now):
            yield found


def _waiting_too_long(state: State) -> Iterator[Condition]:
    chains = state.in_service
    end = min((chain.not_after for chain in chains), default=None)
    for failure in state.failing:
        if end is None or failure.retry_after_s is None or not schedule.of_the_ca(failure) or failure.lane.advisory:
            continue
        wanted = failure.at.wall + timedelta(seconds=failure.retry_after_s)
        if wanted >= end:
            again = failure.at.wall + schedule.retry_after(failure, chains)
            detail = (
                f"the CA wants to be asked again {date(wanted)}, and what is served runs out {date(end)}; "
                f"it is asked {date(again)} all the same"
            )
            hint = "see what the CA's answer says of its limits; certagent renew --force asks now; or add another CA"
            yield Condition("ca.outlasts", detail, hint, needs_human=True)


def _hurries(state: State) -> Iterator[Condition]:
    if state.hurried >= schedule.HURRIES:
        detail = f"the CA wanted {state.hurried} renewals in a row long before their time (RFC 9773)"
        page = explanation_url(state)
        hint = f"the CA explains it: {page}" if page else "ask the CA; history shows its renewal windows"
        yield Condition("ca.hurries", detail, hint, needs_human=True)


def explanation_url(state: State) -> str | None:
    """The CA's page about the renewal window of the newest generation (RFC 9773 section 4.2)."""
    newest = state.newest
    pages = (r.drawn.explanation_url for r in state.renewals.values() if newest and r.generation == newest.id)
    return next((page for page in pages if page), None)


def _overdue(wake: Wake | None, daemon: int | None, now: datetime) -> Iterator[Condition]:
    late = now - wake.at if wake else timedelta()
    if late > (OVERDUE if daemon else OVERDUE_ALONE):
        detail = f"nothing has been done for {brief(late)}; due since then: {wake.why if wake else ''}"
        hint = "see its log: journalctl -u certagent" if daemon else "start the daemon: systemctl start certagent"
        yield Condition("agent.overdue", detail, hint, needs_human=not daemon)


def _not_shown(spec: Spec, state: State, now: Instant) -> Iterator[Condition]:
    for name in tlsaname.TlsaNames(spec, state):
        seen = name.known.observation
        for change in filter(None, (name.known.change, name.known.other)):
            began = change.first_at
            if seen is None or began is None or now.since(began) < schedule.UNSHOWN + name.publish_lag:
                continue
            behind = [
                server
                for server, answer in sorted(seen.answers.items())
                if answer in caches.known(seen) and not _follows(change, answer.values)
            ]
            if behind:
                detail = (
                    f"{name}: the provider accepted a change {brief(now.since(began))} ago "
                    f"({count(change.tries, 'time')}), and {', '.join(behind)} does not show it{_late(seen, behind)}"
                )
                hint = "see that the provider writes the zone that the world sees, and that the server named gets it"
                yield Condition("dns.not_shown", detail, hint, False, str(name))


def _late(seen: Observation, behind: Iterable[str]) -> str:
    return "".join(f"; {server}: {seen.late[server]}" for server in behind if server in seen.late)


def _budgets(state: State, now: Instant) -> Iterator[Condition]:
    for budget in state.budgets:
        if left := budget.left(now, urgent=False):
            used = f"{budget.used(now)} of {budget.per_day} writes a day to {budget.zone} are used"
            detail = f"{used}; all but urgent ones wait until {date(now.wall + left)}"
            hint = "certagent history shows what was written; see whether another agent writes the same records"
            yield Condition("dns.writes_used", detail, hint, False, budget.zone)


def _follows(change: Change, values: frozenset[str]) -> bool:
    return change.values.isdisjoint(values) if change.removes else change.values <= values
