"""Which services ask for records at a TLSA name, and where its records are: at the name, or where an alias leads."""

from __future__ import annotations

from dataclasses import dataclass

from certagent.lifecycle import caches
from certagent.lifecycle.once import once
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State, TlsaState


@dataclass(frozen=True, eq=False, repr=False)
class Whereabouts:
    """Those of one TLSA name under a spec and a state."""

    spec: Spec
    state: State
    name: str

    def __str__(self) -> str:
        return self.name

    @once
    def known(self) -> TlsaState:
        """What the journal says of it."""
        return self.state.tlsa_name(self.name)

    @once
    def configured(self) -> bool:
        """A service asks for its records."""
        return self.name in self.spec.tlsa_names

    @once
    def undeclared(self) -> bool:
        """No service ever asked for records there: see `Spec.undeclared`."""
        return not self.configured and (self.known.undeclared or self.name not in self.state.tlsa_names)

    @once
    def mail_servers(self) -> tuple[str, ...]:
        """Those that answer there by the configuration."""
        services = self.spec.undeclared if self.undeclared else self.spec.tlsa_names
        return services.get(self.name, ())

    @once
    def place(self) -> str:
        """Where its records are, as last seen."""
        return place(self.known, self.name)

    @once
    def path(self) -> tuple[str, ...]:
        """The alias names on the way to the records, as last seen."""
        seen = self.known.observation
        return next((tuple(name for name, _ in answer.path) for answer in caches.known(seen)), ()) if seen else ()

    @once
    def places(self) -> frozenset[str]:
        """Where its aliases lead, and led when caches may have taken them, as of the last observation."""
        known = self.known
        found = {known.observation.name} if known.observation and caches.known(known.observation) else set[str]()
        elsewhere = [item for item in known.cached if self._end(item) not in found]
        if elsewhere and known.observed_at:
            elsewhere = caches.still_cached(elsewhere, self.path, self.spec.safety_margin, known.observed_at)
        return frozenset(found.union(map(self._end, elsewhere)))

    @once
    def placed(self) -> bool:
        """Its records are at its places and surely nowhere else: every server was heard and agreed for long enough."""
        known, again = self.known, self.known.complete_again_at
        if not (known.observation and known.observed_at and caches.complete(known.observation)):
            return False
        wait = caches.longest_interval(known.cached, self.spec.safety_margin)
        return again is None or known.observed_at.since(again) >= wait

    def _end(self, item: caches.CachedSet) -> str:
        return item.path[-1][0] if item.path else self.name


def place(known: TlsaState, tlsa_name: str) -> str:
    """Where the records of a TLSA name are, as last seen."""
    seen = known.observation
    return seen.name if seen and caches.known(seen) else tlsa_name
