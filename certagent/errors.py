"""Every failure certagent can meet, sorted by what the caller does next.

Edges translate the exceptions of libraries, servers and programs into one of the four kinds at their border; nothing
else leaves an edge. An error never carries a secret, nor what a terminal would obey: `detail` and `hint` are printed,
logged and journaled as they are.
"""

from __future__ import annotations

from typing import Literal

Concern = Literal["host", "ca", "key", "served", "provider"]
"""What a failure concerns, for decisions; they never read a code. `ca`: the CA said no, or what it gave is no good, so
that another try counts against its limits. `key`: a key or chain is not in the vault. `served`: a handshake met
something else. `provider`: the DNS provider cannot make a change that is needed. `host`: all the rest: this
host, its servers, DNS."""


def printable(text: str) -> str:
    """One line, in which every character can be seen: `?` for control characters, and for marks that turn the text
    around or are of no width. The words of a CA, a server or a program may hold any.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


class Error(Exception):
    """A failure with a stable `code` (``area.what``), a `detail` that names the place, and a `hint`: the remedy."""

    kind = "error"
    concerns: Concern = "host"
    quick = False
    """Of the CA: nothing was refused, so the first retry may come soon."""
    usual_hint = ""
    """The hint if the place that raises has nothing better to say."""

    def __init__(self, code: str, detail: str, hint: str = "", *, retry_after_s: float | None = None) -> None:
        detail, hint = printable(detail), printable(hint or self.usual_hint)
        super().__init__(code, detail, hint)
        self.code = code
        self.detail = detail
        self.hint = hint
        self.retry_after_s = retry_after_s
        """What the other side asked for (RFC 9110 section 10.2.3, Retry-After); None if it did not."""

    def __str__(self) -> str:
        return f"{self.detail} [{self.code}]"


class Transient(Error):
    """Something is away or busy: nothing is wrong with the request, try again with back-off."""

    kind = "transient"
    usual_hint = "it is tried again by itself; see that the other side is up and that this host may reach it"


class Rejected(Error):
    """The other side understood and said no: the same request again will fail again; start a new one, slowly."""

    kind = "rejected"
    usual_hint = "the words are the other side's; certagent history NAME shows what was asked"


class Misconfigured(Error):
    """The operator has to change something first (config, file, permission, key)."""

    kind = "misconfigured"
    usual_hint = "certagent explain CODE, with the code in brackets, says what to do"


class Usage(Misconfigured):
    """What the command was given cannot be used: an argument, the configuration, or a file that it names.

    Nothing was touched.
    """


class Unsafe(Error):
    """certagent itself refuses: going on could make a sender meet a certificate that does not match."""

    kind = "unsafe"
    usual_hint = "nothing was changed; certagent status and certagent history NAME show the facts"


# -- what decisions must know, by type ---------------------------------------------------------------------------------


class NotYet(Transient):
    """`dns.not_yet`: what was written cannot be seen at every authoritative server yet."""

    def __init__(self, code: str, detail: str, hint: str = "", *, seen: bool = False) -> None:
        super().__init__(code, detail, hint)
        self.seen = seen
        """Every server that answers has it, and at least one does."""


class ServerFailure(Transient):
    """`dns.servfail`: a resolver answers, and answers that it cannot find out (RFC 1035 section 4.1.1)."""


class NotAtomic(Unsafe):
    """`dns.not_atomic`: the change needs several records at once, and the provider changes one at a time."""

    concerns = "provider"


class Wildcard(Unsafe):
    """`dns.wildcard`: without its own records, a wildcard would answer for the name."""


class NotServed(Transient):
    """`mta.not_served`: a handshake met something else than what was installed; `mta.replaced`: its files hold it."""

    concerns = "served"


class NoAddress(Misconfigured):
    """`dns.no_address`: DNS says that a host has none."""


class NoProvider(Misconfigured):
    """`dns.no_provider`: nobody is configured to write that zone."""


class Missing(Misconfigured):
    """`vault.missing`: a key or a chain is not in the vault."""

    concerns = "key"


class NotYetValid(Transient):
    """`pem.not_yet_valid`: a certificate begins later than the clock of this host says; it is kept until then."""


class AccountRefused(Misconfigured):
    """`ca.account`: The CA wants something of the account's owner, and until then it says no."""

    concerns = "ca"


class CaUnavailable(Transient):
    """The CA is away, busy or not done."""

    concerns = "ca"
    quick = True


class CaLimit(Transient):
    """The CA wants fewer requests."""

    concerns = "ca"


class CaRefusal(Rejected):
    """The CA said no."""

    concerns = "ca"


class BadChain(Unsafe):
    """What the CA gave cannot be served."""

    concerns = "ca"
