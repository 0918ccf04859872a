"""URLs that a CA may give, and what is shown of them."""

from __future__ import annotations

import pytest

from certagent.pki.weburl import is_https, place

NO_URLS = [
    "",
    "/relative",
    "http://ca.example/",
    "ftp://ca.example/",
    "https://",
    "https://[",
    "https://a]b/",
    "https://ca.example:0/",
    "https://ca.example:99999/",
    "https://ca.example:٣/",
    "https://u:hunter2@ca.example/",
    "https://a..b/",
    f"https://{'a' * 300}/",
    "https://℀.com/",
    "https://ca.example/\x1b]0;mine\x07",
    "https://ca.example/a b",
    f"https://ca.example/{'a' * 5000}",
]


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_of_a_ca(url: str) -> None:
    """What is shown of it can be printed, and is short."""
    assert not is_https(url)
    assert place(url).isprintable()
    assert len(place(url)) < 400
    assert "hunter2" not in place(url)


@pytest.mark.parametrize("url", ["https://ca.example/dir", "https://ca.example.:8443", "https://[::1]:14000/dir?x=1"])
def test_urls_of_cas(url: str) -> None:
    assert is_https(url)
    assert place(url).partition("?")[0] in url
