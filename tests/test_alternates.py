"""A CA's first chain may be one that nobody can serve: its other chains are tried before the order is given up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from certagent.acme.client import Acme
from certagent.agent.act.issuing import usable_chain
from certagent.errors import CaRefusal, CaUnavailable, Error, Rejected, Transient, Unsafe
from tests.pki import made

URL = "https://ca.example/o/1"
GOOD = made.leaf().pem + made.issuing().pem
INCOMPLETE = made.leaf().pem
EMPTY = b""
GONE = CaRefusal("ca.order_gone", "404")
AWAY = CaUnavailable("ca.unreachable", "no route")


class Ca(Acme):
    """Gives what it is told to, and counts."""

    def __init__(self, first: bytes, *others: bytes | Error) -> None:
        self.first, self.others, self.asked = first, others, 0

    def finalize(self, url: str, csr_pem: bytes) -> bytes:
        return self.first

    def alternates(self, url: str) -> Iterator[bytes]:
        for other in self.others:
            self.asked += 1
            if isinstance(other, Error):
                raise other
            yield other


@pytest.mark.parametrize(
    ("ca", "asked"),
    [
        pytest.param(Ca(GOOD, EMPTY), 0, id="the first is good"),
        pytest.param(Ca(INCOMPLETE, EMPTY, GOOD, EMPTY), 2, id="the first good one of the others"),
    ],
)
def test_the_first_that_can_be_served_is_taken(ca: Ca, asked: int) -> None:
    pem, credential, chain = usable_chain(ca, URL, made.leaf().key, (made.HOST,), made.NOW)
    assert (pem, ca.asked) == (GOOD, asked)
    assert credential.leaf + credential.issuers == GOOD
    assert chain.names == (made.HOST,)


@pytest.mark.parametrize(
    ("ca", "kind", "code"),
    [
        pytest.param(Ca(INCOMPLETE), Unsafe, "pem.incomplete", id="no other"),
        pytest.param(Ca(INCOMPLETE, EMPTY, EMPTY), Unsafe, "pem.incomplete", id="no good one"),
        pytest.param(Ca(INCOMPLETE, GONE), Unsafe, "pem.incomplete", id="another that is gone"),
        pytest.param(Ca(INCOMPLETE, AWAY), Transient, "ca.unreachable", id="not to be had at the moment"),
    ],
)
def test_if_none_can_be_served_the_fault_of_the_first_is_said(ca: Ca, kind: type[Error], code: str) -> None:
    """What cannot be asked now is asked later, with the same order."""
    with pytest.raises(kind) as caught:
        usable_chain(ca, URL, made.leaf().key, (made.HOST,), made.NOW)
    assert caught.value.code == code
    assert not isinstance(caught.value, Rejected)
