"""What fails, by lane: the part of the fold that counts failures and ends them."""

from __future__ import annotations

from msgspec.structs import replace

from certagent.facts.moment import Instant
from certagent.lifecycle import events as ev
from certagent.lifecycle.lane import Lane
from certagent.lifecycle.state import Failure, State


def without(state: State, *lanes: Lane) -> tuple[Failure, ...]:
    """What fails, apart from these lanes."""
    return tuple(f for f in state.failing if f.lane not in lanes)


def of_others(state: State, mail_servers: tuple[str, ...]) -> tuple[Failure, ...]:
    """What fails, apart from what is done at these mail servers."""
    return tuple(f for f in state.failing if not (f.lane.at_mail_server and f.lane.subject in mail_servers))


def put_back(state: State, server: str) -> tuple[Failure, ...]:
    """A generation whose verification failed is installed again only after the back-off of all such attempts."""
    lane = Lane("install", server)
    verify, install = state.failure(Lane("verify", server)), state.failure(lane)
    if verify is None:
        return without(state, Lane("reload", server))
    count, first_at = (install.count + 1, install.first_at) if install else (1, verify.first_at)
    rest = without(state, lane, verify.lane, Lane("reload", server))
    return (*rest, replace(verify, lane=lane, count=count, first_at=first_at))


def failed(state: State, event: ev.Failed, now: Instant) -> State:
    """One more failure of its lane."""
    if event.lane is None:
        return state
    old = state.failure(event.lane)
    failure = Failure(
        lane=event.lane,
        kind=event.kind,
        code=event.code,
        detail=event.detail,
        hint=event.hint,
        count=(old.count if old else 0) + 1,
        first_at=old.first_at if old else now,
        at=now,
        retry_after_s=event.retry_after_s,
        jitter=event.jitter,
        concerns=event.concerns,
        quick=event.quick,
        refusals=(old.refusals if old else 0) + (event.concerns == "ca"),
    )
    return replace(state, failing=(*without(state, event.lane), failure))
