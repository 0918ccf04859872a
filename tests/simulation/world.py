"""One simulated world, drawn from a seed: DNS, mail servers, CA, disk and clock, and the real agent in the midst of it.

The agent is `certagent.agent.advance`, with the real planner, fold, gates and `act`; everything it touches is in
`tests/simulation/`. What is modelled stands in the docstrings there; who is to blame for what, in `judge.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import cast

from msgspec.structs import replace

from certagent.agent.edges import Edges
from certagent.errors import Misconfigured
from certagent.facts.challenge import DNS_01, Challenge
from certagent.facts.tls import Served, Service
from certagent.lifecycle.spec import MailServer, Spec
from certagent.report.step import StepReport
from tests.simulation.ca import Ca, Vault, unmanaged
from tests.simulation.clock import Clock, Journal
from tests.simulation.cut import OneWriter
from tests.simulation.dns import RR, Dns, Zone
from tests.simulation.edges import Provider, Resolver
from tests.simulation.judge import Judge
from tests.simulation.linked import alone, apart
from tests.simulation.mail import Host, Shown, probe
from tests.simulation.web import WebServer

KEY_TYPES = (("ecdsa-p256",), ("ecdsa-p256",), ("rsa-2048",), ("ecdsa-p256", "rsa-2048"), ("ecdsa-p256", "rsa-2048"))
TTLS = (60,) * 40 + (300,) * 50 + (900,) * 24 + (3600,) * 24 + (14400,) * 3 + (86400,)
"""Mostly short: with a day's a history consists of two hundred looks while nothing happens."""
NAMES = ("mx1.example.org",)


OTHER_NAMES = ("imap.example.org", "*.example.org")
"""One more may be in the certificate that was served before certagent came."""


class World:
    """Everything of one history."""

    def __init__(self, dice: random.Random) -> None:
        self.rng = rng = dice
        self.clock = clock = Clock(dice)
        self.journal = Journal(clock)
        self.asleep_since: float | None = None
        """Since when the agent does not run."""
        self.awake_since = 0.0
        self.steps = 0
        self.woken = False
        self.between: list[Callable[[World], object]] = []
        """What people want to do as soon as the agent's turn is over."""
        secondaries = rng.choice((0, 1, 1, 2)), rng.choice((0, 1))
        self.zones = [Zone(clock, n, s) for n, s in zip(("example.org.", "hosted.net."), secondaries, strict=True)]
        self.dns = Dns(clock, self.zones)
        life = timedelta(days=rng.choice((6, 6, 45, 90)))
        self.ca = Ca(clock, life)
        self.vault = Vault(clock)
        self.web = WebServer(clock)
        self.provider = Provider(clock, self.dns)
        drain_s = rng.choice((5.0, 60.0, 300.0, 600.0))
        self.hosts: dict[str, Host] = {}
        for i in range(rng.choice((1, 1, 1, 1, 1, 2, 2, 3))):
            name = f"mx{i + 1}"
            addresses = tuple(f"192.0.2.{i}{j}" for j in range(rng.choice((1, 1, 2))))
            self.hosts[name] = Host(clock, name, rng.choice(("postfix", "dovecot", "exim")), addresses, drain_s)
        self.mail_servers = tuple(
            MailServer(n, (Service(n, 25, "smtp", tuple(p.address for p in h.pools)),)) for n, h in self.hosts.items()
        )
        self.answers: dict[str, tuple[str, ...]] = {f"_25._tcp.{n}.example.org.": (n,) for n in self.hosts}
        if len(self.hosts) > 1 and rng.random() < 0.4:
            self.answers["_25._tcp.mx.example.org."] = tuple(self.hosts)
        self.judge = Judge(clock, self.dns, self.hosts, self.answers)
        self.judge.provider = self.provider
        self.journal.seen = self.judge.event
        self.ca.revoked = self.judge.revoked
        self.ca.sees = self._response_is_there
        self.vault.dropping = self.judge.dropping
        self._serve_before(life)
        self._publish_before()
        for zone in self.zones:
            zone.born = self.judge.set_begins
        for host in self.hosts.values():
            host.changing = self.judge.chain_begins
        self.spec = self._spec(drain_s)
        for zone in self.zones:
            zone.safety_margin_s = self.spec.safety_margin.total_seconds()
        self.judge.known |= set(self.spec.tlsa_names)
        self.judge.spec = self.spec
        self.resolver = Resolver(clock, self.dns)
        self.judge.heard_now = self.resolver.heard_now
        self.judge.web = self.web
        self.edges = Edges(
            issuer=self._issuer,
            resolver=self._resolver,
            zones=OneWriter(self.provider),
            vault=self.vault,
            servers=self.hosts,
            probe=self._probe,
            alone=partial(alone, self),
            listeners=self._web,  # pyright: ignore[reportArgumentType] -- what the one type uses that is simulated
        )

    def _serve_before(self, life: timedelta) -> None:
        # what was served before certagent came
        own = random.Random(self.rng.getstate()[1][11])  # so that all else stays as it is
        self.older_names = NAMES if own.random() < 0.85 else (*NAMES, own.choice(OTHER_NAMES))
        for host in self.hosts.values():
            key_types = self.rng.choice(KEY_TYPES)
            if self.rng.random() < 0.9:
                long = max(life, timedelta(days=30))
                host.files = {a: Shown(unmanaged(self.rng, self.clock, self.older_names, long)) for a in key_types}
            host.restart()
            if self.rng.random() < 0.1:
                host.down = True
                self.clock.at(self.rng.choice((600, 6 * 3600)) * self.rng.random(), host.restart)

    def _publish_before(self) -> None:
        # what was published before certagent came
        rng = self.rng
        shared = rng.random() < 0.5
        ends: list[str] = []
        for name, hosts in self.answers.items():
            values: set[str] = set()
            draw = rng.random()
            if draw > 0.5:
                values |= {f"3 1 1 {s.chain.spki}" for h in hosts for s in self.hosts[h].files.values()}
            if draw > 0.9 or 0.45 < draw <= 0.5:
                stray = f"{rng.choice(('3 1 1', '2 1 1'))} {rng.getrandbits(256):064x}"
                self.judge.unmanaged_values.add(stray)
                values.add(stray)
            rr = RR(frozenset(values), rng.choice(TTLS) if values else 0)
            zone = self.zones[0]
            if rng.random() < 0.25 + 0.25 * shared:
                server = f"a.{'dane' if shared else name.split('.')[2]}.hosted.net."
                zone.versions[0].sets[name] = RR(server, rng.choice(TTLS))
                sets = self.zones[1].versions[0].sets
                there = sets.get(server, rr)
                if values or server in sets:
                    sets[server] = RR(frozenset({*there.content, *values}), there.ttl_s)
                ends += [server, server.replace("a.", "c.", 1)]
            elif rr.content:
                zone.versions[0].sets[name] = rr
            zone.know(name)
        for end in dict.fromkeys(ends):
            self.zones[1].know(end)

    def _spec(self, drain_s: float) -> Spec:
        rng = self.rng
        mail_servers = self.mail_servers if rng.random() < 0.8 else self.mail_servers[:1]
        names = {t.name for t in mail_servers}
        tlsa_names = {o: a for o, a in self.answers.items() if set(a) <= names and rng.random() < 0.9}
        spec = Spec(
            name="mail",
            names=NAMES,
            key_types=rng.choice(KEY_TYPES),
            rotate_key=rng.choice((None, timedelta(0), timedelta(0), timedelta(days=30))),
            standby=rng.random() < 0.7,
            tlsa_names=tlsa_names,
            tlsa_parameters=("3 1 1", "2 1 1") if rng.random() < 0.3 else ("3 1 1",),
            ttl_s=rng.choice(TTLS),
            safety_margin=timedelta(seconds=rng.choice((30, 60, 300, 900))),
            drain=timedelta(seconds=drain_s),
            check_interval=timedelta(hours=rng.choice((0.5, 2, 6, 12, 24, 24))),
            mail_servers=mail_servers,
            cas=("https://ca.example/directory",),
        )
        return self._with_undeclared(spec)

    def _with_undeclared(self, spec: Spec) -> Spec:
        """What is served under a name that is not declared: the config has the service without `tlsa: true`."""
        mine = {t.name for t in spec.mail_servers}
        rest = {o: tuple(h for h in a if h in mine) for o, a in self.answers.items() if o not in spec.tlsa_names}
        return replace(spec, undeclared={o: a for o, a in rest.items() if a})

    def configure(self, spec: Spec, what: str) -> None:
        """The operator edits the config."""
        self.clock.note(f"   ? config: {what}")
        if spec.mail_servers != self.spec.mail_servers:
            apart(self)  # certagent knows the files of its own mail servers only
        if any(name.startswith("*.") for name in spec.names):  # the configuration refuses another type
            spec = replace(spec, challenge=DNS_01)
        self.spec = self.judge.spec = self._with_undeclared(spec)
        self.provider.epoch += 1

    def give_up_names(self) -> None:
        """The operator was told that the new certificate lacks a name."""
        self.configure(replace(self.spec, drop_names=self.older_names), f"drop_names {self.older_names}")

    def ask(self, what: Callable[[World], object]) -> None:
        """People do it as soon as the agent's turn is over; not in peace."""
        if self.clock.hostile:
            self.between.append(what)
            self.woken = True

    def _issuer(self, directory: str) -> Ca:
        if directory not in self.spec.cas:
            raise Misconfigured("ca.other", f"no CA is configured with the directory {directory}")
        return self.ca

    def _response_is_there(self, challenge: Challenge) -> bool:
        if challenge.type == "http-01":
            return challenge in self.web.files and challenge.webroot == self.spec.challenge.webroot
        zone = self.dns.zone_of(challenge.name)
        return not zone.away and (challenge.name, challenge.value) in zone.txt

    def _resolver(self) -> Resolver:
        return self.resolver

    def _web(self) -> WebServer:
        return self.web

    def _probe(
        self,
        services: tuple[Service, ...],
        key_types: tuple[str, ...],
        *,
        wrong: Callable[[Served], bool] = lambda _: False,
        budget_s: float = 0.0,
    ) -> list[Served]:
        """What was right once is not met again: it may be otherwise when the last is."""
        served = probe(self.clock, self.hosts, services, key_types)
        deadline, pause_s = self.clock.t + budget_s, 0.02
        while any(map(wrong, served)) and self.clock.t < deadline:
            self.clock.go_on(min(pause_s, deadline - self.clock.t))
            pause_s *= 2
            again = probe(self.clock, self.hosts, services, key_types)
            served = [new if wrong(old) else old for old, new in zip(served, again, strict=True)]
        return served

    def report(self, report: StepReport) -> None:
        """After every step of the agent."""
        self.steps += 1
        if self.clock.trace is not None:
            step = report.step
            fields = " ".join(f"{f}={_short(getattr(step, f))}" for f in step.__struct_fields__ if f != "because")
            self.clock.note(f"{type(step).__name__} {fields}: {step.because}")
            if report.failure:
                self.clock.note(f"      FAILED {report.failure.code} {report.failure.detail}")


def _short(value: object) -> str:
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(str(v)[:12] for v in cast("frozenset[object]", value))) + "}"
    return str(value)
