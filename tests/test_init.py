"""`certagent init` without a server: the text it proposes, and how it changes a file that is not its own."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec.structs import replace

from certagent.agent.plugins import DNS_PROVIDERS, built_in
from certagent.agent.wiring import Wiring
from certagent.config.load import load
from certagent.config.schema import Config
from certagent.errors import Misconfigured, Transient
from certagent.facts.dns import Answer, Observation, Security
from certagent.facts.tls import Chain, Served, Service
from certagent.facts.unknown import Unknown
from certagent.host import mounts, privileges
from certagent.host.mounts import Mounted
from certagent.init import changes, command, domain, findings, host, proposal, providers, seeds, steps, survey
from certagent.init.domain import Name, Resolvers
from certagent.init.host import InUse
from certagent.init.names import Names
from certagent.init.seeds import Seeds
from certagent.init.survey import Stranger, Survey
from certagent.mta.claims import Identity, identity
from certagent.mta.server import Advice, Change, Found
from certagent.report.findings import Finding
from tests.mta import chains

NAME = "mx1.example.org"
NOW = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
LEAF = Chain("ab" * 32, (), (NAME,), NOW, NOW + timedelta(days=60), "1")
MATCHING = f"3 1 1 {LEAF.spki}"
OPTIONS = {"chain_files": {"ecdsa": "/etc/postfix/tls/ecdsa.pem", "rsa": "/etc/postfix/tls/rsa.pem"}}
SERVICES = (Service(NAME, 25, "smtp"), Service(NAME, 465, "tls"))
POSTFIX = Found("postfix", "postfix", OPTIONS, SERVICES, (NAME,), {"smtpd_tls_cert_file": "/etc/ssl/mx1.pem"})
VALIDATING = Resolvers(("127.0.0.1",), validates=True, why="127.0.0.1 validates")


def name(security: Security = "secure", values: tuple[str, ...] = (MATCHING,), ttl_s: int = 86400, **more: Any) -> Name:
    """mx1.example.org as DNS has it, at an address of this host."""
    answers: dict[str, Answer | Unknown] = {"ns1.example.org./192.0.2.53": Answer(frozenset(values), ttl_s)}
    facts: dict[str, Any] = {
        "name": NAME,
        "addresses": ("127.0.0.1",),
        "mail_for": ("example.org",),
        "zone": "example.org.",
        "primary": "ns1.example.org.",
        "tlsa": {25: Observation("example.org.", f"_25._tcp.{NAME}.", answers, security)},
    }
    return Name(**facts | more)


def served(*kinds: str, port: int = 25, address: str = "127.0.0.1") -> tuple[Served, ...]:
    met: dict[str, Chain | Unknown] = {k: LEAF if k in kinds else Unknown(f"no {k} certificate") for k in survey.USUAL}
    return tuple(Served(NAME, address, port, survey.USUAL[kind], met[kind], 0.01) for kind in met)


def nothing(_name: str, _service: Service) -> frozenset[str]:
    """Which certificate is met where is not known."""
    return frozenset()


def seen(*found: Found, names: tuple[Name, ...] = (name(),), use: Resolvers = VALIDATING, **more: Any) -> Survey:
    in_use: dict[str, tuple[InUse, ...]] = {f.name: () for f in found} | more.pop("in_use", {})
    known = Names(found, in_use, {n.name: n for n in names})
    facts: dict[str, Any] = {
        "found": found,
        "idle": (),
        "failed": (),
        "resolvers": use,
        "names": known,
        "services": known.services(more.pop("met", nothing)),
        "served": {f.name: served("ecdsa", "rsa") + served("ecdsa", port=465) for f in found},
        "strangers": (),
        "silent": (),
    }
    return Survey(**facts | more)


def read(text: str, place: Path) -> Config:
    """The proposal as certagent reads it, once the operator has agreed."""
    path = place / "config.yaml"
    path.touch(0o600)
    path.write_text(text.replace("agree_tos: false", "agree_tos: true"))
    return load(path)


def told(survey_: Survey) -> str:
    return "\n".join(f"{f.outcome} {f.what}: {f.detail}" for f in findings.of(survey_))


# -- the text --------------------------------------------------------------------------------------------------------


def test_the_proposal_is_a_config_that_names_what_is_there(tmp_path: Path) -> None:
    """It loads as it stands; certificate, files, services, zone and resolver are those that were found."""
    proposed = read(proposal.text(seen(POSTFIX), "today"), tmp_path)
    entry = proposed.certificates[NAME]
    assert entry.spec.names == (NAME,)
    assert entry.spec.key_types == ("ecdsa-p256", "rsa-2048")
    assert entry.spec.tlsa_names == {f"_25._tcp.{NAME}.": ("postfix",)}
    assert entry.spec.ttl_s == 3600
    [server] = entry.spec.mail_servers
    assert tuple(replace(one, timeout_s=0.0) for one in server.services) == SERVICES
    assert entry.mail_servers["postfix"].options == OPTIONS
    assert proposed.dns.resolvers == ("127.0.0.1",)
    assert proposed.providers["primary"].options["zones"] == ["example.org"]
    assert proposed.providers["primary"].options["server"] == "ns1.example.org"


@pytest.mark.parametrize(
    ("name_servers", "kind"),
    [
        (("ns1.desec.io.", "ns2.desec.org."), "desec"),
        (("carl.ns.cloudflare.com.", "dana.ns.cloudflare.com."), "cloudflare"),
        (("helium.ns.hetzner.de.", "hydrogen.ns.hetzner.com.", "oxygen.ns.hetzner.com."), "hetzner"),
        (("ns-11-a.gandi.net.", "ns-222-b.gandi.net.", "ns-33-c.gandi.net."), "gandi"),
        (("root-dns.netcup.net.", "second-dns.netcup.net.", "third-dns.netcup.net."), "netcup"),
        (("curitiba.ns.porkbun.com.", "fortaleza.ns.porkbun.com."), "porkbun"),
        (("curitiba.porkbun.com.", "fortaleza.porkbun.com."), "porkbun"),
        (("dns17.ovh.net.", "ns17.ovh.net."), "ovh"),
        (("dns200.anycast.me.", "ns200.anycast.me."), "ovh"),
        (("dns101.ovh.ca.", "ns101.ovh.ca."), "ovh"),
        (("NS1.DESEC.IO.", "ns2.desec.org."), "desec"),
        (("ns-512.awsdns-00.net.", "ns-1.awsdns-08.com.", "ns-2048.awsdns-64.co.uk."), "route53"),
        (("ns.inwx.de.", "ns2.inwx.de.", "ns3.inwx.eu.", "ns4.inwx.com.", "ns5.inwx.net."), "inwx"),
        (("ns1.nothetzner.de.",), None),
        (("ns.mydesec.io.",), None),
        (("ns1.desec.io.", "ns1.example.org."), None),
        ((), None),
    ],
)
def test_a_service_is_known_by_its_name_servers(name_servers: tuple[str, ...], kind: str | None) -> None:
    """All of them, else somebody else has a hand in the zone."""
    assert providers.service(name_servers) == kind


def test_the_section_of_a_service_has_the_way_to_its_token(tmp_path: Path) -> None:
    """It loads as it stands; what the token must allow is listed with it."""
    text = proposal.text(seen(POSTFIX, names=(name(name_servers=("ns1.desec.io.", "ns2.desec.org.")),)), "today")
    [(called, section)] = read(text, tmp_path).providers.items()
    assert (called, section.type) == ("desec", "desec")
    assert section.options == {"token_file": "/etc/certagent/desec.token", "zones": ["example.org"]}
    plain = " ".join(line.strip().removeprefix("#").strip() for line in text.splitlines())
    assert "The name servers of example.org are those of deSEC. TODO: Make the token at" in plain
    assert f"It writes: _acme-challenge.{NAME}. TXT _25._tcp.{NAME}. TLSA" in plain
    assert "TTLs begin at 3600 s" in plain


SERVICES_OF_ZONES = tuple(kind for kind, about in providers.abouts().items() if about.name_servers)


@pytest.mark.parametrize("kind", SERVICES_OF_ZONES)
def test_every_service_is_proposed_with_the_way_to_its_token(tmp_path: Path, kind: str) -> None:
    """Known by each ending that its name servers may have; the section loads, and has what is to be done for it."""
    about = providers.abouts()[kind]
    servers = tuple(f"ns{end}" if end[0] == "." else f"first{end}" for end in about.name_servers)
    servers = tuple(server.replace("[0-9][0-9]", "17") for server in servers)
    text = proposal.text(seen(POSTFIX, names=(name(name_servers=servers),)), "today")
    [section] = read(text, tmp_path).providers.values()
    assert section.type == kind
    plain = " ".join(line.strip().removeprefix("#").strip() for line in text.splitlines())
    assert f"The name servers of example.org are those of {about.title}." in plain
    for words in (f"TODO: {about.access}", about.rights, about.limits, f"_25._tcp.{NAME}. TLSA"):
        assert words in plain
    example = yaml.safe_load(about.example)
    assert section.options == {key: value for key, value in example.items() if key != "type"}
    options = next(plugin for name_, plugin in built_in(DNS_PROVIDERS) if name_ == kind).Options
    assert msgspec.convert(section.options, options).zones == ("example.org",)


def test_the_services_that_are_known_by_their_name_servers() -> None:
    """All that keep zones of others; the rest are servers here, a program, a bridge, or take challenges only."""
    others = {"rfc2136", "knot", "powerdns", "acme-dns", "lexicon", "command"}
    assert {*SERVICES_OF_ZONES} == {name_ for name_, _ in built_in(DNS_PROVIDERS)} - others


@pytest.mark.parametrize(
    ("program", "kind", "keys"),
    [
        ("pdns_server", "powerdns", {"url", "token_file", "zones"}),
        ("knotd", "knot", {"zones"}),
        ("named", "rfc2136", {"server", "zones", "key_file"}),
    ],
)
def test_a_dns_server_on_this_host_is_proposed(tmp_path: Path, program: str, kind: str, keys: set[str]) -> None:
    """If it answers for the zone; whether it is the primary only the operator knows."""
    text = proposal.text(seen(POSTFIX, kept_here={"example.org.": program}), "today")
    [section] = read(text, tmp_path).providers.values()
    assert (section.type, set(section.options)) == (kind, keys)
    assert f"# {program} runs on this host, and answers for example.org." in text
    assert "TODO: is it the" in text


UNSIGNED = name("insecure", values=())


@pytest.mark.parametrize(("web", "webroot"), [(None, ""), ("nginx", "/var/www/html"), ("", "/var/www/html")])
def test_where_no_dns_service_is_known_the_ca_looks_at_port_80(tmp_path: Path, web: str | None, webroot: str) -> None:
    """If no TLSA records have to be written; and a web server that has the port gives the file."""
    text = proposal.text(seen(POSTFIX, names=(UNSIGNED,), web=web), "today")
    proposed = read(text, tmp_path)
    assert not proposed.providers
    method = proposed.certificates[NAME].spec.challenge
    assert (method.type, method.webroot) == ("http-01", webroot)
    assert "TODO: let the firewall pass it" in " ".join(text.replace("#", "").split())
    Wiring(proposed).check()


@pytest.mark.parametrize(
    "there",
    [
        {"names": (name(),)},
        {"names": (name("secure", values=()),)},
        {"names": (name("insecure", values=(), name_servers=("ns1.desec.io.", "ns2.desec.org.")),)},
        {"names": (UNSIGNED,), "kept_here": {"example.org.": "named"}},
        {"names": ()},
    ],
)
def test_with_a_provider_it_is_a_record(there: dict[str, Any]) -> None:
    """One that is known, or that has to write TLSA records anyhow."""
    text = proposal.text(seen(POSTFIX, **there), "today")
    assert "challenge:" not in text
    assert "providers:" in text


def test_caa_is_read_for_the_type_that_is_proposed() -> None:
    allowed = replace(UNSIGNED, caa=("letsencrypt.org; validationmethods=http-01",), caa_at="example.org")
    assert "error CAA" not in told(seen(POSTFIX, names=(allowed,)))
    assert "certagent uses dns-01" in told(seen(POSTFIX, names=(replace(allowed, tlsa=name().tlsa),)))


def test_the_service_gets_the_right_to_open_port_80() -> None:
    kinds = host.plugins()
    for web, needed in ((None, True), ("nginx", False)):
        survey_ = seen(POSTFIX, names=(UNSIGNED,), web=web)
        following = steps.next_steps(survey_, kinds, proposal.text(survey_, "today"), None, [])
        assert any("CAP_NET_BIND_SERVICE" in one.command for one in following) is needed


def test_nothing_is_agreed_to_for_the_operator() -> None:
    """The CA's terms stay unread, and every gap is marked where it is."""
    text = proposal.text(seen(POSTFIX), "today")
    assert yaml.safe_load(text)["ca"]["letsencrypt"]["agree_tos"] is False
    lines = text.splitlines()
    for gap in ("agree_tos: false", "contact: []", "key_file: ", "server: "):
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(gap))
        above: list[str] = []
        while lines[at - 1].lstrip().startswith("#"):
            at -= 1
            above.append(lines[at])
        assert "TODO:" in "".join(above), gap
    assert f"grant certagent name _25._tcp.{NAME}. TLSA;" in text
    assert f"grant certagent name _acme-challenge.{NAME}. TXT;" in text


def test_every_line_fits_a_terminal() -> None:
    """Comments are wrapped at 100 columns, also if a plug-in wrote them."""
    server = replace(POSTFIX, notes=("word " * 80, "a line\nagree_tos: true\nfrom elsewhere"))
    text = proposal.text(seen(server, use=Resolvers((), validates=False, why="long " * 50)), "today")
    assert [line for line in text.splitlines() if line.lstrip().startswith("#") and len(line) > 100] == []
    assert yaml.safe_load(text)["ca"]["letsencrypt"]["agree_tos"] is False


@pytest.mark.parametrize(
    ("security", "values", "tlsa", "why"),
    [
        ("secure", (MATCHING,), True, "the zone is signed and TLSA records are there"),
        ("secure", (), True, "the zone is signed; no TLSA records yet"),
        ("insecure", (), False, "the zone is not signed"),
        ("insecure", (MATCHING,), True, "TLSA records are there; the zone is not signed"),
        ("bogus", (), False, "the zone is bogus"),
        ("unknown", (), False, "is not known"),
        ("unknown", (MATCHING,), True, "could not be found out"),
    ],
)
def test_tlsa_is_kept_where_it_is_and_begun_only_where_it_helps(
    security: Security, values: tuple[str, ...], tlsa: bool, why: str, tmp_path: Path
) -> None:
    """A record that is there is always looked after: a key that changes behind its back would cut senders off."""
    text = proposal.text(seen(POSTFIX, names=(name(security, values),)), "today")
    spec = read(text, tmp_path).certificates[NAME].spec
    assert bool(spec.tlsa_names) is tlsa
    assert why in " ".join(text.replace("#", "").split())
    assert ("tlsa: true:" if tlsa else "tlsa is left out:") in text


@pytest.mark.parametrize(("today", "then"), [(86400, 3600), (3600, 3600), (1800, 1800), (5, 5), (0, 3600)])
def test_a_long_ttl_is_made_short_and_a_short_one_kept(today: int, then: int, tmp_path: Path) -> None:
    """A roll waits two TTLs; the first one still waits for today's."""
    values = (MATCHING,) if today else ()
    text = proposal.text(seen(POSTFIX, names=(name(values=values, ttl_s=today),)), "now")
    assert read(text, tmp_path).certificates[NAME].spec.ttl_s == then
    assert ("today's TTL is 86400 s" in text) == (today == 86400)
    assert ("the first one 2 d" in text) == (today == 86400)


def test_the_keys_are_those_with_files_in_the_size_that_is_served() -> None:
    """An RSA key of 4096 bits stays one; the reason says what is served today."""
    used = InUse("/etc/ssl/mx1.pem", "rsa-4096", "Let's Encrypt (R11)", NOW)
    rsa = replace(POSTFIX, options={"chain_files": {"rsa": "/etc/postfix/tls/rsa.pem"}})
    text = proposal.text(seen(rsa, in_use={"postfix": (used,)}, served={"postfix": served("rsa")}), "today")
    assert "keys: [rsa-4096]" in text
    assert "RSA: what is served today" in text
    both = proposal.text(seen(POSTFIX), "today")
    assert "ECDSA and RSA: both are served today" in both
    ecdsa = replace(POSTFIX, options={"chain_files": {"ecdsa": "/etc/postfix/tls/ecdsa.pem"}})
    changed = proposal.text(seen(ecdsa, served={"postfix": served("rsa")}), "today")
    assert "ECDSA: what there are files for; today RSA is served" in changed


def test_servers_of_one_name_share_a_certificate_and_others_do_not(tmp_path: Path) -> None:
    """Postfix and Dovecot of one name: one certificate. Another name, or another key type: one of its own."""
    files = {"files": {"ecdsa": "/etc/dovecot/tls.pem", "rsa": "/etc/dovecot/rsa.pem"}}
    dovecot = Found("postfix", "dovecot", files, (Service(NAME, 993, "tls"),), (NAME,), {})
    other_files = {"chain_files": {"ecdsa": "/etc/postfix-out/ecdsa.pem", "rsa": "/etc/postfix-out/rsa.pem"}}
    out = Found(
        "postfix", "postfix-out", other_files, (Service("out.example.org", 25, "smtp"),), ("out.example.org",), {}
    )
    ecdsa = Found(
        "postfix", "exim", {"files": {"ecdsa": "/etc/exim/tls.pem"}}, (Service(NAME, 2525, "smtp"),), (NAME,), {}
    )
    proposed = read(proposal.text(seen(POSTFIX, dovecot, out, ecdsa), "today"), tmp_path)
    mail_servers = {n: [t.name for t in entry.spec.mail_servers] for n, entry in proposed.certificates.items()}
    assert mail_servers == {NAME: ["postfix", "dovecot"], "out.example.org": ["postfix-out"], f"{NAME}-exim": ["exim"]}
    assert {entry.spec.names for entry in proposed.certificates.values()} == {(NAME,), ("out.example.org",)}


def test_a_name_that_no_ca_knows_is_left_out_and_reported(tmp_path: Path) -> None:
    """`debian` and `mx1.internal` get no certificate; where nothing else is left the operator is asked."""
    odd = Name("mx1.internal", ("127.0.0.1",), zone=".")
    server = replace(POSTFIX, names=(NAME, "debian", "mx1.internal"))
    text = proposal.text(seen(server, names=(name(), odd)), "today")
    assert read(text, tmp_path).certificates[NAME].spec.names == (NAME,)
    assert "TODO: debian is left out: no full name in DNS" in text
    assert "TODO: mx1.internal is left out: no CA can issue for what is not in public DNS" in text
    nameless = replace(POSTFIX, names=("debian",), services=(Service("debian", 25, "smtp"),))
    asked = proposal.text(seen(nameless, names=()), "today")
    assert list(read(asked, tmp_path).certificates) == ["mx1.example.org"]
    assert "TODO: no full name was found here" in asked
    assert "TODO: it calls itself debian" in asked


def test_a_further_name_that_receives_mail_is_looked_after_like_the_first(tmp_path: Path) -> None:
    """The MX of a second domain, or one with TLSA records, gets its own service: its records follow the key too."""
    mail = replace(name(), name="mail.example.net", mail_for=("example.net",), zone="example.net.")
    plain = replace(name("secure", ()), name="www.example.org", mail_for=())
    server = replace(POSTFIX, names=(NAME, mail.name, plain.name))
    entry = read(proposal.text(seen(server, names=(name(), mail, plain)), "now"), tmp_path).certificates[NAME]
    assert set(entry.spec.tlsa_names) == {f"_25._tcp.{NAME}.", "_25._tcp.mail.example.net."}
    assert entry.spec.names == ("mail.example.net", NAME, "www.example.org")


def test_behind_nat_the_inside_address_is_verified() -> None:
    """Public addresses that are not this host's and cannot be reached: `addresses`, to be confirmed. Else nothing."""
    public = name(addresses=("127.0.0.1",))
    assert "addresses" not in proposal.text(seen(POSTFIX, names=(public,)), "today")
    outside = name(addresses=("203.0.113.7",))
    lost = {"postfix": tuple(replace(s, chain=Unknown("no answer")) for s in served())}  # and 465 was not asked
    if host.inside("203.0.113.7"):  # this host has a route
        text = proposal.text(seen(POSTFIX, names=(outside,), served=lost), "today")
        assert "NAT" in text
        assert "addresses: [" in text
    reached = {"postfix": served("ecdsa") + served("ecdsa", port=465)}
    assert "addresses" not in proposal.text(seen(POSTFIX, names=(outside,), served=reached), "today")


def test_silent_name_servers_are_not_taken_for_empty_ones(tmp_path: Path) -> None:
    """What was not heard is unknown: the records are looked for before each change of a key."""
    answers: dict[str, Answer | Unknown] = {"ns1.example.org./192.0.2.53": Unknown("gave no answer")}
    silent = name(tlsa={25: Observation("example.org.", f"_25._tcp.{NAME}.", answers, "unknown")})
    spec = read(proposal.text(seen(POSTFIX, names=(silent,)), "now"), tmp_path).certificates[NAME].spec
    assert set(spec.tlsa_names) == {f"_25._tcp.{NAME}."}


def test_without_dns_there_is_still_a_config(tmp_path: Path) -> None:
    """No resolver: placeholders for zone and primary. There may be TLSA records: they are looked for in each roll."""
    text = proposal.text(seen(POSTFIX, names=(), use=Resolvers((), validates=False, why="no resolver answers")), "now")
    proposed = read(text, tmp_path)
    assert proposed.certificates[NAME].spec.tlsa_names == {f"_25._tcp.{NAME}.": ("postfix",)}
    assert "could not be found out" in text
    assert proposed.providers["primary"].options["zones"] == ["example.org"]
    assert "TODO: the zone's primary server" in text


# -- what is told ----------------------------------------------------------------------------------------------------


def test_records_that_do_not_match_what_is_served_are_reported_loudly() -> None:
    """Senders defer mail at this very moment; where they match it is said too."""
    assert "error DNS _25._tcp" not in told(seen(POSTFIX))
    assert "what is served matches" in told(seen(POSTFIX))
    wrong = told(seen(POSTFIX, names=(name(values=(f"3 1 1 {'00' * 32}",)),)))
    assert "no 3 1 1 record matches what is served" in wrong


def test_what_is_not_accounted_for_is_reported() -> None:
    """A program at a mail port, a server that does not run, a plug-in that fails, a name server that is silent."""
    failed = Finding("error", "mail server exim", "cannot be read", "look")
    silent = name()
    answers: dict[str, Answer | Unknown] = {"ns2.example.org./192.0.2.54": Unknown("no answer")}
    silent = replace(silent, tlsa={25: replace(silent.tlsa[25], answers=answers)})
    idle = (replace(POSTFIX, type="dovecot", name="dovecot"),)
    strange = seen(
        POSTFIX,
        names=(silent,),
        idle=idle,
        failed=(failed,),
        strangers=(Stranger(143, "imapd"),),
        silent=(("postfix", 465),),
    )
    words = told(strange)
    assert "note port 143 (IMAP): imapd listens there" in words
    assert "nothing listens at its ports 465" in words
    assert "nothing listens at its ports: dovecot is left out" in words
    assert "error mail server exim: cannot be read" in words
    assert "ns2.example.org./192.0.2.54 no answer" in words


def test_a_server_is_no_stranger_at_its_port_without_tls(cf: Path) -> None:
    """It is said what it lacks there, and what to do is the first of the next steps."""
    todo = Advice("smtp offers no STARTTLS", "postconf -e smtpd_tls_security_level=may")
    plain = seen(replace(POSTFIX, plain=((25, todo),)), strangers=(Stranger(25, "master", "postfix"),))
    [finding] = [one for one in findings.of(plain) if one.what == "port 25 (SMTP)"]
    assert finding.detail.startswith("the postfix above listens there: smtp offers no STARTTLS")
    assert finding.hint.startswith(f"{todo.command}; ")
    assert steps.next_steps(plain, host.plugins(), "", cf, [])[0].command == todo.command
    other = told(seen(POSTFIX, strangers=(Stranger(587, "master", "postfix"),)))
    assert "note port 587 (submission): the postfix above listens there, and it is left out" in other


def unit(place: Path) -> Path:
    """A directory with certagent's unit."""
    (place / steps.UNIT).touch()
    return place


def test_the_unit_is_installed_before_it_is_started(cf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file of the checkout, unless systemd has it."""
    places = [tmp_path / "systemd", tmp_path / "lib"]
    for place in places:
        place.mkdir()
    monkeypatch.setattr(steps, "UNITS", tuple(places))

    def last() -> str:
        return steps.next_steps(seen(POSTFIX), host.plugins(), "", cf, [])[-1].command

    install, reload, start = last().split(" && ")
    subprocess.run(["sh", "-ec", install], check=True, cwd=Path(__file__).parent.parent)
    assert (reload, start) == ("systemctl daemon-reload", "systemctl enable --now certagent")
    assert (places[0] / "certagent.service").stat().st_size > 1000
    assert last() == start
    (places[0] / "certagent.service").unlink()
    unit(places[1])
    assert last() == start


def test_the_places_to_fill_in_are_as_many_as_the_command_shows(tmp_path: Path) -> None:
    text = proposal.text(seen(POSTFIX), "now")
    path = tmp_path / "proposed.yaml"
    path.write_text(text)
    [step] = [one for one in steps.next_steps(seen(POSTFIX), host.plugins(), text, path, []) if "TODO" in one.what]
    done = subprocess.run(["sh", "-ec", step.command], check=True, capture_output=True, text=True)
    assert step.what.endswith(f", {len(done.stdout.splitlines())} places")


def test_a_resolver_that_is_installed_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not installed once more."""
    alone = seen(POSTFIX, use=Resolvers((), validates=False, why="no resolver answers"))

    def hint() -> str:
        return next(one.hint for one in findings.of(alone) if one.what == "DNS")

    monkeypatch.setattr(domain, "program", str)
    assert hint().startswith("systemctl restart unbound")
    assert "TODO: a validating resolver on this host (systemctl restart unbound)" in proposal.text(alone, "now")

    def missing(_name: str) -> str:
        raise Misconfigured("run.failed", "unbound is not installed", "")

    monkeypatch.setattr(domain, "program", missing)
    assert hint().startswith("apt install unbound")


@pytest.mark.parametrize(
    ("caa", "why"),
    [
        ((), ""),
        (("letsencrypt.org",), ""),
        (("ca.example", "letsencrypt.org; validationmethods=dns-01"), ""),
        (("ca.example",), "allows ca.example, not letsencrypt.org"),
        ((";",), "allows ;, not letsencrypt.org"),
        (("letsencrypt.org; validationmethods=http-01",), "with http-01 only"),
        (("letsencrypt.org;accounturi=https://ca/1",), "for the account https://ca/1 only"),
    ],
)
def test_caa_is_read_as_the_ca_reads_it(caa: tuple[str, ...], why: str) -> None:
    """RFC 8659 and the parameters of RFC 8657; what forbids is marked in the config too."""
    said = domain.forbidden(caa, "letsencrypt.org")
    assert (why in said) if why else said == ""
    text = proposal.text(seen(POSTFIX, names=(name(caa=caa, caa_at="example.org"),)), "today")
    assert ("TODO: CAA of example.org" in text) == bool(why)


def test_a_plug_in_that_fails_does_not_stop_the_others() -> None:
    """An error of certagent, a defect, a plug-in that cannot be loaded, and one without discover, beside a good one."""

    def plug_in(discover: Callable[[], list[Found]]) -> Any:
        def asked(_shared: object) -> list[Found]:
            return discover()

        return type("Plugin", (), {"discover": staticmethod(asked)})

    def broken() -> list[Found]:
        raise Misconfigured("mta.config", "postconf fails", "run: postconf -n")

    def defect() -> list[Found]:
        raise ZeroDivisionError

    kinds = {
        "good": plug_in(lambda: [POSTFIX]),
        "broken": plug_in(broken),
        "defect": plug_in(defect),
        "unloadable": ImportError("no"),
        "old": type("Old", (), {}),
    }
    found, failed, _ = host.discover(kinds)
    assert found == [POSTFIX]
    assert [f.what for f in failed] == [f"mail server {kind}" for kind in ("broken", "defect", "unloadable")]
    assert all(f.hint for f in failed)


def test_a_file_that_a_container_has_alone_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename would not reach it there: new files are proposed, and the remedy is told."""
    file = tmp_path / "chain.pem"
    file.touch()
    used = replace(POSTFIX, uses={"smtpd_tls_chain_files": str(file)}, options={"chain_files": {"rsa": str(file)}})
    asked: list[Collection[Identity]] = []

    class Plugin:
        @staticmethod
        def discover(shared: Collection[Identity]) -> list[Found]:
            asked.append(shared)
            return [used]

    def alone(paths: Iterable[Path]) -> list[Mounted]:
        return [Mounted(path, "process 7 (master)") for path in paths]

    monkeypatch.setattr(mounts, "alone", alone)
    discovered = host.discover({"postfix": Plugin})
    assert [identity(str(file)) in shared for shared in asked] == [False, True]
    [note] = [one for one in findings.of(seen(used, shared=discovered.shared)) if "mounted alone" in one.detail]
    assert f"{file} is read by postfix, process 7 (master), for which it is mounted alone: new files" in note.detail
    assert mounts.REMEDY in note.hint


# -- changes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cf(tmp_path: Path) -> Path:
    """A configuration of a mail server, with a mode of its own."""
    path = tmp_path / "main.cf"
    path.write_text("a = 1\nb = 2\n")
    path.chmod(0o640)
    return path


def changing(path: Path, after: str = "a = 1\nb = 3\n", **more: Any) -> Found:
    change = Change(str(path), path.read_text() if path.exists() else "", after, "b must be 3")
    return replace(POSTFIX, changes=(change,), **more)


def test_a_change_is_made_whole_with_a_backup(cf: Path) -> None:
    """The new text in one step with the old owner and mode; the old file beside it; a second time nothing."""
    found = changing(cf)
    [made] = changes.apply(found, NOW, lambda: "")
    assert cf.read_text() == "a = 1\nb = 3\n"
    assert stat.S_IMODE(cf.stat().st_mode) == 0o640
    backup = Path(f"{cf}.before-certagent-20270102T030405Z")
    assert (made.state, made.backup) == ("made", str(backup))
    assert backup.read_text() == "a = 1\nb = 2\n"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o640
    assert (backup.stat().st_uid, backup.stat().st_gid) == (cf.stat().st_uid, cf.stat().st_gid)
    assert "-b = 2\n+b = 3\n" in made.diff
    [again] = changes.apply(found, NOW, lambda: "")
    assert again.state == "there"
    assert sorted(cf.parent.iterdir()) == [cf, backup]


def test_a_file_that_was_changed_meanwhile_is_left_alone(cf: Path) -> None:
    """What was shown is what is done, or nothing."""
    found = changing(cf)
    cf.write_text("a = 1\nb = 2\nc = 3\n")
    with pytest.raises(Misconfigured, match="not as it was") as error:
        changes.apply(found, NOW, lambda: "")
    assert error.value.code == "mta.files"
    assert cf.read_text() == "a = 1\nb = 2\nc = 3\n"
    assert list(cf.parent.iterdir()) == [cf]


def test_a_change_that_the_server_does_not_like_is_undone(cf: Path) -> None:
    """Every file is put back, new ones and backups go: a directory that is read as a whole is as it was."""
    new = cf.with_name("new.conf")
    found = changing(cf)
    found = replace(found, changes=(*found.changes, Change(str(new), "", "x\n", "new")))

    def complaint() -> str:
        return "fatal: b" if "b = 3" in cf.read_text() else ""

    with pytest.raises(Misconfigured, match="so it was undone: fatal: b") as error:
        changes.apply(found, NOW, complaint)
    assert error.value.code == "mta.config"
    assert cf.read_text() == "a = 1\nb = 2\n"
    assert stat.S_IMODE(cf.stat().st_mode) == 0o640
    assert list(cf.parent.iterdir()) == [cf]


def test_the_backup_stays_where_it_cannot_be_put_back(cf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails at the worst moment: the old text is still beside the file."""

    def complaint() -> str:
        if "b = 3" not in cf.read_text():
            return ""
        monkeypatch.setattr(changes.replace, "write", full)
        return "fatal: b"

    def full(*_: object, **__: object) -> None:
        raise Transient("store.disk", "no space left", "df")

    with pytest.raises(Transient) as error:
        changes.apply(changing(cf), NOW, complaint)
    assert error.value.code == "mta.disk"
    [backup] = cf.parent.glob("*.before-certagent-*")
    assert backup.read_text() == "a = 1\nb = 2\n"


class Generated:
    """A server that does not read main.cf, but what a program makes of it."""

    def __init__(self, cf: Path) -> None:
        self.directory = cf.parent / "generated"
        self.directory.mkdir()
        self.source, self.read, self.pem = cf, self.directory / "main.out", self.directory / "tls.pem"
        self.read.write_text(cf.read_text())
        self.pem.touch()

    def found(self, script: str) -> Found:
        """With two changes, and the program that belongs to both: $1 is what was changed, $2 what the server reads."""
        program = self.directory / "make-it"
        program.write_text(f'#!/bin/sh\necho run >>"$0.runs"\n{script}\n')
        program.chmod(0o755)
        found = changing(self.source, f"a = 1\nb = {self.pem}\n", options={"chain_files": {"ecdsa": str(self.pem)}})
        new = Change(str(self.source.with_name("new.cf")), "", "x\n", "new")
        generate = (str(program), str(self.source), str(self.read))
        return replace(found, changes=tuple(replace(change, generate=generate) for change in (*found.changes, new)))

    def complaint(self) -> str:
        return "" if str(self.pem) in self.read.read_text() else "it does not name the new file"

    @property
    def runs(self) -> int:
        return len((self.directory / "make-it.runs").read_text().splitlines())

    def undone(self, script: str) -> Misconfigured:
        """Why; the files are as they were."""
        with pytest.raises(Misconfigured) as caught:
            changes.apply(self.found(script), NOW, self.complaint)
        assert caught.value.code == "mta.config"
        assert caught.value.hint
        assert self.source.read_text() == "a = 1\nb = 2\n"
        assert sorted(self.source.parent.iterdir()) == [self.directory, self.source]
        return caught.value


COPIES = 'cat "$1" >"$2"'


@pytest.fixture
def generated(cf: Path) -> Generated:
    return Generated(cf)


def test_what_the_server_reads_is_made_of_the_changed_files_before_it_is_checked(generated: Generated) -> None:
    """By one run, whatever their number."""
    found = generated.found(COPIES)
    outcomes = changes.apply(found, NOW, generated.complaint)
    assert [one.state for one in outcomes] == ["made", "made"]
    assert outcomes[0].generate == " ".join(found.changes[0].generate)
    assert generated.read.read_text() == generated.source.read_text()
    assert generated.runs == 1


def test_what_the_server_reads_is_made_anew_after_an_undo(generated: Generated) -> None:
    """Its own check does not like what was made of the change."""
    error = generated.undone(f'{COPIES}\nsed -i "s/tls.pem/other.pem/" "$2"')
    assert error.detail.endswith("its check fails, so it was undone: it does not name the new file")
    assert generated.read.read_text() == "a = 1\nb = 2\n"
    assert generated.runs == 2


def test_a_program_that_makes_nothing_new_of_the_change_is_reported_with_its_words(generated: Generated) -> None:
    """It says yes all the same, as Debian's Makefile of Sendmail does."""
    error = generated.undone("echo nothing to\necho be done\necho really >&2")
    assert "its check fails, so it was undone: it does not name the new file; make-it " in error.detail
    assert error.detail.endswith(" said: really nothing to be done")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo Invalid >&2; exit 1", "Invalid"),
        ("exit 3", "exit status 3"),
        ("exec sleep 60", "no end after 2 s"),
    ],
)
def test_a_program_that_fails_undoes_the_change(
    generated: Generated, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    """With its words; of the old files it makes what was there before."""
    monkeypatch.setattr(changes, "_GENERATE_S", 2.0)
    error = generated.undone(f'if grep -q tls.pem "$1"; then cp "$1" "$2"; {script}; fi; {COPIES}')
    assert f" {generated.read} fails, so it was undone: " in error.detail
    assert error.detail.endswith(words)
    assert generated.read.read_text() == "a = 1\nb = 2\n"


def test_a_program_that_fails_after_the_undo_too_is_reported_loudly(generated: Generated) -> None:
    """What the server reads then is not known: both failures are told, and what to run."""
    error = generated.undone("echo no disk; exit 1")
    assert "so it was undone: no disk; and then, with the old files, make-it " in error.detail
    assert error.hint.startswith("run it by hand: make-it ")


def test_a_program_that_is_not_installed_is_reported_before_anything_is_changed(generated: Generated) -> None:
    found = generated.found(COPIES)
    (generated.directory / "make-it").unlink()
    with pytest.raises(Misconfigured, match="make-it is not installed"):
        changes.apply(found, NOW, generated.complaint)
    assert generated.source.read_text() == "a = 1\nb = 2\n"
    assert sorted(generated.source.parent.iterdir()) == [generated.directory, generated.source]


def test_the_command_that_belongs_to_a_change_is_shown_with_it(
    generated: Generated, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, seen(generated.found(COPIES))) == 0
    assert f"\n  then this is run: {generated.directory}/make-it {generated.source} " in capsys.readouterr().err
    assert not (generated.directory / "make-it.runs").exists()


def test_what_the_server_said_before_is_not_held_against_the_change(cf: Path) -> None:
    """A check that complains of certificates that are not there yet goes on doing so."""
    [made] = changes.apply(changing(cf), NOW, lambda: "no certificate yet")
    assert made.state == "made"


def test_a_change_that_names_our_files_must_satisfy_the_check_fully(cf: Path, tmp_path: Path) -> None:
    """A key that the server cannot read was wrong before too; but only from now on it would end TLS."""
    pem = tmp_path / "tls.pem"
    pem.touch()
    found = changing(cf, f"a = 1\nb = {pem}\n", options={"files": {"ecdsa": str(pem)}})
    with pytest.raises(Misconfigured, match="it was undone: its user cannot read"):
        changes.apply(found, NOW, lambda: f"its user cannot read {pem}")
    assert cf.read_text() == "a = 1\nb = 2\n"


def test_files_that_cannot_be_made_of_what_is_served_are_made_by_the_first_run(cf: Path, tmp_path: Path) -> None:
    """Then the change comes after it; a server whose files can be made changes at once, and reads them."""
    pem = tmp_path / "tls" / "tls.pem"
    found = changing(cf, f"b = {pem}\n", options={"chain_files": {"ecdsa": str(pem)}})
    lacking = changes.outcomes(found, Seeds((), (str(pem),)))
    commands = [step.command for step in steps.next_steps(seen(found), host.plugins(), "", cf, lacking)]
    at = commands.index("certagent init --apply")
    assert commands[0] == f"install -d -m 755 {pem.parent}"
    assert commands[at - 1].startswith("certagent renew --config")
    assert commands[at + 1].startswith("certagent renew --wait")
    commands = [step.command for step in steps.next_steps(seen(found), host.plugins(), "", cf, changes.outcomes(found))]
    assert commands[:2] == ["certagent init --apply", "postfix reload"]


def test_what_is_served_is_copied_and_nothing_else(tmp_path: Path) -> None:
    """Its key and its chain, for a file that is not there, is empty, or holds what is not served. Where the key is not
    known, or something else is met than the file says, nothing is.
    """
    rsa, other = chains.make("rsa-2048", NAME), chains.make("rsa-2048", NAME)
    old, pem = tmp_path / "old.pem", tmp_path / "new" / "rsa.pem"
    old.write_bytes(rsa.leaf + rsa.issuer + rsa.key)
    found = replace(POSTFIX, options={"chain_files": {"rsa": str(pem)}}, uses={"smtpd_tls_cert_file": str(old)})
    server = host.made(found, host.plugins())
    assert server
    [used] = host.in_use(found)
    met = Served(NAME, "127.0.0.1", 25, "rsa-2048", replace(LEAF, spki=rsa.spki), 0.01)

    def of(used: InUse, met: Served = met) -> Seeds:
        return seeds.of(found, seen(found, in_use={"postfix": (used,)}, served={"postfix": (met,)}), server)

    for content in (None, b"", other.leaf + other.issuer + other.key):
        if content is not None:
            pem.write_bytes(content)
        assert of(used) == Seeds((used,), ())
        seeds.make(found, server, of(used))
        assert pem.read_bytes() == rsa.key + rsa.leaf + rsa.issuer
        assert stat.S_IMODE(pem.stat().st_mode) == 0o600
        assert of(used) == Seeds((), ())
    pem.unlink()
    assert of(replace(used, key="")).lacking == (str(pem),)
    reloaded = of(used, replace(met, chain=replace(LEAF, spki=other.spki)))
    assert (reloaded.sources, reloaded.lacking) == ((), (str(pem),))
    assert "is not what postfix serves now" in reloaded.why


def test_a_drop_in_is_proposed_where_the_unit_does_not_let_the_files_be_replaced(
    cf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the directories of every file that is written, and of no other; not where the unit has them all."""

    def commands(*found: Found) -> list[str]:
        return [step.command for step in steps.next_steps(seen(*found), host.plugins(), "", cf, [])]

    monkeypatch.setattr(privileges, "DROP_IN", tmp_path / "certagent.service.d" / "init.conf")
    monkeypatch.setattr(steps, "UNITS", (tmp_path / "none", unit(tmp_path)))
    usual = replace(POSTFIX, options={**OPTIONS, "config_dir": "/etc/postfix"})
    assert not any("ReadWritePaths" in step for step in commands(usual))
    sni = {"map": "/etc/postfix/sni", "type": "hash", "names": [NAME]}
    exim = {"files": {"rsa": {"fullchain": "/etc/exim4/exim.crt", "key": "/etc/x y/exim.key"}}, "program": "/opt/exim"}
    both = commands(replace(usual, options={**usual.options, "sni": sni}), Found("exim", "exim", exim, (), (), {}))
    assert both[-1] == "systemctl enable --now certagent"
    made, _, reload = both[-2].rpartition(" && ")
    assert reload == "systemctl daemon-reload"
    subprocess.run(["sh", "-c", made], check=True)
    [drop_in] = tmp_path.rglob("*.conf")
    assert drop_in.read_text() == (
        '[Service]\nReadWritePaths=-/etc/exim4 -/etc/postfix "-/etc/x y"\n'
        "CapabilityBoundingSet=CAP_CHOWN CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID\n"
    )
    owned = replace(POSTFIX, options={**OPTIONS, "config_dir": "/etc/postfix", "group": "mail"})
    assert "CapabilityBoundingSet=CAP_CHOWN CAP_FOWNER'" in commands(owned)[-2]


def test_a_change_that_names_missing_files_waits_for_them(cf: Path, tmp_path: Path) -> None:
    """To name a file that is not there ends TLS: it is made after the first run, and then by the same command."""
    pem = tmp_path / "tls.pem"
    options = {"chain_files": {"ecdsa": str(pem)}}
    found = changing(cf, f"a = 1\nb = {pem}\n", options=options)
    other = cf.with_name("master.cf")
    found = replace(found, changes=(*found.changes, Change(str(other), "", "c = 3\n", "belongs to it")))
    outcomes = changes.apply(found, NOW, lambda: "", Seeds((), (str(pem),)))
    assert [(o.state, o.missing) for o in outcomes] == [("later", (str(pem),))] * 2
    assert cf.read_text() == "a = 1\nb = 2\n"
    assert not other.exists()
    pem.touch()
    assert [o.state for o in changes.apply(found, NOW, lambda: "")] == ["made", "made"]
    assert str(pem) in cf.read_text()
    assert other.exists()


def test_a_symlink_is_not_replaced(cf: Path) -> None:
    """The link stays what it is, and the error says what to do."""
    link = cf.with_name("link.cf")
    link.symlink_to(cf)
    with pytest.raises(Misconfigured, match="is a symlink") as error:
        changes.apply(changing(link), NOW, lambda: "")
    assert error.value.code == "mta.files"
    assert link.is_symlink()
    assert cf.read_text() == "a = 1\nb = 2\n"
    assert sorted(cf.parent.iterdir()) == [link, cf]


# -- the command -----------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, what: Survey, **options: Any) -> int:
    def take(_: object) -> Survey:
        return what

    monkeypatch.setattr(survey, "take", take)
    return command.run(options.get("output"), apply=options.get("apply", False), as_json=options.get("as_json", False))


def test_the_config_alone_is_on_standard_output(
    cf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`certagent init > config.yaml` works; findings, differences and next steps are on standard error."""
    assert run(monkeypatch, seen(changing(cf))) == 0
    out, err = capsys.readouterr()
    assert list(yaml.safe_load(out)) == ["ca", "dns", "certificates"]
    assert "mail server postfix" in err
    assert "+b = 3" in err
    assert "certagent init --apply" in err
    assert err.index("certagent check") < err.index("certagent renew --dry-run")
    assert cf.read_text() == "a = 1\nb = 2\n"


def test_a_file_is_made_but_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--output: a new file that everybody may read; one that exists is an error of usage, and so is a missing place."""
    path = tmp_path / "config.yaml"
    assert run(monkeypatch, seen(POSTFIX), output=path) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert f"certagent check --config {path}" in capsys.readouterr().out
    load(path)
    text = path.read_text()
    for refused in (path, tmp_path / "none" / "config.yaml"):
        with pytest.raises(Misconfigured) as error:
            run(monkeypatch, seen(POSTFIX), output=refused)
        assert error.value.code == "config.file"
        assert error.value.hint
    assert path.read_text() == text


def test_apply_is_for_root(monkeypatch: pytest.MonkeyPatch, cf: Path) -> None:
    """It says so before it looks at anything."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Misconfigured, match="files of root"):
        run(monkeypatch, seen(changing(cf)), apply=True)


def test_a_host_without_a_mail_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misconfigured, match="no mail server was found") as error:
        run(monkeypatch, seen(names=()))
    assert error.value.hint


def test_a_byte_that_is_not_utf_8_is_shown_and_stays_as_it_is(cf: Path) -> None:
    """A comment in Latin-1 at the change."""
    cf.write_bytes(b"# f\xfcr alle")
    before = cf.read_bytes().decode("utf-8", "surrogateescape")
    change = Change(str(cf), before, before + "\na = 1\nb = 3\n", "b must be 3")
    assert "# f\ufffdr alle" in changes.diff(change).encode().decode()
    [made] = changes.apply(replace(POSTFIX, changes=(change,)), NOW, lambda: "")
    assert made.diff == changes.diff(change)
    assert cf.read_bytes() == b"# f\xfcr alle\na = 1\nb = 3\n"


def test_the_difference_shows_no_secret(cf: Path) -> None:
    """Neither one beside the change nor one in it; `--json` has the same text."""
    cf.write_text("ssl_key_password = hunter2\nssl_key = </a\nhide mysql_servers = db/u/hunter2\napi_key hunter2\n")
    after = cf.read_text().replace("</a", "</b").replace("hide mysql_servers = db", "hide mysql_servers = db2")
    shown = changes.diff(Change(str(cf), cf.read_text(), after + "SMTP_TOKEN=hunter2\n", "why"))
    assert "hunter2" not in shown
    for line in ("+ssl_key = </b\n", "-hide mysql_servers = …\n", "+SMTP_TOKEN=…\n"):
        assert line in shown
