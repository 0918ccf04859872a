"""A fact of a view is worked out once, and only if it is asked for."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from certagent.lifecycle.once import once
from certagent.lifecycle.shared import Shared
from certagent.lifecycle.tlsaname import TlsaName, TlsaNames
from tests.lifecycle.play import TLSA_NAME, Life


class View:
    def __init__(self) -> None:
        self.asked = 0

    @once
    def fact(self) -> int:
        """What it is."""
        self.asked += 1
        return 42


def test_once() -> None:
    view, other = View(), View()
    assert (view.fact, view.fact, view.asked, other.asked) == (42, 42, 1, 0)


def test_a_fact_explains_itself() -> None:
    assert View.fact.__doc__ == "What it is."
    assert (TlsaName.desired.__doc__ or "").startswith("The set that should be published now.")


@pytest.mark.parametrize("view", [TlsaNames, TlsaName, Shared])
def test_a_view_is_frozen(view: type[TlsaNames | TlsaName | Shared]) -> None:
    """Nobody assigns to it, and what it says of itself is of values that nobody can change."""
    life = Life.published()
    names = life.names
    one: TlsaNames | TlsaName | Shared = {
        TlsaNames: names,
        TlsaName: names[TLSA_NAME],
        Shared: names[TLSA_NAME].shared,
    }[view]
    with pytest.raises(FrozenInstanceError):
        one.state = life.state  # pyright: ignore[reportAttributeAccessIssue]
    facts = [fact for kind in view.__mro__ for fact, how in vars(kind).items() if isinstance(how, once | property)]
    assert len(facts) > 3
    for fact in facts:
        if not fact.startswith("_"):
            assert not isinstance(getattr(one, fact), list | dict | set), fact
