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
from certagent.dns.providers.rfc2136 import Options, Rfc2136, rdata_text
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


@pytest.mark.parametrize("server", ["", "a..b", "[::1", "ns1:port", "ns1:0", "a b"])
def test_what_is_no_server(key_file: Path, server: str) -> None:
    """It is refused before anything is asked."""
    with pytest.raises(Misconfigured, match=r"dns\.options"):
        Rfc2136(Options(server=server, zones=("example.org",), key_file=str(key_file)))


@pytest.mark.parametrize(
    "zones", [(), ("a..b",), ("*.example.org",), ("x" * 64 + ".org",), ("",), ("b\xfccher.example",)]
)
def test_what_is_no_zone(key_file: Path, zones: tuple[str, ...]) -> None:
    """It is refused before anything is asked."""
    with pytest.raises(Misconfigured, match=r"dns\.options"):
        Rfc2136(Options(server="127.0.0.1", zones=zones, key_file=str(key_file)))


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
            options = Options(server=where, zones=("example.org",), key_file=str(key_file), timeout="1s")
            with pytest.raises(Transient, match="gave no answer within 1 s") as caught:
                pool.submit(Rfc2136(options).get, "a.example.org.", "TXT").result(60)
            gone.set()
        assert caught.value.code == "dns.unreachable"
