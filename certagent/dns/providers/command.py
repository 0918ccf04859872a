"""A DNS provider that is an operator's program: any language, any API, one short protocol.

The program is started once per call, without a shell, with the `args` of the configuration and a small environment
(`PATH`, `LC_ALL`, and `env` of the configuration). Nobody besides root and certagent's user may be able to change it,
see `host/trust.py`. What it reads and prints is in `program`. At the time limit its whole process group is killed. The
end of its standard error is shown with an error, so it must hold no secret.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from certagent.dns.message import canonical, one_of_zones
from certagent.dns.providers.about import About
from certagent.dns.providers.compare import Change, ReadCompareWrite
from certagent.dns.providers.program import (
    MAX_ANSWER_BYTES,
    Question,
    Reply,
    Request,
    Was,
    judge,
    precondition,
    printable,
    rrset,
)
from certagent.dns.providers.protocol import Capabilities, RdType, RRset, Timed, zones_of
from certagent.errors import Transient
from certagent.facts.duration import Duration
from certagent.host.programs import check, run


class Options(Timed, Struct, frozen=True):
    """A program that reads and writes DNS."""

    program: str
    """Absolute path; owned by root or certagent's user, and nobody else may write to it."""
    zones: tuple[str, ...]
    """The zones that this provider writes. A name is in the longest zone that ends it."""
    protocol: Literal[1, 2] = 2
    """The version that the program speaks; see docs/how-to/dns-providers.md."""
    args: tuple[str, ...] = ()
    """Arguments of the program."""
    timeout: Duration = "30s"
    """How long one call of the program may take."""
    env: dict[str, str] = {}
    """Added to the environment. Secrets belong in a file that only the program reads."""


class Command(ReadCompareWrite[None]):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `program` for what is said.

    Raises:
        Misconfigured: `dns.options`: `zones` are none.
        Misconfigured: `dns.program`: The program cannot be run, or others may write to it.
    """

    Options = Options
    about = About(
        title="A program of yours",
        rights="What the program needs. Keep its secret in its own file, which only root may read.",
        access="See docs/how-to/dns-providers.md for what it reads and prints; hooks/ has some that are ready.",
        limits="What it can do is what it says of itself.",
        example="type: command\nprogram: /usr/local/lib/certagent/my-dns\nzones: [example.org]",
    )

    def __init__(self, options: Options) -> None:
        self.zones = zones_of(options.zones)
        self._options = options
        self._capabilities: Capabilities | None = None if options.protocol > 1 else Capabilities()
        check(options.program, "dns.program")

    @property
    def capabilities(self) -> Capabilities:  # pyright: ignore[reportIncompatibleVariableOverride] -- never assigned
        """What the program says that it can do; it is asked once."""
        if self._capabilities is None:
            reply = self._call(Question(), "dns.unreachable")
            self._capabilities = reply.capabilities or Capabilities()
        return self._capabilities

    def read(self, name: str, rdtype: RdType) -> tuple[RRset | None, None]:
        """The set as the program has it."""
        request = Request(self._options.protocol, "get", one_of_zones(name, self.zones), name, rdtype)
        return rrset(self._call(request, "dns.unreachable").rrset, rdtype), None

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        """See `Provider`."""
        if self._options.protocol == 1:
            super().add(name, rdtype, values, ttl_s, was)
        else:
            self._write("add", name, rdtype, values, ttl_s, was=precondition(was))

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        """See `Provider`."""
        if self._options.protocol == 1:
            super().remove(name, rdtype, values, was)
        else:
            self._write("remove", name, rdtype, values, was=precondition(was))

    def write(self, name: str, rdtype: RdType, change: Change, records: None) -> None:  # noqa: ARG002
        """One change in version 1 of the protocol, which knows no precondition."""
        if change.removed:
            self._write("remove", name, rdtype, change.removed)
        else:  # if nothing is new, the TTL is
            self._write("add", name, rdtype, change.added or change.after, change.ttl_s)

    def _write(
        self,
        action: Literal["add", "remove"],
        name: str,
        rdtype: RdType,
        values: frozenset[str],
        ttl_s: int = 0,
        *,
        was: Was | UnsetType | None = UNSET,
    ) -> None:
        wanted = tuple(sorted({canonical(rdtype, value) for value in values}))
        request = Request(
            self._options.protocol, action, one_of_zones(name, self.zones), name, rdtype, wanted, ttl_s, was
        )
        self._call(request, "dns.unknown_outcome")

    def _call(self, request: Request | Question, lost: str) -> Reply:
        options = self._options
        try:
            result = run(
                [options.program, *options.args],
                options.timeout_s,
                env={"LC_ALL": "C.UTF-8", **options.env},
                code="dns.program",
                text=msgspec.json.encode(request).decode(),
                limit_bytes=MAX_ANSWER_BYTES + 1,
            )
        except Transient as error:
            raise Transient(lost, printable(error.detail), error.hint) from None
        return judge(options.program, request, result, lost)
