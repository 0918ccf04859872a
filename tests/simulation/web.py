"""A challenge type beside DNS: files in directories of the world's web server, which gives one of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

from certagent.acme.challenges.protocol import Means, Offer
from certagent.errors import Transient
from certagent.facts.challenge import DNS_01, About, Challenge, Method
from tests.simulation.clock import Clock

WAYS = (DNS_01, Method("http-01", "", "/srv/one"), Method("http-01", "", "/srv/two"))
"""How challenges are met, by the configuration. The web server gives the directory that is configured."""
HTTP_01 = About("tests.simulation.web:Http01", port=80, webroot=True)


class WebServer:
    """The files in all its directories. The disk may be full; a run may be killed before a change, and after it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.files: set[Challenge] = set()
        self.stray: set[Challenge] = set()
        """Those of a journal that was lost."""

    def change(self, challenges: Sequence[Challenge], *, adds: bool) -> None:
        """One file after the other."""
        for one in challenges:
            self.clock.hazard("before a file is changed")
            if self.clock.chance(0.03):
                raise Transient("store.disk", "no space left")
            self.files = self.files | {one} if adds else self.files - {one}
            self.clock.go_on(0.01)
        self.clock.hazard("after files were changed")


class Http01:
    """A ChallengeType."""

    remedy = "look at the web server"

    def __init__(self, means: Means) -> None:
        self._web = cast("WebServer", means.listeners)

    @staticmethod
    def respond(offer: Offer) -> Challenge:
        """Not asked: the simulated CA makes the challenges."""
        raise AssertionError(offer)

    def present(self, challenges: Sequence[Challenge]) -> None:
        self._web.change(challenges, adds=True)

    def serving(self, challenges: Sequence[Challenge], /) -> AbstractContextManager[None]:
        return nullcontext()

    def ready(self, challenges: Sequence[Challenge]) -> str:
        return "" if self._web.files.issuperset(challenges) else "this host does not see it"

    def clean_up(self, challenges: Sequence[Challenge]) -> None:
        self._web.change(challenges, adds=False)
