"""The configuration file: what is right is read as meant; what is wrong is told with file, line, key and remedy."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import typing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from certagent.config.load import MAX_BYTES, load
from certagent.config.schema import Ca, Certificate, ChallengeKeys, Config, Dane, Dns, ServiceKeys
from certagent.errors import Error, Misconfigured
from certagent.facts.duration import duration

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "config.example.yaml"
GOOD = """\
state_dir: /var/lib/certagent
ca:
  le:
    directory: https://acme.example/dir
    agree_tos: true
dns:
  resolvers: [127.0.0.1]
  providers:
    corp: {type: rfc2136, server: 192.0.2.1, zones: [example.org], key_file: /etc/tsig.key}
certificates:
  mx1.example.org:
    ca: le
    names: [mx1.example.org]
    keys: [ecdsa-p256]
    rotate_key: 90d
    dane:
      ttl: 30m
      safety_margin: 15m
    mail_servers:
      postfix:
        type: postfix
        chain_files: {ecdsa: /etc/ecdsa.pem}
        services:
          - host: mx1.example.org
            port: 25
            mode: smtp
            tlsa: true
          - host: mx1.example.org
            port: 465
            mode: tls
"""
HTTP = "    challenge: {type: http-01, "


def read(place: Path, text: str | bytes) -> Config:
    path = place / "c.yaml"
    path.touch(0o600)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path)


def refused(place: Path, text: str | bytes) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        read(place, text)
    assert caught.value.code.startswith("config."), caught.value
    assert caught.value.detail.startswith(f"{place}/c.yaml")
    assert caught.value.hint
    return caught.value


def test_what_is_written_is_what_is_meant(tmp_path: Path) -> None:
    """Every value where the planner looks for it."""
    found = read(tmp_path, GOOD)
    spec = found.certificates["mx1.example.org"].spec
    assert spec.names == ("mx1.example.org",)
    assert spec.tlsa_names == {"_25._tcp.mx1.example.org.": ("postfix",)}
    assert (spec.ttl_s, spec.safety_margin, spec.rotate_key) == (1800, timedelta(minutes=15), timedelta(days=90))
    assert [(s.port, s.mode) for s in spec.mail_servers[0].services] == [(25, "smtp"), (465, "tls")]
    assert found.certificates["mx1.example.org"].cas == ("le",)
    assert found.providers["corp"].options["server"] == "192.0.2.1"


def test_the_cas_are_a_list_that_has_one_name_so_far(tmp_path: Path) -> None:
    """Written alone or in a list it means the same."""
    one = read(tmp_path, GOOD).certificates["mx1.example.org"]
    assert read(tmp_path, GOOD.replace("ca: le\n", "ca: [le]\n")).certificates["mx1.example.org"] == one
    assert len(one.spec.cas) == 1


def test_what_is_not_written_has_the_safe_default(tmp_path: Path) -> None:
    """A standby key, new keys at every renewal, 3 1 1 alone, an hour's TTL, no consent to terms."""
    text = "ca: {le: {directory: https://a.example/d}}\ncertificates: {mx1.example.org: {ca: le}}\n"
    found = read(tmp_path, text)
    spec = found.certificates["mx1.example.org"].spec
    assert spec.names == ("mx1.example.org",)
    assert spec.standby is True
    assert spec.rotate_key == timedelta()
    assert spec.tlsa_parameters == ("3 1 1",)
    assert (spec.ttl_s, spec.safety_margin, spec.drain) == (3600, timedelta(minutes=15), timedelta(minutes=5))
    assert found.cas["le"].agree_tos is False
    assert found.state_dir == Path("/var/lib/certagent")


def test_the_names_to_ask_for_in_tls(tmp_path: Path) -> None:
    """Host names, canonical; `none` stands for no SNI at all; nothing for the host alone."""
    text = GOOD.replace("mode: smtp", "mode: smtp\n            sni: [Mail.Example.org, none, MX1.example.org.]")
    first, second = read(tmp_path, text).certificates["mx1.example.org"].spec.mail_servers[0].services
    assert first.sni == ("mail.example.org", "", "mx1.example.org")
    assert second.sni == ()


def test_how_a_service_is_met(tmp_path: Path) -> None:
    """As a client that the server lets in; without a word about it as usual."""
    more = "mode: smtp\n            ehlo: P.example.org\n            source: [192.0.2.1, '::1']\n"
    text = GOOD.replace("mode: smtp", f"{more}            timeout: 5m\n            proxy: v2")
    first, second = read(tmp_path, text).certificates["mx1.example.org"].spec.mail_servers[0].services
    assert (first.ehlo, first.source) == ("p.example.org", ("192.0.2.1", "::1"))
    assert (first.timeout_s, first.proxy) == (300.0, "v2")
    assert (second.ehlo, second.source, second.timeout_s, second.proxy) == ("", (), 0.0, "")


@pytest.mark.parametrize("mode", ["smtp", "imap", "pop3", "sieve", "tls"])
def test_the_ways_tls_begins(tmp_path: Path, mode: str) -> None:
    """STARTTLS of four protocols, and TLS at once."""
    service = read(tmp_path, GOOD.replace("mode: smtp", f"mode: {mode}")).certificates["mx1.example.org"].spec
    assert service.mail_servers[0].services[0].mode == mode


@pytest.mark.parametrize(
    ("text", "expected"), [("never", None), ("every_renewal", timedelta()), ("1d12h", timedelta(days=1.5))]
)
def test_the_words_of_rotate_key(tmp_path: Path, text: str, expected: timedelta | None) -> None:
    """every_renewal, never, or an age."""
    found = read(tmp_path, GOOD.replace("rotate_key: 90d", f"rotate_key: {text}"))
    assert found.certificates["mx1.example.org"].spec.rotate_key == expected


@pytest.mark.parametrize(
    ("before", "after", "line", "key", "said", "hint"),
    [
        ("keys:", "kyes:", 14, "kyes", "unknown key", "did you mean keys?"),
        ("agree_tos:", "agree:", 5, "agree", "unknown key", "did you mean agree_tos?"),
        ("resolvers:", "nameservers:", 7, "nameservers", "unknown key", "resolvers"),
        ("tlsa: true", "dane: true", 27, "dane", "unknown key", "known here: host, port, mode"),
        ("    keys: [ecdsa-p256]", "    keys: [ecdsa-p256]\n    ca: le", 15, "ca", "stands here twice", "keep one"),
        ("ttl: 30m", "ttl: 1800", 17, "ttl", "expected a duration with its unit", "a bare number is refused"),
        ("rotate_key: 90d", "rotate_key: 90", 15, "rotate_key", "every_renewal, never, or a duration", "90d"),
        ("rotate_key: 90d", "rotate_key: always", 15, "rotate_key", "every_renewal, never, or a duration", "90d"),
        ("safety_margin: 15m", "safety_margin: 1.5h", 18, "safety_margin", "expected a duration", "1h30m"),
        ("ttl: 30m", "ttl: 0s", 17, "ttl", "a TTL of zero is no TTL", "1h"),
        ("ttl: 30m", "ttl: 3d", 17, "ttl", "3d is more than 2d", "renew"),
        ("agree_tos: true", "agree_tos: 'yes'", 5, "agree_tos", "expected bool, got text", "config.example.yaml"),
        ("port: 25", "port: smtp", 25, "port", "expected a number, got text", "config.example.yaml"),
        ("port: 25", "port: 70000", 25, "port", "65535", "config.example.yaml"),
        ("mode: smtp", "mode: starttls", 26, "mode", "expected one of: smtp, imap", "one of: smtp, imap"),
        ("mode: smtp", "mode: smtp\n            sni: none", 27, "sni", "expected a list", "config.example.yaml"),
        ("mode: smtp", "mode: smtp\n            sni: [mx_1.example.org]", 27, "sni", "mx_1", ""),
        ("mode: smtp", "mode: smtp\n            sni: [192.0.2.1]", 27, "sni", "is an address", "name"),
        ("mode: smtp", "mode: smtp\n            sni: ['*.example.org']", 27, "sni", "*.example.org", ""),
        ("names: [mx1.example.org]", "names: mx1.example.org", 13, "names", "expected a list", "config.example.yaml"),
        ("host: mx1.", "host: mx_1.", 24, "host", "mx_1", ""),
        ("names: [mx1.example.org]", "names: [192.0.2.1]", 13, "names", "is an address", "name"),
        ("names: [mx1.example.org]", "names: [mx1]", 13, "names", "only one label", "full name"),
        ("names: [mx1.example.org]", "names: [bücher.example]", 13, "names", "outside ASCII", "xn--bcher-kva.example"),
        ("ca: le\n", "ca: [le, le]\n", 12, "ca", "2 CAs, and not one", "name one"),
        ("ca: le\n", "ca: []\n", 12, "ca", "0 CAs, and not one", "name one"),
        ("ca: le\n", "ca: li\n", 12, "ca", "there is no CA 'li'", "one of: le"),
        ("keys: [ecdsa-p256]", "keys: [rsa-1024]", 14, "keys", "unknown key type 'rsa-1024'", "one of: ecdsa-p256"),
        ("keys: [ecdsa-p256]", "keys: [rsa-2048, rsa-4096]", 14, "keys", "at most one RSA", "[ecdsa-p256, rsa-2048]"),
        ("keys: [ecdsa-p256]", "keys: []", 14, "keys", "at least one key type", "[ecdsa-p256, rsa-2048]"),
        ("https://acme", "http://acme", 4, "directory", "no https URL", "RFC 8555"),
        ("state_dir: /var", "state_dir: var", 1, "state_dir", "is not absolute", "begin it with /"),
        ("        type: postfix\n", "", 20, "postfix", "type is missing", "type: command"),
        ("ttl: 30m", "records: [2 1 1]", 17, "records", "3 1 1 is missing", "RFC 7672"),
        ("ttl: 30m", "records: [1 1 1]", 17, "records", "1 1 1", "config.example.yaml"),
        ("    ca: le\n", "", 11, "mx1.example.org", "ca is missing", "config.example.yaml"),
        ("https://acme", "https://u:hunter2@acme", 4, "directory", "no https URL", "RFC 8555"),
        ("https://acme", "https://[acme", 4, "directory", "no https URL", "RFC 8555"),
        ("[127.0.0.1]", "[localhost]", 7, "resolvers", "'localhost' is no address", "192.0.2.1:5353"),
        ("[127.0.0.1]", "['127.0.0.1@53']", 7, "resolvers", "is no address", "192.0.2.1:5353"),
        ("[127.0.0.1]", "['']", 7, "resolvers", "is no address", "192.0.2.1:5353"),
        ("[127.0.0.1]", "[256.1.1.1]", 7, "resolvers", "is no address", "192.0.2.1:5353"),
        ("mode: smtp", "mode: smtp\n            addresses: [a..b]", 27, "addresses", "is no address", "192.0.2.1"),
        ("mode: smtp", "mode: smtp\n            source: [mx1]", 27, "source", "is no address", "192.0.2.1"),
        ("mode: smtp", "mode: smtp\n            source: ['::1', '::2']", 27, "source", "one family", "one for each"),
        ("mode: smtp", "mode: smtp\n            ehlo: '[192.0.2.1]'", 27, "ehlo", "192.0.2.1", ""),
        ("mode: smtp", "mode: smtp\n            timeout: 11m", 27, "timeout", "11m is more than 10m", "renew"),
        ("mode: smtp", "mode: smtp\n            proxy: v1", 27, "proxy", "expected one of: none, v2", "v2"),
        ("    dane:", "    challenge: {type: smtp-01}\n    dane:", 16, "type", "unknown type 'smtp-01'", "http-01"),
        ("    dane:", "    challenge: {webroot: /srv}\n    dane:", 16, "webroot", "dns-01 has no webroot", "take"),
        ("    dane:", "    challenge: {listen: ['::1']}\n    dane:", 16, "listen", "dns-01 has no listen", "take"),
        ("    dane:", f"{HTTP}webroot: srv}}\n    dane:", 16, "webroot", "'srv' is not absolute", "begin it with /"),
        ("    dane:", f"{HTTP}listen: [lo]}}\n    dane:", 16, "listen", "'lo' is no address", "127.0.0.1:8402"),
        ("    dane:", f"{HTTP}listen: ['::1'], webroot: /a}}\n    dane:", 16, "listen", "there is a webroot", "one"),
        ("    dane:", f"{HTTP}webrot: /a}}\n    dane:", 16, "webrot", "unknown key", "did you mean webroot?"),
        ("names: [mx1", f"names: ['*.example.org']\n{HTTP}}}\n    drop_names: [mx1", 14, "type",
         "http-01 cannot validate *.example.org", "only dns-01"),
        ("ttl: 30m", "ttl: !!str 30m", 17, "", "a tag (!) is not used", "in quotes"),
        ("ttl: 30m", "ttl: !!timestamp foo", 17, "", "a tag (!) is not used", "in quotes"),
        ("ttl: 30m", f"ttl: {'9' * 5000}d", 17, "ttl", "expected a duration", "such as 90d"),
        ("ttl: 30m", f"ttl: {'9999999d' * 200}", 17, "ttl", "expected a duration", "such as 90d"),
        ("ttl: 30m", "ttl: 9999999d9999999d", 17, "ttl", "is more than 2d", "to renew"),
        ("ttl: 30m", "ttl: ٣m", 17, "ttl", "expected a duration", "such as 90d"),
        ("port: 25", "port: 0465", 25, "port", "0465 is no plain number", "digits alone"),
        ("port: 25", "port: 7:45", 25, "port", "7:45 is no plain number", "digits alone"),
        ("port: 25", f"port: {'9' * 5000}", 25, "port", "not a value of its kind", "in quotes"),
        ("port: 25", "port: 2026-99-99", 25, "port", "not a value of its kind", "in quotes"),
        ("host: mx1.example.org", 'host: "mx1\\e[31m.example.org"', 24, "host", "cannot be seen", "by hand"),
        ("mx1.example.org:\n", '"mx1\\n":\n', 11, "", "a key here is no name", "config.example.yaml"),
        ("  mx1.example.org:\n", "  ? [a, b]\n  :\n", 11, "", "a key here is no name", "config.example.yaml"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_line_its_key_and_the_remedy(
    tmp_path: Path, before: str, after: str, line: int, key: str, said: str, hint: str
) -> None:
    """file:line: the whole path of the key: what is wrong there; and a hint."""
    assert GOOD.count(before) >= 1
    error = refused(tmp_path, GOOD.replace(before, after, 1))
    head, _, rest = error.detail.removeprefix(f"{tmp_path}/c.yaml:").partition(": ")
    assert int(head) == line, error
    assert key in rest
    assert said in rest
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe\x00", "not UTF-8 at byte 0"),
        (b"ca: \xe9t\xe9", "not UTF-8 at byte 4"),
        ("a: [1, 2", ": did not find expected"),
        ("a: b: c", ":1: "),
        ("\tca: x", ":1: "),
        ("", "ca is missing"),
        ("just text", "expected a mapping"),
        ("- a\n- b\n", "expected a mapping"),
        ("? [a, b]\n: c\n", ":1"),
        ("ca: !!python/object/apply:os.system [true]\ncertificates: {}", ":1"),
        ("ca: &x {le: *x}\ncertificates: {}", ":1"),
        (b"#" * (MAX_BYTES + 1), f"larger than {MAX_BYTES} bytes"),
        ("\x00", ":1"),
    ],
)
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str | bytes, said: str) -> None:
    """Not YAML, not UTF-8, not a mapping, too large, or with tricks: one error of the file."""
    assert said in refused(tmp_path, text).detail


LOAD = """
import pathlib, sys
from certagent import errors
from certagent.config.load import load
try:
    load(pathlib.Path(sys.argv[1]))
except errors.Error as error:
    print(error.code)
"""


def refused_in_time(path: Path, text: str) -> str:
    """The code of the error, from a process of its own that may take half a minute."""
    path.touch(0o600)
    path.write_text(text)
    command = [sys.executable, "-c", LOAD, str(path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr[-500:]
    return ended.stdout.strip()


def test_billions_of_laughs_are_refused(tmp_path: Path) -> None:
    """Aliases that grow exponentially eat neither the memory nor the day."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert refused_in_time(tmp_path / "c.yaml", "\n".join(lines) + "\nca: {}\ncertificates: {}\n").startswith("config.")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    """A file of brackets is an error, not the end of the interpreter."""
    assert refused_in_time(tmp_path / "c.yaml", "[" * 20000 + "]" * 20000).startswith("config.")


def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    """Told as what it is."""
    with pytest.raises(Misconfigured, match="is not a regular file"):
        load(tmp_path)


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from("dhms")), min_size=1, max_size=4))
def test_durations_add_up(parts: list[tuple[int, str]]) -> None:
    """1h30m is 90 minutes."""
    seconds = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    text = "".join(f"{n}{unit}" for n, unit in parts)
    assert duration(text) == timedelta(seconds=sum(n * seconds[unit] for n, unit in parts))


# ---- the example ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not EXAMPLE.exists(), reason="config.example.yaml is not there yet")
class TestExample:
    def test_it_is_a_sound_configuration(self, tmp_path: Path) -> None:
        """The example can be used as it stands, but for names and paths."""
        assert read(tmp_path, EXAMPLE.read_text()).certificates

    def test_it_is_sound_with_every_key_switched_on(self, tmp_path: Path) -> None:
        """What is commented out is right too."""
        text = re.sub(r"(?m)^( *)#(?! )", r"\1", EXAMPLE.read_text())
        assert read(tmp_path, text).certificates

    def test_it_has_every_key(self) -> None:
        """Every key of every section is there, on or commented out."""
        from certagent.dns.providers import command, rfc2136
        from certagent.mta.postfix import server as postfix

        text = EXAMPLE.read_text()
        sections: list[Any] = [Ca, Dns, ServiceKeys, ChallengeKeys, Dane, Certificate]
        plugins: list[Any] = [rfc2136.Options, command.Options, postfix.Options]
        top: list[str] = ["state_dir", "ca", "dns", "certificates", "type"]
        keys = top + [f.encode_name for s in sections + plugins for f in msgspec.structs.fields(s)]
        missing = [key for key in keys if not re.search(rf"(?m)^[ #]*(- *)?(\{{[^}}]*)?\b{key}:", text)]
        assert missing == []


# ---- anything at all ------------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), st.text(max_size=8),
    st.sampled_from(["never", "1h", "3 1 1", "smtp", "le", "mx1.example.org", "*.example.org", "/x", "ä.example"]),
    st.dates(), st.binary(max_size=4),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(sorted(set(re.findall(r"[a-z_0-9.]{2,}", GOOD)))), st.text(max_size=5), st.integers()
)  # fmt: skip
TREES: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def survives(place: Path, text: str | bytes) -> None:
    """A configuration or an Error that names the file; never anything else."""
    caught = None
    try:
        read(place, text)
    except Error as error:
        caught = error
    if caught:
        assert caught.code.startswith("config.")
        assert str(place) in caught.detail
        assert caught.hint


@given(TREES)
@QUICK
def test_any_document_is_read_or_refused(tmp_path: Path, tree: object) -> None:
    """Whatever YAML can say."""
    survives(tmp_path, yaml.dump(tree, allow_unicode=True))


@given(st.data())
@QUICK
def test_any_value_in_place_of_a_right_one_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """The example with one value exchanged for anything, or one key for another."""
    tree = yaml.safe_load(GOOD)
    parent: Any = tree
    key: Any = "ca"
    node: Any = tree
    while isinstance(node, dict | list) and node and (node is tree or data.draw(st.integers(0, 3))):
        parent = typing.cast("Any", node)
        key = data.draw(st.sampled_from(list(parent) if isinstance(node, dict) else list(range(len(parent)))))
        node = parent[key]
    if hasattr(parent, "keys") and data.draw(st.booleans()):
        parent[data.draw(KEYS)] = parent.pop(key)
    else:
        parent[key] = data.draw(TREES)
    survives(tmp_path, yaml.dump(tree, allow_unicode=True))


@given(st.binary(max_size=200))
@example(b"%YAML 9.9\n---\n")
@example(b"--- a\n--- b\n")
@example(b"!!timestamp 2026-99-99")
@example(b"2026-99-99: 1")
@example(b"!!int x")
@example(b"!!float [1]")
@example(b"&a [*a]")
@example(b"ca: {le: {directory: 1:99}}\n<<: {a: b}")
@example(b"\xef\xbb\xbfca: {}")
@example(b"ca: !!binary \xc3\xa4")
@QUICK
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    """Whatever a disk can hold."""
    survives(tmp_path, data)


@given(
    st.integers(0, len(GOOD)),
    st.integers(0, 5),
    st.text(alphabet=st.sampled_from("{}[]:,-#&*!|>'\"% \n\tä0"), max_size=3),
)
@QUICK
def test_any_slip_of_the_pen_is_read_or_refused(tmp_path: Path, at: int, deleted: int, inserted: str) -> None:
    """The example with some characters lost and others in their place."""
    survives(tmp_path, GOOD[:at] + inserted + GOOD[at + deleted :])


def test_every_kind_of_value_is_frozen(tmp_path: Path) -> None:
    """Nobody changes the configuration of a running daemon but SIGHUP."""
    spec = read(tmp_path, GOOD).certificates["mx1.example.org"].spec
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
        spec.ttl_s = 1  # pyright: ignore[reportAttributeAccessIssue]
