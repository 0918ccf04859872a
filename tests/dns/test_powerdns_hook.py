"""hooks/dns-powerdns over TLS, and with answers that a real server (tests/e2e/test_dns.py) does not give on request."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from msgspec.structs import replace

from certagent.dns.providers.command import Command, Options
from certagent.dns.providers.protocol import Capabilities, Changed
from certagent.errors import Error, Misconfigured, Rejected, Transient
from tests.lab import certificates

HOOK = Path(__file__).resolve().parents[2] / "hooks" / "dns-powerdns"
NAME = "_acme-challenge.example.org."
RECORDS = [
    {"content": '"one" " two"', "disabled": False},
    {"content": '"off"', "disabled": True},
    {"content": '"a \\" b"', "disabled": False},
    {"content": '"k\\195\\164se"', "disabled": False},
]


class Api(http.server.BaseHTTPRequestHandler):
    """Answers every GET with RECORDS, or everything with `status`; keeps what is written."""

    status = 200
    written: ClassVar[list[object]] = []

    def do_GET(self) -> None:
        rrset = {"name": NAME, "type": "TXT", "ttl": 60, "records": RECORDS, "comments": []}
        body = json.dumps({"rrsets": [rrset]} if self.status == 200 else {"error": "what is wrong"}).encode()
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(body)

    def do_PATCH(self) -> None:
        self.written.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def do_PUT(self) -> None:
        self.send_response(422)  # "not a master zone"
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of an API with TLS, and the certificate to trust."""
    pair = certificates.make(["localhost"])
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pair.chain_file)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    Api.written.clear()
    yield f"https://localhost:{server.server_address[1]}", chain
    server.shutdown()
    thread.join()
    server.server_close()


def command(tmp_path: Path, text: str) -> Command:
    ini = tmp_path / "ini"
    ini.touch(0o600)
    ini.write_text(text)
    return Command(Options(program=str(HOOK), args=(str(ini),), zones=("example.org",)))


def trusting(tmp_path: Path, api: tuple[str, Path]) -> Command:
    return command(tmp_path, f"[powerdns]\nurl={api[0]}\napi_key=k%y\nca_file={api[1]}\n")


def test_values_in_zone_file_syntax(tmp_path: Path, api: tuple[str, Path]) -> None:
    """Strings are joined and unquoted; what is disabled is not in DNS."""
    rrset = trusting(tmp_path, api).get(NAME, "TXT")
    assert rrset is not None
    assert rrset.values == {"one two", 'a " b', "käse"}


def test_other_records_are_written_back_as_they_are(tmp_path: Path, api: tuple[str, Path]) -> None:
    """Also disabled ones; and that a zone has nobody to notify is no error."""
    provider = trusting(tmp_path, api)
    was = provider.get(NAME, "TXT")
    provider.remove(NAME, "TXT", frozenset({"one two", "missing"}), was)
    provider.add(NAME, "TXT", frozenset({"off", 'new "'}), 60, was)
    provider.add(NAME, "TXT", frozenset({"one two"}), 60, was)  # is there
    provider.remove(NAME, "TXT", frozenset({"off"}), was)  # is not there
    records = [change["rrsets"][0]["records"] for change in Api.written]  # pyright: ignore
    new = [{"content": f'"{value}"', "disabled": False} for value in ("new \\034", "off")]
    assert records == [RECORDS[1:], [RECORDS[0], *RECORDS[2:], *new]]


def test_a_set_that_has_changed(tmp_path: Path, api: tuple[str, Path]) -> None:
    """By a value or by its TTL: nothing is written."""
    provider = trusting(tmp_path, api)
    was = provider.get(NAME, "TXT")
    assert was is not None
    for other in (None, replace(was, own=was.own[1:]), replace(was, ttl_s=61)):
        with pytest.raises(Changed):
            provider.add(NAME, "TXT", frozenset({"new"}), 60, other)
        with pytest.raises(Changed):
            provider.remove(NAME, "TXT", frozenset({"one two"}), other)
    assert not Api.written


def test_what_it_can_do(tmp_path: Path, api: tuple[str, Path]) -> None:
    """One PATCH is atomic; nothing in the API checks a precondition."""
    assert trusting(tmp_path, api).capabilities == Capabilities(atomic=True, precondition="none")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Misconfigured),
        (404, Misconfigured),
        (302, Misconfigured),
        (422, Rejected),
        (500, Transient),
        (503, Transient),
    ],
)
def test_errors(
    tmp_path: Path, api: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Error]
) -> None:
    """Sorted by what the operator or certagent can do; with the words of the API."""
    monkeypatch.setattr(Api, "status", status)
    with pytest.raises(kind, match="what is wrong"):
        trusting(tmp_path, api).get(NAME, "TXT")


def test_a_certificate_that_is_not_trusted(tmp_path: Path, api: tuple[str, Path]) -> None:
    """The key is not sent to it."""
    with pytest.raises(Misconfigured) as caught:
        command(tmp_path, f"[powerdns]\nurl={api[0]}\napi_key=k\n").get(NAME, "TXT")
    assert "ca_file" in caught.value.hint


WRONG = {
    "empty": "",
    "no ini file": "hidden-key\n[powerdns]\n",
    "no key": "[powerdns]\nurl=http://x\n",
    "other scheme": "[powerdns]\nurl=ftp://x\napi_key=hidden-key",
    "no port": "[powerdns]\nurl=http://x:y\napi_key=hidden-key",
    "no such CA": "[powerdns]\nurl=https://x\napi_key=hidden-key\nca_file=/missing",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_ini_file(tmp_path: Path, text: str) -> None:
    """It is named, and the key is not shown."""
    with pytest.raises(Misconfigured) as caught:
        command(tmp_path, text).get(NAME, "TXT")
    assert caught.value.code == "dns.refused"
    assert "hidden-key" not in repr(caught.value)
