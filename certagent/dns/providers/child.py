"""A provider whose library runs in a child process: the agent stays small, and never loads what it does not need.

Each call is one process, started as every program is (see `host.programs`): a small environment, bounded output, killed
at the time limit. It runs this Python without what the environment or the user adds to it (`-I`), and imports from the
same places as this process. It has no home, so a library finds no file there.

The call goes in by standard input. What came of it comes back by standard output: the set, or the error as it was
raised. No secret is in either: the child reads the provider's private file by itself, as this process would.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout, suppress
from importlib import import_module
from importlib.util import find_spec
from os.path import isabs
from typing import Any, ClassVar, Literal, Protocol, cast

import msgspec
from msgspec import Struct

from certagent.dns.message import one_of_zones
from certagent.dns.providers.program import MAX_ANSWER_BYTES, printable
from certagent.dns.providers.protocol import Changed, Provider, RdType, RRset, zones_of
from certagent.errors import Error, Misconfigured, Rejected, Transient, Usage
from certagent.host import deadline
from certagent.host.programs import Killed, Result, run

_START = "import sys; sys.path[:] = sys.argv[1:]; from certagent.dns.providers.child import main; main()"
_ENVIRONMENT = {"HOME": "/nonexistent"}
_OWN_SHARE = 0.9
"""Of the time of a call, what the child may use; the rest is for saying that it was not enough."""
_KINDS = {kind.__name__: kind for kind in (Usage, Misconfigured, Rejected, Transient)}


class _Call(Struct, frozen=True):
    """What the child reads."""

    worker: str
    options: Any
    seconds: float
    """The time for all of it."""
    action: Literal["get", "add", "remove"]
    name: str
    rdtype: RdType
    values: frozenset[str] = frozenset()
    ttl_s: int = 0
    was: RRset | None = None


class _Failure(Struct, frozen=True):
    """An error as it was raised."""

    kind: str
    code: str
    detail: str
    hint: str
    retry_after_s: float | None = None


class _Outcome(Struct, frozen=True):
    """What the child prints."""

    rrset: RRset | None = None
    failure: _Failure | None = None


class Options(Protocol):
    """What every provider of this kind has; no secret is in them."""

    @property
    def zones(self) -> tuple[str, ...]:
        """The zones that it writes."""
        ...

    @property
    def timeout_s(self) -> float:
        """How long one call may take as a whole."""
        ...


class InChild:
    """A provider that hands each call to its `WORKER`: another provider, made of the same options in the child.

    Raises:
        Misconfigured: At construction: `dns.options`; `dns.extra`: The library is not installed.
    """

    SERVICE: ClassVar[str]
    WORKER: ClassVar[str]
    """Module and class, such as `package.module:Worker`. The class names its `Options`."""
    LIBRARY: ClassVar[str]
    """What only the worker imports."""
    EXTRA: ClassVar[str]
    """The extra of certagent's package that brings it."""

    def __init__(self, options: Options) -> None:
        self.zones = zones_of(options.zones)
        self._given = options
        if missing := self.missing():
            raise missing

    @classmethod
    def missing(cls) -> Misconfigured | None:
        """`dns.extra`: What its library lacks; None: it is installed."""
        if find_spec(cls.LIBRARY) is not None:
            return None
        detail = f"{cls.SERVICE}: the Python package {cls.LIBRARY} is not installed"
        return Misconfigured("dns.extra", detail, f"run: {sys.executable} -m pip install 'certagent[{cls.EXTRA}]'")

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """See `Provider`."""
        return self._call("dns.unreachable", "get", name, rdtype)

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        """See `Provider`."""
        self._call("dns.unknown_outcome", "add", name, rdtype, values, ttl_s, was)

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        """See `Provider`."""
        self._call("dns.unknown_outcome", "remove", name, rdtype, values, 0, was)

    def _call(self, lost: str, action: Any, name: str, rdtype: RdType, *rest: Any) -> RRset | None:
        """`lost` is the code if the child does not say what came of it."""
        one_of_zones(name, self.zones)  # before anything is started
        seconds = deadline.left(self._given.timeout_s)
        call = _Call(self.WORKER, self._given, seconds * _OWN_SHARE, action, name, rdtype, *rest)
        try:
            result = run(
                [sys.executable, "-I", "-c", _START, *filter(isabs, sys.path)],
                seconds,
                env=_ENVIRONMENT,
                code="dns.program",
                text=msgspec.json.encode(call).decode(),
                limit_bytes=MAX_ANSWER_BYTES + 1,
            )
        except Killed as error:
            raise Transient(lost, f"{self.SERVICE}: its child process was ended by a signal", error.hint) from None
        except Transient as error:
            cause = error.__cause__
            why = cause.strerror if isinstance(cause, OSError) and cause.strerror else f"no answer within {seconds:g} s"
            raise Transient(lost, f"{self.SERVICE}: {why}") from None
        return self._judged(result, call, lost)

    def _judged(self, result: Result, call: _Call, lost: str) -> RRset | None:
        outcome = None
        with suppress(msgspec.DecodeError, RecursionError):  # also of another shape
            outcome = msgspec.json.decode(result.out, type=_Outcome)
        if outcome is None:
            raise Transient(lost, f"{self.SERVICE}: its child process gave no answer (exit status {result.code})")
        failure = outcome.failure
        if failure is None:
            return outcome.rrset
        if failure.kind == Changed.__name__:
            raise Changed(call.name, call.rdtype)
        kind = _KINDS.get(failure.kind, Transient)
        raise kind(failure.code or lost, failure.detail, failure.hint, retry_after_s=failure.retry_after_s)


def main() -> None:
    """The child: does what standard input asks for."""
    call = msgspec.json.decode(sys.stdin.buffer.read(), type=_Call)
    try:
        with deadline.total(call.seconds), redirect_stdout(sys.stderr):  # libraries may print
            outcome = _Outcome(_done(call))
    except Error as error:
        kind = next((name for name, kind in _KINDS.items() if isinstance(error, kind)), "Transient")
        kind = Changed.__name__ if isinstance(error, Changed) else kind
        outcome = _Outcome(failure=_Failure(kind, error.code, error.detail, error.hint, error.retry_after_s))
    except Exception as error:  # noqa: BLE001 -- a library's own; its words may hold a secret, its type does not
        detail = printable(f"{call.worker}: {_where(error)}")
        outcome = _Outcome(failure=_Failure("Transient", "", detail, "this is a defect: report it"))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


def _done(call: _Call) -> RRset | None:
    module, _, attribute = call.worker.partition(":")
    worker = getattr(import_module(module), attribute)
    provider = cast("Provider", worker(msgspec.convert(call.options, worker.Options)))
    match call.action:
        case "get":
            return provider.get(call.name, call.rdtype)
        case "add":
            provider.add(call.name, call.rdtype, call.values, call.ttl_s, call.was)
        case "remove":
            provider.remove(call.name, call.rdtype, call.values, call.was)
    return None


def _where(error: Exception) -> str:
    """Its type, and the line that raised it."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}{place}"
