"""Exim's configuration as text: which lines of it are in effect, and what of it is changed."""

from __future__ import annotations

import pytest

from certagent.mta.exim import eximconf

BRANCHES = """\
.ifdef TLS_ON
tls_certificate = /etc/old.pem
.elifndef OTHER
.ifdef TLS
tls_certificate = /etc/inner.pem
.endif
tls_privatekey = /etc/middle.key
.else
tls_certificate = /etc/last.pem
.endif
daemon_smtp_ports = 25
"""


@pytest.mark.parametrize(
    ("macros", "old"),
    [
        ({"TLS_ON"}, "/etc/old.pem"),
        ({"TLS", "OTHER"}, "/etc/old.pem"),  # a macro is replaced within a word, too
        ({"OTHER"}, "/etc/last.pem"),
        (set[str](), None),
    ],
)
def test_only_a_line_that_is_in_effect_is_changed(macros: set[str], old: str | None) -> None:
    after = eximconf.changed(BRANCHES, {"tls_certificate": "/new.pem"}, frozenset(macros))
    if old:
        assert after == BRANCHES.replace(old, "/new.pem")
    else:
        assert after == f"{BRANCHES}tls_certificate = /new.pem\n"
    assert eximconf.is_set(BRANCHES, "tls_privatekey", frozenset(macros)) == (old is None)


def test_where_macros_are_not_known_every_branch_counts() -> None:
    after = eximconf.changed(BRANCHES, {"tls_privatekey": None})
    assert after == BRANCHES.replace("tls_privatekey = /etc/middle.key\n", "")
