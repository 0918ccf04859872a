"""Addresses and names of DNS servers, with a port or without."""

from __future__ import annotations

import pytest

from certagent.pki import endpoint

ADDRESSES = [
    ("192.0.2.1", ("192.0.2.1", 53)),
    ("192.0.2.1:5353", ("192.0.2.1", 5353)),
    ("[::1]:5353", ("::1", 5353)),
    ("[::1]", ("::1", 53)),
    ("2001:db8::1", ("2001:db8::1", 53)),
]
NEITHER = [
    *("", "[::1", "[::1]x", "[192.0.2.1]", "ns1:port", "ns1:", "a b", "ns1:0", "ns1:65536", "192.0.2.1:\u0663"),
    *("192.0.2.1:" + "9" * 5000, "a..b", "b\xfccher.example", "192.0.2.1@53", "x" * 64, "a\0b"),
]


@pytest.mark.parametrize(("text", "found"), ADDRESSES)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert endpoint.address(text) == endpoint.server(text) == found


@pytest.mark.parametrize(
    ("text", "found"), [("ns1.example.org:5353", ("ns1.example.org", 5353)), ("ns1.", ("ns1.", 53))]
)
def test_a_name_is_a_server_and_no_address(text: str, found: tuple[str, int]) -> None:
    assert endpoint.server(text) == found
    with pytest.raises(ValueError, match=r".*"):
        endpoint.address(text)


@pytest.mark.parametrize("text", NEITHER)
def test_neither(text: str) -> None:
    for parse in (endpoint.address, endpoint.server):
        with pytest.raises(ValueError, match=r".*"):
            parse(text)


def test_loopback() -> None:
    assert [endpoint.is_loopback(text) for text in ("127.0.0.1:5353", "[::1]:53", "192.0.2.1")] == [True, True, False]
