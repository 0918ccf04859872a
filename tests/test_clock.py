"""A clock of this host that is wrong: no chain is thrown away for it, and no CA is asked again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from msgspec.structs import replace

from certagent.agent.act import issuing, serving
from certagent.agent.edges import Edges
from certagent.errors import NotYetValid
from certagent.facts.moment import Instant
from certagent.lifecycle.events import Failed
from certagent.lifecycle.state import Generation, Installation, Order, State
from certagent.lifecycle.steps import Finalize, Install
from certagent.pki import bundle
from tests.lifecycle.play import CA, ECDSA, SPEC
from tests.pki import made

CHAIN = made.leaf().pem + made.issuing().pem
BEGIN = made.leaf().certificate.not_valid_before_utc
END = made.leaf().certificate.not_valid_after_utc
MINE = replace(SPEC, names=(made.HOST,), tlsa_names={})


class Parts:
    """The edges that the steps below use: vault, CA, and a mail server whose check passes."""

    def __init__(self) -> None:
        self.vault = self
        self.servers = {"postfix": None}

    def key(self, *_: Any) -> Any:
        return made.leaf().key

    def chain(self, *_: Any) -> bytes:
        return CHAIN

    def issuer(self, _: str) -> Parts:
        return self

    def finalize(self, *_: Any) -> bytes:
        return CHAIN

    def check(self, *_: Any) -> None: ...


EDGES = cast("Edges", Parts())


def test_a_slow_clock_keeps_the_order() -> None:
    """The same order gives the same chain once the clock is right. Our own back-off: it may be so in a moment."""
    state = State(name=SPEC.name, orders={ECDSA: Order("k1", "https://ca.example/order/1", (), CA)})
    step = Finalize(keys="k1", key_type=ECDSA, generation="g1", completes=True, because="")
    slow = Instant(BEGIN - issuing.SKEW - timedelta(seconds=200), 0.0)
    with pytest.raises(NotYetValid) as caught:
        issuing.finalize(step, MINE, state, EDGES, slow)
    assert (caught.value.kind, caught.value.concerns) == ("transient", "host")


@pytest.mark.parametrize(
    ("moment", "code"),
    [(BEGIN - timedelta(seconds=200), "pem.not_yet_valid"), (END + timedelta(seconds=1), "pem.expired")],
)
def test_what_a_swap_refuses_is_no_matter_of_the_ca(moment: datetime, code: str) -> None:
    """It was good when it came: the swap is tried again as soon as anything of ours."""
    _, chain = bundle.build(made.leaf().key, CHAIN, names=MINE.names, now=made.NOW)
    now = Instant(moment, 0.0)
    generation = Generation("g1", "k1", {ECDSA: chain}, now, ca=CA)
    state = State(name=SPEC.name, generations=(generation,), mail_servers={"postfix": Installation()})
    step = Install(server="postfix", generation="g1", because="")
    [failed] = serving.install_unless(step, MINE, state, EDGES, now)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.concerns) == (code, "host")
