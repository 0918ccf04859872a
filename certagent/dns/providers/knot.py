"""Knot DNS on this host, by `knotc`: a transaction of the zone, which only one can have at a time.

Source: https://www.knot-dns.cz/docs/3.2/html/man_knotc.html. In the transaction the set is read, compared and
replaced, so nobody comes between; knotd signs and publishes when it is committed. If certagent is killed in the middle,
the transaction stays open. The next run aborts it if all that it changes is this set, and leaves any other alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from certagent.dns.message import canonical, one_of_zones
from certagent.dns.presentation import text_of, value_of
from certagent.dns.providers.about import About
from certagent.dns.providers.compare import same
from certagent.dns.providers.program import printable
from certagent.dns.providers.protocol import Capabilities, Changed, RdType, RRset, Timed, zones_of
from certagent.errors import Error, Misconfigured, Rejected, Transient
from certagent.facts.duration import Duration
from certagent.host.programs import Result, check, run

_NOTHING = ("no such node in zone found", "no such record in zone found")
_BUSY = "too many transactions"
_PATIENCE_S = 5.0
"""A transaction of certagent takes well below a second; one that is open for longer was left open."""
_PAUSE_S = 0.02
"""Before a transaction is tried again. It doubles."""
_TTL_MAX_DIGITS = 9
_LIMIT_BYTES = 1 << 20
"""Of one set or one transaction, far more than any has."""


class Options(Timed, frozen=True):
    """Knot DNS on this host, by its `knotc`."""

    zones: tuple[str, ...]
    """The zones that this provider writes. A name is in the longest zone that ends it."""
    program: str = "/usr/sbin/knotc"
    """Absolute path of knotc; owned by root or certagent's user, and nobody else may write to it."""
    socket: str = "/run/knot/knot.sock"
    """The control socket of knotd."""
    timeout: Duration = "30s"
    """How long one call of knotc may take."""


class Knot:
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise.

    Raises:
        Misconfigured: At construction: `dns.program`; later: `dns.no_zone`.
    """

    Options = Options
    capabilities = Capabilities(precondition="set")
    about = About(
        title="Knot DNS on this host",
        rights=(
            "Who may open knotd's control socket may change all its zones and stop it; root may. Where that is too"
            " much, allow dynamic updates (`rfc2136`) for one zone instead."
        ),
        access="Nothing is needed if certagent runs as root and knotd's control socket is where Debian has it.",
        limits="A zone that is in somebody else's transaction is busy: certagent waits until it is committed.",
        example="type: knot\nzones: [example.org]",
    )

    def __init__(self, options: Options) -> None:
        self.zones = zones_of(options.zones)
        self._options = options
        check(options.program, "dns.program")

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """See `Provider`."""
        return self._rrset("zone-read", name, rdtype)

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        """See `Provider`."""
        there = was.values if was else frozenset[str]()
        after = there | {canonical(rdtype, value) for value in values}
        self._replace(name, rdtype, was, after, ttl_s)

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        """See `Provider`."""
        there = was.values if was else frozenset[str]()
        after = there - {canonical(rdtype, value) for value in values}
        self._replace(name, rdtype, was, after, was.ttl_s if was else 0)

    def _replace(self, name: str, rdtype: RdType, was: RRset | None, after: frozenset[str], ttl_s: int) -> None:
        zone = one_of_zones(name, self.zones)
        self._begin(zone, name, rdtype)
        try:
            if not same(self._rrset("zone-get", name, rdtype), was):
                raise Changed(name, rdtype)
            changes = not same(was, RRset(after, ttl_s) if after else None)
            if changes and was:
                self._done("zone-unset", zone, name, rdtype)
            for value in sorted(after) if changes else ():
                self._done("zone-set", zone, name, str(ttl_s), rdtype, *_words(rdtype, value))
        except BaseException:
            with suppress(Error):
                self._call("zone-abort", zone)
            raise
        self._done("zone-commit" if changes else "zone-abort", zone, lost="dns.unknown_outcome")

    def _begin(self, zone: str, name: str, rdtype: RdType) -> None:
        end, pause_s = time.monotonic() + _PATIENCE_S, _PAUSE_S
        while _BUSY in _said(begun := self._call("zone-begin", zone)):
            if time.monotonic() < end:  # another writer is at work
                time.sleep(pause_s)
                pause_s *= 2
                continue
            if not all(self._is_of(line, name, rdtype) for line in _lines(self._done("zone-diff", zone).out)):
                detail = f"{zone} is in a transaction of somebody else"
                raise Transient("dns.unreachable", detail, f"see what it has: knotc zone-diff {zone}")
            self._call("zone-abort", zone)
        self._judged(begun, "dns.unreachable")

    def _is_of(self, line: str, name: str, rdtype: RdType) -> bool:
        """A line of a difference: `+name ttl type data`, or with `-`."""
        owner, _, rest = line.partition(" ")
        return owner[1:].lower() == name and rest.split(" ")[1:2] == [rdtype]

    def _rrset(self, action: str, name: str, rdtype: RdType) -> RRset | None:
        zone = one_of_zones(name, self.zones)
        result = self._call(action, zone, name, rdtype)
        if result.code and any(nothing in _said(result) for nothing in _NOTHING):
            return None
        self._judged(result, "dns.unreachable")
        found: set[str] = set()
        ttl_s = 0
        for line in _lines(result.out):
            match line.split(" ", 3):
                case [_, ttl, _, content] if ttl.isascii() and ttl.isdigit() and len(ttl) <= _TTL_MAX_DIGITS:
                    ttl_s = int(ttl)
                    found.add(text_of(rdtype, content))
                case _:
                    raise Transient("dns.unreachable", printable(f"knotc: prints what is no record: {line}"))
        return RRset(frozenset(found), ttl_s) if found else None

    def _done(self, *words: str, lost: str = "dns.unreachable") -> Result:
        return self._judged(self._call(*words, lost=lost), lost)

    def _call(self, *words: str, lost: str = "dns.unreachable") -> Result:
        options = self._options
        try:
            return run(
                [options.program, "-s", options.socket, *words],
                options.timeout_s,
                code="dns.program",
                limit_bytes=_LIMIT_BYTES,
            )
        except Transient as error:
            raise Transient(lost, printable(error.detail), error.hint) from None

    def _judged(self, result: Result, lost: str) -> Result:
        if result.code == 0:
            return result
        said = printable(_said(result) or f"exit status {result.code}")
        if "no such zone" in said:
            raise Misconfigured("dns.refused", f"knotc: {said}", "list only zones that this knotd has")
        if "failed to connect" in said and "not exists" in said:
            raise Transient("dns.unreachable", f"knotc: {said}", "is knotd running? is `socket` its control socket?")
        if "parser failed" in said or "invalid" in said:
            raise Rejected("dns.rejected", f"knotc: {said}")
        raise Transient(lost, f"knotc: {said}")


def _said(result: Result) -> str:
    """Errors come on either of its outputs."""
    return f"{result.err} {result.out}".strip()


def _lines(out: str) -> Iterator[str]:
    """Without the zone in brackets that begins each line."""
    for line in out.splitlines():
        if line.startswith("["):
            yield line.partition("] ")[2]


def _words(rdtype: RdType, value: str) -> list[str]:
    """The record as knotc's own parser takes it, in one argument or in its fields."""
    return value.split(" ") if rdtype == "TLSA" else [value_of(rdtype, value)]
