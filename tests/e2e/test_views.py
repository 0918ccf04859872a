"""What DNS shows this host and is not so: a zone below the configured one, another view, a wildcard."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.query
import pytest

from certagent.agent.act.hiding import explained, refuse
from certagent.agent.act.records import add_txt
from certagent.agent.edges import Edges
from certagent.agent.zones import Zones
from certagent.checks.delegation import findings
from certagent.dns.authority import Resolver
from certagent.dns.providers.protocol import RdType
from certagent.dns.providers.rfc2136 import Options, Rfc2136
from certagent.dns.recursive import UNCONFIRMED
from certagent.errors import Misconfigured, Unsafe
from certagent.facts.dns import Answer, Hidden
from certagent.facts.unknown import Unknown
from tests.lab import namespace, zones
from tests.lab.addresses import ALIAS_ZONE, CUT_ZONE, INSECURE_ZONE, KNOT, KNOT_ZONE, PRIMARY, SECONDARY, SPARE, ZONE
from tests.lab.dns import Dns
from tests.lab.process import Server
from tests.lab.wait import until

A, B = f"3 1 1 {'a' * 64}", f"3 1 1 {'b' * 64}"
INSIDE = "127.0.0.23"  # an authoritative server with an internal view of corp.example: no TLSA records, no signatures
HIDDEN_ZONE = "hidden.example"  # a zone that there is in the internal view only
SOON = timedelta(seconds=5)


@pytest.fixture
def resolver() -> Resolver:
    return Resolver(timeout_s=0.5)


def rfc2136(dns: Dns, *zones_: str) -> Rfc2136:
    return Rfc2136(Options(server=PRIMARY, zones=zones_, key_file=str(dns.keyfile("dane-key"))))


class TestCut:
    """A name in another zone, of which the configuration knows only the zone above."""

    def test_it_is_named_and_nothing_is_written_above_it(self, lab_dns: Dns, resolver: Resolver) -> None:
        """BIND would say NOERROR to the zone above, and never show it."""
        name = f"_acme-challenge.mail.{CUT_ZONE}."
        zone, end = resolver.final(name)
        assert (zone, end) == (f"{CUT_ZONE}.", name)
        above = rfc2136(lab_dns, ZONE)
        with pytest.raises(Misconfigured, match=rf"zone {CUT_ZONE}\., which is cut off from {ZONE}\.") as caught:
            add_txt(Zones(lambda: [above]), zone, end, frozenset({"x"}), 5)
        assert caught.value.code == "dns.no_provider"
        assert f"add {CUT_ZONE}." in caught.value.hint

    def test_it_is_written_if_it_is_listed(self, lab_dns: Dns, resolver: Resolver) -> None:
        name = f"_acme-challenge.mail.{CUT_ZONE}."
        zone, end = resolver.final(name)
        both = rfc2136(lab_dns, ZONE, CUT_ZONE)
        add_txt(Zones(lambda: [both]), zone, end, frozenset({"x"}), 5)
        resolver.wait_for_txt(name, frozenset({"x"}), SOON)


@pytest.fixture(scope="module")
def inside(session_dns: Dns) -> Iterator[str]:
    """A validating resolver that is told to ask the internal servers, and not to validate what they say."""
    place = namespace.directory() / "inside"
    place.mkdir()
    (place / "zone").write_text(zones.child(ZONE, 5).replace(f"A {PRIMARY}", f"A {INSIDE}").replace(SECONDARY, INSIDE))
    (place / "named.conf").write_text(
        f'options {{ directory "{place}"; pid-file "named.pid"; session-keyfile "s.key"; managed-keys-directory ".";'
        f" listen-on {{ {INSIDE}; }}; listen-on-v6 {{ none; }}; recursion no; dnssec-validation no; }};\n"
        f'controls {{ }};\nzone "{ZONE}" {{ type primary; file "zone"; notify no; }};\n'
        f'zone "{HIDDEN_ZONE}" {{ type primary; file "hidden"; notify no; }};\n'
    )
    (place / "hidden").write_text(
        f"$TTL 5\n@ SOA ns.{ZONE}. root.{ZONE}. 1 5 5 5 1\n@ NS ns1.{ZONE}.\nmx1 A {INSIDE}\n"
    )
    outside = session_dns.keyfile("").parent / "unbound"
    lines = [
        line
        for line in (outside / "unbound.conf").read_text().splitlines()
        if not line.strip().startswith(("directory:", "interface:", "pidfile:", "logfile:"))
    ]
    own = [
        f'    directory: "{outside}"\n    interface: {SPARE}\n    pidfile: "{place}/unbound.pid"',
        f'    domain-insecure: "{ZONE}"\n    domain-insecure: "{HIDDEN_ZONE}"\n    logfile: "{place}/unbound.log"',
    ]
    at = lines.index("server:") + 1
    stubs = [f'stub-zone:\n    name: "{zone}"\n    stub-addr: {INSIDE}' for zone in (ZONE, HIDDEN_ZONE)]
    (place / "unbound.conf").write_text("\n".join([*lines[:at], *own, *lines[at:], *stubs]) + "\n")
    servers = [
        Server(place / "named.log", "named", "-4", "-n", "1", "-f", "-c", place / "named.conf"),
        Server(place / "output.log", "unbound", "-d", "-c", place / "unbound.conf"),
    ]
    until(lambda: all(s.alive() for s in servers) and _validates(), 10, "the resolver inside validates")
    yield SPARE
    for server in servers:
        server.stop()


def _validates() -> bool:
    query = dns.message.make_query(".", "SOA", flags=dns.flags.RD | dns.flags.AD)
    try:
        return bool(dns.query.tcp(query, SPARE, timeout=1).flags & dns.flags.AD)
    except (OSError, EOFError, dns.exception.Timeout):
        return False


class TestView:
    """The world has TLSA records; this host is shown a zone without."""

    NAME = f"_25._tcp.view.{ZONE}."

    def test_no_records_in_an_internal_view_are_not_believed(
        self, lab_dns: Dns, inside: str, resolver: Resolver
    ) -> None:
        """The parent has a DS for the zone, and nothing of it is validated here: that is another view."""
        lab_dns.update(self.NAME, "TLSA", [A])
        lab_dns.settle()
        assert resolver.observe(self.NAME).security == "secure"
        seen = Resolver((inside,), timeout_s=0.5).observe(self.NAME)
        assert {a for key, a in seen.answers.items() if INSIDE in key} == {Unknown(UNCONFIRMED)}
        assert seen.security == "unknown"
        assert "another view" in seen.why

    def test_what_the_parent_delegates_to_is_asked_beside_the_internal_servers(
        self, lab_dns: Dns, inside: str, resolver: Resolver
    ) -> None:
        """That is what senders see, and it counts: their caches hold it."""
        lab_dns.update(self.NAME, "TLSA", [A])
        lab_dns.settle()
        seen = Resolver((inside,), timeout_s=0.5).observe(self.NAME)
        assert {key: a for key, a in seen.answers.items() if INSIDE not in key} == {
            f"ns1.{ZONE}./{PRIMARY}": Answer(frozenset({A}), 5),
            f"ns2.{ZONE}./{SECONDARY}": Answer(frozenset({A}), 5),
        }

    def test_the_operator_may_say_that_it_is_the_worlds(self, lab_dns: Dns, inside: str) -> None:
        """Then what only the parent names is heard if it answers, and is not waited for."""
        lab_dns.delegate(ZONE, f"{ZONE}. NS ns9.{ZONE}.", f"ns9.{ZONE}. A {SPARE}")
        resolver = Resolver((inside,), timeout_s=0.5, public_view=True)
        seen = resolver.observe(f"_25._tcp.nothing.{ZONE}.")
        assert {key.partition("/")[2] for key in seen.answers} == {INSIDE, PRIMARY, SECONDARY}
        assert set(seen.answers.values()) == {Answer(frozenset(), 0)}

    @pytest.mark.parametrize("trust_ad", [False, True])
    def test_nothing_there_needs_a_trusted_resolver(self, lab_dns: Dns, trust_ad: bool) -> None:
        """Records that are seen count from anybody: they only hold back."""
        lab_dns.update(self.NAME, "TLSA", [A])
        lab_dns.settle()
        resolver = Resolver(trust_ad=trust_ad, timeout_s=0.5)
        assert {type(a) for a in resolver.observe(self.NAME).answers.values()} == {Answer}
        nothing = resolver.observe(f"_25._tcp.nothing.{ZONE}.").answers.values()
        assert {type(a) for a in nothing} == {Answer if trust_ad else Unknown}


class Asks:
    """The edges of a certificate, as far as the delegation is asked for."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = lambda: resolver

    def told(self, name: str) -> list[tuple[str, str]]:
        return [(one.outcome, one.detail) for one in findings([name], cast("Edges", self))]


class TestDelegation:
    """The parent of a zone names other servers than the zone."""

    NAME = f"_25._tcp.delegated.{ZONE}."
    OLD = "127.0.0.24"

    @pytest.fixture
    def old(self, place: Path) -> Iterator[str]:
        """A server that was left in the delegation, with what the zone once had."""
        (place / "zone").write_text(zones.child(ZONE, 5) + f"_25._tcp.delegated 5 TLSA {B}\n")
        (place / "named.conf").write_text(
            f'options {{ directory "{place}"; pid-file "named.pid"; session-keyfile "s.key";'
            f' managed-keys-directory "."; listen-on {{ {self.OLD}; }}; listen-on-v6 {{ none; }}; recursion no;'
            " dnssec-validation no; };\n"
            f'controls {{ }};\nzone "{ZONE}" {{ type primary; file "zone"; notify no; }};\n'
        )
        server = Server(place / "named.log", "named", "-4", "-n", "1", "-f", "-c", place / "named.conf")
        until(lambda: server.alive() and bool(_asked(self.OLD, ZONE, "SOA")), 10, "the old server answers")
        yield self.OLD
        server.stop()

    def test_the_same_servers(self, lab_dns: Dns, resolver: Resolver) -> None:
        assert Asks(resolver).told(self.NAME) == [("ok", "the parent example. names the servers that the zone lists")]

    def test_a_server_that_only_the_parent_names_counts(self, lab_dns: Dns, old: str, resolver: Resolver) -> None:
        """Senders' resolvers that come from the parent ask it, and keep what it gives."""
        lab_dns.update(self.NAME, "TLSA", [A])
        lab_dns.settle()
        lab_dns.delegate(ZONE, f"{ZONE}. NS ns9.{ZONE}.", f"ns9.{ZONE}. A {old}")
        seen = resolver.observe(self.NAME)
        assert seen.answers == {
            f"ns1.{ZONE}./{PRIMARY}": Answer(frozenset({A}), 5),
            f"ns2.{ZONE}./{SECONDARY}": Answer(frozenset({A}), 5),
            f"ns9.{ZONE}./{old}": Answer(frozenset({B}), 5),
        }
        (told,) = Asks(resolver).told(self.NAME)[:1]
        assert told == (
            "warning",
            f"the parent example. names ns9.{ZONE}., and the zone does not: senders' resolvers ask there, too",
        )

    def test_an_address_that_only_the_glue_has_counts(self, lab_dns: Dns, old: str, resolver: Resolver) -> None:
        lab_dns.update(self.NAME, "TLSA", [A])
        lab_dns.settle()
        lab_dns.delegate(ZONE, f"ns2.{ZONE}. A {old}")
        assert resolver.observe(self.NAME).answers[f"ns2.{ZONE}./{old}"] == Answer(frozenset({B}), 5)
        said = f"the parent example. gives {old} as address of ns2.{ZONE}., which has {SECONDARY}"
        assert Asks(resolver).told(self.NAME) == [("warning", f"{said}: resolvers ask there, too")]

    def test_one_that_is_silent_is_unknown(self, lab_dns: Dns, resolver: Resolver) -> None:
        """It may give anything to others; the words say where it comes from."""
        lab_dns.delegate(ZONE, f"{ZONE}. NS ns9.{ZONE}.", f"ns9.{ZONE}. A {SPARE}")
        answer = resolver.observe(self.NAME).answers[f"ns9.{ZONE}./{SPARE}"]
        assert isinstance(answer, Unknown)
        assert answer.why.endswith("(it is in the parent's delegation only)")

    def test_a_zone_that_the_parent_does_not_have(self, lab_dns: Dns, inside: str) -> None:
        """An internal zone: the world finds its names in the zone above, or nowhere."""
        told = Asks(Resolver((inside,), timeout_s=0.5)).told(f"_25._tcp.mx1.{HIDDEN_ZONE}.")
        assert told == [("warning", "the parent example. has none: for the world there is no such zone")]


def _asked(address: str, name: str, rdtype: str) -> dns.message.Message | None:
    try:
        return dns.query.tcp(dns.message.make_query(name, rdtype), address, timeout=1)
    except (OSError, EOFError, dns.exception.Timeout):
        return None


class TestWildcard:
    """A name below a wildcard: what is given there is not the name's own (RFC 4592)."""

    def test_names_own_records_are_told_from_a_wildcards(self, lab_dns: Dns, resolver: Resolver) -> None:
        """By the labels field of the signature (RFC 4034 section 3.1.3)."""
        name, wildcard = f"_25._tcp.mx1.labels.{ZONE}.", f"*.labels.{ZONE}."
        lab_dns.update(wildcard, "TLSA", [A], ttl=7)
        lab_dns.settle()
        answers = resolver.observe(name).answers.values()
        assert set(answers) == {Answer(frozenset({A}), 7, wildcard=wildcard)}
        assert resolver.wildcards(f"{ZONE}.", name) == (wildcard,)
        lab_dns.update(name, "TLSA", [A], ttl=7)
        lab_dns.settle()
        assert set(resolver.observe(name).answers.values()) == {Answer(frozenset({A}), 7)}
        assert resolver.wildcards(f"{ZONE}.", name) == (wildcard,)
        assert resolver.wildcards(f"{ZONE}.", f"_25._tcp.other.{ZONE}.") == ()

    def test_an_alias_may_be_a_wildcards(self, lab_dns: Dns, resolver: Resolver) -> None:
        name, wildcard = f"_25._tcp.mx1.led.{ZONE}.", f"*.led.{ZONE}."
        lab_dns.update(wildcard, "CNAME", [f"end.{ZONE}."])
        lab_dns.settle()
        assert wildcard in resolver.wildcards(f"{ZONE}.", name)

    @pytest.mark.parametrize("zone", [ZONE, INSECURE_ZONE, KNOT_ZONE], ids=["bind", "plain", "knot"])
    def test_a_wildcards_address_is_taken_away_by_a_record_below(
        self, lab_dns: Dns, resolver: Resolver, zone: str
    ) -> None:
        """What is refused, and why: the real server gives no address any more. One of the host's own stays."""
        host, wildcard = f"mx1.given.{zone}.", f"*.given.{zone}."
        name, challenge = f"_25._tcp.{host}", f"_acme-challenge.{host}"
        at = KNOT if zone == KNOT_ZONE else PRIMARY
        edges = cast("Edges", Asks(resolver))
        lab_dns.update(wildcard, "A", ["192.0.2.1"])
        lab_dns.settle()
        found = resolver.hidden(f"{zone}.", name)
        assert found == (Hidden(host, wildcard, ("A 192.0.2.1",)),)
        assert resolver.hidden(f"{zone}.", challenge) == found
        with pytest.raises(Unsafe, match=r"would take it away \[dns\.wildcard_address\]") as caught:
            refuse(f"{zone}.", name, edges)
        assert f"{host} A 192.0.2.1" in caught.value.hint
        assert lab_dns.values(at, host, "A") == ["192.0.2.1"]
        lab_dns.update(name, "TLSA", [A])
        lab_dns.settle()
        assert lab_dns.values(at, host, "A") == []
        assert resolver.hidden(f"{zone}.", name) == ()  # it is gone, so nothing is taken away any more
        lab_dns.update(name, "TLSA", [])
        lab_dns.update(host, "A", ["192.0.2.1"])  # the remedy, with the same address
        lab_dns.settle()
        refuse(f"{zone}.", name, edges)
        lab_dns.update(name, "TLSA", [A])
        assert lab_dns.values(at, host, "A") == ["192.0.2.1"]
        for one, rdtype in ((name, "TLSA"), (host, "A"), (wildcard, "A")):
            lab_dns.update(one, rdtype, [])

    @pytest.mark.parametrize("zone", [ZONE, INSECURE_ZONE, KNOT_ZONE], ids=["bind", "plain", "knot"])
    def test_a_host_with_a_wildcard_below_it_has_its_own_address(
        self, lab_dns: Dns, resolver: Resolver, zone: str
    ) -> None:
        lab_dns.update(f"mx2.given.{zone}.", "A", ["192.0.2.2"])
        lab_dns.update(f"*.mx2.given.{zone}.", "A", ["192.0.2.2"])
        lab_dns.settle()
        assert resolver.hidden(f"{zone}.", f"_25._tcp.mx2.given.{zone}.") == ()

    @pytest.mark.parametrize("zone", [ZONE, INSECURE_ZONE, KNOT_ZONE], ids=["bind", "plain", "knot"])
    def test_an_alias_of_a_wildcard_that_nobody_can_follow(self, lab_dns: Dns, resolver: Resolver, zone: str) -> None:
        """The words name the wildcard and the remedy, for TLSA names and for challenges."""
        host, wildcard, end = f"mx1.led.{zone}.", f"*.led.{zone}.", f"web.{ALIAS_ZONE}."
        lab_dns.update(wildcard, "CNAME", [end])
        lab_dns.settle()
        for name in (f"_25._tcp.{host}", f"_acme-challenge.{host}"):
            assert resolver.final(name) == (f"{ALIAS_ZONE}.", end)
            nobody = Zones(lambda: [rfc2136(lab_dns, zone)])
            with (
                pytest.raises(
                    Misconfigured, match=r"leads there by the wildcard .* alone \[dns\.no_provider\]"
                ) as caught,
                explained([name], cast("Edges", Asks(resolver))),
                nobody.writing(f"{ALIAS_ZONE}.", end),
            ):
                pass
            assert wildcard in caught.value.detail
            assert f"give {host} its own address records" in caught.value.hint
        lab_dns.update(host, "A", ["192.0.2.1"])  # the remedy
        lab_dns.settle()
        assert resolver.final(f"_25._tcp.{host}") == (f"{zone}.", f"_25._tcp.{host}")
        lab_dns.update(host, "A", [])
        lab_dns.update(wildcard, "CNAME", [])

    @pytest.mark.parametrize(
        ("server", "zone"),
        [(PRIMARY, ZONE), (PRIMARY, INSECURE_ZONE), (KNOT, KNOT_ZONE)],
        ids=["bind", "plain", "knot"],
    )
    @pytest.mark.parametrize(("rdtype", "given"), [("TLSA", A), ("TXT", '"v=spf1 -all"')])
    def test_a_provider_changes_the_names_own_records(
        self, lab_dns: Dns, server: str, zone: str, rdtype: RdType, given: str
    ) -> None:
        """A wildcard's records are none of them: an update that took them for its precondition would never be made."""
        lab_dns.update(f"*.own.{zone}.", rdtype, [given])
        options = Options(server=server, zones=(zone,), key_file=str(lab_dns.keyfile("dane-key")))
        provider, name = Rfc2136(options), f"_x.own.{zone}."
        assert provider.get(name, rdtype) is None
        value = B if rdtype == "TLSA" else "ours"
        provider.add(name, rdtype, frozenset({value}), 5, None)
        was = provider.get(name, rdtype)
        assert was is not None
        assert was.values == {value}
        provider.remove(name, rdtype, was.values, was)
        assert provider.get(name, rdtype) is None
