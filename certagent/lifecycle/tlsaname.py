"""What follows from the state for each TLSA name: what is served, cached, desired, missing, surplus, and why it waits.

The four orders of a roll (normal, first publication, withdrawal, emergency) are not four procedures. They follow from
what caches may hold (`caches.py`), from the set that should be published (`TlsaName.desired`) and from `gates.py`.

A view is frozen, and made anew for each pass of the planner. Each fact is worked out once, when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import product

from certagent.facts.dns import Value
from certagent.facts.moment import Instant
from certagent.facts.tls import Chain, distinct
from certagent.lifecycle import caches
from certagent.lifecycle.once import once
from certagent.lifecycle.shared import Chains, Shared
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.whereabouts import Whereabouts
from certagent.pki import tlsa

Values = frozenset[Value]


@dataclass(frozen=True, eq=False, repr=False)
class TlsaNames:
    """Every TLSA name of a certificate: those configured, then those that caches may know although withdrawn."""

    spec: Spec
    state: State

    def __iter__(self) -> Iterator[TlsaName]:
        return iter(self._names.values())

    def __getitem__(self, name: str) -> TlsaName:
        undeclared = (one for one in self.undeclared if one.name == name)
        return self._names.get(name) or next(undeclared, None) or self._view(name)

    def _view(self, name: str) -> TlsaName:
        return TlsaName(self.spec, self.state, name, self)

    @once
    def _names(self) -> dict[str, TlsaName]:
        spec, known = self.spec, self.state.tlsa_names.items()
        withdrawn = (name for name, at in known if name not in spec.tlsa_names and not at.undeclared)
        return {name: self._view(name) for name in (*spec.tlsa_names, *withdrawn)}

    @once
    def undeclared(self) -> tuple[TlsaName, ...]:
        """Those of services without `tlsa: true`: their records are somebody else's, and are never changed."""
        return tuple(self._view(name) for name in self.spec.undeclared if name not in self._names)

    @once
    def configured(self) -> tuple[TlsaName, ...]:
        """Those that the configuration has."""
        return tuple(name for name in self if name.configured)

    def known_at(self, servers: tuple[str, ...]) -> bool:
        """Each of these mail servers was met: a first swap that was begun says nothing of what is served before it."""
        found = map(self.state.mail_servers.get, servers)
        return all(at is not None and at.met for at in found)

    def at(self, server: str) -> tuple[TlsaName, ...]:
        """The TLSA names whose records count for a mail server."""
        return self._by_server.get(server, ())

    @once
    def _by_server(self) -> dict[str, tuple[TlsaName, ...]]:
        found: dict[str, list[TlsaName]] = {}
        for name in (*self, *self.undeclared):
            for server in name.shared.mail_servers:
                found.setdefault(server, []).append(name)
        return {server: tuple(names) for server, names in found.items()}

    @once
    def forgotten(self) -> tuple[TlsaName, ...]:
        """Undeclared ones whose service is not configured any more, and at which no records were seen lately."""
        spec = self.spec
        others = (n for n, known in self.state.tlsa_names.items() if known.undeclared)
        gone = (self[n] for n in others if n not in spec.tlsa_names and n not in spec.undeclared)
        return tuple(name for name in gone if all(item.values == frozenset() for item in name.known.cached))

    @once
    def unplaced(self) -> tuple[TlsaName, ...]:
        """Configured names of which nobody has said yet where their records are: any other name may share them."""
        return tuple(name for name in self.configured if not name.places)

    @once
    def anywhere(self) -> tuple[TlsaName, ...]:
        """Configured names whose records may be those of any other: a server that was not heard may lead there."""
        return tuple(name for name in self.configured if not name.placed)

    @once
    def unknown_anywhere(self) -> tuple[str, ...]:
        """Mail servers that answer at one of those names and of which nothing is known yet."""
        return tuple(dict.fromkeys(server for name in self.anywhere for server in name.shared.unknown_servers))

    @once
    def served_anywhere(self) -> Chains:
        """The chains that a client may meet at one of those names, or at one like them that was withdrawn."""
        return distinct(chain for name in self if not name.placed for chain in name.served)

    @once
    def ours(self) -> Values:
        """Every TLSA value that is certagent's to remove."""
        return self.state.ours

    @once
    def coming(self) -> Chains:
        """The chains of the newest generation, and those that the next keys will get."""
        newest, following = self.state.newest, self.state.next_keys
        issued = newest.chains.values() if newest else ()
        return (*issued, *(following.as_if_issued(newest).values() if following else ()))

    @once
    def configured_places(self) -> frozenset[str]:
        """Where the records of all configured names are."""
        return frozenset(name.place for name in self.configured)

    def sharing(self, name: TlsaName) -> Shared:
        """What a name has in common with those that share its records."""
        key = name.places or name.name
        return self._shared.get(key) or self._of(key, name)

    @once
    def _shared(self) -> dict[frozenset[str] | str, Shared]:
        known = {name.places or name.name: name for name in (*self, *self.undeclared)}
        return {key: self._of(key, name) for key, name in known.items()}

    def _of(self, key: frozenset[str] | str, name: TlsaName) -> Shared:
        places = () if isinstance(key, str) else sorted(key)
        names = dict.fromkeys(n for place in places for n in self._by_place.get(place, ()))
        return Shared(self.spec, self.state, tuple(names) or (name,))

    @once
    def _by_place(self) -> dict[str, list[TlsaName]]:
        found: dict[str, list[TlsaName]] = {}
        for name in (*self, *self.undeclared):
            for place in name.places:
                found.setdefault(place, []).append(name)
        return found


@dataclass(frozen=True, eq=False, repr=False)
class TlsaName(Whereabouts):
    """One TLSA name under a spec and a state."""

    names: TlsaNames

    @once
    def shared(self) -> Shared:
        """What it has in common with the names that share its records."""
        return self.names.sharing(self)

    @once
    def withdrawn(self) -> bool:
        """It is not configured any more, and no other name has its records."""
        return not self.configured and self.place not in self.names.configured_places

    # -- what is served and seen ---------------------------------------------------------------------------------------

    @property
    def served(self) -> Chains:
        """The chains that a client of the service may meet now; none if any mail server is unknown yet."""
        return self.shared.served

    @once
    def met(self) -> Chains:
        """The chains that may fail its clients already; none if one of those that answer here was never met.

        What others serve who share its records fails their clients, and says nothing of those that come here.
        """
        return self.served if self._known else ()

    @once
    def _known(self) -> bool:
        """Each mail server that answers here was met with a certificate."""
        return self.names.known_at(self.mail_servers or self.shared.mail_servers)

    @once
    def minded(self) -> Chains:
        """The chains that a change of its records must match: also those of names whose records may be these."""
        anywhere = self.names.served_anywhere
        return distinct((*self.served, *anywhere)) if anywhere else self.served

    def already_served(self, chain: Chain) -> bool:
        """Every mail server surely served a chain already that has the records of this one."""
        return self.key_served(chain, pinned=self._pins_issuer)

    def key_served(self, chain: Chain, *, pinned: bool = False) -> bool:
        """Every mail server surely served a chain already with that key; `pinned`: and with these issuers."""
        for served in self.shared.converged:
            same = [one for one in served if one.spki == chain.spki]
            if not any(one.issuers == chain.issuers or not pinned for one in same):
                return False
        return True

    @once
    def _pins_issuer(self) -> bool:
        # of records that others keep nothing is known until a swap is due
        return (
            self.undeclared
            or tlsa.DANE_TA_SPKI_SHA256 in self.spec.tlsa_parameters
            or any(
                tlsa.parameters(v) != tlsa.DANE_EE_SPKI_SHA256
                for h in self.known.cached
                for v in h.values or ()
                if tlsa.usable(v)
            )
        )

    def cached(self, now: Instant) -> list[caches.CachedSet]:
        """The sets that caches may hold now."""
        return caches.still_cached(self.known.cached, self.path, self.spec.safety_margin, now)

    def retire_interval(self, item: caches.CachedSet) -> timedelta:
        """How long caches may keep a set after the last server stopped giving it."""
        return caches.retire_interval(item, self.path, self.spec.safety_margin)

    @once
    def sets(self) -> tuple[Values, ...]:
        """The set of each authoritative server that was heard in the last round."""
        seen = self.known.observation
        return tuple(answer.values for answer in caches.known(seen)) if seen else ()

    @once
    def seen_somewhere(self) -> Values:
        """Values that some authoritative server gave in the last round."""
        return frozenset[Value]().union(*self.sets)

    @once
    def seen_everywhere(self) -> Values:
        """Values that every authoritative server gave in the last round; none if one was not heard."""
        seen = self.known.observation
        if seen is None or not caches.complete(seen):
            return frozenset()
        first, *others = self.sets
        return first.intersection(*others)

    @once
    def covered(self) -> bool:
        """A wildcard gives the records of some server: the name has none itself, and nothing can be removed there."""
        seen = self.known.observation
        return seen is not None and any(answer.wildcard for answer in caches.known(seen))

    @property
    def empty(self) -> bool:
        """Every authoritative server was heard and says that there are no TLSA records."""
        seen = self.known.observation
        return seen is not None and caches.complete(seen) and not self.seen_somewhere

    @property
    def changed_since_observed(self) -> bool:
        """A change was made, or may have been, that no observation has seen yet."""
        changed_at, observed_at = self.known.changed_at, self.known.observed_at
        return changed_at is not None and observed_at is not None and observed_at.elapsed_s <= changed_at.elapsed_s

    @property
    def publish_lag(self) -> timedelta:
        """How long its provider usually takes to show a change, as of the last one."""
        return timedelta(seconds=max(name.known.publish_lag_s for name in self.shared.names))

    # -- what should be published --------------------------------------------------------------------------------------

    @once
    def publication_blocked(self) -> str | None:  # noqa: PLR0911 -- a list of reasons
        """Why nothing is published yet here, and DANE is not in force; None if it is, or may begin.

        The first records cut every DANE sender off if they come before the key is served (RFC 7671 section 8.1), and
        are of no use in a zone that senders cannot validate (RFC 7672 sections 2.2 and 2.2.1).
        """
        seen, names = self.known.observation, self.names
        if seen is None:
            return "its authoritative servers were not asked yet"
        if unknown := self.shared.unknown_servers or names.unknown_anywhere:
            return f"what {', '.join(unknown)} serves is not known yet"
        if not self.sets:
            return "none of its authoritative servers was heard"
        if all(self.sets) or (self.seen_somewhere and self._known):
            return None
        if seen.security != "secure":
            return f"not known to be signed: {seen.security}, {seen.why}"
        if names.unplaced:
            return f"where {', '.join(map(str, names.unplaced))} leads is not known yet: the records may be the same"
        same = all(name.shared.verified == self.shared.verified for name in names.anywhere)
        return None if same and self.shared.verified else "first publication: the key is served and verified first"

    @once
    def desired(self) -> Values:
        """The set that should be published now.

        Records of everything that may be served, of the generation to be installed, and of the next keys. Nothing for
        a name that is withdrawn (unless its alias leads to the records of others). Nothing yet if a first publication
        has to wait. Records of what was met unexpectedly stay with the others, but only where they are already.
        """
        if self.withdrawn or self.publication_blocked:
            return frozenset()
        strange = {v for chain in self.shared.strange for v in tlsa.records(chain, self.spec.tlsa_parameters)}
        return self.shared.values | (self.seen_somewhere & strange)

    @once
    def missing(self) -> Values:
        """What to publish now: the whole desired set, without parameters that must wait, as soon as any is missing.

        Missing is what no server gives; and what one server lacks although it is served: that one may be the primary,
        and the others may only not have followed yet.
        """
        if not self.desired:
            return self.desired
        early = self.newly_unmatched(self.desired)
        values = frozenset(v for v in self.desired if tlsa.parameters(v) not in early) if early else self.desired
        lacking = self.covered or any(not before and values for before in self.sets)
        wanted = self.repaired_by(values) or lacking or not values <= self.seen_somewhere
        return values if wanted else frozenset()

    def repaired_by(self, values: Values) -> bool:
        """Some server gives a set that breaks what is served, and would not with these values."""
        pairs = product(set(self.sets), self.served)
        return any(caches.unmatched(old, chain) - caches.unmatched(old | values, chain) for old, chain in pairs)

    def newly_unmatched(self, values: Values) -> tuple[str, ...]:
        """TLSA parameters that would match nothing served once the values are added, and do not fail already."""
        unplaced = (chain for name in self.names.unplaced for chain in name.served)
        hidden = product((frozenset[Value](),), (*self.shared.expected, *unplaced))  # a hidden primary may be empty
        pairs = (*product(set(self.sets), self.minded), *hidden)
        unmatched = (caches.unmatched(old | values, chain) - caches.unmatched(old, chain) for old, chain in pairs)
        return tuple(sorted(frozenset[str]().union(*unmatched)))

    def lacks_parameters(self, values: Values) -> bool:
        """Some server gives a set in which they are the first of their TLSA parameters."""
        wanted = set(map(tlsa.parameters, values))
        return any(wanted - set(map(tlsa.parameters, before)) for before in self.sets)

    @once
    def surplus(self) -> Values:
        """Values of ours that some authoritative server gives and that should not be there any more.

        A withdrawn name loses every value that was ever ours, seen or not: a server may have lost sight of one. So do
        TLSA parameters that are not configured any more: what is left would match nothing (RFC 7671 section 8).
        """
        names = self.names
        answers = caches.known(self.known.observation) if self.known.observation else []
        own = frozenset[Value]().union(*(answer.values for answer in answers if not answer.wildcard))
        seen = (own & names.ours) - self.desired
        if not seen:
            return seen
        if self.withdrawn:
            return names.ours
        over = {tlsa.parameters(v) for v in seen} - set(names.spec.tlsa_parameters)
        return seen | {v for v in names.ours - self.desired if tlsa.parameters(v) in over} if over else seen

    @once
    def unfollowed(self) -> bool:
        """Some server lacks a value that should be there, or gives one that should not.

        While a first publication waits nothing is expected yet.
        """
        return bool(self.desired - self.seen_everywhere or self.surplus)
