"""Route 53 beyond what holds for every provider: its child process, its hosted zones, and when a change is done."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from certagent.dns.providers import route53
from certagent.dns.providers.protocol import Changed, Provider, RRset
from certagent.dns.providers.route53 import Options, Route53, Worker
from certagent.errors import Error, Misconfigured, Rejected, Transient, Usage
from certagent.host import deadline
from certagent.testing import dns_provider_suite
from certagent.testing.dns_provider import DnsCheck
from tests.dns.fakes import route53 as fakes
from tests.dns.fakes.known import ROUTE53_SECRET
from tests.dns.fakes.service import TOKEN, Fault, private
from tests.dns.spied import given_and_said

ROOT = Path(__file__).parents[2]
ZONE = fakes.ZONE
NAME = f"_25._tcp.mx1.{ZONE}"
A, B = (f"3 1 1 {digit * 64}" for digit in "ab")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[fakes.Route53]:
    fake = fakes.Route53(tmp_path)
    yield fake
    fake.stop()


@pytest.fixture
def options(fake: fakes.Route53, tmp_path: Path) -> Options:
    path = private(tmp_path / "token", ROUTE53_SECRET.format(TOKEN))
    return Options(url=fake.url, zones=(ZONE,), token_file=str(path), timeout="30s", ca_file=str(fake.ca_file))


@pytest.fixture
def worker(options: Options) -> Worker:
    return Worker(options)


def failed(code: str, message: str = "", status: int = 400, *, writes: bool = True) -> Fault:
    return Fault(status, fakes.error(status, code, message)[1], writes=writes)


def add(provider: Provider, value: str) -> None:
    provider.add(NAME, "TLSA", frozenset({value}), 3600, provider.get(NAME, "TLSA"))


def values(provider: Provider) -> frozenset[str]:
    found = provider.get(NAME, "TLSA")
    return found.values if found else frozenset()


# -- the child process -------------------------------------------------------------------------------------------------

ACROSS = [check for check in dns_provider_suite if check.__name__ in ("add_is_beside", "a_stale_set_is_refused")]


@pytest.mark.parametrize("check", ACROSS, ids=lambda check: check.__name__)
def test_it_keeps_the_rules_across_processes(options: Options, check: DnsCheck) -> None:
    """All rules are checked without one, see test_http_providers."""
    assert len(ACROSS) == 2
    check(Route53(options), ZONE)


def test_its_library_is_never_loaded_here(options: Options) -> None:
    """It would more than double what the agent takes of memory."""
    code = (
        "import sys; from certagent.dns.providers.route53 import Options, Route53;"
        f"Route53(Options(url={options.url!r}, zones=('example.org',), token_file={options.token_file!r},"
        f" ca_file={options.ca_file!r})).add({NAME!r}, 'TLSA', frozenset({{{A!r}}}), 60, None);"
        "print('botocore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_the_secret_is_given_to_nobody(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the arguments, nor in the environment, nor on the standard input and output of the child."""
    seen = given_and_said(monkeypatch)
    provider = Route53(options)
    add(provider, A)
    Path(options.token_file).write_text(ROUTE53_SECRET.format("wrong-secret"))
    with pytest.raises(Misconfigured, match=r"SignatureDoesNotMatch.*dns\.refused") as caught:
        provider.get(NAME, "TLSA")
    assert len(seen) == 3
    assert not any(secret in text for secret in (TOKEN, "wrong-secret") for text in [*seen, repr(caught.value)])


def test_nothing_counts_but_the_configuration(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable, no ~/.aws: they may belong to somebody else's account."""
    (tmp_path / ".aws/models/route53").mkdir(parents=True)
    for name in ("config", "credentials"):
        (tmp_path / ".aws" / name).write_text("[default]\nca_bundle = /nonexistent\naws_access_key_id = AKIAOTHER\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    add(Worker(options), A)
    variables = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
    for name in variables:
        monkeypatch.setenv(name, "other")
    for name in ("AWS_ENDPOINT_URL", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "https://127.0.0.1:1/")
    add(Route53(options), B)
    assert values(Worker(options)) == {A, B}


def test_errors_come_across(fake: fakes.Route53, options: Options) -> None:
    """With their kind, and with what the service asked for."""
    provider = Route53(options)
    fake.faults.append(Fault(429, headers={"Retry-After": "17"}))
    with pytest.raises(Transient, match=r"dns\.rate_limited") as caught:
        add(provider, A)
    assert caught.value.retry_after_s == 17
    add(provider, A)
    with pytest.raises(Changed):
        provider.add(NAME, "TLSA", frozenset({B}), 3600, None)
    Path(options.token_file).chmod(0o640)
    with pytest.raises(Usage, match=r"secret\.mode"):
        provider.get(NAME, "TLSA")


def test_a_byte_now_and_then(fake: fakes.Route53, options: Options) -> None:
    """The child is ended with the time of the call."""
    fake.faults.append(Fault(drips=True, writes=False))
    with pytest.raises(Transient, match=r"no answer within 4 s \[dns\.unreachable\]"):
        Route53(replace(options, timeout="4s")).get(NAME, "TLSA")
    assert fake.asked


@pytest.mark.parametrize("url", ["http://route53.amazonaws.com", "route53.amazonaws.com", "https://u@h/"])
def test_a_url_that_cannot_be_used(options: Options, url: str) -> None:
    """It is found before a child is started."""
    with pytest.raises(Misconfigured, match=r"dns\.options"):
        Route53(replace(options, url=url))


# -- when a change is done ---------------------------------------------------------------------------------------------


def test_it_waits_until_all_name_servers_have_it(fake: fakes.Route53, worker: Worker) -> None:
    """Each of the service's addresses has many servers behind it, so asking them cannot tell."""
    fake.polls = 2
    add(worker, A)
    assert [asked.path for asked in fake.asked if "/change/" in asked.path] == ["/2013-04-01/change/C0"] * 2


def test_a_change_that_is_long_pending(fake: fakes.Route53, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was accepted, so it is there; whoever tries again finds nothing to write."""
    monkeypatch.setattr(route53, "_PAUSE_S", 0.01)
    worker = Worker(options)
    fake.polls = 1_000_000
    not_yet = pytest.raises(Transient, match=r"not yet at all of its name servers \[dns\.unknown_outcome\]")
    with not_yet, deadline.total(2.0):
        add(worker, A)
    add(worker, A)
    assert len(fake.changes) == 1
    assert values(worker) == {A}


@pytest.mark.parametrize(
    "fault", [failed("AccessDenied", status=403, writes=False), failed("Throttling", writes=False)]
)
def test_an_error_while_it_waits(fake: fakes.Route53, worker: Worker, fault: Fault) -> None:
    """The change was accepted all the same, so that is no error that says "surely not"."""
    fake.polls = 1
    was = worker.get(NAME, "TLSA")
    fake.at_change.append(fault)
    with pytest.raises(Transient, match=r"dns\.unknown_outcome"):
        worker.add(NAME, "TLSA", frozenset({A}), 3600, was)
    assert values(worker) == {A}


# -- what the service says ---------------------------------------------------------------------------------------------

SAID: dict[str, tuple[Fault, type[Error], str, str]] = {
    "throttled": (failed("Throttling", "Rate exceeded"), Transient, "dns.rate_limited", ""),
    "an earlier one": (failed("PriorRequestNotComplete"), Transient, "dns.rate_limited", ""),
    "no rights": (failed("AccessDenied", status=403), Misconfigured, "dns.refused", "ListHostedZonesByName"),
    "clock": (failed("RequestTimeTooSkewed", status=403), Misconfigured, "dns.refused", "clock"),
    "zone": (failed("NoSuchHostedZone", status=404), Misconfigured, "dns.refused", "zone_ids"),
    "content": (failed("InvalidInput"), Rejected, "dns.rejected", ""),
    "batch": (failed("InvalidChangeBatch", "[Invalid Resource Record]"), Rejected, "dns.rejected", ""),
    "its own": (failed("InternalFailure", status=500), Transient, "dns.unknown_outcome", ""),
}


@pytest.mark.parametrize(("fault", "kind", "code", "hint"), SAID.values(), ids=SAID)
def test_its_errors(fake: fakes.Route53, worker: Worker, fault: Fault, kind: type[Error], code: str, hint: str) -> None:
    """Sorted by what can be done."""
    fake.faults.append(fault)
    with pytest.raises(kind) as caught:
        add(worker, A)
    assert caught.value.code == code
    assert hint in caught.value.hint


def test_what_others_wrote_is_named_as_they_wrote_it(fake: fakes.Route53, worker: Worker) -> None:
    """A DELETE must name it exactly; upper-case hex and split strings are the same values all the same."""
    fake.put(NAME, "TLSA", 300, A.upper())
    add(worker, B)
    assert values(worker) == {A, B}
    assert [one.records for one in fake.zone.rrsets if one.name == NAME] == [[A.upper(), B]]
    fake.put(NAME, "TXT", 300, '"one" "two \\"x\\""', '"other"')
    worker.remove(NAME, "TXT", frozenset({'onetwo "x"'}), worker.get(NAME, "TXT"))
    assert worker.get(NAME, "TXT") == RRset(frozenset({"other"}), 300, ('"other"',))


def test_another_ttl_is_another_set(fake: fakes.Route53, worker: Worker) -> None:
    """The service compares it, too."""
    fake.put(NAME, "TLSA", 300, A)
    was = worker.get(NAME, "TLSA")
    fake.put(NAME, "TLSA", 301, A)
    with pytest.raises(Changed):
        worker.add(NAME, "TLSA", frozenset({B}), 300, was)


def test_a_set_with_a_routing_policy(fake: fakes.Route53, worker: Worker) -> None:
    """It is one of several with that name, and certagent cannot know which one is served."""
    fake.put(NAME, "TLSA", 300, A, SetIdentifier="one", Weight=1)
    with pytest.raises(Rejected, match="routing policy"):
        worker.get(NAME, "TLSA")


def test_a_protected_set(fake: fakes.Route53, worker: Worker) -> None:
    """Nothing has changed, so to try again would not help."""
    fake.protected.add(NAME)
    with pytest.raises(Rejected, match=r"protected.*dns\.rejected"):
        add(worker, A)


# -- hosted zones ------------------------------------------------------------------------------------------------------


def test_a_private_zone_of_the_same_name(fake: fakes.Route53, worker: Worker) -> None:
    """The world does not see it."""
    fake.host(ZONE, private=True)
    add(worker, A)
    assert values(worker) == {A}


def test_two_public_zones_of_one_name(fake: fakes.Route53, options: Options) -> None:
    """Which of them is delegated to is not for certagent to guess: the configuration names it."""
    fake.host(ZONE)
    with pytest.raises(Misconfigured, match=r"several public hosted zones.*dns\.refused") as caught:
        Worker(options).get(NAME, "TLSA")
    assert "zone_ids" in caught.value.hint
    told = Worker(replace(options, zone_ids={"Example.org": fake.zone.resource_id}))
    add(told, A)
    assert values(told) == {A}


def test_the_policy_of_the_page_is_enough(fake: fakes.Route53, worker: Worker) -> None:
    """What certagent asks for is what the policy in docs/how-to/route53.md allows, and the other way round."""
    page = (ROOT / "docs" / "how-to" / "route53.md").read_text()
    [policy] = re.findall(r"(?ms)^```json\n(.*?)^```$", page)
    allowed = {statement["Action"] for statement in json.loads(policy)["Statement"]}
    fake.polls = 1
    add(worker, A)
    kinds = {
        "/hostedzonesbyname": "route53:ListHostedZonesByName",
        f"/hostedzone/{fake.zone.resource_id}/rrset": "route53:ListResourceRecordSets",
        f"/hostedzone/{fake.zone.resource_id}/rrset/": "route53:ChangeResourceRecordSets",
        "/change/C0": "route53:GetChange",
    }
    assert {kinds[asked.path.removeprefix("/2013-04-01")] for asked in fake.asked} == allowed
