"""A generation goes into service at a mail server: inspect, deploy (the swap), finish what was begun, verify."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple

from msgspec.structs import replace

from certagent.lifecycle import gates, schedule
from certagent.lifecycle.dropped import at_first_swap
from certagent.lifecycle.lane import Lane, Verb
from certagent.lifecycle.rules.rule import Offer, View
from certagent.lifecycle.spec import MailServer
from certagent.lifecycle.state import Generation, Installation, Phase, State
from certagent.lifecycle.steps import Inspect, Install, Reload, Restore, Verify, Wait

RELOADING = timedelta(seconds=10)
"""How long a verification after a reload tries again: Postfix says that it is done before its children are replaced,
and a busy host takes seconds."""


RELOADS = 9
"""As many failed verifications are answered with a reload, over two and a half hours. Then it does not help, and on a
server that is restarted for it each one ends sessions."""


def inspect(view: View) -> Iterator[Offer]:
    """What a mail server serves while certagent is new to it is covered like a generation of certagent's own."""
    spec, state, _, now = view
    for server in spec.mail_servers:
        at = state.mail_servers.get(server.name)
        if at is None:  # also if no TLSA name is configured: one may be added while old processes live on
            yield Inspect(server=server.name, because="what it serves now is not known yet")
        elif at.phase == "restored":
            yield Inspect(server=server.name, because="its own files were put back; what is served is inspected again")
        elif at_first_swap(spec, state, server.name, spec.names, now.wall):
            yield Inspect(server=server.name, because="it serves names that the new certificate lacks")
        elif at.phase == "inspected" and state.failure(Lane("inspect", server.name)):
            yield Inspect(server=server.name, because="it failed before")


# -- the swap ----------------------------------------------------------------------------------------------------------


def deploy(view: View) -> Iterator[Offer]:
    """The swap: only if no cache can hold a set that the new chain does not match. `agent/act` asks once more."""
    spec, state, names, now = view
    newest = state.newest
    if newest is None:
        return
    for server in spec.mail_servers:
        at = state.mail_servers.get(server.name)
        if at is not None and (at.generation == newest.id or (at.phase in _UNDER_WAY and not _failing(state, server))):
            continue
        obstacles = gates.may_install(names, server.name, newest, now)
        if newest.accept_deferrals:
            # the operator's choice: only the records must be out, caches are not waited for
            obstacles = [o for o in obstacles if o.lasting or o.tlsa_name.missing]
        everywhere = set[str].intersection(*(set(chain.names) for chain in newest.chains.values()))
        if lost := at_first_swap(spec, state, server.name, everywhere, now.wall):
            because = f"the certificate served today is also for {', '.join(lost)}"
            yield Wait(spec.check_interval, f"{server.name}: not swapped to {newest.id}: {because}", swap=True)
            continue
        failure = state.failure(Lane("inspect", server.name))
        # its files were asked for names that the configuration lacks, not for those that this generation does
        late = not set(spec.names) <= everywhere
        if at is None and (failure is None or failure.kind == "misconfigured" or late):
            yield Wait(spec.check_interval, f"{server.name}: what it serves now is not known yet", swap=True)
            continue
        if obstacles:
            yield _longest(obstacles, f"{server.name}: not swapped to {newest.id}", spec.check_interval)
            continue
        if at is not None and at.phase == "inspected" and not schedule.fresh(at.inspected_at, now):
            # somebody may have exchanged it while the swap was waited for
            yield Inspect(server=server.name, because="the last inspection before its files are replaced")
            continue
        minded = any(not name.undeclared or name.seen_somewhere for name in names.at(server.name))
        because = "no cache can hold a set without it" if minded else "no TLSA records to mind"
        if newest.accept_deferrals:
            because = "the operator accepts deferrals: caches are not waited for"
        yield _install(server, newest, f"{because}; issued {int(now.since(newest.issued_at).total_seconds())} s ago")


_UNDER_WAY = ("installing", "installed", "reloaded", "verify_failed", "restoring", "restored")


_CHANGING: tuple[Verb, ...] = ("install", "reload", "verify", "rollback")


def _failing(state: State, server: MailServer) -> bool:
    """What is under way at a mail server does not get on: then something newer need not wait for it."""
    return any(f.lane.subject == server.name and f.lane.verb in _CHANGING for f in state.failing)


def _longest(obstacles: list[gates.Obstacle], what: str, at_most: timedelta) -> Wait:
    """The wait for the longest obstacle. One without a known end is observed again by `observe`."""
    unknown = [o for o in obstacles if o.remaining is None]
    worst = unknown[0] if unknown else max(obstacles, key=lambda o: o.remaining or timedelta(0))
    return Wait(worst.remaining or at_most, f"{what}: {worst}", swap=True)


def _install(server: MailServer, generation: Generation, because: str, *, rollback: bool = False) -> Install:
    return Install(
        server=server.name,
        generation=generation.id,
        rollback=rollback,
        accept_deferrals=generation.accept_deferrals,
        because=because,
    )


# -- what was begun is brought to its end ------------------------------------------------------------------------------


class Deployment(NamedTuple):
    """A generation at a mail server: `at` says how far it is."""

    view: View
    server: MailServer
    at: Installation
    generation: Generation

    @property
    def rollback(self) -> bool:
        """The generation is not the newest: it was put back."""
        newest = self.view.state.newest
        return newest is not None and self.generation.id != newest.id

    def forbidden(self, generation: Generation) -> bool:
        """Something stands against serving this generation here from now on."""
        return bool(gates.may_install(self.view.names, self.server.name, generation, self.view.now))


class Stage(NamedTuple):
    """What is done in a phase of a mail server, and why. Both are for people; a step's `because` begins with `why`."""

    done: str
    why: str
    offers: Callable[[Deployment, str], Iterator[Offer]] | None = None
    """None: another rule does it."""


def finish(view: View) -> Iterator[Offer]:
    """Installed, reloaded, verified, old processes gone, verified again; or put back. `STAGES` says what is next."""
    state = view.state
    for server in view.spec.mail_servers:
        at = state.mail_servers.get(server.name)
        generation = state.generation(at.generation) if at and at.generation else None
        stage = STAGES[at.phase] if at else None
        if at and generation and stage and stage.offers:
            yield from stage.offers(Deployment(view, server, at, generation), stage.why)


def _install_again(deployment: Deployment, why: str) -> Iterator[Offer]:
    """A swap that may have happened is done again. If DNS has changed: taken back, as the old key is still covered."""
    view, server, at, generation = deployment
    if at.strange:  # what somebody put there since, the operator did not choose to override
        generation = replace(generation, accept_deferrals=False)
    if generation.accept_deferrals or not deployment.forbidden(generation):
        yield _install(server, generation, why, rollback=deployment.rollback)
        return
    because = f"{why}, and caches forbid it by now"
    previous = _previous(view.state, at)
    if (
        previous
        and not deployment.forbidden(previous)
        and not gates.breaks_more(view.names, server.name, previous, generation, view.now)
    ):
        yield _install(server, previous, because, rollback=True)
    else:
        yield Wait(schedule.OBSERVE_AT_MOST, f"{server.name}: {because}")


def _reload(deployment: Deployment, why: str) -> Iterator[Offer]:
    yield Reload(server=deployment.server.name, because=why)


def _verify(deployment: Deployment, why: str) -> Iterator[Offer]:
    view, server, at, generation = deployment
    drained = at.reloaded_at is not None and view.now.since(at.reloaded_at) >= view.spec.drain
    yield Verify(server=server.name, generation=generation.id, drained=drained, budget=RELOADING, because=why)


def _verify_drained(deployment: Deployment, why: str) -> Iterator[Offer]:
    view, server, at, generation = deployment
    if at.reloaded_at is None:
        return
    left = view.spec.drain - view.now.since(at.reloaded_at)
    if left > timedelta(0):
        yield Wait(left, f"{server.name}: processes from before the reload may serve the old key")
    else:
        yield Verify(server=server.name, generation=generation.id, drained=True, because=why)


def _verify_new_service(deployment: Deployment, why: str) -> Iterator[Offer]:
    if not deployment.at.met_everywhere(deployment.server):
        yield Verify(server=deployment.server.name, generation=deployment.generation.id, drained=True, because=why)


def _restore(deployment: Deployment, why: str) -> Iterator[Offer]:
    yield Restore(server=deployment.server.name, because=why)


def _recover(deployment: Deployment, why: str) -> Iterator[Offer]:
    yield from _put_back(deployment)
    failure = deployment.view.state.failure(Lane("verify", deployment.server.name))
    if failure and failure.count >= RELOADS:
        yield from _verify(deployment, "further reloads would not help; what is served is verified")
    elif failure and failure.count % 3 == 0:  # a reload did not help twice: the files themselves may be wrong
        yield from _install_again(deployment, "verifications fail")
    else:
        yield Reload(server=deployment.server.name, because=why)


def _put_back(deployment: Deployment) -> Iterator[Offer]:
    """What was served before comes back if a new generation was met by TLS that fails, or not met at all."""
    server, at, state = deployment.server, deployment.at, deployment.view.state
    failure = state.failure(Lane("verify", server.name))
    if failure is None or failure.concerns != "served" or deployment.rollback:
        return
    because = f"verification failed: {failure.detail}"
    if previous := _previous(state, at):
        if not deployment.forbidden(previous):
            yield _install(server, previous, because, rollback=True)
    elif at.kept and all(g is None or g.unmanaged for g in map(state.generation, at.met)):
        # not once they were replaced for good: nothing covers their key any more
        unmanaged = [g for id_ in at.serves if (g := state.generation(id_)) and g.unmanaged]
        if not any(deployment.forbidden(g) for g in unmanaged):
            yield Restore(server=server.name, because=because)


def _previous(state: State, at: Installation) -> Generation | None:
    previous = state.generation(at.previous) if at.previous else None
    return None if previous is None or previous.unmanaged else previous


STAGES: dict[Phase, Stage] = {
    "inspected": Stage("installed, as soon as nothing stands against it (`deploy`)", ""),
    "installing": Stage(
        "installed again; taken back if caches forbid it by now",
        "the swap was begun, its end is not known",
        _install_again,
    ),
    "installed": Stage("reloaded", "installed; old processes go on with the old files", _reload),
    "reloaded": Stage("verified by handshakes", "reloaded; what is served is verified", _verify),
    "verify_failed": Stage(
        "put back if TLS was better before; else reloaded again, every third time installed again, nine times in all",
        "the verification failed; the reload may have been swallowed",
        _recover,
    ),
    "verified": Stage(
        "verified again as soon as `drain` has passed: nothing else is served",
        "old processes are gone by now",
        _verify_drained,
    ),
    "drained": Stage(
        "verified if a service is new; else now and then (`verify`)",
        "a service is new, and was not met yet",
        _verify_new_service,
    ),
    "drifted": Stage(
        "installed again; taken back if caches forbid it by now",
        "something else is served than was installed",
        _install_again,
    ),
    "restoring": Stage(
        "the files of before are put back again", "putting files back was begun, its end is not known", _restore
    ),
    "restored": Stage("inspected (`inspect`)", ""),
}


# -- and verified now and then -----------------------------------------------------------------------------------------


def verify(view: View) -> Iterator[Offer]:
    """What is served is verified now and then, so that somebody else's change is noticed before a sender meets it."""
    spec, state, _, now = view
    for server in spec.mail_servers:
        at = state.mail_servers.get(server.name)
        if at is None or at.generation is None or at.phase != "drained" or at.verified_at is None:
            continue
        left = spec.check_interval - now.since(at.verified_at)
        if state.asked_since(at.verified_at):
            yield Verify(server=server.name, generation=at.generation, drained=True, because="the operator asked")
        elif left > timedelta(0):
            yield Wait(left, f"{server.name} is verified again: check interval")
        else:
            yield Verify(server=server.name, generation=at.generation, drained=True, because="check interval")
    yield Wait(spec.check_interval, "nothing is due")
