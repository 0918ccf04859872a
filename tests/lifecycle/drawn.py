"""What Hypothesis draws for the tests of the pure core: any event there is, for a few names that all of them share.

The strategies follow the fields of the event and step classes, so a new one is drawn too; a field of a new name has to
be given its values here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, get_args

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from certagent.errors import Concern
from certagent.facts.challenge import Challenge
from certagent.facts.dns import Answer, Observation
from certagent.facts.tls import Chain, Service
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps
from certagent.lifecycle.lane import DEPLOYMENT, Lane
from certagent.lifecycle.spec import MailServer, Spec
from tests.lifecycle.play import SPEC as ONE
from tests.lifecycle.play import START, Life, chain_of, lane_of, served

MX1, MX = "_25._tcp.mx1.example.org.", "_25._tcp.mx.example.org."
MAIL_SERVERS = ("one", "two")
KEY_TYPES = ("ecdsa-p256", "rsa-2048")
KEYS, GENERATIONS = ("k1", "k2", "k3"), ("g1", "g2", "g3")
SPKI = ("aa", "bb", "cc")
ISSUERS = ("ca", "cb")

SPEC = Spec(
    name="mx1.example.org",
    names=("mx1.example.org",),
    key_types=("ecdsa-p256",),
    rotate_key=timedelta(),
    standby=True,
    tlsa_names={MX1: ("one",), MX: MAIL_SERVERS},
    tlsa_parameters=("3 1 1",),
    ttl_s=60,
    safety_margin=timedelta(minutes=15),
    drain=timedelta(minutes=5),
    check_interval=timedelta(hours=6),
    mail_servers=tuple(MailServer(name, (Service(f"{name}.example.org", 25, "smtp"),)) for name in MAIL_SERVERS),
    cas=("https://ca.example/directory",),
)


def _spec(**words: object) -> Spec:
    spec = replace(SPEC, **words)
    there = {server.name for server in spec.mail_servers}
    answer = {name: tuple(t for t in mail_servers if t in there) for name, mail_servers in SPEC.tlsa_names.items()}
    answer = {name: mail_servers for name, mail_servers in answer.items() if mail_servers}
    return replace(
        spec,
        tlsa_names={name: mail_servers for name, mail_servers in answer.items() if name in spec.tlsa_names},
        undeclared={name: mail_servers for name, mail_servers in answer.items() if name not in spec.tlsa_names},
    )


SPECS = st.builds(
    _spec,
    key_types=st.sampled_from([("ecdsa-p256",), ("rsa-2048",), KEY_TYPES]),
    tlsa_names=st.sampled_from([SPEC.tlsa_names, {MX1: ("one",)}, {MX: MAIL_SERVERS}, {}]),
    standby=st.booleans(),
    tlsa_parameters=st.sampled_from([("3 1 1",), ("3 1 1", "2 1 1"), ("2 1 1",)]),
    rotate_key=st.sampled_from([timedelta(), timedelta(days=30), None]),
    mail_servers=st.sampled_from([SPEC.mail_servers, SPEC.mail_servers[:1]]),
)

VALUE = st.sampled_from(
    [
        *(f"3 1 1 {key * 32}" for key in SPKI),
        *(f"2 1 1 {issuer * 32}" for issuer in ISSUERS),
        "3 0 1 " + "dd" * 32,  # whether it matches cannot be told
        "1 1 1 " + "dd" * 32,  # no sender uses it
    ]
)
VALUES = st.frozensets(VALUE, max_size=4)


def _chain(key: str, issuers: list[str], days: int) -> Chain:
    return chain_of(key, *issuers, life=timedelta(days=days))


CHAINS = st.builds(
    _chain,
    st.sampled_from(SPKI),
    st.lists(st.sampled_from(ISSUERS), max_size=2, unique=True),
    st.sampled_from([6, 90]),
)
PATHS = st.sampled_from([(), (), (("a.hosted.net.", 60),), (("a.hosted.net.", 300),), (("b.hosted.net.", 60),)])
OBSERVATIONS = st.builds(
    Observation,
    st.just("example.org."),
    st.sampled_from([MX1, MX]),
    st.dictionaries(
        st.sampled_from(["ns1./192.0.2.1", "ns2./192.0.2.2"]),
        st.one_of(*[st.builds(Answer, VALUES, st.sampled_from([1, 60, 3600]), PATHS)] * 3, st.just(Unknown("silent"))),
    ),
    st.sampled_from([*["secure"] * 7, "insecure", "bogus", "unknown"]),
    st.just("as it was drawn"),
)
DATES = st.timedeltas(timedelta(0), timedelta(days=90)).map(lambda delta: START.wall + delta)
CODES = ["dns.x", "dns.not_yet", "ca.busy", "ca.rejected", "mta.not_served", "store.disk", "pem.chain"]
WORKS = [
    *(Lane(verb, server) for verb in DEPLOYMENT for server in MAIL_SERVERS),
    *(lane_of(f"{verb} {a}") for verb in ("order", "challenge", "validation", "issuance") for a in KEY_TYPES),
    *(lane_of(f"{verb} {tlsa_name}") for verb in ("observe", "publish") for tlsa_name in (MX1, MX)),
    *map(lane_of, ("vault", "clean up", "renewal info", "revoke")),
]
CHALLENGES = st.lists(
    st.builds(
        Challenge, st.sampled_from(["dns-01", "http-01"]), st.just("mx1"), st.just("a.mx1."), st.sampled_from("uvw")
    ),
    max_size=2,
)

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "lane": st.sampled_from([None, *WORKS]),
    "because": st.just("it was drawn"),
    "concerns": st.sampled_from(get_args(Concern)),
    "quick": st.booleans(),
    "kind": st.sampled_from(["transient", "rejected", "misconfigured", "unsafe"]),
    "code": st.sampled_from(CODES),
    "detail": st.text(max_size=5),
    "hint": st.text(max_size=5),
    "retry_after_s": st.none() | st.floats(0, 1e6),
    "jitter": st.floats(0, 1),
    "keys": st.sampled_from(KEYS),
    "generation": st.sampled_from(GENERATIONS),
    "key_type": st.sampled_from(KEY_TYPES),
    "key_types": st.sampled_from([("ecdsa-p256",), KEY_TYPES]),
    "spki": st.dictionaries(st.sampled_from(KEY_TYPES), st.sampled_from(SPKI).map(lambda key: key * 32)),
    "waits_for": st.sampled_from(["all", "answering", "none"]),
    "passed_over": st.text(max_size=5),
    "url": st.just("https://ca.example/order/1"),
    "ca": st.sampled_from([*SPEC.cas * 3, "https://other.example/directory"]),
    "challenges": CHALLENGES.map(tuple),
    "chain": CHAINS,
    "completes": st.booleans(),
    "tlsa_name": st.sampled_from([MX1, MX]),
    "observation": OBSERVATIONS,
    "values": VALUES,
    "expect": VALUES,
    "gone": VALUES,
    "before": VALUES,
    "before_ttl_s": st.sampled_from([0, 60, 86400]),
    "after": VALUES,
    "after_ttl_s": st.sampled_from([0, 60, 86400]),
    "publish_lag_s": st.sampled_from([0.0, 0.0, 60.0, 1200.0]),
    "zone": st.sampled_from(["example.org.", "hosted.net."]),
    "per_day": st.sampled_from([1, 5, 300]),
    "ttl_s": st.just(60),
    "server": st.sampled_from(MAIL_SERVERS),
    "mail_servers": st.just(()),
    "undeclared": st.sampled_from([False, False, True]),
    "early": st.booleans(),
    "served": st.lists(
        st.builds(served, CHAINS | st.just(Unknown("refused", reached=True)), st.sampled_from(KEY_TYPES)), max_size=3
    ).map(tuple),
    "kept": st.booleans(),
    "rollback": st.booleans(),
    "drained": st.booleans(),
    "as_before": st.booleans(),
    "accept_deferrals": st.booleans(),
    "start": st.none() | DATES,
    "end": st.none() | DATES,
    "at": st.none() | DATES,
    "ask_again_s": st.floats(0, 1e6),
    "explanation_url": st.none(),
    "replaces": st.none() | st.sampled_from(GENERATIONS),
    "budget": st.just(timedelta(0)),
    "generations": st.lists(st.sampled_from(GENERATIONS), max_size=2, unique=True).map(tuple),
    "tlsa_names": st.lists(st.sampled_from([MX1, MX]), max_size=2, unique=True).map(tuple),
    "what": st.sampled_from(["retry", "renew", "rotate", "emergency", "abort"]),
}
SEVERAL_KEYS = st.lists(st.sampled_from(KEYS), max_size=2, unique=True).map(tuple)


def built(kind: type) -> st.SearchStrategy[Any]:
    """Any value of an event or step class."""
    drawn = {field.name: FIELDS[field.name] for field in msgspec.structs.fields(kind) if field.name != "step"}
    if kind in (steps.Delete, ev.Deleted):
        drawn["keys"] = SEVERAL_KEYS
    if kind in (steps.Observe, ev.Observed):
        drawn["mail_servers"] = st.sampled_from([(), ("one",), ("two",), MAIL_SERVERS])
    if kind is ev.Intended:
        drawn["step"] = STEPS
    return st.builds(kind, **drawn)


STEPS: st.SearchStrategy[steps.AnyStep] = st.one_of(*(built(kind) for kind in get_args(steps.AnyStep)))
_ANY_EVENT: st.SearchStrategy[ev.AnyEvent] = st.one_of(*(built(kind) for kind in get_args(ev.AnyEvent)))


@st.composite
def _event(draw: st.DrawFn) -> ev.AnyEvent:
    """Named, since the strategy in full is 40 kB of text: Hypothesis warns when it has to write that."""
    return draw(_ANY_EVENT)


EVENTS = _event()
DELAYS = st.sampled_from([0.0, 0.0, 1.0, 30.0, 600.0, 8000.0]).map(lambda s: timedelta(seconds=s))
HISTORIES = st.lists(st.tuples(DELAYS, EVENTS), max_size=25)
"""Anything in any order, and how long after the one before."""


# -- lives that went wrong -------------------------------------------------------------------------------------------


def elapsed(spec: Spec, ends: list[str], requests: dict[int, ev.Requested], used: bool) -> Life:
    """The certificate of docs/draw.py after steps that ended as drawn; `used`: it was published before."""
    rest = iter(ends)

    def fault(step: steps.AnyStep, _state: object) -> list[ev.AnyEvent] | None:
        match next(rest, "ideal"):
            case "killed":
                return []
            case "fails":
                return [ev.Failed(lane=step.lane, kind="transient", code="x.y", detail="it said no")]
            case "differs" if isinstance(step, steps.Verify):
                failed = ev.Failed(
                    lane=step.lane, kind="transient", code="mta.not_served", concerns="served", detail="serves another"
                )
                return [ev.VerifyFailed(server=step.server, generation=step.generation, served=()), failed]
            case _:
                return None

    life = Life.published(spec) if used else Life(spec)
    for n in range(60):
        if n in requests:
            life.happens(requests[n])
        life.until_quiet(fault, limit=1)
    return life


LIVES = st.builds(
    elapsed,
    st.sampled_from([replace(ONE, standby=s, key_types=a) for s in (True, False) for a in (ONE.key_types, KEY_TYPES)]),
    st.lists(st.sampled_from(["ideal", "ideal", "ideal", "fails", "killed", "differs"]), max_size=60),
    st.dictionaries(st.integers(0, 59), built(ev.Requested), max_size=2),
    st.booleans(),
)
