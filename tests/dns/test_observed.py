"""What providers state of themselves, and what docs/results/dns.md says of them, is what they do."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from certagent.dns.providers.protocol import Capabilities
from tests.dns.fakes.known import Known
from tests.dns.observed import PAGE, PART, SEEN, Observed, at_acme_dns, at_fake, of_acme_dns


@pytest.mark.parametrize("known", SEEN, ids=lambda known: known.name)
def test_what_is_stated_is_what_is_observed(known: Known, tmp_path: Path) -> None:
    """In both directions: a provider that does more than it states has plans that wait for nothing."""
    with at_fake(known, tmp_path) as (fake, observer, provider):
        observed = observer.all(known.name.removesuffix("-luadns"), partial(known.others, fake))
    judge(observed, provider.capabilities)


def test_acme_dns(tmp_path: Path) -> None:
    with at_acme_dns(tmp_path) as (fake, provider):
        judge(of_acme_dns(fake, provider), provider.capabilities)


def judge(observed: Observed, stated: Capabilities) -> None:
    assert observed.agrees(stated), observed
    part = PART.search(PAGE.read_text("utf-8"))
    assert part
    assert observed.row() in part[0].splitlines(), "python -m tests.dns.observed"
