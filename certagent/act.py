"""The only place that asks and changes the world: one function a step, each giving the events that tell its outcome.

Everything here may be done twice. Before a swap and before records are added or removed the gates of the core are asked
once more, with the state as it is at that moment. Errors are those of the edges, and `dane.gate` (Unsafe).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from certagent.errors import Error, Misconfigured, Rejected, Transient, Unsafe
from certagent.lifecycle import events as ev
from certagent.lifecycle import rollover
from certagent.lifecycle import steps as st
from certagent.lifecycle.fold import fold
from certagent.lifecycle.model import Instant, Served, Spec, Unknown
from certagent.lifecycle.state import Generation, State
from certagent.mta.server import Server
from certagent.pki.algorithms import family
from certagent.pki.leaf import Leaf
from certagent.secret import Secret
from certagent.world import World

TXT_TTL_S = 60
"""Nobody should keep a challenge longer than it lives; providers with a minimum raise it."""
SETTLE_TXT = timedelta(seconds=10)
"""How long one step asks for the challenge at every authoritative server; slower ones are asked again with back-off."""
SKEW = timedelta(minutes=1)
"""A chain may begin a little later than the clock said that was read before it was made; `Install` asks again."""


Note = Callable[[ev.AnyEvent], object]
"""Journals an event at once."""

_RUNNING = "is the mail server running, and listening there? an address that this host cannot reach: list addresses"


def act(  # noqa: C901, PLR0911, PLR0912 -- one line a step
    step: st.AnyStep, spec: Spec, state: State, world: World, now: Instant, note: Note
) -> tuple[ev.AnyEvent, ...]:
    """Do the step. Returns what happened; raises an `Error` where it did not.

    `note` journals at once what must not be forgotten however the step ends.
    """
    work = step.work
    match step:
        case st.MakeKeys():
            return (_make_keys(step, spec, world),)
        case st.PlaceOrder():
            return (_place_order(step, spec, state, world),)
        case st.DropOrder():
            return (ev.OrderGone(algorithm=step.algorithm, work=work),)
        case st.Present():
            _write_txt(state.orders[step.algorithm].challenges, world, add=True)
            return (ev.Presented(algorithm=step.algorithm, work=work),)
        case st.AnswerOrder():
            return _answer(step, state, world)
        case st.Finalize():
            return _finalize(step, spec, state, world, now)
        case st.Tidy():
            _write_txt(step.challenges, world, add=False)
            return (ev.Tidied(challenges=step.challenges, work=work),)
        case st.Look():
            sighting = world.resolver().sight(step.owner, expect=step.expect, gone=step.gone, budget=step.budget)
            return (ev.Looked(owner=step.owner, sighting=sighting, targets=step.targets, work=work),)
        case st.Publish():
            _gate(rollover.may_publish(spec, state, step.owner, step.values))
            _write_tlsa(step, state, world, note)
            return (ev.Published(owner=step.owner, values=step.values, work=work),)
        case st.Unpublish():
            _gate(rollover.may_unpublish(spec, state, step.owner, step.values))
            _write_tlsa(step, state, world, note)
            return (ev.Unpublished(owner=step.owner, values=step.values, work=work),)
        case st.Survey():
            return (_survey(step, spec, world),)
        case st.Install():
            return _install_unless(step, spec, state, world, now)
        case st.Restore():
            server = world.servers[step.target]
            server.restore(world.vault.kept(spec.name, step.target))
            server.reload()
            return (ev.Restored(target=step.target, work=work),)
        case st.Reload():
            world.servers[step.target].reload()
            return (ev.Reloaded(target=step.target, work=work),)
        case st.Prove():
            return _prove(step, spec, state, world)
        case st.AskRenewal():
            return (_ask_renewal(step, spec, state, world),)
        case st.Revoke():
            return (_revoke(step, spec, state, world),)
        case st.Forget():
            for id_ in step.generations:
                world.vault.drop_chain(spec.name, id_)
            for id_ in step.keys:
                world.vault.drop_keys(spec.name, id_)
            return (ev.forgotten(step),)


def _gate(against: str | None) -> None:
    if against:
        raise Unsafe("dane.gate", against, "certagent status shows what the servers answer and what is served")


def _write_tlsa(step: st.Publish | st.Unpublish, state: State, world: World, note: Note) -> None:
    zone, name = _where(step.owner, state, world)
    with world.zones.writing(zone, name) as provider:
        found = provider.get(name, "TLSA")
        before, ttl_s = (found.values, found.ttl_s) if found else (frozenset[str](), 0)
        adds = isinstance(step, st.Publish)
        after = before | step.values if adds else before - step.values
        after_ttl_s = max(ttl_s, step.ttl_s) if adds else ttl_s
        note(ev.Superseding(owner=step.owner, before=before, before_ttl_s=ttl_s, after=after, after_ttl_s=after_ttl_s))
        if adds:
            provider.add(name, "TLSA", step.values, step.ttl_s)
        else:
            provider.remove(name, "TLSA", step.values)


def _where(owner: str, state: State, world: World) -> tuple[str, str]:
    """The zone and name to write at, if they are still those that the last look was about."""
    zone, name = world.resolver().final(owner)
    seen = state.owners[owner].sighting
    if seen is None or (zone, name) != (seen.zone, seen.name):
        raise Transient(
            "dns.moved", f"{owner} leads to {name} now, and was seen to lead elsewhere", "it is looked at again"
        )
    return zone, name


# -- keys and certificates -------------------------------------------------------------------------------------------


def _make_keys(step: st.MakeKeys, spec: Spec, world: World) -> ev.KeysMade:
    from certagent.pki import keys

    spki: dict[str, str] = {}
    for algorithm in step.algorithms:
        try:
            key = world.vault.key(spec.name, step.keys, algorithm)  # made before a crash
        except Misconfigured as error:
            if error.code != "vault.missing":
                raise
            key = keys.make(algorithm)
            world.vault.put_key(spec.name, step.keys, algorithm, key)
        spki[algorithm] = keys.spki_sha256(key)
    return ev.KeysMade(keys=step.keys, spki=spki, work=step.work)


def _place_order(step: st.PlaceOrder, spec: Spec, state: State, world: World) -> ev.OrderPlaced:
    from certagent.pki import keys

    csr = keys.csr(world.vault.key(spec.name, step.keys, step.algorithm), spec.names)
    replaces = None
    if step.replaces and (old := state.generation(step.replaces)) and not old.revoke:
        from cryptography.x509 import load_pem_x509_certificate

        from certagent.ca import ari

        try:
            pem = world.vault.chain(spec.name, step.replaces, step.algorithm)
            replaces = ari.certificate_id(load_pem_x509_certificate(pem))
        except Misconfigured as error:  # a lost one is no reason not to order another
            if error.code != "vault.missing":
                raise
    world.check_ahead(frozenset(spec.algorithms))
    order = world.issuer().order(csr, profile=spec.profile, replaces=replaces)
    challenges = tuple((c.name, c.value) for c in order.challenges)
    return ev.OrderPlaced(
        algorithm=step.algorithm,
        keys=step.keys,
        url=order.url,
        challenges=challenges,
        ca=spec.ca,
        work=step.work,
    )


def _by_name(challenges: tuple[tuple[str, str], ...], world: World) -> dict[tuple[str, str], frozenset[str]]:
    """The values at each final (zone, name)."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for name in dict.fromkeys(n for n, _ in challenges):
        final = world.resolver().final(name)
        found[final] = found.get(final, frozenset()) | {v for n, v in challenges if n == name}
    return found


def _write_txt(challenges: tuple[tuple[str, str], ...], world: World, *, add: bool) -> None:
    for (zone, name), values in _by_name(challenges, world).items():
        with world.zones.writing(zone, name) as provider:
            if add:
                provider.add(name, "TXT", values, TXT_TTL_S)
            else:
                provider.remove(name, "TXT", values)


def _answer(step: st.AnswerOrder, state: State, world: World) -> tuple[ev.AnyEvent, ...]:
    order = state.orders[step.algorithm]
    resolver = world.resolver()
    places = {name: values for (_, name), values in _by_name(order.challenges, world).items()}

    def settle(name: str) -> None:
        resolver.settle_txt(name, places[name], SETTLE_TXT)

    with ThreadPoolExecutor(max_workers=8) as pool:  # eight names at once keep the servers' rate limits content
        list(pool.map(settle, places))
    try:
        world.issuer().answer(order.url)
    except Rejected as error:
        return ev.OrderGone(algorithm=step.algorithm), failed(error, step.work)
    return (ev.OrderReady(algorithm=step.algorithm, work=step.work),)


def _finalize(step: st.Finalize, spec: Spec, state: State, world: World, now: Instant) -> tuple[ev.AnyEvent, ...]:
    from certagent.pki import chain, keys

    key = world.vault.key(spec.name, step.keys, step.algorithm)
    try:
        pem = world.issuer().finalize(state.orders[step.algorithm].url, keys.csr(key, spec.names))
        _, leaf = chain.build(key, pem, names=spec.names, now=now.wall + SKEW)
    except (Rejected, Unsafe) as error:
        # the same order would give the same chain again
        return ev.OrderGone(algorithm=step.algorithm), failed(error, step.work)
    world.vault.put_chain(spec.name, step.generation, step.algorithm, pem)
    return (
        ev.Issued(
            algorithm=step.algorithm,
            keys=step.keys,
            generation=step.generation,
            leaf=leaf,
            completes=step.completes,
            work=step.work,
        ),
    )


def _ask_renewal(step: st.AskRenewal, spec: Spec, state: State, world: World) -> ev.RenewalInfo:
    window = world.issuer().renewal_info(world.vault.chain(spec.name, step.generation, step.algorithm))
    nothing = ev.RenewalInfo(
        generation=step.generation,
        algorithm=step.algorithm,
        start=None,
        end=None,
        at=None,
        # RFC 9773 section 4.3.3: no answer that helps; six hours, though a CA that has no ARI today needs no more
        # than a day
        ask_again_s=86400,
        work=step.work,
    )
    if window is None:
        return nothing
    old = state.renewals.get(step.algorithm)
    same = old and old.generation == step.generation and (old.drawn.start, old.drawn.end) == (window.start, window.end)
    at = old.drawn.at if old and same else _draw(window.start, window.end)
    return ev.RenewalInfo(
        generation=step.generation,
        algorithm=step.algorithm,
        start=window.start,
        end=window.end,
        at=at,
        ask_again_s=window.retry_after_s,
        explanation_url=window.explanation_url,
        work=step.work,
    )


def _draw(start: datetime, end: datetime) -> datetime:
    """A moment in the window, once: RFC 9773 section 4.2 wants it uniform, and a new draw at each look would never
    come.
    """
    return start + (end - start) * random.random()  # noqa: S311 -- spreads load, guards nothing


def _revoke(step: st.Revoke, spec: Spec, state: State, world: World) -> ev.Revoked:
    generation = state.generation(step.generation)
    if generation and generation.ca != spec.ca:
        hint = "configure it once more until it is revoked, or revoke it there by hand: its chain is in state_dir"
        raise Misconfigured("ca.other", f"{step.generation} was issued by {generation.ca or 'another CA'}", hint)
    for algorithm in generation.leaves if generation else ():
        world.issuer().revoke(world.vault.chain(spec.name, step.generation, algorithm), 1)
    return ev.Revoked(generation=step.generation, work=step.work)


# -- mail servers ----------------------------------------------------------------------------------------------------


def _install_unless(step: st.Install, spec: Spec, state: State, world: World, now: Instant) -> tuple[ev.AnyEvent, ...]:
    """The swap, on answers of this very moment: every server of every TLSA name that it matters to is asked first.

    What they say is told in any case; where it forbids the swap, the planner goes on from there.
    """
    generation = state.generation(step.generation)
    if generation is None or generation.keys is None:
        raise Unsafe("dane.gate", f"{step.generation} is not ours to install", "")
    looked: list[ev.AnyEvent] = []
    try:
        if not step.accept_deferrals:
            for owner in rollover.names_that_roll(spec, state, step.target, generation):
                expect = rollover.desired(spec, state, owner)
                sighting = world.resolver().sight(owner, expect=expect, gone=frozenset(), budget=timedelta(0))
                looked.append(ev.Looked(owner=owner, sighting=sighting, targets=spec.owners.get(owner, ())))
            for event in looked:
                state = fold(state, event, now)
            against = rollover.may_install(spec, state, step.target, generation, now)
            _gate("; ".join(f"{o.owner} {o.why}" for o in against))
        return (*looked, _install(step, generation, spec, state, world, now))
    except Error as error:
        return (*looked, failed(error, step.work))


def _install(
    step: st.Install, generation: Generation, spec: Spec, state: State, world: World, now: Instant
) -> ev.Installed:
    from certagent.pki import chain

    assert generation.keys is not None, "a foreign generation is not installed"
    server = world.servers[step.target]
    world.check(step.target, frozenset(generation.leaves))
    pems: dict[str, Secret[bytes]] = {}
    for algorithm, leaf in generation.leaves.items():
        key = world.vault.key(spec.name, generation.keys, algorithm)
        stored = world.vault.chain(spec.name, step.generation, algorithm)
        pems[algorithm], found = chain.build(key, stored, names=leaf.names, now=now.wall)
        if found != leaf:
            raise Unsafe("vault.changed", f"{step.generation}: the stored {algorithm} chain is not the one issued", "")
    kept = _keep(step.target, server, spec, state, world)
    server.install(pems)
    return ev.Installed(target=step.target, generation=step.generation, kept=kept)


def _keep(target: str, server: Server, spec: Spec, state: State, world: World) -> bool:
    """Files that somebody else installed are kept before they are replaced; whether there are any now.

    Where some are ours already, a swap was interrupted: what was kept before it must not be lost.
    """
    ours = [_is_ours(der, state) for der in server.installed().values()]
    if any(ours) and (all(ours) or world.vault.kept(spec.name, target)):
        # an earlier generation of ours would be put back first
        return state.targets[target].previous is None and bool(world.vault.kept(spec.name, target))
    files = server.saved()
    if files:
        world.vault.keep(spec.name, target, files)
    return bool(files)


def _is_ours(der: bytes, state: State) -> bool:
    from certagent.pki import chain, tlsa

    return tlsa.of_key(chain.facts([der]).spki) in state.made


def _survey(step: st.Survey, spec: Spec, world: World) -> ev.Surveyed:
    """Every kind of key is looked for: what is served need not be of a kind that is configured. Raises: `mta.down`."""
    services = next(t.services for t in spec.targets if t.name == step.target)
    kinds = {family(a): a for a in ("ecdsa-p256", "rsa-2048", *spec.algorithms)}
    served = tuple(world.probe(services, tuple(kinds.values())))
    missed = [s for s in served if isinstance(s.leaf, Unknown) and not s.leaf.reached]
    if missed:
        where = sorted(
            {f"{s.host} [{s.address}]:{s.port}: {s.leaf.why}" for s in missed if isinstance(s.leaf, Unknown)}
        )
        detail = "; ".join(where[:4])
        raise Transient("mta.down", detail, _RUNNING)
    return ev.Surveyed(target=step.target, served=served, work=step.work)


def _prove(step: st.Prove, spec: Spec, state: State, world: World) -> tuple[ev.AnyEvent, ...]:
    generation = state.generation(step.generation)
    assert generation is not None, "a proof is planned only for what the state knows"
    services = next(t.services for t in spec.targets if t.name == step.target)
    algorithms = (*generation.leaves, *(_left(step.target, generation, state) if step.drained else ()))
    deadline = time.monotonic() + step.budget.total_seconds()
    pause_s = 0.02
    while True:
        served = tuple(world.probe(services, algorithms))
        wrong = [s for s in served if not _is(s, generation)]
        if not wrong or time.monotonic() >= deadline:
            break
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 1.0)
    if not wrong and served:
        done = ev.Proven(
            target=step.target, generation=step.generation, drained=step.drained, served=served, work=step.work
        )
        return (done,)
    detail = "; ".join(_tell(s, generation) for s in wrong[:4]) or "there is no address to prove"
    spoke = any(isinstance(s.leaf, Leaf) or s.leaf.reached for s in wrong)
    if spoke:
        hint = "look at the mail server's own log for TLS errors"
        error: Error = Transient("mta.not_served", detail, hint)
        return (
            ev.Disproven(target=step.target, generation=step.generation, served=served),
            failed(error, step.work),
        )
    raise Transient("mta.down", detail, _RUNNING)


def _left(target: str, generation: Generation, state: State) -> tuple[str, ...]:
    """Kinds of key that were served here until now and are not in the generation: they must be gone."""
    kinds = {family(algorithm) for algorithm in generation.leaves}
    older = {family(a): a for g in state.serving((target,)) for a in g.leaves if family(a) not in kinds}
    return tuple(older.values())


def _is(served: Served, generation: Generation) -> bool:
    if isinstance(served.leaf, Unknown):
        return served.algorithm not in generation.leaves and served.leaf.reached
    return served.leaf == generation.leaves.get(served.algorithm)


def _tell(served: Served, generation: Generation) -> str:
    if isinstance(served.leaf, Unknown):
        return f"{served.where}: {served.leaf.why}"
    expected = generation.leaves.get(served.algorithm)
    if expected is None:  # where one kind is installed, the server chooses
        return f"{served.where}: serves a kind of key that is not installed; take it out, or list both under keys"
    if served.leaf.spki != expected.spki:
        return f"{served.where}: serves another key, {served.leaf.spki[:12]} in place of {expected.spki[:12]}"
    if served.leaf.serial != expected.serial:
        return f"{served.where}: serves certificate {served.leaf.serial} in place of {expected.serial}"
    sent, due = served.leaf.issuers, expected.issuers
    how = "in another order" if sorted(sent) == sorted(due) else f"{len(sent)} in place of {len(due)}, or others"
    return f"{served.where}: serves the right certificate with the wrong issuers: {how}"


def failed(error: Error, work: str) -> ev.Failed:
    """The event of an error; the jitter of its retry is drawn here, once."""
    return ev.Failed(
        work=work,
        kind=error.kind,
        code=error.code,
        detail=error.detail,
        hint=error.hint,
        retry_after_s=error.retry_after_s,
        jitter=random.random(),  # noqa: S311 -- spreads load, guards nothing
    )
