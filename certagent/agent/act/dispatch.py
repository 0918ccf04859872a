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

from certagent.agent.edges import Edges
from certagent.errors import Error, Misconfigured, Rejected, Transient, Unsafe
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, Served
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import rollover
from certagent.lifecycle import steps as st
from certagent.lifecycle.fold import fold
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Generation, State
from certagent.mta.server import Server
from certagent.pki.credential import Credential
from certagent.pki.keytypes import algorithm

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
    step: st.AnyStep, spec: Spec, state: State, edges: Edges, now: Instant, note: Note
) -> tuple[ev.AnyEvent, ...]:
    """Do the step. Returns what happened; raises an `Error` where it did not.

    `note` journals at once what must not be forgotten however the step ends.
    """
    work = step.work
    match step:
        case st.MakeKeys():
            return (_make_keys(step, spec, edges),)
        case st.PlaceOrder():
            return (_place_order(step, spec, state, edges),)
        case st.AbandonOrder():
            return (ev.OrderAbandoned(key_type=step.key_type, work=work),)
        case st.Present():
            _write_txt(state.orders[step.key_type].challenges, edges, add=True)
            return (ev.Presented(key_type=step.key_type, work=work),)
        case st.Respond():
            return _answer(step, state, edges)
        case st.Finalize():
            return _finalize(step, spec, state, edges, now)
        case st.CleanUp():
            _write_txt(step.challenges, edges, add=False)
            return (ev.CleanedUp(challenges=step.challenges, work=work),)
        case st.Observe():
            observation = edges.resolver().observe(
                step.tlsa_name, expect=step.expect, gone=step.gone, budget=step.budget
            )
            return (
                ev.Observed(
                    tlsa_name=step.tlsa_name, observation=observation, mail_servers=step.mail_servers, work=work
                ),
            )
        case st.Publish():
            _gate(rollover.may_publish(spec, state, step.tlsa_name, step.values))
            _write_tlsa(step, state, edges, note)
            return (ev.Published(tlsa_name=step.tlsa_name, values=step.values, work=work),)
        case st.Unpublish():
            _gate(rollover.may_unpublish(spec, state, step.tlsa_name, step.values))
            _write_tlsa(step, state, edges, note)
            return (ev.Unpublished(tlsa_name=step.tlsa_name, values=step.values, work=work),)
        case st.Inspect():
            return (_inspect(step, spec, edges),)
        case st.Install():
            return _install_unless(step, spec, state, edges, now)
        case st.Restore():
            mta = edges.servers[step.server]
            mta.restore(edges.vault.kept(spec.name, step.server))
            mta.reload()
            return (ev.Restored(server=step.server, work=work),)
        case st.Reload():
            edges.servers[step.server].reload()
            return (ev.Reloaded(server=step.server, work=work),)
        case st.Verify():
            return _verify(step, spec, state, edges)
        case st.FetchRenewalInfo():
            return (_fetch_renewal_info(step, spec, state, edges),)
        case st.Revoke():
            return (_revoke(step, spec, state, edges),)
        case st.Delete():
            for id_ in step.generations:
                edges.vault.drop_chain(spec.name, id_)
            for id_ in step.keys:
                edges.vault.drop_keys(spec.name, id_)
            return (ev.deleted(step),)


def _gate(against: str | None) -> None:
    if against:
        raise Unsafe("dane.gate", against, "certagent status shows what the servers answer and what is served")


def _write_tlsa(step: st.Publish | st.Unpublish, state: State, edges: Edges, note: Note) -> None:
    zone, name = _where(step.tlsa_name, state, edges)
    with edges.zones.writing(zone, name) as provider:
        found = provider.get(name, "TLSA")
        before, ttl_s = (found.values, found.ttl_s) if found else (frozenset[str](), 0)
        adds = isinstance(step, st.Publish)
        after = before | step.values if adds else before - step.values
        after_ttl_s = max(ttl_s, step.ttl_s) if adds else ttl_s
        note(
            ev.Superseding(
                tlsa_name=step.tlsa_name, before=before, before_ttl_s=ttl_s, after=after, after_ttl_s=after_ttl_s
            )
        )
        if adds:
            provider.add(name, "TLSA", step.values, step.ttl_s)
        else:
            provider.remove(name, "TLSA", step.values)


def _where(tlsa_name: str, state: State, edges: Edges) -> tuple[str, str]:
    """The zone and name to write at, if they are still those that the last look was about."""
    zone, name = edges.resolver().final(tlsa_name)
    seen = state.tlsa_names[tlsa_name].observation
    if seen is None or (zone, name) != (seen.zone, seen.name):
        raise Transient(
            "dns.moved", f"{tlsa_name} leads to {name} now, and was seen to lead elsewhere", "it is looked at again"
        )
    return zone, name


# -- keys and certificates -------------------------------------------------------------------------------------------


def _make_keys(step: st.MakeKeys, spec: Spec, edges: Edges) -> ev.KeysMade:
    from certagent.pki import keys

    spki: dict[str, str] = {}
    for key_type in step.key_types:
        try:
            key = edges.vault.key(spec.name, step.keys, key_type)  # made before a crash
        except Misconfigured as error:
            if error.code != "vault.missing":
                raise
            key = keys.make(key_type)
            edges.vault.put_key(spec.name, step.keys, key_type, key)
        spki[key_type] = keys.spki_sha256(key)
    return ev.KeysMade(keys=step.keys, spki=spki, work=step.work)


def _place_order(step: st.PlaceOrder, spec: Spec, state: State, edges: Edges) -> ev.OrderPlaced:
    from certagent.pki import keys

    csr = keys.csr(edges.vault.key(spec.name, step.keys, step.key_type), spec.names)
    replaces = None
    if step.replaces and (old := state.generation(step.replaces)) and not old.revoke:
        from cryptography.x509 import load_pem_x509_certificate

        from certagent.acme import ari

        try:
            pem = edges.vault.chain(spec.name, step.replaces, step.key_type)
            replaces = ari.certificate_id(load_pem_x509_certificate(pem))
        except Misconfigured as error:  # a lost one is no reason not to order another
            if error.code != "vault.missing":
                raise
    edges.check_ahead(frozenset(spec.key_types))
    order = edges.issuer().order(csr, profile=spec.profile, replaces=replaces)
    challenges = tuple((c.name, c.value) for c in order.challenges)
    return ev.OrderPlaced(
        key_type=step.key_type,
        keys=step.keys,
        url=order.url,
        challenges=challenges,
        ca=spec.ca,
        work=step.work,
    )


def _by_name(challenges: tuple[tuple[str, str], ...], edges: Edges) -> dict[tuple[str, str], frozenset[str]]:
    """The values at each final (zone, name)."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for name in dict.fromkeys(n for n, _ in challenges):
        final = edges.resolver().final(name)
        found[final] = found.get(final, frozenset()) | {v for n, v in challenges if n == name}
    return found


def _write_txt(challenges: tuple[tuple[str, str], ...], edges: Edges, *, add: bool) -> None:
    for (zone, name), values in _by_name(challenges, edges).items():
        with edges.zones.writing(zone, name) as provider:
            if add:
                provider.add(name, "TXT", values, TXT_TTL_S)
            else:
                provider.remove(name, "TXT", values)


def _answer(step: st.Respond, state: State, edges: Edges) -> tuple[ev.AnyEvent, ...]:
    order = state.orders[step.key_type]
    resolver = edges.resolver()
    places = {name: values for (_, name), values in _by_name(order.challenges, edges).items()}

    def settle(name: str) -> None:
        resolver.settle_txt(name, places[name], SETTLE_TXT)

    with ThreadPoolExecutor(max_workers=8) as pool:  # eight names at once keep the servers' rate limits content
        list(pool.map(settle, places))
    try:
        edges.issuer().answer(order.url)
    except Rejected as error:
        return ev.OrderAbandoned(key_type=step.key_type), failed(error, step.work)
    return (ev.OrderReady(key_type=step.key_type, work=step.work),)


def _finalize(step: st.Finalize, spec: Spec, state: State, edges: Edges, now: Instant) -> tuple[ev.AnyEvent, ...]:
    from certagent.pki import bundle, keys

    key = edges.vault.key(spec.name, step.keys, step.key_type)
    try:
        pem = edges.issuer().finalize(state.orders[step.key_type].url, keys.csr(key, spec.names))
        _, chain = bundle.build(key, pem, names=spec.names, now=now.wall + SKEW)
    except (Rejected, Unsafe) as error:
        # the same order would give the same chain again
        return ev.OrderAbandoned(key_type=step.key_type), failed(error, step.work)
    edges.vault.put_chain(spec.name, step.generation, step.key_type, pem)
    return (
        ev.Issued(
            key_type=step.key_type,
            keys=step.keys,
            generation=step.generation,
            chain=chain,
            completes=step.completes,
            work=step.work,
        ),
    )


def _fetch_renewal_info(step: st.FetchRenewalInfo, spec: Spec, state: State, edges: Edges) -> ev.RenewalInfo:
    window = edges.issuer().renewal_info(edges.vault.chain(spec.name, step.generation, step.key_type))
    nothing = ev.RenewalInfo(
        generation=step.generation,
        key_type=step.key_type,
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
    old = state.renewals.get(step.key_type)
    same = old and old.generation == step.generation and (old.drawn.start, old.drawn.end) == (window.start, window.end)
    at = old.drawn.at if old and same else _draw(window.start, window.end)
    return ev.RenewalInfo(
        generation=step.generation,
        key_type=step.key_type,
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


def _revoke(step: st.Revoke, spec: Spec, state: State, edges: Edges) -> ev.Revoked:
    generation = state.generation(step.generation)
    if generation and generation.ca != spec.ca:
        hint = "configure it once more until it is revoked, or revoke it there by hand: its chain is in state_dir"
        raise Misconfigured("ca.other", f"{step.generation} was issued by {generation.ca or 'another CA'}", hint)
    for key_type in generation.chains if generation else ():
        edges.issuer().revoke(edges.vault.chain(spec.name, step.generation, key_type), 1)
    return ev.Revoked(generation=step.generation, work=step.work)


# -- mail servers ----------------------------------------------------------------------------------------------------


def _install_unless(step: st.Install, spec: Spec, state: State, edges: Edges, now: Instant) -> tuple[ev.AnyEvent, ...]:
    """The swap, on answers of this very moment: every server of every TLSA name that it matters to is asked first.

    What they say is told in any case; where it forbids the swap, the planner goes on from there.
    """
    generation = state.generation(step.generation)
    if generation is None or generation.keys is None:
        raise Unsafe("dane.gate", f"{step.generation} is not ours to install", "")
    observed: list[ev.AnyEvent] = []
    try:
        if not step.accept_deferrals:
            for tlsa_name in rollover.names_that_roll(spec, state, step.server, generation):
                expect = rollover.desired(spec, state, tlsa_name)
                observation = edges.resolver().observe(tlsa_name, expect=expect, gone=frozenset(), budget=timedelta(0))
                observed.append(
                    ev.Observed(
                        tlsa_name=tlsa_name, observation=observation, mail_servers=spec.tlsa_names.get(tlsa_name, ())
                    )
                )
            for event in observed:
                state = fold(state, event, now)
            against = rollover.may_install(spec, state, step.server, generation, now)
            _gate("; ".join(f"{o.tlsa_name} {o.why}" for o in against))
        return (*observed, _install(step, generation, spec, state, edges, now))
    except Error as error:
        return (*observed, failed(error, step.work))


def _install(
    step: st.Install, generation: Generation, spec: Spec, state: State, edges: Edges, now: Instant
) -> ev.Installed:
    from certagent.pki import bundle

    assert generation.keys is not None, "a foreign generation is not installed"
    mta = edges.servers[step.server]
    edges.check(step.server, frozenset(generation.chains))
    credentials: dict[str, Credential] = {}
    for key_type, chain in generation.chains.items():
        key = edges.vault.key(spec.name, generation.keys, key_type)
        stored = edges.vault.chain(spec.name, step.generation, key_type)
        credentials[key_type], found = bundle.build(key, stored, names=chain.names, now=now.wall)
        if found != chain:
            raise Unsafe("vault.changed", f"{step.generation}: the stored {key_type} chain is not the one issued", "")
    kept = _keep(step.server, mta, spec, state, edges)
    mta.install(credentials)
    return ev.Installed(server=step.server, generation=step.generation, kept=kept)


def _keep(server: str, mta: Server, spec: Spec, state: State, edges: Edges) -> bool:
    """Files that somebody else installed are kept before they are replaced; whether there are any now.

    Where some are ours already, a swap was interrupted: what was kept before it must not be lost.
    """
    ours = [_is_ours(der, state) for der in mta.installed().values()]
    if any(ours) and (all(ours) or edges.vault.kept(spec.name, server)):
        # an earlier generation of ours would be put back first
        return state.mail_servers[server].previous is None and bool(edges.vault.kept(spec.name, server))
    files = mta.saved()
    if files:
        edges.vault.keep(spec.name, server, files)
    return bool(files)


def _is_ours(der: bytes, state: State) -> bool:
    from certagent.pki import bundle, tlsa

    return tlsa.of_key(bundle.facts([der]).spki) in state.made


def _inspect(step: st.Inspect, spec: Spec, edges: Edges) -> ev.Inspected:
    """Every kind of key is looked for: what is served need not be of a kind that is configured. Raises: `mta.down`."""
    services = next(t.services for t in spec.mail_servers if t.name == step.server)
    kinds = {algorithm(a): a for a in ("ecdsa-p256", "rsa-2048", *spec.key_types)}
    served = tuple(edges.probe(services, tuple(kinds.values())))
    missed = [s for s in served if isinstance(s.chain, Unknown) and not s.chain.reached]
    if missed:
        where = sorted(
            {f"{s.host} [{s.address}]:{s.port}: {s.chain.why}" for s in missed if isinstance(s.chain, Unknown)}
        )
        detail = "; ".join(where[:4])
        raise Transient("mta.down", detail, _RUNNING)
    return ev.Inspected(server=step.server, served=served, work=step.work)


def _verify(step: st.Verify, spec: Spec, state: State, edges: Edges) -> tuple[ev.AnyEvent, ...]:
    generation = state.generation(step.generation)
    assert generation is not None, "a proof is planned only for what the state knows"
    services = next(t.services for t in spec.mail_servers if t.name == step.server)
    key_types = (*generation.chains, *(_left(step.server, generation, state) if step.drained else ()))
    deadline = time.monotonic() + step.budget.total_seconds()
    pause_s = 0.02
    while True:
        served = tuple(edges.probe(services, key_types))
        wrong = [s for s in served if not _is(s, generation)]
        if not wrong or time.monotonic() >= deadline:
            break
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 1.0)
    if not wrong and served:
        done = ev.Verified(
            server=step.server, generation=step.generation, drained=step.drained, served=served, work=step.work
        )
        return (done,)
    detail = "; ".join(_tell(s, generation) for s in wrong[:4]) or "there is no address to prove"
    spoke = any(isinstance(s.chain, Chain) or s.chain.reached for s in wrong)
    if spoke:
        hint = "look at the mail server's own log for TLS errors"
        error: Error = Transient("mta.not_served", detail, hint)
        return (
            ev.VerifyFailed(server=step.server, generation=step.generation, served=served),
            failed(error, step.work),
        )
    raise Transient("mta.down", detail, _RUNNING)


def _left(server: str, generation: Generation, state: State) -> tuple[str, ...]:
    """Kinds of key that were served here until now and are not in the generation: they must be gone."""
    kinds = {algorithm(key_type) for key_type in generation.chains}
    older = {algorithm(a): a for g in state.serving((server,)) for a in g.chains if algorithm(a) not in kinds}
    return tuple(older.values())


def _is(served: Served, generation: Generation) -> bool:
    if isinstance(served.chain, Unknown):
        return served.key_type not in generation.chains and served.chain.reached
    return served.chain == generation.chains.get(served.key_type)


def _tell(served: Served, generation: Generation) -> str:
    if isinstance(served.chain, Unknown):
        return f"{served.where}: {served.chain.why}"
    expected = generation.chains.get(served.key_type)
    if expected is None:  # where one kind is installed, the server chooses
        return f"{served.where}: serves a kind of key that is not installed; take it out, or list both under keys"
    if served.chain.spki != expected.spki:
        return f"{served.where}: serves another key, {served.chain.spki[:12]} in place of {expected.spki[:12]}"
    if served.chain.serial != expected.serial:
        return f"{served.where}: serves certificate {served.chain.serial} in place of {expected.serial}"
    sent, due = served.chain.issuers, expected.issuers
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
