"""In which order the values of a TLSA set may change where they cannot change at once.

Every set in between may be cached, so each one must do what the first and the last do: match what is served. For
values that are added, one that matches everything served comes first. For values that are removed, it goes last (RFC
7671 section 8.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from certagent.facts.dns import Value
from certagent.facts.tls import Chain
from certagent.lifecycle import caches
from certagent.pki import tlsa


def harmless(before: frozenset[Value], change: frozenset[Value], served: Iterable[Chain], *, adds: bool) -> bool:
    """Whether the set after the change breaks no served chain that the set before it does not break already."""
    after = before | change if adds else before - change
    return all(caches.unmatched(after, chain) <= caches.unmatched(before, chain) for chain in served)


def one_at_a_time(
    before: frozenset[Value], values: frozenset[Value], served: Sequence[Chain], *, adds: bool
) -> tuple[Value, ...] | None:
    """The values in an order in which every single change is harmless; None if there is none.

    There is none if a record type comes or goes as a whole while several keys are served: the first or the last
    record of a type would have to match all of them.
    """

    def matches(value: Value) -> int:
        return sum(tlsa.matches(value, chain) is True for chain in served)

    sign = -1 if adds else 1
    order = tuple(sorted(values, key=lambda value: (sign * matches(value), value)))
    for value in order:
        change = frozenset({value})
        if not harmless(before, change, served, adds=adds):
            return None
        before = before | change if adds else before - change
    return order
