"""The wiring: which plug-ins there are, and who writes which zone."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from certagent.agent.wiring import BUILT_IN, Wiring, Zones
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


def test_what_ships_is_what_is_declared() -> None:
    """BUILT_IN (found without a search) and the entry points of pyproject.toml are the same, and all can be loaded."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert declared == BUILT_IN
    for group in BUILT_IN.values():
        for place in group.values():
            module, _, attribute = place.partition(":")
            plugin = getattr(import_module(module), attribute)
            assert hasattr(plugin, "Options")


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
        with Zones(lambda order=order: order).writing("zone.", name) as found:
            assert found is providers[writer]


@pytest.mark.parametrize("name", ["example.com.", "myexample.org.", "org."])
def test_a_name_that_nobody_writes_is_told_with_the_remedy(name: str) -> None:
    """A label is a whole label: myexample.org is not in example.org."""
    with (
        pytest.raises(Misconfigured) as caught,
        Zones(lambda: [Fake("example.org.")]).writing("the.zone.", name),
    ):
        pass
    assert caught.value.code == "dns.no_provider"
    assert name in caught.value.detail
    assert "the.zone." in caught.value.hint


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
        ({"two": "route66"}, ":6: dns.providers.two.type: unknown type 'route66'", "command, rfc2136"),
        ({"mta": "qmail"}, ":12: certificates.mx1.example.org.mail_servers.mta.type: unknown type 'qmail'", "postfix"),
    ],
)
def test_an_unknown_plug_in_is_told_with_those_that_are_known(
    tmp_path: Path, changes: dict[str, str], place: str, known: str
) -> None:
    """With file, line and key; nothing was made."""
    with pytest.raises(Misconfigured) as caught:
        wiring(tmp_path, **changes).check()
    assert place in caught.value.detail
    assert known in caught.value.hint
    assert not (tmp_path / "state").exists()


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
    journal, lock = first.journal, first.lock
    second = Wiring(first.config, first)
    assert second.journal is journal
    assert second.lock is lock
    journal.close()
