"""Every provider in every case: what can be there, what others do, and what a service says.

A row is a function. Where a case cannot exist, its decorator has the reason; docs/results/dns.md shows all of them.
What every provider keeps besides is in `certagent.testing.dns_provider_suite`; what is particular to one has a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from certagent.dns.providers.protocol import Changed, Provider
from certagent.errors import Misconfigured, Rejected, Transient
from certagent.host import deadline
from tests.dns.cases import CASES, EVERY, At, Case, because, case, table
from tests.dns.fakes.cloudflare import Cloudflare
from tests.dns.fakes.inwx import Inwx
from tests.dns.fakes.known import ACME_DNS, OTHERS, Known
from tests.dns.fakes.ovh import Ovh
from tests.dns.fakes.service import TOKEN, Fault
from tests.dns.observed import CASES_PART, PAGE

HTML = b"<html><body>Bad Gateway: the-token-of-the-test</body></html>"
CHALLENGE = "_acme-challenge.mx1.example.org."
AT_ONCE = 100
"""What Cloudflare gives of a list unless it is asked for another number; and certagent asks for this one."""


SETS = ("powerdns", "desec", "hetzner", "gandi", "route53")
BRIDGED = ("lexicon-luadns", "lexicon-porkbun")
TELLS_NOTHING = "it tells nothing of what it has"


# -- what is there -----------------------------------------------------------------------------------------------------


@case(acme_dns="an account has the values of one host, and a newer one takes the place of the oldest")
def beside_values_of_others(at: At) -> None:
    at.put(at.c)
    at.add(at.a)
    assert at.there() == [at.a, at.c]
    at.remove(at.a)
    assert at.there() == [at.c]


@case(acme_dns=TELLS_NOTHING)
def what_is_added_twice(at: At) -> None:
    for values in ((at.a,), (at.a,), (at.a, at.b)):
        at.add(*values)
    assert at.there() == [at.a, at.b]


@case(acme_dns="it removes nothing")
def removing_what_is_not_there(at: At) -> None:
    at.remove(at.a)
    at.put(at.c)
    at.remove(at.a)
    assert at.there() == [at.c]
    for _ in range(2):
        at.remove(at.a, at.c)
        assert at.there() == []


@case(acme_dns=TELLS_NOTHING)
def two_writers_at_once(at: At) -> None:
    """Who comes second with what he read before is refused, reads again, and gets his way."""
    other, was = at.made(), at.get()
    at.add(at.c, by=other)
    with pytest.raises(Changed):
        at.provider.add(at.name, at.rdtype, frozenset({at.a}), 3600, was)
    assert at.there() == [at.c]
    at.add(at.a)
    was = at.get()
    at.remove(at.c, by=other)
    with pytest.raises(Changed):
        at.provider.remove(at.name, at.rdtype, frozenset({at.a}), was)
    assert at.there() == [at.a]
    at.remove(at.a)
    assert at.there() == []


@case(acme_dns="it takes challenges only", desec="it gives hex back in lower case")
def upper_case_hex_that_comes_back(at: At) -> None:
    at.put(at.a.upper())
    assert [content.split()[-1] for content in at.fake.kept(at.name, at.rdtype)] == [at.a.split()[-1].upper()]
    found = at.get()
    assert found
    assert found.values == {at.a}
    at.add(at.a, at.b)
    assert at.there() == [at.a, at.b]
    at.remove(at.a)
    assert at.there() == [at.b]


@case(inwx="it takes no quotes, and gives text as it is", acme_dns="its values are 43 letters and digits")
def split_and_escaped_strings_that_come_back(at: At) -> None:
    at.name, at.rdtype = CHALLENGE, "TXT"
    at.put(r'"one" "two \"x\" \195\164"')
    value = 'onetwo "x" ä'
    found = at.get()
    assert found
    assert found.values == {value}
    at.add(value, "other")
    assert at.there() == [value, "other"]
    at.remove(value)
    assert at.there() == ["other"]


@case(
    because("its TTLs begin at 0", "powerdns", "route53"),
    because("it has one TTL, and `add` sends none", "netcup", "acme-dns"),
)
def a_ttl_below_the_floor(at: At) -> None:
    """The least that the service takes is what it gets; and that it takes no less is so."""
    at.add(at.a, ttl_s=1)
    floor_s = at.provider.capabilities.ttl_floor_s  # of some it is known only then
    found = at.get()
    assert found
    assert found.ttl_s == floor_s
    at.remove(at.a)
    at.provider.capabilities = replace(at.provider.capabilities, ttl_floor_s=0)
    with pytest.raises(Rejected, match=r"dns\.rejected"):
        at.add(at.a, ttl_s=floor_s - 1)
    assert at.there() == []


@case(acme_dns=TELLS_NOTHING)
def two_hundred_records_of_others(at: At) -> None:
    """In the zone; and many values of others at the very name."""
    at.known.others(at.fake)
    at.name, at.rdtype = CHALLENGE, "TXT"
    many = 10 if isinstance(at.fake, Ovh) else AT_ONCE + 20  # each is a request of its own there
    theirs = sorted(f"value-{number}" for number in range(many))
    at.put(*(value if isinstance(at.fake, Inwx) else f'"{value}"' for value in theirs))
    at.add("ours")
    assert at.there() == ["ours", *theirs]
    at.remove("ours")
    assert at.there() == theirs
    assert sum(bool(at.fake.kept(f"host{number}.example.org.", "TXT")) for number in range(OTHERS)) == OTHERS


@case(
    because("it is asked for the one set, which has no pages", *SETS),
    because("it gives its list as a whole", "ovh", "netcup", "inwx", "porkbun", *BRIDGED),
    acme_dns=TELLS_NOTHING,
)
def what_comes_on_two_pages(at: At) -> None:
    """Ours is on the last one."""
    at.name, at.rdtype = CHALLENGE, "TXT"
    at.put(*(f'"value-{number}"' for number in range(AT_ONCE)))
    at.add("ours")
    at.fake.asked.clear()
    found = at.get()
    assert found
    assert len(found.values) == AT_ONCE + 1
    assert [asked.query["page"] for asked in at.fake.asked] == ["1", "2"]
    assert isinstance(at.fake, Cloudflare)


# -- who may -----------------------------------------------------------------------------------------------------------


@case()
def a_wrong_token(at: At) -> None:
    """The operator has to repair it: the error says where, and never the token. A right one needs no restart."""
    at.token_file.write_text(at.known.secret.format("wrong-secret"))
    with pytest.raises(Misconfigured) as caught:
        at.add(at.a)
    assert caught.value.code == "dns.refused"
    assert caught.value.hint
    assert "wrong-secret" not in repr(caught.value)
    assert at.there() == []
    at.token_file.write_text(at.known.secret.format(TOKEN))
    at.add(at.a)
    assert at.there() == [at.a]


@case(
    powerdns="its key has all rights",
    netcup="its keys have all rights",
    acme_dns="an account has one right; from another address it is a wrong one",
    lexicon_porkbun="the bridge does not know that Porkbun says it with the status of wrong content",
)
def a_token_without_rights(at: At) -> None:
    """In the service's own words."""
    at.get()
    at.fake.may_write = False
    with pytest.raises(Misconfigured) as caught:
        at.add(at.a)
    assert caught.value.code == "dns.refused"
    assert caught.value.hint
    assert at.there() == []
    at.fake.may_write = True
    at.add(at.a)
    assert at.there() == [at.a]


@case(acme_dns="it has accounts, and no zones")
def a_zone_that_is_not_in_the_account(at: At) -> None:
    stranger = at.made("other.example.")
    with pytest.raises(Misconfigured, match=r"dns\.refused"):
        stranger.add("x.other.example.", "TXT", frozenset({"x"}), 3600, None)


@case(acme_dns="it has accounts, and no zones")
def a_child_zone(at: At) -> None:
    """Each record goes into its own zone. A child that is not configured is found by its SOA: see agent/zones.py."""
    child, parent = "mx1.example.org", "example.org"
    at.fake.host(child)
    at.provider = at.made(f"{parent}.", f"{child}.")
    at.add(at.a)
    assert (at.there(zone=child), at.there(zone=parent)) == ([at.a], [])
    at.name = f"_25._tcp.mx2.{parent}."
    at.add(at.b)
    assert at.there(zone=parent) == [at.b]
    at.remove(at.b)
    at.name, _ = at.known.set
    at.remove(at.a)
    assert (at.there(zone=child), at.there(zone=parent)) == ([], [])


# -- what a service says -----------------------------------------------------------------------------------------------


def too_many(at: At, lost: str) -> tuple[str, float | None]:
    """Code and wait. Porkbun says it as an overloaded server does."""
    status, *_ = at.fake.too_many()
    return (lost if status == 503 else "dns.rate_limited"), at.fake.RETRY_AFTER_S


@case(acme_dns=TELLS_NOTHING)
def too_many_requests_as_it_reads(at: At) -> None:
    """In the service's own form; with how long to wait, if it says so."""
    at.get()
    at.fake.allowed = 0
    with pytest.raises(Transient) as caught:
        at.get()
    assert (caught.value.code, caught.value.retry_after_s) == too_many(at, "dns.unreachable")
    at.fake.allowed = None
    assert at.get() is None


@case()
def too_many_requests_as_it_writes(at: At) -> None:
    at.get()
    at.fake.arrived = lambda: setattr(at.fake, "allowed", 0)
    with pytest.raises(Transient) as caught:
        at.add(at.a)
    assert (caught.value.code, caught.value.retry_after_s) == too_many(at, "dns.unknown_outcome")
    assert at.there() == []
    at.fake.arrived, at.fake.allowed = lambda: None, None
    at.add(at.a)
    assert at.there() == [at.a]


@case(acme_dns="a value takes one request")
def too_many_requests_in_the_middle(at: At) -> None:
    """Whichever request of a change is one too many, what is done stays, and the next try does the rest."""
    at.put(at.c)
    _until_done(at, lambda: at.add(at.a, at.b))
    assert at.there() == [at.a, at.b, at.c]
    _until_done(at, lambda: at.remove(at.a, at.b))
    assert at.there() == [at.c]


@case(
    because("a set has one TTL", *SETS),
    because("the bridge changes no TTL", *BRIDGED),
    netcup="a zone has one TTL",
    acme_dns="it has one TTL",
)
def too_many_requests_in_the_middle_of_a_new_ttl(at: At) -> None:
    """All records of a set have one in the end (RFC 2181 section 5.2)."""
    at.put(at.a, at.b, at.c)
    _until_done(at, lambda: at.add(at.a, ttl_s=7200))
    assert [record.ttl_s for record in at.provider.records(at.name, at.rdtype)] == [7200] * 3


def _until_done(at: At, do: Callable[[], None]) -> None:
    """With one more request allowed for each try."""
    at.get()
    allowed, over = 0, False
    while not over:
        at.fake.allowed = allowed
        with suppress(Transient):
            do()
            over = True
        assert at.c in at.there()
        assert len(set(at.there())) == len(at.there())
        allowed += 1
    assert allowed > 2
    at.fake.allowed = None


@case(acme_dns=TELLS_NOTHING)
def errors_of_the_service_as_it_reads(at: At) -> None:
    for status, body in ((500, b""), (502, HTML), (503, b"{}")):
        at.fails(Fault(status, body, writes=False), Transient, "dns.unreachable", at.get)
    assert at.get() is None


@case()
def errors_of_the_service_as_it_writes(at: At) -> None:
    """Whether it was done is not known: the next try finds out, and does nothing twice."""
    for fault in (Fault(503, HTML), Fault(500, done=True)):
        at.fails(fault, Transient, "dns.unknown_outcome", lambda: at.add(at.a))
    at.tries_again()


@case(acme_dns=TELLS_NOTHING)
def html_in_place_of_json_as_it_reads(at: At) -> None:
    at.fails(Fault(200, HTML, writes=False), Transient, "dns.unreachable", at.get)


@case()
def html_in_place_of_json_as_it_writes(at: At) -> None:
    for fault in (Fault(200, HTML), Fault(200, HTML, done=True)):
        at.fails(fault, Transient, "dns.unknown_outcome", lambda: at.add(at.a))
    at.tries_again()


@case()
def an_answer_that_is_lost_after_the_write(at: At) -> None:
    """Whoever comes with what he read before is refused, so nothing is written over it."""
    was = at.get()
    at.fails(Fault(done=True), Transient, "dns.unknown_outcome", lambda: at.add(at.a))
    assert at.there() == [at.a]
    if at.known is ACME_DNS:
        return
    with pytest.raises(Changed):
        at.provider.add(at.name, at.rdtype, frozenset({at.b}), 3600, was)
    at.add(at.a)
    assert at.there() == [at.a]


@case()
def a_time_out_after_the_write(at: At) -> None:
    """It was done: the next try finds it, and nothing is there twice. So with what is removed."""
    _until_it_hangs(at, lambda hasty: at.add(at.a, by=hasty))
    at.tries_again()
    if at.known is ACME_DNS:
        return
    _until_it_hangs(at, lambda hasty: at.remove(at.a, by=hasty))
    assert at.there() == []
    at.remove(at.a)
    assert at.there() == []


def _until_it_hangs(at: At, do: Callable[[Provider], None]) -> None:
    """A machine that is slow may not come to the write in that time, and then it has more."""
    at.fake.faults.append(Fault(done=True, hangs=True))
    code, limit_s = "", 0.2
    while at.fake.faults:
        with deadline.total(limit_s), pytest.raises(Transient) as caught:
            do(at.made())
        code, limit_s = caught.value.code, 2 * limit_s
    assert code == "dns.unknown_outcome"


CELLS = [
    pytest.param(row, known, id=f"{row.name}-{known.name}")
    for row in CASES
    for known in EVERY
    if known.name not in row.not_at
]


@pytest.fixture
def at(known: Known, tmp_path: Path) -> Iterator[At]:
    at = At(known, tmp_path)
    yield at
    at.fake.stop()


@pytest.mark.parametrize(("row", "known"), CELLS)
def test_the_case(row: Case, at: At) -> None:
    row.run(at)


def test_each_reason_is_of_a_provider() -> None:
    """A name that is spelt otherwise would be a reason for nothing."""
    assert {name for row in CASES for name in row.not_at} <= {known.name for known in EVERY}


def test_the_page_has_the_reasons() -> None:
    """`python -m tests.dns.observed` writes them."""
    part = CASES_PART.search(PAGE.read_text("utf-8"))
    assert part
    assert part[0].splitlines() == list(table(CASES))
