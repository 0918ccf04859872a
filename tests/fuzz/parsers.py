"""Every parser of bytes that somebody else wrote: how it is called, what it starts from, what may come out of it."""

from __future__ import annotations

import ipaddress
import json
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import dns.exception
import dns.flags
import dns.message
import dns.rrset
from cryptography import x509
from dns.rdatatype import CNAME, TLSA, TXT
from msgspec import Struct

from certagent.acme import ari, objects, transport
from certagent.acme.challenges import dns01, dnspersist01, http01
from certagent.acme.challenges.protocol import Offer
from certagent.acme.https import Response
from certagent.config import load
from certagent.dns import resolvconf, validator
from certagent.dns.message import read, zone_of
from certagent.dns.providers import child, program, tsigkey
from certagent.errors import Error
from certagent.facts.retryafter import retry_after_s
from certagent.host import proc
from certagent.host.processes import pid_file
from certagent.host.programs import Result
from certagent.host.sockets import listening
from certagent.mta import pemfile
from certagent.mta.dovecot import doveconf
from certagent.mta.exim import eximconf
from certagent.mta.opensmtpd import discovery as opensmtpd
from certagent.mta.opensmtpd import smtpdconf
from certagent.mta.ports import port_of
from certagent.mta.postfix import postconf, snimap
from certagent.mta.sendmail import sendmailcf
from certagent.pki import bundle, endpoint, keys, names, tlsa, weburl
from certagent.probe import starttls
from certagent.probe.starttls import Unseen, reply
from certagent.secret import Secret
from tests.fuzz import services
from tests.pki import made

NAME = "_25._tcp.mx1.example.org."
NOW = datetime(2026, 11, 30, tzinfo=UTC)
GOOD = (Path(__file__).resolve().parents[2] / "config.example.yaml").read_bytes()


class Parser(Struct, frozen=True):
    """`call` raises nothing but `may`; `starts`: sound inputs, which are changed."""

    call: Callable[[bytes], object]
    starts: tuple[bytes, ...]
    may: tuple[type[Exception], ...] = (Error,)


def text(data: bytes) -> str:
    """As a program's output and a server's file are read."""
    return data.decode("utf-8", "replace")


def in_file(function: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A parser that opens the file itself."""
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 -- it is gone when the parser is
    path = Path(file.name)

    def call(data: bytes) -> object:
        file.seek(0)
        file.truncate()
        file.write(data)
        file.flush()
        return function(path)

    return call


def acme(data: bytes) -> object:
    """An answer of a CA, good or bad, as every kind of object."""
    for status in (200, 403, 429, 503):
        answer = transport.Answer("ca.example/x", status, {"Location": text(data), "Retry-After": text(data)}, data)
        said = answer.problem()
        assert (said.detail + said.hint).isprintable()
        for kind in (transport.Directory, transport.Problem, transport.Identifier):
            try:
                answer.read(kind)
            except Error:
                continue
        linking = transport.Answer("ca.example/x", status, {"Link": text(data)}, data)
        assert all(map(weburl.is_https, linking.links("alternate")))
    return transport.Answer("ca.example/x", 201, {"Location": text(data)}, data).location


def acme_objects(data: bytes) -> object:
    """Orders and authorizations of a CA, and the responses to its challenges."""
    answer = transport.Answer("ca.example/x", 200, {}, data)
    found: list[object] = []
    for kind in (objects.Order, objects.Account, objects.Authorization):
        try:
            found.append(one := answer.read(kind))
        except Error:
            continue
        if isinstance(one, objects.Authorization):
            of = one.identifier.value
            found += [dns01.Dns01.respond(Offer(of, challenge.token, "thumbprint")) for challenge in one.challenges]
    return found


def redirect(data: bytes) -> object:
    """Where a CA sends its clients, and what nonce it gives."""
    headers = {"Location": data.decode("latin-1"), "Replay-Nonce": data.decode("latin-1")}
    answers = iter((302, 307, 200, 200))

    def request(*_: object, **__: object) -> Response:
        return Response(next(answers), headers, b"{}")

    return transport.Transport("https://ca.example/dir", cast("Any", SimpleNamespace(request=request))).directory()


def der(data: bytes) -> object:
    found = bundle.facts([data])
    return found, ari.certificate_id(x509.load_der_x509_certificate(data))


def url(data: bytes) -> object:
    shown = weburl.place(text(data))
    assert shown.isprintable()
    return weburl.is_https(text(data))


def dns_answer(data: bytes) -> object:
    try:
        message = dns.message.from_wire(data)
    except dns.exception.DNSException:  # as `exchange` and `answer_to` do
        return None
    return [read(message, NAME, rdtype) for rdtype in (TLSA, TXT, CNAME)]


def one_line(data: bytes) -> object:
    """The small ones."""
    word = text(data)
    found: list[object] = [port_of(word), zone_of(word, (word, "example.org."))]
    for parse in (tlsa.usable, names.identifier):
        try:
            found.append(parse(word))
        except Error:
            continue
    return found


def program_answer(data: bytes) -> object:
    request = program.Request(2, "get", "example.org.", NAME, "TLSA")
    reply_ = program.judge("hook", request, Result(0, text(data), text(data)), "dns.unreachable")
    return program.rrset(reply_.rrset, "TLSA")


def smtp_reply(data: bytes) -> object:
    lines = iter(data.split(b"\n"))
    return reply(lambda: next(lines, b""))


def dialogue(data: bytes) -> object:
    """All that a server says before TLS, in each protocol."""
    said = [str(starttls.in_the_clear(data))]
    for mode in ("smtp", "imap", "pop3", "sieve"):
        try:
            starttls.begin(Said(data), mode, ehlo="probe.example")
        except starttls.Unseen as error:
            said.append(str(error))
    assert all(map(str.isprintable, said))
    return said


class Said(starttls.Stream):
    """A connection on which all has come already."""

    def __init__(self, data: bytes) -> None:
        self._buffer, self.deadline = data, 0.0

    def receive(self) -> bytes:
        return b""

    def send(self, data: bytes) -> None:
        """Nobody hears it."""

    def own_address(self) -> str:
        return "192.0.2.1"


def resolv_conf(path: Path) -> object:
    with patch.object(resolvconf, "_RESOLV_CONF", path):
        return [ipaddress.ip_address(address) for address in resolvconf.resolvers()]


def sockets(path: Path) -> object:
    """As /proc shows them: a table of the kernel, with whatever a container puts in its place."""
    with tempfile.TemporaryDirectory() as root, patch.object(proc, "ROOT", Path(root)):
        net = Path(root, "self", "net")
        net.mkdir(parents=True)
        for table in ("tcp", "tcp6"):
            (net / table).symlink_to(path)
        return listening()


def dovecot_file(path: Path) -> object:
    return doveconf.lines(doveconf.Settings(str(path), newer=True, ssl="yes", blocks=()))


def exim_file(data: bytes) -> object:
    """What an operator may have written there."""
    word = text(data)
    return eximconf.changed(word, {"tls_certificate": "/x", "tls_privatekey": None}, frozenset({"TLS"}))


def smtpd_file(data: bytes) -> object:
    word = text(data)
    pki = opensmtpd._PKI.sub(lambda line: line["before"] + line["file"], word)  # pyright: ignore[reportPrivateUsage]
    return pki, opensmtpd._LISTEN.findall(word)  # pyright: ignore[reportPrivateUsage]


def child_answer(data: bytes) -> object:
    """Of a provider that is a process of its own."""
    call = child._Call("a:b", None, 1.0, "get", NAME, "TLSA")  # pyright: ignore[reportPrivateUsage]
    judged = cast("Any", child.InChild)._judged
    return judged(SimpleNamespace(SERVICE="x"), Result(0, text(data), ""), call, "dns.unreachable")


def exim(data: bytes) -> object:
    word = text(data)
    settings: dict[str, str] = {"tls_certificate": word, "tls_privatekey": word}
    return eximconf.items(word), eximconf.ports(word), eximconf.variables(settings), eximconf.changed(word, settings)


def chain(data: bytes) -> object:
    return bundle.build(made.leaf().key, data, names=[made.HOST], now=made.NOW)


def config(data: bytes) -> object:
    return load._check(Path("/c.yaml"), data)  # pyright: ignore[reportPrivateUsage]


@cache
def parsers() -> dict[str, Parser]:
    """By name."""
    answer = dns.message.make_response(dns.message.make_query(NAME, TLSA))
    answer.flags |= dns.flags.AA
    for name, *rrset in ((NAME, "TLSA", "3 1 1 " + "aa" * 32), (NAME, "CNAME", "t."), ("org.", "DNAME", "n.")):
        answer.answer.append(dns.rrset.from_text(name, 300, "IN", *rrset))
    directory = {name: f"https://ca.example/{name}" for name in ("newNonce", "newAccount", "newOrder", "revokeCert")}
    problem = {"type": "urn:ietf:params:acme:error:caa", "detail": "no", "subproblems": [{"detail": "x"}]}
    order = {"status": "valid", "finalize": "https://ca/f", "expires": "2026-12-01T00:00:00Z", "error": problem}
    to_meet = {"type": "dns-01", "url": "https://ca/c", "token": "x-_", "error": problem}
    authorization = {"identifier": {"type": "dns", "value": made.HOST}, "status": "pending", "challenges": [to_meet]}
    window = {"suggestedWindow": {"start": "2026-11-30T00:00:00Z", "end": "2026-12-01T00:00:00Z"}}
    hook = {"ok": True, "rrset": {"values": ["3 1 1 aa"], "ttl_s": 60}}
    pem = made.leaf().pem + made.issuing().pem + made.root().pem
    key = b'key "k" { algorithm hmac-sha256; secret "c2VjcmV0"; }; // x\n/* y */ options { z; };'
    conf = (
        b'pki a cert "/a"\ninclude "/b"\nlisten on lo port 25 tls pki a\nm = "x"\nlisten on $m port smtps \\\n smtps\n'
    )
    return {
        "acme answer": Parser(acme, (json.dumps(directory).encode(), json.dumps(problem).encode(), b"https://ca/x")),
        "acme objects": Parser(acme_objects, tuple(json.dumps(one).encode() for one in (order, authorization))),
        "acme redirect": Parser(redirect, (b"https://ca.example/y", b"/z?x", b"//[::1]:1/")),
        "acme window": Parser(
            lambda data: ari.window(data, None), (json.dumps(window).encode(),), (ValueError, RecursionError)
        ),
        "chain": Parser(chain, (pem,)),
        "configuration": Parser(config, (GOOD,)),
        "der": Parser(der, (made.leaf().der, made.root().der)),
        "dns answer": Parser(dns_answer, (answer.to_wire(),)),
        "child": Parser(child_answer, (b'{"rrset":{"values":["3 1 1 aa"],"ttl_s":60}}',)),
        "delv": Parser(
            lambda data: validator.verdict(text(data), text(data)),
            (b"; fully validated\n", b";; resolution failed: broken trust chain\n"),
        ),
        "dialogue": Parser(
            dialogue,
            (
                b"220 mx\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n",
                b"* OK [CAPABILITY IMAP4rev1 STARTTLS] x\r\na2 OK\r\n",
                b"* OK\r\n* CAPABILITY STARTTLS\r\na1 OK\r\na2 NO x\r\n",
                b"+OK\r\n+OK\r\nSTLS\r\n.\r\n+OK\r\n",
                b'"STARTTLS"\r\nOK {3}\r\nabc\r\nOK\r\n',
            ),
            (Error, Unseen),
        ),
        "dns server": Parser(
            lambda data: endpoint.server(text(data)), (b"[::1]:53", b"ns1.a.:53", b"192.0.2.1"), (ValueError,)
        ),
        "doveconf": Parser(
            lambda data: list(doveconf.parse(text(data))),
            (b"# 2.3.19 (9b5): /etc/d.conf\nlocal_name a {\n ssl_cert = </a\n}\n",),
        ),
        "dovecot.conf": Parser(in_file(dovecot_file), (b"protocol imap {\n ssl_server_cert_file = /a # x\n}\n",)),
        "exim.conf": Parser(
            exim_file, (b".ifdef TLS\ntls_certificate = /a \\\n /b\n.else\nhide tls_privatekey = /k\n.endif\nbegin\n",)
        ),
        "exim list": Parser(exim, (b"<; a ; b;;c", b"25 : smtps", b"x = 1 \\\n 2\n${tls_in_sni}\nbegin acl\n")),
        "http request": Parser(
            http01.asked,
            (b"GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: x\r\n\r\n", b"HEAD http://a/x?y HTTP/1.0"),
        ),
        "persistent record": Parser(
            lambda data: dnspersist01.parsed(text(data)), (b"ca.example; accounturi=https://ca/1; persistUntil=18",)
        ),
        "http date": Parser(
            lambda data: retry_after_s(text(data), NOW, transport.RETRY_AFTER_MAX_S),
            (b"120", b"Mon, 30 Nov 2026 12:00:30 GMT"),
        ),
        "key": Parser(lambda data: keys.load(Secret(data)), (made.leaf().key.reveal(),)),
        "pem": Parser(lambda data: (pemfile.blocks(data), pemfile.first_certificate(data)), (pem,)),
        "pid file": Parser(in_file(pid_file), (b"4194304\nsendmail -bd\n",)),
        "postconf": Parser(lambda data: postconf.parse(text(data)), (b"a = b\nsmtp/inet/a = b\n",)),
        "program": Parser(program_answer, (json.dumps(hook).encode(), b'{"ok":false,"detail":"x"}')),
        "sendmail.cf": Parser(
            in_file(sendmailcf.read), (b"O DaemonPortOptions=Port=smtp, Addr=::1, M=Ea\nO PidFile=/p\n",)
        ),
        "resolv.conf": Parser(in_file(resolv_conf), (b"# x\nnameserver 192.0.2.1\nnameserver ::1%lo\n",)),
        "knotc": Parser(services.knotc, (f"[example.org.] {NAME} 300 TLSA 3 1 1 ABAB\n".encode(),)),
        "smtp reply": Parser(smtp_reply, (b"250-mx\n250-SIZE\n250 STARTTLS\n",), (Error, Unseen)),
        "smtpd.conf": Parser(in_file(smtpdconf.read), (conf,)),
        "smtpd.conf lines": Parser(smtpd_file, (conf,)),
        "sockets": Parser(
            in_file(sockets),
            (
                b"  sl\n 0: 0100007F:0019 00000000:0000 0A 0:0 00:0 0 0 0 42 1\n 1: "
                + b"0" * 31
                + b"1:0019 0:0 0A 0 0 0 0 0 7",
            ),
        ),
        "sni map": Parser(lambda data: snimap.entries(text(data)), (b"# x\nmx1.a /k /c\n  /d\nb /e\n",)),
        "tsig key": Parser(lambda data: tsigkey.parse(text(data), "f"), (key,)),
        "url": Parser(url, (b"https://ca.example:8443/dir?x", b"https://[::1]/", b"https://u:p@a/")),
        "word": Parser(one_line, (b"3 1 1 " + b"ab" * 32, b"*.mx1.example.org", b"submissions", b"0465")),
        **{
            place.partition(":")[0]: Parser(services.parser(place), services.starts(place))
            for place in services.ANSWERS
        },
    }


def corpus(name: str) -> Iterator[bytes]:
    """What was found for this parser: one Python literal a line."""
    import ast

    file = Path(__file__).with_name("corpus") / f"{name.replace(' ', '-')}.txt"
    for line in file.read_text(encoding="ascii").splitlines() if file.exists() else ():
        yield ast.literal_eval(line)
