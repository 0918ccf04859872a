"""Which names `certagent init` proposes, where each service is met, and what is left out; without a server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from certagent.facts.dns import Answer, Observation
from certagent.facts.tls import Service
from certagent.facts.unknown import Unknown
from certagent.init.domain import Name
from certagent.init.host import ITSELF, InUse
from certagent.init.names import Names
from certagent.mta.server import Found

HERE, ELSEWHERE = "127.0.0.1", "192.0.2.9"
NOW = datetime(2027, 1, 2, tzinfo=UTC)


def name(host: str, address: str = HERE, *, mail_for: str = "", tlsa: int = 0) -> Name:
    """With TLSA records at the port `tlsa`."""
    answer: dict[str, Answer | Unknown] = {"ns1/192.0.2.53": Answer(frozenset({f"3 1 1 {'ab' * 32}"}), 60)}
    records = {tlsa: Observation("example.org.", f"_{tlsa}._tcp.{host}.", answer, "secure")} if tlsa else {}
    addresses = (address,) if address else ()
    mails = (mail_for,) if mail_for else ()
    return Name(host, addresses, absent=not address, mail_for=mails, zone="example.org.", tlsa=records)


def used(*names: str, spki: str = "aa", issuer: str = "Some CA") -> InUse:
    return InUse("/etc/ssl/mail.pem", "ecdsa-p256", issuer, NOW, "/etc/ssl/mail.key", names, spki)


def server(host: str, *ports: int, called: str = "postfix", **more: Any) -> Found:
    services = tuple(Service(host, port, "tls" if port in {465, 993} else "smtp") for port in ports)
    return Found(called, called, {"files": {"ecdsa": f"/etc/{called}.pem"}}, services, (host,), {}, **more)


def known(found: Found, certificate: InUse, *names: Name) -> Names:
    return Names((found,), {found.name: (certificate,)}, {one.name: one for one in names})


def nothing(_name: str, _service: Service) -> frozenset[str]:
    return frozenset()


def met(names: Names, server: str = "postfix") -> set[tuple[str, int]]:
    return {(one.host, one.port) for one in names.services(nothing)[server]}


def test_the_machine_is_called_otherwise_than_its_mx() -> None:
    """The certificate is for the MX name and others: those are its names; the machine's name is one more."""
    postfix = server("srv1.example.org", 25, 465)
    certificate = used("mail.example.org", "smtp.example.org")
    mail = name("mail.example.org", mail_for="example.org")
    names = known(postfix, certificate, name("srv1.example.org"), mail, name("smtp.example.org", ""))
    assert met(names) == {("mail.example.org", 25), ("mail.example.org", 465)}
    services = names.services(nothing)
    assert set(names.wanted([postfix], services)) == {"mail.example.org", "smtp.example.org", "srv1.example.org"}


def test_a_name_with_records_at_another_port_is_a_service_there() -> None:
    names = known(
        server("mail.example.org", 25, 465),
        used("mail.example.org", "smtp.example.org"),
        name("mail.example.org", mail_for="example.org"),
        name("smtp.example.org", tlsa=465),
    )
    assert met(names) == {("mail.example.org", 25), ("mail.example.org", 465), ("smtp.example.org", 465)}


def test_a_wildcard_is_kept_and_makes_the_names_below_it_superfluous() -> None:
    """A CA refuses both in one certificate; each service is met by a name that leads here."""
    dovecot = server("imap.example.org", 993, called="dovecot")
    apex = name("example.org", ELSEWHERE)
    names = known(dovecot, used("*.example.org", "example.org"), name("imap.example.org"), apex)
    assert met(names, "dovecot") == {("imap.example.org", 993)}
    assert names.wanted([dovecot], names.services(nothing)) == ("*.example.org", "example.org")


def test_what_is_left_out_is_listed_with_the_reason() -> None:
    """No full name, no address, another host, an MX elsewhere, and an MX here at which no server listens."""
    away = replace(name("mx2.example.org", ELSEWHERE), mail_for=("example.org",))
    postfix = server("mail.example.org", 25)
    postfix = replace(postfix, services=(replace(postfix.services[0], addresses=(HERE,)),))
    other = name("mx3.example.org", "127.0.0.77", mail_for="example.org")
    names = known(
        postfix,
        used("debian", "old.example.org", "www.example.org", issuer=ITSELF),
        name("mail.example.org"),
        name("old.example.org", ""),
        name("www.example.org", ELSEWHERE),
        away,
        other,
    )
    wanted = names.wanted([postfix], names.services(nothing))
    assert wanted == ("mail.example.org",)
    left = {one.name: one.why for one in names.left_out(wanted)}
    assert left == {
        "debian": "no full name in DNS",
        "old.example.org": "has no address in DNS",
        "www.example.org": f"leads to {ELSEWHERE}, not to this host",
        "mx2.example.org": f"the MX of example.org, leads to {ELSEWHERE}, not to this host",
        "mx3.example.org": "the MX of example.org: no mail server above listens at 127.0.0.77",
    }
    assert all(one.todo for one in names.left_out(wanted))


def test_behind_nat_the_candidates_lead_here_and_what_shares_their_address() -> None:
    names = known(
        server("mail.example.org", 25),
        used("mail.example.org"),
        name("mail.example.org", ELSEWHERE),
        name("mx.example.net", ELSEWHERE, mail_for="example.net"),
        name("mx.example.com", "192.0.2.77", mail_for="example.com"),
    )
    assert met(names) == {("mx.example.net", 25)}


def test_of_several_entries_the_one_whose_certificate_is_met_takes_the_name() -> None:
    """Two certificates at one port: the handshake says which of them a sender meets under the MX name."""
    one, two = server("a.example.org", 25), server("b.example.org", 25, called="postfix-2")
    in_use = {"postfix": (used("a.example.org"),), "postfix-2": (used("b.example.org", "mail.example.org", spki="bb"),)}
    mail = name("mail.example.org", mail_for="example.org")
    found = (name("a.example.org"), name("b.example.org"), mail)
    names = Names((one, two), in_use, {each.name: each for each in found})

    def handshake(host: str, _service: Service) -> frozenset[str]:
        return frozenset({"aa" if host == "a.example.org" else "bb"})

    services = {server: {each.host for each in served} for server, served in names.services(handshake).items()}
    assert services == {"postfix": {"a.example.org"}, "postfix-2": {"mail.example.org"}}
