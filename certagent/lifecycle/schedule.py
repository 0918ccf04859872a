"""When: to renew, to try again, to observe again. Pure arithmetic on dates; every number names its reason."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, KeyType
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Failure, Generation, State
from certagent.lifecycle.steps import Wait

SHORT_LIFE = timedelta(days=10)
"""Below this a certificate is short-lived (CA/B Baseline Requirements 1.6.1)."""

_MINUTE = 60.0
CA_BACKOFF_S = (_MINUTE, 10 * _MINUTE, 100 * _MINUTE, 1440 * _MINUTE)
"""Let's Encrypt's integration guide: one minute, ten, a hundred, then daily; remembered across restarts."""
RENEWAL_INFO_BACKOFF_S = (*CA_BACKOFF_S[:-1], 360 * _MINUTE)
"""To ask when to renew counts against no limit. RFC 9773 section 4.3.3: six hours where the CA has no answer; a day
would find out about a revocation too late.
"""
TRIES_LEFT = 6
"""How often a CA is asked at least, whatever wait it wants, between the last chance and the end of what is served."""
HURRY = (timedelta(hours=1), timedelta(hours=6), timedelta(days=1), timedelta(days=7))
"""How old a certificate becomes at least before the CA's wish replaces it, by how often this came in a row: a
revocation is met within the hour, and a CA that errs for long cannot make a key and TLSA records each hour."""
HURRIES = 3
"""So many in a row are no revocation any more: somebody must ask the CA."""
BACKOFF_S = (2.0, 5.0, 15.0, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, 60 * _MINUTE)
"""DNS, mail server and disk are our own: try soon, then at least hourly, so that a repair is seen the same hour."""
SWAP_BACKOFF_S = (*BACKOFF_S[3:], 1440 * _MINUTE)
"""A swap that was taken back since its verification failed: each try is two swaps and two reloads that clients meet."""
JITTER = 0.1
"""Retries of many hosts after one outage are spread over a tenth of the wait."""
SOON = timedelta(seconds=1)
"""The shortest wait between two observations of DNS that somebody else has to change."""
OBSERVE_AT_MOST = timedelta(minutes=15)
"""While caches are waited for, a server that regresses is noticed within this, or an eighth of the retire
interval if that is less."""
BRIEF = timedelta(hours=1)
"""A longer wait is shown by its date."""
ALARM = timedelta(hours=1)
"""A deployment that is open for longer does not get well by itself: by then every retry is an hour apart."""
UNSHOWN = timedelta(hours=1)
"""A change that the provider accepted and no server shows by then: servers follow within minutes, or by a mistake. It
begins when the provider usually shows it."""
SILENT_TRIES = 3
"""So often a response is looked for at every server. Then those that are silent are passed over: a CA asks others."""
LAGGING = timedelta(days=1)
"""So long a server that answers without the response is waited for: a CA that asks it refuses, and counts that."""
LATE = timedelta(hours=1)
"""A change whose answer was lost may be applied as long after; until then what is known of a withdrawn name is kept."""
FRESH = timedelta(seconds=60)
"""Before anything irreversible, every answer it rests on is at most this old."""


FOLLOWING = "not every server has followed"
"""Why a name is observed again after a change; a forecast names the end of that wait."""


def alarms(failure: Failure, now: Instant) -> bool:
    """Whether somebody must be woken: a mail server has not taken what it was given for too long."""
    return failure.lane.at_mail_server and now.since(failure.first_at) >= ALARM


def backstop(chain: Chain) -> datetime:
    """Renew here at the latest if the CA suggests nothing: a third of the lifetime is left, half if short-lived."""
    life = chain.not_after - chain.not_before
    return chain.not_after - (life / 2 if life < SHORT_LIFE else life / 3)


def last_chance(chain: Chain) -> datetime:
    """From here on a renewal with the old key is better than a roll that may come too late: a sixth of the lifetime
    left, which leaves several retries at the CA's slowest back-off for 45 days and more, and a day for 160 hours.
    """
    return chain.not_after - (chain.not_after - chain.not_before) / 6


def late(spec: Spec, state: State, now: Instant) -> bool:
    """What is served, or was issued last, has little time left."""
    served = state.serving(tuple(server.name for server in spec.mail_servers))
    generations = (*served, state.newest) if state.newest else served
    return any(now.wall >= last_chance(chain) for g in generations for chain in g.chains.values())


def date(moment: datetime) -> str:
    """A date for people."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def due(state: State) -> tuple[datetime, str] | None:
    """When the newest generation is to be renewed, and why then. None if there is no generation yet."""
    newest = state.newest
    if newest is None:
        return None
    moments: list[tuple[datetime, str]] = []
    for key_type, chain in newest.chains.items():
        at = wished(state, newest, key_type)
        if at:
            moments.append((min(at, last_chance(chain)), "the CA's renewal window (RFC 9773)"))
        else:
            life = chain.not_after - chain.not_before
            share = "half" if life < SHORT_LIFE else "a third"
            moments.append((backstop(chain), f"{share} of the lifetime is left"))
    return min(moments)


def wished(state: State, newest: Generation, key_type: KeyType) -> datetime | None:
    """The moment drawn in the CA's window. One that ended before the certificate began says nothing about it."""
    renewal, chain = state.renewals.get(key_type), newest.chains[key_type]
    if renewal is None or renewal.generation != newest.id or renewal.drawn.end is None:
        return None
    return renewal.drawn.at if renewal.drawn.end > chain.not_before else None


def hurried(state: State, now: Instant) -> bool:
    """Whether a generation that comes now does so at the CA's wish alone, in the first third of the life before: a
    little later than `earliest` ever is, and well before any renewal that is due.
    """
    newest = state.newest
    if newest is None or state.requested:
        return False
    early = [(a, c) for a, c in newest.chains.items() if now.wall < c.not_before + (c.not_after - c.not_before) / 3]
    return any((at := wished(state, newest, key_type)) and at <= now.wall for key_type, _ in early)


def quarter(chain: Chain) -> timedelta:
    """Of the lifetime."""
    return (chain.not_after - chain.not_before) / 4


def earliest(state: State, newest: Generation) -> timedelta:
    """How old the newest generation becomes at least: a CA whose certificates are past their renewal date when they
    come must not be asked without end.
    """
    return min(*map(quarter, newest.chains.values()), HURRY[min(state.hurried, len(HURRY) - 1)])


def of_the_ca(failure: Failure) -> bool:
    """The CA refused, or its chain does not verify, which is its doing too: another order counts against its limits."""
    return failure.concerns == "ca"


def retry_after(failure: Failure, in_service: Iterable[Chain] = ()) -> timedelta:
    """How long after its last failure a line of work may be tried again.

    Retry-After is honoured if it is longer (RFC 9110 section 10.2.3), but for `at_most`. An operator's mistake is tried
    again like any other failure: the repair may be made at any time.
    """
    steps, count = BACKOFF_S, failure.count
    if of_the_ca(failure):
        steps = RENEWAL_INFO_BACKOFF_S if failure.lane.advisory else CA_BACKOFF_S
        steps, count = (5.0, *steps) if failure.quick else steps, failure.refusals
    elif failure.lane.verb == "install" and failure.concerns == "served":
        steps = SWAP_BACKOFF_S
    wait = steps[min(count, len(steps)) - 1]
    wait = max(wait, failure.retry_after_s or 0.0) * (1 + JITTER * failure.jitter)
    most = at_most(failure, in_service) if of_the_ca(failure) else None
    return min(timedelta(seconds=wait), most) if most else timedelta(seconds=wait)


def at_most(failure: Failure, in_service: Iterable[Chain]) -> timedelta | None:
    """The longest wait for a CA with which `TRIES_LEFT` are left before what is served runs out; never under a minute:
    a certificate that nobody can renew in time is no reason to hammer the CA.
    """
    waits: list[timedelta] = []
    for chain in in_service:
        late = last_chance(chain)
        waits.append(max(late - failure.at.wall, (chain.not_after - late) / TRIES_LEFT, timedelta(seconds=_MINUTE)))
    return min(waits, default=None)


def retry_in(failure: Failure, now: Instant, in_service: Iterable[Chain] = ()) -> timedelta:
    """How long until then; zero or less: now."""
    return retry_after(failure, in_service) - now.since(failure.at)


def held_back(failure: Failure, now: Instant, state: State) -> Wait | None:
    """The wait for a line of work that failed; None if it may be tried again."""
    in_service = state.in_service
    left = retry_in(failure, now, in_service)
    if left <= timedelta(0):
        return None
    tried = "tried once" if failure.count == 1 else f"tried {failure.count} times"
    wait = retry_after(failure, in_service)
    if wait > BRIEF:
        tried += f", next {date(failure.at.wall + wait)}"
    return Wait(left, f"{failure.lane}: {tried}: {failure.detail}")


def write_again(tries: int, publish_lag: timedelta = timedelta(0)) -> timedelta:
    """How long until a change that was accepted, and is not to be seen at the servers, is made once more: not before
    the provider usually shows it.
    """
    return max(timedelta(seconds=BACKOFF_S[min(tries, len(BACKOFF_S)) - 1]), publish_lag)


def observe_every(spec: Spec, retire_interval: timedelta) -> timedelta:
    """How often to observe while a retire interval of that length is waited for: eight times, to see a regression."""
    return min(max(retire_interval / 8, SOON), OBSERVE_AT_MOST, spec.check_interval)


def observe_again(since_change: timedelta, publish_lag: timedelta = timedelta(0)) -> timedelta:
    """How long to wait for servers that have not followed a change yet: until the provider usually shows it, then a
    quarter of the time it has taken so far.
    """
    return max(publish_lag - since_change, min(max(since_change / 4, SOON), OBSERVE_AT_MOST))


def fresh(then: Instant | None, now: Instant) -> bool:
    """What was seen then may still be acted on."""
    return then is not None and now.since(then) <= FRESH
