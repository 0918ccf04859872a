"""Every command on a real host: what it prints, in words and as JSON, and how it ends."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.site import CHALLENGE, NAME, TLSA_NAME, Site
from tests.lab import certificates
from tests.lab.addresses import ZONE
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble
from tests.lab.wait import until


@pytest.fixture
def site(place: Path, lab_dns: Dns, pebble: Pebble) -> Iterator[Site]:
    with Site(place, lab_dns, pebble) as site:
        yield site


def test_before_the_first_run_everything_is_foreseen_and_nothing_is_touched(site: Site) -> None:
    """plan and status of a new host: what would be done, and that nothing is there yet."""
    plan = site.run("plan")
    for words in ("make keys k1", "order a certificate", "swap postfix to g1", "publish", "nothing more fails"):
        assert words in plan.out
    [foreseen] = site.run("plan", "--json").json["certificates"]
    steps = [item["step"] for item in foreseen["steps"]]
    assert steps.index("Install") < steps.index("Verify") < steps.index("Publish")
    status = site.run("status")
    assert f"{NAME}: rolling; no certificate yet" in status.out
    assert site.published() == [[], []]
    assert not site.files["ecdsa"].exists()


def test_a_rehearsal_goes_the_whole_way_and_changes_nothing(site: Site) -> None:
    """renew --dry-run: says which records it wrote and removed; DNS, files and journal are as before."""
    done = site.run("renew", "--dry-run")
    assert f"wrote   dns-01 {CHALLENGE}. " in done.out
    assert f"removed dns-01 {CHALLENGE}. " in done.out
    assert "nothing else was changed" in done.out
    assert "the real run would succeed" in done.out
    assert site.challenges() == [[], []]
    assert site.published() == [[], []]
    assert not site.files["ecdsa"].exists()
    assert len(site.history()) == 0
    assert not (site.state_dir / "vault").exists() or not list((site.state_dir / "vault").rglob("*.key"))
    [report] = site.run("renew", "--dry-run", "--json").json["certificates"]
    assert report["written"]
    assert sorted(report["written"]) == sorted(report["removed"])
    assert all(finding["outcome"] != "error" for finding in report["findings"])
    assert site.leftovers() == []


def test_a_rehearsal_that_would_fail_says_where_and_exits_3(site: Site) -> None:
    """Every refusal at once, and no record left behind."""
    site.dns.freeze()
    done = site.run("renew", "--dry-run", code=3)
    assert "ERROR" in done.out
    assert "hint: " in done.out
    site.dns.thaw()
    site.dns.settle()
    assert site.challenges() == [[], []]


def test_a_lifetime_that_is_too_short_for_a_roll_is_reported(site: Site, pebble: Pebble) -> None:
    """160 hours, a TTL of a day and no standby key: said before the first run, and no reason to refuse it."""
    pebble.stop()
    pebble.start(validity_seconds=160 * 3600)
    try:
        site.dane["ttl"] = "1d"
        site.certificate["standby"] = False
        site.write()
        done = site.run("renew", "--dry-run")
    finally:
        pebble.stop()
        pebble.start()
    assert "WARNING certificate ecdsa-p256: a roll may need " in done.out
    assert "hint: lower the TTL of the TLSA records, or set standby: true" in done.out
    assert "the real run would succeed" in done.out


def test_json_of_every_command_is_one_document(site: Site) -> None:
    """For machines: --json prints one JSON value on standard output and nothing else there."""
    [renewed] = site.run("renew", "--wait", "--json").json["certificates"]
    assert renewed["name"] == NAME
    assert renewed["failures"] == []
    assert [step["step"] for step in renewed["steps"]].count("Install") == 1
    assert renewed["next_in_s"] > 0
    foreseen = site.run("plan", "--json").json["certificates"]
    assert [one["name"] for one in foreseen] == [NAME]
    status = site.run("status", "--json").json
    [certificate] = status["certificates"]
    assert (certificate["name"], certificate["verdict"], status["verdict"]) == (NAME, "well", "well")
    assert [generation["id"] for generation in certificate["served"]] == ["g1"]
    assert [(n["servers"], n["in_dns"], n["dnssec"]) for n in certificate["tlsa_names"]] == [(2, 2, "secure")]
    assert status["daemon"] is None
    history = site.run("history", NAME, "--json").json["events"]
    assert [entry["seq"] for entry in history] == list(range(1, len(history) + 1))
    after = site.run("history", NAME, "--json", "--after", str(len(history) - 2)).json["events"]
    assert after == history[-2:]
    [found] = site.run("check", "--json").json["certificates"]
    assert {finding["outcome"] for finding in found["findings"]} <= {"ok", "note"}
    records = site.run("tlsa", "--json").json["records"]
    assert {record["tlsa_name"] for record in records} == {f"{TLSA_NAME}."}
    assert sorted(record["value"] for record in records) == site.published()[0]
    again = site.run("renew", "--json", "--exit-unchanged", code=4)
    steps = json.loads(again.out)["certificates"][0]["steps"]
    assert [step["step"] for step in steps] == ["Observe", "Verify"], "observed, and nothing to change"


def test_what_is_printed_is_for_people(site: Site) -> None:
    """Steps with their reasons, the evidence with its servers, records as a zone file has them."""
    done = site.run("renew", "--wait")
    assert f"{NAME}: swap postfix to g1 [" in done.out
    assert done.out.splitlines()[-1].startswith(f"{NAME}: next in ")
    status = site.run("status")
    assert f"{NAME}: well; g1 valid until 20" in status.out
    assert "postfix serves g1 and nothing else" in status.out
    assert "127.0.0.2 TTL 1 s: 3 1 1 " in status.out
    zone = site.run("tlsa").out.splitlines()
    assert len(zone) == 2
    assert all(line.startswith(f"{TLSA_NAME}. 1 IN TLSA 3 1 1 ") for line in zone)
    check = site.run("check")
    assert "ok      mail server postfix" in check.out
    assert "what is served matches" in check.out
    history = site.run("history", NAME)
    assert "about to swap postfix to g1" in history.out
    assert "127.0.0.3 TTL 1 s: 3 1 1 " in history.out
    everything = "".join(site.run(c).out for c in ("status", "plan", "check")) + done.out + history.out
    assert "\x1b" not in everything, "colours where there is no terminal"


def _unmanaged_key(site: Site) -> None:
    other = certificates.make([NAME])
    site.files["ecdsa"].write_bytes(other.chain_file)
    site.receiver.reload()


def _no_issuers(site: Site) -> None:
    path = site.files["ecdsa"]
    key, leaf, *_ = re.findall(r"-----BEGIN.*?-----END[^\n]*\n", path.read_text(), re.DOTALL)
    path.write_text(key + leaf)
    site.receiver.reload()


def _records(*values: str) -> Callable[[Site], None]:
    def change(site: Site) -> None:
        site.dns.update(TLSA_NAME, "TLSA", list(values), ttl=1)
        site.dns.settle()

    return change


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (_records(f"3 1 1 {'ab' * 32}"), "no 3 1 1 (ecdsa-p256) record matches what is served"),
        (_records(), "no usable record, senders do not use DANE"),
        (_records(f"1 1 1 {'ab' * 32}"), "no usable record, senders do not use DANE"),
        (_unmanaged_key, "does not serve what was installed"),
        (_no_issuers, "serves what was installed, with other issuers"),
    ],
    ids=["a strange record", "no records", "an unusable record", "an unmanaged key", "no issuers"],
)
def test_what_check_finds_renew_puts_right(site: Site, wrong: Callable[[Site], None], said: str) -> None:
    """Somebody else changed the zone or the file: `check` says so first, with 1; its hint works at once."""
    site.run("renew", "--wait")
    site.run("check")
    wrong(site)
    done = site.run("check", code=1)
    first, worst, *_ = done.out.splitlines()
    assert first.startswith(f"{NAME}: ")
    assert " error" in first
    assert worst.startswith("  ERROR ")
    assert said in done.out
    assert "run: certagent renew" in done.out
    site.run("renew")
    site.dns.settle()
    site.run("check")
    site.run("status")


def test_exit_codes(site: Site) -> None:
    """0 done, 4 nothing to do, 1 tried again later, 3 needs a human, 2 configuration; status tells the same."""
    site.run("renew", "--wait")
    site.run("renew")
    site.run("renew", "--exit-unchanged", code=4)
    site.pebble.stop()
    try:
        site.run("renew", "--force", code=1)
        site.run("status", code=1)
    finally:
        site.pebble.restart()
    site.run("renew", "--force", "--wait")
    site.run("status")
    for _ in range(5):  # the CA may remember an earlier validation: then nothing is written, and nothing refused
        site.dns.freeze()
        if site.run("renew", "--force", code=None).code == 3:
            break
        site.dns.thaw()
        site.run("renew", "--wait")
    site.run("status", code=3)
    site.dns.thaw()
    site.run("renew", "--wait")
    site.run("status", "nobody.example", code=2)
    site.config["nonsense"] = 1
    site.write()
    site.run("renew", code=2)
    site.run("status", code=2)
    del site.config["nonsense"]
    site.write()
    site.run("status")


def test_a_trial_of_a_provider_leaves_nothing_behind(site: Site) -> None:
    """dns test: written, read back, seen at every authoritative server, removed; at a name that the key may write."""
    done = site.run("dns", "test")
    for words in (
        f"wrote a TXT value at {CHALLENGE}.",
        "read it back in",
        "every authoritative server gave it after",
        "removed it in",
    ):
        assert words in done.out
    site.dns.settle()  # the secondary follows the removal
    assert site.challenges() == [[], []]
    [zone] = site.run("dns", "test", ZONE.upper(), "--json").json["zones"]
    assert (zone["zone"], zone["outcome"]) == (f"{ZONE}.", "ok")
    assert site.run("dns", "test", "other.example", code=2).hints == [f"choose one that is configured: {ZONE}."]
    assert f"in use for {ZONE}." in site.run("dns", "providers").out
    able = {one["type"]: one for one in site.run("dns", "providers", "--json").json["providers"]}
    assert able["rfc2136"]["zones"] == [f"{ZONE}."]
    assert able["cloudflare"]["capabilities"]["atomic"] is False


def test_a_trial_that_is_interrupted_leaves_nothing_behind(site: Site) -> None:
    """Ctrl-C and SIGTERM while a server is waited for."""
    for number in (signal.SIGINT, signal.SIGTERM):
        site.dns.lag()
        with site.start("-m", "certagent", "dns", "test") as process:
            until(lambda: site.challenges()[0] != [], 20, "the value is at the primary")
            process.send_signal(number)
            _, told = process.communicate(timeout=20)
        assert process.returncode == 130, told
        assert "removed it in" in told
        site.dns.catch_up()
        site.dns.settle()
        assert site.challenges() == [[], []]


def test_a_trial_of_a_provider_that_refuses_says_so(site: Site) -> None:
    """It ends with 1, and the hint is the provider's."""
    site.dns.freeze()
    done = site.run("dns", "test", code=1)
    assert "ERROR" in done.out
    assert "hint: " in done.out
    site.dns.thaw()
    site.dns.settle()
    assert site.challenges() == [[], []]
