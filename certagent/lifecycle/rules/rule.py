"""What a rule is: it reads facts and offers steps or waits. It changes nothing and asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from certagent.facts.moment import Instant
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.steps import AnyStep, Wait

Offer = AnyStep | Wait

Rule = Callable[[Spec, State, Instant], Iterator[Offer]]
"""What the operator wants, what the journal says, now -> what could be done, in the order of preference."""
