"""The bridge to dns-lexicon beyond what holds for every provider: which drivers, and what they may do."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest

from certagent.dns.providers import confined
from certagent.dns.providers.lexicon import DRIVERS, Driver, Lexicon, Options, Worker
from certagent.dns.providers.protocol import Provider, RRset
from certagent.errors import Misconfigured, Rejected, Transient, Usage
from certagent.testing import dns_provider_suite
from certagent.testing.dns_provider import DnsCheck
from tests.dns.fakes import luadns
from tests.dns.fakes.lexicon import LuaDns, LuaDnsOptions, LuaDnsWorker
from tests.dns.fakes.service import TOKEN, Fault, private
from tests.dns.spied import given_and_said

ROOT = Path(__file__).parents[2]
ZONE = "example.org."
NAME = f"_25._tcp.mx1.{ZONE}"
A, B = (f"3 1 1 {digit * 64}" for digit in "ab")
SECRET = f"auth_username = {luadns.USER}\nauth_token = {{}}\n"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[luadns.LuaDns]:
    fake = luadns.LuaDns(tmp_path)
    yield fake
    fake.stop()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return private(tmp_path / "token", SECRET.format(TOKEN))


@pytest.fixture
def options(fake: luadns.LuaDns, token_file: Path) -> LuaDnsOptions:
    return LuaDnsOptions(url=fake.url, zones=(ZONE,), token_file=str(token_file), ca_file=str(fake.ca_file))


def add(provider: Provider, value: str, ttl_s: int = 3600) -> None:
    provider.add(NAME, "TLSA", frozenset({value}), ttl_s, provider.get(NAME, "TLSA"))


def values(provider: Provider) -> frozenset[str]:
    found = provider.get(NAME, "TLSA")
    return found.values if found else frozenset()


# -- which drivers -----------------------------------------------------------------------------------------------------


def options_of(name: str) -> set[str]:
    parser = argparse.ArgumentParser()
    import_module(f"lexicon._private.providers.{name}").Provider.configure_parser(parser)
    return {action.dest for action in parser._actions}


@pytest.mark.parametrize("name", DRIVERS)
def test_every_driver_has_the_options_that_are_asked_for(name: str) -> None:
    assert set(DRIVERS[name].secrets) <= options_of(name)
    assert DRIVERS[name].in_base64 in ("", *DRIVERS[name].secrets)


REFUSED = {
    "cloudflare": "type: cloudflare",
    "mythicbeasts": "one of dnsimple",
    "nsone": "type: command",
    "auto": "one of",
    "../x": "one of",
    "luadns.x": "one of",
}


@pytest.mark.parametrize(("name", "hint"), REFUSED.items())
def test_a_driver_that_may_not_be_used(token_file: Path, name: str, hint: str) -> None:
    """It is found before a child is started; of a service that certagent has itself the hint is its type."""
    wanted = Options(provider=name, zones=(ZONE,), token_file=str(token_file))
    for kind in (Lexicon, Worker):
        with pytest.raises(Misconfigured, match=r"dns\.options") as caught:
            kind(wanted)
        assert hint in caught.value.hint


def test_a_driver_opens_no_file(token_file: Path) -> None:
    """Where lexicon would take a path, only the file itself is taken: a path would be read without any check."""
    token_file.write_text("auth_username = me\nauth_api_key = /etc/shadow\n")
    with pytest.raises(Usage, match=r"auth_api_key is not in base64.*secret\.file") as caught:
        Lexicon(Options(provider="transip", zones=(ZONE,), token_file=str(token_file)))
    assert "base64 --wrap=0" in caught.value.hint
    assert "shadow" not in repr(caught.value)


# -- the child process -------------------------------------------------------------------------------------------------

ACROSS = [check for check in dns_provider_suite if check.__name__ in ("add_is_beside", "a_stale_set_is_refused")]


@pytest.mark.parametrize("check", ACROSS, ids=lambda check: check.__name__)
def test_it_keeps_the_rules_across_processes(options: LuaDnsOptions, check: DnsCheck) -> None:
    """All rules are checked without one, see test_http_providers."""
    assert len(ACROSS) == 2
    check(LuaDns(options), ZONE)


WATCHED = """
import json, os, sys
from pathlib import Path
import msgspec
from tests.dns.fakes.lexicon import LuaDnsOptions, LuaDnsWorker
from tests.dns.spied import given_and_said
places, opened, hosts = [os.path.realpath(p) for p in sys.path if p] + [os.path.realpath(sys.prefix)], set(), set()
libraries = (os.path.dirname(os.__file__), *places)
def watch(event, args):
    if event == "open" and isinstance(args[0], str) and not os.path.realpath(args[0]).startswith(libraries):
        opened.add(args[0])
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        hosts.add(args[0])
    if event == "socket.connect":
        hosts.add(args[1][0])
    if event == "subprocess.Popen":
        opened.add(args[0])
sys.addaudithook(watch)
worker = LuaDnsWorker(msgspec.json.decode(sys.argv[1], type=LuaDnsOptions))
worker.add("_25._tcp.mx1.example.org.", "TLSA", frozenset({"3 1 1 " + 64 * "a"}), 3600, None)
print(json.dumps([sorted(opened), sorted(hosts)]))
"""


def test_it_reads_its_own_file_and_asks_the_service(
    fake: luadns.LuaDns, options: LuaDnsOptions, tmp_path: Path
) -> None:
    """Nothing else counts: no public suffix list, no DNS, no ~/.netrc, no variable, no file of lexicon's."""
    (home := tmp_path / "home").mkdir()
    (home / ".netrc").write_text("machine localhost login other password other\n")
    (home / ".netrc").chmod(0o600)
    (home / "lexicon.yml").write_text("luadns:\n  auth_token: other\n")
    other = "https://127.0.0.1:1/"
    variables = {"LEXICON_LUADNS_AUTH_TOKEN": "other", "LEXICON_LUADNS_AUTH_USERNAME": "other", "LEXICON_TTL": "7"}
    variables |= {"HTTPS_PROXY": other, "https_proxy": other, "REQUESTS_CA_BUNDLE": "/nonexistent", "HOME": str(home)}
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", WATCHED, json.dumps({f: getattr(options, f) for f in options.__struct_fields__})]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, cwd=home, env=environment)
    assert done.returncode == 0, done.stderr
    opened, hosts = json.loads(done.stdout)
    own = (options.token_file, str(options.ca_file))  # they are opened by one part of the path after the other
    assert set(opened) <= {*own, *(part for path in own for part in Path(path).parts)}
    assert set(hosts) <= {"localhost", "127.0.0.1", "::1"}
    assert [record["ttl"] for record in fake.records.values()] == [3600]
    assert sorted(entry.name for entry in home.iterdir()) == [".netrc", "lexicon.yml"]


def test_its_library_is_never_loaded_here(options: LuaDnsOptions) -> None:
    """Neither lexicon nor what it needs: the agent stays small."""
    code = (
        "import sys; from tests.dns.fakes.lexicon import LuaDns, LuaDnsOptions;"
        f"LuaDns(LuaDnsOptions(url={options.url!r}, zones=('example.org',), token_file={options.token_file!r},"
        f" ca_file={options.ca_file!r})).add({NAME!r}, 'TLSA', frozenset({{{A!r}}}), 600, None);"
        "print([name for name in ('lexicon', 'requests', 'bs4') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.stdout == "[]\n"


def test_the_secret_is_given_to_nobody(
    options: LuaDnsOptions, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the arguments, nor in the environment, nor on the standard input and output of the child."""
    seen = given_and_said(monkeypatch)
    provider = LuaDns(options)
    add(provider, A)
    token_file.write_text(SECRET.format("wrong-secret"))
    with pytest.raises(Misconfigured, match=r"LuaDNS \(lexicon\): HTTP 401.*dns\.refused") as caught:
        provider.get(NAME, "TLSA")
    assert len(seen) == 3
    assert not any(secret in text for secret in (TOKEN, "wrong-secret") for text in [*seen, repr(caught.value)])


# -- what a driver is asked --------------------------------------------------------------------------------------------


def test_a_set_keeps_its_ttl(fake: luadns.LuaDns, options: LuaDnsOptions) -> None:
    """Drivers cannot change it safely, and all records of a set have one (RFC 2181 section 5.2)."""
    worker = LuaDnsWorker(options)
    add(worker, A, 600)
    add(worker, B, 7200)
    add(worker, A, 7200)
    assert worker.get(NAME, "TLSA") == RRset(frozenset({A, B}), 600)
    assert [record["ttl"] for record in fake.records.values()] == [600, 600]


def test_what_others_wrote_stays(fake: luadns.LuaDns, options: LuaDnsOptions) -> None:
    """Upper-case hex is the same value, and of another name or type nothing is touched."""
    for name, rdtype, content in ((NAME, "TLSA", A.upper()), (NAME, "TXT", "x"), (f"x{NAME}", "TLSA", A)):
        fake.put(name, rdtype, 300, content)
    worker = LuaDnsWorker(options)
    assert values(worker) == {A}
    worker.remove(NAME, "TLSA", frozenset({A}), worker.get(NAME, "TLSA"))
    assert [(r["name"], r["type"]) for r in fake.records.values()] == [(NAME, "TXT"), (f"x{NAME}", "TLSA")]


def test_a_record_that_is_gone_when_it_is_deleted(fake: luadns.LuaDns, options: LuaDnsOptions) -> None:
    """That is no error; any other answer is."""
    worker = LuaDnsWorker(options)
    add(worker, A)
    [record] = worker.records(NAME, "TLSA")
    fake.records.clear()
    worker.delete(record)
    fake.faults.append(Fault(500))
    with pytest.raises(Transient, match=r"dns\.unknown_outcome"):
        worker.delete(record)
    fake.faults.append(Fault(400))
    with pytest.raises(Rejected, match=r"dns\.rejected"):
        worker.delete(record)


class Made:
    """A driver that does what a test wants."""

    def __init__(self, *listed: dict[str, Any], said: object = True) -> None:
        self.listed, self.said, self.deleted = list(listed), said, list[str]()

    def authenticate(self) -> None:
        pass

    def list_records(self, rtype: str | None = None, name: str | None = None) -> Any:
        return self.listed

    def create_record(self, *record: str) -> object:
        return self.said

    def delete_record(self, identifier: str) -> object:
        self.deleted.append(identifier)
        return self.said


def record(value: str, identifier: Any, name: str = NAME) -> dict[str, Any]:
    return {"id": identifier, "name": name.rstrip("."), "type": "TLSA", "content": value, "ttl": "300"}


def worker_of(made: Any, token_file: Path, *, hashed: bool = False, ca_file: str | None = None) -> Worker:
    class Made(Worker):
        DRIVERS: ClassVar = {"made": Driver("the service", hashed=hashed)}

        def make(self, config: Any) -> Any:
            return made

    return Made(Options(provider="made", zones=(ZONE,), token_file=str(token_file), ca_file=ca_file))


@pytest.mark.parametrize(
    "listed",
    [None, 7, [7], [{"id": "1"}], [{**record(A, 1), "id": None}], [{**record(A, 1), "ttl": "soon"}]],
    ids=["none", "number", "list of numbers", "little", "no identifier", "ttl"],
)
def test_a_list_that_is_not_understood(token_file: Path, listed: Any) -> None:
    made = Made()
    made.listed = listed
    with pytest.raises(Transient, match=r"not understood.*dns\.unreachable"):
        worker_of(made, token_file).get(NAME, "TLSA")


def test_a_driver_that_lists_more_than_was_asked_for(token_file: Path) -> None:
    other = {**record("x", 3), "type": "TXT"}
    worker = worker_of(Made(record(A, 1), record(B, 2, f"x{NAME}"), other), token_file)
    assert values(worker) == {A}


def test_an_identifier_of_two_records(token_file: Path) -> None:
    """It cannot delete one of them alone, so nothing is deleted; neither if the other has another name."""
    with pytest.raises(Rejected, match=r"one identifier.*dns\.rejected"):
        worker_of(Made(record(A, 1), record(B, 1)), token_file).get(NAME, "TLSA")
    made = Made(record(A, "abcdefg"), record(B, "abcdefg", f"x{NAME}"))
    worker = worker_of(made, token_file, hashed=True)
    with pytest.raises(Rejected, match=r"one identifier.*dns\.rejected"):
        worker.remove(NAME, "TLSA", frozenset({A}), worker.get(NAME, "TLSA"))
    assert not made.deleted


def test_a_driver_that_says_it_did_nothing(token_file: Path) -> None:
    worker = worker_of(Made(record(A, 1), said=False), token_file)
    was = worker.get(NAME, "TLSA")
    with pytest.raises(Transient, match=r"dns\.unknown_outcome"):
        worker.add(NAME, "TLSA", frozenset({B}), 300, was)
    with pytest.raises(Transient, match=r"dns\.unknown_outcome"):
        worker.remove(NAME, "TLSA", frozenset({A}), was)


def test_a_driver_that_only_says_so(token_file: Path) -> None:
    """What was written is read back."""
    worker = worker_of(Made(record(A, 1)), token_file)
    was = worker.get(NAME, "TLSA")
    with pytest.raises(Transient, match=r"does not read as it was written.*dns\.unknown_outcome"):
        worker.add(NAME, "TLSA", frozenset({B}), 300, was)
    with pytest.raises(Transient, match=r"does not read as it was written.*dns\.unknown_outcome"):
        worker.remove(NAME, "TLSA", frozenset({A}), was)


@pytest.mark.parametrize("kind", ["AuthenticationError", "LexiconError", "Exception"])
def test_a_login_that_the_driver_refuses(token_file: Path, kind: str) -> None:
    """Its words may be the service's, and hold anything."""

    class Refusing(Made):
        def authenticate(self) -> None:
            raise getattr(import_module("lexicon.exceptions"), kind, Exception)("the secret")

    with pytest.raises(Misconfigured, match=r"refuses the login, or has no such zone.*dns\.refused") as caught:
        worker_of(Refusing(), token_file).get(NAME, "TLSA")
    assert "the secret" not in repr(caught.value)


class Passing(Made):
    """Passes over every error, as some drivers do."""

    url = ""

    def create_record(self, *record: str) -> object:
        import requests

        try:
            requests.post(self.url)
        except Exception:
            return True
        raise AssertionError("no error")


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault(503), "dns.unknown_outcome"), (Fault(403), "dns.refused"), (Fault(done=True), "dns.unknown_outcome")],
    ids=["overloaded", "rights", "closed"],
)
def test_an_error_that_the_driver_passes_over(
    fake: luadns.LuaDns, options: LuaDnsOptions, token_file: Path, fault: Fault, code: str
) -> None:
    made = Passing()
    made.url = f"{fake.url}/v1/zones/5/records"
    worker = worker_of(made, token_file, ca_file=options.ca_file)
    fake.faults.append(fault)
    with pytest.raises((Transient, Misconfigured)) as caught:
        worker.create(NAME, "TLSA", A, 300)
    assert caught.value.code == code


def test_a_request_without_tls(token_file: Path) -> None:
    """Anybody could read the token."""
    made = Passing()
    made.url = "http://localhost:1/"
    with pytest.raises(Transient, match=r"InvalidSchema.*dns\.unknown_outcome"):
        worker_of(made, token_file).create(NAME, "TLSA", A, 300)


def test_an_answer_without_end(options: LuaDnsOptions, fake: luadns.LuaDns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "ANSWER_MAX_BYTES", 1000)
    fake.faults.append(Fault(200, b"[" + b" " * 2000 + b"]", writes=False))
    with pytest.raises(Transient, match=r"more than 1000 bytes.*dns\.unreachable"):
        LuaDnsWorker(options).get(NAME, "TLSA")
