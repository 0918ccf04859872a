"""What `plan` says of a zone whose DNS provider makes waits longer or counts writes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from certagent.agent.plugins import DNS_PROVIDERS, built_in
from certagent.agent.wiring import Wiring
from certagent.agent.zones import asked_zones
from certagent.cli.main import cli
from certagent.config.load import load
from certagent.dns.providers.protocol import Capabilities
from certagent.facts.dns import Answer, Observation
from certagent.lifecycle import events as ev
from certagent.lifecycle.spec import DnsZone
from certagent.report.zones import planned
from tests.dns.fakes.netcup import Netcup
from tests.lifecycle.play import SPEC, TLSA_NAME, Life

ZONE = "example.org."
CONFIG = """\
state_dir: {place}/state
ca: {{test: {{directory: "https://ca.example/dir", agree_tos: true}}}}
dns: {{providers: {{one: {{type: {type}, zones: [example.org]{more}}}}}}}
certificates:
  mx1.example.org:
    ca: test
    dane: {{ttl: 30m}}
    mail_servers:
      mta:
        type: postfix
        chain_files: {{ecdsa: {place}/chain.pem}}
        services: [{{host: mx1.example.org, port: 25, mode: smtp, tlsa: true}}]
"""
LINES = {
    "rfc2136": "",
    "knot": "",
    "powerdns": "",
    "cloudflare": "changes are usually shown within 10 s",
    "desec": "changes are usually shown within 1 min; records get its least TTL, 1 h; 0 of 300 writes a day are used",
    "hetzner": "changes are usually shown within 30 s",
    "gandi": "changes are usually shown within 5 min",
    "ovh": "changes are usually shown within 1 min",
    "netcup": (
        "changes are usually shown within 20 min; all its records have one TTL, which is not known yet: 30 min is"
        " counted with until it is seen"
    ),
    "inwx": "changes are usually shown within 6 min",
    "porkbun": "changes are usually shown within 1 min",
    "route53": "changes are usually shown within 1 min",
    "lexicon": "changes are usually shown within 1 min; a set that is there keeps its TTL",
}
WAITS = {"netcup": "… 19 min 59 s: the DNS provider", "desec": "… 59 s: the DNS provider"}


def config(place: Path, kind: str, more: str = "") -> Path:
    path = place / "certagent.yaml"
    path.touch(0o600)
    path.write_text(CONFIG.format(place=place, type=kind, more=more))
    return path


@pytest.mark.parametrize("kind", LINES)
def test_a_plan_says_what_the_provider_of_the_zone_makes_longer(tmp_path: Path, kind: str) -> None:
    """For each provider that takes TLSA, above the waits that come of it. Nobody is asked, and no token is read."""
    done = CliRunner().invoke(cli, ["plan", "--config", str(config(tmp_path, kind))])
    assert done.exit_code == 0, done.output
    said = [line for line in done.output.splitlines() if line.startswith("  zone ")]
    assert said == ([f"  zone {ZONE}: {LINES[kind]}"] if LINES[kind] else [])
    assert WAITS.get(kind, "") in done.output


def test_every_provider_that_states_what_it_can_is_here() -> None:
    able = {name: one.capabilities for name, one in built_in(DNS_PROVIDERS)}
    assert set(LINES) == {
        name for name, one in able.items() if isinstance(one, Capabilities) and not one.challenges_only
    }


def test_the_writes_of_all_certificates_are_counted(tmp_path: Path) -> None:
    path = config(tmp_path, "desec")
    journal = Wiring(load(path)).journal
    for name in ("mx1.example.org", "another.example.org"):
        for _ in range(3):
            journal.append(name, ev.Writing(zone=ZONE, per_day=300))
    done = CliRunner().invoke(cli, ["plan", "--config", str(path)])
    assert "; 6 of 300 writes a day are used\n" in done.output


def test_the_zones_one_ttl_is_known_when_records_are_seen() -> None:
    """It is the wait for caches."""
    spec = replace(SPEC, zones=(DnsZone(ZONE, ttl_scope="zone"),))
    life = Life(spec)
    observation = Observation(ZONE, TLSA_NAME, {"ns1": Answer(frozenset({"3 1 1 aa"}), 86400)}, "secure")
    life.happens(ev.Observed(tlsa_name=TLSA_NAME, observation=observation))
    [found] = planned(spec, life.state, (), life.now)
    assert (found.limits, found.ttl_s) == (("all its records have one TTL, 1 d",), 86400)


def test_the_zones_one_ttl_is_known_when_the_service_was_asked(tmp_path: Path) -> None:
    """As in a rehearsal; also before there are records."""
    fake = Netcup(tmp_path)
    fake.ttl_s = 86400
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("customernumber = 12345\napikey = key\napipassword = the-token-of-the-test\n")
    more = f", url: '{fake.url}', token_file: {token}, ca_file: {fake.ca_file}"
    try:
        wiring = Wiring(load(config(tmp_path, "netcup", more)))
        [provider] = wiring.providers()
        assert provider.get(TLSA_NAME, "TLSA") is None
        assert asked_zones(wiring.providers()) == (
            DnsZone(ZONE, timedelta(minutes=20), ttl_floor_s=86400, ttl_scope="zone"),
        )
        spec = replace(wiring.spec("mx1.example.org"), zones=asked_zones(wiring.providers()))
        [found] = planned(spec, Life(spec).state, (), Life(spec).now)
        assert found.limits[1] == "all its records have one TTL, 1 d"
    finally:
        fake.stop()
