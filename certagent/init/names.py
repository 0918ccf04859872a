"""The names of this host's mail: where each service is met, which names a certificate is proposed for, and which are
left out, with the reason.

Right are, in this order: the names of the certificates in use, the MX names that lead here, names with TLSA records,
those of SNI, and at last what the servers' own settings say. A machine is often called something else.

Standards: RFC 7672 section 3.2 (which name a sender of mail verifies), RFC 9525 (wildcards).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from msgspec.structs import replace

from certagent.facts.tls import Service
from certagent.init import host
from certagent.init.domain import MX_PORT, Name, is_host
from certagent.init.host import ITSELF, InUse
from certagent.lifecycle import caches
from certagent.mta.server import Found
from certagent.pki.names import covers

Met = Callable[[str, Service], frozenset[str]]
"""The keys (SHA-256) that are met where the service is, by a client that knows it by this name."""


class LeftOut(NamedTuple):
    """A name that no certificate is proposed for."""

    name: str
    why: str
    todo: str


class Names(NamedTuple):
    """What is known of all names."""

    found: tuple[Found, ...]
    in_use: Mapping[str, tuple[InUse, ...]]
    """By the name of the mail server."""
    known: Mapping[str, Name]

    # -- candidates ----------------------------------------------------------------------------------------------------

    def certified(self, server: Found, *, by_others: bool = False) -> tuple[str, ...]:
        """The names of the certificates that it uses; `by_others`: without those that are signed by themselves."""
        used = (one for one in self.in_use[server.name] if not by_others or one.issuer != ITSELF)
        return tuple(dict.fromkeys(name for one in used for name in one.names))

    def of(self, server: Found) -> tuple[str, ...]:
        """Its candidates, each once."""
        asked = (name for service in server.services for name in (service.host, *service.sni) if name)
        return tuple(dict.fromkeys([*self.certified(server), *asked, *server.names]))

    def orderable(self, name: str) -> bool:
        """Whether a public CA could issue for it: a full name in a zone below the root, if DNS could be asked."""
        base = name.removeprefix("*.")
        return is_host(base) and (base not in self.known or self.known[base].zone != ".")

    def here(self) -> frozenset[str]:
        """The names that lead to this host.

        Where the public addresses of all of them are elsewhere (NAT), or DNS could not be asked, each candidate does,
        and so does an MX name with an address of theirs.
        """
        own = frozenset(name for name, one in self.known.items() if any(map(host.is_own, one.addresses)))
        if own:
            return own
        claimed = {name for server in self.found for name in self.of(server) if is_host(name)}
        outside = {address for name in claimed & self.known.keys() for address in self.known[name].addresses}
        shared = (name for name, one in self.known.items() if not outside.isdisjoint(one.addresses))
        return frozenset([*(name for name in claimed if name not in self.known), *shared])

    def records(self, name: str, port: int) -> frozenset[str]:
        """The TLSA records there."""
        one = self.known.get(name)
        observed = one.tlsa.get(port) if one else None
        return frozenset(v for answer in caches.known(observed) for v in answer.values) if observed else frozenset()

    def receives(self, name: str, port: int) -> bool:
        """Whether senders of mail may verify this name: it is an MX name, or has TLSA records."""
        one = self.known.get(name)
        return bool(one and ((port == MX_PORT and one.mail_for) or self.records(name, port)))

    def leads_to(self, name: str, service: Service) -> bool:
        """Whether a client that looks the name up comes to where the service listens, as far as that is known."""
        one = self.known.get(name)
        return not (one and one.addresses and service.addresses) or not set(service.addresses).isdisjoint(one.addresses)

    # -- where each service is met -------------------------------------------------------------------------------------

    def services(self, met: Met) -> dict[str, tuple[Service, ...]]:
        """By mail server: its services, each under a name for which its certificate is met; and under every MX name
        and every name with TLSA records that leads here.
        """
        here = self.here()
        chosen = {s.name: [replace(one, host=self._host(s, one, here, met)) for one in s.services] for s in self.found}
        found: dict[str, list[Service]] = {server.name: [] for server in self.found}
        ports = {service.port for services in chosen.values() for service in services}
        taken = {
            (name, port): self._taker(name, port, chosen, met)
            for port in sorted(ports)
            for name in sorted(here & self.known.keys())
            if self.receives(name, port)
        }
        for server, services in chosen.items():
            for port, group in groupby(sorted(services, key=_port), key=_port):
                mine = list(group)
                more = [name for (name, at), taker in taken.items() if (at, taker) == (port, server)]
                there = {one.host for one in mine}
                extra = [self._renamed(mine, name) for name in more if name not in there]
                if port == MX_PORT and more:  # no sender of mail looks at the others
                    asked = tuple(dict.fromkeys(name for one in mine for name in one.sni))
                    mine = [one for one in mine if one.host in more]
                    extra[:1] = [one if mine else replace(one, sni=asked) for one in extra[:1]]
                found[server] += mine + extra
        return {server: tuple(dict.fromkeys(services)) for server, services in found.items()}

    def _renamed(self, services: list[Service], name: str) -> Service:
        """One of them, by another name that leads there."""
        return replace(next(one for one in services if self.leads_to(name, one)), host=name, sni=())

    def _host(self, server: Found, service: Service, here: frozenset[str], met: Met) -> str:
        """The name by which to verify a service: the server's own, unless the certificate in use is not good for it."""
        certified = self.certified(server)

        def rank(name: str) -> tuple[bool, ...]:
            good = any(covers(pattern, name) for pattern in certified)
            near = name in here and self.leads_to(name, service)
            return (not near, not good, name != service.host, not self.receives(name, MX_PORT))

        others = (n for n in sorted(here) if self.receives(n, MX_PORT) or any(covers(one, n) for one in certified))
        candidates = filter(is_host, dict.fromkeys([service.host, *self.of(server), *others]))
        ranked = sorted(candidates, key=rank)
        if self._divided(service.port):
            answering = (name for name in ranked if self._answers(server, name, service, met))
            return next(answering, service.host)
        return ranked[0] if ranked else service.host

    def _divided(self, port: int) -> bool:
        """Whether several entries share it: which certificate a client meets depends on the name that it asks for."""
        return sum(any(one.port == port for one in server.services) for server in self.found) > 1

    def _answers(self, server: Found, name: str, service: Service, met: Met) -> bool:
        """Whether a client that knows it by this name meets a certificate of this entry, and of no other."""
        if not any(covers(pattern, name) for pattern in self.certified(server)) and name != service.host:
            return False
        keys = met(name, service)
        return not keys or bool(keys & {one.spki for one in self.in_use[server.name]})

    def _taker(self, name: str, port: int, chosen: Mapping[str, list[Service]], met: Met) -> str:
        """The entry whose certificate is met there under this name; the first if that is not to be seen, "" if none."""
        there = ((server, one) for server, services in chosen.items() for one in services if one.port == port)
        at = {server: one for server, one in there if self.leads_to(name, one)}
        keys = met(name, next(iter(at.values()))) if len(at) > 1 else frozenset[str]()
        owners = [server for server in at if keys & {one.spki for one in self.in_use[server]}]
        named = [server.name for server in self.found if server.name in at and name in self.of(server)]
        return [*owners, *named, *at, ""][0]

    # -- what a certificate is for -------------------------------------------------------------------------------------

    def wanted(self, servers: Iterable[Found], services: Mapping[str, tuple[Service, ...]]) -> tuple[str, ...]:
        """The names of one certificate for these servers; without those for which a wildcard among them is good."""
        names: dict[str, None] = {}
        here = self.here()
        for server in servers:
            met = [n for one in services[server.name] for n in (one.host, *one.sni) if n]
            sure = {*met, *self.certified(server, by_others=True)}
            names |= dict.fromkeys(n for n in [*met, *self.of(server)] if not self._why_not(n, here, sure=n in sure))
        wild = [name for name in names if name.startswith("*.")]
        return tuple(name for name in names if not any(name != one and covers(one, name) for one in wild))

    def left_out(self, names: Iterable[str]) -> Iterator[LeftOut]:
        """Every candidate of this host that is not among `names`, nor covered by one of them."""
        wanted, here = tuple(names), self.here()
        candidates = dict.fromkeys(name.lower() for server in self.found for name in self.of(server))
        exchanges = (name for name, one in self.known.items() if one.mail_for)
        for name in dict.fromkeys([*candidates, *exchanges]):
            if any(covers(one, name) for one in wanted):
                continue
            one = self.known.get(name)
            if one and one.mail_for and name not in here:
                where = f"leads to {', '.join(one.addresses) or 'no address'}, not to this host"
                todo = "if that is forwarded here, add it to names and to services (port 25, tlsa: true)"
                yield LeftOut(name, f"the MX of {', '.join(one.mail_for)}, {where}", todo)
            elif why := self._why_not(name, here):
                yield LeftOut(name, *why)
            elif one and one.mail_for:
                what = (
                    f"the MX of {', '.join(one.mail_for)}: no mail server above listens at {', '.join(one.addresses)}"
                )
                yield LeftOut(name, what, "if one does, add it to names and to services (port 25, tlsa: true)")

    def _why_not(self, name: str, here: frozenset[str], *, sure: bool = False) -> tuple[str, str] | None:
        """Why it is not for a certificate, and what to do; None: it is. `sure`: a CA has certified it, or it is met."""
        base = name.removeprefix("*.")
        if not is_host(base):
            return "no full name in DNS", "if clients use it, give them a full name"
        if not self.orderable(name):
            return "no CA can issue for what is not in public DNS", "if clients use it, give them a name in public DNS"
        one = self.known.get(base)
        if sure or one is None or name in here or name != base:
            return None
        if one.absent:
            return "has no address in DNS", "give it one, or add it to names if clients use it all the same"
        if one.addresses:
            where = f"leads to {', '.join(one.addresses)}, not to this host"
            return where, "add it to names if clients of this host use it all the same"
        return None


def _port(service: Service) -> int:
    return service.port
