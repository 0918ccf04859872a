"""`certagent check` and the conditions of `status`: what is wrong is said, first, with an exit status; and no more."""

from __future__ import annotations

from datetime import timedelta
from threading import Barrier
from typing import cast

import pytest
from msgspec.structs import replace

from certagent.agent.edges import Edges
from certagent.checks import served
from certagent.facts.dns import Answer, Delegation, Hidden, Late, Observation
from certagent.facts.tls import Served
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import schedule
from certagent.lifecycle import steps as st
from certagent.report import status
from certagent.report.conditions import conditions
from certagent.report.findings import Finding
from certagent.store.protocol import Wake
from tests.lifecycle.play import CA, ECDSA, TLSA_NAME, Life, chain_of, lane_of, unmanaged
from tests.mta import chains

HOUR = timedelta(hours=1)
NS1, NS2 = "ns1./192.0.2.1", "ns2./192.0.2.2"
UNUSABLE = f"1 1 1 {'ab' * 32}"
STRANGE = f"3 1 1 {'ab' * 32}"


class World:
    """What `check` meets: each server's own answer, and one port."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.sets: dict[str, frozenset[str]] = dict.fromkeys((NS1, NS2), life.in_dns)
        self.serves = next(iter(life.state.newest.chains.values())) if life.state.newest else None
        self.servers = {"postfix": self}
        self.files: dict[str, bytes] = {}
        self.serial = {NS1: 7, NS2: 7}
        self.would_hide: tuple[Hidden, ...] = ()
        self.delegated = Delegation("example.org.", "org.", frozenset({"ns1."}), {"ns1.": ()}, {"ns1.": ("192.0.2.1",)})

    def resolver(self) -> World:
        return self

    def check(self, *_: object) -> None:
        """Its configuration is sound."""

    def claims(self) -> tuple[()]:
        return ()

    def advice(self, _: object) -> tuple[()]:
        return ()

    def installed(self) -> dict[str, bytes]:
        return self.files

    def observe(self, name: str, **_: object) -> Observation:
        return Observation("example.org.", name, {s: Answer(v, 60) for s, v in self.sets.items()}, "secure")

    def final(self, name: str) -> tuple[str, str]:
        return "example.org.", name

    def hidden(self, _: str, name: str) -> tuple[Hidden, ...]:
        return self.would_hide

    def delegation(self, _: str) -> Delegation:
        return self.delegated

    def serials(self, _: str, __: timedelta) -> dict[str, int]:
        return self.serial

    def probe(self, services: object, _: object) -> list[Served]:
        return [Served("mx1.example.org", "", 25, ECDSA, self.serves or Unknown("nothing there"), 0.01)]

    def found(self) -> list[Finding]:
        life = self.life
        return served.run(life.spec, life.state, cast("Edges", self), life.now)

    def bad(self) -> list[str]:
        """What is not ok, and how bad."""
        return [f"{f.outcome} {f.what}: {f.detail}" for f in self.found() if f.outcome != "ok"]


def outcomes(world: World, what: str) -> set[str]:
    return {f.outcome for f in world.found() if what in f.what}


@pytest.mark.parametrize(
    ("values", "detail"),
    [
        ([], "no usable record, senders do not use DANE"),
        ([UNUSABLE], "no usable record, senders do not use DANE"),
        ([STRANGE], "no 3 1 1 (ecdsa-p256) record matches what is served"),
    ],
)
@pytest.mark.parametrize("servers", [(NS1, NS2), (NS2,)])
def test_dns_is_compared_with_the_set_that_should_be_there(
    values: list[str], detail: str, servers: tuple[str, ...]
) -> None:
    """A set that was emptied, or has nothing that a sender can use, turns DANE off: an error, and it comes first."""
    world = World(Life.published())
    assert world.bad() == []
    for server in servers:
        world.sets[server] = frozenset(values)
    first = world.found()[0]
    assert first.outcome == "error"
    assert detail in first.detail
    assert [f.what for f in world.found() if f.outcome == "error"] == [f"DNS {TLSA_NAME} at {s}" for s in servers]


def test_a_record_of_keys_to_come_that_is_missing_is_a_warning() -> None:
    """No sender meets them yet."""
    world = World(Life.published())
    assert world.serves
    world.sets[NS1] = frozenset({f"3 1 1 {world.serves.spki}"})
    assert outcomes(world, NS1) == {"warning"}


def test_many_names_are_asked_at_once() -> None:
    """None waits for the answer to another: here each waits until all are asked."""
    life = Life.published()
    names = {f"_{port}._tcp.mx1.example.org.": ("postfix",) for port in (25, 465, 587, 993)}
    life.spec = replace(life.spec, tlsa_names=names)
    world, together = World(life), Barrier(len(names), timeout=30)
    observe = world.observe

    def all_asked(name: str, **more: object) -> Observation:
        together.wait()
        return observe(name, **more)

    world.observe = all_asked  # pyright: ignore[reportAttributeAccessIssue] -- the same, later
    asked = {f.what.partition(" at ")[0] for f in world.found()}
    assert asked >= {f"DNS {name}" for name in names}


def test_another_certificate_in_the_files_is_an_error_although_the_right_one_is_served() -> None:
    world = World(Life.published())
    assert world.bad() == []
    other = chains.make("ecdsa-p256", "mx1.example.org")
    world.files = {ECDSA: other.der}
    [finding] = [f for f in world.found() if f.outcome != "ok"]
    assert (finding.outcome, finding.what) == ("error", "mail server postfix")
    assert other.spki[:12] in finding.detail
    assert "[mta.replaced]" in finding.detail


def test_what_is_on_its_way_is_no_alarm() -> None:
    """Before the first publication, while servers follow, and between swap and reload; but not for ever."""
    life = Life()
    life.until(st.Publish)
    world = World(life)
    assert {f.outcome for f in world.found()} == {"ok", "note"}
    life = Life.published()
    life.happens(ev.Requested(what="rotate"))
    old = World(life).serves
    for kind in (st.Reload, st.Verify):
        life.until(kind)
        world = World(life)
        world.serves = old
        assert outcomes(world, ":25") == {"note"}, world.bad()
    life.until_quiet()
    world = World(life)
    world.serves = old
    assert outcomes(world, ":25") == {"error"}
    world = World(life)
    publish = st.Publish(tlsa_name=TLSA_NAME, values=life.names[TLSA_NAME].desired, ttl_s=60, because="")
    life.does(publish, ev.Published(tlsa_name=TLSA_NAME, values=publish.values))
    assert world.serves
    world.sets[NS2] = frozenset({f"3 1 1 {world.serves.spki}"})
    assert outcomes(world, NS2) == {"note"}
    life.passes(schedule.UNSHOWN)
    assert outcomes(world, NS2) == {"warning"}


# -- what is remembered ------------------------------------------------------------------------------------------------


def said(life: Life, wake: Wake | None = None, daemon: int | None = None) -> list[str]:
    return [one.code for one in conditions(life.spec, life.state, life.now, wake, daemon)]


@pytest.mark.parametrize(
    ("left", "codes", "verdict"),
    [
        (timedelta(days=20), [], "well"),
        (timedelta(days=14), ["served.runs_out"], "failing"),
        (timedelta(0), ["served.expired"], "needs_human"),
    ],
)
def test_a_certificate_that_runs_out_is_said(left: timedelta, codes: list[str], verdict: str) -> None:
    """As soon as the time is used that was kept for retries; `check` sees it at the port, whatever the journal says."""
    life = Life.published()
    assert life.state.newest
    chain = next(iter(life.state.newest.chains.values()))
    life.passes(chain.not_after - left - life.now.wall)
    assert said(life) == codes
    assert status.certificate(life.spec, life.state, life.now, None).verdict == verdict
    first = World(life).found()[0]
    assert (first.outcome == "error") == bool(codes)
    assert all(code in first.detail for code in codes)


def test_a_certificate_of_somebody_else_that_runs_out_is_said_too() -> None:
    """It is what clients meet."""
    life = Life()
    chain = chain_of("ee", life=timedelta(days=12), begin=life.now.wall - timedelta(days=11))
    life.until_quiet(unmanaged(chain), limit=1)
    assert said(life) == ["served.runs_out"]
    life.passes(timedelta(days=1))
    assert said(life) == ["served.expired"]


def test_a_change_that_the_world_does_not_show_gets_a_code_and_an_age() -> None:
    """The provider says yes each time. A server that is silent is another matter."""
    life = Life()
    publish = life.until(st.Publish)
    assert isinstance(publish, st.Publish)
    life.does(publish, ev.Published(tlsa_name=TLSA_NAME, values=publish.values, lane=publish.lane))
    life.looks(frozenset())
    assert said(life) == []
    life.passes(schedule.UNSHOWN)
    life.looks(frozenset(), publish.values)
    [condition] = conditions(life.spec, life.state, life.now)
    assert condition.code == "dns.not_shown"
    assert "accepted a change 1 h" in condition.detail
    assert "192.0.2.1 does not" in condition.detail
    assert not condition.needs_human
    life.looks(None, publish.values)
    assert said(life) == []
    life.looks(publish.values)
    assert said(life) == []


def test_a_server_whose_transfer_is_late_is_named_with_both_serials() -> None:
    """In `check`, and where a change is not shown in time. Serials go round at 2^32 (RFC 1982)."""
    world = World(Life.published())
    assert outcomes(world, "serials of example.org.") == {"ok"}
    world.serial = {NS1: 3, NS2: 2**32 - 2}
    assert world.bad() == [
        f"warning serials of example.org.: {NS2} lags: "
        "it is at serial 4294967294, others are at 3: its transfer is late"
    ]


def test_a_change_that_is_not_shown_names_the_serial_of_the_server_that_lags() -> None:
    life = Life()
    publish = life.until(st.Publish)
    assert isinstance(publish, st.Publish)
    life.does(publish, ev.Published(tlsa_name=TLSA_NAME, values=publish.values, lane=publish.lane))
    life.passes(schedule.UNSHOWN)
    life.looks(frozenset(), publish.values)
    assert life.tlsa_name.observation
    server = next(s for s, a in life.tlsa_name.observation.answers.items() if isinstance(a, Answer) and not a.values)
    seen = replace(life.tlsa_name.observation, late={server: Late(5, 7)})
    life.happens(ev.Observed(tlsa_name=TLSA_NAME, observation=seen))
    [condition] = conditions(life.spec, life.state, life.now)
    assert f"; {server}: it is at serial 5, others are at 7: its transfer is late" in condition.detail


def limited(life: Life, retry_after: timedelta) -> None:
    life.happens(
        ev.Failed(
            lane=lane_of(f"order {ECDSA}"),
            kind="transient",
            code="ca.rate_limited",
            detail="too many",
            concerns="ca",
            retry_after_s=retry_after.total_seconds(),
        )
    )


@pytest.mark.parametrize(("retry_after", "codes"), [(timedelta(days=80), []), (timedelta(days=91), ["ca.outlasts"])])
def test_a_ca_that_wants_more_time_than_the_certificate_has_is_said(retry_after: timedelta, codes: list[str]) -> None:
    """With all three dates: what it wants, the end, and when it is asked."""
    life = Life.published()
    limited(life, retry_after)
    assert said(life) == codes
    view = status.certificate(life.spec, life.state, life.now, None)
    assert view.verdict == ("needs_human" if codes else "failing")
    assert view.failures[0].again_at < life.now.wall + timedelta(days=80)


def test_renewal_information_that_fails_is_a_note() -> None:
    """It is advice (RFC 9773): certagent renews in time without."""
    life = Life.published()
    life.fails("renewal info", "ca.rejected", kind="rejected", times=5)
    view = status.certificate(life.spec, life.state, life.now, None)
    assert (view.verdict, view.failures[0].note) == ("well", True)


def test_a_ca_that_hurries_is_said_with_its_page() -> None:
    """Three renewals in a row in the first third of a life."""
    life = Life.published()
    for _ in range(schedule.HURRIES):
        assert life.state.newest
        now = life.now.wall
        drawn = ev.RenewalInfo(
            generation=life.state.newest.id,
            key_type=ECDSA,
            ca=CA,
            start=now,
            end=now,
            at=now,
            ask_again_s=60,
            explanation_url="https://ca.example/why",
        )
        life.happens(drawn)
        life.until(st.Install)
        life.until_quiet()
    assert life.state.newest
    life.happens(replace(drawn, generation=life.state.newest.id))  # pyright: ignore[reportPossiblyUnboundVariable]
    [condition] = conditions(life.spec, life.state, life.now)
    assert (condition.code, condition.hint) == ("ca.hurries", "the CA explains it: https://ca.example/why")
    assert status.certificate(life.spec, life.state, life.now, None).explanation_url == "https://ca.example/why"


@pytest.mark.parametrize(
    ("daemon", "late", "codes"),
    [
        (4711, timedelta(minutes=20), []),
        (4711, HOUR, ["agent.overdue"]),
        (None, 24 * HOUR, []),
        (None, 26 * HOUR, ["agent.overdue"]),
    ],
)
def test_nothing_done_for_long_is_said(daemon: int | None, late: timedelta, codes: list[str]) -> None:
    """A daemon that hangs or cannot write, and one that nobody has started; a timer once a day is enough."""
    life = Life.published()
    assert said(life, Wake(life.now.wall - late, "check interval"), daemon) == codes


@pytest.mark.parametrize(
    ("delegated", "bad"),
    [
        ({"ns1.": ()}, []),
        ({"ns1.": ("192.0.2.1",)}, []),
        ({"ns1.": ("192.0.2.9",)}, ["warning", "gives 192.0.2.9 as address of ns1., which has 192.0.2.1"]),
        ({"ns1.": (), "ns9.": ("192.0.2.9",)}, ["warning", "names ns9., and the zone does not"]),
        ({"ns9.": ()}, ["warning", "names ns9.", "note", "lists ns1., and the parent org. does not"]),
        ({}, ["warning", "for the world there is no such zone"]),
        (Unknown("nobody there"), ["note", "cannot be asked for at org.: nobody there"]),
    ],
)
def test_the_delegation_is_compared(delegated: dict[str, tuple[str, ...]] | Unknown, bad: list[str]) -> None:
    """None of it is an error: the servers of both sets are asked, and their answers are."""
    world = World(Life.published())
    world.delegated = replace(world.delegated, delegated=delegated)
    found = " ".join(one for one in world.bad() if "delegation" in one)
    assert all(words in found for words in bad)
    assert bool(found) == bool(bad)
    assert "error" not in found


def test_a_wildcards_address_is_an_error_before_it_is_lost() -> None:
    """Once for a host, however many records would take its address away."""
    world = World(Life.published())
    world.would_hide = (Hidden("mx1.example.org.", "*.example.org.", ("A 192.0.2.1",)),)
    (found,) = (f for f in world.found() if "wildcard" in f.detail)
    assert (found.outcome, found.what) == ("error", "DNS mx1.example.org.")
    assert found.hint == "first give it its own records: mx1.example.org. A 192.0.2.1"
