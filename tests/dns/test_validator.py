"""What delv prints, and how its word stands beside a resolver's."""

from __future__ import annotations

from pathlib import Path

import pytest

from certagent.dns import validator
from certagent.dns.recursive import Recursive
from certagent.dns.validator import Delv, chosen, verdict
from certagent.errors import Misconfigured
from certagent.facts.dns import Security

NAME = "_25._tcp.mx1.example.org."
CNAME = "; fully validated\n_25._tcp.mx1.example.org. 5 IN CNAME end.example.net.\n"
NOTHING = "; end.example.net. 1 IN \\-ANY ;-$NXDOMAIN\n"


@pytest.mark.parametrize(
    ("out", "err", "said"),
    [
        (f"; fully validated\n{NAME} 5 IN TLSA 3 1 1 AA\n", "", "secure"),
        (f"; negative response, fully validated\n{NOTHING}", ";; resolution failed: ncache nxdomain\n", "secure"),
        (f"{CNAME}{NOTHING}", ";; resolution failed: ncache nxdomain\n", "secure"),
        (f"; unsigned answer\n{NAME} 5 IN TLSA 3 1 1 AA\n", ";; validating: no valid signature found\n", "insecure"),
        (
            f"{CNAME}\n; negative response, unsigned answer\n{NOTHING}",
            ";; resolution failed: ncache nxrrset\n",
            "insecure",
        ),
        ("", ";; resolution failed: broken trust chain\n", "bogus"),
        ("", ";; resolution failed: no valid RRSIG\n", "bogus"),
        (CNAME, ";; resolution failed: no valid signature found\n", "bogus"),
        ("", ";; resolution failed: insecurity proof failed\n", "bogus"),
        (CNAME, ";; resolution failed: timed out\n", "unknown"),
        (
            "",
            ";; REFUSED unexpected RCODE resolving './SOA/IN': 127.0.0.2#53\n;; resolution failed: failure\n",
            "unknown",
        ),
        ("; fully validated.\n", "", "unknown"),
        ("", "", "unknown"),
    ],
)
def test_what_delv_prints(out: str, err: str, said: Security) -> None:
    """One part of a chain of aliases that is not validated is enough; what is not known is not guessed."""
    found, why = verdict(out, err)
    assert found == said
    assert why


class Says:
    """A validator of one opinion."""

    def __init__(self, said: Security) -> None:
        self.said: Security = said

    def security(self, servers: tuple[str, ...], name: str) -> tuple[Security, str]:
        return self.said, "so says delv"


def asked(resolver: Security, validates: bool, delv: Security, *, second: bool) -> tuple[Security, str]:
    recursive = Recursive(("127.0.0.1",), None, 1, Says(delv), second=second)
    recursive._trusted = lambda *_: (resolver, "so says the resolver", validates)  # pyright: ignore
    return recursive.security(NAME, [])


@pytest.mark.parametrize("delv", ["secure", "insecure", "bogus", "unknown"])
def test_it_stands_in_for_a_resolver_that_validates(delv: Security) -> None:
    for second in (False, True):
        said, why = asked("unknown", False, delv, second=second)
        assert (said, "delv" in why) == (delv, True)
        assert ("resolver" in why) == (delv == "unknown")  # both have something to say for it


@pytest.mark.parametrize("resolver", ["secure", "insecure", "bogus", "unknown"])
def test_beside_one_that_validates_it_is_not_asked_by_itself(resolver: Security) -> None:
    assert asked(resolver, True, "bogus", second=False) == (resolver, "so says the resolver")


@pytest.mark.parametrize(
    ("resolver", "delv", "both"),
    [
        ("secure", "secure", "secure"),
        ("insecure", "insecure", "insecure"),
        ("secure", "unknown", "secure"),
        ("secure", "insecure", "unknown"),
        ("insecure", "secure", "unknown"),
        ("secure", "bogus", "bogus"),
        ("bogus", "secure", "bogus"),
        ("unknown", "secure", "unknown"),
    ],
)
def test_a_second_opinion(resolver: Security, delv: Security, both: Security) -> None:
    """If two validators disagree, nothing is begun, and both are named."""
    said, why = asked(resolver, True, delv, second=True)
    assert said == both
    assert "so says the resolver" in why
    assert "so says delv" in why
    assert ("disagree" in why) == (delv not in (resolver, "unknown"))


class TestChosen:
    def test_one_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is missed only where it is wished for."""
        monkeypatch.setattr(validator, "NAME", "no-such-delv")
        assert chosen(None, None) is None
        assert chosen("none", "/no/such/file") is None
        for wish, anchor in (("delv", None), (None, "/etc/anchor")):
            with pytest.raises(Misconfigured, match=r"dns\.validator"):
                chosen(wish, anchor)

    def test_an_anchor_that_others_may_change(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever writes it could have any zone validated."""
        monkeypatch.setattr(validator, "NAME", "true")
        anchor = tmp_path / "anchor"
        anchor.write_text("")
        anchor.chmod(0o666)
        for wish in ("delv", None):
            with pytest.raises(Misconfigured, match=r"others may write"):
                chosen(wish, str(anchor))
        anchor.chmod(0o644)
        delv = Delv(str(anchor))
        anchor.chmod(0o666)  # and at each use
        said, why = delv.security(("127.0.0.1",), NAME)
        assert said == "unknown"
        assert "others may write" in why
