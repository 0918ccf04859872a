from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certagent.errors import Misconfigured
from certagent.pki.names import challenge_name, covers, fqdn, hostname, identifier, tlsa_name
from tests.pki.made import at_most_refused

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
HOSTS = st.lists(LABEL, min_size=1, max_size=5).map(lambda labels: ".".join([*labels, "org"]))
LONG = ".".join(["a" * 63] * 3 + ["b" * 61])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mx1.example.org", "mx1.example.org"),
        ("MX1.Example.ORG.", "mx1.example.org"),
        ("3com.example", "3com.example"),
        ("xn--mller-kva.example", "xn--mller-kva.example"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        (LONG, LONG),
    ],
)
def test_a_host_name_has_one_form(text: str, name: str) -> None:
    """RFC 1123 section 2.1."""
    assert hostname(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "localhost",
        "mx1..example.org",
        ".example.org",
        "mx1.example.org..",
        "mx_1.example.org",
        "-mx.example.org",
        "mx-.example.org",
        "mx1.example.org\n",
        " mx1.example.org",
        "mx1.example.org/..",
        "*.example.org",
        "192.0.2.1",
        "example.1",
        "2001:db8::1",
        "a" * 64 + ".example.org",
        LONG + "b",
    ],
)
def test_what_is_no_host_name_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        hostname(text)
    assert caught.value.code == "name.invalid"
    assert repr(text[:253]) in caught.value.detail
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("müller.example", "xn--mller-kva.example"),
        ("MÜLLER.example", "xn--mller-kva.example"),
        ("mx\u212a.example", "mxk.example"),  # the Kelvin sign: lower() would make an ASCII k of it
        ("\u2028.example", "A-label"),
    ],
)
def test_a_name_in_another_script_is_refused_with_the_form_dns_has(text: str, hint: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        hostname(text)
    assert hint in caught.value.hint


def test_an_identifier_may_be_a_wildcard_of_a_host_name() -> None:
    assert identifier("*.Example.org") == "*.example.org"
    assert identifier("mx.example.org.") == "mx.example.org"
    for text in ("*", "*.org", "*.*.example.org", "mx*.example.org"):
        with pytest.raises(Misconfigured):
            identifier(text)


def test_names_in_dns_are_absolute() -> None:
    assert fqdn("MX.example.org") == "mx.example.org."
    assert tlsa_name("mx.example.org", 25) == "_25._tcp.mx.example.org."
    assert challenge_name("mx.example.org") == "_acme-challenge.mx.example.org."
    assert challenge_name("*.example.org") == "_acme-challenge.example.org."


def test_a_name_that_dns_cannot_hold_is_refused() -> None:
    for make in (lambda: tlsa_name(LONG, 25), lambda: challenge_name(LONG), lambda: tlsa_name("mx.example.org", 0)):
        with pytest.raises(Misconfigured):
            make()
    with pytest.raises(Misconfigured):
        tlsa_name("mx.example.org", 65536)


@pytest.mark.parametrize(
    ("pattern", "name", "good"),
    [
        ("mx.example.org", "mx.example.org", True),
        ("mx.example.org", "mx2.example.org", False),
        ("*.example.org", "mx.example.org", True),
        ("*.example.org", "*.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "a.mx.example.org", False),
        ("*.mx.example.org", "*.example.org", False),
        ("*.example.org", "*.mx.example.org", False),
        ("*.*.org", "*.x.org", False),
    ],
)
def test_a_wildcard_stands_for_one_whole_leftmost_label(pattern: str, name: str, *, good: bool) -> None:
    """RFC 9525 section 6.4.3."""
    assert covers(pattern, name) is good


@given(HOSTS)
def test_the_canonical_form_is_its_own_canonical_form(host: str) -> None:
    assert hostname(host) == host
    assert hostname(host.upper() + ".") == host
    assert hostname(fqdn(host)) == host


@given(st.text() | HOSTS.map(lambda host: host.replace("a", "ä", 1)))
def test_any_text_gives_a_host_name_or_an_error(text: str) -> None:
    for function in (hostname, identifier, fqdn, challenge_name):
        with at_most_refused("name.invalid"):
            assert function(text).isascii()
