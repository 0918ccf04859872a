"""The programs in hooks/ on a real server: a zone file that BIND signs, and scripts that write by nsupdate."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from certagent.dns.providers.command import Command, Options
from certagent.dns.providers.protocol import Changed, RdType, RRset
from certagent.errors import Misconfigured, Transient
from certagent.testing.dns_provider import DnsCheck, dns_provider_suite
from tests.e2e.site import Site
from tests.lab.addresses import PRIMARY, SPARE, ZONE
from tests.lab.dns import Dns, records
from tests.lab.pebble import Pebble
from tests.lab.process import Server
from tests.lab.wait import until

HOOKS = Path(__file__).resolve().parents[2] / "hooks"
A, B = f"3 1 1 {'a' * 64}", f"3 1 1 {'b' * 64}"
FILE_ZONE = "file.example"
each_check = pytest.mark.parametrize("check", dns_provider_suite, ids=lambda check: check.__name__)


def hook(name: str, *args: str | Path, zone: str = ZONE) -> Command:
    return Command(Options(program=str(HOOKS / name), args=tuple(map(str, args)), zones=(zone,)))


def program(path: Path, text: str, interpreter: str = "/bin/sh") -> Path:
    path.write_text(f"#!{interpreter}\n{text}")
    path.chmod(0o755)
    return path


# -- a zone file -------------------------------------------------------------------------------------------------------

NAMED = """\
key "rndc-key" {{ algorithm hmac-sha256; secret "Y2VydGFnZW50"; }};
controls {{ inet {address} port 953 allow {{ 127.0.0.0/8; }} keys {{ "rndc-key"; }}; }};
options {{
    directory "{place}"; pid-file "named.pid"; session-keyfile "session.key"; managed-keys-directory ".";
    listen-on port 53 {{ {address}; }}; listen-on-v6 {{ none; }};
    recursion no; dnssec-validation no; empty-zones-enable no; notify no;
}};
zone "{zone}" {{
    type primary; file "{place}/{zone}.zone"; dnssec-policy default; inline-signing yes; key-directory "{place}";
}};
"""
ZONE_FILE = """\
$TTL 300
@ IN SOA ns.file.example. hostmaster.file.example. (
    7        ; serial
    3600 600 86400 60 )
@ IN NS ns.file.example.
ns IN A 127.0.0.20
mx1 IN A 127.0.0.10
$INCLUDE {place}/{zone}.include
"""


class Signed:
    """BIND with a zone from a file, which it signs by itself."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.include = place / f"{FILE_ZONE}.include"
        self.zone_file = place / f"{FILE_ZONE}.zone"
        self.include.touch(0o644)
        self.zone_file.write_text(ZONE_FILE.format(place=place, zone=FILE_ZONE))
        self.zone_file.chmod(0o640)
        (place / "named.conf").write_text(NAMED.format(place=place, zone=FILE_ZONE, address=SPARE))
        self.key = place / "rndc.key"
        self.key.touch(0o600)
        self.key.write_text('key "rndc-key" { algorithm hmac-sha256; secret "Y2VydGFnZW50"; };\n')
        self.server = Server(place / "named.log", "named", "-4", "-n", "1", "-f", "-c", place / "named.conf")

    @property
    def reload(self) -> list[str]:
        return [str(shutil.which("rndc")), "-s", SPARE, "-k", str(self.key), "reload"]

    def provider(self, *command: str) -> Command:
        args = ("--serial", self.place / "{zone}.zone", self.place, *(command or self.reload))
        return hook("dns-zonefile", *args, zone=FILE_ZONE)


@pytest.fixture
def signed(place: Path, lab_dns: Dns) -> Iterator[Signed]:
    signed = Signed(place)
    until(lambda: answers(lab_dns, FILE_ZONE, "SOA"), 10, "the zone is served")
    yield signed
    signed.server.stop()


def answers(lab_dns: Dns, name: str, rdtype: str) -> set[str]:
    """The values and types of what the signing server answers."""
    try:
        message = lab_dns.ask(SPARE, name, rdtype, 1)
    except Exception:
        return set()
    return {rrset.rdtype.name for rrset in message.answer} | {one.to_text() for one in records(message, rdtype)}


class TestZoneFile:
    @each_check
    def test_it_keeps_the_rules(self, signed: Signed, check: DnsCheck) -> None:
        check(signed.provider(), f"{FILE_ZONE}.")

    def test_it_is_served_and_signed(self, signed: Signed, lab_dns: Dns) -> None:
        """The serial went up, and the zone file has its owner, its mode and every other byte."""
        name = f"_25._tcp.mx1.{FILE_ZONE}."
        before = signed.zone_file.read_text()
        signed.provider().add(name, "TLSA", frozenset({A, B}), 600, None)
        until(lambda: {A, B, "TLSA", "RRSIG"} <= answers(lab_dns, name, "TLSA"), 10, "both records, signed")
        assert signed.zone_file.read_text() == before.replace("7        ; serial", "8        ; serial")
        assert signed.zone_file.stat().st_mode & 0o777 == 0o640
        provider = signed.provider()
        provider.remove(name, "TLSA", frozenset({A, B}), provider.get(name, "TLSA"))
        until(lambda: A not in answers(lab_dns, name, "TLSA"), 10, "they are gone")

    def test_a_command_that_failed_is_run_again(self, signed: Signed, lab_dns: Dns) -> None:
        """By the next call, also if that finds every record in its place."""
        name = f"_25._tcp.mx1.{FILE_ZONE}."
        flag = signed.place / "works"
        command = program(
            signed.place / "sign", f'echo "no key" >&2\n[ -e {flag} ] && exec {" ".join(signed.reload)} "$1"'
        )
        provider = signed.provider(str(command))
        with pytest.raises(Transient, match=r"no key.*dns\.unknown_outcome"):
            provider.add(name, "TLSA", frozenset({A}), 600, None)
        flag.touch()
        provider.add(name, "TLSA", frozenset({A}), 600, provider.get(name, "TLSA"))
        until(lambda: A in answers(lab_dns, name, "TLSA"), 10, "the record is served")

    def test_what_somebody_else_wrote_is_refused(self, signed: Signed) -> None:
        """Neither read as it may be meant, nor lost."""
        edited = "mx1 IN A 192.0.2.1\n"
        signed.include.write_text(edited)
        with pytest.raises(Misconfigured, match=r"not written by this program.*dns\.refused"):
            signed.provider().add(f"x.{FILE_ZONE}.", "TXT", frozenset({"x"}), 60, None)
        assert signed.include.read_text() == edited

    def test_a_zone_file_without_a_marked_serial(self, signed: Signed) -> None:
        signed.zone_file.write_text(signed.zone_file.read_text().replace("; serial", ""))
        with pytest.raises(Misconfigured, match="0 lines with a number"):
            signed.provider().add(f"x.{FILE_ZONE}.", "TXT", frozenset({"x"}), 60, None)

    def test_a_zone_without_its_file(self, signed: Signed) -> None:
        signed.include.unlink()
        with pytest.raises(Misconfigured, match="is not there") as caught:
            signed.provider().get(f"x.{FILE_ZONE}.", "TXT")
        assert "install -m 644" in caught.value.hint


# -- by hand -----------------------------------------------------------------------------------------------------------


class Person:
    """Makes the records that it is asked for, and tries again; takes them from the error, as a person would."""

    zones = (f"{ZONE}.",)

    def __init__(self, lab_dns: Dns) -> None:
        self._dns = lab_dns
        self._hook = hook("dns-manual", SPARE, PRIMARY)
        self.capabilities = self._hook.capabilities
        self.asked: list[str] = []

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        return self._hook.get(name, rdtype)

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        try:
            self._hook.add(name, rdtype, values, ttl_s, was)
        except Changed:
            raise
        except Transient as error:
            self.asked.append(error.detail)
            kept = was.values if was else frozenset[str]()
            self._edit(name, rdtype, kept | {v.lower() if rdtype == "TLSA" else v for v in values}, ttl_s)
            self._hook.add(name, rdtype, values, ttl_s, self.get(name, rdtype))

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        try:
            self._hook.remove(name, rdtype, values, was)
        except Changed:
            raise
        except Transient as error:
            self.asked.append(error.detail)
            assert was
            self._edit(name, rdtype, was.values - {v.lower() if rdtype == "TLSA" else v for v in values}, was.ttl_s)
            self._hook.remove(name, rdtype, values, self.get(name, rdtype))

    def _edit(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        texts = [value if rdtype == "TLSA" else self._quoted(value) for value in sorted(values)]
        self._dns.update(name, rdtype, texts, ttl=ttl_s)

    def _quoted(self, value: str) -> str:
        return " ".join(f'"{value[at : at + 255]}"' for at in range(0, len(value), 255))


class TestManual:
    @each_check
    def test_it_keeps_the_rules(self, lab_dns: Dns, check: DnsCheck) -> None:
        """As far as a person does what the error says."""
        check(Person(lab_dns), f"{ZONE}.")

    def test_the_error_has_the_record(self, lab_dns: Dns) -> None:
        """A line for the zone file, whole; once it is there, the same call succeeds."""
        name = f"_25._tcp.by-hand.{ZONE}."
        provider = hook("dns-manual", PRIMARY)
        with pytest.raises(Transient, match=r"dns\.unknown_outcome") as caught:
            provider.add(name, "TLSA", frozenset({A}), 3600, provider.get(name, "TLSA"))
        assert f"add this record by hand: {name} 3600 IN TLSA {A}" in caught.value.detail
        assert "certagent renew" in caught.value.hint
        lab_dns.update(name, "TLSA", [A], ttl=3600)
        provider.add(name, "TLSA", frozenset({A}), 3600, provider.get(name, "TLSA"))
        with pytest.raises(Transient, match=re.escape(f"remove this record by hand: {name} 3600 IN TLSA {A}")):
            provider.remove(name, "TLSA", frozenset({A}), provider.get(name, "TLSA"))

    def test_a_first_certificate_and_its_records(self, place: Path, lab_dns: Dns, pebble: Pebble) -> None:
        """A person does what `status` shows, one record at a time, and runs `renew` again; nothing else is needed."""
        wanted = re.compile(r'FAILING .* (add|remove) this record by hand: (\S+) \d+ IN (\w+) ("[^"]*"|3 1 1 \w{64})')
        with Site(place, lab_dns, pebble) as site:
            site.provider.clear()
            site.provider |= {
                "type": "command",
                "program": str(HOOKS / "dns-manual"),
                "args": [PRIMARY],
                "zones": [ZONE],
            }
            site.write()
            done: list[tuple[str, str]] = []
            while site.run("renew", code=None).code:
                assert len(done) < 5
                found = wanted.findall(site.run("status", code=None).out)
                assert found
                for what, name, rdtype, text in found:
                    there = set(lab_dns.values(PRIMARY, name, rdtype))
                    lab_dns.update(name, rdtype, sorted(there | {text} if what == "add" else there - {text}))
                    done.append((what, rdtype))
            assert sorted(done) == [("add", "TLSA"), ("add", "TLSA"), ("add", "TXT"), ("remove", "TXT")]
            assert site.run("status").code == 0

    def test_a_server_that_is_none_of_the_zone(self, lab_dns: Dns) -> None:
        """A resolver knows, and may know something old."""
        with pytest.raises(Transient, match=r"no authoritative answer.*dns\.unreachable"):
            hook("dns-manual", "127.0.0.1").get(f"x.{ZONE}.", "TXT")


# -- scripts of other ACME clients -------------------------------------------------------------------------------------

UPDATE = """\
update() {{
    printf 'server {server}\\nzone {zone}\\nupdate %s\\nsend\\n' "$1" | nsupdate -k "$LAB_KEY"
}}
"""
LEGO = (
    UPDATE
    + """\
case $1 in
present) update "add $2 60 TXT \\"$3\\"" ;;
cleanup) update "delete $2 TXT \\"$3\\"" ;;
*) echo "unknown: $1" >&2; exit 1 ;;
esac
"""
)
CERTBOT_AUTH = (
    UPDATE
    + """\
update "add _acme-challenge.$CERTBOT_DOMAIN. 60 TXT \\"$CERTBOT_VALIDATION\\"" && echo "for cleanup"
"""
)
CERTBOT_CLEANUP = (
    UPDATE
    + """\
[ "$CERTBOT_AUTH_OUTPUT" = "for cleanup" ] || exit 1
update "delete _acme-challenge.$CERTBOT_DOMAIN. TXT \\"$CERTBOT_VALIDATION\\""
"""
)
ACME_SH = (
    UPDATE
    + """\
dns_lab_add() {{
    LAB_KEY="${{LAB_KEY:-$(_readaccountconf_mutable LAB_KEY)}}"
    if [ -z "$LAB_KEY" ]; then
        _err "LAB_KEY is not set"
        return 1
    fi
    _saveaccountconf_mutable LAB_KEY "$LAB_KEY"
    _info "adding $1"
    update "add $1. 60 TXT \\"$2\\""
}}
dns_lab_rm() {{
    LAB_KEY="$(_readaccountconf_mutable LAB_KEY)"
    update "delete $1. TXT \\"$2\\""
}}
"""
)


@pytest.fixture(params=["dns-lego-exec", "dns-certbot-manual", "dns-acme-sh"])
def adapter(request: pytest.FixtureRequest, lab_dns: Dns, place: Path) -> Command:
    """Each with a script that writes to the lab's BIND."""
    env = place / "env"
    env.touch(0o600)
    env.write_text(f"# of the test\nLAB_KEY={lab_dns.keyfile('dane-key')}\n")
    where = {"server": PRIMARY, "zone": ZONE}
    more: list[str | Path] = []
    match request.param:
        case "dns-lego-exec":
            script = program(place / "hook", LEGO.format(**where))
        case "dns-certbot-manual":
            script = program(place / "auth", CERTBOT_AUTH.format(**where))
            more = ["--cleanup", program(place / "cleanup", CERTBOT_CLEANUP.format(**where))]
        case _:
            script = program(place / "dns_lab.sh", ACME_SH.format(**where))
            more = ["--conf", place / "account.conf"]
    return hook(request.param, "--env", env, "--state", place / "state.json", *more, script)


class TestAdapters:
    def test_challenges_of_two_orders(self, adapter: Command, lab_dns: Dns) -> None:
        """Two values beside one of another program; each is removed alone, and what is there is known without DNS."""
        name = f"_acme-challenge.adapter.{ZONE}."
        lab_dns.update(name, "TXT", ['"another"'])
        adapter.add(name, "TXT", frozenset({"one"}), 60, adapter.get(name, "TXT"))
        adapter.add(name, "TXT", frozenset({"two-_x"}), 60, adapter.get(name, "TXT"))
        assert set(lab_dns.values(PRIMARY, name, "TXT")) == {'"another"', '"one"', '"two-_x"'}
        found = adapter.get(name, "TXT")
        assert found
        assert found.values == {"one", "two-_x"}
        adapter.remove(name, "TXT", frozenset({"one"}), found)
        adapter.remove(name, "TXT", frozenset({"two-_x", "never there"}), adapter.get(name, "TXT"))
        assert lab_dns.values(PRIMARY, name, "TXT") == ['"another"']
        assert adapter.get(name, "TXT") is None

    def test_a_script_that_fails(self, adapter: Command, lab_dns: Dns, place: Path) -> None:
        """Its last words are shown; the value is not there, is tried again, and is removed all the same."""
        name = f"_acme-challenge.fails.{ZONE}."
        (place / "env").write_text("LAB_KEY=/nowhere\n")
        with pytest.raises(Transient, match="update failed: REFUSED") as caught:
            adapter.add(name, "TXT", frozenset({"one"}), 60, None)
        assert caught.value.code == "dns.unknown_outcome"
        assert adapter.get(name, "TXT") is None
        assert "one" in json.loads((place / "state.json").read_text())[name]["values"]
        (place / "env").write_text(f"LAB_KEY={lab_dns.keyfile('dane-key')}\n")
        adapter.add(name, "TXT", frozenset({"one"}), 60, None)
        assert lab_dns.values(PRIMARY, name, "TXT") == ['"one"']
        adapter.remove(name, "TXT", frozenset({"one"}), adapter.get(name, "TXT"))
        assert not lab_dns.values(PRIMARY, name, "TXT")

    def test_no_tlsa(self, adapter: Command) -> None:
        """Such scripts cannot; the operator learns what to do."""
        with pytest.raises(Misconfigured, match=r"challenge records \(TXT\) and nothing else.*dns\.refused") as caught:
            adapter.get(f"_25._tcp.mx1.{ZONE}.", "TLSA")
        assert "another provider" in caught.value.hint
