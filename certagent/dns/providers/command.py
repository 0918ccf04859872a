"""A DNS provider that is an operator's program: any language, any API, one short protocol.

The program is started once per call, without a shell, with the `args` of the configuration and a small environment
(`PATH`, `LC_ALL`, and `env` of the configuration). Nobody besides root and certagent's user may be able to change it,
see `host/trust.py`. Its standard input is one JSON object:

    {"version": 1, "action": "get" | "add" | "remove", "zone": "example.org.", "name": "_25._tcp.mx1.example.org.",
     "type": "TLSA" | "TXT", "values": ["3 1 1 …"], "ttl_s": 3600}

`values` is empty for `get`, and `ttl_s` counts for `add` only. It prints one JSON object, at most 64 KiB, and ends:

    {"ok": true, "rrset": {"values": ["3 1 1 …"], "ttl_s": 3600}}     for `get`; `"rrset": null` where there is none
    {"ok": true}                                                      for `add` and `remove`, when it is done
    {"ok": false, "error": "transient" | "rejected" | "misconfigured", "detail": "what failed", "hint": "the remedy"}

The rules for the three actions are those of `certagent.dns.provider`; `certagent.testing` has checks for them.
`transient` leaves open whether a change has happened, the other two say that it has not. `ok: true` counts only with
exit status 0, `ok: false` with any. Everything else (no answer or one that is not understood, the time limit, death by
a signal) is taken as `transient`: certagent will ask DNS and try again. At the time limit the program's whole process
group is killed. The end of its standard error is shown with an error, so it must hold no secret.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from certagent.dns.message import absolute, zone_of
from certagent.dns.providers.protocol import RdType, RRset
from certagent.errors import Error, Misconfigured, Rejected, Transient
from certagent.host.programs import Result, check, run

MAX_STDOUT_BYTES = 64 * 1024  # hundreds of records; more is a program that has run wild
MAX_DETAIL_CHARS = 300  # a few lines of a terminal


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """The provider's part of the config."""

    program: str
    """Absolute path; owned by root or certagent's user, and nobody else may write to it."""
    zones: tuple[str, ...]
    args: tuple[str, ...] = ()
    timeout_s: float = 30.0
    env: dict[str, str] = {}
    """Added to the environment. Secrets belong into a file that only the program reads."""


class Request(Struct, frozen=True):
    """What the program reads."""

    action: Literal["get", "add", "remove"]
    zone: str
    name: str
    type: RdType
    values: tuple[str, ...] = ()
    ttl_s: int = 0
    version: int = 1


class Found(Struct, frozen=True):
    """An RRset as the program tells it."""

    values: frozenset[str]
    ttl_s: int


class Reply(Struct, frozen=True):
    """What the program prints; unknown fields are passed over, so that a newer program works with this version."""

    ok: bool
    rrset: Found | None = None
    error: Literal["transient", "rejected", "misconfigured"] = "transient"
    detail: str = ""
    hint: str = ""


class Command:
    """See `certagent.dns.provider.Provider` for what the methods promise, and the module for what the program must do.

    Raises:
        Misconfigured: `dns.program`: the program cannot be run, or others may write to it.
    """

    Options = Options

    def __init__(self, options: Options) -> None:
        self.zones = tuple(absolute(zone) for zone in options.zones)
        self._options = options
        check(options.program, "dns.program")

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """The RRset as the program reports it."""
        found = self._call(Request("get", self._zone(name), name, rdtype), "dns.unreachable").rrset
        return RRset(found.values, found.ttl_s) if found and found.values else None

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int) -> None:
        """Has the program make sure that the values are there."""
        request = Request("add", self._zone(name), name, rdtype, tuple(sorted(values)), ttl_s)
        self._call(request, "dns.unknown_outcome")

    def remove(self, name: str, rdtype: RdType, values: frozenset[str]) -> None:
        """Has the program make sure that the values are not there."""
        request = Request("remove", self._zone(name), name, rdtype, tuple(sorted(values)))
        self._call(request, "dns.unknown_outcome")

    def _zone(self, name: str) -> str:
        zone = zone_of(name, self.zones)
        if zone is None:
            raise Misconfigured(
                "dns.no_zone", f"{name} is in none of the zones {', '.join(self.zones)}", "list its zone"
            )
        return zone

    def _call(self, request: Request, lost: str) -> Reply:
        options = self._options
        try:
            result = run(
                [options.program, *options.args],
                options.timeout_s,
                env={"LC_ALL": "C.UTF-8", **options.env},
                code="dns.program",
                text=msgspec.json.encode(request).decode(),
                limit_bytes=MAX_STDOUT_BYTES + 1,
            )
        except Transient as error:
            raise Transient(lost, printable(error.detail), error.hint) from None
        return judge(options.program, result, lost)


# -- pure ------------------------------------------------------------------------------------------------------------


def judge(program: str, result: Result, lost: str) -> Reply:
    """The program's answer, or the error that it means; `lost` is the code if there is no valid answer."""
    if len(result.out.encode()) > MAX_STDOUT_BYTES:
        raise Transient(lost, f"{program}: printed more than {MAX_STDOUT_BYTES} bytes")
    try:
        reply = msgspec.json.decode(result.out, type=Reply)
    except (msgspec.DecodeError, RecursionError):  # also of a valid JSON that is no Reply
        reply = None
    if reply is not None:
        if not reply.ok:
            raise _told(program, reply, result.err, lost)
        if result.code == 0:
            return reply
    why = f"exit status {result.code}" if result.code else "its output is no valid answer"
    raise Transient(lost, printable(f"{program}: {why}", result.err))


def _told(program: str, reply: Reply, stderr: str, lost: str) -> Error:
    detail, hint = printable(f"{program}: {reply.detail or reply.error}", stderr), printable(reply.hint)
    match reply.error:
        case "rejected":
            return Rejected("dns.rejected", detail, hint)
        case "misconfigured":
            return Misconfigured("dns.refused", detail, hint)
        case "transient":
            return Transient(lost, detail, hint)


def printable(text: str, stderr: str = "") -> str:
    """The text and the end of what went to standard error, on one line, without control characters."""
    lines = stderr.split("\n")
    text = " | ".join([text[:MAX_DETAIL_CHARS], *(line.strip() for line in lines if line.strip())])
    text = "".join(c if c.isprintable() else " " for c in text)
    # The beginning says which program and what; the end of the output says why.
    half = MAX_DETAIL_CHARS // 2
    return text if len(text) <= MAX_DETAIL_CHARS else f"{text[: half - 1]}…{text[-half:]}"
