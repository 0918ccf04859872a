"""Every parser of bytes that somebody else wrote: how it is called, what it starts from, what may come out of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rrset
from dns.rdatatype import CNAME, TLSA, TXT
from msgspec import Struct

from certagent.acme import ari, transport
from certagent.acme.challenges import dnspersist01, http01
from certagent.config import load
from certagent.dns.message import read, zone_of
from certagent.dns.providers import program, tsigkey
from certagent.errors import Error
from certagent.facts.retryafter import retry_after_s
from certagent.host.processes import pid_file
from certagent.host.programs import Result
from certagent.mta import pemfile
from certagent.mta.dovecot import doveconf
from certagent.mta.exim import eximconf
from certagent.mta.opensmtpd import smtpdconf
from certagent.mta.ports import port_of
from certagent.mta.postfix import postconf, snimap
from certagent.mta.sendmail import sendmailcf
from certagent.pki import bundle, endpoint, keys, names, tlsa, weburl
from certagent.probe.starttls import Unseen, reply
from certagent.secret import Secret
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
    return answer.location


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
    window = {"suggestedWindow": {"start": "2026-11-30T00:00:00Z", "end": "2026-12-01T00:00:00Z"}}
    hook = {"ok": True, "rrset": {"values": ["3 1 1 aa"], "ttl_s": 60}}
    pem = made.leaf().pem + made.issuing().pem + made.root().pem
    key = b'key "k" { algorithm hmac-sha256; secret "c2VjcmV0"; }; // x\n/* y */ options { z; };'
    conf = (
        b'pki a cert "/a"\ninclude "/b"\nlisten on lo port 25 tls pki a\nm = "x"\nlisten on $m port smtps \\\n smtps\n'
    )
    return {
        "acme answer": Parser(acme, (json.dumps(directory).encode(), json.dumps(problem).encode(), b"https://ca/x")),
        "acme window": Parser(
            lambda data: ari.window(data, None), (json.dumps(window).encode(),), (ValueError, RecursionError)
        ),
        "chain": Parser(chain, (pem,)),
        "configuration": Parser(config, (GOOD,)),
        "der": Parser(lambda data: bundle.facts([data]), (made.leaf().der, made.root().der)),
        "dns answer": Parser(dns_answer, (answer.to_wire(),)),
        "dns server": Parser(
            lambda data: endpoint.server(text(data)), (b"[::1]:53", b"ns1.a.:53", b"192.0.2.1"), (ValueError,)
        ),
        "doveconf": Parser(
            lambda data: list(doveconf.parse(text(data))),
            (b"# 2.3.19 (9b5): /etc/d.conf\nlocal_name a {\n ssl_cert = </a\n}\n",),
        ),
        "exim list": Parser(exim, (b"<; a ; b;;c", b"25 : smtps", b"x = 1 \\\n 2\n${tls_in_sni}\nbegin acl\n")),
        "http request": Parser(
            http01.asked, (b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n", b"HEAD http://x/a HTTP/1.0\r\n")
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
        "smtp reply": Parser(smtp_reply, (b"250-mx\n250-SIZE\n250 STARTTLS\n",), (Error, Unseen)),
        "smtpd.conf": Parser(in_file(smtpdconf.read), (conf,)),
        "sni map": Parser(lambda data: snimap.entries(text(data)), (b"# x\nmx1.a /k /c\n  /d\nb /e\n",)),
        "tsig key": Parser(lambda data: tsigkey.parse(text(data), "f"), (key,)),
        "url": Parser(url, (b"https://ca.example:8443/dir?x", b"https://[::1]/", b"https://u:p@a/")),
        "word": Parser(one_line, (b"3 1 1 " + b"ab" * 32, b"*.mx1.example.org", b"submissions", b"0465")),
    }


def corpus(name: str) -> Iterator[bytes]:
    """What was found for this parser: one Python literal a line."""
    import ast

    file = Path(__file__).with_name("corpus") / f"{name.replace(' ', '-')}.txt"
    for line in file.read_text(encoding="ascii").splitlines() if file.exists() else ():
        yield ast.literal_eval(line)
