"""`certagent dns providers`: what is installed, what each can do, and what it lacks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from certagent.agent.plugins import BUILT_IN, DNS_PROVIDERS
from certagent.checks import providers
from certagent.dns.providers import child
from certagent.dns.providers.protocol import Capabilities
from certagent.report.providers import WIDTH, table

NAMES = tuple(BUILT_IN[DNS_PROVIDERS])


class Elsewhere:
    """A provider of another package, with no words of its own."""

    capabilities = Capabilities(precondition="values", ttl_scope="new", publish_lag_s=7200, writes_per_day=9)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package, as pip installs it: one provider, one that cannot be loaded, one with a name of certagent's."""
    info = tmp_path / "others-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    lines = [f"elsewhere = {__name__}:Elsewhere", "broken = no.such.module:Provider", f"knot = {__name__}:Elsewhere"]
    (info / "entry_points.txt").write_text("\n".join([f"[{DNS_PROVIDERS}]", *lines, ""]))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


@pytest.mark.usefixtures("installed")
def test_providers_of_other_packages_are_shown() -> None:
    """After certagent's own; what is broken is named, and hides no other. A name of certagent's stays certagent's."""
    view = providers.known({"elsewhere": ("example.org.",)})
    assert [one.type for one in view.providers] == [*NAMES, "broken", "elsewhere"]
    *ours, broken, other = view.providers
    assert {one.package for one in ours} == {"certagent"}
    assert (other.package, other.capabilities, other.zones) == ("others", Elsewhere.capabilities, ("example.org.",))
    assert (broken.package, broken.capabilities) == ("others", None)
    assert broken.trouble.startswith("cannot be loaded: ModuleNotFoundError: No module named 'no'")
    text = table(view)
    assert "elsewhere    yes     values  -          new set  2 h       -          9\n  elsewhere (of others)" in text
    assert "  in use for example.org.\n" in text


@pytest.mark.parametrize("kind", ["route53", "lexicon"])
def test_an_extra_that_is_not_installed_is_named_with_the_remedy(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def troubles() -> dict[str, str]:
        return {one.type: one.trouble for one in providers.known({}).providers}

    assert set(troubles().values()) == {""}

    def nowhere(_library: str) -> None: ...

    monkeypatch.setattr(child, "find_spec", nowhere)
    found = troubles()
    assert {name for name, trouble in found.items() if trouble} == {"route53", "lexicon"}
    assert found[kind].endswith(f"-m pip install 'certagent[{kind}]'")
    assert f"pip install 'certagent[{kind}]'" in " ".join(table(providers.known({})).split())


@pytest.mark.usefixtures("installed")
def test_it_fits_a_terminal_of_80_columns() -> None:
    """Whatever is in use."""
    zones = tuple(f"zone{number}.example.org." for number in range(20))
    lines = table(providers.known(dict.fromkeys(NAMES, zones))).splitlines()
    assert max(map(len, lines)) <= WIDTH == 80
    for name in NAMES:
        assert len([line for line in lines if line.split()[:1] == [name] and not line.startswith(" ")]) == 1
