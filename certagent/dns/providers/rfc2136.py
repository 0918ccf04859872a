"""A DNS provider that speaks dynamic update (RFC 2136), signed with TSIG (RFC 8945): BIND, Knot, PowerDNS and others.

Each change is one message, so it happens as a whole or not at all (RFC 2136 section 3.7). Its prerequisites hold the
set that was read before: "RRset exists (value dependent)" or "RRset does not exist" (sections 2.4.2 and 2.4.3). The
server checks them and changes the set in one go, so no other writer can come between.

Prerequisites do not compare TTLs (section 1.1). A TTL that somebody else raises between the read and the update, which
is one round trip, is not noticed. A cache that asks within that moment keeps the old set longer than the journal says.

The zone of an update is the one whose start of authority (SOA) the primary gives for the name (RFC 2136 section 2.3). A
part of it may be listed under `zones`. A zone below the listed one is refused until it is listed itself.

Messages go over TCP, so that a lost packet is never the reason for an unknown outcome. The secret is read once, and is
used for the MAC only.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import dns.exception
import dns.message
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdtypes.ANY.RRSIG
import dns.tsig
from dns.flags import AA
from dns.message import Message
from dns.rcode import NOERROR, NXDOMAIN, NXRRSET, YXRRSET, Rcode
from dns.rdatatype import NS, RRSIG, SOA, RdataType
from dns.update import UpdateMessage
from msgspec import Meta

from certagent.dns.message import (
    canonical,
    name_text,
    one_of_zones,
    records,
    rrset_of,
    ttl_of,
    value_text,
    wildcard_of,
    zone_of,
)
from certagent.dns.providers import tsigkey
from certagent.dns.providers.about import About
from certagent.dns.providers.protocol import Capabilities, Changed, RdType, RRset, Timed, zones_of
from certagent.errors import Error, Misconfigured, Rejected, Transient
from certagent.facts.duration import Duration
from certagent.host import deadline
from certagent.pki import endpoint


class Options(Timed, frozen=True):
    """Dynamic update (RFC 2136), signed with TSIG (RFC 8945)."""

    server: str | Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)]
    """The primary: address or name, and a port if it is not 53: `192.0.2.1`, `ns1.example.org:53`, `[::1]:5353`. A list
    of several: each is asked if those before it cannot be reached."""
    zones: tuple[str, ...]
    """The zones, or parts of zones, that this provider writes. A name is in the longest that ends it."""
    key_file: str
    """As `tsig-keygen` writes it; only its owner (root or certagent's user) may read it."""
    key_name: str = ""
    """Which key of the file; needed only if it has several."""
    timeout: Duration = "10s"
    """How long one answer of the server may take."""


class Rfc2136:
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise.

    Raises:
        Usage: At construction: `secret.mode`, `secret.file`.
        Misconfigured: At construction: `dns.options`; later: `dns.no_zone`.
    """

    Options = Options
    capabilities = Capabilities(precondition="values")
    about = About(
        title="RFC 2136: BIND, Knot, PowerDNS and others",
        rights=(
            "A TSIG key that may change the TLSA and TXT records of the names in question, and nothing else. In BIND:"
            " update-policy. docs/how-to/tsig-key.md has the lines for BIND, Knot and PowerDNS."
        ),
        access="Run `tsig-keygen certagent > /etc/certagent/tsig.key`, chmod 600; the server needs the same key.",
        limits="Signatures of other kinds (GSS-TSIG, SIG(0)) are not supported. The primary must answer over TCP.",
        example="type: rfc2136\nserver: 192.0.2.1\nkey_file: /etc/certagent/tsig.key\nzones: [example.org]",
    )

    def __init__(self, options: Options) -> None:
        self.zones = zones_of(options.zones)
        self._servers: list[tuple[str, int]] = []
        for server in (options.server,) if isinstance(options.server, str) else options.server:
            try:
                self._servers.append(endpoint.server(server))
            except ValueError:
                raise Misconfigured("dns.options", f"server: {server!r} is no server", endpoint.EXAMPLE) from None
        self._timeout_s = options.timeout_s
        self._key_file = Path(options.key_file)
        self._key = tsigkey.read(self._key_file, options.key_name)
        self._keyring = tsigkey.keyring(self._key)
        self._found: dict[str, str] = {}
        """The zone of each name, as the primary said with its last answer."""

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """Asks the primary itself, signed."""
        one_of_zones(name, self.zones)
        # no recursion: what this server has; signatures tell a wildcard's records from the name's own
        query = dns.message.make_query(name, rdtype, flags=0, want_dnssec=True)
        response, where = self._send(query, "dns.unreachable")
        if response.rcode() not in (NOERROR, NXDOMAIN):
            raise self._error(where, response.rcode(), name, rdtype)
        self._learn(response, where, name)
        rrset = rrset_of(response, name, RdataType[rdtype])
        if rrset is None or wildcard_of(response, rrset) or not (_signed(response) or self._has(name, rdtype)):
            return None
        found = records(rrset)
        own = tuple(sorted(rdata.to_text() for rdata in found))
        return RRset(frozenset(map(value_text, found)), ttl_of(response, rrset), own)

    def _has(self, name: str, rdtype: RdType) -> bool:
        """Whether the set is the name's own: no prerequisite sees what a wildcard gives (RFC 4592).

        It is asked by an update with a prerequisite that changes nothing (RFC 2136 sections 2.4.1 and 3.2).
        """
        question = UpdateMessage(self._zone(name))
        question.present(name, rdtype)
        return self._send(question, "dns.unreachable")[0].rcode() != NXRRSET

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        """See `Provider`; a set that is as wanted already is checked and left as it is."""
        update = self._provided(name, rdtype, was)
        there = was.values if was else frozenset[str]()
        for value in sorted({canonical(rdtype, value) for value in values}):
            if was and value in there:
                if was.ttl_s == ttl_s:
                    continue
                # A value that is new takes the others along to its TTL (RFC 2181 section 5.2); for one that is there
                # already, Knot 3.2 keeps the old TTL.
                _delete(update, name, rdtype, value, was)
            update.add(name, ttl_s, rdtype, rdata_text(rdtype, value))
        self._update(update, name, rdtype)

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        """See `Provider`; the deletion of a value that is not there is passed over (RFC 2136 section 3.4.2.4)."""
        update = self._provided(name, rdtype, was)
        for value in sorted({canonical(rdtype, value) for value in values}):
            _delete(update, name, rdtype, value, was)
        self._update(update, name, rdtype)

    def _provided(self, name: str, rdtype: RdType, was: RRset | None) -> UpdateMessage:
        """An update that happens only if the set is still the one that was read."""
        update = UpdateMessage(self._zone(name))
        if was is None:
            update.absent(name, rdtype)
        else:
            for text in was.own or (rdata_text(rdtype, value) for value in sorted(was.values)):
                update.present(name, rdtype, text)
        return update

    def _zone(self, name: str) -> str:
        """Asked for by its SOA where the last answer has not said it."""
        listed = one_of_zones(name, self.zones)
        if name not in self._found:
            response, where = self._send(dns.message.make_query(name, RdataType.SOA, flags=0), "dns.unreachable")
            self._learn(response, where, name)
        return self._found.get(name, listed)

    def _learn(self, response: Message, where: str, name: str) -> None:
        """Raises Misconfigured `dns.no_zone`: The name is in a zone below the one that is listed."""
        listed, found = one_of_zones(name, self.zones), zone_in(response, name)
        if found and found != listed and zone_of(found, (listed,)):
            detail = f"{where}: {name} is in the zone {found}, which is cut off from {listed}"
            raise Misconfigured("dns.no_zone", detail, f"add {found} to a provider under dns.providers")
        self._found.pop(name, None)
        if found and zone_of(listed, (found,)) and response.flags & AA:
            self._found[name] = found

    def _update(self, update: Message, name: str, rdtype: RdType) -> None:
        response, where = self._send(update, "dns.unknown_outcome")
        rcode = response.rcode()
        if rcode in (NXRRSET, YXRRSET):
            raise Changed(name, rdtype, f"{where} says {rcode.name}")
        if rcode != NOERROR:
            raise self._error(where, rcode, name, rdtype)

    def _connected(self) -> tuple[socket.socket, str]:
        """The first server that can be reached, and what it is called. Nothing was sent to the others."""
        why: list[str] = []
        for host, port in self._servers:
            where = f"{host} port {port}"
            try:
                return deadline.connected(host, port, self._timeout_s / len(self._servers)), where
            except OSError as error:
                why.append(f"{where}: {error.strerror or error}")
        raise Transient("dns.unreachable", "; ".join(why))

    def _send(self, message: Message, lost: str) -> tuple[Message, str]:
        """An answer, whose signature is checked, and of which server; `lost`: the code for "sent, but no answer"."""
        message.use_tsig(self._keyring)
        with deadline.cutting(self._timeout_s) as cut:
            connection, where = self._connected()
            cut.add(connection.fileno())
            try:
                with connection:
                    return answer_to(message, exchange(connection, message.to_wire())), where
            except dns.tsig.PeerBadTime:
                hint = "the clocks of this host and the server differ: run NTP on both"
                raise Misconfigured("dns.refused", f"{where} says BADTIME", hint) from None
            except dns.tsig.PeerError as error:
                hint = (
                    f"key name, algorithm and secret must be the same there as in {self._key_file} ({self._key.name})"
                )
                said = type(error).__name__.removeprefix("Peer").upper()
                raise Misconfigured("dns.refused", f"{where} says {said} to the TSIG key", hint) from None
            except (dns.exception.DNSException, OSError, EOFError) as error:
                late = f"{where} gave no answer within {self._timeout_s:g} s"
                odd = f"{where} gave no valid answer: {error or type(error).__name__}"
                raise Transient(lost, late if cut.over or isinstance(error, TimeoutError) else odd) from None

    def _error(self, where: str, rcode: Rcode, name: str, rdtype: RdType) -> Error:
        said = f"{where} says {rcode.name} to {name} {rdtype}"
        match rcode:
            case dns.rcode.REFUSED | dns.rcode.NOTAUTH | dns.rcode.NOTZONE | dns.rcode.NOTIMP:
                key = self._key.name.rstrip(".")
                hint = (
                    f'BIND: update-policy {{ grant "{key}" name {name} {rdtype}; }}; and is it the primary of the zone?'
                )
                return Misconfigured("dns.refused", said, hint)
            case dns.rcode.SERVFAIL:
                return Transient("dns.unreachable", said, "the log of the server has the reason")
            case _:
                return Rejected("dns.rejected", said)


def exchange(connection: socket.socket, wire: bytes) -> bytes:
    """Sends one message and reads one (RFC 1035 section 4.2.2)."""
    connection.sendall(len(wire).to_bytes(2) + wire)
    with connection.makefile("rb") as stream:
        answer = stream.read(int.from_bytes(stream.read(2)))
    if not answer:
        raise EOFError("it closed the connection")
    return answer


# -- pure --------------------------------------------------------------------------------------------------------------


def zone_in(response: Message, name: str) -> str:
    """The zone that the name is in, as far as an answer about it shows; empty: it does not.

    It is that of the SOA, of the signature of the name's own records, or the one to which a referral leads
    (RFC 1034 section 4.3.2).
    """
    for rrset in response.answer:
        if name_text(rrset.name) == name and rrset.rdtype == SOA:
            return name
        for record in records(rrset) if name_text(rrset.name) == name else ():
            if isinstance(record, dns.rdtypes.ANY.RRSIG.RRSIG):
                return name_text(record.signer)
    wanted = SOA if response.flags & AA else NS
    return next((name_text(r.name) for r in response.authority if r.rdtype == wanted and not response.answer), "")


def _signed(response: Message) -> bool:
    return any(rrset.rdtype == RRSIG for rrset in response.answer)


def _delete(update: UpdateMessage, name: str, rdtype: RdType, value: str, was: RRset | None) -> None:
    """Delete the value, in every notation that the set has it in: a TXT may be split (RFC 1035 section 3.3.14)."""
    wanted = RdataType[rdtype]
    own = {text for text in was.own if _value(wanted, text) == value} if was else set[str]()
    for text in sorted(own) or [rdata_text(rdtype, value)]:
        update.delete(name, rdtype, text)


def _value(rdtype: RdataType, text: str) -> str:
    return value_text(dns.rdata.from_text(dns.rdataclass.IN, rdtype, text))


def answer_to(message: Message, wire: bytes) -> Message:
    """The answer, with a valid signature; dnspython's exceptions if it has none."""
    unverified = dns.message.from_wire(wire, keyring=False)
    if not message.is_response(unverified):
        raise dns.exception.FormError("it answers something else")
    # A server that knows nothing of the zone may refuse without a signature, as Knot does. A forger wins nothing by it;
    # but NOERROR and NXDOMAIN are believed only when signed (RFC 8945 section 5.3).
    if not unverified.had_tsig and unverified.rcode() not in (NOERROR, NXDOMAIN):
        return unverified
    return dns.message.from_wire(wire, keyring=message.keyring, request_mac=message.mac)


MAX_STRING_BYTES = 255
"""RFC 1035 section 3.3."""
MAX_TXT_BYTES = 60_000
"""RDATA has at most 65535 octets (RFC 1035 section 3.2.1), and a message no more."""


def rdata_text(rdtype: RdType, value: str) -> str:
    """The value as a zone file has it: a TXT as quoted strings (RFC 1035 section 5.1).

    Raises:
        Rejected: `dns.rejected`: A TXT that fits no message.
    """
    if rdtype != "TXT":
        return canonical(rdtype, value)
    data = value.encode()
    if len(data) > MAX_TXT_BYTES:
        raise Rejected("dns.rejected", f"a TXT value has {len(data)} bytes, and a record at most {MAX_TXT_BYTES}")
    strings = [data[i : i + MAX_STRING_BYTES] for i in range(0, max(1, len(data)), MAX_STRING_BYTES)]
    return " ".join('"' + "".join(map(_escaped, string)) + '"' for string in strings)


def _escaped(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03d}"
