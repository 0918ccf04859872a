"""The DNS modules on real servers: BIND, Knot, PowerDNS and a validating Unbound."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from certagent.dns.authority import Resolver
from certagent.dns.providers.command import Command
from certagent.dns.providers.command import Options as CommandOptions
from certagent.dns.providers.knot import Knot
from certagent.dns.providers.knot import Options as KnotOptions
from certagent.dns.providers.powerdns import Options as HttpOptions
from certagent.dns.providers.powerdns import PowerDns as HttpApi
from certagent.dns.providers.protocol import Changed
from certagent.dns.providers.rfc2136 import Options, Rfc2136
from certagent.dns.validator import Delv
from certagent.errors import Misconfigured, Transient
from certagent.facts.dns import Answer, Late, Observation, late
from certagent.facts.unknown import Unknown
from certagent.testing.dns_provider import DnsCheck, dns_provider_suite
from tests.dns.test_tsigkey import AS_BIND
from tests.lab import namespace
from tests.lab.addresses import (
    ALIAS_ZONE,
    CUT_ZONE,
    EXPIRED_ZONE,
    INSECURE_ZONE,
    KNOT,
    KNOT_ZONE,
    MX1,
    PRIMARY,
    RESOLVER,
    SECONDARY,
    SPARE,
    TCP_ZONE,
    ZONE,
)
from tests.lab.dns import Dns
from tests.lab.odd import Odd, through
from tests.lab.powerdns import ADDRESS, PDNS_ZONE, PowerDns
from tests.lab.wait import until

NS1, NS2 = f"ns1.{ZONE}./{PRIMARY}", f"ns2.{ZONE}./{SECONDARY}"
ALIAS_NS1, ALIAS_NS2 = f"ns1.{ALIAS_ZONE}./{PRIMARY}", f"ns2.{ALIAS_ZONE}./{SECONDARY}"
PDNSUTIL = Path(__file__).resolve().parents[2] / "hooks" / "dns-pdnsutil"
A, B = f"3 1 1 {'a' * 64}", f"3 1 1 {'b' * 64}"
SOON = timedelta(seconds=5)
each_check = pytest.mark.parametrize("check", dns_provider_suite, ids=lambda check: check.__name__)


@pytest.fixture
def resolver() -> Resolver:
    return Resolver(timeout_s=0.5)


def why(observation: Observation, key: str) -> str:
    answer = observation.answers[key]
    assert isinstance(answer, Unknown), answer
    return answer.why


class TestObserve:
    def test_every_authoritative_is_asked(self, lab_dns: Dns, resolver: Resolver) -> None:
        """One answer for each address of each name server, with values and TTL as they are there."""
        owner = f"_25._tcp.all.{ZONE}."
        lab_dns.update(owner, "TLSA", [A.upper(), B], ttl=77)
        observation = resolver.observe(owner, expect=frozenset({A, B}), budget=SOON)
        answer = Answer(frozenset({A, B}), 77)
        assert observation.answers == {NS1: answer, NS2: answer}
        assert (observation.zone, observation.name, observation.security) == (f"{ZONE}.", owner, "secure")

    def test_nothing_there_is_an_answer(self, lab_dns: Dns, resolver: Resolver) -> None:
        """NXDOMAIN and NODATA are empty answers, not unknown ones."""
        for owner in (f"_25._tcp.nowhere.{ZONE}.", f"mx1.{ZONE}."):
            empty = Answer(frozenset(), 0)
            assert resolver.observe(owner).answers == {NS1: empty, NS2: empty}

    def test_a_record_that_nobody_can_use_is_seen(self, lab_dns: Dns, resolver: Resolver) -> None:
        """A digest of a wrong length hides no other record, and can be removed."""
        owner, short = f"_25._tcp.short.{ZONE}.", "3 1 1 aabb"
        lab_dns.update(owner, "TLSA", [A, short])
        observation = resolver.observe(owner, expect=frozenset({A, short}), budget=SOON)
        assert [observation.answers[ns] for ns in (NS1, NS2)] == [Answer(frozenset({A, short}), 5)] * 2
        assert observation.security == "secure"
        provider = rfc2136(lab_dns)
        provider.remove(owner, "TLSA", frozenset({short}), provider.get(owner, "TLSA"))
        left = provider.get(owner, "TLSA")
        assert left is not None
        assert left.values == {A}

    def test_a_lagging_secondary_is_seen(self, lab_dns: Dns, resolver: Resolver) -> None:
        """Without its update a secondary shows the old set, for as long as the budget is; then it is in step."""
        owner = f"_25._tcp.lag.{ZONE}."
        lab_dns.update(owner, "TLSA", [A])
        lab_dns.settle()
        lab_dns.lag()
        lab_dns.update(owner, "TLSA", [A, B])
        start = time.monotonic()
        observation = resolver.observe(owner, expect=frozenset({A, B}), budget=timedelta(seconds=0.3))
        assert time.monotonic() - start >= 0.3
        answers = observation.answers
        assert [answers[key].values for key in (NS1, NS2)] == [{A, B}, {A}]  # pyright: ignore
        serials = resolver.serials(f"{ZONE}.", timedelta())
        assert observation.late == late(serials) == {NS2: Late(serials[NS2], serials[NS1])}
        lab_dns.catch_up()
        observation = resolver.observe(owner, expect=frozenset({A, B}), budget=SOON)
        assert observation.answers[NS2] == Answer(frozenset({A, B}), lab_dns.ttl)
        assert observation.late == {}
        assert set(resolver.serials(f"{ZONE}.", SOON)) == {NS1, NS2}

    def test_waits_until_values_are_gone(self, lab_dns: Dns, resolver: Resolver) -> None:
        """`gone` waits for the last server that still has the value."""
        owner = f"_25._tcp.gone.{ZONE}."
        lab_dns.update(owner, "TLSA", [A, B])
        lab_dns.settle()
        timer = threading.Timer(0.3, lab_dns.update, (owner, "TLSA", [B]))
        timer.start()
        answers = resolver.observe(owner, expect=frozenset({B}), gone=frozenset({A}), budget=SOON).answers
        timer.join()
        assert {a.values for a in answers.values()} == {frozenset({B})}  # pyright: ignore

    def test_a_silent_server_is_unknown(self, lab_dns: Dns, resolver: Resolver) -> None:
        """The others' answers stand beside it."""
        lab_dns.stop_secondary()
        # the recursive resolver may itself first have to find out that one server is silent
        seen: list[Observation] = []

        def looked() -> bool:
            seen.append(resolver.observe(f"_25._tcp.silent.{ZONE}."))
            return NS2 in seen[-1].answers

        until(looked, 20, "an answer that names ns2")
        observation = seen[-1]
        assert "no answer" in why(observation, NS2)
        assert observation.answers[NS1] == Answer(frozenset(), 0)

    def test_an_alias_into_another_zone_is_followed(self, lab_dns: Dns, resolver: Resolver) -> None:
        """The end of the aliases is asked at its own zone's servers, and each hop's TTL is told."""
        owner, middle = f"_25._tcp.alias.{ZONE}.", f"_dane.alias.{ZONE}."
        end = f"mx.{ALIAS_ZONE}."
        lab_dns.update(owner, "CNAME", [middle], ttl=11)
        lab_dns.update(middle, "CNAME", [end], ttl=12)
        lab_dns.update(end, "TLSA", [A], ttl=13)
        lab_dns.settle()
        observation = resolver.observe(owner, expect=frozenset({A}), budget=SOON)
        answer = Answer(frozenset({A}), 13, ((middle, 11), (end, 12)))
        assert observation.answers == {ALIAS_NS1: answer, ALIAS_NS2: answer}
        assert (observation.zone, observation.name, observation.security) == (f"{ALIAS_ZONE}.", end, "secure")
        assert observation.path == ((middle, 11), (end, 12))

    def test_servers_that_disagree_about_an_alias(self, lab_dns: Dns, resolver: Resolver) -> None:
        """The one that differs is Unknown; it is never left out."""
        owner = f"_25._tcp.odd.{ZONE}."
        lab_dns.update(owner, "CNAME", [f"one.{ALIAS_ZONE}."])
        lab_dns.settle()
        lab_dns.lag()
        lab_dns.update(owner, "CNAME", [f"two.{ALIAS_ZONE}."])
        observation = resolver.observe(owner)
        assert observation.name == f"one.{ALIAS_ZONE}."
        assert "disagree about the alias" in why(observation, NS1)
        assert isinstance(observation.answers[ALIAS_NS1], Answer)
        with pytest.raises(Transient, match=r"dns\.alias_differs"):
            resolver.final(owner)

    def test_an_alias_loop_is_unknown(self, lab_dns: Dns, resolver: Resolver) -> None:
        """It ends, at every address, and nothing can be written there."""
        one, two = f"_25._tcp.loop1.{ZONE}.", f"_25._tcp.loop2.{ALIAS_ZONE}."
        lab_dns.update(one, "CNAME", [two])
        lab_dns.update(two, "CNAME", [one])
        lab_dns.settle()
        assert "loop" in why(resolver.observe(one), ALIAS_NS1)
        with pytest.raises(Misconfigured, match=r"dns\.alias"):
            resolver.final(one)

    def test_a_bogus_zone(self, lab_dns: Dns, resolver: Resolver) -> None:
        """Its servers are asked all the same, and it is called bogus: signatures over, or a wrong DS."""
        observation = resolver.observe(f"_25._tcp.mx1.{EXPIRED_ZONE}.")
        assert (observation.security, set(observation.answers)) == ("bogus", {f"ns1.{EXPIRED_ZONE}./{PRIMARY}"})
        owner = f"_25._tcp.bogus.{ZONE}."
        lab_dns.update(owner, "TLSA", [A])
        lab_dns.settle()
        lab_dns.parent(ZONE, "bad")
        observation = resolver.observe(owner)
        assert observation.security == "bogus"
        assert all(isinstance(observation.answers[key], Answer) for key in (NS1, NS2))

    def test_an_insecure_zone(self, lab_dns: Dns, resolver: Resolver) -> None:
        """Unsigned, or without a DS; which is not the same as empty."""
        assert resolver.observe(f"_25._tcp.mx1.{INSECURE_ZONE}.").security == "insecure"
        lab_dns.parent(ZONE, "none")
        assert resolver.observe(f"_25._tcp.mx1.{ZONE}.").security == "insecure"

    def test_security_needs_a_trusted_validating_resolver(self, lab_dns: Dns) -> None:
        """Neither a resolver that is not trusted nor one that does not validate can call a name insecure or secure."""
        owner = f"_25._tcp.mx1.{INSECURE_ZONE}."
        assert Resolver(trust_ad=False).observe(owner).security == "unknown"
        # BIND's primary answers for the zone, and is no resolver at all
        observation = Resolver((PRIMARY,), timeout_s=0.5).observe(owner)
        assert observation.security == "unknown"
        assert "does not validate" in observation.why

    def test_no_resolver_at_all(self, lab_dns: Dns) -> None:
        """Nothing was seen, and that is what is said."""
        observation = Resolver((SPARE,), timeout_s=0.2).observe(f"_25._tcp.mx1.{ZONE}.")
        assert (observation.zone, observation.security) == ("", "unknown")
        assert [type(a) for a in observation.answers.values()] == [Unknown]


@pytest.fixture
def delv(lab_dns: Dns) -> Delv:
    return Delv(str(lab_dns.trust_anchor))


class TestDelv:
    """No resolver here validates, or none is believed."""

    @pytest.fixture
    def alone(self, delv: Delv) -> Resolver:
        return Resolver(trust_ad=False, timeout_s=0.5, validator=delv)

    def test_a_zone_that_validates(self, lab_dns: Dns, alone: Resolver) -> None:
        """With records and without; and "no records" is believed."""
        owner, alias = f"_25._tcp.delv.{ZONE}.", f"_26._tcp.delv.{ZONE}."
        lab_dns.update(owner, "TLSA", [A])
        lab_dns.update(alias, "CNAME", [f"delv.{ALIAS_ZONE}."])
        lab_dns.settle()
        seen = alone.observe(owner)
        assert (seen.security, seen.why) == ("secure", "delv, by the resolver 127.0.0.1: it has validated it")
        nothing = alone.observe(f"_25._tcp.nothing.{ZONE}.")
        assert nothing.security == "secure"
        assert set(nothing.answers.values()) == {Answer(frozenset(), 0)}
        assert alone.observe(alias).security == "secure"

    def test_a_zone_that_is_not_signed(self, lab_dns: Dns, alone: Resolver) -> None:
        """And an alias that leads into one; both are proven."""
        alias = f"_27._tcp.delv.{ZONE}."
        lab_dns.update(alias, "CNAME", [f"nothing.{INSECURE_ZONE}."])
        lab_dns.settle()
        for name in (f"_25._tcp.mx1.{INSECURE_ZONE}.", alias):
            seen = alone.observe(name)
            assert (seen.security, "no chain of signatures" in seen.why) == ("insecure", True)

    def test_a_zone_that_does_not_validate(self, lab_dns: Dns, alone: Resolver) -> None:
        seen = alone.observe(f"_25._tcp.mx1.{EXPIRED_ZONE}.")
        assert (seen.security, "it does not validate" in seen.why) == ("bogus", True)
        lab_dns.parent(ZONE, "bad")
        assert alone.observe(f"_25._tcp.mx1.{ZONE}.").security == "bogus"

    def test_a_resolver_without_signatures(self, lab_dns: Dns, delv: Delv) -> None:
        """It can prove nothing, and that is not the zone's fault."""
        with Odd(through(RESOLVER), SPARE, 53):
            said, why = delv.security((SPARE,), f"_25._tcp.mx1.{ZONE}.")
            assert said == "unknown"
            assert "not even the root validates" in why
            # the next resolver has them
            assert delv.security((SPARE, RESOLVER), f"_25._tcp.mx1.{ZONE}.")[0] == "secure"

    def test_nobody_there(self, lab_dns: Dns, delv: Delv) -> None:
        said, why = delv.security((SPARE,), f"_25._tcp.mx1.{ZONE}.")
        assert said == "unknown"
        assert SPARE in why

    def test_an_anchor_of_another_root(self, lab_dns: Dns) -> None:
        """Here BIND's own: the world's root is not the lab's."""
        said, why = Delv().security((RESOLVER,), f"_25._tcp.mx1.{ZONE}.")
        assert (said, "not even the root validates" in why) == ("unknown", True)

    def test_a_second_opinion(self, lab_dns: Dns, delv: Delv) -> None:
        """Beside a resolver that validates; that both agree is said."""
        both = Resolver(timeout_s=0.5, validator=delv, second=True)
        seen = both.observe(f"_25._tcp.mx1.{ZONE}.")
        assert seen.security == "secure"
        assert "the resolver 127.0.0.1 has validated it; delv, by" in seen.why
        assert both.observe(f"_25._tcp.mx1.{INSECURE_ZONE}.").security == "insecure"
        assert both.observe(f"_25._tcp.mx1.{EXPIRED_ZONE}.").security == "bogus"


class TestPlaces:
    def test_final_of_a_name_that_does_not_exist(self, lab_dns: Dns, resolver: Resolver) -> None:
        """Its zone is found; the deepest one where zones lie in each other."""
        name = f"_acme-challenge.mx7.{ZONE}."
        assert resolver.final(name) == (f"{ZONE}.", name)
        assert resolver.final("_acme-challenge.example.") == ("example.", "_acme-challenge.example.")

    def test_final_of_an_alias(self, lab_dns: Dns, resolver: Resolver) -> None:
        """An _acme-challenge CNAME leads to where the TXT is to be written, which does not exist yet."""
        name, end = f"_acme-challenge.far.{ZONE}.", f"far.acme.{ALIAS_ZONE}."
        lab_dns.update(name, "CNAME", [end])
        lab_dns.settle()
        assert resolver.final(name) == (f"{ALIAS_ZONE}.", end)

    def test_final_among_too_many_old_values(self, lab_dns: Dns, resolver: Resolver) -> None:
        """The set that is to be cleaned is named."""
        name = f"_acme-challenge.crowded.{ZONE}."
        lab_dns.update(name, "TXT", [f'"{n}"' for n in range(70)])
        lab_dns.settle()
        with pytest.raises(Misconfigured, match=r"70 records.*dns\.too_many") as caught:
            resolver.final(name)
        assert f"TXT records at {name}" in caught.value.hint

    def test_final_with_no_server_left(self, lab_dns: Dns, resolver: Resolver) -> None:
        """It is Transient, not a guess."""
        resolver.final(f"a.{INSECURE_ZONE}.")
        lab_dns.stop_primary()
        with pytest.raises(Transient, match=r"dns\.unreachable"):
            resolver.final(f"b.{INSECURE_ZONE}.")

    def test_wait_for_txt(self, lab_dns: Dns, resolver: Resolver) -> None:
        """It returns when the last server has the values, and names those that lack them."""
        name = f"_acme-challenge.mx2.{ZONE}."
        lab_dns.update(name, "TXT", ['"one"', '"two"'])
        resolver.wait_for_txt(name, frozenset({"one", "two"}), SOON)
        lab_dns.lag()
        lab_dns.update(name, "TXT", ['"one"', '"three"'])
        with pytest.raises(Transient) as caught:
            resolver.wait_for_txt(name, frozenset({"three"}), timedelta(seconds=0.2))
        assert caught.value.code == "dns.not_yet"
        assert NS2 in caught.value.detail
        assert NS1 not in caught.value.detail
        assert re.search(
            rf"{NS2} has not got it \(it is at serial \d+, others are at \d+: its transfer is late", caught.value.detail
        )

    @pytest.mark.parametrize("text", ["127.0.0.1:53", "127.0.0.1"])
    def test_a_resolver_may_have_a_port(self, lab_dns: Dns, text: str) -> None:
        assert Resolver((text,)).addresses(f"mx1.{ZONE}.") == (MX1,)
        assert Resolver((text,)).observe(f"_25._tcp.mx1.{ZONE}.").security == "secure"
        with pytest.raises(Transient, match=r"dns\.unreachable"):
            Resolver(("127.0.0.1:5399", "localhost")).addresses(f"mx1.{ZONE}.")

    def test_addresses(self, lab_dns: Dns, resolver: Resolver) -> None:
        """A host without addresses and a resolver without answers are told apart."""
        assert resolver.addresses(f"mx1.{ZONE}.") == (MX1,)
        with pytest.raises(Misconfigured, match=r"dns\.no_address"):
            resolver.addresses(f"nowhere.{ZONE}.")
        with pytest.raises(Transient, match=r"dns\.unreachable"):
            Resolver((SPARE,), timeout_s=0.2).addresses(f"mx1.{ZONE}.")


def rfc2136(
    dns: Dns,
    *,
    key: str = "dane-key",
    server: str | tuple[str, ...] = PRIMARY,
    zone: str = ZONE,
    timeout: str = "10s",
) -> Rfc2136:
    return Rfc2136(Options(server=server, zones=(zone,), key_file=str(dns.keyfile(key)), timeout=timeout))


@pytest.fixture(scope="module")
def powerdns() -> Iterator[PowerDns]:
    server = PowerDns(namespace.directory() / "powerdns")
    server.start()
    yield server
    server.stop()


class TestRfc2136:
    @pytest.mark.parametrize(
        "check", [c for c in dns_provider_suite if c.__name__ != "lookalikes_differ"], ids=lambda check: check.__name__
    )
    def test_powerdns_keeps_the_rules(self, lab_dns: Dns, powerdns: PowerDns, place: Path, check: DnsCheck) -> None:
        """All but one, see the next test."""
        options = Options(server=ADDRESS, zones=(PDNS_ZONE,), key_file=str(powerdns.keyfile(place / "key")))
        check(Rfc2136(options), f"{PDNS_ZONE}.")

    def test_powerdns_does_not_tell_letter_case(self, lab_dns: Dns, powerdns: PowerDns, place: Path) -> None:
        """PowerDNS 4.7 compares the text of a TXT prerequisite without case: two that differ in it are never the same.

        Nothing is lost by it, and two ACME digests do not differ in case only.
        """
        options = Options(server=ADDRESS, zones=(PDNS_ZONE,), key_file=str(powerdns.keyfile(place / "key")))
        provider, name = Rfc2136(options), f"_acme-challenge.case.{PDNS_ZONE}."
        provider.add(name, "TXT", frozenset({"Ab", "ab"}), 60, None)
        was = provider.get(name, "TXT")
        with pytest.raises(Changed):
            provider.remove(name, "TXT", frozenset({"ab"}), was)
        assert provider.get(name, "TXT") == was

    @pytest.mark.parametrize("server", [PRIMARY, KNOT])
    def test_a_part_of_a_zone_is_written_in_its_zone(self, lab_dns: Dns, server: str) -> None:
        """`zones` may list a part of it: the zone of an update is found by its SOA, also if the name has records."""
        zone = ZONE if server == PRIMARY else KNOT_ZONE
        name = f"_acme-challenge.part.{zone}."
        for values in (frozenset({"one"}), frozenset({"two"})):
            provider = rfc2136(lab_dns, server=server, zone=name.rstrip("."))
            provider.add(name, "TXT", values, 5, provider.get(name, "TXT"))
        provider = rfc2136(lab_dns, server=server, zone=name.rstrip("."))
        was = provider.get(name, "TXT")
        assert was is not None
        assert was.values == {"one", "two"}
        rfc2136(lab_dns, server=server, zone=name.rstrip(".")).remove(name, "TXT", was.values, was)  # nothing is known
        assert provider.get(name, "TXT") is None

    def test_an_unsigned_zone_is_found_too(self, lab_dns: Dns) -> None:
        """Its records have no signature that would name it."""
        name = f"_acme-challenge.part.{INSECURE_ZONE}."
        provider = rfc2136(lab_dns, zone=name.rstrip("."))
        provider.add(name, "TXT", frozenset({"one"}), 5, None)
        was = provider.get(name, "TXT")
        provider.remove(name, "TXT", frozenset({"one"}), was)
        assert provider.get(name, "TXT") is None

    @pytest.mark.parametrize("zone", [CUT_ZONE, TCP_ZONE])
    def test_a_zone_below_the_listed_one_is_named(self, lab_dns: Dns, zone: str) -> None:
        """Also if the primary has it as well, or refers to other servers; nothing is written above it."""
        if zone == TCP_ZONE:
            lab_dns.cut(TCP_ZONE)
        name = f"_acme-challenge.x.{zone}."
        provider = rfc2136(lab_dns)
        for call in (
            lambda: provider.get(name, "TXT"),
            lambda: provider.add(name, "TXT", frozenset({"x"}), 5, None),
        ):
            with pytest.raises(Misconfigured, match=rf"in the zone {zone}\., which is cut off from {ZONE}\.") as caught:
                call()
            assert (caught.value.code, caught.value.hint) == (
                "dns.no_zone",
                f"add {zone}. to a provider under dns.providers",
            )

    @pytest.mark.parametrize("server", [PRIMARY, KNOT])
    def test_split_strings_of_others(self, lab_dns: Dns, server: str) -> None:
        """A TXT that somebody wrote in several strings is one value, holds in a precondition, and can be removed."""
        zone = ZONE if server == PRIMARY else KNOT_ZONE
        provider, name = rfc2136(lab_dns, server=server, zone=zone), f"_acme-challenge.split.{zone}."
        lab_dns.update(name, "TXT", ['"one" " two"', '"a\\"b" "\\195\\164"'])
        was = provider.get(name, "TXT")
        assert was is not None
        assert was.values == {"one two", 'a"bä'}
        provider.add(name, "TXT", frozenset({"one two", "new"}), was.ttl_s + 1, was)
        was = provider.get(name, "TXT")
        assert was is not None
        assert (was.values, len(was.own)) == ({"one two", 'a"bä', "new"}, 3)
        provider.remove(name, "TXT", was.values, was)
        assert provider.get(name, "TXT") is None

    def test_a_ttl_is_no_precondition(self, lab_dns: Dns) -> None:
        """RFC 2136 section 1.1: the TTL of a prerequisite is not compared. The provider says so."""
        provider, name = rfc2136(lab_dns), f"_25._tcp.ttl.{ZONE}."
        provider.add(name, "TLSA", frozenset({A}), 60, None)
        was = provider.get(name, "TLSA")
        provider.add(name, "TLSA", frozenset({A}), 90, was)
        provider.remove(name, "TLSA", frozenset({A}), was)
        assert provider.get(name, "TLSA") is None
        assert provider.capabilities.precondition == "values"

    @each_check
    def test_bind_keeps_the_rules(self, lab_dns: Dns, check: DnsCheck) -> None:
        check(rfc2136(lab_dns), f"{ZONE}.")

    @each_check
    def test_knot_keeps_the_rules(self, lab_dns: Dns, check: DnsCheck) -> None:
        check(rfc2136(lab_dns, server=KNOT, zone=KNOT_ZONE), f"{KNOT_ZONE}.")

    @pytest.mark.parametrize("text", [text for text, _, _ in AS_BIND])
    def test_bind_reads_key_files_alike(self, text: str) -> None:
        check = subprocess.run(
            ["named-checkconf", "/dev/stdin"], input=text, text=True, capture_output=True, check=False
        )
        assert check.returncode == 0, check.stdout

    def test_a_key_without_the_right(self, lab_dns: Dns) -> None:
        """The hint is the line that BIND needs."""
        provider = rfc2136(lab_dns, key="acme-key")
        name = f"_25._tcp.mx1.{ZONE}."
        with pytest.raises(Misconfigured) as caught:
            provider.add(name, "TLSA", frozenset({A}), 60, None)
        assert caught.value.code == "dns.refused"
        assert "REFUSED" in caught.value.detail
        assert f'grant "acme-key" name {name} TLSA;' in caught.value.hint

    @pytest.mark.parametrize("server", [PRIMARY, KNOT])
    def test_a_zone_that_is_not_there(self, lab_dns: Dns, server: str) -> None:
        """A server that is not the primary of the zone is the wrong one, for reading as well."""
        provider = rfc2136(lab_dns, server=server, zone="other.example")
        for call in (
            lambda: provider.get("x.other.example.", "TXT"),
            lambda: provider.remove("x.other.example.", "TXT", frozenset({"x"}), None),
        ):
            with pytest.raises(Misconfigured, match=r"dns\.refused"):
                call()

    @pytest.mark.parametrize("zone", [ZONE, KNOT_ZONE])
    @pytest.mark.parametrize("name", ["dane-key", "unknown-key"])
    def test_a_wrong_key(self, lab_dns: Dns, place: Path, zone: str, name: str) -> None:
        """A wrong secret and an unknown key are the operator's to repair, and neither secret is shown."""
        path = place / "key"
        path.touch(0o600)
        wrong = "d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmchd3I="
        path.write_text(f'key {name} {{ algorithm hmac-sha256; secret "{wrong}"; }};')
        server = PRIMARY if zone == ZONE else KNOT
        provider = Rfc2136(Options(server=server, zones=(zone,), key_file=str(path)))
        with pytest.raises(Misconfigured) as caught:
            provider.remove(f"x.{zone}.", "TXT", frozenset({"x"}), None)
        assert caught.value.code == "dns.refused"
        assert "TSIG" in caught.value.detail
        assert wrong not in repr(caught.value)

    def test_frozen(self, lab_dns: Dns) -> None:
        """A zone that the operator froze refuses."""
        lab_dns.freeze()
        with pytest.raises(Misconfigured, match=r"dns\.refused"):
            rfc2136(lab_dns).add(f"x.frozen.{ZONE}.", "TXT", frozenset({"x"}), 60, None)

    def test_a_lost_answer_is_an_unknown_outcome(self, lab_dns: Dns) -> None:
        """The server may carry it out later; a read has no outcome."""
        provider, hasty = rfc2136(lab_dns), rfc2136(lab_dns, timeout="2s")
        name, values = f"_acme-challenge.late.{ZONE}.", frozenset({"late"})
        provider.add(name, "TXT", frozenset({"late", "other"}), 60, None)
        was = hasty.get(name, "TXT")
        lab_dns.stop_primary()
        with pytest.raises(Transient, match=r"dns\.unknown_outcome"):
            hasty.remove(name, "TXT", values, was)
        with pytest.raises(Transient, match=r"dns\.unreachable"):
            hasty.get(name, "TXT")
        lab_dns.cont_primary()
        with suppress(Changed):  # the first one may be carried out before
            provider.remove(name, "TXT", values, was)
        rrset = provider.get(name, "TXT")
        assert rrset is not None
        assert rrset.values == {"other"}

    def test_the_next_primary_is_asked_if_one_cannot_be_reached(self, lab_dns: Dns) -> None:
        """Nothing was sent to the first; if none can be reached, all are named."""
        name, closed = f"_acme-challenge.several.{ZONE}.", f"{PRIMARY}:1"
        several = rfc2136(lab_dns, server=(closed, PRIMARY))
        several.add(name, "TXT", frozenset({"x"}), 60, several.get(name, "TXT"))
        rrset = rfc2136(lab_dns).get(name, "TXT")
        assert rrset is not None
        assert rrset.values == {"x"}
        several.remove(name, "TXT", frozenset({"x"}), rrset)
        with pytest.raises(Transient, match=r"dns\.unreachable") as caught:
            rfc2136(lab_dns, server=(closed, f"{PRIMARY}:2")).get(name, "TXT")
        assert "port 1: " in caught.value.detail
        assert "port 2: " in caught.value.detail

    def test_nobody_there(self, lab_dns: Dns) -> None:
        """Nothing was sent, so nothing can have happened."""
        provider = rfc2136(lab_dns, server=SPARE)
        with pytest.raises(Transient, match=r"dns\.unreachable"):
            provider.remove(f"x.{ZONE}.", "TXT", frozenset({"x"}), None)


def http_api(server: PowerDns, place: Path, zone: str = PDNS_ZONE) -> HttpApi:
    return HttpApi(HttpOptions(url=server.url, zones=(zone,), token_file=str(server.token(place / "token"))))


class TestPowerDns:
    """Its HTTP API; what can go wrong with a request is in tests/dns/test_http_providers.py."""

    @each_check
    def test_it_keeps_the_rules(self, powerdns: PowerDns, place: Path, check: DnsCheck) -> None:
        check(http_api(powerdns, place), f"{PDNS_ZONE}.")

    def test_it_is_in_dns(self, powerdns: PowerDns, place: Path, lab_dns: Dns) -> None:
        """What the API took is what the server answers, and it is signed."""
        name = f"_25._tcp.mx1.{PDNS_ZONE}."
        http_api(powerdns, place).add(name, "TLSA", frozenset({A, B}), 60, None)
        answer = lab_dns.ask(ADDRESS, name, "TLSA").answer
        assert {rrset.rdtype.name for rrset in answer} == {"TLSA", "RRSIG"}
        assert [(len(r), r.ttl) for r in answer if r.rdtype.name == "TLSA"] == [(2, 60)]

    def test_a_wrong_key(self, powerdns: PowerDns, place: Path) -> None:
        """The operator has to repair it, and the key is not shown."""
        provider = http_api(powerdns, place)
        (place / "token").write_text("wrong-secret")
        with pytest.raises(Misconfigured, match=r"dns\.refused") as caught:
            provider.get(f"x.{PDNS_ZONE}.", "TXT")
        assert "wrong-secret" not in repr(caught.value)

    def test_a_zone_that_is_not_there(self, powerdns: PowerDns, place: Path) -> None:
        with pytest.raises(Misconfigured, match=r"dns\.refused"):
            http_api(powerdns, place, "other.example").add("x.other.example.", "TXT", frozenset({"x"}), 60, None)


def knot(dns: Dns, zone: str = KNOT_ZONE, socket: str = "") -> Knot:
    return Knot(KnotOptions(zones=(zone,), socket=socket or str(dns.knot_socket)))


class TestKnot:
    """By knotc, in transactions."""

    @each_check
    def test_it_keeps_the_rules(self, lab_dns: Dns, check: DnsCheck) -> None:
        check(knot(lab_dns), f"{KNOT_ZONE}.")

    def test_it_is_in_dns(self, lab_dns: Dns) -> None:
        """Signed, when the change is committed."""
        name = f"_25._tcp.mx3.{KNOT_ZONE}."
        knot(lab_dns).add(name, "TLSA", frozenset({A, B}), 60, None)
        answer = lab_dns.ask(KNOT, name, "TLSA").answer
        assert {rrset.rdtype.name for rrset in answer} == {"TLSA", "RRSIG"}

    @pytest.mark.parametrize(("owner", "left"), [("_25._tcp.mx4", False), ("www", True)])
    def test_a_transaction_that_was_left_open(self, lab_dns: Dns, owner: str, left: bool) -> None:
        """One that changes this set alone is certagent's own, of a run that was killed; any other is left alone."""
        knotc = ["knotc", "-s", str(lab_dns.knot_socket)]
        subprocess.run([*knotc, "zone-begin", KNOT_ZONE], check=True)
        subprocess.run([*knotc, "zone-set", KNOT_ZONE, owner, "60", "TLSA", *B.split()], check=True)
        provider, name = knot(lab_dns), f"_25._tcp.mx4.{KNOT_ZONE}."
        try:
            if left:
                with pytest.raises(Transient, match="transaction of somebody else"):
                    provider.add(name, "TLSA", frozenset({A}), 60, None)
                return
            provider.add(name, "TLSA", frozenset({A}), 60, None)
            found = provider.get(name, "TLSA")
            assert found
            assert found.values == {A}
        finally:
            done = subprocess.run([*knotc, "zone-abort", KNOT_ZONE], check=False).returncode
            assert (done == 0) == left

    def test_a_zone_that_is_not_there(self, lab_dns: Dns) -> None:
        with pytest.raises(Misconfigured, match=r"dns\.refused"):
            knot(lab_dns, "other.example").add("x.other.example.", "TXT", frozenset({"x"}), 60, None)

    def test_nobody_there(self, lab_dns: Dns, place: Path) -> None:
        with pytest.raises(Transient, match=r"dns\.unreachable"):
            knot(lab_dns, socket=str(place / "none.sock")).get(f"x.{KNOT_ZONE}.", "TXT")


class TestPdnsutil:
    """hooks/dns-pdnsutil, at the database of the same server."""

    @each_check
    def test_it_keeps_the_rules(self, powerdns: PowerDns, check: DnsCheck) -> None:
        options = CommandOptions(program=str(PDNSUTIL), args=(powerdns.config_dir,), zones=(PDNS_ZONE,))
        check(Command(options), f"{PDNS_ZONE}.")

    def test_it_is_in_dns(self, powerdns: PowerDns, lab_dns: Dns) -> None:
        """Signed; the server's caches are switched off here."""
        name = f"_25._tcp.mx2.{PDNS_ZONE}."
        options = CommandOptions(program=str(PDNSUTIL), args=(powerdns.config_dir,), zones=(PDNS_ZONE,))
        Command(options).add(name, "TLSA", frozenset({A, B}), 60, None)
        answer = lab_dns.ask(ADDRESS, name, "TLSA").answer
        assert {rrset.rdtype.name for rrset in answer} == {"TLSA", "RRSIG"}

    def test_a_zone_that_is_not_there(self, powerdns: PowerDns) -> None:
        options = CommandOptions(program=str(PDNSUTIL), args=(powerdns.config_dir,), zones=("other.example",))
        with pytest.raises(Misconfigured, match=r"dns\.refused"):
            Command(options).get("x.other.example.", "TXT")
