"""DNSSEC validation on this host, without a resolver that does it: by `delv` of BIND (Debian: bind9-dnsutils).

delv has the validator of named and the root's trust anchor, asks a resolver for records and signatures, and believes
none of its words. It verifies, too, that there are no records (RFC 4035 section 5.4) or no signatures (section 5.2).

Source: delv(1) of BIND 9.18. Its exit status says nothing: what it found is in the lines that begin with `; `.
"""

from __future__ import annotations

import re
from pathlib import Path

from certagent.errors import Error, Misconfigured, Transient
from certagent.facts.dns import Security
from certagent.host import programs, trust
from certagent.pki import endpoint

NAME = "delv"
KEYS = Path("/etc/bind/bind.keys")
"""Where delv of Debian takes the root's trust anchor from, if the file is there; otherwise it has one built in."""

_LIMIT_S = 20.0
"""For one name: a chain of some zones, some questions lost. Most take a tenth of a second."""

_SECURE = frozenset({"; fully validated", "; negative response, fully validated"})
_INSECURE = frozenset({"; unsigned answer", "; negative response, unsigned answer"})
_FAILED = re.compile("resolution failed: (?!ncache )(.*)")
_BOGUS = re.compile("broken trust chain|no valid |insecurity [a-z]+ failed|must be secure")
"""In the words of BIND's result codes. `ncache` is an answer without records. The others say that nothing was heard."""


def chosen(wish: str | None, anchor: str | None) -> Delv | None:
    """The validator of this host; None: there is none, or none is wanted.

    Raises:
        Misconfigured: As `Delv`, if it is wished for.
    """
    if wish == "none":
        return None
    try:
        return Delv(anchor)
    except Misconfigured:
        if wish or anchor:
            raise
        return None


class Delv:
    """A validator. `anchor`: a file with the trust anchor of the root, as `trust-anchors` of named.conf has it.

    Raises:
        Misconfigured: `dns.validator`: delv is not installed, or somebody else may change it.
        Misconfigured: `store.path`: The anchor's file is missing, or somebody else may change it.
    """

    def __init__(self, anchor: str | None = None) -> None:
        self._program = programs.program(NAME, "dns.validator")
        programs.check(self._program, "dns.validator")
        self._anchor = anchor
        if anchor:
            self._judge_anchor()

    def security(self, servers: tuple[str, ...], name: str) -> tuple[Security, str]:
        """What it says of the TLSA records of a name, and why; by the first of the resolvers that it can learn it from.

        It raises nothing that can be said as `unknown`.
        """
        why: list[str] = []
        for server in servers:
            try:
                self._judge_anchor()
                found, said = self._asked(server, name, "TLSA")
                if found == "bogus" and self._asked(server, ".", "SOA")[0] != "secure":
                    # then it is no fault of the zone
                    found, said = "unknown", "not even the root validates: an old trust anchor, or signatures are lost"
            except Error as error:
                found, said = "unknown", error.detail
            if found != "unknown":
                return found, f"delv, by the resolver {server}: {said}"
            why.append(f"delv, by the resolver {server}: {said}")
        return "unknown", "; ".join(why)

    def _judge_anchor(self) -> None:
        """Who may change it could have any name validated."""
        if self._anchor:
            with trust.opened(Path(self._anchor)):
                pass
        elif KEYS.exists():
            with trust.walked(KEYS):
                pass

    def _asked(self, server: str, name: str, rdtype: str) -> tuple[Security, str]:
        host, port = endpoint.address(server)
        anchor = ["-a", self._anchor] if self._anchor else []
        # CD, so that a resolver that validates keeps back no records that do not validate (RFC 4035 section 3.2.2)
        argv = [self._program, f"@{host}", "-p", str(port), *anchor, "+root=.", "+cdflag", "-t", rdtype, "-q", name]
        try:
            result = programs.run(argv, _LIMIT_S, code="dns.validator")
        except Transient:
            return "unknown", f"it gave no answer within {_LIMIT_S:g} s"
        return verdict(result.out, result.err)


def verdict(out: str, err: str) -> tuple[Security, str]:
    """What delv printed, as a verdict on all that the aliases of a name lead through."""
    if failed := _FAILED.search(err):
        return ("bogus", f"it does not validate: {failed[1]}") if _BOGUS.match(failed[1]) else ("unknown", failed[1])
    said = {line for line in out.splitlines() if line in _SECURE | _INSECURE}
    if not said:
        return "unknown", "it says nothing of it"
    if said & _INSECURE:
        return "insecure", "it finds no chain of signatures: zone unsigned, or no DS"
    return "secure", "it has validated it"
