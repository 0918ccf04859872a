"""Challenge types: what dns-01 does, and a type that only this test knows, through an order at a scripted CA."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from certagent.acme.challenges import dns01
from certagent.acme.challenges.protocol import Offer
from certagent.acme.client import Acme
from certagent.agent.act import challenges as acts
from certagent.agent.act import hiding
from certagent.agent.act.dispatch import act
from certagent.agent.edges import Edges
from certagent.dns.providers.protocol import Capabilities, RRset
from certagent.errors import Misconfigured, NotYet, Rejected, Unsafe
from certagent.facts.challenge import TYPES, About, Challenge, Method
from certagent.facts.dns import Hidden
from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.pki import keys
from certagent.secret import Secret
from tests.acme.front import answer
from tests.acme.test_acme import CSR, Ca, caught
from tests.acme.toy import Toy
from tests.lifecycle.play import CA, SPEC, Life

HOST = SPEC.names[0]


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[Ca]:
    with Ca(tmp_path) as ca:
        yield ca


@pytest.fixture
def acme(ca: Ca, tmp_path: Path) -> Acme:
    return Acme(ca.directory, tmp_path / "account", ca_bundle=ca.ca_bundle, timeout_s=5)


class Zone:
    """A resolver and a provider in one. `alias` leads elsewhere."""

    capabilities = Capabilities()

    def __init__(self, **alias: str) -> None:
        self.alias = alias
        self.would_hide: tuple[Hidden, ...] = ()
        self.written: dict[str, frozenset[str]] = {}
        self.asked: list[str] = []

    def final(self, name: str) -> tuple[str, str]:
        return "example.org.", self.alias.get(name, name)

    def hidden(self, zone: str, name: str) -> tuple[Hidden, ...]:
        return tuple(one for one in self.would_hide if name.endswith(one.host))

    def wait_for_txt(self, name: str, values: frozenset[str], budget: object) -> None:
        assert values <= self.written[name]
        self.asked.append(name)

    @contextmanager
    def writing(self, zone: str, name: str) -> Generator[Zone]:
        yield self

    def get(self, name: str, rdtype: str) -> RRset | None:
        return RRset(self.written[name], 60) if name in self.written else None

    def add(self, name: str, rdtype: str, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        self.written[name] = self.written.get(name, frozenset()) | values

    def remove(self, name: str, rdtype: str, values: frozenset[str], was: RRset | None) -> None:
        self.written[name] = self.written[name] - values


def edges_of(zone: Zone, issuer: object = None, key: Secret[bytes] | None = None) -> Edges:
    class Vault:
        def key(self, *_: object) -> Secret[bytes]:
            assert key is not None
            return key

    made: Any = Edges
    return made(issuer=lambda *_: issuer, resolver=lambda: zone, zones=zone, vault=Vault(), servers={})  # pyright: ignore[reportUnknownLambdaType]


class TestDns01:
    def test_the_response_is_the_digest_of_token_and_key(self) -> None:
        """RFC 8555 section 8.4, with the token and the thumbprint of RFC 8555 section 8.1 and RFC 7638 section 3.1."""
        token = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
        made = dns01.Dns01.respond(Offer("www.example.org", token, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"))
        assert made.name == "_acme-challenge.www.example.org."
        assert made.value == "ZTRx1Ckl1-tM05o5zaizTTA0yUy5AGereMgSNWC6Ll8"  # by openssl(1) and basenc(1)

    def test_names_that_lead_to_one_place_are_one_set(self) -> None:
        """A delegated challenge: both values are written, seen and removed together."""
        zone = Zone(a="shared.", b="shared.")
        challenges = [Challenge("dns-01", name, name, f"value {name}") for name in ("a", "b", "c")]
        edges = edges_of(zone)
        acts.present(challenges, SPEC, edges)
        assert zone.written == {"shared.": {"value a", "value b"}, "c": {"value c"}}
        acts.ready(challenges, SPEC, edges)
        assert sorted(zone.asked) == ["c", "shared."]
        acts.clean_up(challenges[:1], SPEC, edges)
        assert zone.written == {"shared.": {"value b"}, "c": {"value c"}}

    def test_a_mail_host_keeps_its_address(self) -> None:
        """A host with a wildcard's address loses it to a challenge below its name. Others lose it for minutes only."""
        zone, mail, other = Zone(), "mx1.example.org", "autoconfig.example.org"
        assert mail in hiding.mail_hosts(SPEC)
        zone.would_hide = tuple(Hidden(f"{h}.", "*.example.org.", ("A 192.0.2.1",)) for h in (mail, other))
        acts.present([dns01.Dns01.respond(Offer(other, "t", "k"))], SPEC, edges_of(zone))
        with pytest.raises(Unsafe, match=r"dns\.wildcard_address"):
            acts.present([dns01.Dns01.respond(Offer(mail, "t", "k"))], SPEC, edges_of(zone))
        assert list(zone.written) == [f"_acme-challenge.{other}."]


@pytest.mark.parametrize(
    ("seen", "waits_for", "asked"),
    [
        (True, "all", False),
        (True, "answering", True),
        (False, "answering", False),
        (False, "none", True),
    ],
)
def test_the_ca_is_asked_although_a_server_is_silent(seen: bool, waits_for: st.WaitsFor, asked: bool) -> None:
    """It is said where the response was not seen; and one that is not seen is put there again."""

    class Silent(Zone):
        def wait_for_txt(self, name: str, values: frozenset[str], budget: object) -> None:
            raise NotYet("dns.not_yet", "ns2 gave no answer", seen=seen or name == "_acme-challenge.a.")

    class Issuer:
        def answer(self, url: str, type_: str) -> None: ...

    life = Life()
    found = tuple(Challenge("dns-01", name, f"_acme-challenge.{name}.", "x") for name in ("a", "b"))
    life.happens(ev.OrderPlaced(key_type="ecdsa-p256", keys="k1", url="", challenges=found, ca=CA))
    step = st.Respond(key_type="ecdsa-p256", waits_for=waits_for, because="")
    first, *_ = act(step, life.spec, life.state, edges_of(Silent(), Issuer()), life.now, life.happens)
    both = "ns2 gave no answer; ns2 gave no answer"
    ready = ev.OrderReady(key_type="ecdsa-p256", passed_over=both, lane=step.lane)
    assert first == (ready if asked else ev.ResponseNotSeen(key_type="ecdsa-p256"))


def test_a_new_type_is_its_class_and_one_line(ca: Ca, acme: Acme, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order, the journal, the rules and the acts know nothing of the type; the CA offers it among others."""
    monkeypatch.setitem(TYPES, "toy-01", About("tests.acme.toy:Toy"))
    ca.once("/order", answer(ca.json(ca.order("pending"), 201, Location=f"{ca.url}/o/1")))
    ca.always("/o/1", answer(ca.json(ca.order("pending"))))
    offered = ca.authorization("pending", type="toy-01", name=HOST)
    ca.once("/authz", answer(offered), answer(offered), answer(ca.authorization("valid", name=HOST)))
    edges = edges_of(Zone(), acme, keys.make("ecdsa-p256"))
    life = Life(replace(SPEC, challenge=Method("toy-01", label="")))

    def does(kind: type[st.AnyStep]) -> None:
        step = life.until(kind)
        life.does(step, *act(step, life.spec, life.state, edges, life.now, life.happens))

    does(st.PlaceOrder)
    [order] = life.state.orders.values()
    assert order.challenges == (Challenge("toy-01", HOST, f"board/{HOST}", "dG9rZW4"),)
    assert msgspec.json.decode(msgspec.json.encode(life.state), type=type(life.state)) == life.state
    does(st.Present)
    assert Toy.board == {f"toy-01 board/{HOST} dG9rZW4"}
    does(st.Respond)
    assert ca.count("POST /chall") == 1
    does(st.CleanUp)
    assert Toy.board == set()


def test_a_type_that_is_not_known_is_named(acme: Acme) -> None:
    """A journal of a newer version, or a plug-in that is gone."""
    life = Life()
    life.happens(
        ev.OrderPlaced(
            key_type="ecdsa-p256", keys="k1", url="", challenges=(Challenge("new-01", "a", "b", "c"),), ca=CA
        )
    )
    step = st.Present(key_type="ecdsa-p256", because="")
    error = caught(Misconfigured, act, step, life.spec, life.state, edges_of(Zone()), life.now, life.happens)
    assert error.code == "ca.challenge_type"


def test_the_configured_type_is_taken_and_no_other(ca: Ca, acme: Acme) -> None:
    ca.once("/order", *2 * [answer(ca.json(ca.order("pending"), 201, Location=f"{ca.url}/o/1"))])
    ca.always("/authz", answer(ca.authorization("pending")))
    assert [challenge.type for challenge in acme.order(CSR, Method("dns-01")).challenges] == ["dns-01"]
    error = caught(Rejected, acme.order, CSR, Method("http-01"))
    assert "the CA offers no http-01, only dns-01" in error.detail


def test_an_order_that_is_to_be_met_otherwise_is_abandoned() -> None:
    """The configuration changed between two steps. The responses of the old order are taken away where they are."""
    life = Life(replace(SPEC, challenge=Method("http-01", "", "/srv/old")))
    life.until(st.Respond)
    life.spec = replace(life.spec, challenge=Method("http-01", "", "/srv/new"))
    assert isinstance(life.plan(), st.AbandonOrder)
    life.until(st.Respond)
    [order] = life.state.orders.values()
    assert {one.webroot for one in order.challenges} == {"/srv/new"}
    step = life.until(st.CleanUp)
    assert isinstance(step, st.CleanUp)
    assert {one.webroot for one in step.challenges} == {"/srv/old", "/srv/new"}


def test_a_name_that_was_not_ordered_is_not_vouched_for(ca: Ca, acme: Acme) -> None:
    """A CA that another person controls would get a record for any name of our zone."""
    ca.once("/order", answer(ca.json(ca.order("pending"), 201, Location=f"{ca.url}/o/1")))
    ca.once("/authz", answer(ca.authorization("pending", name="bank.corp.example")))
    error = caught(Rejected, acme.order, CSR)
    assert error.code == "ca.rejected"
    assert "bank.corp.example" in error.detail
