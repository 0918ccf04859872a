"""What providers state of themselves, and what docs/results/dns.md says of them, is what they do."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.dns.fakes.known import Known
from tests.dns.observed import PAGE, PART, SEEN, Observer, at_fake


@pytest.mark.parametrize("known", SEEN, ids=lambda known: known.name)
def test_what_is_stated_is_what_is_observed(known: Known, tmp_path: Path) -> None:
    """In both directions: a provider that does more than it states has plans that wait for nothing."""
    with at_fake(known, tmp_path) as (fake, provider):
        observed = Observer(provider, fake).all(known.name, partial(known.others, fake))
        assert observed.agrees(provider.capabilities), observed
    part = PART.search(PAGE.read_text("utf-8"))
    assert part
    assert observed.row() in part[0].splitlines(), "python -m tests.dns.observed"
