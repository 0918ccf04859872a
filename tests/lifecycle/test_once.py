"""A fact of a view is worked out once, and only if it is asked for."""

from __future__ import annotations

from certagent.lifecycle.once import once
from certagent.lifecycle.tlsaname import TlsaName


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
