"""dns-persist-01: the record that is wanted, those that suffice, and who makes it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as hst

from certagent.acme.challenges.dnspersist01 import DnsPersist01, Record, parsed, suffices
from certagent.acme.challenges.protocol import Offer
from certagent.errors import CaRefusal, NoProvider
from certagent.facts.challenge import Method

HOST, ISSUER, ACCOUNT = "mx1.example.org", "authority.example", "https://ca.example/acct/123"
NAME = f"_validation-persist.{HOST}."
WANTED = f"{ISSUER}; accounturi={ACCOUNT}"
NOW = 1_800_000_000.0


def offer(**more: Any) -> Offer:
    usual: dict[str, Any] = {"issuers": (ISSUER, "ca.example.net"), "account": ACCOUNT}
    return Offer(HOST, "", "thumbprint", Method("dns-persist-01", "_validation-persist"), **(usual | more))


class Txt:
    """DNS, as one zone. `closed`: nobody may write it."""

    def __init__(self, *values: str, closed: bool = False) -> None:
        self.there = {NAME: frozenset(values)}
        self.closed = closed

    def final(self, name: str) -> tuple[str, str]:
        return "example.org.", name

    def values(self, name: str) -> frozenset[str]:
        return self.there.get(name, frozenset())

    def add(self, zone: str, name: str, values: frozenset[str]) -> None:
        if self.closed:
            raise NoProvider("dns.no_provider", "nobody")
        self.there[name] = self.values(name) | values

    def remove(self, zone: str, name: str, values: frozenset[str]) -> None:
        raise AssertionError

    def seen(self, name: str, values: frozenset[str], budget: timedelta) -> None:
        assert values <= self.values(name)


class Means:
    """Nothing but DNS."""

    def __init__(self, txt: Txt) -> None:
        self.txt = txt
        self.method = Method("dns-persist-01", "_validation-persist")

    @property
    def listeners(self) -> Any:
        raise AssertionError

    def addresses(self, host: str) -> tuple[str, ...]:
        raise AssertionError


def test_the_record_is_that_of_the_draft() -> None:
    """Section "Validation Record Format", with its example."""
    challenge = DnsPersist01.respond(offer())
    assert (challenge.name, challenge.value) == (NAME, "authority.example; accounturi=https://ca.example/acct/123")
    assert DnsPersist01.respond(offer(wildcard=True)).value == f"{WANTED}; policy=wildcard"


@pytest.mark.parametrize(
    "more",
    [
        {"issuers": ()},
        {"issuers": ("a.example",) * 11},
        {"issuers": ("Authority.example", "")},
        {"issuers": ("a.example; accounturi=x",)},
        {"account": "https://ca.example/acct/1; policy=wildcard"},
        {"account": "https://ca.example/" + "a" * 240},
    ],
)
def test_what_is_no_challenge_is_refused(more: dict[str, Any]) -> None:
    """Nothing that the CA says becomes more in the record than it is."""
    with pytest.raises(CaRefusal, match=r"ca\.rejected"):
        DnsPersist01.respond(offer(**more))


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        (WANTED, True),
        (f"{ISSUER};accounturi={ACCOUNT}", True),
        (f" Authority.Example. ;\taccounturi = {ACCOUNT} ; policy=WildCard; new=thing", True),
        (f"{WANTED}; persistUntil=1800000001", True),
        (f"{WANTED}; persistUntil=1800000000", False),
        (f"{WANTED}; persistUntil=soon", False),
        (f"{WANTED}4", False),
        (f"{WANTED}; accounturi={ACCOUNT}", False),
        (f"ca.example.net; accounturi={ACCOUNT}", False),
        (ISSUER, False),
        (f"; accounturi={ACCOUNT}", False),
        ("v=spf1 -all", False),
        ("", False),
    ],
)
def test_a_record_that_a_person_made_may_suffice(text: str, enough: bool) -> None:
    assert suffices([text], WANTED, NOW) is enough
    assert suffices(["v=spf1 -all", text, "x"], WANTED, NOW) is enough


def test_a_wildcard_needs_its_policy() -> None:
    wanted = f"{WANTED}; policy=wildcard"
    assert not suffices([WANTED], wanted, NOW)
    assert suffices([wanted], wanted, NOW)
    assert suffices([wanted], WANTED, NOW)


HOSTS = hst.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,10}){1,3}", fullmatch=True)
URIS = hst.from_regex(r"https://[a-z0-9./:?=&_-]{1,60}", fullmatch=True)


@given(hst.builds(Record, HOSTS, URIS, hst.booleans(), hst.none() | hst.integers(0, 10**15 - 1)))
def test_what_is_written_is_read_as_the_same(record: Record) -> None:
    assert parsed(str(record)) == record


@given(hst.text() | hst.text(alphabet=";= \taccounturi=policywildcard.x0"))
def test_whatever_stands_there_is_a_record_or_none(text: str) -> None:
    record = parsed(text)
    assert record is None or parsed(str(record)) == record


def test_it_is_written_once_and_stays() -> None:
    txt = Txt("v=spf1 -all")
    challenges = [DnsPersist01.respond(offer()), DnsPersist01.respond(offer(wildcard=True))]
    for _ in range(2):
        type_ = DnsPersist01(Means(txt))
        type_.present(challenges)
        with type_.serving(challenges):
            assert type_.ready(challenges) == ""
        type_.clean_up(challenges)
        assert txt.there == {NAME: {"v=spf1 -all", f"{WANTED}; policy=wildcard"}}  # which is enough for both


def test_one_that_is_there_is_left_alone() -> None:
    txt = Txt(f"{WANTED};policy=wildcard;persistUntil=99999999999", closed=True)
    type_ = DnsPersist01(Means(txt))
    type_.present([DnsPersist01.respond(offer())])
    assert type_.ready([DnsPersist01.respond(offer())]) == ""


def test_where_nobody_may_write_the_record_to_make_is_told() -> None:
    with pytest.raises(NoProvider, match=r"dns\.no_provider") as info:
        DnsPersist01(Means(Txt(closed=True))).present([DnsPersist01.respond(offer())])
    assert info.value.hint == f'make this record by hand, once: {NAME} TXT "{WANTED}"'
