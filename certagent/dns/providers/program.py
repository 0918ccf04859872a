"""What certagent and a provider's program say to each other: one JSON object in, one out. All pure; see `command`.

Version 2. The program reads one request:

    {"version": 2, "action": "capabilities"}
    {"version": 2, "action": "get" | "add" | "remove", "zone": "example.org.", "name": "_25._tcp.mx1.example.org.",
     "type": "TLSA" | "TXT", "values": ["3 1 1 …"], "ttl_s": 3600, "was": {"values": ["3 1 1 …"], "ttl_s": 3600}}

`values` is empty for `get`, and `ttl_s` counts for `add` only. `was` is the precondition of `add` and `remove`: the set
as `get` gave it, or null if there was none. The program prints one answer, at most 64 KiB, and ends:

    {"ok": true, "capabilities": {"atomic": false, "ttl_floor_s": 60}}    to `capabilities`; the others keep defaults
    {"ok": true, "rrset": {"values": ["3 1 1 …"], "ttl_s": 3600}}         to `get`; `"rrset": null` if there is none
    {"ok": true}                                                          to `add` and `remove`, when it is done
    {"ok": false, "error": "changed"}                                     `was` does not hold; nothing was written
    {"ok": false, "error": "transient" | "rejected" | "misconfigured", "detail": "what failed", "hint": "the remedy"}

Version 1 (`protocol: 1` in the configuration) has neither `capabilities` nor `was`: certagent itself then reads and
compares just before each write, and reads again after it.

The rules for the actions are those of `certagent.dns.providers.protocol`. `transient` leaves open whether a change has
happened; the others say that it has not. `ok: true` counts only with exit status 0, `ok: false` with any. Everything
else (no answer or one that is not understood, the time limit, death by a signal) is taken as `transient`.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from certagent.dns.message import canonical
from certagent.dns.providers.protocol import Capabilities, Changed, RdType, RRset, Ttl
from certagent.errors import Error, Misconfigured, Rejected, Transient
from certagent.host.programs import Result

MAX_ANSWER_BYTES = 64 * 1024
"""Hundreds of records; more is a program that has run wild."""
MAX_DETAIL_CHARS = 300
"""A few lines of a terminal."""


class Was(Struct, frozen=True):
    """The precondition of a write."""

    values: tuple[str, ...]
    ttl_s: int


class Request(Struct, frozen=True):
    """What the program reads; `was` is left out in version 1 and for `get`."""

    version: int
    action: Literal["get", "add", "remove"]
    zone: str
    name: str
    type: RdType
    values: tuple[str, ...] = ()
    ttl_s: int = 0
    was: Was | UnsetType | None = UNSET


class Question(Struct, frozen=True):
    """What the program reads when it is asked what it can do."""

    version: int = 2
    action: str = "capabilities"


class Found(Struct, frozen=True):
    """A set as the program reports it."""

    values: frozenset[str]
    ttl_s: Ttl


class Reply(Struct, frozen=True):
    """What the program prints; unknown fields are passed over, so that a newer program works with this version."""

    ok: bool
    rrset: Found | None = None
    capabilities: Capabilities | None = None
    error: Literal["transient", "rejected", "misconfigured", "changed"] = "transient"
    detail: str = ""
    hint: str = ""


def precondition(was: RRset | None) -> Was | None:
    """The set as the program gave it."""
    return Was(was.own or tuple(sorted(was.values)), was.ttl_s) if was else None


def rrset(found: Found | None, rdtype: RdType) -> RRset | None:
    """The set in canonical text; an empty one is none."""
    if found is None or not found.values:
        return None
    return RRset(frozenset(canonical(rdtype, v) for v in found.values), found.ttl_s, tuple(sorted(found.values)))


def judge(program: str, request: Request | Question, result: Result, lost: str) -> Reply:
    """The program's answer; `lost` is the code if there is no valid one.

    Raises:
        Error: The one that the answer means.
    """
    if len(result.out.encode()) > MAX_ANSWER_BYTES:
        raise Transient(lost, f"{program}: printed more than {MAX_ANSWER_BYTES} bytes")
    try:
        reply = msgspec.json.decode(result.out, type=Reply)
    except (msgspec.DecodeError, RecursionError):  # also of a valid JSON that is no Reply
        reply = None
    if reply is not None:
        if not reply.ok:
            raise _error(program, request, reply, result.err, lost)
        if result.code == 0:
            return reply
    why = f"exit status {result.code}" if result.code else "its output is no valid answer"
    hint = "run it by hand; docs/how-to/dns-providers.md says what it must print"
    raise Transient(lost, printable(f"{program}: {why}", result.err), hint)


def _error(program: str, request: Request | Question, reply: Reply, stderr: str, lost: str) -> Error:
    detail, hint = printable(f"{program}: {reply.detail or reply.error}", stderr), printable(reply.hint)
    match reply.error:
        case "changed" if isinstance(request, Request):
            return Changed(request.name, request.type, detail, hint)
        case "rejected":
            return Rejected("dns.rejected", detail, hint)
        case "misconfigured":
            return Misconfigured("dns.refused", detail, hint)
        case _:
            return Transient(lost, detail, hint)


def printable(text: str, stderr: str = "") -> str:
    """The text and the end of what went to standard error, on one line, without control characters."""
    lines = stderr.split("\n")
    text = " | ".join([text[:MAX_DETAIL_CHARS], *(line.strip() for line in lines if line.strip())])
    text = "".join(c if c.isprintable() else " " for c in text)
    # The beginning says which program and what; the end of the output says why.
    half = MAX_DETAIL_CHARS // 2
    return text if len(text) <= MAX_DETAIL_CHARS else f"{text[: half - 1]}…{text[-half:]}"
