"""`certagent check`: a look at the world as it is now, compared with itself and with the journal. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from certagent.errors import Error
from certagent.findings import Finding, tight
from certagent.lifecycle import caches
from certagent.lifecycle.model import Served, Spec, Unknown
from certagent.lifecycle.state import State
from certagent.pki.leaf import Leaf
from certagent.world import World


def run(spec: Spec, state: State, world: World) -> list[Finding]:
    """Every finding about one certificate; `refused` stands for what is wrong."""
    found: list[Finding] = []
    met: dict[str, list[Leaf]] = {}
    for target in spec.targets:
        try:
            world.servers[target.name].check(frozenset(spec.algorithms))
            found.append(Finding("ok", f"mail server {target.name}", "its configuration is sound"))
            ahead = world.servers[target.name].ahead(frozenset(spec.algorithms))
            found += [Finding("note", f"mail server {target.name}", what, command) for what, command in ahead]
        except Error as error:
            found.append(Finding("refused", f"mail server {target.name}", str(error), error.hint))
        installation = state.targets.get(target.name)
        expected = state.generation(installation.generation) if installation and installation.generation else None
        for served in world.probe(target.services, spec.algorithms):
            found.append(_compare(served, expected.leaves if expected else None))
            if isinstance(served.leaf, Leaf):
                met.setdefault(f"_{served.port}._tcp.{served.host}.", []).append(served.leaf)
    for owner in spec.owners:
        found += _records(owner, met.get(owner, []), world)
    newest = state.newest
    found += [note for a, leaf in (newest.leaves if newest else {}).items() for note in tight(spec, state, a, leaf)]
    return found


def _compare(served: Served, installed: Mapping[str, Leaf] | None) -> Finding:
    what = served.where
    if isinstance(served.leaf, Unknown):
        return Finding("refused", what, served.leaf.why)
    until = f"valid until {served.leaf.not_after:%Y-%m-%d %H:%M} UTC, answered in {served.took_s * 1000:.0f} ms"
    if installed is None:
        return Finding("note", what, f"serves a certificate that certagent did not install; {until}")
    expected = installed.get(served.algorithm)
    if expected is None:
        hint = "if certagent plan has nothing to do: take it out of the mail server, or list both kinds under keys"
        return Finding("refused", what, "serves a kind of key that certagent did not install", hint)
    if served.leaf != expected:
        same = (served.leaf.spki, served.leaf.serial) == (expected.spki, expected.serial)
        wrong = "serves what was installed, with other issuers" if same else "does not serve what was installed"
        return Finding("refused", what, wrong, "certagent renew puts it right")
    return Finding("ok", what, f"serves what was installed; {until}")


def _records(owner: str, met: list[Leaf], world: World) -> list[Finding]:
    what = f"DNS {owner}"
    try:
        sighting = world.resolver().sight(owner, expect=None, gone=frozenset(), budget=timedelta(0))
    except Error as error:
        return [Finding("refused", what, str(error), error.hint)]
    outcome = "ok" if sighting.security == "secure" else "refused"
    found = [Finding(outcome, f"DNSSEC {owner}", f"{sighting.security} {sighting.why}".strip())]
    for server, answer in sighting.answers.items():
        if isinstance(answer, Unknown):
            found.append(Finding("refused", f"{what} at {server}", answer.why))
            continue
        hurt = sorted({t for leaf in met for t in caches.hurts(answer.values, leaf)})
        if hurt:
            hint = "senders defer mail now; certagent renew publishes what is missing"
            found.append(
                Finding("refused", f"{what} at {server}", f"no {', '.join(hurt)} record matches what is served", hint)
            )
        elif not answer.values:
            found.append(Finding("note", f"{what} at {server}", "no TLSA records: senders do not use DANE"))
        else:
            found.append(
                Finding(
                    "ok",
                    f"{what} at {server}",
                    f"{len(answer.values)} records, TTL {answer.ttl_s} s; what is served matches",
                )
            )
    return found
