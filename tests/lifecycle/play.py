"""Lives for the tests of the rules: the certificate of docs/draw.py in its ideal world, its faults, and what others do.

Every state is reached by the real planner and the real fold, as in a journal; nothing is put together by hand.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import get_args

from msgspec.structs import replace

from certagent.errors import Concern
from certagent.facts.dns import Answer, Observation, Security
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, Served
from certagent.facts.unknown import Unknown
from certagent.lifecycle import caches, planner
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.lane import Lane, Verb
from certagent.lifecycle.rules.rule import Offer, Rule, View
from certagent.lifecycle.spec import MailServer, Spec
from certagent.lifecycle.state import State, TlsaState
from certagent.lifecycle.tlsaname import TlsaNames
from docs.draw import SPEC, START, TLSA_NAME, Fault, Play

ECDSA, RSA = "ecdsa-p256", "rsa-2048"
(CA,) = SPEC.cas


CONCERNS: dict[str, Concern] = {"mta.not_served": "served", "vault.missing": "key"}


def about(code: str, kind: str) -> tuple[Concern, bool]:
    """What the edges say of such an error: what it concerns, and whether its first retry is quick."""
    ours: Concern = "ca" if code.startswith(("ca.", "pem.")) and kind != "misconfigured" else "host"
    return CONCERNS.get(code, ours), code in ("ca.unreachable", "ca.busy", "ca.slow", "ca.garbage")


def lane_of(text: str) -> Lane:
    """`install postfix` as a lane."""
    verb = next(verb for verb in get_args(Verb) if f"{text} ".startswith(f"{verb} "))
    return Lane(verb, text[len(verb) + 1 :])


def later(then: Instant, delay: timedelta) -> Instant:
    """Both clocks go on by as much."""
    return Instant(then.wall + delay, then.elapsed_s + delay.total_seconds())


def chain_of(key: str, *issuers: str, life: timedelta = timedelta(days=90), begin: datetime = START.wall) -> Chain:
    """A chain of that key (two hex digits) and issuers."""
    names = SPEC.names
    return Chain(key * 32, tuple(i * 32 for i in issuers), names, begin, begin + life, f"{key}01")


def served(chain: Chain | Unknown, key_type: str = ECDSA) -> Served:
    """What one handshake met."""
    return Served("mx1.example.org", "192.0.2.25", 25, key_type, chain, 0.01)


def unmanaged(chain: Chain) -> Fault:
    """Somebody else's certificate was served before certagent came."""

    def fault(step: st.AnyStep, _state: State) -> list[ev.AnyEvent] | None:
        if not isinstance(step, st.Inspect):
            return None
        return [ev.Inspected(server=step.server, served=(served(chain),), lane=step.lane)]

    return fault


class Life(Play):
    """One certificate's life, and what the tests want to know and to happen."""

    def __init__(self, spec: Spec = SPEC) -> None:
        super().__init__(spec)

    @classmethod
    def published(cls, spec: Spec = SPEC) -> Life:
        """Issued, served, proven, published, with every record in every cache."""
        life = cls(spec)
        life.until_quiet()
        life.passes(timedelta(hours=5))
        return life

    # -- the rules

    def plan(self) -> Offer:
        """What is to be done now."""
        return planner.plan(self.spec, self.state, self.now)

    def offers(self, rule: Rule) -> list[Offer]:
        """What one rule says now."""
        return list(rule(View.of(self.spec, self.state, self.now)))

    def until(self, kind: type[st.AnyStep], fault: Fault | None = None) -> st.AnyStep:
        """Runs until such a step is next; that step, not done yet."""
        for _ in range(200):
            step = self.plan()
            if isinstance(step, kind):
                return step
            if not self.until_quiet(fault, limit=1) and isinstance(step, st.Wait):
                self.passes(step.delay)  # everything is over but what time alone brings
        raise AssertionError(f"no {kind.__name__} in 200 passes")

    def does(self, step: Offer, *outcome: ev.AnyEvent) -> None:
        """A step is done, and ends like this; with no outcome: killed in the middle of it."""
        assert not isinstance(step, st.Wait), step
        if step.changes:
            self.happens(ev.Intended(step=step, lane=step.lane))
        for event in outcome:
            self.happens(event)

    def fails(self, lane: str, code: str = "dns.x", kind: str = "transient", times: int = 1) -> None:
        """A line of work failed."""
        concerns, quick = about(code, kind)
        failed = ev.Failed(
            lane=lane_of(lane),
            kind=kind,
            code=code,
            detail="it said no",
            hint="look at it",
            concerns=concerns,
            quick=quick,
        )
        for _ in range(times):
            self.happens(failed)

    @property
    def names(self) -> TlsaNames:
        """What follows for the TLSA names now."""
        return TlsaNames(self.spec, self.state)

    # -- DNS

    @property
    def tlsa_name(self) -> TlsaState:
        """What is known of the one TLSA name."""
        return self.state.tlsa_names[TLSA_NAME]

    @property
    def in_dns(self) -> frozenset[str]:
        """What is in DNS now."""
        return self.zone.get(TLSA_NAME, frozenset())

    def looks(
        self,
        *servers: frozenset[str] | None,
        ttl_s: int = 3600,
        path: tuple[tuple[str, int], ...] = (),
        security: Security = "secure",
        why: str = "",
        wildcard: str = "",
    ) -> None:
        """The authoritative servers of the TLSA name answer this; None: silent. No argument: what is in DNS."""
        sets = servers or (self.in_dns,)
        answers = {
            f"ns{n}./192.0.2.{n}": Unknown("no answer") if values is None else Answer(values, ttl_s, path, wildcard)
            for n, values in enumerate(sets, 1)
        }
        observation = Observation("example.org.", path[-1][0] if path else TLSA_NAME, answers, security, why)
        self.happens(ev.Observed(tlsa_name=TLSA_NAME, observation=observation, lane=lane_of(f"observe {TLSA_NAME}")))

    def records(self, generation: str) -> frozenset[str]:
        """The `3 1 1` values of a generation."""
        found = self.state.generation(generation)
        assert found is not None
        return frozenset(f"3 1 1 {chain.spki}" for chain in found.chains.values())

    @property
    def cached(self) -> list[caches.CachedSet]:
        """The sets that caches may hold now."""
        return self.names[TLSA_NAME].cached(self.now)


STRANGE = frozenset({"3 1 1 " + "ee" * 32})
MINUTE = timedelta(minutes=1)
TWO = replace(
    SPEC, tlsa_names={TLSA_NAME: ("postfix", "other")}, mail_servers=(*SPEC.mail_servers, MailServer("other", ()))
)
"""Two mail servers behind one name."""


def because(offers: list[Offer]) -> list[str]:
    return [f"{type(offer).__name__}: {offer.because}" for offer in offers]


def swapping(spec: Spec = SPEC) -> Life:
    """g2 is about to be installed beside g1."""
    life = Life.published(spec)
    life.happens(ev.Requested(what="rotate"))
    life.until(st.Install)
    return life
