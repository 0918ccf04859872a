"""Keys and certificates: made, ordered, finalized, revoked; and when the CA wants them renewed."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import datetime, timedelta

from msgspec.structs import replace

from certagent.acme.issuer import Issuer
from certagent.agent.act.outcome import failed
from certagent.agent.edges import Edges
from certagent.errors import Missing, Rejected, Unsafe
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.pki.credential import Credential
from certagent.secret import Secret

SKEW = timedelta(minutes=1)
"""A chain may begin a little later than the clock said that was read before it was made; `Install` asks again."""


def make_keys(step: st.MakeKeys, spec: Spec, edges: Edges) -> ev.KeysMade:
    """Make the keys that are not in the vault yet."""
    from certagent.pki import keys

    spki: dict[str, str] = {}
    for key_type in step.key_types:
        try:
            key = edges.vault.key(spec.name, step.keys, key_type)  # made before a crash
        except Missing:
            key = keys.make(key_type)
            edges.vault.put_key(spec.name, step.keys, key_type, key)
        spki[key_type] = keys.spki_sha256(key)
    return ev.KeysMade(keys=step.keys, spki=spki, lane=step.lane)


def place_order(step: st.PlaceOrder, spec: Spec, state: State, edges: Edges) -> ev.OrderPlaced:
    """Place the order; one that replaces a certificate says so (RFC 9773 section 5)."""
    from certagent.pki import keys

    csr = keys.csr(edges.vault.key(spec.name, step.keys, step.key_type), spec.names)
    replaces = None
    if step.replaces and (old := state.generation(step.replaces)) and not old.revoke:
        from cryptography.x509 import load_pem_x509_certificate

        from certagent.acme import ari

        try:
            pem = edges.vault.chain(spec.name, step.replaces, step.key_type)
            replaces = ari.certificate_id(load_pem_x509_certificate(pem))
        except Missing:  # a lost one is no reason not to order another
            pass
    edges.check_ahead(frozenset(spec.key_types))
    order = edges.issuer(step.ca).order(csr, spec.challenge, profile=spec.profile, replaces=replaces)
    return ev.OrderPlaced(
        key_type=step.key_type,
        keys=step.keys,
        url=order.url,
        challenges=order.challenges,
        ca=step.ca,
        lane=step.lane,
    )


def finalize(step: st.Finalize, spec: Spec, state: State, edges: Edges, now: Instant) -> tuple[ev.AnyEvent, ...]:
    """Fetch the certificate and store its chain. An order that gives no usable chain is abandoned; one whose chain is
    not valid yet, by a clock that is wrong perhaps, is kept.
    """
    key = edges.vault.key(spec.name, step.keys, step.key_type)
    order = state.orders[step.key_type]
    try:
        pem, _, chain = usable_chain(edges.issuer(order.ca), order.url, key, spec.names, now.wall + SKEW)
    except (Rejected, Unsafe) as error:
        # the same order would give the same chains again
        return ev.OrderAbandoned(key_type=step.key_type), failed(error, step.lane)
    edges.vault.put_chain(spec.name, step.generation, step.key_type, pem)
    return (
        ev.Issued(
            key_type=step.key_type,
            keys=step.keys,
            generation=step.generation,
            chain=chain,
            completes=step.completes,
            ca=order.ca,
            lane=step.lane,
        ),
    )


def usable_chain(
    issuer: Issuer, url: str, key: Secret[bytes], names: tuple[str, ...], now: datetime
) -> tuple[bytes, Credential, Chain]:
    """Finalize an order. Its chain in PEM, or else the first of the CA's others that can be served; what is made of it.

    Raises:
        Rejected: see `Issuer`.
        Unsafe: What is wrong with the first chain, if none can be served.
        Transient: see `Issuer`; `pem.not_yet_valid`.
    """
    from certagent.pki import bundle, keys

    pem = issuer.finalize(url, keys.csr(key, names))
    try:
        return pem, *bundle.build(key, pem, names=names, now=now)
    except Unsafe as error:
        refused = error
    with suppress(Rejected):  # one that is gone is no worse than none
        for other in issuer.alternates(url):
            with suppress(Unsafe):
                return other, *bundle.build(key, other, names=names, now=now)
    raise refused


def fetch_renewal_info(step: st.FetchRenewalInfo, spec: Spec, state: State, edges: Edges) -> ev.RenewalInfo:
    """Ask the CA for its renewal window (RFC 9773) and draw a moment in it."""
    window = edges.issuer(step.ca).renewal_info(edges.vault.chain(spec.name, step.generation, step.key_type))
    nothing = ev.RenewalInfo(
        generation=step.generation,
        key_type=step.key_type,
        ca=step.ca,
        start=None,
        end=None,
        at=None,
        # RFC 9773 section 4.3.3: no answer that helps; six hours, though a CA that has no ARI today needs no more
        # than a day
        ask_again_s=86400,
        lane=step.lane,
    )
    if window is None:
        return nothing
    old = state.renewals.get(step.key_type)
    same = old and old.generation == step.generation and (old.drawn.start, old.drawn.end) == (window.start, window.end)
    at = old.drawn.at if old and same else _draw(window.start, window.end)
    return replace(
        nothing,
        start=window.start,
        end=window.end,
        at=at,
        ask_again_s=window.retry_after_s,
        explanation_url=window.explanation_url,
    )


def _draw(start: datetime, end: datetime) -> datetime:
    """A moment in the window, drawn once: RFC 9773 section 4.2 wants it uniform, and one drawn again and again would
    never come.
    """
    return start + (end - start) * random.random()  # noqa: S311 -- spreads load, protects nothing


def revoke(step: st.Revoke, spec: Spec, state: State, edges: Edges) -> ev.Revoked:
    """Revoke every certificate of the generation."""
    generation = state.generation(step.generation)
    for key_type in generation.chains if generation else ():
        edges.issuer(step.ca).revoke(edges.vault.chain(spec.name, step.generation, key_type), 1)
    return ev.Revoked(generation=step.generation, ca=step.ca, lane=step.lane)
