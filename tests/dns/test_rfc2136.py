"""Key files, server addresses and values of the RFC 2136 provider; the rest is in tests/e2e/test_dns.py."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest

from certagent.dns.message import value_text
from certagent.dns.providers.rfc2136 import Options, Rfc2136, parse_keys, parse_server, rdata_text
from certagent.errors import Misconfigured, Rejected, Transient

SECRET = "////////////////////////////////cGFkZGluZyE="
KEY = f'key "dane-key" {{\n\talgorithm hmac-sha256;\n\tsecret "{SECRET}";\n}};\n'


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(KEY)
    return path


def make(path: Path, key_name: str = "") -> Rfc2136:
    return Rfc2136(Options(server="127.0.0.1", zones=("Example.org",), key_file=str(path), key_name=key_name))


class TestKeyFile:
    def test_as_tsig_keygen_writes_it(self) -> None:
        (key,) = parse_keys(KEY)
        assert (key.name, key.algorithm, key.secret.reveal()) == ("dane-key.", "hmac-sha256", SECRET)
        assert SECRET not in repr(key)

    def test_comments_and_other_statements(self) -> None:
        """Comments of all three kinds are no keys, and // in a secret is no comment."""
        noise = '# key a {};\n// key b {};\n/* key "c" { secret "x"; }; */\noptions { x; };\n'
        text = f'{noise}key d{{secret "{SECRET}";algorithm "HMAC-SHA512";}};'
        assert [(k.name, k.algorithm, k.secret.reveal()) for k in parse_keys(text)] == [("d.", "hmac-sha512", SECRET)]

    def test_a_key_is_chosen_by_name(self, key_file: Path) -> None:
        """Of several keys one must be named."""
        key_file.write_text(KEY + KEY.replace("dane-key", "acme-key"))
        make(key_file, "ACME-key")
        for name in ("", "other"):
            with pytest.raises(Misconfigured, match=r"secret\.file"):
                make(key_file, name)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
    def test_it_must_be_private(self, key_file: Path, mode: int) -> None:
        """The remedy is in the hint."""
        key_file.chmod(mode)
        with pytest.raises(Misconfigured) as caught:
            make(key_file)
        assert caught.value.code == "secret.mode"
        assert f"chmod 600 {key_file}" in caught.value.hint

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "nonsense",
            KEY.replace("sha256", "sha3"),
            KEY.replace(SECRET, SECRET[:-3]),
            KEY.replace("algorithm", "a"),
        ],
    )
    def test_what_is_no_key(self, key_file: Path, text: str) -> None:
        """The secret is not in the error."""
        key_file.write_text(text)
        with pytest.raises(Misconfigured) as caught:
            make(key_file)
        assert caught.value.code == "secret.file"
        assert SECRET[:20] not in repr(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match=r"secret\.file"):
            make(tmp_path / "missing")


class TestServer:
    @pytest.mark.parametrize(
        ("text", "server"),
        [
            ("192.0.2.1", ("192.0.2.1", 53)),
            ("192.0.2.1:5353", ("192.0.2.1", 5353)),
            ("ns1.example.org:5353", ("ns1.example.org", 5353)),
            ("[::1]:5353", ("::1", 5353)),
            ("[::1]", ("::1", 53)),
            ("2001:db8::1", ("2001:db8::1", 53)),
        ],
    )
    def test_forms(self, text: str, server: tuple[str, int]) -> None:
        assert parse_server(text) == server

    @pytest.mark.parametrize("text", ["", "[::1", "ns1:port", "ns1:", "a b", "ns1:0", "ns1:65536"])
    def test_what_is_no_server(self, text: str) -> None:
        with pytest.raises(Misconfigured, match=r"dns\.options"):
            parse_server(text)


class TestValues:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("a b", '"a b"'),
            ("", '""'),
            ('a"b\\', '"a\\034b\\092"'),
            ("ä", '"\\195\\164"'),
            ("x" * 256, f'"{"x" * 255}" "x"'),
        ],
    )
    def test_text(self, value: str, text: str) -> None:
        """A TXT is quoted and split, and reads back as it was."""
        assert rdata_text("TXT", value) == text
        assert value_text(dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, text)) == value

    def test_tlsa(self) -> None:
        assert rdata_text("TLSA", "3 1 1 AA bb") == "3 1 1 aabb"

    def test_what_a_record_cannot_hold(self) -> None:
        with pytest.raises(Rejected, match=r"dns\.rejected"):
            rdata_text("TXT", "x" * 65000)

    def test_a_name_in_no_zone(self, key_file: Path) -> None:
        """Nothing is sent."""
        provider = make(key_file)
        assert provider.zones == ("example.org.",)
        for call in (
            lambda: provider.get("x.example.net.", "TXT"),
            lambda: provider.add("x.example.net.", "TXT", frozenset({"x"}), 60, None),
            lambda: provider.remove("x.example.net.", "TXT", frozenset({"x"}), None),
        ):
            with pytest.raises(Misconfigured, match=r"dns\.no_zone"):
                call()


class TestTime:
    @pytest.mark.parametrize("beginning", [b"", b"\xff\xff"])
    def test_a_server_that_drips_is_cut_off(self, key_file: Path, beginning: bytes) -> None:
        """Each byte comes in time; all of them would take an hour."""

        def drip() -> None:
            with server.accept()[0] as client, suppress(OSError):
                client.sendall(beginning)
                while not gone.wait(0.05):
                    client.sendall(b"\x01")

        gone = Event()
        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(2) as pool:
            pool.submit(drip)
            where = f"127.0.0.1:{server.getsockname()[1]}"
            options = Options(server=where, zones=("example.org",), key_file=str(key_file), timeout_s=1)
            with pytest.raises(Transient, match="gave no answer within 1 s") as caught:
                pool.submit(Rfc2136(options).add, "a.example.org.", "TXT", frozenset({"x"}), 60, None).result(60)
            gone.set()
        assert caught.value.code == "dns.unknown_outcome"
