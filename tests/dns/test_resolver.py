"""The pure parts of the resolver, and what depends on the host's own network."""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import dns.flags
import dns.message
import dns.rdataclass
import dns.rrset
import pytest
from dns.rdatatype import TLSA, TXT

from certagent.dns import authority
from certagent.dns import servers as module
from certagent.dns.authority import Resolver
from certagent.dns.message import Alias, TooMany, absolute, exchange, majority, read, zone_of
from certagent.errors import Misconfigured
from certagent.facts.dns import Answer
from certagent.facts.unknown import Unknown

A = "aa" * 32
NAME = "_25._tcp.mx1.example.org."


def response(*rrsets: str, rcode: int = 0, aa: bool = True) -> dns.message.Message:
    message = dns.message.make_response(dns.message.make_query(NAME, TLSA))
    message.flags |= dns.flags.AA if aa else 0
    message.set_rcode(rcode)  # pyright: ignore
    for text in rrsets:
        name, ttl, rdtype, *values = text.split("|")
        message.answer.append(dns.rrset.from_text(name, int(ttl), "IN", rdtype, *values))
    return message


class TestRead:
    def test_values_are_canonical(self) -> None:
        """Hex in lower case and one piece, whatever the server's or the library's way of writing."""
        message = response(f"{NAME.upper()}|60|TLSA|3 1 1 {'AB' * 16} {'CD' * 16}|3 1 1 {'EF' * 32}|3 0 0 {'AA' * 900}")
        values = {f"3 1 1 {'ab' * 16}{'cd' * 16}", f"3 1 1 {'ef' * 32}", f"3 0 0 {'aa' * 900}"}
        assert read(message, NAME, TLSA) == Answer(frozenset(values), 60)

    def test_strings_of_a_txt_are_joined(self) -> None:
        assert read(response(f'{NAME}|60|TXT|"a b" "c"'), NAME, TXT) == Answer(frozenset({"a bc"}), 60)

    @pytest.mark.parametrize("rcode", [0, 3])
    def test_nothing_there(self, rcode: int) -> None:
        """NODATA and NXDOMAIN are empty answers; records of other names and types do not count."""
        others = (f"other.{NAME}|60|TLSA|3 1 1 {A}", f'{NAME}|60|TXT|"x"')
        assert read(response(*others, rcode=rcode), NAME, TLSA) == Answer(frozenset(), 0)

    def test_an_alias_comes_first(self) -> None:
        """The rest of the chain in the answer is not taken, and its NXDOMAIN is not the alias's."""
        chain = (f"{NAME}|30|CNAME|T.Example.net.", f"t.example.net.|60|TLSA|3 1 1 {A}")
        assert read(response(*chain, rcode=3), NAME, TLSA) == Alias("t.example.net.", 30)

    def test_a_dname_above_gives_its_ttl(self) -> None:
        """The CNAME that is made from it may have TTL 0."""
        chain = ("mx1.example.org.|300|DNAME|example.net.", f"{NAME}|0|CNAME|_25._tcp.example.net.")
        assert read(response(*chain), NAME, TLSA) == Alias("_25._tcp.example.net.", 300)

    @pytest.mark.parametrize("rcode", [1, 2, 4, 5, 9])
    def test_a_failure_is_unknown(self, rcode: int) -> None:
        assert isinstance(read(response(rcode=rcode), NAME, TLSA), Unknown)

    def test_without_authority_it_is_unknown(self) -> None:
        """A referral, or somebody's cache."""
        assert isinstance(read(response(f"{NAME}|60|TLSA|3 1 1 {A}", aa=False), NAME, TLSA), Unknown)

    def test_too_many_records_are_counted_and_named(self) -> None:
        many = "|".join(f"3 1 1 {n:064x}" for n in range(65))
        said = read(response(f"{NAME}|60|TLSA|{many}"), NAME, TLSA)
        assert said == TooMany(f"gives 65 records for {NAME} TLSA, and 64 are read at most")

    def test_records_of_another_class_do_not_count(self) -> None:
        """The question was for class IN."""
        message = response(f"{NAME}|60|TLSA|3 1 1 {A}")
        message.answer[0].rdclass = dns.rdataclass.CH
        assert read(message, NAME, TLSA) == Answer(frozenset(), 0)

    @pytest.mark.parametrize("rdtype", [f"TLSA|3 1 1 {A}", "CNAME|t.example.net."])
    @pytest.mark.parametrize("ttl", [2**31 - 1, 2**31, 2**32 - 1])
    def test_a_ttl_of_any_size_is_counted_as_caches_may(self, rdtype: str, ttl: int) -> None:
        """RFC 2181 section 8 makes 0 of it, RFC 8767 section 4 takes it as it is."""
        message = response(f"{NAME}|{ttl}|{rdtype}")
        came = read(dns.message.from_wire(message.to_wire()), NAME, TLSA)
        assert isinstance(came, Answer | Alias)
        assert came.ttl_s == ttl

    def test_the_longest_ttl_of_a_set_counts(self) -> None:
        """A set has one TTL (RFC 2181 section 5.2); a server that gives several leaves the choice to each cache."""
        message = response(f"{NAME}|60|TLSA|3 1 1 {A}", f"{NAME}|600|TLSA|3 1 1 {A[2:]}bb")
        came = read(dns.message.from_wire(message.to_wire()), NAME, TLSA)
        assert came == Answer(frozenset({f"3 1 1 {A}", f"3 1 1 {A[2:]}bb"}), 600)


class TestNames:
    def test_the_longest_zone_wins(self) -> None:
        zones = ("example.org.", "mx1.example.org.", "ple.org.")
        assert zone_of(NAME, zones) == "mx1.example.org."
        assert zone_of("example.org.", zones) == "example.org."
        assert zone_of("xexample.org.", zones) is None
        assert zone_of(NAME, (".",)) == "."

    def test_absolute(self) -> None:
        assert [absolute(name) for name in ("A.example", "a.example.", ".")] == ["a.example.", "a.example.", "."]


class TestMajority:
    def test_most_servers_win(self) -> None:
        """Unknown has no vote; where votes tie, the answer does not depend on the order."""
        one, two, none = Alias("one.", 1), Alias("two.", 1), Answer(frozenset(), 0)
        assert majority([two, one, two, Unknown("x")]) == "two."
        assert majority([two, one]) == majority([one, two]) == "one."
        assert majority([one, none]) == majority([none, one]) == ""
        assert majority([Unknown("x")]) == majority([]) == ""


class Scripted(Resolver):
    """A recursive resolver that knows one zone, and authoritative servers that are only listed."""

    def __init__(self, records: dict[tuple[str, str], str], *, ipv6: bool | None = None) -> None:
        super().__init__(("127.0.0.1",), trust_ad=False, timeout_s=0.1, ipv6=ipv6, public_view=True)
        self.records = {("example.org.", "SOA"): "ns1. root. 1 1 1 1 1", **records}
        self.recursive.ask = self._recurse  # pyright: ignore

    def _recurse(self, server: str, name: str, rdtype: object, extra: int = 0) -> dns.message.Message:
        message = dns.message.make_response(dns.message.make_query(name, rdtype))  # pyright: ignore
        if text := self.records.get((name, rdtype.name)):  # pyright: ignore
            message.answer.append(dns.rrset.from_text(name, 60, "IN", rdtype.name, *text.split("|")))  # pyright: ignore
        return dns.message.from_wire(message.to_wire())


NS = {("example.org.", "NS"): "ns1.example.org.|ns2.example.org.", ("ns1.example.org.", "A"): "192.0.2.1"}


class TestServers:
    @pytest.fixture(autouse=True)
    def _silent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def exchange(*_: object) -> dns.message.Message:
            return response()

        monkeypatch.setattr(authority, "exchange", exchange)

        def has_route(_: str) -> bool:
            return True

        monkeypatch.setattr(module, "has_route", has_route)

    @pytest.mark.parametrize("route", [True, False])
    def test_ipv6_without_a_route(self, monkeypatch: pytest.MonkeyPatch, route: bool) -> None:
        """A server that is also asked by IPv4 is left out; one that has only IPv6 is Unknown."""

        def has_route(address: str) -> bool:
            return route or ":" not in address

        monkeypatch.setattr(module, "has_route", has_route)
        v6 = {("ns1.example.org.", "AAAA"): "2001:db8::1", ("ns2.example.org.", "AAAA"): "2001:db8::2"}
        answers = Scripted(NS | v6).observe(NAME).answers
        told = {key: type(answer) for key, answer in answers.items()}
        if route:
            both = {"ns1.example.org./2001:db8::1": Answer, "ns2.example.org./2001:db8::2": Answer}
            assert told == {"ns1.example.org./192.0.2.1": Answer, **both}
        else:
            assert told == {"ns1.example.org./192.0.2.1": Answer, "ns2.example.org./2001:db8::2": Unknown}

    def test_ipv4_without_a_route(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A host with IPv6 only asks by that."""

        def has_route(address: str) -> bool:
            return ":" in address

        monkeypatch.setattr(module, "has_route", has_route)
        v6 = {("ns1.example.org.", "AAAA"): "2001:db8::1", ("ns2.example.org.", "A"): "192.0.2.2"}
        assert Scripted(NS | v6).observe(NAME).answers == {
            "ns1.example.org./2001:db8::1": Answer(frozenset(), 0),
            "ns2.example.org./192.0.2.2": Unknown("cannot be asked: no IPv4 route from this host"),
        }

    def test_ipv6_that_is_said_to_be_broken(self) -> None:
        """`dns.ipv6: false`, with a route that leads nowhere."""
        v6 = {("ns1.example.org.", "AAAA"): "2001:db8::1", ("ns2.example.org.", "AAAA"): "2001:db8::2"}
        assert Scripted(NS | v6, ipv6=False).observe(NAME).answers == {
            "ns1.example.org./192.0.2.1": Answer(frozenset(), 0),
            "ns2.example.org./2001:db8::2": Unknown("cannot be asked: dns.ipv6 is false"),
        }

    def test_a_server_without_address_is_unknown(self) -> None:
        """It is listed, so somebody may ask it."""
        answers = Scripted(NS).observe(NAME).answers
        assert answers["ns2.example.org./-"] == Unknown("has no address")

    def test_a_zone_without_servers_is_unknown(self) -> None:
        """There is never an empty set of answers, which would look like agreement."""
        assert Scripted({}).observe(NAME).answers == {"example.org./-": Unknown("has no name servers")}

    @pytest.mark.parametrize(("names", "each"), [(1, 65), (40, 2), (65, 1), (100, 1)])
    def test_of_too_many_addresses_some_are_asked_and_that_is_said(self, names: int, each: int) -> None:
        """Whoever names ten thousand does not stop the daemon; and none that was not asked counts as heard."""
        servers = [f"ns{n:02}.example.org." for n in range(names)]
        known = {("example.org.", "NS"): "|".join(servers)}
        known |= {(s, "A"): "|".join(f"192.0.{n}.{i + 1}" for i in range(each)) for n, s in enumerate(servers)}
        answers = Scripted(known).observe(NAME).answers
        assert len(answers) == module.MAX_ADDRESSES + 1
        assert "not all were asked" in str(answers["example.org./-"])

    def test_names_are_compared_without_case_and_dot(self) -> None:
        """A name that is written otherwise is the same name."""
        observation = Scripted(NS).observe("_25._TCP.mx1.example.ORG")
        assert (observation.zone, observation.name) == ("example.org.", NAME)

    def test_the_budget_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It asks again and again, and ends."""
        now, asked = 0.0, list[float]()

        def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds

        monkeypatch.setattr(time, "sleep", sleep)
        monkeypatch.setattr(time, "monotonic", lambda: now)
        scripted = Scripted({("example.org.", "NS"): "ns1.example.org.", ("ns1.example.org.", "A"): "192.0.2.1"})
        original = scripted._ask_all  # pyright: ignore
        scripted._ask_all = lambda *a: asked.append(now) or original(*a)  # pyright: ignore
        scripted.observe(NAME, expect=frozenset({f"3 1 1 {A}"}), budget=timedelta(seconds=0.2))
        assert asked == pytest.approx([0, 0.02, 0.05, 0.095, 0.1625, 0.2])
        asked.clear()
        scripted.observe(NAME)
        assert len(asked) == 1


PARENT = {
    ("org.", "SOA"): "a. root. 1 1 1 1 1",
    ("org.", "NS"): "a.org.|b.org.",
    ("a.org.", "A"): "192.0.2.8",
    ("b.org.", "A"): "192.0.2.9",
    ("ns2.example.org.", "A"): "192.0.2.2",
}


class TestParent:
    """The delegation is asked of the parent's servers; the zone's own servers answer that nothing is there."""

    @pytest.fixture(autouse=True)
    def _reached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def has_route(_: str) -> bool:
            return True

        monkeypatch.setattr(module, "has_route", has_route)

    def says(self, monkeypatch: pytest.MonkeyPatch, **by_host: str | Unknown) -> list[str]:
        """Lets the parent's servers a and b say so: NS records and glue as in a zone file. The addresses asked."""
        asked: list[str] = []
        hosts = {"192.0.2.8": by_host.get("a", Unknown("silent")), "192.0.2.9": by_host.get("b", Unknown("silent"))}

        def exchange(query: dns.message.Message, address: str, _: float) -> dns.message.Message | Unknown:
            asked.append(address)
            if address not in hosts:
                return dns.message.from_wire(response().to_wire())
            text = hosts[address]
            if isinstance(text, Unknown):
                return text
            message = dns.message.make_response(query)
            for line in text.splitlines():
                name, rdtype, value = line.split()
                section = message.authority if rdtype == "NS" else message.additional
                section.append(dns.rrset.from_text(name, 60, "IN", rdtype, value))
            return message

        monkeypatch.setattr(authority, "exchange", exchange)
        return asked

    def test_the_union_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What each of the parent's servers says counts, and glue that the name itself does not have."""
        both = "example.org. NS NS1.Example.org.\nns1.example.org. A 192.0.2.1\n"
        one = "example.org. NS old.example.net.\nold.example.net. A 192.0.2.7\nother.org. A 192.0.2.66"
        self.says(monkeypatch, a=both, b=both + one)
        resolver = Scripted(NS | PARENT)
        assert set(resolver.observe(NAME).answers) == {
            "ns1.example.org./192.0.2.1",
            "ns2.example.org./192.0.2.2",
            "old.example.net./192.0.2.7",
        }
        found = resolver.delegation(NAME)
        assert (found.zone, found.parent, found.listed) == (
            "example.org.",
            "org.",
            {"ns1.example.org.", "ns2.example.org."},
        )
        assert found.delegated == {"ns1.example.org.": ("192.0.2.1",), "old.example.net.": ("192.0.2.7",)}

    @pytest.mark.parametrize(("a", "b"), [(Unknown("silent"), Unknown("silent")), ("com. NS a.com.", "com. NS a.com.")])
    def test_a_parent_that_does_not_say_adds_nothing(
        self, monkeypatch: pytest.MonkeyPatch, a: str | Unknown, b: str | Unknown
    ) -> None:
        """It is away, or what is asked has nothing to do with it; `check` says so."""
        self.says(monkeypatch, a=a, b=b)
        resolver = Scripted(NS | PARENT)
        assert set(resolver.observe(NAME).answers) == {"ns1.example.org./192.0.2.1", "ns2.example.org./192.0.2.2"}
        assert isinstance(resolver.delegation(NAME).delegated, Unknown)

    def test_a_call_asks_the_parent_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However often the zone's servers are asked."""
        asked = self.says(monkeypatch, a="example.org. NS ns1.example.org.", b="example.org. NS ns1.example.org.")
        Scripted(NS | PARENT).observe(NAME, expect=frozenset({f"3 1 1 {A}"}), budget=timedelta(seconds=0.1))
        assert sorted(a for a in asked if a in ("192.0.2.8", "192.0.2.9")) == ["192.0.2.8", "192.0.2.9"]
        assert asked.count("192.0.2.1") > 1


class TestNoAddress:
    def test_a_host_without_address(self) -> None:
        with pytest.raises(Misconfigured, match=r"dns\.no_address"):
            Scripted({}).addresses("mx1.example.org")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has port 53")
def test_a_server_that_answers_something_else_for_ever_is_not_waited_for_longer() -> None:
    """Wrong ids, and no DNS at all: each is passed over, and none of them begins the wait anew."""
    over = threading.Event()

    def answer() -> None:
        question, client = server.recvfrom(4096)
        while not over.wait(0.01):
            server.sendto(bytes([question[0] ^ 1]) + question[1:], client)
            server.sendto(b"x", client)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, ThreadPoolExecutor(2) as pool:
        try:
            server.bind(("127.0.0.99", 53))
        except OSError:
            pytest.skip("another program has port 53")
        server.settimeout(60)
        pool.submit(answer)
        asked = pool.submit(exchange, dns.message.make_query(NAME, TLSA), "127.0.0.99", 0.5)
        said = asked.result(60)
        over.set()
    assert said == Unknown("gave no answer within 0.5 s")
