from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certagent.errors import Misconfigured, Rejected
from certagent.facts.tls import Chain
from certagent.pki import tlsa
from tests.pki.made import at_most_refused

A, B, C, D = ("a1" * 32, "b2" * 32, "c3" * 32, "d4" * 32)
DATE = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
CHAIN = Chain(spki=A, issuers=(B, C), names=("mx.example.org",), not_before=DATE, not_after=DATE, serial="1")
ALONE = Chain(spki=A, issuers=(), names=("mx.example.org",), not_before=DATE, not_after=DATE, serial="1")

NUMBERS = st.integers(0, 255).map(str)
RECORDS = st.tuples(NUMBERS, NUMBERS, NUMBERS, st.binary(min_size=1, max_size=80).map(bytes.hex)).map(" ".join)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 1 1 ABCD", "3 1 1 abcd"),
        (" 3\t1 1  ab cd\n ef ", "3 1 1 abcdef"),
        ("003 01 1 00", "3 1 1 00"),
        ("255 255 255 ff", "255 255 255 ff"),
    ],
)
def test_a_record_has_one_form(text: str, value: str) -> None:
    """RFC 6698 section 2.2."""
    assert tlsa.canonical(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3 1 1",
        "3 1 1 a",
        "3 1 1 ag",
        "3 1 ab",
        "256 1 1 ab",
        "-1 1 1 ab",
        "+3 1 1 ab",
        "3 1 1 0xab",
        "0003 1 1 ab",
        "DANE-EE SPKI SHA2-256 ab",
        "٣ 1 1 ab",
        "3 1 1 " + "a" * 262144,
    ],
)
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        tlsa.canonical(text)
    assert caught.value.code == "tlsa.invalid"


def test_a_key_has_its_record_before_it_has_a_certificate() -> None:
    assert tlsa.of_key(A.upper()) == f"3 1 1 {A}"
    with pytest.raises(Rejected):
        tlsa.of_key("ab")


def test_a_chain_needs_its_key_and_its_topmost_ca() -> None:
    """RFC 7671 section 5.2."""
    assert tlsa.records(CHAIN, ["3 1 1", "2 1 1"]) == {f"3 1 1 {A}", f"2 1 1 {C}"}
    assert tlsa.records(ALONE, ["3 1 1", "2 1 1"]) == {f"3 1 1 {A}"}
    assert tlsa.records(CHAIN, []) == frozenset()
    with pytest.raises(Misconfigured) as caught:
        tlsa.records(CHAIN, ["3 0 1"])
    assert caught.value.code == "tlsa.parameters"


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (f"3 1 1 {A}", True),
        (f"3 1 1 {A.upper()}", True),
        (f"3 1 1 {B}", False),
        (f"3 1 1 {A[2:]}", False),
        (f"2 1 1 {B}", True),
        (f"2 1 1 {C}", True),
        (f"2 1 1 {A}", False),
        (f"2 1 1 {D}", False),
        (f"3 0 1 {A}", None),
        (f"3 1 2 {A * 2}", None),
        (f"2 0 1 {B}", None),
        (f"1 1 1 {A}", None),
    ],
)
def test_a_match_is_reported_only_where_the_facts_decide_it(value: str, *, answer: bool | None) -> None:
    """RFC 6698 section 2.1."""
    assert tlsa.matches(value, CHAIN) is answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (f"3 1 1 {A}", True),
        (f"2 0 1 {A}", True),
        (f"3 0 2 {A * 2}", True),
        ("3 1 0 30", True),
        (f"0 1 1 {A}", False),
        (f"1 1 1 {A}", False),
        (f"4 1 1 {A}", False),
        (f"3 2 1 {A}", False),
        (f"3 1 3 {A}", False),
        (f"3 1 1 {A}00", False),
        (f"3 1 2 {A}", False),
        ("3 0 0 ", False),  # as DNS gives it where a record has no data
        ("3 1 1 ", False),
    ],
)
def test_an_smtp_client_can_use_it(value: str, *, answer: bool) -> None:
    """RFC 7672 section 3.1.3, RFC 6698 section 4.1."""
    assert tlsa.usable(value) is answer


@given(RECORDS)
def test_the_canonical_form_is_its_own_canonical_form(value: str) -> None:
    assert tlsa.canonical(value) == value
    assert tlsa.canonical(value.upper().replace(" ", "  ") + "\n") == value
    assert value.startswith(tlsa.parameters(value) + " ")


@given(st.sampled_from([CHAIN, ALONE]), st.sets(st.sampled_from(["3 1 1", "2 1 1"])))
def test_every_record_of_a_chain_matches_it_and_is_usable(leaf: Chain, tlsa_parameters: set[str]) -> None:
    values = tlsa.records(leaf, tlsa_parameters)
    assert all(tlsa.matches(value, leaf) and tlsa.usable(value) for value in values)


@given(st.text() | RECORDS.map(lambda value: value.replace("1", " ", 1)))
def test_any_text_gives_a_record_or_an_error(text: str) -> None:
    functions: list[Callable[[str], object]] = [tlsa.canonical, tlsa.parameters, tlsa.usable, tlsa.of_key]
    functions.append(lambda text: tlsa.matches(text, CHAIN))
    for function in functions:
        with at_most_refused("tlsa.invalid"):
            function(text)
