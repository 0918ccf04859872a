"""Mail servers: what they serve is inspected, a generation is installed, and every address verified."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from msgspec.structs import replace

from certagent.agent.act.outcome import failed, gate
from certagent.agent.edges import Edges
from certagent.errors import BadChain, Error, Misconfigured, NotServed, Transient, Unsafe
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, Served
from certagent.facts.unknown import Unknown
from certagent.host import mounts
from certagent.lifecycle import events as ev
from certagent.lifecycle import gates
from certagent.lifecycle import steps as st
from certagent.lifecycle.dropped import dropped, in_words
from certagent.lifecycle.fold import fold
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import Generation, Installation, State
from certagent.lifecycle.tlsaname import TlsaNames
from certagent.mta.server import Server, written
from certagent.pki.credential import Credential
from certagent.pki.keytypes import algorithm
from certagent.report.words import count

_RUNNING = (
    "start the mail server, or let it listen there; if this host cannot reach the address, list addresses that it can"
)
_BUSY = "certagent tries again; let this host connect more often"
NOT_OFFERED = "it is not the new certificate: have TLS offered there to this host, or take that service out"
_TURNED_AWAY = "let this host in, or say in its service how clients come: ehlo, source"


def install_unless(step: st.Install, spec: Spec, state: State, edges: Edges, now: Instant) -> tuple[ev.AnyEvent, ...]:
    """The swap, on answers of this very moment: every server of every TLSA name that it matters to is asked first.

    What they say is journaled in any case; if it forbids the swap, the planner goes on from there.
    """
    generation = state.generation(step.generation)
    if generation is None or generation.keys is None:
        raise Unsafe("dane.gate", f"{step.generation} is not ours to install", "")
    observed: list[ev.AnyEvent] = []
    try:
        if not step.accept_deferrals:
            if TlsaNames(spec, state).at(step.server):
                observed += surprises((step.server,), spec, state, edges)
            for event in observed:
                state = fold(state, event, now)
            for name in gates.names_that_roll(TlsaNames(spec, state), step.server, generation):
                observation = edges.resolver().observe(
                    name.name,
                    expect=name.desired,
                    gone=frozenset(),
                    budget=timedelta(0),
                    unproven=name.undeclared,
                )
                observed.append(
                    ev.Observed(
                        tlsa_name=name.name,
                        observation=observation,
                        mail_servers=name.mail_servers,
                        undeclared=name.undeclared,
                        early=name.known.early(now),
                    )
                )
                state = fold(state, observed[-1], now)
            against = gates.may_install(TlsaNames(spec, state), step.server, generation, now)
            gate("; ".join(map(str, against)))
        return (*observed, _install(step, generation, spec, state, edges, now))
    except Error as error:
        return (*observed, failed(error, step.lane))


def surprises(servers: tuple[str, ...], spec: Spec, state: State, edges: Edges) -> list[ev.AnyEvent]:
    """What these mail servers serve at this very moment, of every key type, where the journal has it otherwise.

    A host whose addresses cannot be looked up shows nothing new.
    """
    events: list[ev.AnyEvent] = []
    for server in spec.mail_servers:
        if server.name not in servers:
            continue
        try:
            served = tuple(edges.probe(server.services, every_kind(spec)))
            if served and not any(isinstance(one.chain, Chain) or one.chain.reached for one in served):
                served = _to_come(server.name, served, state, edges)
        except Error:
            continue
        if state.surprises(server.name, served):
            events.append(ev.Met(server=server.name, served=served))
    return events


def _to_come(server: str, served: tuple[Served, ...], state: State, edges: Edges) -> tuple[Served, ...]:
    """Of a mail server that does not answer: what others put into its files, which it serves as soon as it does."""
    known = {chain.spki for g in state.serving((server,)) for chain in g.chains.values()}  # files have no issuers here
    chains = (chain for chain in _files_of_others(server, state, edges) if chain.spki not in known)
    return (*served, *(replace(served[0], chain=chain) for chain in chains))


def _install(
    step: st.Install, generation: Generation, spec: Spec, state: State, edges: Edges, now: Instant
) -> ev.Installed:
    from certagent.pki import bundle

    assert generation.keys is not None, "an unmanaged generation is not installed"
    mta = edges.servers[step.server]
    edges.check(step.server, frozenset(generation.chains))
    credentials: dict[str, Credential] = {}
    for key_type, chain in generation.chains.items():
        key = edges.vault.key(spec.name, generation.keys, key_type)
        stored = edges.vault.chain(spec.name, step.generation, key_type)
        try:
            credentials[key_type], found = bundle.build(key, stored, names=chain.names, now=now.wall)
        except BadChain as error:  # it was good when it came: this is no matter of the CA
            raise Unsafe(error.code, error.detail, error.hint) from None
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


def inspect(step: st.Inspect, spec: Spec, state: State, edges: Edges, now: Instant) -> tuple[ev.AnyEvent, ...]:
    """Every key type is looked for: what is served need not be of a kind that is configured.

    Names that the new certificate would take away are a failure as well. Of a server that does not answer everywhere,
    those in the files count.

    Raises:
        Transient: `mta.down`, `mta.busy`, `mta.turned_away`.
        Misconfigured: `mta.drops_names`.
    """
    services = next(t.services for t in spec.mail_servers if t.name == step.server)
    served = tuple(edges.probe(services, every_kind(spec)))
    chains = [one.chain for one in served if isinstance(one.chain, Chain)]
    if missed := [s for s in served if isinstance(s.chain, Unknown) and not s.chain.reached]:
        if lost := dropped(spec, [*chains, *_files_of_others(step.server, state, edges)], spec.names, now.wall):
            raise _drops_names(step.server, spec, lost)
        raise unmet(missed, edges.servers[step.server])
    inspected = ev.Inspected(server=step.server, served=served, lane=step.lane)
    if lost := dropped(spec, chains, spec.names, now.wall):
        return replace(inspected, lane=None), failed(_drops_names(step.server, spec, lost), step.lane)
    return (inspected,)


def every_kind(spec: Spec) -> tuple[str, ...]:
    """One key type of each algorithm: what is served need not be of a kind that is configured."""
    return tuple({algorithm(a): a for a in ("ecdsa-p256", "rsa-2048", *spec.key_types)}.values())


def _drops_names(server: str, spec: Spec, names: tuple[str, ...]) -> Misconfigured:
    detail, hint = in_words(spec, names)
    return Misconfigured("mta.drops_names", f"{server}: {detail}", hint)


def _files_of_others(server: str, state: State, edges: Edges) -> list[Chain]:
    from certagent.pki import bundle

    leaves = edges.servers[server].installed().values()
    return [bundle.facts([der]) for der in leaves if not _is_ours(der, state)]


def verify(step: st.Verify, spec: Spec, state: State, edges: Edges) -> tuple[ev.AnyEvent, ...]:
    """Ask every address until each serves the generation, at most for the step's budget."""
    generation = state.generation(step.generation)
    assert generation is not None, "a verification is planned only for what the state knows"
    services = next(t.services for t in spec.mail_servers if t.name == step.server)
    key_types = (*generation.chains, *(_left(step.server, generation, state) if step.drained else ()))

    def is_wrong(served: Served) -> bool:
        return not _is(served, generation)

    served = tuple(edges.probe(services, key_types, wrong=is_wrong, budget_s=step.budget.total_seconds()))
    wrong = [s for s in served if is_wrong(s)]
    if step.drained and served and not wrong and (others := others_in_files(step.server, generation, edges)):
        served = (*served, *(replace(served[0], chain=chain) for chain in others))
        met = ev.VerifyFailed(server=step.server, generation=step.generation, served=served, drained=True)
        return met, failed(replaced(step.server, others), step.lane)
    if not wrong and served:
        done = ev.Verified(
            server=step.server, generation=step.generation, drained=step.drained, served=served, lane=step.lane
        )
        return (done,)
    spoke = [s for s in wrong if isinstance(s.chain, Chain) or s.chain.reached]
    if not spoke:
        raise unmet(wrong, edges.servers[step.server])
    at = state.mail_servers[step.server]
    as_before = all(_as_before(s, at) for s in spoke)
    detail = "; ".join(_difference(s, generation) for s in (wrong if as_before else spoke)[:4])
    error: Error
    if as_before:
        error = Transient("mta.not_offered", detail, NOT_OFFERED)
    else:
        hint = "look at the mail server's own log for TLS errors, and whether its ciphers allow the key type"
        if alone := mounts.alone(written(edges.servers[step.server])):
            hint = f"{alone[0]}: {mounts.REMEDY}"
        error = NotServed("mta.not_served", detail, hint)
    met = ev.VerifyFailed(
        server=step.server, generation=step.generation, served=served, drained=step.drained, as_before=as_before
    )
    return met, failed(error, step.lane)


def others_in_files(server: str, generation: Generation, edges: Edges) -> list[Chain]:
    """Other certificates than these in the files of a mail server: it serves them as soon as it reads them again."""
    from certagent.pki import bundle

    serials = {chain.serial for chain in generation.chains.values()}
    chains = (bundle.facts([der]) for der in edges.servers[server].installed().values())
    return [chain for chain in chains if chain.serial not in serials]


def replaced(server: str, others: Sequence[Chain]) -> NotServed:
    """What is said of them."""
    found = " and ".join(f"{chain.serial} with key {chain.spki[:12]}" for chain in others)
    detail = f"{server}: its files hold another certificate than it should serve, {found}; the next reload shows it"
    hint = "see what else writes these files, and stop it; certagent puts its own back as soon as nothing forbids it"
    return NotServed("mta.replaced", detail, hint)


def _as_before(served: Served, at: Installation) -> bool:
    """No certificate is shown, as before the swap; or a service is new, and its first answer is that."""
    new = at.phase == "drained" and f"{served.host}:{served.port}" not in at.services
    return served.unseen is not None and (new or served.unseen in at.before)


def unmet(missed: Sequence[Served], server: Server) -> Transient:
    """Nobody came to TLS. `mta.busy`: later it may; `mta.turned_away`: not like this; `mta.down`: nobody was met."""
    why = {f"{one.place}: {one.chain.why}": one.chain.refusal for one in missed if isinstance(one.chain, Unknown)}
    detail = "; ".join(sorted(why)[:4]) or "there is no address to verify"
    refusals = {*why.values()}
    if "busy" in refusals:
        limits = server.connection_limits
        return Transient("mta.busy", detail, f"{_BUSY}: {limits}" if limits else _BUSY)
    if "host" in refusals:
        return Transient("mta.turned_away", detail, _TURNED_AWAY)
    return Transient("mta.down", detail, _RUNNING)


def _left(server: str, generation: Generation, state: State) -> tuple[str, ...]:
    """Key types that were served here until now and are not in the generation: they must be gone."""
    kinds = {algorithm(key_type) for key_type in generation.chains}
    older = {algorithm(a): a for g in state.serving((server,)) for a in g.chains if algorithm(a) not in kinds}
    return tuple(older.values())


def _is(served: Served, generation: Generation) -> bool:
    if isinstance(served.chain, Unknown):
        return served.key_type not in generation.chains and served.chain.reached
    return served.chain == generation.chains.get(served.key_type)


def _difference(served: Served, generation: Generation) -> str:
    if isinstance(served.chain, Unknown):
        return f"{served.where}: {served.chain.why}"
    expected = generation.chains.get(served.key_type)
    if expected is None:  # where one kind is installed, the server chooses
        return f"{served.where}: serves a key type that is not installed; take it out, or list both under keys"
    if served.chain.spki != expected.spki:
        return f"{served.where}: serves another key, {served.chain.spki[:12]} in place of {expected.spki[:12]}"
    if served.chain.serial != expected.serial:
        return f"{served.where}: serves certificate {served.chain.serial} in place of {expected.serial}"
    sent, due = served.chain.issuers, expected.issuers
    how = (
        "in another order"
        if sorted(sent) == sorted(due)
        else f"{count(len(sent), 'issuer')} in place of {len(due)}, or others"
    )
    return f"{served.where}: serves the right certificate with the wrong issuers: {how}"
