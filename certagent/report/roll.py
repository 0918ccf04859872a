"""The roll under way: how far it is, what it waits for, and its dates."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from certagent.facts.moment import Instant
from certagent.lifecycle import gates
from certagent.lifecycle.converged import rolled
from certagent.lifecycle.state import Generation, State
from certagent.lifecycle.tlsaname import TlsaNames

Date = Annotated[datetime, Meta(tz=True)]
"""RFC 3339, with the offset of UTC."""

Stage = Literal["issue", "publish", "swap", "drain", "records"]
"""Of a roll: a certificate is ordered; TLSA records are published and caches waited for; the mail servers are swapped;
old processes end; the TLSA records are brought up to date."""


class Roll(Struct, frozen=True):
    """The roll under way."""

    stage: Stage
    old: tuple[str, ...]
    """The generations that are served until the swap."""
    new: str | None
    """The generation that takes their place; None: not issued yet."""
    waits_for: tuple[str, ...] = ()
    """What stands against the swap now."""
    swap_at: Date | None = None
    """When that will be over, if it is only a matter of time."""
    began_at: Date | None = None
    """When its keys were made; those of a standby: when the certificate was issued."""
    issued_at: Date | None = None
    swapped_at: Date | None = None
    """When the last mail server was reloaded."""
    ends_at: Date | None = None
    """When old records may go, if only time is in the way."""


def under_way(names: TlsaNames, state: State, now: Instant) -> Roll | None:
    """None: nothing is under way."""
    newest = state.newest
    serving = tuple(g.id for g in state.serving(tuple(state.mail_servers)))
    if newest is None or state.orders or state.issued:
        return Roll("issue", serving, None, began_at=_made_at(state, state.issued_keys or _ordered(state)))
    old = tuple(id_ for id_ in serving if id_ != newest.id)
    if not rolled(names.spec, state):
        return _deployment(names, state, newest, old, now)
    behind = any(name.unfollowed for name in names if not name.publication_blocked)
    return _begun(Roll("records", old, newest.id), names, state, newest) if behind else None


def _ordered(state: State) -> str | None:
    return next((order.keys for order in state.orders.values()), None)


def _made_at(state: State, keys: str | None) -> datetime | None:
    found = state.keyset(keys)
    return found.made_at.wall if found else None


def _deployment(names: TlsaNames, state: State, newest: Generation, old: tuple[str, ...], now: Instant) -> Roll:
    """The way of the newest generation to the mail servers."""
    installed = {server.name: state.mail_servers.get(server.name) for server in names.spec.mail_servers}
    lacking = [name for name, at in installed.items() if at is None or newest.id not in at.serves]
    obstacles = [o for name in lacking for o in gates.may_install(names, name, newest, now)]
    if obstacles:
        reasons = tuple(dict.fromkeys(f"{o.tlsa_name}: {o.why}" for o in obstacles))
        return _begun(Roll("publish", old, newest.id, reasons, over_at(obstacles, now)), names, state, newest)
    running = not lacking and all(at and at.phase in ("verified", "drained") for at in installed.values())
    return _begun(Roll("drain" if running else "swap", old, newest.id), names, state, newest)


def _begun(roll: Roll, names: TlsaNames, state: State, newest: Generation) -> Roll:
    """With the dates that are known."""
    issued_at = newest.issued_at.wall
    made_at = _made_at(state, newest.keys) or issued_at
    at = [found for server in names.spec.mail_servers if (found := state.mail_servers.get(server.name))]
    reloads = [one.reloaded_at.wall for one in at if one.generation == newest.id and one.reloaded_at]
    swapped_at = max(reloads, default=None)
    ends = swapped_at or roll.swap_at
    return replace(
        roll,
        began_at=issued_at if names.spec.standby else made_at,
        issued_at=issued_at,
        swapped_at=swapped_at,
        ends_at=ends + names.spec.drain if ends else None,
    )


def over_at(obstacles: list[gates.Obstacle], now: Instant) -> datetime | None:
    """When all of them are over; None if one is not a matter of time."""
    left = [obstacle.remaining for obstacle in obstacles if obstacle.remaining is not None]
    return now.wall + max(left, default=timedelta()) if len(left) == len(obstacles) else None
