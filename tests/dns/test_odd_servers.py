"""Name servers that do not do as the standards say, or behind networks that do not: each is heard all the same."""

from __future__ import annotations

import time

import dns.flags
import dns.message
import dns.rrset
import pytest
from dns.message import Message
from dns.rcode import FORMERR
from dns.rdatatype import TLSA

from certagent.dns.message import UDP_PAYLOAD, Alias, exchange, read
from certagent.dns.servers import has_route
from certagent.facts.dns import Answer
from certagent.facts.unknown import Unknown
from tests.lab.odd import Odd, Over

NAME = "_25._tcp.mx1.example.org."
FEW, MANY = (1, 40)  # forty records of a digest take 2,000 bytes
TIMEOUT_S = 2.0


def answer(query: Message, records: int = FEW) -> Message:
    made = dns.message.make_response(query)
    made.flags |= dns.flags.AA
    values = [f"3 1 1 {n:064x}" for n in range(records)]
    made.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "TLSA", *values))
    return made


def asked(server: Odd) -> tuple[object, list[tuple[Over, bool]]]:
    """What is read, and how it was asked: over what, and with EDNS or not."""
    query = dns.message.make_query(NAME, TLSA, use_edns=0, payload=UDP_PAYLOAD, want_dnssec=True, flags=0)
    came = exchange(query, server.server, TIMEOUT_S)
    said = came if isinstance(came, Unknown) else read(came, NAME, TLSA)
    return said, [(over, one.edns >= 0) for over, one in server.asked]


def values(records: int) -> Answer:
    return Answer(frozenset(f"3 1 1 {n:064x}" for n in range(records)), 60)


def test_the_usual_server() -> None:
    with Odd(lambda query, _: answer(query)) as server:
        assert asked(server) == (values(FEW), [("udp", True)])


def test_a_long_answer_comes_by_tcp() -> None:
    with Odd(lambda query, _: answer(query, MANY)) as server:
        assert asked(server) == (values(MANY), [("udp", True), ("tcp", True)])


@pytest.mark.skipif(not has_route("::1"), reason="this host has no IPv6")
@pytest.mark.parametrize("records", [FEW, MANY])
def test_one_with_an_address_of_ipv6(records: int) -> None:
    with Odd(lambda query, _: answer(query, records), "::1") as server:
        assert asked(server)[0] == values(records)


def test_one_that_refuses_tcp_is_given_more_room() -> None:
    with Odd(lambda query, _: answer(query, MANY), tcp=False) as server:
        assert asked(server) == (values(MANY), [("udp", True), ("udp", True)])
        assert [one.payload for _, one in server.asked] == [UDP_PAYLOAD, 4096]


def test_one_that_refuses_tcp_and_cuts_off_in_any_case_is_named() -> None:
    """Half an answer is none."""

    def rule(query: Message, _: Over) -> Message:
        made = dns.message.make_response(query)
        made.flags |= dns.flags.AA | dns.flags.TC
        return made

    with Odd(rule, tcp=False) as server:
        said, _ = asked(server)
        assert said == Unknown("cuts its answer off, and refuses TCP")


@pytest.mark.parametrize("bare", [False, True])
def test_one_that_knows_no_edns(bare: bool) -> None:
    """FORMERR, with the question or with a header alone (RFC 6891 section 7)."""

    def rule(query: Message, _: Over) -> Message:
        if query.edns < 0:
            return answer(query)
        made = dns.message.make_response(query)
        made.use_edns(False)
        made.set_rcode(FORMERR)
        if bare:
            made.question.clear()
        return made

    with Odd(rule) as server:
        assert asked(server) == (values(FEW), [("udp", True), ("udp", False)])


def test_one_that_drops_edns() -> None:
    """A firewall, often. What has signatures is tried first, also by TCP."""
    with Odd(lambda query, _: answer(query) if query.edns < 0 else None, tcp=False) as server:
        said, ways = asked(server)
        assert said == values(FEW)
        assert ways[-1] == ("udp", False)


def test_one_that_is_not_reached_by_udp() -> None:
    with Odd(lambda query, over: answer(query) if over == "tcp" else None) as server:
        said, ways = asked(server)
        assert said == values(FEW)
        assert ways[-1] == ("tcp", True)


def test_one_lost_packet() -> None:
    lost = iter([True])
    with Odd(lambda query, _: None if next(lost, False) else answer(query)) as server:
        assert asked(server) == (values(FEW), [("udp", True)] * 2)


def test_one_that_is_silent() -> None:
    with Odd(lambda _query, _over: None, tcp=False) as server:
        assert asked(server)[0] == Unknown("gave no answer within 2 s")


def test_each_question_is_spelt_by_chance() -> None:
    """With an id of its own: a server that is asked as well cannot answer for another one."""
    with Odd(lambda query, _: answer(query)) as server:
        for _ in range(20):
            assert asked(server)[0] == values(FEW)
        names = [query.question[0].name.to_text() for _, query in server.asked]
        assert {name.lower() for name in names} == {NAME}
        assert len(set(names)) > 15
        assert len({query.id for _, query in server.asked}) > 15


def test_an_answer_that_is_not_spelt_alike_is_not_believed() -> None:
    """A forger who guessed the rest; what is asked again as usual counts."""

    def rule(query: Message, _: Over) -> Message:
        usual = query.question[0].name.to_text() == NAME
        other = dns.message.make_query(NAME, TLSA, use_edns=0, id=query.id, flags=0)
        return answer(query) if usual else answer(other, 2)

    with Odd(rule) as server:
        assert asked(server) == (values(FEW), [("udp", True), ("udp", True)])


def test_one_that_does_not_keep_the_spelling_and_refuses_tcp() -> None:
    """It is asked again as usual, at once."""

    def rule(query: Message, _: Over) -> Message:
        return answer(dns.message.make_query(NAME, TLSA, use_edns=0, id=query.id, flags=0))

    with Odd(rule, tcp=False) as server:
        began = time.monotonic()
        assert asked(server)[0] == values(FEW)
        assert time.monotonic() - began < TIMEOUT_S / 10


def test_one_that_changes_the_case() -> None:
    """Names are compared without case (RFC 1035 section 2.3.3), in the question and in the answer."""

    def rule(query: Message, _: Over) -> Message:
        other = dns.message.make_query(NAME.upper(), TLSA, use_edns=0, id=query.id, flags=0)
        return answer(other)

    with Odd(rule) as server:
        assert asked(server)[0] == values(FEW)


@pytest.mark.parametrize("made", [True, False])
def test_a_dname_with_and_without_its_cname(made: bool) -> None:
    """RFC 6672 section 3.1: the CNAME is made by the server; one that does not is understood, too."""

    def rule(query: Message, _: Over) -> Message:
        said = dns.message.make_response(query)
        said.flags |= dns.flags.AA
        said.answer.append(dns.rrset.from_text("mx1.example.org.", 300, "IN", "DNAME", "Example.net."))
        if made:
            said.answer.append(dns.rrset.from_text(NAME, 0, "IN", "CNAME", "_25._tcp.example.net."))
        return said

    with Odd(rule) as server:
        assert asked(server)[0] == Alias("_25._tcp.example.net.", 300)
