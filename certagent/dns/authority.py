"""What DNS says, asked at the source: every authoritative address of a name, and one validating resolver.

It only asks. Nothing is kept from one call to the next, no cache is taken for the truth, and what could not be asked is
`Unknown`, never "empty". The recursive resolvers of the host serve to find zones, servers and addresses, and to say
whether a name is secure. Names are absolute, lower case, with the final dot. Every method may run in several threads.

Standards: RFC 1034 section 4.3 (authority), RFC 2308 section 2 (no data), RFC 7672 section 2.1 (what a sender asks),
RFC 7671 section 8.1 (records are everywhere before the wait begins).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import dns.message
import dns.name
from dns.rdatatype import AAAA, SOA, TLSA, TXT, A, RdataType
from msgspec import Struct

from certagent.dns.message import (
    UDP_PAYLOAD,
    Alias,
    Said,
    TooMany,
    absolute,
    exchange,
    majority,
    name_text,
    read,
)
from certagent.dns.recursive import Recursive, Validator, believed
from certagent.dns.servers import Atlas, parallel, targets
from certagent.dns.wildcard import hidden
from certagent.errors import Error, Misconfigured, NoAddress, NotYet, Transient
from certagent.facts.dns import Answer, Delegation, Hidden, Observation, late
from certagent.facts.unknown import Unknown
from certagent.host.deadline import left

MAX_HOPS = 8
"""Aliases in a row; every hop is one more zone that can break mail (Unbound gives up after 11)."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
"""A near secondary follows in milliseconds; a far one is not flooded."""
PAUSE_GROWTH = 1.5
"""So what is there is known after half as long again."""


class Trail(Struct, frozen=True):
    """Where the aliases of a name end, what each address says there, and what forbids to write there."""

    zone: str
    name: str
    answers: dict[str, Answer | Unknown]
    trouble: Error | None = None
    path: tuple[tuple[str, int], ...] = ()


# -- how questions are asked -------------------------------------------------------------------------------------------


def _attempts(budget: timedelta) -> Iterator[None]:
    """At once, then again after growing pauses until the budget is over."""
    end = time.monotonic() + left(budget.total_seconds())
    pause = FIRST_PAUSE_S
    yield
    while (rest_s := end - time.monotonic()) > 0:
        time.sleep(min(pause, rest_s))
        pause = min(PAUSE_GROWTH * pause, LONGEST_PAUSE_S)
        yield


# -- the resolvers of the host -----------------------------------------------------------------------------------------


class Resolver:
    """Asks; see the module.

    Args:
        nameservers: recursive resolvers, as `endpoint.address` reads them; None: those of /etc/resolv.conf, read at
            each call because it changes under a process that runs for months.
        trust_ad: whether their AD bit is believed; None: if all of them are on this host.
        timeout_s: for one question; a lossy path may take twice that.
        ipv6: False: this host has none that works; True: it has, and a server that cannot be reached by it is
            `Unknown`; None: found out for each address, as for IPv4.
        public_view: what this host is shown is what the world is shown, even if nobody validates it.
        validator: what validates on this host, and `second`: it is asked in any case, see `recursive.Recursive`.
    """

    def __init__(
        self,
        nameservers: tuple[str, ...] | None = None,
        trust_ad: bool | None = None,
        timeout_s: float = 3.0,
        ipv6: bool | None = None,
        public_view: bool = False,
        validator: Validator | None = None,
        *,
        second: bool = False,
    ) -> None:
        self.recursive = Recursive(nameservers, trust_ad, timeout_s, validator, second=second)
        self._public_view = public_view
        self._timeout_s = timeout_s
        self._ipv6 = ipv6

    def addresses(self, host: str) -> tuple[str, ...]:
        """Every A and AAAA of the host, IPv4 first.

        Raises:
            Transient: `dns.unreachable`, `dns.servfail`.
            NoAddress: `dns.no_address`.
        """
        found = targets(self.recursive.lookup(host, A)) + targets(self.recursive.lookup(host, AAAA))
        if not found:
            hint = "add an A or AAAA record, or list addresses"
            raise NoAddress("dns.no_address", f"{host} has no address", hint)
        return tuple(found)

    def observe(
        self,
        tlsa_name: str,
        *,
        expect: frozenset[str] | None = None,
        gone: frozenset[str] = frozenset(),
        budget: timedelta = timedelta(),
        unproven: bool = False,
    ) -> Observation:
        """What every authoritative address has as TLSA of `tlsa_name`, and what a validating resolver says of it.

        It is asked again until every address has all of `expect` and none of `gone`, or the budget (and the round
        that was begun) is over; the last round is returned in either case. It raises nothing that DNS is to blame for:
        where not even the zone is found, `zone` is empty and the one answer is Unknown. So is an empty answer that
        nobody validated, but for `unproven`.
        """
        tlsa_name, atlas, expect = absolute(tlsa_name), self._atlas(), expect or frozenset()
        trail = Trail("", tlsa_name, {})
        for _ in _attempts(budget):
            try:
                trail = self._follow(atlas, tlsa_name, TLSA)
            except Transient as error:
                trail = Trail("", tlsa_name, {f"{tlsa_name}/-": Unknown(error.detail)})
            answers = trail.answers.values()
            if all(isinstance(a, Answer) and expect <= a.values and not gone & a.values for a in answers):
                break
        security, why = self.recursive.security(tlsa_name, atlas.zones_of(tlsa_name, *(name for name, _ in trail.path)))
        answers = trail.answers if unproven or self._public_view else believed(trail.answers, security)
        differ = len({a.values for a in trail.answers.values() if isinstance(a, Answer)}) > 1
        behind = late(self._serials(atlas, trail.zone)) if differ else {}
        return Observation(trail.zone, trail.name, answers, security, why, trail.path, behind)

    def wait_for_txt(self, name: str, values: frozenset[str], budget: timedelta) -> None:
        """Return when every authoritative address of `name`, which is no alias, shows all the TXT values.

        CAs ask from several networks, so one server that lags is enough to fail (Baseline Requirements 3.2.2.9).

        Raises:
            Transient: `dns.unreachable`, `dns.servfail`.
            NotYet: `dns.not_yet`, with the servers that lack a value.
        """
        name, atlas = absolute(name), self._atlas()
        said: dict[str, Said] = {}
        lacking: dict[str, str] = {}
        for _ in _attempts(budget):
            said = self._ask_all(atlas, atlas.zone(name), name, TXT)
            shown = {key for key, s in said.items() if isinstance(s, Answer) and values <= s.values}
            lacking = {key: getattr(s, "why", "has not got it") for key, s in said.items() if key not in shown}
            if not lacking:
                return
        behind = late(self._serials(atlas, atlas.zone(name))) if len(lacking) < len(said) else {}
        words = "; ".join(
            f"{key} {why}{f' ({behind[key]})' if key in behind else ''}" for key, why in sorted(lacking.items())
        )
        seen = len(lacking) < len(said) and all(isinstance(said[key], Unknown) for key in lacking)
        raise NotYet("dns.not_yet", f"the TXT record of {name} is not yet everywhere: {words}", seen=seen)

    def txt(self, name: str) -> frozenset[str]:
        """The TXT values that every authoritative address of `name`, which is no alias, shows if it answers.

        Raises:
            Transient: `dns.unreachable`, `dns.servfail`: None answers.
        """
        name, atlas = absolute(name), self._atlas()
        said = self._ask_all(atlas, atlas.zone(name), name, TXT)
        shown = [s.values for s in said.values() if isinstance(s, Answer)]
        if not shown:
            words = "; ".join(f"{key} {getattr(s, 'why', 'gives an alias')}" for key, s in said.items())
            raise Transient("dns.unreachable", f"nobody answers for the TXT records of {name}: {words}")
        return shown[0].intersection(*shown)

    def serials(self, zone: str, budget: timedelta) -> dict[str, int]:
        """The serial of the zone at each of its servers that answers.

        It is asked again until none of them is late, or the budget is over.

        Raises:
            Transient: `dns.unreachable`, `dns.servfail`.
        """
        atlas, found = self._atlas(), dict[str, int]()
        for _ in _attempts(budget):
            found = self._serials(atlas, zone)
            if not late(found):
                break
        return found

    def _serials(self, atlas: Atlas, zone: str) -> dict[str, int]:
        said = self._ask_all(atlas, zone, zone, SOA)
        return {
            key: int(next(iter(s.values)).split()[2]) for key, s in said.items() if isinstance(s, Answer) and s.values
        }

    def final(self, name: str) -> tuple[str, str]:
        """The zone and name where a record for `name` is to be written: the end of its aliases (RFC 8555 section 8.4).

        Neither needs to exist yet, apart from the zone.

        Raises:
            Transient: `dns.unreachable`, `dns.servfail`: Nobody with authority answers; `dns.alias_differs`: the
                servers do not agree where an alias leads.
            Misconfigured: `dns.alias`: A loop, or too many hops; `dns.too_many`: old records are to be removed there.
        """
        trail = self._follow(self._atlas(), absolute(name), TXT)
        if trail.trouble:
            raise trail.trouble
        if not any(isinstance(answer, Answer) for answer in trail.answers.values()):
            why = "; ".join(f"{key} {a.why}" for key, a in trail.answers.items() if isinstance(a, Unknown))
            raise Transient("dns.unreachable", f"nobody answers for {trail.zone}: {why}")
        return trail.zone, trail.name

    def wildcards(self, zone: str, name: str) -> tuple[str, ...]:
        """The wildcards above a name from which some server gives TLSA records or an alias (RFC 4592 section 2.1.1).

        Which of them would answer depends on what else there is; all are named.

        Raises:
            Transient: `dns.unreachable`, `dns.servfail`: Not every server says.
        """
        atlas, found = self._atlas(), list[str]()
        above = dns.name.from_text(name)
        while above != dns.name.from_text(zone):
            above = above.parent()
            wildcard = f"*.{name_text(above)}"
            said = self._ask_all(atlas, zone, wildcard, TLSA)
            if silent := [f"{key} {s.why}" for key, s in said.items() if isinstance(s, Unknown | TooMany)]:
                raise Transient("dns.unreachable", f"whether {wildcard} has records is not known: {'; '.join(silent)}")
            given = (s for s in said.values() if isinstance(s, Alias) or (isinstance(s, Answer) and s.values))
            found += [s.wildcard or wildcard for s in given]
        return tuple(dict.fromkeys(found))

    def wildcard_alias(self, name: str) -> str:
        """The wildcard whose CNAME the name has; empty: it has none, or its own one.

        Raises:
            Transient: `dns.unreachable`, `dns.servfail`.
        """
        atlas = self._atlas()
        zone = atlas.zone(absolute(name))
        target = majority(self._ask_all(atlas, zone, absolute(name), TXT).values())
        above, found = dns.name.from_text(absolute(name)), ""
        while target and above != dns.name.from_text(zone):
            above = above.parent()
            wildcard = f"*.{name_text(above)}"
            # one that does not exist has the CNAME from the same wildcard: the last of them is that
            if majority(self._ask_all(atlas, zone, wildcard, TXT).values()) != target:
                break
            found = wildcard
        return found

    def hidden(self, zone: str, name: str) -> tuple[Hidden, ...]:
        """The hosts that would lose their addresses, which they have from a wildcard, to a record at this name.

        As far as the servers that answer show it.

        Raises:
            Transient: `dns.unreachable`, `dns.servfail`.
        """
        atlas = self._atlas()
        return tuple(hidden(lambda one, rdtype: self._ask_all(atlas, zone, one, rdtype).values(), zone, name))

    def delegation(self, name: str) -> Delegation:
        """Which servers the zone of a name lists, and to which its parent delegates it.

        Raises:
            Transient: `dns.unreachable`, `dns.servfail`.
        """
        atlas = self._atlas()
        return atlas.delegation(atlas.zone(absolute(name)))

    # -- with authority ------------------------------------------------------------------------------------------------

    def _atlas(self) -> Atlas:
        return Atlas(
            lambda name, rdtype: self.recursive.lookup(name, rdtype, even_bogus=True),
            lambda address, query: exchange(query, address, self._timeout_s),
            self._ipv6,
        )

    def _follow(self, atlas: Atlas, tlsa_name: str, rdtype: RdataType) -> Trail:
        """Asks each hop at its own zone.

        A server that cannot be asked, or disagrees about an alias, at any hop stays Unknown to the end. The TTL of a
        hop is the largest that any server gives.
        """
        name = tlsa_name
        hops: list[tuple[str, int]] = []
        odd: dict[str, Answer | Unknown] = {}
        trouble: Error | None = None
        while True:
            zone = atlas.zone(name)
            said = self._ask_all(atlas, zone, name, rdtype)
            target = majority(said.values())
            answers: dict[str, Answer | Unknown] = {}
            ttl_s = 0
            for key, s in said.items():
                if isinstance(s, Unknown):
                    odd[key] = s
                elif isinstance(s, TooMany):
                    odd[key] = Unknown(s.why)
                    hint = f"remove the {rdtype.name} records at {name} that are no longer used"
                    trouble = Misconfigured("dns.too_many", f"{key} {s.why}", hint)
                elif (s.target if isinstance(s, Alias) else "") != target:
                    trouble = Transient(
                        "dns.alias_differs", f"the servers of {zone} disagree about the alias at {name}"
                    )
                    odd[key] = Unknown(trouble.detail)
                elif isinstance(s, Alias):
                    ttl_s = max(ttl_s, s.ttl_s)
                else:
                    answers[key] = Answer(s.values, s.ttl_s, tuple(hops), s.wildcard)
            if not target:
                return Trail(zone, name, answers | odd, trouble, tuple(hops))
            if len(hops) == MAX_HOPS or target == tlsa_name or target in dict(hops):
                loop = f"the aliases of {tlsa_name} run in a loop or over more than {MAX_HOPS} hops"
                refused = Misconfigured("dns.alias", loop, "let the CNAME lead to a name with data")
                return Trail(zone, name, {key: Unknown(loop) for key in said}, refused)
            hops.append((target, ttl_s))
            name = target

    def _ask_all(self, atlas: Atlas, zone: str, name: str, rdtype: RdataType) -> dict[str, Said]:
        # RD is not set, so that a server that also resolves for others does not ask around.
        query = dns.message.make_query(name, rdtype, use_edns=0, payload=UDP_PAYLOAD, want_dnssec=True, flags=0)

        def ask(server: str | Unknown) -> Said:
            response = server if isinstance(server, Unknown) else exchange(query, server, self._timeout_s)
            return response if isinstance(response, Unknown) else read(response, name, rdtype)

        servers = atlas.servers(zone)
        said = dict(zip(servers, parallel(ask, servers.values()), strict=True))
        for key in atlas.added(zone):
            if isinstance(silent := said[key], Unknown):
                # The world's view is said to be this one: what only the parent has is another view, and may be closed.
                said[key] = Unknown(f"{silent.why} (it is in the parent's delegation only)")
                if self._public_view:
                    del said[key]
        return said
