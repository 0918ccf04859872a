"""The recursive resolvers of the host: what they look up, and whether what they say of a name can be believed.

An answer that there are no records shows nothing about the world: this host may be shown an internal view. It counts if
it was validated (RFC 4035 section 5.4), or if the zone was validated to be unsigned (section 5.2), since nobody uses
DANE then. `believed` takes away the others. Where no resolver validates, `validator.py` may.

Standards: RFC 4035 section 4.9.3 (whose AD bit), RFC 6840 section 5.7 (AD in questions).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

import dns.message
import dns.name
from dns.flags import AD, CD, RD
from dns.message import Message
from dns.rcode import NOERROR, NXDOMAIN, SERVFAIL
from dns.rdatatype import DS, SOA, TLSA, RdataType

from certagent.dns import resolvconf
from certagent.dns.message import UDP_PAYLOAD, exchange, name_text, rrset_of
from certagent.errors import ServerFailure, Transient
from certagent.facts.dns import Answer, Security
from certagent.facts.unknown import Unknown
from certagent.pki import endpoint

UNCONFIRMED = "gives no TLSA records, and no trusted resolver confirms that there are none"


def believed(answers: Mapping[str, Answer | Unknown], security: Security) -> dict[str, Answer | Unknown]:
    """The answers; an empty one that nobody validated is not known: another view may have records."""
    if security in ("secure", "insecure"):
        return dict(answers)
    return {key: Unknown(UNCONFIRMED) if isinstance(a, Answer) and not a.values else a for key, a in answers.items()}


class Validator(Protocol):
    """What validates by itself, with records that a resolver gives it (`validator.py`)."""

    def security(self, servers: tuple[str, ...], name: str) -> tuple[Security, str]:
        """What it says of the TLSA records of a name, and why."""
        ...


class Recursive:
    """The resolvers of the host.

    Args:
        nameservers: their addresses; None: those of /etc/resolv.conf, read at each call because it changes under a
            process that runs for months.
        trust_ad: whether their AD bit is believed; None: if all of them are on this host.
        timeout_s: for one question to an authoritative server. A resolver asks several in turn, and waits for silent
            ones: it is given as long as three.
        validator: what validates on this host where none of them does and is believed.
        second: it is asked as well where one of them does.
    """

    def __init__(
        self,
        nameservers: tuple[str, ...] | None,
        trust_ad: bool | None,
        timeout_s: float,
        validator: Validator | None = None,
        *,
        second: bool = False,
    ) -> None:
        self._validator = validator
        self._second = second
        self._configured = nameservers
        self._trust_ad = trust_ad
        self._timeout_s = 3 * timeout_s

    def ask(self, server: str, name: str, rdtype: RdataType, extra: int = 0) -> Message | Unknown:
        """One question to one of them."""
        # AD in a question asks for AD in the answer, without the signatures themselves (RFC 6840 section 5.7).
        query = dns.message.make_query(name, rdtype, use_edns=0, payload=UDP_PAYLOAD, flags=RD | AD | extra)
        return exchange(query, server, self._timeout_s)

    def lookup(self, name: str, rdtype: RdataType, *, even_bogus: bool = False) -> Message:
        """An answer of the first resolver that has one.

        Raises:
            Transient: `dns.unreachable`, `dns.servfail`.
        """
        why: list[str] = []
        answered = False
        for server in self._nameservers():
            # A bogus zone still has servers that must be asked: with CD the resolver tells (RFC 4035 section 3.2.2).
            for extra in (0, CD) if even_bogus else (0,):
                response = self.ask(server, name, rdtype, extra)
                if isinstance(response, Unknown):
                    why.append(f"{server} {response.why}")
                    break
                if response.rcode() in (NOERROR, NXDOMAIN):
                    return response
                why.append(f"{server} says {response.rcode().name}")
                answered = True
        detail = f"{name} {rdtype.name} cannot be looked up: {'; '.join(why)}"
        raise ServerFailure("dns.servfail", detail) if answered else Transient("dns.unreachable", detail)

    def security(self, name: str, zones: Collection[str]) -> tuple[Security, str]:
        """What a validating resolver says of a name, or this host's own validator, and why that is said.

        `zones`: those that its aliases lead through, the last one included.
        """
        verdict, why, validates = self._trusted(name, zones)
        if self._validator is None or (validates and not self._second):
            return verdict, why
        own, own_why = self._validator.security(self._nameservers(), name)
        if not validates:
            return own, own_why if own != "unknown" else f"{why}; {own_why}"
        if own in (verdict, "unknown"):
            return verdict, f"{why}; {own_why}"
        # One of the two is deceived, or DNS has just changed. Nothing is begun on it.
        return "bogus" if "bogus" in (verdict, own) else "unknown", f"two validators disagree: {why}; {own_why} ({own})"

    def _trusted(self, name: str, zones: Collection[str]) -> tuple[Security, str, bool]:
        """What a resolver says, and whether there is one that validates and is believed."""
        servers = self._nameservers()
        local = all(map(endpoint.is_loopback, servers))
        if not (local if self._trust_ad is None else self._trust_ad):  # RFC 4035 section 4.9.3: only over a safe path
            why = f"the AD bit of {', '.join(servers)} could be forged on the way: it is not on this host"
            return "unknown", why, False
        why = ""
        for server in servers:
            response = self.ask(server, name, TLSA)
            if not isinstance(response, Unknown):
                return self._judge(server, name, response, zones)
            why = f"the resolver {server} {response.why}"
        return "unknown", why, False

    def _nameservers(self) -> tuple[str, ...]:
        return self._configured or resolvconf.resolvers()

    def _judge(self, server: str, name: str, response: Message, zones: Collection[str]) -> tuple[Security, str, bool]:
        if response.rcode() in (NOERROR, NXDOMAIN):
            if response.flags & AD:
                return "secure", f"the resolver {server} has validated it", True
            # One that never validates would call everything insecure; the root is signed, so that unmasks it.
            root = self.ask(server, ".", SOA)
            if isinstance(root, Unknown) or not root.flags & AD:
                return "unknown", f"the resolver {server} does not validate: no AD bit even for the root zone", False
            if any(self._unsigned(server, zone) for zone in zones):
                why = f"the resolver {server} finds no chain of signatures to {name}: zone unsigned, or no DS"
                return "insecure", why, True
            why = f"the resolver {server} does not validate {name}, although the zones above have signatures for it"
            why = f"{why}: it is shown another view, or its configuration says not to validate it"
            return "unknown", why, True
        if response.rcode() == SERVFAIL:
            unchecked = self.ask(server, name, TLSA, CD)
            if not isinstance(unchecked, Unknown) and unchecked.rcode() in (NOERROR, NXDOMAIN):
                why = f"the resolver {server} answers SERVFAIL for {name}, and answers with checking disabled"
                return "bogus", why, True
        return "unknown", f"the resolver {server} says {response.rcode().name}", True

    def _unsigned(self, server: str, zone: str) -> bool:
        """Validated is that there is no DS for the zone, or for one above it (RFC 4035 section 5.2).

        The DS is the parent's, even if the resolver is shown another view of the zone, or does not validate it.
        """
        for apex in _upward(zone):
            response = self.ask(server, apex, DS)
            if isinstance(response, Unknown) or response.rcode() not in (NOERROR, NXDOMAIN):
                return False
            if response.flags & AD:
                return rrset_of(response, apex, DS) is None
        return False


def _upward(zone: str) -> Iterator[str]:
    """The zone, and every name above it but the root."""
    name = dns.name.from_text(zone)
    while name != dns.name.root:
        yield name_text(name)
        name = name.parent()
