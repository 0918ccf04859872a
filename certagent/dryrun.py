"""`renew --dry-run`: the whole way against a test CA, and nothing changed that a mail client or a sender could notice.

Real: the CA's challenges, the TXT records for them (written, seen at every authoritative server, removed), a
certificate for a throw-away key, its verification and rehearsal, the mail server's own check, and every question to
DNS. Proven without a change: that TLSA records may be written, by asking the provider to remove a value that is not
there. Never done: TLSA records added or removed, files installed, a server reloaded, the journal written.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal

from certagent.act import SETTLE_TXT, TXT_TTL_S
from certagent.build import Built
from certagent.errors import Error, Misconfigured
from certagent.findings import Finding, Rehearsal, tight
from certagent.lifecycle import caches
from certagent.lifecycle.events import Looked
from certagent.lifecycle.fold import fold
from certagent.lifecycle.forecast import forecast
from certagent.lifecycle.model import Sighting, Spec, Unknown
from certagent.lifecycle.state import State
from certagent.pki.leaf import Leaf
from certagent.render import brief
from certagent.world import World


class _Run:
    def __init__(self, tell: Callable[[Finding], None]) -> None:
        self.findings: list[Finding] = []
        self.written: list[str] = []
        self.removed: list[str] = []
        self._tell = tell

    def found(self, outcome: Literal["ok", "note", "refused"], what: str, detail: str, hint: str = "") -> None:
        finding = Finding(outcome, what, detail, hint)
        self.findings.append(finding)
        self._tell(finding)

    @contextmanager
    def trying(self, what: str) -> Generator[None]:
        try:
            yield
        except Error as error:
            self.found("refused", what, str(error), error.hint)


def rehearse(built: Built, name: str, tell: Callable[[Finding], None]) -> Rehearsal:
    """Go the whole way for one certificate; nothing is raised for what goes wrong on it: it is a finding."""
    entry = built.config.certificates[name]
    spec, world = entry.spec, built.world(name)
    state, now = built.journal.state(name), built.journal.now()
    run = _Run(tell)
    for server in world.servers:
        with run.trying(f"mail server {server}"):
            world.servers[server].check(frozenset(spec.algorithms))
            run.found("ok", f"mail server {server}", "its configuration is sound")
            for what, command in world.servers[server].ahead(frozenset(spec.algorithms)):
                run.found("note", f"mail server {server}", what, command)
    for owner in spec.owners:
        state = _look(run, world, owner, state, spec, built)
    with run.trying("CA"):
        for algorithm, leaf in _issue(run, built, name, spec, world):
            for note in tight(spec, state, algorithm, leaf):
                run.found(note.outcome, note.what, note.detail, note.hint)
    timeline = tuple(forecast(spec, state, now))
    return Rehearsal(name, tuple(run.findings), tuple(run.written), tuple(run.removed), timeline)


def _look(run: _Run, world: World, owner: str, state: State, spec: Spec, built: Built) -> State:
    with run.trying(f"DNS {owner}"):
        sighting = world.resolver().sight(owner, expect=None, gone=frozenset(), budget=timedelta(0))
        state = fold(state, Looked(owner=owner, sighting=sighting), built.journal.now())
        _judge(run, owner, sighting, spec)
        absent = f"3 1 1 {secrets.token_hex(32)}"
        with world.zones.writing(sighting.zone, sighting.name) as provider:
            provider.remove(sighting.name, "TLSA", frozenset({absent}))
        run.found(
            "ok", f"DNS {owner}", "TLSA records may be written (the removal of a value that is not there was accepted)"
        )
    return state


def _judge(run: _Run, owner: str, sighting: Sighting, spec: Spec) -> None:
    for server, answer in sighting.answers.items():
        if isinstance(answer, Unknown):
            run.found(
                "refused",
                f"DNS {owner}",
                f"{server}: {answer.why}",
                "every authoritative server must answer before a swap",
            )
    known = caches.known(sighting)
    if known:
        values = sorted({v for a in known for v in a.values}) or ["no TLSA records"]
        ttl = max(a.ttl_s for a in known)
        wait = caches.hold_of(ttl, spec.guard)
        run.found(
            "ok",
            f"DNS {owner}",
            f"{len(sighting.answers)} servers answer: {', '.join(values)}; a set may be cached for {brief(wait)}",
        )
    outcome = "ok" if sighting.security == "secure" else "refused"
    hint = "" if outcome == "ok" else "senders use TLSA records only where DNSSEC validates (RFC 7672 section 2.2)"
    run.found(outcome, f"DNSSEC {owner}", f"{sighting.security} {sighting.why}".strip(), hint)


def _issue(run: _Run, built: Built, name: str, spec: Spec, world: World) -> Iterator[tuple[str, Leaf]]:
    from certagent.pki import chain, keys

    entry = built.config.certificates[name]
    ca = built.config.cas[entry.ca]
    directory = ca.staging or (ca.directory if ca.test else None)
    if directory is None:
        hint = f"set staging under ca.{entry.ca}, or test: true if the directory itself is a test CA"
        raise Misconfigured("dryrun.no_test_ca", f"CA {entry.ca} has no staging directory", hint)
    issuer = built.issuer(entry.ca, directory)
    for algorithm in spec.algorithms:
        key = keys.make(algorithm)
        csr = keys.csr(key, spec.names)
        order = issuer.order(csr, profile=spec.profile)
        wanted: dict[tuple[str, str], set[str]] = {}
        for challenge in order.challenges:
            wanted.setdefault(world.resolver().final(challenge.name), set()).add(challenge.value)
        if not order.challenges:  # the CA remembers an earlier validation: DNS is proven all the same
            for identifier in spec.names:
                final = world.resolver().final(f"_acme-challenge.{identifier.removeprefix('*.')}.")
                wanted.setdefault(final, set()).add(f"certagent-dry-run-{secrets.token_hex(8)}")
        with _records(run, world, {k: frozenset(v) for k, v in wanted.items()}):
            for (_, final_name), values in wanted.items():
                world.resolver().settle_txt(final_name, frozenset(values), SETTLE_TXT)
            run.found("ok", f"challenge {algorithm}", "seen at every authoritative server")
            issuer.answer(order.url)
        pem = issuer.finalize(order.url, csr)
        file, leaf = chain.build(key, pem, names=spec.names, now=built.journal.now().wall)
        _rehearse_file(built.state_dir(), file.reveal(), spec.names[0])
        life = leaf.not_after - leaf.not_before
        run.found(
            "ok",
            f"certificate {algorithm}",
            f"issued by {directory}, valid {life.days} days, {len(leaf.issuers)} issuers in order, rehearsed",
        )
        yield algorithm, leaf


@contextmanager
def _records(run: _Run, world: World, wanted: dict[tuple[str, str], frozenset[str]]) -> Generator[None]:
    """The challenge records, for as long as they are needed; removed whatever happens."""
    try:
        for (zone, name), values in wanted.items():
            run.written += [f"{name} TXT {v}" for v in sorted(values)]  # before: a lost answer may hide a record
            with world.zones.writing(zone, name) as provider:
                provider.add(name, "TXT", values, TXT_TTL_S)
        yield
    finally:
        for (zone, name), values in wanted.items():
            with run.trying(f"removing {name}"), world.zones.writing(zone, name) as provider:
                provider.remove(name, "TXT", values)
                run.removed += [f"{name} TXT {v}" for v in sorted(values)]


def _rehearse_file(state_dir: Path, pem: bytes, host: str) -> None:
    from certagent.mta import pemfile
    from certagent.store import atomic

    with tempfile.TemporaryDirectory(prefix="dry-run-", dir=state_dir) as place:
        path = Path(place) / "chain.pem"
        atomic.write(path, pem)
        pemfile.rehearse(path, None if host.startswith("*.") else host)
