"""The wiring: which plug-ins there are, and who writes which zone."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from certagent.agent.plugins import BUILT_IN, DNS_PROVIDERS, MAIL_SERVERS, built_in
from certagent.agent.wiring import Wiring
from certagent.agent.zones import Zones
from certagent.config.load import load
from certagent.dns.providers.protocol import Capabilities, Provider, RdType, RRset
from certagent.errors import Misconfigured

ROOT = Path(__file__).resolve().parents[1]
TEXT = """\
state_dir: {place}/state
ca: {{test: {{directory: "https://ca.example/dir", agree_tos: true}}}}
dns:
  providers:
    one: {{type: command, program: /bin/true, zones: [example.org]}}
    two: {{type: {two}, program: /bin/true, zones: [sub.example.org, example.net]}}
certificates:
  mx1.example.org:
    ca: test
    mail_servers:
      mta:
        type: {mta}
        chain_files: {{ecdsa: {place}/chain.pem}}
        services: [{{host: mx1.example.org, port: 25, mode: smtp}}]
"""

HEAD = """\
state_dir: {place}/state
ca: {{test: {{directory: "https://ca.example/dir", agree_tos: true}}}}
dns: {{providers: {{all: {{type: command, program: /bin/true, zones: [example]}}}}}}
certificates:
"""


def wiring(place: Path, two: str = "command", mta: str = "postfix") -> Wiring:
    path = place / "certagent.yaml"
    path.touch(0o600)
    path.write_text(TEXT.format(place=place, two=two, mta=mta))
    return Wiring(load(path))


class Fake:
    """A provider of some zones."""

    capabilities = Capabilities()

    def __init__(self, *zones: str) -> None:
        self.zones = zones

    def get(self, name: str, rdtype: RdType) -> RRset | None: ...
    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None: ...
    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None: ...


FOLDERS = {DNS_PROVIDERS: "dns/providers", MAIL_SERVERS: "mta"}


def test_a_plug_in_is_registered_in_one_line() -> None:
    """Every class with options in the folders of plug-ins is in BUILT_IN, and nothing else has to name it."""
    for group, folder in FOLDERS.items():
        there = {
            f"{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}:{one.name}"
            for path in (ROOT / "certagent" / folder).rglob("*.py")
            for one in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(one, ast.ClassDef) and one.name != "Worker"  # a plug-in's own part in a child process
            if any(ast.unparse(line) == "Options = Options" for line in one.body)
        }
        assert set(BUILT_IN[group].values()) == there
    assert all(hasattr(plugin, "Options") for group in FOLDERS for _, plugin in built_in(group))
    assert "entry-points" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("_25._tcp.mx1.example.org.", 0),
        ("example.org.", 0),
        ("_25._tcp.mx1.sub.example.org.", 1),
        ("sub.example.org.", 1),
        ("notsub.example.org.", 0),
        ("a.example.net.", 1),
    ],
)
def test_the_longest_zone_wins(name: str, writer: int) -> None:
    """A provider of the more specific zone writes what is in it, whatever the order in the file."""
    providers: list[Provider] = [Fake("example.org."), Fake("sub.example.org.", "example.net.")]
    for order in (providers, providers[::-1]):
        zone = next(z for z in ("sub.example.org.", "example.org.", "example.net.") if f".{name}".endswith(f".{z}"))
        with Zones(lambda order=order: order).writing(zone, name) as found:
            assert found is providers[writer]


@pytest.mark.parametrize("name", ["example.com.", "myexample.org.", "org."])
def test_a_name_that_nobody_writes_is_reported_with_the_remedy(name: str) -> None:
    """A label is a whole label: myexample.org is not in example.org."""
    with (
        pytest.raises(Misconfigured) as caught,
        Zones(lambda: [Fake("example.org.")]).writing("the.zone.", name),
    ):
        pass
    assert caught.value.code == "dns.no_provider"
    assert name in caught.value.detail
    assert "the.zone." in caught.value.hint


def test_a_zone_below_the_configured_one_is_not_written_from_above() -> None:
    """What is written above a zone cut is accepted, and seen by nobody (RFC 1034 section 4.2)."""
    zones = Zones(lambda: [Fake("example.org.", "example.net.")])
    with (
        pytest.raises(Misconfigured, match="start of authority") as caught,
        zones.writing("a.example.org.", "b.a.example.org."),
    ):
        pass
    assert caught.value.code == "dns.no_provider"
    assert "add a.example.org. to a provider" in caught.value.hint


def test_a_part_of_a_zone_may_be_listed() -> None:
    """A program may be given a few names only; where no zone is found, the root is said to be it."""
    only = Fake("_acme-challenge.example.org.")
    for zone in ("example.org.", "."):
        with Zones(lambda: [only]).writing(zone, "_acme-challenge.example.org.") as found:
            assert found is only


def test_one_writer_at_a_time_in_a_zone() -> None:
    """Writes to one zone never overlap; to two zones they may."""
    zones = Zones(lambda: [Fake("example.org.", "example.net.")])
    with zones.writing("example.org.", "a.example.org."):
        lock = zones._locks["example.org."]  # pyright: ignore[reportPrivateUsage]
        assert lock.locked()
        with zones.writing("example.net.", "a.example.net."):
            pass
    assert not lock.locked()


def test_two_providers_each_with_its_options(tmp_path: Path) -> None:
    """Both are made from their own sections, in canonical names."""
    found = wiring(tmp_path).providers()
    assert [p.zones for p in found] == [("example.org.",), ("sub.example.org.", "example.net.")]


@pytest.mark.parametrize(
    ("changes", "place", "known"),
    [
        (
            {"two": "route66"},
            ":6: dns.providers.two.type: unknown type 'route66'",
            "cloudflare, command, desec",
        ),
        ({"mta": "qmail"}, ":12: certificates.mx1.example.org.mail_servers.mta.type: unknown type 'qmail'", "postfix"),
    ],
)
def test_an_unknown_plug_in_is_reported_with_those_that_are_known(
    tmp_path: Path, changes: dict[str, str], place: str, known: str
) -> None:
    """With file, line and key; nothing was made."""
    with pytest.raises(Misconfigured) as caught:
        wiring(tmp_path, **changes).check()
    assert place in caught.value.detail
    assert known in caught.value.hint
    assert not (tmp_path / "state").exists()


def refused(text: str, place: Path) -> Misconfigured:
    path = place / "shared.yaml"
    path.touch(0o600)
    path.write_text(HEAD.format(place=place) + text)
    with pytest.raises(Misconfigured) as caught:
        Wiring(load(path)).check()
    return caught.value


def entry(name: str, options: str) -> str:
    return f"""\
  {name}.example:
    ca: test
    mail_servers:
      mta: {{{options}, services: [{{host: mx1.example.org, port: 25, mode: smtp}}]}}
"""


def command(path: object, key: str = "files") -> str:
    return f"type: command, {key}: {{ecdsa: {path}}}, reload: [/bin/true]"


@pytest.mark.parametrize(
    ("spelling", "follow"),
    [
        ("/tls/chain.pem", False),
        ("//tls/chain.pem", False),
        ("/tls/../tls/chain.pem", False),
        ("/tls/new.pem", False),
        ("/tls/new/../new.pem", False),
        ("/link.pem", True),
        ("/other/chain.pem", True),
        ("/other/new.pem", True),
        ("/tls/hard.pem", False),
    ],
)
def test_two_names_of_one_file_are_refused_whatever_their_spelling(tmp_path: Path, spelling: str, follow: bool) -> None:
    """Also of a file that is not there yet; else the swap of one server would go around the gates of the other."""
    tls = tmp_path / "tls"
    tls.mkdir()
    (tls / "chain.pem").touch()
    (tls / "hard.pem").hardlink_to(tls / "chain.pem")
    (tmp_path / "link.pem").symlink_to("tls/chain.pem")
    (tmp_path / "other").symlink_to("tls")
    first = tls / ("new.pem" if "new" in spelling else "chain.pem")
    other = command(f"{tmp_path}{spelling}") + (", follow_links: true" if follow else "")
    error = refused(entry("one", command(first)) + entry("two", other), tmp_path)
    assert f"{tmp_path}/shared.yaml:12: certificates.two.example.mail_servers.mta: " in error.detail
    assert "is written for certificates.one.example.mail_servers.mta already" in error.detail
    assert error.hint == "give each its own file, or list the services of both under one mail server"


EXIM = "type: exim, files: {{ecdsa: {0}/{1}.pem}}, list: {0}/{2}"
SENDMAIL = "type: sendmail, files: {{ecdsa: {0}/{1}.pem}}, issuers: {0}/{2}"
SNI = "type: postfix, chain_files: {{ecdsa: {0}/{1}.pem}}, sni: {{map: {0}/{2}, names: [{3}]}}"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (EXIM.format("/tls", "a", "x.list"), EXIM.format("/tls", "b", "./x.list")),
        (EXIM.format("/tls", "a", "x.list"), command("/tls/x.list")),
        (EXIM.format("/tls", "a", "x.list"), command("/tls/a.pem.2")),
        (SENDMAIL.format("/tls", "a", "ca.pem"), SENDMAIL.format("/tls", "b", "ca.pem")),
        (SENDMAIL.format("/tls", "a", "ca.pem"), command("//tls/ca.pem")),
        (SNI.format("/tls", "a", "map", "a.example"), SNI.format("/tls", "b", "map", "a.example")),
        (SNI.format("/tls", "a", "map", "a.example"), command("/tls/map")),
        (command("/tls/map.db"), SNI.format("/tls", "a", "map", "a.example")),
    ],
)
def test_every_file_counts_that_a_server_writes(tmp_path: Path, one: str, two: str) -> None:
    """Lists, issuers and maps, too."""
    error = refused(entry("one", one) + entry("two", two), tmp_path)
    assert "is written for certificates.one.example.mail_servers.mta already" in error.detail


def test_two_certificates_share_a_map_of_different_names(tmp_path: Path) -> None:
    """Each has its own lines of it; one of them has nothing else."""
    path = tmp_path / "shared.yaml"
    path.touch(0o600)
    one, two = (SNI.format("/tls", name, "map", f"{name}.example") for name in "ab")
    two = two.replace("names:", "only: true, names:")
    path.write_text(HEAD.format(place=tmp_path) + entry("one", one) + entry("two", two))
    Wiring(load(path)).check()


def test_a_link_that_comes_later_is_seen_at_the_installation(tmp_path: Path) -> None:
    """`check` of the edges is asked right before it; the other certificates go on."""
    path = tmp_path / "shared.yaml"
    path.touch(0o600)
    names = [tmp_path / f"{name}.pem" for name in "abc"]
    path.write_text(
        HEAD.format(place=tmp_path)
        + "".join(entry(file.stem, f"{command(file)}, follow_links: true") for file in names)
    )
    made = Wiring(load(path))
    made.check()
    names[1].symlink_to(names[0])
    for name, shared in (("a", True), ("b", True), ("c", False)):
        edges = made.edges(f"{name}.example")
        if shared:
            with pytest.raises(Misconfigured, match="they are one file"):
                edges.check("mta", frozenset())
        else:
            edges.check("mta", frozenset())


def test_the_state_directory_is_private(tmp_path: Path) -> None:
    """0700, made when it is first needed; one that others may write into is refused."""
    made = wiring(tmp_path).state_dir()
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o770)
    with pytest.raises(Misconfigured, match="others may write into"):
        wiring(tmp_path).state_dir()


def test_a_second_configuration_keeps_the_journal_and_the_lock(tmp_path: Path) -> None:
    """A daemon that reads its file again has one journal and one lock, not two that shut each other out."""
    first = wiring(tmp_path)
    store, lock = first.store, first.lock
    second = Wiring(first.config, first)
    assert second.store is store
    assert second.lock is lock
    store.close()


def test_a_ca_is_found_by_its_directory(tmp_path: Path) -> None:
    """One that is configured for any certificate can be asked, by the account of its name; no other can."""
    text = TEXT.replace("ca: {{test:", 'ca: {{old: {{directory: "https://old.example/dir"}}, test:')
    path = tmp_path / "certagent.yaml"
    path.touch(0o600)
    path.write_text(text.format(place=tmp_path, two="command", mta="postfix"))
    made = Wiring(load(path))
    edges = made.edges("mx1.example.org")
    assert edges.issuer("https://old.example/dir") is made.issuer("old", "https://old.example/dir")
    assert edges.issuer("https://ca.example/dir") is made.issuer("test", "https://ca.example/dir")
    with pytest.raises(Misconfigured) as caught:
        edges.issuer("https://gone.example/dir")
    assert caught.value.code == "ca.other"


def test_two_entries_for_what_all_clients_of_one_server_get_are_refused(tmp_path: Path) -> None:
    """Each would tell the operator to undo the other; of two algorithms both can be served."""
    path = tmp_path / "shared.yaml"
    path.touch(0o600)
    same, other = ("type: postfix, chain_files: {ecdsa: /tls/2.pem}", "type: postfix, chain_files: {rsa: /tls/2.pem}")
    first = entry("one", "type: postfix, chain_files: {ecdsa: /tls/1.pem}")
    path.write_text(HEAD.format(place=tmp_path) + first + entry("two", other))
    Wiring(load(path)).check()
    path.write_text(HEAD.format(place=tmp_path) + first + entry("two", same))
    with pytest.raises(Misconfigured, match=r"the ecdsa certificate of all clients is that of certificates\.one\."):
        Wiring(load(path)).check()


ACME_DNS = """\
state_dir: {place}/state
ca: {{test: {{directory: "https://ca.example/dir", agree_tos: true}}}}
dns:
  providers:
    challenges:
      {{type: acme-dns, url: "https://auth.example.org", token_file: {place}/accounts, zones: [{zone}]}}
{more}
certificates:
  mx1.example.org:
    ca: test
    mail_servers:
      mta:
        type: postfix
        chain_files: {{ecdsa: {place}/chain.pem}}
        services: [{{host: mx1.example.org, port: 25, mode: smtp, tlsa: {tlsa}}}]
"""
CLOUDFLARE = "    all: {{type: cloudflare, token_file: {place}/token, zones: [{zone}]}}"


def with_acme_dns(place: Path, *, tlsa: bool, zone: str = "auth.example.org", other: str = "") -> Wiring:
    for name, text in (("accounts", "{}"), ("token", "token"), ("certagent.yaml", "")):
        (place / name).touch(0o600)
        (place / name).write_text(text)
    more = CLOUDFLARE.format(place=place, zone=other) if other else ""
    text = ACME_DNS.format(place=place, zone=zone, more=more, tlsa=str(tlsa).lower())
    (place / "certagent.yaml").write_text(text)
    return Wiring(load(place / "certagent.yaml"))


@pytest.mark.parametrize(("zone", "other"), [("auth.example.org", ""), ("mx1.example.org", "example.org")])
def test_tlsa_records_that_only_a_provider_for_challenges_could_write(tmp_path: Path, zone: str, other: str) -> None:
    """It is refused with its place in the file, before anything is done."""
    with pytest.raises(Misconfigured) as caught:
        with_acme_dns(tmp_path, tlsa=True, zone=zone, other=other).check()
    assert "certificates.mx1.example.org: _25._tcp.mx1.example.org. needs TLSA records" in caught.value.detail
    assert "takes challenges only" in caught.value.detail
    assert "add a provider that writes the zone" in caught.value.hint


@pytest.mark.parametrize(("tlsa", "other"), [(False, ""), (True, "example.org"), (True, "example.net")])
def test_a_provider_for_challenges_beside_another(tmp_path: Path, tlsa: bool, other: str) -> None:
    """A CNAME may lead the TLSA name to the other one, and that is seen later."""
    with_acme_dns(tmp_path, tlsa=tlsa, other=other).check()
