"""What people and the CA demand in peace, when all is well: each is met in time, or rightly not.

Without faults nothing excuses the agent, so these are judged more sharply than a hostile part can be.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from certagent.lifecycle import gates
from certagent.lifecycle.events import Requested
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.rules import deployment
from certagent.lifecycle.schedule import backstop
from certagent.lifecycle.tlsaname import TlsaNames
from tests.simulation.ca import unmanaged
from tests.simulation.clock import Violation
from tests.simulation.mail import Shown

if TYPE_CHECKING:
    from tests.simulation.history import History


def urgent(history: History) -> None:
    """The CA wants everything renewed; one that has wanted so too often waits."""
    world, clock = history.world, history.clock
    world.ca.urgent_before = clock.t
    before = world.journal.head.generations_made
    clock.note("   ! everything is to be renewed (ARI)")
    # the CA's Retry-After is a day at most, and each key type's response may have to be published
    lag_s = 2 * world.provider.capabilities.publish_lag_s * len(world.spec.key_types)
    end = clock.t + (86400 if world.journal.head.hurried < 2 else 8 * 86400) + 60 + lag_s
    while world.journal.head.generations_made == before:
        if clock.t > end:
            raise Violation("an urgent renewal did not happen within a day")
        history.turn_and_sleep()


def antique(history: History) -> None:
    """The CA's window ended before the certificate began: nothing is renewed for it."""
    world, clock = history.world, history.clock
    state, soon = world.journal.head, clock.true_wall() + timedelta(days=3)
    assert state.newest is not None
    wishes = [r.drawn.at for r in state.renewals.values() if r.drawn.at]
    if min([*wishes, *map(backstop, state.newest.chains.values())]) < soon:
        return
    world.ca.antique = True
    _passes(history, timedelta(days=2))
    if world.journal.head.generations_made > state.generations_made:
        raise Violation("renewed for a window that ended before the certificate began")


def hurries(history: History) -> None:
    """A CA that wants everything renewed at once, for ever, is not obeyed for ever."""
    world = history.world
    world.ca.hurries = True
    before = world.journal.head.generations_made
    _passes(history, timedelta(days=3))
    if world.journal.head.generations_made > before + 5:
        raise Violation("a CA that hurries gets a new certificate again and again")


def limited(history: History) -> None:
    """A CA that wants a week's pause once is asked before a certificate of six days runs out."""
    world, clock = history.world, history.clock
    if world.ca.life > timedelta(days=7):
        return
    world.ca.limit_s = 7 * 86400.0
    before, end = world.journal.head.generations_made, clock.t + 6 * 86400
    while world.journal.head.generations_made == before:
        if clock.t > end:
            raise Violation("a CA that wanted a pause is not asked again in time")
        history.turn_and_sleep()


def insists(history: History) -> None:
    """A CA that wants a pause is asked all the same by a person who insists."""
    world = history.world
    world.ca.limit_s = 6 * 3600.0
    before = world.journal.head.generations_made
    for _ in range(2):
        world.journal.append("mail", Requested(what="renew"))
        history.turn_and_sleep()
    _passes(history, timedelta(hours=2))
    if world.journal.head.generations_made == before:
        raise Violation("the operator insisted, and the CA was not asked")


def asked(history: History) -> None:
    """The operator comes: what is served and what is in DNS is observed in that turn; files are put right."""
    world, clock, rng = history.world, history.clock, history.world.rng
    host = world.hosts[rng.choice(world.spec.mail_servers).name]
    foul = rng.random() < 0.5
    if foul:
        life = timedelta(days=90)
        chains = {a: unmanaged(rng, clock, world.spec.names, life) for a in world.spec.key_types}
        host.place({a: Shown(chain, hand=True) for a, chain in chains.items()})
        host.restart()
        clock.stirred_at = clock.t
    then = clock.t
    world.journal.append("mail", Requested(what="retry"))
    history.turn()
    looked = {*world.spec.tlsa_names, *(s.name for s in world.spec.mail_servers if not foul or s.name != host.name)}
    if stale := sorted(name for name in looked if world.judge.seen_at[name] < then):
        raise Violation(f"the operator asked, and nobody observed {', '.join(stale)}")
    state = world.journal.head
    if state.newest and gates.may_install(TlsaNames(world.spec, state), host.name, state.newest, world.journal.now()):
        return  # caches of a name that was withdrawn a moment ago forbid it, say
    failure, began = state.failure(Lane("verify", host.name)), state.asked_at
    if failure and began and failure.at.since(began) < deployment.RELOADING:
        raise Violation(f"{host.name} was put right, and nobody looked whether it helped")


def _passes(history: History, time: timedelta) -> None:
    end = history.clock.t + time.total_seconds()
    while history.clock.t < end:
        history.turn_and_sleep()


DEMANDS: tuple[Callable[[History], None], ...] = (urgent, urgent, antique, hurries, limited, insists, asked, asked)
"""One of them is drawn."""
