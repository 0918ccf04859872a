"""The words of the core: what people read of them, and time that is told twice."""

from __future__ import annotations

from datetime import timedelta

import pytest

from certagent.facts.moment import Instant
from certagent.facts.tls import Served
from tests.lifecycle.play import START, chain_of


def test_a_wait_is_measured_in_elapsed_time_whatever_the_wall_says() -> None:
    """No clock step makes it shorter."""
    then = Instant(START.wall - timedelta(days=365), START.elapsed_s + 60)
    assert then.since(START) == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("version", "sni", "words"),
    [
        ("", None, ""),
        ("1.3", None, ", TLS 1.3"),
        ("1.2", "mx1.example.org", ", TLS 1.2"),
        ("", "", ", SNI none"),
        ("1.3", "mail.example.net", ", TLS 1.3, SNI mail.example.net"),
    ],
)
def test_a_handshake_is_reported_by_where_it_was_made_and_by_its_name_where_that_is_another(
    version: str, sni: str | None, words: str
) -> None:
    met = Served("mx1.example.org", "192.0.2.25", 25, "ecdsa-p256", chain_of("aa"), 0.01, sni, version)
    assert met.where == "mx1.example.org [192.0.2.25]:25 ecdsa-p256" + words
