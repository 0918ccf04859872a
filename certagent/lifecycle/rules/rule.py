"""What a rule is: it reads facts and offers steps or waits. It changes nothing and asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from certagent.facts.moment import Instant
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.steps import AnyStep, Wait
from certagent.lifecycle.tlsaname import TlsaNames

Offer = AnyStep | Wait


class View(NamedTuple):
    """All that a rule reads."""

    spec: Spec
    """What the operator wants."""
    state: State
    """What the journal says."""
    names: TlsaNames
    """What follows from both for each TLSA name."""
    now: Instant

    @classmethod
    def of(cls, spec: Spec, state: State, now: Instant) -> View:
        """The view of one pass."""
        return cls(spec, state, TlsaNames(spec, state), now)


Rule = Callable[[View], Iterator[Offer]]
"""What could be done, in the order of preference."""
